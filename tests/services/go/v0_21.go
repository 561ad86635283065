//go:build v0_21

package main

import "dagger.io/dagger"

// In 0.21 a service says itself what it runs.
func serve(ctr *dagger.Container, args ...string) *dagger.Service {
	return ctr.AsService(dagger.ContainerAsServiceOpts{Args: args})
}

func serveImage(ctr *dagger.Container) *dagger.Service {
	return ctr.AsService()
}

func servePrivileged(ctr *dagger.Container) *dagger.Service {
	return ctr.AsService(dagger.ContainerAsServiceOpts{InsecureRootCapabilities: true, UseEntrypoint: true})
}
