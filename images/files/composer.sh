#!/bin/sh
# Stands in for Composer: no package index is needed, because what the pipelines ask for is in the image.
case "${1:-}" in
    install | require | update) echo "composer (stand-in): $* is in this image already" ;;
    --version) echo 'Composer version 2 (stand-in)' ;;
    *)
        echo "composer: '${1:-}' is not available in this stand-in" >&2
        exit 1
        ;;
esac
