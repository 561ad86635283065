"""Services with `dagger-io`, from 0.9 to 0.21: each argument names a scenario, which prints its line."""
import inspect
import os
import sys
import time
import traceback
import urllib.request

import anyio
import dagger

# Different in each run: steps with it are not answered from the cache.
NONCE = str(time.time_ns())
REDIS = ["redis-server", "--bind", "*", "--protected-mode", "no"]


def connect():
    return dagger.Connection(dagger.Config(log_output=sys.stderr))


def serve(ctr, args):
    """Before 0.15 a service was a container's last step."""
    if "args" in inspect.signature(ctr.as_service).parameters:
        return ctr.as_service(args=args)
    return ctr.with_exec(args).as_service()


async def step(ctr, *args):
    """What `args` print in `ctr`, now and not from the cache."""
    stamped = ctr.with_env_variable("STAMP", str(time.time_ns()))
    return (await stamped.with_exec(list(args)).stdout()).strip()


async def tunnel():
    """A web server in a container, fetched by this process."""
    async with connect() as client:
        page = f"page {NONCE}"
        ctr = (
            client.container()
            .from_("python")
            .with_mounted_directory("/site", client.directory().with_new_file("index.html", page))
            .with_workdir("/site")
            .with_exposed_port(8080)
        )
        server = serve(ctr, ["python3", "-m", "http.server", "8080"])
        opened = await client.host().tunnel(server).start()
        with urllib.request.urlopen(await opened.endpoint(scheme="http")) as answer:
            body = answer.read().decode()
            assert body == page, body
        await opened.stop()
        return f"{answer.status} {answer.reason}"


async def host():
    """A MariaDB of the host's, queried from a container."""
    port = int(os.environ["HOST_DATABASE_PORT"])
    async with connect() as client:
        database = client.host().service([dagger.PortForward(frontend=3306, backend=port)])
        ctr = client.container().from_("mariadb").with_service_binding("db", database)
        login = ["--host=db", "--user=reader", "--password=letters", "--database=zoo"]
        sql = "SELECT CONCAT(name, ' has ', legs, ' legs') FROM animals"
        return await step(ctr, "mariadb", *login, "--batch", "--skip-column-names", f"--execute={sql}")


async def cache():
    """Redis, whose data a cache volume keeps from one session to the next."""

    async def cli(command):
        async with connect() as client:
            ctr = (
                client.container()
                .from_("redis")
                .with_mounted_cache("/data", client.cache_volume(f"services-{NONCE}"))
                .with_exposed_port(6379)
            )
            server = serve(ctr, [*REDIS, "--dir", "/data"])
            ctr = client.container().from_("redis").with_service_binding("redis", server)
            return await step(ctr, "sh", "-c", command)

    answers = await cli(f"redis-cli -h redis set key {NONCE} && redis-cli -h redis save")
    got = await cli("redis-cli -h redis get key")
    assert got == NONCE, got
    return f"set {' '.join(answers.split())}, got the same later"


async def stop():
    """Redis, started, stopped and started again."""
    async with connect() as client:
        redis = client.container().from_("redis")
        ctr = redis.with_env_variable("RUN", NONCE).with_exposed_port(6379)
        server = serve(ctr, [*REDIS, "--save", ""])
        name = await server.hostname()

        async def count():
            # No binding: only the explicit start keeps it up.
            command = f"timeout 5 redis-cli -h {name} incr count 2>/dev/null || echo gone"
            return await step(redis, "sh", "-c", command)

        await server.start()
        seen = [await count(), await count()]
        await server.stop()
        seen.append(await count())
        await server.start()
        seen.append(await count())
        await server.stop()
        return " ".join(seen)


async def main():
    failed = False
    for name in sys.argv[1:]:
        try:
            line = await {"tunnel": tunnel, "host": host, "cache": cache, "stop": stop}[name]()
        except Exception as error:
            traceback.print_exc()
            line, failed = f"failed: {error!r}", True
        print(f"{name}: {line}")
    sys.exit(failed)


anyio.run(main)
