#!/bin/sh
# Starts redis-server so that other hosts reach it, as user redis. Options or a configuration file may be given alone.
set -eu

case "${1:-}" in
    '' | -* | *.conf) set -- redis-server "$@" ;;
esac
[ "$1" = redis-server ] || exec "$@"
shift

case "${1:-}" in
    *.conf) ;;
    # Without a file redis turns away everyone but loopback.
    *) set -- --bind '*' '-::*' --protected-mode no "$@" ;;
esac
if [ "$(id -u)" != 0 ]; then
    exec redis-server "$@"
fi
chown redis:redis . 2>/dev/null || echo 'redis: cannot give the data folder to user redis' >&2
exec setpriv --reuid redis --regid redis --init-groups redis-server "$@"
