"""What only newer clients ask, with `dagger-io` from 0.21 on."""
import os
import pathlib
import sys
import tempfile

import anyio
import dagger


async def secret(client, image, uri):
    """What a container shows of a secret, and how long it is."""
    ran = (
        image.with_secret_variable("VALUE", client.secret(uri))
        .with_exec(["sh", "-c", "echo $VALUE ${#VALUE}"])
    )
    return (await ran.combined_output()).split()


async def main(out):
    os.environ["NEWER_SECRET"] = "from-env1"
    async with dagger.Connection(dagger.Config(log_output=sys.stderr)) as client:
        before = client.directory().with_new_file("keep.txt", "one\ntwo\n").with_new_file("old.txt", "x\n")
        # Loads an object by its ID: `node(id:)` in this client's dialect.
        again = client.load_directory_from_id(dagger.DirectoryID(await before.id())) if hasattr(client, "load_directory_from_id") else client.node(await before.id(), dagger.Directory)
        print(f"node: {len(await again.entries())} files")

        image = client.container().from_("python")
        site = client.directory().with_new_file("index.html", "hello")
        service = image.with_directory("/site", site).with_workdir("/site").with_exposed_port(8000).as_service(args=["python", "-m", "http.server"])
        fetch = "import urllib.request as u; print(u.urlopen('http://web:8000/index.html').read().decode())"
        said = await image.with_service_binding("web", service).with_exec(["python", "-c", fetch]).stdout()
        print(f"service: {said.strip()}")

        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "secret"
            file.write_text("from-fil1")
            env = await secret(client, image, "env://NEWER_SECRET")
            fil = await secret(client, image, f"file://{file}")
            cmd = await secret(client, image, "cmd://echo from-cmd1")
        print(f"secrets: env={env[0]} file={fil[0]} cmd={cmd[0]} length={env[1]},{fil[1]},{cmd[1]}")

        after = client.directory().with_new_file("keep.txt", "one\n2\n").with_new_file("new.txt", "y\n")
        changes = after.changes(before)
        added, modified, removed = await changes.added_paths(), await changes.modified_paths(), await changes.removed_paths()
        print(f"changes: added={','.join(added)} modified={','.join(modified)} removed={','.join(removed)}")
        patch = await changes.as_patch().contents()
        patched = before.with_patch(patch)
        assert await patched.entries() == await after.entries()
        assert await before.with_changes(changes).entries() == await after.entries()
        print(f"patch: {patch.count('diff --git')} files")

        for found in await before.search("two"):
            print(f"search: {await found.file_path()}:{await found.line_number()} {(await found.matched_lines()).strip()}")
        stat = after.file("new.txt").with_replaced("y", "yes").stat()
        print(f"stat: {str(await stat.file_type()).removeprefix('FileType.')} {await stat.size()} {await stat.permissions()}")
        value = client.json().with_field(["a", "b"], client.json().new_integer(42))
        print(f"json: {await value.field(['a', 'b']).as_integer()}")

        exported = pathlib.Path(out)
        exported.mkdir(parents=True)
        (exported / "old.txt").write_text("x\n")
        (exported / "mine").write_text("m\n")
        await changes.export(str(exported))
        assert sorted(p.name for p in exported.iterdir()) == ["keep.txt", "mine", "new.txt"]
        env = client.env_file().with_variable("A", "a").with_variable("B", "$A b")
        print(f"merged: {await env.get('B')}")


anyio.run(main, sys.argv[1])
