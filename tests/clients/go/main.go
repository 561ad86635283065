// The pipeline with `dagger.io/dagger`, from v0.9 to v0.21. A name before the folder chooses another program of this folder.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dagger.io/dagger"
)

var programs = map[string]func(context.Context, string) error{"pipeline": run}

func main() {
	name, out := "pipeline", os.Args[len(os.Args)-1]
	if len(os.Args) > 2 {
		name = os.Args[1]
	}
	program, known := programs[name]
	if !known {
		fmt.Fprintln(os.Stderr, "no program", name)
		os.Exit(2)
	}
	if err := program(context.Background(), out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	client, err := dagger.Connect(ctx, dagger.WithLogOutput(os.Stderr))
	if err != nil {
		return err
	}
	defer client.Close()
	source := client.Host().Directory(os.Getenv("PROJECT"), dagger.HostDirectoryOpts{Exclude: []string{"*.md"}})
	token := client.SetSecret("token", "s3cret-t0ken-1")
	ctr := client.Container().
		From("python").
		WithMountedDirectory("/src", source).
		WithMountedCache("/cache", client.CacheVolume("clients-go")).
		WithSecretVariable("TOKEN", token).
		WithExec([]string{"python3", "/src/app.py"})
	stdout, err := ctr.Stdout(ctx)
	if err != nil {
		return err
	}
	fmt.Println("step:", strings.TrimSpace(stdout))
	stderr, err := ctr.Stderr(ctx)
	if err != nil {
		return err
	}
	fmt.Println("secret:", strings.TrimPrefix(strings.TrimSpace(stderr), "token "))
	code, text, err := failing(ctx, client.Container().From("python"))
	if err != nil {
		return err
	}
	fmt.Printf("failed: exit=%d stderr=%s\n", code, strings.TrimSpace(text))
	if _, err := ctr.Directory("/out").Export(ctx, out); err != nil {
		return err
	}
	result, err := os.ReadFile(filepath.Join(out, "result.txt"))
	if err != nil {
		return err
	}
	fmt.Println("export:", strings.TrimSpace(string(result)))
	return nil
}
