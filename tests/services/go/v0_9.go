//go:build v0_9

package main

import (
	"context"
	"errors"

	"dagger.io/dagger"
)

// In 0.9 a service is a container's last step, which gets the image's entrypoint.
func serve(ctr *dagger.Container, args ...string) *dagger.Service {
	return ctr.WithExec(args).AsService()
}

func serveImage(ctr *dagger.Container) *dagger.Service {
	return ctr.WithExec(nil).AsService()
}

func servePrivileged(ctr *dagger.Container) *dagger.Service {
	return ctr.WithExec(nil, dagger.ContainerWithExecOpts{InsecureRootCapabilities: true}).AsService()
}

func names(context.Context) (string, error) {
	return "", errors.New("clients of v0.9 cannot name services")
}
