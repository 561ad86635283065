#!/bin/bash
# Creates the cluster on the first start, from the usual POSTGRES_ variables, then becomes the server as user postgres.
set -euo pipefail

if [ $# = 0 ] || [ "${1#-}" != "$1" ]; then
    set -- postgres "$@"
fi
[ "$1" = postgres ] || exec "$@"

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres "$PGDATA" /run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi

create_cluster() {
    local user=${POSTGRES_USER:-postgres}
    local database=${POSTGRES_DB:-$user}
    local password=${POSTGRES_PASSWORD:-}
    local method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    local script
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        password=$(cat "$POSTGRES_PASSWORD_FILE")
    fi
    if [ -n "$password" ]; then
        initdb --username="$user" --pwfile=<(printf '%s\n' "$password") --auth-local=trust --auth-host="$method" --no-sync >/dev/null
    elif [ "$method" = trust ]; then
        initdb --username="$user" --auth=trust --no-sync >/dev/null
    else
        echo 'postgres: set POSTGRES_PASSWORD, or POSTGRES_HOST_AUTH_METHOD=trust' >&2
        return 1
    fi
    echo "host all all all $method" >>"$PGDATA/pg_hba.conf"

    # No listening until everything is in place: whoever waits for the port finds the finished database.
    pg_ctl --options="-c listen_addresses=''" --wait start >/dev/null
    if [ "$database" != postgres ]; then
        psql --set=ON_ERROR_STOP=1 --quiet --username="$user" --dbname=postgres --command="CREATE DATABASE \"${database//\"/\"\"}\""
    fi
    for script in /docker-entrypoint-initdb.d/*; do
        case "$script" in
            *.sql) psql --set=ON_ERROR_STOP=1 --quiet --username="$user" --dbname="$database" --file="$script" ;;
            *.sql.gz) gunzip -c "$script" | psql --set=ON_ERROR_STOP=1 --quiet --username="$user" --dbname="$database" ;;
            *.sh) bash "$script" ;;
        esac
    done
    pg_ctl --mode=fast --wait stop >/dev/null
}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    create_cluster
fi
# The just-in-time compiler's library is left out of the image.
exec "$@" -c listen_addresses='*' -c jit=off
