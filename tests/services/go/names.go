//go:build !v0_9

package main

import (
	"context"
	"strings"

	"dagger.io/dagger"
)

// Two nginx, each of which fetches a page from the other by its name.
func names(ctx context.Context) (string, error) {
	return session(ctx, func(client *dagger.Client) (string, error) {
		east, west := nginx(client, "east", "west"), nginx(client, "west", "east")
		for _, server := range []*dagger.Service{east, west} {
			if _, err := server.Start(ctx); err != nil {
				return "", err
			}
		}
		ctr := client.Container().
			From("nginx").
			WithServiceBinding("", east).
			WithServiceBinding("", west)
		out, err := step(ctx, ctr, "sh", "-ec", fetch+"fetch east/other.html; fetch west/other.html")
		return strings.Join(strings.Split(out, "\n"), ", "), err
	})
}

const fetch = `fetch() { curl --silent --fail --retry 40 --retry-delay 1 --retry-all-errors "http://$1"; }
`

func nginx(client *dagger.Client, name, other string) *dagger.Service {
	script := fetch + `
cd /usr/share/nginx/html
echo "$NAME" > index.html
(fetch "$OTHER" > /tmp/page && echo "$NAME got $(cat /tmp/page)" > /tmp/other && mv /tmp/other other.html) &
exec nginx -g "daemon off;"
`
	ctr := client.Container().
		From("nginx").
		WithEnvVariable("NAME", name).
		WithEnvVariable("OTHER", other).
		WithEnvVariable("RUN", nonce).
		WithExposedPort(80)
	return serve(ctr, "sh", "-ec", script).WithHostname(name)
}
