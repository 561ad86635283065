#!/bin/bash
# Creates the database on the first start, from the usual MARIADB_ or MYSQL_ variables, then becomes the server.
set -euo pipefail

if [ $# = 0 ] || [ "${1#-}" != "$1" ]; then
    set -- mariadbd "$@"
fi
case "$1" in
    mariadbd | mysqld) ;;
    *) exec "$@" ;;
esac

data=/var/lib/mysql
first_socket=/run/mysqld/first.sock

# The value of MARIADB_$1 or MYSQL_$1, or the contents of the file that the variable with _FILE names.
setting() {
    local prefix name file
    for prefix in MARIADB MYSQL; do
        name=${prefix}_$1
        file=${name}_FILE
        if [ -n "${!name:-}" ]; then
            printf %s "${!name}"
            return
        elif [ -n "${!file:-}" ]; then
            cat "${!file}"
            return
        fi
    done
}

# $1 as an SQL string.
text() {
    local escaped=${1//\\/\\\\}
    printf "'%s'" "${escaped//\'/\'\'}"
}

# $1 as an SQL name.
name() {
    printf '%s' "\`${1//\`/\`\`}\`"
}

setup_sql() {
    echo 'FLUSH PRIVILEGES;'
    echo "ALTER USER root@localhost IDENTIFIED BY $(text "$root_password");"
    echo "CREATE USER root@'%' IDENTIFIED BY $(text "$root_password");"
    echo "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;"
    if [ -n "$database" ]; then
        echo "CREATE DATABASE IF NOT EXISTS $(name "$database");"
    fi
    if [ -n "$user" ]; then
        echo "CREATE USER $(text "$user")@'%' IDENTIFIED BY $(text "$password");"
        if [ -n "$database" ]; then
            echo "GRANT ALL ON $(name "$database").* TO $(text "$user")@'%';"
        fi
    fi
}

client() {
    mariadb --user=root --password="$root_password" --socket="$first_socket" "$@"
}

# Runs what a user put into /docker-entrypoint-initdb.d against a server that nobody else can reach.
run_scripts() {
    local server script
    mariadbd --user=mysql --skip-networking --socket="$first_socket" &
    server=$!
    until client --execute 'SELECT 1' >/dev/null 2>&1; do
        kill -0 "$server"
        sleep 0.1
    done
    for script in /docker-entrypoint-initdb.d/*; do
        case "$script" in
            *.sql) client ${database:+"$database"} <"$script" ;;
            *.sql.gz) gunzip -c "$script" | client ${database:+"$database"} ;;
            *.sh) bash "$script" ;;
        esac
    done
    kill "$server"
    wait "$server" || [ $? = 143 ]
}

chown mysql:mysql "$data" /run/mysqld
if [ ! -d "$data/mysql" ]; then
    root_password=$(setting ROOT_PASSWORD)
    user=$(setting USER)
    password=$(setting PASSWORD)
    database=$(setting DATABASE)
    if [ -n "$(setting RANDOM_ROOT_PASSWORD)" ]; then
        root_password=$(head -c 18 /dev/urandom | base64)
        echo "GENERATED ROOT PASSWORD: $root_password"
    elif [ -z "$root_password$(setting ALLOW_EMPTY_ROOT_PASSWORD)$(setting ALLOW_EMPTY_PASSWORD)" ]; then
        echo 'mariadb: set MARIADB_ROOT_PASSWORD, MARIADB_RANDOM_ROOT_PASSWORD or MARIADB_ALLOW_EMPTY_ROOT_PASSWORD' >&2
        exit 1
    fi
    mariadb-install-db --user=mysql --datadir="$data" --skip-test-db --skip-name-resolve \
        --auth-root-authentication-method=normal >/dev/null
    setup_sql | mariadbd --no-defaults --bootstrap --user=mysql --datadir="$data"
    if [ -n "$(ls /docker-entrypoint-initdb.d)" ]; then
        run_scripts
    fi
fi
exec "$@" --user=mysql
