// What only newer clients ask, with `@dagger.io/dagger` from 0.21 on.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import * as dagger from "@dagger.io/dagger";

const out = process.argv[2];
process.env.NEWER_SECRET = "from-env1";

await dagger.connect(
  async (client) => {
    const before = client.directory().withNewFile("keep.txt", "one\ntwo\n").withNewFile("old.txt", "x\n");
    const id = await before.id();
    // Loads an object by its ID: `node(id:)` in this client's dialect.
    const again = client.loadDirectoryFromID ? client.loadDirectoryFromID(id) : client.node(id);
    console.log(`node: ${(await again.entries()).length} files`);

    const image = client.container().from("python");
    const site = client.directory().withNewFile("index.html", "hello");
    const service = image
      .withDirectory("/site", site)
      .withWorkdir("/site")
      .withExposedPort(8000)
      .asService({ args: ["python", "-m", "http.server"] });
    const fetch = "import urllib.request as u; print(u.urlopen('http://web:8000/index.html').read().decode())";
    const said = await image.withServiceBinding("web", service).withExec(["python", "-c", fetch]).stdout();
    console.log(`service: ${said.trim()}`);

    // What a container shows of a secret, and how long it is.
    const secret = async (uri) => {
      const ran = image
        .withSecretVariable("VALUE", client.secret(uri))
        .withExec(["sh", "-c", "echo $VALUE ${#VALUE}"]);
      return (await ran.combinedOutput()).trim().split(" ");
    };
    const folder = await mkdtemp(path.join(tmpdir(), "newer-"));
    const file = path.join(folder, "secret");
    await writeFile(file, "from-fil1");
    const [env, fil, cmd] = [
      await secret("env://NEWER_SECRET"),
      await secret(`file://${file}`),
      await secret("cmd://echo from-cmd1"),
    ];
    await rm(folder, { recursive: true });
    console.log(`secrets: env=${env[0]} file=${fil[0]} cmd=${cmd[0]} length=${env[1]},${fil[1]},${cmd[1]}`);

    const after = client.directory().withNewFile("keep.txt", "one\n2\n").withNewFile("new.txt", "y\n");
    const changes = after.changes(before);
    const [added, modified, removed] = [
      await changes.addedPaths(),
      await changes.modifiedPaths(),
      await changes.removedPaths(),
    ];
    console.log(`changes: added=${added} modified=${modified} removed=${removed}`);
    const patch = await changes.asPatch().contents();
    assert.deepEqual(await before.withPatch(patch).entries(), await after.entries());
    assert.deepEqual(await before.withChanges(changes).entries(), await after.entries());
    console.log(`patch: ${patch.split("diff --git").length - 1} files`);

    for (const found of await before.search({ pattern: "two" })) {
      console.log(`search: ${await found.filePath()}:${await found.lineNumber()} ${(await found.matchedLines()).trim()}`);
    }
    const stat = after.file("new.txt").withReplaced("y", "yes").stat();
    const kind = String(await stat.fileType()).toUpperCase().replace("_TYPE", "");
    console.log(`stat: ${kind} ${await stat.size()} ${await stat.permissions()}`);
    const value = client.json().withField(["a", "b"], client.json().newInteger(42));
    console.log(`json: ${await value.field(["a", "b"]).asInteger()}`);

    await mkdir(out, { recursive: true });
    await writeFile(path.join(out, "old.txt"), "x\n");
    await writeFile(path.join(out, "mine"), "m\n");
    await changes.export(out);
    assert.deepEqual((await readdir(out)).sort(), ["keep.txt", "mine", "new.txt"]);
    const variables = client.envFile().withVariable("A", "a").withVariable("B", "$A b");
    console.log(`merged: ${await variables.get("B")}`);
  },
  { LogOutput: process.stderr },
);
