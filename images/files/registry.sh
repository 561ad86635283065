#!/bin/sh
# Runs docker-registry; a configuration file alone means: serve.
set -eu

case "${1:-}" in
    *.yml | *.yaml) set -- docker-registry serve "$@" ;;
    serve | garbage-collect | help | -*) set -- docker-registry "$@" ;;
esac
exec "$@"
