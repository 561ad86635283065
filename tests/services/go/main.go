// Services with `dagger.io/dagger`, from v0.9 to v0.21: each argument names a scenario, which prints its line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"dagger.io/dagger"
)

var scenarios = map[string]func(context.Context) (string, error){
	"tunnel":   tunnel,
	"host":     host,
	"cache":    cache,
	"stop":     stop,
	"names":    names,
	"database": database,
	"kernel":   kernel,
	"docker":   docker,
}

// Different in each run: steps with it are not answered from the cache.
var nonce = strconv.FormatInt(time.Now().UnixNano(), 36)

func main() {
	failed := false
	for _, name := range os.Args[1:] {
		line, err := scenarios[name](context.Background())
		if err != nil {
			line, failed = "failed: "+err.Error(), true
		}
		fmt.Printf("%s: %s\n", name, line)
	}
	if failed {
		os.Exit(1)
	}
}

// Runs work in a session of its own.
func session(ctx context.Context, work func(*dagger.Client) (string, error)) (string, error) {
	client, err := dagger.Connect(ctx, dagger.WithLogOutput(os.Stderr))
	if err != nil {
		return "", err
	}
	line, err := work(client)
	return line, errors.Join(err, client.Close())
}

// What args print in ctr, now and not from the cache.
func step(ctx context.Context, ctr *dagger.Container, args ...string) (string, error) {
	stamp := strconv.FormatInt(time.Now().UnixNano(), 36)
	out, err := ctr.WithEnvVariable("STAMP", stamp).WithExec(args).Stdout(ctx)
	return strings.TrimSpace(out), err
}

// A web server in a container, fetched by this process.
func tunnel(ctx context.Context) (string, error) {
	return session(ctx, func(client *dagger.Client) (string, error) {
		page := "page " + nonce
		site := client.Directory().WithNewFile("index.html", page)
		ctr := client.Container().
			From("python").
			WithMountedDirectory("/site", site).
			WithWorkdir("/site").
			WithExposedPort(8080)
		server := serve(ctr, "python3", "-m", "http.server", "8080")
		opened, err := client.Host().Tunnel(server).Start(ctx)
		if err != nil {
			return "", err
		}
		url, err := opened.Endpoint(ctx, dagger.ServiceEndpointOpts{Scheme: "http"})
		if err != nil {
			return "", err
		}
		answer, err := http.Get(url)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return "", err
		}
		if string(body) != page {
			return "", fmt.Errorf("the page is %q", body)
		}
		if _, err := opened.Stop(ctx); err != nil {
			return "", err
		}
		return answer.Status, nil
	})
}

// A MariaDB of the host's, queried from a container.
func host(ctx context.Context) (string, error) {
	port, err := strconv.Atoi(os.Getenv("HOST_DATABASE_PORT"))
	if err != nil {
		return "", err
	}
	return session(ctx, func(client *dagger.Client) (string, error) {
		ports := []dagger.PortForward{{Frontend: 3306, Backend: port}}
		ctr := client.Container().
			From("mariadb").
			WithServiceBinding("db", client.Host().Service(ports))
		return query(ctx, ctr, "SELECT CONCAT(name, ' has ', legs, ' legs') FROM animals")
	})
}

func query(ctx context.Context, ctr *dagger.Container, sql string) (string, error) {
	return step(ctx, ctr, "mariadb", "--host=db", "--user=reader", "--password=letters", "--database=zoo",
		"--batch", "--skip-column-names", "--execute="+sql)
}

// Redis, whose data a cache volume keeps from one session to the next.
func cache(ctx context.Context) (string, error) {
	cli := func(client *dagger.Client, command string) (string, error) {
		ctr := client.Container().
			From("redis").
			WithMountedCache("/data", client.CacheVolume("services-"+nonce)).
			WithExposedPort(6379)
		server := serve(ctr, "redis-server", "--bind", "*", "--protected-mode", "no", "--dir", "/data")
		ctr = client.Container().From("redis").WithServiceBinding("redis", server)
		return step(ctx, ctr, "sh", "-c", command)
	}
	set, err := session(ctx, func(client *dagger.Client) (string, error) {
		return cli(client, "redis-cli -h redis set key "+nonce+" && redis-cli -h redis save")
	})
	if err != nil {
		return "", err
	}
	got, err := session(ctx, func(client *dagger.Client) (string, error) {
		return cli(client, "redis-cli -h redis get key")
	})
	if err != nil {
		return "", err
	}
	if got != nonce {
		return "", fmt.Errorf("the value is %q, not %q", got, nonce)
	}
	return "set " + strings.Join(strings.Fields(set), " ") + ", got the same later", nil
}

// Redis, started, stopped and started again.
func stop(ctx context.Context) (string, error) {
	return session(ctx, func(client *dagger.Client) (string, error) {
		ctr := client.Container().From("redis").WithEnvVariable("RUN", nonce).WithExposedPort(6379)
		server := serve(ctr, "redis-server", "--bind", "*", "--protected-mode", "no", "--save", "")
		name, err := server.Hostname(ctx)
		if err != nil {
			return "", err
		}
		var seen []string
		count := func() error {
			// No binding: only the explicit start keeps it up.
			out, err := step(ctx, client.Container().From("redis"),
				"sh", "-c", "timeout 5 redis-cli -h "+name+" incr count 2>/dev/null || echo gone")
			seen = append(seen, out)
			return err
		}
		start := func() error { _, err := server.Start(ctx); return err }
		end := func() error { _, err := server.Stop(ctx); return err }
		for _, each := range []func() error{start, count, count, end, count, start, count, end} {
			if err := each(); err != nil {
				return "", err
			}
		}
		return strings.Join(seen, " "), nil
	})
}

// A MariaDB in a container, queried from another.
func database(ctx context.Context) (string, error) {
	return session(ctx, func(client *dagger.Client) (string, error) {
		ctr := client.Container().From("mariadb").WithServiceBinding("db", mariadb(client))
		return query(ctx, ctr, "CREATE TABLE t (n INT); INSERT INTO t VALUES (40), (2); SELECT 'sum', SUM(n) FROM t")
	})
}

func mariadb(client *dagger.Client) *dagger.Service {
	return serveImage(client.Container().
		From("mariadb").
		WithEnvVariable("RUN", nonce).
		WithEnvVariable("MARIADB_USER", "reader").
		WithEnvVariable("MARIADB_PASSWORD", "letters").
		WithEnvVariable("MARIADB_DATABASE", "zoo").
		WithEnvVariable("MARIADB_ROOT_PASSWORD", "root").
		WithExposedPort(3306))
}

// The kernel tests of a Drupal against a MariaDB.
func kernel(ctx context.Context) (string, error) {
	return session(ctx, func(client *dagger.Client) (string, error) {
		ctr := client.Container().
			From("drupal:10.0.7-php8.2-fpm").
			WithServiceBinding("db", mariadb(client)).
			WithEnvVariable("SIMPLETEST_DB", "mysql://reader:letters@db/zoo").
			WithWorkdir("/opt/drupal/web/core")
		out, err := step(ctx, ctr, "../../vendor/bin/phpunit", "-v", "--group", "KernelTests")
		if err != nil {
			return "", err
		}
		lines := strings.Split(out, "\n")
		return lines[len(lines)-1], nil
	})
}

// A Docker engine as a service, and containers that it builds and runs for a client.
func docker(ctx context.Context) (string, error) {
	return session(ctx, func(client *dagger.Client) (string, error) {
		state := client.CacheVolume("services-docker-" + nonce)
		engine := servePrivileged(client.Container().
			From("docker:dind").
			WithMountedCache("/var/lib/docker", state).
			WithExposedPort(2375))
		ctr := client.Container().
			From("docker:cli").
			WithServiceBinding("docker", engine).
			WithEnvVariable("DOCKER_HOST", "tcp://docker:2375").
			WithEnvVariable("DOCKER_BUILDKIT", "0").
			WithMountedDirectory("/base", client.Container().From("busybox").Rootfs()).
			WithMountedDirectory("/context", client.Directory().WithNewFile("Dockerfile", dockerfile))
		out, err := step(ctx, ctr, "sh", "-ec", dockerScript)
		return strings.Join(strings.Split(out, "\n"), ", "), err
	})
}

const dockerfile = `FROM base
RUN echo built > /note
CMD ["cat", "/note"]
`

const dockerScript = `
docker version --format 'server of {{.Server.Os}}'
tar -C /base -c . | docker import --change 'CMD ["sh"]' - base >/dev/null
docker run --rm base echo ran
docker build --quiet --tag note /context >/dev/null
docker run --rm note
`
