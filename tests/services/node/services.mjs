// Services with `@dagger.io/dagger`, from 0.9 to 0.21: each argument names a scenario, which prints its line.
import assert from "node:assert/strict";
import { connect } from "@dagger.io/dagger";

// Different in each run: steps with it are not answered from the cache.
const nonce = process.hrtime.bigint().toString() + process.pid;
const redisServer = ["redis-server", "--bind", "*", "--protected-mode", "no"];

// What `work` answers in a session of its own.
async function session(work) {
  let answer;
  await connect(async (client) => void (answer = await work(client)), { LogOutput: process.stderr });
  return answer;
}

// Before 0.15 a service was a container's last step.
function serve(ctr, args) {
  return ctr.asService.length > 0 ? ctr.asService({ args }) : ctr.withExec(args).asService();
}

// In the client of 0.14 `ports` is one of the options.
function hostService(client, ports) {
  const host = client.host();
  return host.service.length > 1 ? host.service(ports) : host.service({ ports });
}

// What `args` print in `ctr`, now and not from the cache.
async function step(ctr, ...args) {
  const stamped = ctr.withEnvVariable("STAMP", process.hrtime.bigint().toString());
  return (await stamped.withExec(args).stdout()).trim();
}

const scenarios = {
  // A web server in a container, fetched by this process.
  tunnel: () =>
    session(async (client) => {
      const page = `page ${nonce}`;
      const ctr = client
        .container()
        .from("python")
        .withMountedDirectory("/site", client.directory().withNewFile("index.html", page))
        .withWorkdir("/site")
        .withExposedPort(8080);
      const server = serve(ctr, ["python3", "-m", "http.server", "8080"]);
      const opened = await client.host().tunnel(server).start();
      const answer = await fetch(await opened.endpoint({ scheme: "http" }));
      assert.equal(await answer.text(), page);
      await opened.stop();
      return `${answer.status} ${answer.statusText}`;
    }),

  // A MariaDB of the host's, queried from a container.
  host: () =>
    session(async (client) => {
      const ports = [{ frontend: 3306, backend: Number(process.env.HOST_DATABASE_PORT) }];
      const ctr = client
        .container()
        .from("mariadb")
        .withServiceBinding("db", hostService(client, ports));
      const login = ["--host=db", "--user=reader", "--password=letters", "--database=zoo"];
      const sql = "SELECT CONCAT(name, ' has ', legs, ' legs') FROM animals";
      return step(ctr, "mariadb", ...login, "--batch", "--skip-column-names", `--execute=${sql}`);
    }),

  // Redis, whose data a cache volume keeps from one session to the next.
  cache: async () => {
    const cli = (command) =>
      session((client) => {
        const ctr = client
          .container()
          .from("redis")
          .withMountedCache("/data", client.cacheVolume(`services-${nonce}`))
          .withExposedPort(6379);
        const server = serve(ctr, [...redisServer, "--dir", "/data"]);
        const user = client.container().from("redis").withServiceBinding("redis", server);
        return step(user, "sh", "-c", command);
      });
    const answers = await cli(`redis-cli -h redis set key ${nonce} && redis-cli -h redis save`);
    assert.equal(await cli("redis-cli -h redis get key"), nonce);
    return `set ${answers.split(/\s+/).join(" ")}, got the same later`;
  },

  // Redis, started, stopped and started again.
  stop: () =>
    session(async (client) => {
      const redis = client.container().from("redis");
      const ctr = redis.withEnvVariable("RUN", nonce).withExposedPort(6379);
      const server = serve(ctr, [...redisServer, "--save", ""]);
      const name = await server.hostname();
      // No binding: only the explicit start keeps it up.
      const command = `timeout 5 redis-cli -h ${name} incr count 2>/dev/null || echo gone`;
      const count = () => step(redis, "sh", "-c", command);
      await server.start();
      const seen = [await count(), await count()];
      await server.stop();
      seen.push(await count());
      await server.start();
      seen.push(await count());
      await server.stop();
      return seen.join(" ");
    }),
};

for (const name of process.argv.slice(2)) {
  try {
    console.log(`${name}: ${await scenarios[name]()}`);
  } catch (error) {
    console.error(error);
    console.log(`${name}: failed: ${error.message}`);
    process.exitCode = 1;
  }
}
