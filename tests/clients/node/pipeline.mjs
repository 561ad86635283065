// The pipeline with `@dagger.io/dagger`, from 0.9 to 0.21.
import { readFile } from "node:fs/promises";
import path from "node:path";
import * as dagger from "@dagger.io/dagger";

const out = process.argv[2];
const project = process.env.PROJECT;

// Runs a step that exits with 3; old clients have no `expect`.
async function failing(ctr) {
  const step = ["sh", "-c", "echo on purpose >&2; exit 3"];
  if (dagger.ReturnType) {
    const ran = ctr.withExec(step, { expect: dagger.ReturnType.Any });
    return [await ran.exitCode(), (await ran.stderr()).trim()];
  }
  try {
    await ctr.withExec(step).sync();
  } catch (error) {
    return [error.exitCode, error.stderr.trim()];
  }
  throw new Error("the step did not fail");
}

await dagger.connect(
  async (client) => {
    const source = client.host().directory(project, { exclude: ["*.md"] });
    const token = client.setSecret("token", "s3cret-t0ken-1");
    const ctr = client
      .container()
      .from("python")
      .withMountedDirectory("/src", source)
      .withMountedCache("/cache", client.cacheVolume("clients-node"))
      .withSecretVariable("TOKEN", token)
      .withExec(["python3", "/src/app.py"]);
    console.log("step:", (await ctr.stdout()).trim());
    console.log("secret:", (await ctr.stderr()).trim().replace("token ", ""));
    const [code, stderr] = await failing(client.container().from("python"));
    console.log(`failed: exit=${code} stderr=${stderr}`);
    await ctr.directory("/out").export(out);
    console.log("export:", (await readFile(path.join(out, "result.txt"), "utf8")).trim());
  },
  { LogOutput: process.stderr },
);
