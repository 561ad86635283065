//go:build old

package main

import (
	"context"
	"errors"

	"dagger.io/dagger"
)

// Runs a step that exits with 3; clients of v0.9 have no `Expect`.
func failing(ctx context.Context, ctr *dagger.Container) (int, string, error) {
	_, err := ctr.WithExec([]string{"sh", "-c", "echo on purpose >&2; exit 3"}).Sync(ctx)
	var failed *dagger.ExecError
	if !errors.As(err, &failed) {
		return 0, "", errors.Join(errors.New("the step did not fail"), err)
	}
	return failed.ExitCode, failed.Stderr, nil
}
