#!/bin/sh
# Starts a Docker engine inside a privileged container, listening on its socket and on port 2375 without TLS.
set -eu

case "${1:-}" in
    '' | -*) set -- dockerd --host=unix:///var/run/docker.sock --host=tcp://0.0.0.0:2375 --tls=false "$@" ;;
    dockerd) ;;
    *) exec "$@" ;;
esac

cgroups=/sys/fs/cgroup
if ! mountpoint -q "$cgroups"; then
    mount -t tmpfs -o mode=755 cgroup "$cgroups"
fi
if [ -e "$cgroups/cgroup.controllers" ]; then
    # Version 2: a group with processes in it cannot hand controllers to its children.
    mkdir -p "$cgroups/init"
    while read -r process; do
        echo "$process" >"$cgroups/init/cgroup.procs" 2>/dev/null || :
    done <"$cgroups/cgroup.procs"
    sed 's/^/+/; s/ / +/g' "$cgroups/cgroup.controllers" >"$cgroups/cgroup.subtree_control" 2>/dev/null || :
else
    # Version 1: a mount for each controller that the kernel has.
    awk '!/^#/ && $4 == 1 { print $1 }' /proc/cgroups | while read -r controller; do
        folder=$cgroups/$controller
        mkdir -p "$folder"
        mountpoint -q "$folder" || mount -t cgroup -o "$controller" cgroup "$folder" 2>/dev/null || rmdir "$folder" 2>/dev/null || :
    done
fi

if ! iptables -nL >/dev/null 2>&1; then
    echo 'dind: no packet filter here, so containers get no network' >&2
    set -- "$@" --iptables=false --ip6tables=false --bridge=none
fi

rm -f /run/docker.pid /run/containerd/containerd.pid
exec tini -s -- "$@"
