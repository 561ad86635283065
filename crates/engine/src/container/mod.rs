//! Containers: a root filesystem, a configuration, and what is mounted into it. Immutable; every change is a new value.

pub mod config;
pub(crate) mod exec;
mod fields;
mod files;
pub(crate) mod from;
mod gpu;
pub mod image;
mod import;
mod mounts;
pub mod output;
pub(crate) mod owner;
pub mod paths;
pub(crate) mod prepare;
pub mod run;
pub mod shell;
pub mod tags;
pub(crate) mod terminal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::config::Config;
pub(crate) use fields::Pair;
pub use fields::bind;

use crate::{
    directory::{Directory, Tree},
    host::Socket,
    node::{Node, exec::Sharing},
    secret::Secret,
    service::Binding,
};

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    /// `os/arch[/variant]`.
    pub platform: Arc<str>,
    /// The root filesystem.
    pub rootfs: Tree,
    /// What the image's configuration says, as changed by the pipeline.
    pub config: Arc<Config>,
    /// Mounts, in the order they were made.
    pub mounts: Arc<Vec<Mount>>,
    /// Environment whose values are left out of keys.
    pub volatile_env: Arc<Vec<(Arc<str>, Arc<str>)>>,
    /// Environment from secrets.
    pub secret_env: Arc<Vec<(Arc<str>, Secret)>>,
    /// Secrets and sockets as files.
    pub special: Arc<Vec<Special>>,
    /// Ports the pipeline exposed, beside the image's.
    pub ports: Arc<Vec<Port>>,
    /// Manifest annotations.
    pub annotations: Arc<Vec<(Arc<str>, Arc<str>)>>,
    /// `name:tag@digest` right after `from`.
    pub image_ref: Option<Arc<str>>,
    /// The last exec, for `stdout`, `stderr`, `exitCode`.
    pub last_exec: Option<Arc<Node>>,
    /// `withDefaultTerminalCmd`.
    pub terminal: Option<Arc<TerminalCommand>>,
    /// Requested GPUs.
    pub gpus: Option<Arc<Vec<Arc<str>>>>,
    /// Services that its execs reach.
    pub services: Arc<Vec<Binding>>,
}

/// What `terminal` runs when nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalCommand {
    /// Program and arguments.
    pub args: Vec<Arc<str>>,
    /// The API reachable inside.
    pub nesting: bool,
    /// All of the engine's capabilities.
    pub privileged: bool,
}

/// One mount.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Absolute, cleaned path.
    pub target: Arc<str>,
    /// What is there.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Debug, Clone)]
pub enum MountSource {
    /// A directory; the process's changes travel on.
    Directory {
        /// Which tree, and where in it.
        tree: Tree,
        /// Cannot be written.
        readonly: bool,
    },
    /// One file.
    File(Tree),
    /// A cache volume.
    Cache {
        /// Name.
        key: Arc<str>,
        /// How it is shared.
        sharing: Sharing,
        /// What fills it at first use.
        seed: Option<Tree>,
        /// Owner of its top directory.
        owner: Option<(u32, u32)>,
    },
    /// A tmpfs.
    Temp {
        /// Bytes.
        size: Option<u64>,
    },
}

/// A secret or a socket, placed as a file.
#[derive(Debug, Clone)]
pub enum Special {
    /// A secret.
    Secret {
        /// Absolute path.
        target: Arc<str>,
        /// Which.
        secret: Secret,
        /// Permission bits.
        mode: u32,
        /// `uid:gid`.
        owner: (u32, u32),
    },
    /// A unix socket.
    Socket {
        /// Absolute path.
        target: Arc<str>,
        /// Which.
        socket: Socket,
        /// `uid:gid`.
        owner: (u32, u32),
    },
}

/// A port a service listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Number.
    pub port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
    /// In the user's words.
    pub description: Option<Arc<str>>,
    /// Do not wait for it.
    pub skip_healthcheck: bool,
}

impl Container {
    /// An empty container.
    pub fn scratch(platform: &str) -> Self {
        Self {
            platform: platform.into(),
            rootfs: Tree::empty(),
            config: Arc::default(),
            mounts: Arc::default(),
            volatile_env: Arc::default(),
            secret_env: Arc::default(),
            special: Arc::default(),
            ports: Arc::default(),
            annotations: Arc::default(),
            image_ref: None,
            last_exec: None,
            terminal: None,
            gpus: None,
            services: Arc::default(),
        }
    }

    /// The same container with its configuration changed.
    #[must_use]
    pub fn configured(&self, change: impl FnOnce(&mut Config)) -> Self {
        let mut c = self.clone();
        change(Arc::make_mut(&mut c.config));
        c
    }

    /// The same container with another root filesystem: no longer the image it came from.
    #[must_use]
    pub fn with_rootfs(&self, rootfs: Tree) -> Self {
        Self {
            rootfs,
            image_ref: None,
            ..self.clone()
        }
    }

    /// The root filesystem as a directory.
    pub fn root(&self) -> Directory {
        Directory {
            tree: self.rootfs.clone(),
        }
    }

    /// `path` made absolute against the working directory and cleaned.
    pub fn absolute(&self, path: &str) -> String {
        paths::join(
            if self.config.workdir.is_empty() {
                "/"
            } else {
                &self.config.workdir
            },
            path,
        )
    }
}
