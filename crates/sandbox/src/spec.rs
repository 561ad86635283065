//! What to run: everything a [`crate::Runtime`] needs to start one container, decided and printable.

use std::{os::fd::OwnedFd, path::PathBuf};

/// One container to run.
#[derive(Debug)]
pub struct Spec {
    /// The root filesystem.
    pub root: Root,
    /// Mounts below the root in the order they are made (parents before children).
    pub mounts: Vec<Mount>,
    /// Program and arguments; never empty. A name without `/` is looked up in the `PATH` of `env` inside the root.
    pub argv: Vec<Vec<u8>>,
    /// Environment, `NAME=value`, in order.
    pub env: Vec<Vec<u8>>,
    /// Absolute working directory inside the root. Created (owned by the user) when missing.
    pub cwd: Vec<u8>,
    /// Who runs the program.
    pub user: UserSpec,
    /// UTS hostname.
    pub hostname: String,
    /// Standard streams.
    pub stdio: Stdio,
    /// The network namespace to join, or [`Net::None`] for an own, empty one (loopback only).
    pub net: Net,
    /// Contents of `/etc/hosts` and `/etc/resolv.conf`, bind mounted over the image's files, leaving no trace in the layer.
    pub hosts: Option<Vec<u8>>,
    /// See [`Spec::hosts`].
    pub resolv_conf: Option<Vec<u8>>,
    /// All capabilities of the engine's own bounding set, host devices, no seccomp, writable cgroup and sysfs.
    pub privileged: bool,
    /// Run the program under `/.init` as pid 1, which reaps and forwards signals. Without it the program is pid 1.
    pub init: bool,
    /// Bind the host's CA bundle into the container's bundle, see the runtime's documentation. Best effort.
    pub ca_bundle: Option<PathBuf>,
    /// Resource limits to set; what exceeds the engine's own hard limit is lowered to it. Empty inherits the engine's.
    pub rlimits: Vec<Rlimit>,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// The kernel's number, e.g. `libc::RLIMIT_NOFILE`.
    pub resource: u32,
    /// The soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// The hard limit; `u64::MAX` is none.
    pub hard: u64,
}

/// Another process to run in a container that is running.
#[derive(Debug)]
pub struct ExecSpec {
    /// Program and arguments; never empty.
    pub argv: Vec<Vec<u8>>,
    /// Environment, `NAME=value`, in order.
    pub env: Vec<Vec<u8>>,
    /// Absolute working directory inside the container; it must exist.
    pub cwd: Vec<u8>,
    /// Who runs the program.
    pub user: UserSpec,
    /// Standard streams.
    pub stdio: Stdio,
    /// As [`Spec::privileged`]: no more than the container itself has.
    pub privileged: bool,
}

/// The engine's agent in a container that is running, see [`crate::agent`].
#[derive(Debug)]
pub struct AgentSpec {
    /// Whose identity it has.
    pub user: UserSpec,
    /// As [`Spec::privileged`]: no more than the container itself has.
    pub privileged: bool,
    /// Its only descriptor.
    pub channel: OwnedFd,
}

/// A root filesystem.
#[derive(Debug)]
pub enum Root {
    /// Overlay of read-only layers (uppermost first) with a writable upper and work directory.
    Overlay(sys::mount::Overlay),
    /// An existing directory tree, used writable in place.
    Dir(PathBuf),
}

/// One mount.
#[derive(Debug)]
pub struct Mount {
    /// Absolute path in the container; resolved inside the root, never through it. Missing targets ("stubs") are created
    /// and removed again after the run from the layer they were created in.
    pub target: Vec<u8>,
    /// What is mounted there.
    pub source: Source,
    /// Read-only?
    pub readonly: bool,
}

/// The source of a mount.
#[derive(Debug)]
pub enum Source {
    /// A fresh overlay; the mount's root is `subpath` inside it (directory or file).
    Overlay {
        overlay: sys::mount::Overlay,
        subpath: Vec<u8>,
    },
    /// A host directory or file, bind mounted (not recursive).
    Bind(PathBuf),
    /// An already detached mount.
    Detached(OwnedFd),
    /// A fresh tmpfs; size in bytes.
    Tmpfs { size: Option<u64> },
    /// A file with these bytes on a tmpfs (secrets), with mode and owner.
    File {
        contents: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// The user, as the image's configuration or the API named it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserSpec {
    /// `user[:group]`, numeric or names looked up in the container's `/etc/passwd` and `/etc/group`; empty is root.
    pub name: String,
}

/// The network of a container.
#[derive(Debug)]
pub enum Net {
    /// An own, empty namespace with loopback up.
    None,
    /// This namespace (from the pool).
    Namespace(OwnedFd),
    /// The engine's own namespace.
    Host,
}

/// Standard streams of the container's program. Descriptors are handed over (closed in the parent after the start).
#[derive(Debug)]
pub struct Stdio {
    /// Read end for stdin; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Write end for stdout; `None` is `/dev/null`.
    pub stdout: Option<OwnedFd>,
    /// Write end for stderr; `None` is `/dev/null`.
    pub stderr: Option<OwnedFd>,
    /// Give the program a controlling terminal; the runtime opens it inside the container and returns the master.
    pub terminal: bool,
}
