//go:build old

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dagger.io/dagger"
)

// Every field that the schema of 0.9.0 has outside of modules, with `dagger.io/dagger` v0.9: a line for each area.
func init() {
	programs["every09"] = every09
}

// Says what a server at HOST:PORT or below a socket's path sends.
const (
	askTCP  = "import socket; print(socket.create_connection(('%s', %d)).recv(9).decode())"
	askUnix = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('%s'); print(s.recv(9).decode())"
)

// What an area works with. The first error ends the program: it is thrown by `must` and caught in `every09`.
type every struct {
	*dagger.Client
	ctx      context.Context
	out      string
	folder   string
	files    string
	registry string
}

type failure struct{ error }

func must[T any](value T, err error) T {
	if err != nil {
		panic(failure{err})
	}
	return value
}

func check(right bool, what string) {
	if !right {
		panic(failure{errors.New(what)})
	}
}

func every09(ctx context.Context, out string) (err error) {
	client, err := dagger.Connect(ctx, dagger.WithLogOutput(os.Stderr))
	if err != nil {
		return err
	}
	defer client.Close()
	folder, err := os.MkdirTemp("", "every09-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	e := every{client, ctx, out, folder, os.Getenv("EVERY09"), os.Getenv("REGISTRY")}
	defer func() {
		if thrown := recover(); thrown != nil {
			failed, ours := thrown.(failure)
			if !ours {
				panic(thrown)
			}
			err = failed.error
		}
	}()
	areas := []struct {
		name string
		ask  func() string
	}{
		{"session", e.session}, {"container", e.container}, {"exec", e.execution}, {"mounts", e.mounts},
		{"written", e.written}, {"directory", e.directory}, {"file", e.file}, {"ids", e.ids}, {"secrets", e.secrets},
		{"host", e.host}, {"service", e.service}, {"git", e.git}, {"build", e.build}, {"images", e.images},
	}
	for _, area := range areas {
		fmt.Printf("%s: %s\n", area.name, area.ask())
	}
	return nil
}

// What a step prints, as one line.
func (e every) lines(ctr *dagger.Container, opts dagger.ContainerWithExecOpts, args ...string) string {
	out := must(ctr.WithExec(args, opts).Stdout(e.ctx))
	return strings.Join(strings.Fields(out), " ")
}

func (e every) image(name string) *dagger.Container {
	return e.Container().From(name)
}

func (e every) session() string {
	labels := []dagger.PipelineLabel{{Name: "suite", Value: "every09"}}
	named := e.Pipeline("every09", dagger.PipelineOpts{Description: "all of it", Labels: labels})
	platform := must(e.DefaultPlatform(e.ctx))
	ctr := named.Container(dagger.ContainerOpts{Platform: platform}).
		Pipeline("ctr", dagger.ContainerPipelineOpts{Description: "a", Labels: labels})
	folder := named.Directory().Pipeline("folder", dagger.DirectoryPipelineOpts{Description: "b", Labels: labels})
	compatible := must(e.CheckVersionCompatibility(e.ctx, "v0.9.0"))
	same := must(ctr.Platform(e.ctx)) == platform
	return fmt.Sprintf("compatible=%t platform=%t entries=%d", compatible, same, len(must(folder.Entries(e.ctx))))
}

func (e every) container() string {
	image := must(e.image("alpine").Sync(e.ctx))
	check(strings.Contains(must(image.ImageRef(e.ctx)), "alpine"), "imageRef")
	shell := must(image.WithExec([]string{"sh"}).ShellEndpoint(e.ctx))
	check(strings.HasPrefix(shell, "ws://dagger/"), "shellEndpoint")
	udp := dagger.ContainerWithExposedPortOpts{Protocol: dagger.Udp}
	ctr := image.
		WithUser("root").WithWorkdir("/work").WithEntrypoint([]string{"echo"}).
		WithDefaultArgs(dagger.ContainerWithDefaultArgsOpts{Args: []string{"hello"}}).
		WithEnvVariable("A", "1").
		WithEnvVariable("B", "${A}2", dagger.ContainerWithEnvVariableOpts{Expand: true}).
		WithoutEnvVariable("A").
		WithLabel("x", "1").WithLabel("y", "2").WithoutLabel("y").
		WithExposedPort(80, dagger.ContainerWithExposedPortOpts{Protocol: dagger.Tcp, Description: "web"}).
		WithExposedPort(53, udp).
		WithoutExposedPort(53, dagger.ContainerWithoutExposedPortOpts{Protocol: dagger.Udp}).
		WithFocus().WithoutFocus()
	variables, labels := map[string]string{}, map[string]string{}
	for _, v := range must(ctr.EnvVariables(e.ctx)) {
		variables[must(v.Name(e.ctx))] = must(v.Value(e.ctx))
	}
	for _, l := range must(ctr.Labels(e.ctx)) {
		labels[must(l.Name(e.ctx))] = must(l.Value(e.ctx))
	}
	var ports []string
	for _, p := range must(ctr.ExposedPorts(e.ctx)) {
		ports = append(ports, fmt.Sprintf("%d/%s/%s", must(p.Port(e.ctx)), must(p.Protocol(e.ctx)), must(p.Description(e.ctx))))
	}
	_, a := variables["A"]
	_, y := labels["y"]
	check(variables["B"] == must(ctr.EnvVariable(e.ctx, "B")) && !a, "variables")
	check(labels["x"] == must(ctr.Label(e.ctx, "x")) && !y, "labels")
	return fmt.Sprintf("user=%s workdir=%s entrypoint=%s args=%s b=%s x=%s ports=%s",
		must(ctr.User(e.ctx)), must(ctr.Workdir(e.ctx)), strings.Join(must(ctr.Entrypoint(e.ctx)), ","),
		strings.Join(must(ctr.DefaultArgs(e.ctx)), ","), variables["B"], labels["x"], strings.Join(ports, ","))
}

func (e every) execution() string {
	image := e.image("alpine").WithEntrypoint([]string{"false"})
	skip := dagger.ContainerWithExecOpts{SkipEntrypoint: true}
	ran := image.WithExec([]string{"sh", "-c", "cat; echo oops >&2"}, dagger.ContainerWithExecOpts{
		SkipEntrypoint: true, Stdin: "in", RedirectStdout: "/out", RedirectStderr: "/err",
	})
	plain := image.WithExec([]string{"sh", "-c", "echo out; echo err >&2"}, skip)
	root := dagger.ContainerWithExecOpts{SkipEntrypoint: true, InsecureRootCapabilities: true}
	nested := dagger.ContainerWithExecOpts{SkipEntrypoint: true, ExperimentalPrivilegedNesting: true}
	said := []string{
		must(ran.File("/out").Contents(e.ctx)), must(ran.File("/err").Contents(e.ctx)),
		must(plain.Stdout(e.ctx)), must(plain.Stderr(e.ctx)),
		e.lines(image, root, "sh", "-c", "mount -t tmpfs x /tmp && echo mounted"),
		e.lines(image, nested, "sh", "-c", "echo ${DAGGER_SESSION_PORT:+nested}"),
	}
	return trimmed(said)
}

func trimmed(words []string) string {
	for i, word := range words {
		words[i] = strings.TrimSpace(word)
	}
	return strings.Join(words, ",")
}

func (e every) mounts() string {
	const owner = "7:8"
	seed := e.Directory().WithNewFile("seed", "s")
	secret := e.SetSecret("every09-mount", "mounted-secret")
	cache := e.LoadCacheVolumeFromID(must(e.CacheVolume("every09-go").ID(e.ctx)))
	ctr := e.image("alpine").
		WithMountedDirectory("/m/dir", seed, dagger.ContainerWithMountedDirectoryOpts{Owner: owner}).
		WithMountedFile("/m/file", seed.File("seed"), dagger.ContainerWithMountedFileOpts{Owner: owner}).
		WithMountedTemp("/m/temp").
		WithMountedSecret("/m/secret", secret, dagger.ContainerWithMountedSecretOpts{Owner: owner, Mode: 0o440}).
		WithMountedCache("/m/cache", cache, dagger.ContainerWithMountedCacheOpts{
			Source: seed, Sharing: dagger.Locked, Owner: owner,
		}).
		WithMountedTemp("/m/gone").WithoutMount("/m/gone")
	look := "cd /m; stat -c %n=%u:%g dir/seed file cache/seed; stat -c %n=%u:%g:%a secret; cat secret | wc -c; ls"
	shown := e.lines(ctr, dagger.ContainerWithExecOpts{}, "sh", "-c", look)
	return strings.Join(must(ctr.Mounts(e.ctx)), ",") + " " + shown
}

func (e every) written() string {
	tree := e.Directory().WithNewFile("a.txt", "a").WithNewFile("b.md", "b").WithNewFile("c.txt", "c")
	ctr := e.image("alpine").
		WithFile("/w/file", tree.File("a.txt"), dagger.ContainerWithFileOpts{Permissions: 0o640, Owner: "7:8"}).
		WithNewFile("/w/new", dagger.ContainerWithNewFileOpts{Contents: "new", Permissions: 0o600, Owner: "9:9"}).
		WithDirectory("/w/dir", tree, dagger.ContainerWithDirectoryOpts{
			Include: []string{"*.txt"}, Exclude: []string{"c.*"}, Owner: "7:8",
		})
	shown := e.lines(ctr, dagger.ContainerWithExecOpts{}, "sh", "-c", "cd /w; stat -c %n=%a:%u:%g file new dir/*")
	again := e.Container().WithRootfs(ctr.Rootfs())
	return shown + " rootfs=" + strings.Join(must(again.Directory("/w").Entries(e.ctx)), ",")
}

func (e every) directory() string {
	base := e.Directory().
		WithNewFile("f", "f", dagger.DirectoryWithNewFileOpts{Permissions: 0o600}).
		WithNewDirectory("d", dagger.DirectoryWithNewDirectoryOpts{Permissions: 0o700})
	more := must(base.
		WithFile("d/copy", base.File("f"), dagger.DirectoryWithFileOpts{Permissions: 0o755}).
		WithDirectory("e", base, dagger.DirectoryWithDirectoryOpts{Include: []string{"f", "d"}, Exclude: []string{"d"}}).
		WithNewFile("gone", "x").WithoutFile("gone").WithNewDirectory("empty").WithoutDirectory("empty").
		WithTimestamps(1_000_000_000).
		Sync(e.ctx))
	changed := must(base.Diff(more).Directory("d").Entries(e.ctx))
	check(slices.Equal(changed, []string{"copy"}), "diff")
	image := e.image("alpine").WithDirectory("/x", more)
	shown := e.lines(image, dagger.ContainerWithExecOpts{}, "sh", "-c", "cd /x; stat -c %n=%a f d d/copy; stat -c %Y f")
	below := must(more.Entries(e.ctx, dagger.DirectoryEntriesOpts{Path: "d"}))
	return fmt.Sprintf("%s d=%s %s", strings.Join(must(more.Entries(e.ctx)), ","), strings.Join(below, ","), shown)
}

func (e every) file() string {
	made := must(e.Directory().WithNewFile("f", "twelve bytes").File("f").WithTimestamps(1_000_000_000).Sync(e.ctx))
	check(must(made.Export(e.ctx, filepath.Join(e.out, "as-named"))), "export of a file")
	folder := filepath.Join(e.out, "folder")
	must(folder, os.Mkdir(folder, 0o755))
	check(must(made.Export(e.ctx, folder, dagger.FileExportOpts{AllowParentDirPath: true})), "export into a folder")
	all := e.Directory().WithFile("g", made)
	check(must(all.Export(e.ctx, filepath.Join(e.out, "all"))), "export of a directory")
	var found []string
	must(found, filepath.WalkDir(e.out, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			found = append(found, must(filepath.Rel(e.out, path)))
		}
		return err
	}))
	size := must(made.Size(e.ctx))
	return fmt.Sprintf("%s size=%d exported=%s", must(made.Contents(e.ctx)), size, strings.Join(found, ","))
}

func (e every) ids() string {
	folder := e.Directory().WithNewFile("f", "by id")
	secret, ctr := e.SetSecret("every09-id", "known"), e.image("alpine").WithWorkdir("/here")
	d, f := must(folder.ID(e.ctx)), must(folder.File("f").ID(e.ctx))
	c, s := must(ctr.ID(e.ctx)), must(secret.ID(e.ctx))
	return strings.Join([]string{
		must(e.LoadDirectoryFromID(d).File("f").Contents(e.ctx)),
		must(e.Directory(dagger.DirectoryOpts{ID: d}).File("f").Contents(e.ctx)),
		must(e.LoadFileFromID(f).Contents(e.ctx)), must(e.File(f).Contents(e.ctx)),
		must(e.LoadContainerFromID(c).Workdir(e.ctx)),
		must(e.Container(dagger.ContainerOpts{ID: c}).Workdir(e.ctx)),
		must(e.LoadSecretFromID(s).Plaintext(e.ctx)), must(e.Secret(s).Plaintext(e.ctx)),
	}, ",")
}

func (e every) secrets() string {
	at := filepath.Join(e.folder, "secret")
	must(at, os.WriteFile(at, []byte("from-a-file"), 0o600))
	kept := e.Host().SetSecretFile("every09-file", at)
	ctr := e.image("alpine").WithSecretVariable("KEPT", kept)
	shown := e.lines(ctr, dagger.ContainerWithExecOpts{}, "sh", "-c", "echo $KEPT ${#KEPT}")
	return shown + " plain=" + must(kept.Plaintext(e.ctx))
}

// Sends "pong" to whoever connects, until the listener is closed.
func pong(network, address string) net.Listener {
	listener := must(net.Listen(network, address))
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "pong")
			conn.Close()
		}
	}()
	return listener
}

func (e every) host() string {
	at := filepath.Join(e.folder, "host.sock")
	unix, tcp := pong("unix", at), pong("tcp", "127.0.0.1:0")
	defer unix.Close()
	defer tcp.Close()
	some := e.Host().Directory(e.files, dagger.HostDirectoryOpts{
		Include: []string{"*.py", "*.sh"}, Exclude: []string{"*.sh"},
	})
	script := e.Host().File(filepath.Join(e.files, "repository.sh"))
	socket := e.Host().UnixSocket(at)
	id := must(socket.ID(e.ctx))
	python, plain := e.image("python"), dagger.ContainerWithExecOpts{}
	var said []string
	for _, s := range []*dagger.Socket{e.LoadSocketFromID(id), e.Socket(dagger.SocketOpts{ID: id})} {
		with := python.WithUnixSocket("/s", s, dagger.ContainerWithUnixSocketOpts{Owner: "7:8"})
		said = append(said, e.lines(with, plain, "python", "-c", fmt.Sprintf(askUnix, "/s")))
	}
	without := python.WithUnixSocket("/s", socket).WithoutUnixSocket("/s")
	said = append(said, e.lines(without, plain, "sh", "-c", "test -e /s || echo gone"))
	port := tcp.Addr().(*net.TCPAddr).Port
	ports := []dagger.PortForward{{Backend: port, Frontend: 7000, Protocol: dagger.Tcp}}
	there := e.Host().Service(ports, dagger.HostServiceOpts{Host: "127.0.0.1"})
	bound := python.WithServiceBinding("there", there)
	tcpSaid := e.lines(bound, plain, "python", "-c", fmt.Sprintf(askTCP, "there", 7000))
	first := strings.Fields(must(script.Contents(e.ctx)))[1]
	entries := strings.Join(must(some.Entries(e.ctx)), ",")
	return fmt.Sprintf("%s file=%s unix=%s tcp=%s", entries, first, strings.Join(said, ","), tcpSaid)
}

func (e every) service() string {
	site := e.Directory().WithNewFile("index.html", "served")
	server := e.image("python").
		WithDirectory("/site", site).WithWorkdir("/site").WithExposedPort(8000).
		WithExec([]string{"python", "-m", "http.server"}).
		AsService()
	started := must(server.Start(e.ctx))
	address := fmt.Sprintf("http://%s:8000", must(started.Hostname(e.ctx)))
	endpoint := must(server.Endpoint(e.ctx, dagger.ServiceEndpointOpts{Port: 8000, Scheme: "http"}))
	var ports []string
	for _, p := range must(server.Ports(e.ctx)) {
		ports = append(ports, fmt.Sprint(must(p.Port(e.ctx))))
	}
	loaded := e.LoadServiceFromID(must(server.ID(e.ctx)))
	fetched := must(e.HTTP(address+"/index.html", dagger.HTTPOpts{ExperimentalServiceHost: loaded}).Contents(e.ctx))
	// A port of 0 is left out by this client; a free one is found by listening on it.
	free := must(net.Listen("tcp", "127.0.0.1:0"))
	frontend := free.Addr().(*net.TCPAddr).Port
	free.Close()
	forward := []dagger.PortForward{{Backend: 8000, Frontend: frontend}}
	var said []string
	for _, tunnel := range []*dagger.Service{
		e.Host().Tunnel(server, dagger.HostTunnelOpts{Native: false, Ports: forward}),
		e.Host().Tunnel(server),
	} {
		must(tunnel.Start(e.ctx))
		answer := must(http.Get(must(tunnel.Endpoint(e.ctx, dagger.ServiceEndpointOpts{Scheme: "http"}))))
		said = append(said, string(must(io.ReadAll(answer.Body))))
		answer.Body.Close()
		must(tunnel.Stop(e.ctx))
	}
	must(server.Stop(e.ctx))
	return fmt.Sprintf("ports=%s endpoint=%t http=%s tunnel=%s",
		strings.Join(ports, ","), endpoint == address, fetched, strings.Join(said, ","))
}

func (e every) git() string {
	script := e.Host().File(filepath.Join(e.files, "repository.sh"))
	made := e.image("alpine").WithMountedFile("/make.sh", script).WithExec([]string{"sh", "/make.sh"})
	commit := strings.TrimSpace(must(made.File("/srv/first").Contents(e.ctx)))
	daemon := made.WithExposedPort(9418).
		WithExec([]string{"git", "daemon", "--export-all", "--base-path=/srv"}).
		AsService()
	url := fmt.Sprintf("git://%s/repo", must(daemon.Hostname(e.ctx)))
	repo := e.Git(url, dagger.GitOpts{ExperimentalServiceHost: daemon})
	kept := e.Git(url, dagger.GitOpts{ExperimentalServiceHost: daemon, KeepGitDir: true})
	agent := e.Host().UnixSocket(filepath.Join(e.folder, "agent.sock"))
	var said []string
	for _, tree := range []*dagger.Directory{
		repo.Branch("main").Tree(),
		repo.Tag("v1").Tree(dagger.GitRefTreeOpts{SSHKnownHosts: "x y z", SSHAuthSocket: agent}),
		repo.Commit(commit).Tree(),
	} {
		said = append(said, must(tree.File("file").Contents(e.ctx)))
	}
	entries := must(kept.Branch("main").Tree().Entries(e.ctx))
	return trimmed(said) + " kept=" + strings.Join(entries, ",")
}

func (e every) build() string {
	context := e.Host().Directory(filepath.Join(e.files, "docker"))
	secrets := []*dagger.Secret{e.SetSecret("every09-build", "build-secret")}
	args := []dagger.BuildArg{{Name: "WORD", Value: "word"}}
	one := context.DockerBuild(dagger.DirectoryDockerBuildOpts{
		Platform: must(e.DefaultPlatform(e.ctx)), Dockerfile: "app.Dockerfile", BuildArgs: args, Target: "base", Secrets: secrets,
	})
	two := e.Container().Build(context, dagger.ContainerBuildOpts{
		Dockerfile: "app.Dockerfile", BuildArgs: args, Target: "base", Secrets: secrets,
	})
	return trimmed([]string{must(one.File("/built").Contents(e.ctx)), must(two.File("/built").Contents(e.ctx))})
}

func (e every) images() string {
	arm64 := dagger.ContainerOpts{Platform: "linux/arm64"}
	many := []*dagger.Container{e.Container(arm64).WithRootfs(e.Directory().WithNewFile("arch", "arm"))}
	ctr := e.Container().WithRootfs(e.Directory().WithNewFile("arch", "here"))
	password := e.SetSecret("every09-password", "never-asked-for")
	login := ctr.WithRegistryAuth(e.registry, "somebody", password)
	name := e.registry + "/conformance/every09-go"
	ref := must(login.Publish(e.ctx, name+":many", dagger.ContainerPublishOpts{
		PlatformVariants: many, ForcedCompression: dagger.Zstd, MediaTypes: dagger.Ocimediatypes,
	}))
	plain := must(login.WithoutRegistryAuth(e.registry).Publish(e.ctx, name+":one", dagger.ContainerPublishOpts{
		MediaTypes: dagger.Dockermediatypes,
	}))
	arch := func(of ...*dagger.Container) string {
		var said []string
		for _, c := range of {
			said = append(said, must(c.File("arch").Contents(e.ctx)))
		}
		return strings.Join(said, ",")
	}
	pulled := arch(e.image(ref), e.image(plain), e.Container(arm64).From(ref))

	at := filepath.Join(e.out, "image.tar")
	check(must(ctr.Export(e.ctx, at, dagger.ContainerExportOpts{
		PlatformVariants: many, ForcedCompression: dagger.Gzip, MediaTypes: dagger.Dockermediatypes,
	})), "export of an image")
	layout := slices.Contains(members(at), "oci-layout")
	tarball := ctr.AsTarball(dagger.ContainerAsTarballOpts{
		PlatformVariants: many, ForcedCompression: dagger.Zstd, MediaTypes: dagger.Ocimediatypes,
	})
	named := e.image("python").
		WithMountedDirectory("/s", e.Host().Directory(e.files)).WithMountedFile("/i.tar", ctr.AsTarball()).
		WithExec([]string{"python", "/s/name_image.py", "/i.tar", "v1", "/o.tar"}).
		File("/o.tar")
	imported := arch(
		e.Container().Import(tarball), e.Container().Import(ctr.AsTarball()), e.Container().Import(e.Host().File(at)),
		e.Container().Import(named, dagger.ContainerImportOpts{Tag: "v1"}),
	)
	return fmt.Sprintf("pulled=%s layout=%t imported=%s", pulled, layout, imported)
}

// The names in an archive.
func members(path string) []string {
	file := must(os.Open(path))
	defer file.Close()
	var names []string
	for archive := tar.NewReader(file); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return names
		}
		names = append(names, must(header, err).Name)
	}
}
