//! The OCI configuration for a container like those of our own runtime.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    caps::Sets,
    native::cgroup::Membership,
    plan, seccomp,
    spec::{Net, Spec},
    user::Identity,
};

/// Names of capabilities by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
const LIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// What is mounted, and where.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) target: Vec<u8>,
    pub(super) source: PathBuf,
    pub(super) readonly: bool,
    /// A small file that nothing is executed from.
    pub(super) file: bool,
}

/// What goes into the configuration.
#[derive(Debug)]
pub(super) struct Plan {
    argv: Vec<String>,
    env: Vec<String>,
    cwd: String,
    hostname: String,
    privileged: bool,
    terminal: bool,
    own_net: bool,
    rlimits: Vec<(u32, u64, u64)>,
    pub(super) identity: Identity,
    pub(super) mounts: Vec<Bind>,
    /// Path of the network namespace to join.
    pub(super) net: Option<String>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Plan {
    pub(super) fn of(spec: &Spec) -> Plan {
        Plan {
            argv: spec.argv.iter().map(|a| text(a)).collect(),
            env: spec.env.iter().map(|e| text(e)).collect(),
            cwd: text(&spec.cwd),
            hostname: spec.hostname.clone(),
            privileged: spec.privileged,
            terminal: spec.stdio.terminal,
            own_net: !matches!(spec.net, Net::Host),
            rlimits: spec
                .rlimits
                .iter()
                .map(|l| (l.resource, l.soft, l.hard))
                .collect(),
            identity: Identity::default(),
            mounts: Vec::new(),
            net: None,
        }
    }

    pub(super) fn json(&self) -> Value {
        let sets = Sets::of(self.privileged, sys::process::bounding_set());
        let names = |set: u64| -> Vec<String> {
            NAMES
                .iter()
                .enumerate()
                .filter(|(bit, _)| set & (1 << bit) != 0)
                .map(|(_, n)| format!("CAP_{n}"))
                .collect()
        };
        let limits: Vec<Value> = self
            .rlimits
            .iter()
            .filter_map(|(resource, soft, hard)| {
                let ours = hard_limit(*resource);
                Some(json!({ "type": format!("RLIMIT_{}", LIMITS.get(*resource as usize)?), "soft": (*soft).min(ours), "hard": (*hard).min(ours) }))
            })
            .collect();
        let mut config = json!({
            "ociVersion": "1.0.2",
            "hostname": self.hostname,
            "root": { "path": "rootfs" },
            "process": {
                "terminal": self.terminal,
                "user": { "uid": self.identity.uid, "gid": self.identity.gid, "additionalGids": self.identity.groups },
                "args": self.argv,
                "env": self.env,
                "cwd": self.cwd,
                "rlimits": limits,
                "noNewPrivileges": false,
                "capabilities": {
                    "bounding": names(sets.bounding), "effective": names(sets.effective), "permitted": names(sets.permitted),
                    "inheritable": names(sets.inheritable), "ambient": names(sets.ambient),
                },
            },
            "mounts": self.mounts_json(),
            "linux": { "namespaces": self.namespaces(), "resources": { "devices": self.devices() } },
        });
        if self.privileged {
            let mut devices = Vec::new();
            host_devices(Path::new("/dev"), 0, &mut devices);
            config["linux"]["devices"] = Value::Array(devices);
        }
        if !self.privileged {
            let below = |top: &str, paths: &[&str]| -> Vec<String> {
                paths.iter().map(|p| format!("{top}/{p}")).collect()
            };
            let linux = &mut config["linux"];
            linux["maskedPaths"] = json!(
                [
                    below("/proc", plan::MASKED_PROC),
                    below("/sys", plan::MASKED_SYS)
                ]
                .concat()
            );
            linux["readonlyPaths"] = json!(below("/proc", plan::READONLY_PROC));
            linux["seccomp"] = seccomp::oci();
        }
        config
    }

    fn namespaces(&self) -> Value {
        let mut found: Vec<Value> = ["pid", "mount", "uts", "ipc", "cgroup"]
            .iter()
            .map(|kind| json!({ "type": kind }))
            .collect();
        match (&self.net, self.own_net) {
            (Some(path), _) => found.push(json!({ "type": "network", "path": path })),
            (None, true) => found.push(json!({ "type": "network" })),
            (None, false) => {}
        }
        Value::Array(found)
    }

    fn devices(&self) -> Value {
        if self.privileged {
            return json!([{ "allow": true, "access": "rwm" }]);
        }
        // runc adds the standard devices.
        json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "access": "m" },
            { "allow": true, "type": "b", "access": "m" },
        ])
    }

    fn mounts_json(&self) -> Vec<Value> {
        let sys = if self.privileged {
            json!(["nosuid", "noexec", "nodev", "rw"])
        } else {
            json!(["nosuid", "noexec", "nodev", "ro"])
        };
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64m"] }),
            json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
            json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64m"] }),
            json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] }),
            json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": sys }),
        ];
        // As our own runtime: old hierarchies only for privileged containers, which may run an engine themselves.
        let membership = Membership::read();
        let groups = membership.is_unified() || self.privileged && !membership.legacy.is_empty();
        if groups {
            let mode = if self.privileged { "rw" } else { "ro" };
            mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", mode] }));
        }
        mounts.extend(self.mounts.iter().map(|bind| {
            let mode = if bind.readonly { "ro" } else { "rw" };
            let mut options = vec!["bind", mode, "private"];
            if bind.file {
                options.extend(["nosuid", "nodev", "noexec"]);
            }
            json!({ "destination": text(&bind.target), "type": "bind", "source": bind.source, "options": options })
        }));
        mounts
    }
}

/// Deeper trees of devices than this do not exist.
const MAX_DEPTH: usize = 4;

/// The devices in a directory of the host, but not those that are a container's own.
fn host_devices(dir: &Path, depth: usize, devices: &mut Vec<Value>) {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let own = ["pts", "shm", "mqueue", "fd"];
        if name == "console" || depth == 0 && own.iter().any(|o| name == *o) {
            continue;
        }
        let path = entry.path();
        let (Ok(stat), Some(text)) = (path.symlink_metadata(), path.to_str()) else {
            continue;
        };
        let kind = stat.file_type();
        if kind.is_dir() && depth < MAX_DEPTH {
            host_devices(&path, depth + 1, devices);
        } else if kind.is_char_device() || kind.is_block_device() {
            let kind = if kind.is_char_device() { "c" } else { "b" };
            devices.push(json!({
                "path": text, "type": kind, "major": rustix::fs::major(stat.rdev()), "minor": rustix::fs::minor(stat.rdev()),
                "fileMode": stat.mode() & 0o777, "uid": stat.uid(), "gid": stat.gid(),
            }));
        }
    }
}

fn hard_limit(resource: u32) -> u64 {
    sys::process::limits(resource).map_or(u64::MAX, |(_, hard)| hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_capabilities_have_dockers_names() {
        let names: Vec<&str> = (0..41)
            .filter(|bit| crate::caps::DEFAULT & (1 << bit) != 0)
            .map(|bit| NAMES[bit])
            .collect();
        assert_eq!(
            names.join(" "),
            "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP"
        );
    }
}
