//go:build !old

package main

import (
	"context"

	"dagger.io/dagger"
)

// Runs a step that exits with 3.
func failing(ctx context.Context, ctr *dagger.Container) (int, string, error) {
	step := []string{"sh", "-c", "echo on purpose >&2; exit 3"}
	ran := ctr.WithExec(step, dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
	code, err := ran.ExitCode(ctx)
	if err != nil {
		return 0, "", err
	}
	text, err := ran.Stderr(ctx)
	return code, text, err
}
