//go:build v0_14

package main

import "dagger.io/dagger"

// In 0.14 a service is a container's last step, or what the image runs.
func serve(ctr *dagger.Container, args ...string) *dagger.Service {
	return ctr.WithExec(args).AsService()
}

func serveImage(ctr *dagger.Container) *dagger.Service {
	return ctr.AsService()
}

func servePrivileged(ctr *dagger.Container) *dagger.Service {
	opts := dagger.ContainerWithExecOpts{InsecureRootCapabilities: true, UseEntrypoint: true}
	return ctr.WithExec(nil, opts).AsService()
}
