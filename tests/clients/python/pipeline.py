"""The pipeline with `dagger-io`, from 0.9 to 0.21."""
import inspect
import pathlib
import sys

import anyio
import dagger


async def failing(ctr):
    """Runs a step that exits with 3; old clients have no `expect`."""
    step = ["sh", "-c", "echo on purpose >&2; exit 3"]
    if "expect" in inspect.signature(ctr.with_exec).parameters:
        ran = ctr.with_exec(step, expect=dagger.ReturnType.ANY)
        return await ran.exit_code(), (await ran.stderr()).strip()
    try:
        await ctr.with_exec(step).sync()
    except dagger.ExecError as error:
        return error.exit_code, error.stderr.strip()
    raise SystemExit("the step did not fail")


async def main(out):
    async with dagger.Connection(dagger.Config(log_output=sys.stderr)) as client:
        project = pathlib.Path(__file__).parent.parent / "project"
        source = client.host().directory(str(project), exclude=["*.md"])
        token = client.set_secret("token", "s3cret-t0ken-1")
        ctr = (
            client.container()
            .from_("python")
            .with_mounted_directory("/src", source)
            .with_mounted_cache("/cache", client.cache_volume("clients-python"))
            .with_secret_variable("TOKEN", token)
            .with_exec(["python3", "/src/app.py"])
        )
        print("step:", (await ctr.stdout()).strip())
        print("secret:", (await ctr.stderr()).strip().removeprefix("token "))
        code, stderr = await failing(client.container().from_("python"))
        print(f"failed: exit={code} stderr={stderr}")
        await ctr.directory("/out").export(out)
        print("export:", (pathlib.Path(out) / "result.txt").read_text().strip())


anyio.run(main, sys.argv[1])
