#!/bin/sh
# Stands in for Alpine's package tool: this image has no package source, so `add` succeeds for what is here already and
# fails, as apk does, for anything else.
set -eu

present() {
    case "$1" in
        alpine-baselayout | busybox | busybox-extras | ca-certificates | ca-certificates-bundle | coreutils | curl | diffutils) ;;
        findutils | gawk | git | git-daemon | grep | gzip | iproute2 | jq | libc-utils | netcat-openbsd | openssl | procps) ;;
        sed | tar | tzdata | unzip | util-linux | wget | xz) ;;
        *) return 1 ;;
    esac
}

command='' missing=0 count=0
for argument in "$@"; do
    case "$argument" in
        --version | -V)
            echo 'apk-tools 2 (stand-in)'
            exit 0
            ;;
        -* | .*) continue ;;
    esac
    if [ -z "$command" ]; then
        command=$argument
        continue
    fi
    count=$((count + 1))
    [ "$command" = add ] || continue
    package=${argument%%[=<>~@]*}
    if ! present "$package"; then
        [ "$missing" = 1 ] || echo 'ERROR: unable to select packages:' >&2
        printf '  %s (no such package):\n    required by: world[%s]\n' "$package" "$argument" >&2
        missing=1
    fi
done

case "$command" in
    add)
        [ "$missing" = 0 ] || exit 1
        echo "OK: $count packages are in this image already"
        ;;
    update | upgrade | del | fix | cache) echo 'OK: nothing to do in this stand-in' ;;
    info | list | search) ;;
    *)
        echo "apk: '$command' is not available in this stand-in" >&2
        exit 1
        ;;
esac
