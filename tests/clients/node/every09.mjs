// Every field that the schema of 0.9.0 has outside of modules, with `@dagger.io/dagger` 0.9: a line for each area.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import * as dagger from "@dagger.io/dagger";

const { CacheSharingMode, ImageLayerCompression, ImageMediaTypes, NetworkProtocol } = dagger;
const out = process.argv[2];
const { EVERY09: files, REGISTRY: registry } = process.env;
// Says what a server at HOST:PORT or below a socket's path sends.
const askTcp = (host, port) => `import socket; print(socket.create_connection(('${host}', ${port})).recv(9).decode())`;
const askUnix = (at) => `import socket; s = socket.socket(socket.AF_UNIX); s.connect('${at}'); print(s.recv(9).decode())`;

// What a step prints, as one line.
const lines = async (ctr, args, options) => (await ctr.withExec(args, options).stdout()).trim().split(/\s+/).join(" ");

// In turn, not at once: the answers are wanted in order.
async function all(things, ask) {
  const answers = [];
  for (const thing of things) answers.push(await ask(thing));
  return answers;
}

async function session(client) {
  const labels = [{ name: "suite", value: "every09" }];
  const named = client.pipeline("every09", { description: "all of it", labels });
  const platform = await client.defaultPlatform();
  const ctr = named.container({ platform }).pipeline("ctr", { description: "a", labels });
  const folder = named.directory().pipeline("folder", { description: "b", labels });
  const compatible = await client.checkVersionCompatibility("v0.9.0");
  const same = (await ctr.platform()) === platform;
  return `compatible=${compatible} platform=${same} entries=${(await folder.entries()).length}`;
}

async function container(client) {
  const image = await client.container().from("alpine").sync();
  assert.match(await image.imageRef(), /alpine/);
  assert.match(await image.withExec(["sh"]).shellEndpoint(), /^ws:\/\/dagger\//);
  const ctr = image
    .withUser("root").withWorkdir("/work").withEntrypoint(["echo"]).withDefaultArgs({ args: ["hello"] })
    .withEnvVariable("A", "1").withEnvVariable("B", "${A}2", { expand: true }).withoutEnvVariable("A")
    .withLabel("x", "1").withLabel("y", "2").withoutLabel("y")
    .withExposedPort(80, { protocol: NetworkProtocol.Tcp, description: "web" })
    .withExposedPort(53, { protocol: NetworkProtocol.Udp })
    .withoutExposedPort(53, { protocol: NetworkProtocol.Udp })
    .withFocus().withoutFocus();
  const [variables, labels] = [{}, {}];
  for (const variable of await ctr.envVariables()) variables[await variable.name()] = await variable.value();
  for (const label of await ctr.labels()) labels[await label.name()] = await label.value();
  const port = async (p) => `${await p.port()}/${await p.protocol()}/${await p.description()}`;
  const ports = await all(await ctr.exposedPorts(), port);
  assert(variables.B === (await ctr.envVariable("B")) && !("A" in variables));
  assert(labels.x === (await ctr.label("x")) && !("y" in labels));
  return `user=${await ctr.user()} workdir=${await ctr.workdir()} entrypoint=${await ctr.entrypoint()}`
    + ` args=${await ctr.defaultArgs()} b=${variables.B} x=${labels.x} ports=${ports}`;
}

async function execution(client) {
  const image = client.container().from("alpine").withEntrypoint(["false"]);
  const skipEntrypoint = true;
  const ran = image.withExec(["sh", "-c", "cat; echo oops >&2"], {
    skipEntrypoint, stdin: "in", redirectStdout: "/out", redirectStderr: "/err",
  });
  const plain = image.withExec(["sh", "-c", "echo out; echo err >&2"], { skipEntrypoint });
  const mount = ["sh", "-c", "mount -t tmpfs x /tmp && echo mounted"];
  const root = await lines(image, mount, { skipEntrypoint, insecureRootCapabilities: true });
  const port = ["sh", "-c", "echo ${DAGGER_SESSION_PORT:+nested}"];
  const nested = await lines(image, port, { skipEntrypoint, experimentalPrivilegedNesting: true });
  const said = [
    await ran.file("/out").contents(), await ran.file("/err").contents(),
    await plain.stdout(), await plain.stderr(), root, nested,
  ];
  return said.map((s) => s.trim()).join();
}

async function mounts(client) {
  const image = client.container().from("alpine");
  const seed = client.directory().withNewFile("seed", "s");
  const secret = client.setSecret("every09-mount", "mounted-secret");
  const cache = client.loadCacheVolumeFromID(await client.cacheVolume("every09-node").id());
  const owner = "7:8";
  const ctr = image
    .withMountedDirectory("/m/dir", seed, { owner }).withMountedFile("/m/file", seed.file("seed"), { owner })
    .withMountedTemp("/m/temp").withMountedSecret("/m/secret", secret, { owner, mode: 0o440 })
    .withMountedCache("/m/cache", cache, { source: seed, sharing: CacheSharingMode.Locked, owner })
    .withMountedTemp("/m/gone").withoutMount("/m/gone");
  const look = "cd /m; stat -c %n=%u:%g dir/seed file cache/seed; stat -c %n=%u:%g:%a secret; cat secret | wc -c; ls";
  return `${await ctr.mounts()} ${await lines(ctr, ["sh", "-c", look])}`;
}

async function written(client) {
  const image = client.container().from("alpine");
  const tree = client.directory().withNewFile("a.txt", "a").withNewFile("b.md", "b").withNewFile("c.txt", "c");
  const ctr = image
    .withFile("/w/file", tree.file("a.txt"), { permissions: 0o640, owner: "7:8" })
    .withNewFile("/w/new", { contents: "new", permissions: 0o600, owner: "9:9" })
    .withDirectory("/w/dir", tree, { include: ["*.txt"], exclude: ["c.*"], owner: "7:8" });
  const shown = await lines(ctr, ["sh", "-c", "cd /w; stat -c %n=%a:%u:%g file new dir/*"]);
  const again = client.container().withRootfs(ctr.rootfs());
  return `${shown} rootfs=${await again.directory("/w").entries()}`;
}

async function directory(client) {
  const base = client.directory()
    .withNewFile("f", "f", { permissions: 0o600 }).withNewDirectory("d", { permissions: 0o700 });
  const more = await base
    .withFile("d/copy", base.file("f"), { permissions: 0o755 })
    .withDirectory("e", base, { include: ["f", "d"], exclude: ["d"] })
    .withNewFile("gone", "x").withoutFile("gone").withNewDirectory("empty").withoutDirectory("empty")
    .withTimestamps(1_000_000_000)
    .sync();
  assert.deepEqual(await base.diff(more).directory("d").entries(), ["copy"]);
  const image = client.container().from("alpine").withDirectory("/x", more);
  const shown = await lines(image, ["sh", "-c", "cd /x; stat -c %n=%a f d d/copy; stat -c %Y f"]);
  return `${await more.entries()} d=${await more.entries({ path: "d" })} ${shown}`;
}

async function file(client) {
  const made = await client.directory().withNewFile("f", "twelve bytes").file("f").withTimestamps(1_000_000_000).sync();
  assert(await made.export(path.join(out, "as-named")));
  await mkdir(path.join(out, "folder"));
  assert(await made.export(path.join(out, "folder"), { allowParentDirPath: true }));
  assert(await client.directory().withFile("g", made).export(path.join(out, "all")));
  const names = await readdir(out, { recursive: true });
  const found = (await all(names, async (n) => ((await stat(path.join(out, n))).isFile() ? [n] : []))).flat().sort();
  return `${await made.contents()} size=${await made.size()} exported=${found}`;
}

async function ids(client) {
  const folder = client.directory().withNewFile("f", "by id");
  const secret = client.setSecret("every09-id", "known");
  const ctr = client.container().from("alpine").withWorkdir("/here");
  const [d, f, c, s] = [await folder.id(), await folder.file("f").id(), await ctr.id(), await secret.id()];
  const said = [
    await client.loadDirectoryFromID(d).file("f").contents(), await client.directory({ id: d }).file("f").contents(),
    await client.loadFileFromID(f).contents(), await client.file(f).contents(),
    await client.loadContainerFromID(c).workdir(), await client.container({ id: c }).workdir(),
    await client.loadSecretFromID(s).plaintext(), await client.secret(s).plaintext(),
  ];
  return said.join();
}

async function secrets(client, folder) {
  const at = path.join(folder, "secret");
  await writeFile(at, "from-a-file");
  const kept = client.host().setSecretFile("every09-file", at);
  const ctr = client.container().from("alpine").withSecretVariable("KEPT", kept);
  return `${await lines(ctr, ["sh", "-c", "echo $KEPT ${#KEPT}"])} plain=${await kept.plaintext()}`;
}

async function host(client, folder) {
  const listen = (where) => new Promise((done) => {
    const server = net.createServer((socket) => socket.on("error", () => {}).end("pong"));
    server.listen(where, () => done(server));
  });
  const at = path.join(folder, "host.sock");
  const [unix, tcp] = [await listen({ path: at }), await listen({ host: "127.0.0.1", port: 0 })];
  const some = client.host().directory(files, { include: ["*.py", "*.sh"], exclude: ["*.sh"] });
  const script = client.host().file(path.join(files, "repository.sh"));
  const socket = client.host().unixSocket(at);
  const id = await socket.id();
  const python = client.container().from("python");
  const ask = (s) => lines(python.withUnixSocket("/s", s, { owner: "7:8" }), ["python", "-c", askUnix("/s")]);
  const said = await all([client.loadSocketFromID(id), client.socket({ id })], ask);
  const without = python.withUnixSocket("/s", socket).withoutUnixSocket("/s");
  const gone = await lines(without, ["sh", "-c", "test -e /s || echo gone"]);
  const ports = [{ backend: tcp.address().port, frontend: 7000, protocol: NetworkProtocol.Tcp }];
  const there = client.host().service(ports, { host: "127.0.0.1" });
  const tcpSaid = await lines(python.withServiceBinding("there", there), ["python", "-c", askTcp("there", 7000)]);
  unix.close();
  tcp.close();
  const first = (await script.contents()).split(/\s+/)[1];
  return `${await some.entries()} file=${first} unix=${said},${gone} tcp=${tcpSaid}`;
}

async function service(client) {
  const site = client.directory().withNewFile("index.html", "served");
  const python = client.container().from("python").withDirectory("/site", site).withWorkdir("/site").withExposedPort(8000);
  const server = python.withExec(["python", "-m", "http.server"]).asService();
  const started = await server.start();
  const hostname = await started.hostname();
  const endpoint = await server.endpoint({ port: 8000, scheme: "http" });
  const ports = await all(await server.ports(), (p) => p.port());
  const loaded = client.loadServiceFromID(await server.id());
  const address = `http://${hostname}:8000`;
  const fetched = await client.http(`${address}/index.html`, { experimentalServiceHost: loaded }).contents();
  const chosen = client.host().tunnel(server, { native: false, ports: [{ backend: 8000, frontend: 0 }] });
  const said = await all([chosen, client.host().tunnel(server)], async (tunnel) => {
    await tunnel.start();
    const page = await (await fetch(await tunnel.endpoint({ scheme: "http" }))).text();
    await tunnel.stop();
    return page;
  });
  await server.stop();
  return `ports=${ports} endpoint=${endpoint === address} http=${fetched} tunnel=${said}`;
}

async function git(client, folder) {
  const script = client.host().file(path.join(files, "repository.sh"));
  const made = client.container().from("alpine").withMountedFile("/make.sh", script).withExec(["sh", "/make.sh"]);
  const commit = (await made.file("/srv/first").contents()).trim();
  const serve = ["git", "daemon", "--export-all", "--base-path=/srv"];
  const daemon = made.withExposedPort(9418).withExec(serve).asService();
  const url = `git://${await daemon.hostname()}/repo`;
  const repo = client.git(url, { experimentalServiceHost: daemon });
  const kept = client.git(url, { experimentalServiceHost: daemon, keepGitDir: true });
  const sshAuthSocket = client.host().unixSocket(path.join(folder, "agent.sock"));
  const trees = [
    repo.branch("main").tree(),
    repo.tag("v1").tree({ sshKnownHosts: "x y z", sshAuthSocket }),
    repo.commit(commit).tree(),
  ];
  const said = await all(trees, async (tree) => (await tree.file("file").contents()).trim());
  return `${said} kept=${await kept.branch("main").tree().entries()}`;
}

async function build(client) {
  const context = client.host().directory(path.join(files, "docker"));
  const secret = client.setSecret("every09-build", "build-secret");
  const buildArgs = [{ name: "WORD", value: "word" }];
  const options = { dockerfile: "app.Dockerfile", buildArgs, target: "base", secrets: [secret] };
  const one = context.dockerBuild({ platform: await client.defaultPlatform(), ...options });
  const two = client.container().build(context, options);
  return (await all([one, two], async (c) => (await c.file("/built").contents()).trim())).join();
}

async function images(client) {
  const { Zstd: zstd, Gzip: gzip } = ImageLayerCompression;
  const { Ocimediatypes: oci, Dockermediatypes: docker } = ImageMediaTypes;
  const platform = "linux/arm64";
  const platformVariants = [client.container({ platform }).withRootfs(client.directory().withNewFile("arch", "arm"))];
  const ctr = client.container().withRootfs(client.directory().withNewFile("arch", "here"));
  const password = client.setSecret("every09-password", "never-asked-for");
  const login = ctr.withRegistryAuth(registry, "somebody", password);
  const name = `${registry}/conformance/every09-node`;
  const ref = await login.publish(`${name}:many`, { platformVariants, forcedCompression: zstd, mediaTypes: oci });
  const plain = await login.withoutRegistryAuth(registry).publish(`${name}:one`, { mediaTypes: docker });
  const arch = (c) => c.file("arch").contents();
  const blank = () => client.container();
  const pulled = await all([blank().from(ref), blank().from(plain), client.container({ platform }).from(ref)], arch);

  const at = path.join(out, "image.tar");
  assert(await ctr.export(at, { platformVariants, forcedCompression: gzip, mediaTypes: docker }));
  const archive = client.host().file(at);
  const python = client.container().from("python");
  const listed = await lines(python.withMountedFile("/i.tar", archive), ["python", "-m", "tarfile", "-l", "/i.tar"]);
  const layout = listed.split(" ").includes("oci-layout");
  const tarball = ctr.asTarball({ platformVariants, forcedCompression: zstd, mediaTypes: oci });
  const named = python
    .withMountedDirectory("/s", client.host().directory(files)).withMountedFile("/i.tar", ctr.asTarball())
    .withExec(["python", "/s/name_image.py", "/i.tar", "v1", "/o.tar"]).file("/o.tar");
  const imports = [tarball, ctr.asTarball(), archive].map((f) => blank().import_(f));
  const imported = await all([...imports, blank().import_(named, { tag: "v1" })], arch);
  return `pulled=${pulled} layout=${layout} imported=${imported}`;
}

await dagger.connect(
  async (client) => {
    const folder = await mkdtemp(path.join(tmpdir(), "every09-"));
    await mkdir(out, { recursive: true });
    const areas = {
      session, container, exec: execution, mounts, written, directory, file, ids, secrets, host, service, git, build, images,
    };
    for (const [name, area] of Object.entries(areas)) {
      console.log(`${name}: ${await area(client, folder)}`);
    }
    await rm(folder, { recursive: true });
  },
  { LogOutput: process.stderr },
);
