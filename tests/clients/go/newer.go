//go:build newer

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dagger.io/dagger"
)

// What only newer clients ask, with `dagger.io/dagger` from v0.21 on.
func init() {
	programs["newer"] = newer
}

func newer(ctx context.Context, out string) error {
	if err := os.Setenv("NEWER_SECRET", "from-env1"); err != nil {
		return err
	}
	client, err := dagger.Connect(ctx, dagger.WithLogOutput(os.Stderr))
	if err != nil {
		return err
	}
	defer client.Close()
	before := client.Directory().WithNewFile("keep.txt", "one\ntwo\n").WithNewFile("old.txt", "x\n")
	after := client.Directory().WithNewFile("keep.txt", "one\n2\n").WithNewFile("new.txt", "y\n")
	for _, part := range []func() error{
		func() error { return byID(ctx, client, before) },
		func() error { return served(ctx, client) },
		func() error { return addressed(ctx, client) },
		func() error { return changed(ctx, before, after) },
		func() error { return looked(ctx, client, before, after) },
		func() error { return applied(ctx, after.Changes(before), out) },
		func() error { return variables(ctx, client) },
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// Loads an object by its ID: `node(id:)` in this client's dialect.
func byID(ctx context.Context, client *dagger.Client, directory *dagger.Directory) error {
	id, err := directory.ID(ctx)
	if err != nil {
		return err
	}
	again, err := dagger.Load[*dagger.Directory](ctx, client, id)
	if err != nil {
		return err
	}
	entries, err := again.Entries(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("node: %d files\n", len(entries))
	return nil
}

func served(ctx context.Context, client *dagger.Client) error {
	image := client.Container().From("python")
	service := image.
		WithDirectory("/site", client.Directory().WithNewFile("index.html", "hello")).
		WithWorkdir("/site").
		WithExposedPort(8000).
		AsService(dagger.ContainerAsServiceOpts{Args: []string{"python", "-m", "http.server"}})
	fetch := "import urllib.request as u; print(u.urlopen('http://web:8000/index.html').read().decode())"
	said, err := image.WithServiceBinding("web", service).WithExec([]string{"python", "-c", fetch}).Stdout(ctx)
	fmt.Println("service:", strings.TrimSpace(said))
	return err
}

// What a container shows of secrets, and how long they are.
func addressed(ctx context.Context, client *dagger.Client) error {
	folder, err := os.MkdirTemp("", "newer-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "secret")
	if err := os.WriteFile(file, []byte("from-fil1"), 0o600); err != nil {
		return err
	}
	var shown, lengths []any
	for _, uri := range []string{"env://NEWER_SECRET", "file://" + file, "cmd://echo from-cmd1"} {
		said, err := client.Container().
			From("python").
			WithSecretVariable("VALUE", client.Secret(uri)).
			WithExec([]string{"sh", "-c", "echo $VALUE ${#VALUE}"}).
			CombinedOutput(ctx)
		if err != nil {
			return err
		}
		words := strings.Fields(said)
		if len(words) != 2 {
			return fmt.Errorf("%s: %q", uri, said)
		}
		shown, lengths = append(shown, words[0]), append(lengths, words[1])
	}
	fmt.Printf("secrets: env=%s file=%s cmd=%s length=%s,%s,%s\n", append(shown, lengths...)...)
	return nil
}

func changed(ctx context.Context, before, after *dagger.Directory) error {
	changes := after.Changes(before)
	var paths []any
	for _, ask := range []func(context.Context) ([]string, error){
		changes.AddedPaths, changes.ModifiedPaths, changes.RemovedPaths,
	} {
		list, err := ask(ctx)
		if err != nil {
			return err
		}
		paths = append(paths, strings.Join(list, ","))
	}
	fmt.Printf("changes: added=%s modified=%s removed=%s\n", paths...)
	patch, err := changes.AsPatch().Contents(ctx)
	if err != nil {
		return err
	}
	wanted, err := after.Entries(ctx)
	if err != nil {
		return err
	}
	for _, made := range []*dagger.Directory{before.WithPatch(patch), before.WithChanges(changes)} {
		entries, err := made.Entries(ctx)
		if err != nil {
			return err
		}
		if !slices.Equal(entries, wanted) {
			return fmt.Errorf("changed to %q, not to %q", entries, wanted)
		}
	}
	fmt.Printf("patch: %d files\n", strings.Count(patch, "diff --git"))
	return nil
}

func looked(ctx context.Context, client *dagger.Client, before, after *dagger.Directory) error {
	results, err := before.Search(ctx, "two")
	if err != nil {
		return err
	}
	for _, found := range results {
		path, err := found.FilePath(ctx)
		line, lineErr := found.LineNumber(ctx)
		text, textErr := found.MatchedLines(ctx)
		if err := errors.Join(err, lineErr, textErr); err != nil {
			return err
		}
		fmt.Printf("search: %s:%d %s\n", path, line, strings.TrimSpace(text))
	}
	stat := after.File("new.txt").WithReplaced("y", "yes").Stat()
	kind, err := stat.FileType(ctx)
	size, sizeErr := stat.Size(ctx)
	permissions, permissionsErr := stat.Permissions(ctx)
	if err := errors.Join(err, sizeErr, permissionsErr); err != nil {
		return err
	}
	fmt.Printf("stat: %s %d %d\n", kind, size, permissions)
	value := client.JSON().WithField([]string{"a", "b"}, client.JSON().NewInteger(42))
	number, err := value.Field([]string{"a", "b"}).AsInteger(ctx)
	fmt.Printf("json: %d\n", number)
	return err
}

// Exports changes into a folder that holds a file of its own.
func applied(ctx context.Context, changes *dagger.Changeset, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"old.txt": "x\n", "mine": "m\n"} {
		if err := os.WriteFile(filepath.Join(out, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := changes.Export(ctx, out); err != nil {
		return err
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if !slices.Equal(names, []string{"keep.txt", "mine", "new.txt"}) {
		return fmt.Errorf("exported to %q", names)
	}
	return nil
}

func variables(ctx context.Context, client *dagger.Client) error {
	value, err := client.EnvFile().WithVariable("A", "a").WithVariable("B", "$A b").Get(ctx, "B")
	fmt.Println("merged:", value)
	return err
}
