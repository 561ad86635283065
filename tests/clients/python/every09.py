"""Every field that the schema of 0.9.0 has outside of modules, with `dagger-io` 0.9: a line for each area."""
import asyncio
import os
import pathlib
import sys
import tarfile
import tempfile
import urllib.request

import anyio
import dagger
from dagger import (
    BuildArg, CacheSharingMode, CacheVolumeID, ContainerID, DirectoryID, FileID, ImageLayerCompression, ImageMediaTypes,
    NetworkProtocol, PipelineLabel, Platform, PortForward, SecretID, ServiceID, SocketID,
)

FILES = os.environ["EVERY09"]
REGISTRY = os.environ["REGISTRY"]
# Says what a server at HOST:PORT or below a socket's path sends.
ASK_TCP = "import socket; print(socket.create_connection(('{}', {})).recv(9).decode())"
ASK_UNIX = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); print(s.recv(9).decode())"


async def lines(ctr, *args, **options):
    """What a step prints, as one line."""
    return " ".join((await ctr.with_exec(args, **options).stdout()).split())


async def session(client):
    label = PipelineLabel(name="suite", value="every09")
    named = client.pipeline("every09", description="all of it", labels=[label])
    ctr = named.container(platform=await client.default_platform()).pipeline("ctr", description="a", labels=[label])
    folder = named.directory().pipeline("folder", description="b", labels=[label])
    compatible = await client.check_version_compatibility("v0.9.0")
    same = await ctr.platform() == await client.default_platform()
    return f"compatible={compatible} platform={same} entries={len(await folder.entries())}".lower()


async def container(client):
    image = await client.container().from_("alpine").sync()
    assert "alpine" in await image.image_ref()
    assert (await image.with_exec(["sh"]).shell_endpoint()).startswith("ws://dagger/")
    ctr = (
        image.with_user("root").with_workdir("/work").with_entrypoint(["echo"]).with_default_args(args=["hello"])
        .with_env_variable("A", "1").with_env_variable("B", "${A}2", expand=True).without_env_variable("A")
        .with_label("x", "1").with_label("y", "2").without_label("y")
        .with_exposed_port(80, protocol=NetworkProtocol.TCP, description="web").with_exposed_port(53, protocol=NetworkProtocol.UDP)
        .without_exposed_port(53, protocol=NetworkProtocol.UDP)
        .with_focus().without_focus()
    )
    variables = {await v.name(): await v.value() for v in await ctr.env_variables()}
    labels = {await v.name(): await v.value() for v in await ctr.labels()}
    ports = [f"{await p.port()}/{(await p.protocol()).value}/{await p.description()}" for p in await ctr.exposed_ports()]
    assert variables["B"] == await ctr.env_variable("B") and "A" not in variables
    assert labels["x"] == await ctr.label("x") and "y" not in labels
    return (
        f"user={await ctr.user()} workdir={await ctr.workdir()} entrypoint={','.join(await ctr.entrypoint())}"
        f" args={','.join(await ctr.default_args())} b={variables['B']} x={labels['x']} ports={','.join(ports)}"
    )


async def execution(client):
    image = client.container().from_("alpine").with_entrypoint(["false"])
    ran = image.with_exec(
        ["sh", "-c", "cat; echo oops >&2"],
        skip_entrypoint=True, stdin="in", redirect_stdout="/out", redirect_stderr="/err",
    )
    plain = image.with_exec(["sh", "-c", "echo out; echo err >&2"], skip_entrypoint=True)
    root = await lines(image, "sh", "-c", "mount -t tmpfs x /tmp && echo mounted", skip_entrypoint=True, insecure_root_capabilities=True)
    nested = await lines(image, "sh", "-c", "echo ${DAGGER_SESSION_PORT:+nested}", skip_entrypoint=True, experimental_privileged_nesting=True)
    said = await ran.file("/out").contents() + "," + (await ran.file("/err").contents()).strip()
    return f"{said},{(await plain.stdout()).strip()},{(await plain.stderr()).strip()},{root},{nested}"


async def mounts(client):
    image = client.container().from_("alpine")
    seed = client.directory().with_new_file("seed", "s")
    secret = client.set_secret("every09-mount", "mounted-secret")
    cache = client.load_cache_volume_from_id(CacheVolumeID(await client.cache_volume("every09-python").id()))
    ctr = (
        image.with_mounted_directory("/m/dir", seed, owner="7:8").with_mounted_file("/m/file", seed.file("seed"), owner="7:8")
        .with_mounted_temp("/m/temp").with_mounted_secret("/m/secret", secret, owner="7:8", mode=0o440)
        .with_mounted_cache("/m/cache", cache, source=seed, sharing=CacheSharingMode.LOCKED, owner="7:8")
        .with_mounted_temp("/m/gone").without_mount("/m/gone")
    )
    shown = await lines(ctr, "sh", "-c", "cd /m; stat -c %n=%u:%g dir/seed file cache/seed; stat -c %n=%u:%g:%a secret; cat secret | wc -c; ls")
    return f"{','.join(await ctr.mounts())} {shown}"


async def written(client):
    image = client.container().from_("alpine")
    files = client.directory().with_new_file("a.txt", "a").with_new_file("b.md", "b").with_new_file("c.txt", "c")
    ctr = (
        image.with_file("/w/file", files.file("a.txt"), permissions=0o640, owner="7:8")
        .with_new_file("/w/new", contents="new", permissions=0o600, owner="9:9")
        .with_directory("/w/dir", files, include=["*.txt"], exclude=["c.*"], owner="7:8")
    )
    shown = await lines(ctr, "sh", "-c", "cd /w; stat -c %n=%a:%u:%g file new dir/*")
    again = client.container().with_rootfs(ctr.rootfs())
    return f"{shown} rootfs={','.join(await again.directory('/w').entries())}"


async def directory(client):
    base = client.directory().with_new_file("f", "f", permissions=0o600).with_new_directory("d", permissions=0o700)
    more = (
        base.with_file("d/copy", base.file("f"), permissions=0o755)
        .with_directory("e", base, include=["f", "d"], exclude=["d"])
        .with_new_file("gone", "x").without_file("gone").with_new_directory("empty").without_directory("empty")
        .with_timestamps(1_000_000_000)
    )
    more = await more.sync()
    assert await base.diff(more).directory("d").entries() == ["copy"]
    image = client.container().from_("alpine").with_directory("/x", more)
    shown = await lines(image, "sh", "-c", "cd /x; stat -c %n=%a f d d/copy; stat -c %Y f")
    return f"{','.join(await more.entries())} d={','.join(await more.entries(path='d'))} {shown}"


async def file(client, out):
    made = await client.directory().with_new_file("f", "twelve bytes").file("f").with_timestamps(1_000_000_000).sync()
    assert await made.export(os.path.join(out, "as-named"))
    (pathlib.Path(out) / "folder").mkdir()
    assert await made.export(os.path.join(out, "folder"), allow_parent_dir_path=True)
    assert await client.directory().with_file("g", made).export(os.path.join(out, "all"))
    found = sorted(str(p.relative_to(out)) for p in pathlib.Path(out).rglob("*") if p.is_file())
    return f"{await made.contents()} size={await made.size()} exported={','.join(found)}"


async def ids(client):
    folder = client.directory().with_new_file("f", "by id")
    secret, ctr = client.set_secret("every09-id", "known"), client.container().from_("alpine").with_workdir("/here")
    d, f = DirectoryID(await folder.id()), FileID(await folder.file("f").id())
    c, s = ContainerID(await ctr.id()), SecretID(await secret.id())
    said = [await client.load_directory_from_id(d).file("f").contents(), await client.directory(id=d).file("f").contents()]
    said += [await client.load_file_from_id(f).contents(), await client.file(f).contents()]
    said += [await client.load_container_from_id(c).workdir(), await client.container(id=c).workdir()]
    said += [await client.load_secret_from_id(s).plaintext(), await client.secret(s).plaintext()]
    return ",".join(said)


async def secrets(client, folder):
    path = pathlib.Path(folder) / "secret"
    path.write_text("from-a-file")
    kept = client.host().set_secret_file("every09-file", str(path))
    ctr = client.container().from_("alpine").with_secret_variable("KEPT", kept)
    return f"{await lines(ctr, 'sh', '-c', 'echo $KEPT ${#KEPT}')} plain={await kept.plaintext()}"


async def host(client, folder):
    async def answer(_, writer):
        writer.write(b"pong")
        await writer.drain()
        writer.close()

    at = str(pathlib.Path(folder) / "host.sock")
    unix = await asyncio.start_unix_server(answer, at)
    tcp = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    files = client.host().directory(FILES, include=["*.py", "*.sh"], exclude=["*.sh"])
    script = client.host().file(os.path.join(FILES, "repository.sh"))
    socket = client.host().unix_socket(at)
    by_id = SocketID(await socket.id())
    python = client.container().from_("python")
    said = [await lines(python.with_unix_socket("/s", s, owner="7:8"), "python", "-c", ASK_UNIX.format("/s"))
            for s in (client.load_socket_from_id(by_id), client.socket(id=by_id))]
    gone = await lines(python.with_unix_socket("/s", socket).without_unix_socket("/s"), "sh", "-c", "test -e /s || echo gone")
    there = client.host().service([PortForward(backend=port, frontend=7000, protocol=NetworkProtocol.TCP)], host="127.0.0.1")
    ask = ASK_TCP.format("there", 7000)
    tcp_said = await lines(python.with_service_binding("there", there), "python", "-c", ask)
    unix.close()
    tcp.close()
    first = (await script.contents()).split()[1]
    return f"{','.join(await files.entries())} file={first} unix={','.join(said)},{gone} tcp={tcp_said}"


def serve(client, page):
    site = client.directory().with_new_file("index.html", page)
    python = client.container().from_("python").with_directory("/site", site).with_workdir("/site").with_exposed_port(8000)
    return python.with_exec(["python", "-m", "http.server"]).as_service()


async def service(client):
    server = serve(client, "served")
    started = await server.start()
    hostname, endpoint = await started.hostname(), await server.endpoint(port=8000, scheme="http")
    ports = [await p.port() for p in await server.ports()]
    loaded = client.load_service_from_id(ServiceID(await server.id()))
    fetched = await client.http(f"http://{hostname}:8000/index.html", experimental_service_host=loaded).contents()
    said = []
    for tunnel in (client.host().tunnel(server, native=False, ports=[PortForward(backend=8000, frontend=0)]), client.host().tunnel(server)):
        await tunnel.start()
        url = await tunnel.endpoint(scheme="http")
        said.append((await anyio.to_thread.run_sync(urllib.request.urlopen, url)).read().decode())
        await tunnel.stop()
    await server.stop()
    return f"ports={','.join(map(str, ports))} endpoint={endpoint == f'http://{hostname}:8000'} http={fetched} tunnel={','.join(said)}".lower()


async def git(client, folder):
    script = client.host().file(os.path.join(FILES, "repository.sh"))
    made = client.container().from_("alpine").with_mounted_file("/make.sh", script).with_exec(["sh", "/make.sh"])
    commit = (await made.file("/srv/first").contents()).strip()
    daemon = made.with_exposed_port(9418).with_exec(["git", "daemon", "--export-all", "--base-path=/srv"]).as_service()
    url = f"git://{await daemon.hostname()}/repo"
    repo = client.git(url, experimental_service_host=daemon)
    kept = client.git(url, experimental_service_host=daemon, keep_git_dir=True)
    agent = client.host().unix_socket(str(pathlib.Path(folder) / "agent.sock"))
    said = [await tree.file("file").contents() for tree in (
        repo.branch("main").tree(), repo.tag("v1").tree(ssh_known_hosts="x y z", ssh_auth_socket=agent), repo.commit(commit).tree(),
    )]
    return f"{','.join(s.strip() for s in said)} kept={','.join(await kept.branch('main').tree().entries())}"


async def build(client):
    context = client.host().directory(os.path.join(FILES, "docker"))
    secret = client.set_secret("every09-build", "build-secret")
    options = dict(dockerfile="app.Dockerfile", build_args=[BuildArg("WORD", "word")], target="base", secrets=[secret])
    one = context.docker_build(platform=await client.default_platform(), **options)
    two = client.container().build(context, **options)
    return ",".join([(await c.file("/built").contents()).strip() for c in (one, two)])


async def images(client, out):
    zstd, gzip, oci, docker = ImageLayerCompression.Zstd, ImageLayerCompression.Gzip, ImageMediaTypes.OCIMediaTypes, ImageMediaTypes.DockerMediaTypes
    files = client.directory().with_new_file("arch", "arm")
    arm = client.container(platform=Platform("linux/arm64")).with_rootfs(files)
    ctr = client.container().with_rootfs(client.directory().with_new_file("arch", "here"))
    password = client.set_secret("every09-password", "never-asked-for")
    login = ctr.with_registry_auth(REGISTRY, "somebody", password)
    name = f"{REGISTRY}/conformance/every09-python"
    ref = await login.publish(f"{name}:many", platform_variants=[arm], forced_compression=zstd, media_types=oci)
    plain = await login.without_registry_auth(REGISTRY).publish(f"{name}:one", media_types=docker)
    pulled = [await client.container().from_(r).file("arch").contents() for r in (ref, plain)]
    pulled.append(await client.container(platform=Platform("linux/arm64")).from_(ref).file("arch").contents())

    path = os.path.join(out, "image.tar")
    assert await ctr.export(path, platform_variants=[arm], forced_compression=gzip, media_types=docker)
    with tarfile.open(path) as archive:
        layout = "oci-layout" in archive.getnames()
    tarball = ctr.as_tarball(platform_variants=[arm], forced_compression=zstd, media_types=oci)
    imported = [await client.container().import_(f).file("arch").contents() for f in (tarball, ctr.as_tarball(), client.host().file(path))]
    naming = client.container().from_("python").with_mounted_directory("/s", client.host().directory(FILES)).with_mounted_file("/i.tar", ctr.as_tarball())
    named = naming.with_exec(["python", "/s/name_image.py", "/i.tar", "v1", "/o.tar"]).file("/o.tar")
    imported.append(await client.container().import_(named, tag="v1").file("arch").contents())
    return f"pulled={','.join(pulled)} layout={layout} imported={','.join(imported)}".lower()


async def main(out):
    async with dagger.Connection(dagger.Config(log_output=sys.stderr)) as client:
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(out).mkdir(parents=True)
            print("session:", await session(client))
            print("container:", await container(client))
            print("exec:", await execution(client))
            print("mounts:", await mounts(client))
            print("written:", await written(client))
            print("directory:", await directory(client))
            print("file:", await file(client, out))
            print("ids:", await ids(client))
            print("secrets:", await secrets(client, folder))
            print("host:", await host(client, folder))
            print("service:", await service(client))
            print("git:", await git(client, folder))
            print("build:", await build(client))
            print("images:", await images(client, out))


anyio.run(main, sys.argv[1])
