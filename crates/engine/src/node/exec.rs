//! What a `withExec` will run, decided and printable. No effects here; see [`super::solve`] and [`crate::container::run`].

use std::sync::Arc;

use super::KeyHasher;
use crate::{secret::Secret, service::Binding};

/// Which exits count as success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Only 0.
    Success,
    /// 1 to 127.
    Failure,
    /// 0 to this (127 for views before 0.19.11, else 255).
    Any(i32),
    /// Any of these.
    Codes(Vec<i32>),
}

impl Expect {
    /// Does this exit code count as success?
    pub fn accepts(&self, code: i32) -> bool {
        match self {
            Self::Success => code == 0,
            Self::Failure => (1..=127).contains(&code),
            Self::Any(max) => (0..=*max).contains(&code),
            Self::Codes(codes) => codes.contains(&code),
        }
    }
}

/// Everything needed to run one process, in the order it will be applied.
#[derive(Debug, Clone)]
pub struct ExecPlan {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Plain environment.
    pub env: Vec<(String, String)>,
    /// Environment whose values are not part of the key.
    pub volatile_env: Vec<(String, String)>,
    /// Environment from secrets.
    pub secret_env: Vec<(String, Secret)>,
    /// Absolute working directory.
    pub cwd: String,
    /// `user[:group]`.
    pub user: String,
    /// Where in the root input the container's root is.
    pub root_path: String,
    /// `os/arch[/variant]` of the container: for messages only, so no part of the key.
    pub platform: String,
    /// Mounts in order.
    pub mounts: Vec<PlannedMount>,
    /// Which exits count as success.
    pub expect: Expect,
    /// Bytes for stdin; `None` is `/dev/null`.
    pub stdin: Option<Arc<[u8]>>,
    /// File that is read as stdin, absolute.
    pub redirect_stdin: Option<String>,
    /// File that also gets stdout, absolute.
    pub redirect_stdout: Option<String>,
    /// File that also gets stderr, absolute.
    pub redirect_stderr: Option<String>,
    /// All of the engine's capabilities.
    pub privileged: bool,
    /// The API reachable inside.
    pub nesting: bool,
    /// An init as pid 1.
    pub init: bool,
    /// Services to be reached, started before the process.
    pub services: Vec<Binding>,
    /// No network but its own loopback.
    pub isolated: bool,
    /// Where it was asked for, when that was in a file. What it makes does not depend on it.
    pub origin: Option<Arc<Origin>>,
}

/// An instruction in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// File and line.
    pub place: String,
    /// The instruction, shortened.
    pub text: String,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: `{}`", self.place, self.text)
    }
}

/// One mount, by what it is.
#[derive(Debug, Clone)]
pub struct PlannedMount {
    /// Absolute path in the container.
    pub target: String,
    /// What is there.
    pub source: PlannedSource,
}

/// What is mounted.
#[derive(Debug, Clone)]
pub enum PlannedSource {
    /// A tree (or one file of it) that the process may change; the change is output `output` of the node.
    Tree {
        /// Which input of the node; `None` is an empty tree.
        input: Option<usize>,
        /// Where in it.
        path: String,
        /// Which output.
        output: u32,
        /// Cannot be written.
        readonly: bool,
    },
    /// A cache volume.
    Cache {
        /// Name.
        key: String,
        /// How it is shared.
        sharing: Sharing,
        /// Input that fills it at first use, and where in it.
        seed: Option<(usize, String)>,
        /// Owner of the top directory.
        owner: Option<(u32, u32)>,
        /// Permission bits of the top directory when it is new.
        mode: Option<u32>,
        /// Cannot be written.
        readonly: bool,
    },
    /// A tmpfs.
    Temp {
        /// Bytes.
        size: Option<u64>,
    },
    /// A secret as a file.
    Secret {
        /// Which.
        secret: Secret,
        /// Permission bits.
        mode: u32,
        /// `uid:gid`.
        owner: (u32, u32),
    },
    /// A unix socket of the client's machine.
    Socket {
        /// Which.
        socket: crate::host::Socket,
        /// `uid:gid`.
        owner: (u32, u32),
    },
}

/// How concurrent execs share a cache volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All at once.
    Shared,
    /// Each its own copy.
    Private,
    /// One after another.
    Locked,
}

impl ExecPlan {
    /// Adds everything the result depends on, input trees aside. Secrets count by name, cache volumes by key: their contents
    /// must not change what is cached.
    pub fn add_to(&self, h: &mut KeyHasher) {
        h.list(&self.argv).num(self.env.len() as u64);
        for (k, v) in &self.env {
            h.str(k).str(v);
        }
        h.num(self.secret_env.len() as u64);
        for (k, s) in &self.secret_env {
            h.str(k).str(&s.key.to_string());
        }
        if !self.volatile_env.is_empty() {
            let names: Vec<&str> = self.volatile_env.iter().map(|(k, _)| k.as_str()).collect();
            h.str("volatile").list(&names);
        }
        if let Some(path) = &self.redirect_stdin {
            h.str("stdin-file").str(path);
        }
        h.str(&self.cwd)
            .str(&self.user)
            .str(&self.root_path)
            .num(self.mounts.len() as u64);
        for m in &self.mounts {
            h.str(&m.target);
            match &m.source {
                PlannedSource::Tree {
                    input,
                    path,
                    output,
                    readonly,
                } => h
                    .str("tree")
                    .opt(input.map(|i| i as u64))
                    .str(path)
                    .num(u64::from(*output))
                    .num(u64::from(*readonly)),
                PlannedSource::Cache {
                    key,
                    sharing,
                    seed,
                    owner,
                    mode,
                    readonly,
                } => {
                    h.str("cache").str(key).num(*sharing as u64);
                    match seed {
                        Some((i, p)) => h.num(*i as u64 + 1).str(p),
                        None => h.num(0),
                    };
                    if mode.is_some() || *readonly {
                        h.opt(mode.map(u64::from)).num(u64::from(*readonly));
                    }
                    h.opt(owner.map(|(u, g)| (u64::from(u) << 32) | u64::from(g)))
                }
                PlannedSource::Temp { size } => h.str("temp").opt(*size),
                PlannedSource::Secret {
                    secret,
                    mode,
                    owner,
                } => h
                    .str("secret")
                    .str(&secret.key.to_string())
                    .num(u64::from(*mode))
                    .num((u64::from(owner.0) << 32) | u64::from(owner.1)),
                PlannedSource::Socket { socket, owner } => h
                    .str("socket")
                    .str(&socket.id.to_string())
                    .num((u64::from(owner.0) << 32) | u64::from(owner.1)),
            };
        }
        match &self.expect {
            Expect::Success => {
                h.str("success");
            }
            Expect::Failure => {
                h.str("failure");
            }
            Expect::Any(max) => {
                h.str("any").num(*max as u64);
            }
            Expect::Codes(codes) => {
                h.str("codes").num(codes.len() as u64);
                for c in codes {
                    h.num(*c as u64);
                }
            }
        }
        match &self.stdin {
            Some(s) => h.num(1).bytes(s),
            None => h.num(0),
        };
        for r in [&self.redirect_stdout, &self.redirect_stderr] {
            h.str(r.as_deref().unwrap_or(""));
        }
        h.num(
            u64::from(self.privileged) | u64::from(self.nesting) << 1 | u64::from(self.init) << 2,
        );
        // A service counts by its names alone: its host name is a digest of its recipe, its state is nobody's business.
        let mut names: Vec<String> = self.services.iter().flat_map(Binding::names).collect();
        names.sort_unstable();
        h.list(&names);
        if self.isolated {
            h.str("isolated");
        }
    }

    /// Program and arguments on one line, shortened. `mask` hides secrets in each while it can still recognise them.
    pub fn command(&self, mut mask: impl FnMut(&str) -> String) -> String {
        let mut line = String::new();
        for (at, argument) in self.argv.iter().enumerate() {
            if at > 0 {
                line.push(' ');
            }
            line.push_str(&mask(argument));
        }
        let mut short: String = line
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(120)
            .collect();
        if short.len() < line.len() {
            short.push('…');
        }
        short
    }

    /// The number of output trees, the root filesystem included.
    pub fn outputs(&self) -> u32 {
        let trees = self
            .mounts
            .iter()
            .filter(|m| matches!(m.source, PlannedSource::Tree { .. }));
        1 + trees.count() as u32
    }
}

/// What a finished process said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Exit code.
    pub exit_code: i32,
    /// Everything it wrote to stdout, secrets masked.
    pub stdout: Arc<[u8]>,
    /// Everything it wrote to stderr, secrets masked.
    pub stderr: Arc<[u8]>,
    /// In which order: how many bytes came of stdout, then of stderr, and so on in turn.
    pub order: Arc<[u32]>,
}

impl ExecResult {
    /// For the persistent cache.
    pub fn encode(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(20 + self.stdout.len() + self.stderr.len() + 4 * self.order.len());
        out.extend_from_slice(&self.exit_code.to_le_bytes());
        out.extend_from_slice(&(self.stdout.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.stderr.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.stdout);
        out.extend_from_slice(&self.stderr);
        for n in self.order.iter() {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out
    }

    /// Both streams as they came.
    pub fn combined(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.stdout.len() + self.stderr.len());
        let (mut stdout, mut stderr) = (&*self.stdout, &*self.stderr);
        for (nth, n) in self.order.iter().enumerate() {
            let from = if nth % 2 == 0 {
                &mut stdout
            } else {
                &mut stderr
            };
            let (piece, rest) = from.split_at((*n as usize).min(from.len()));
            out.extend_from_slice(piece);
            *from = rest;
        }
        out.extend_from_slice(stdout);
        out.extend_from_slice(stderr);
        out
    }

    /// Reads [`ExecResult::encode`]; `None` when it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (code, rest) = bytes.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (len2, rest) = rest.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let len2 = usize::try_from(u64::from_le_bytes(*len2)).ok()?;
        let (stdout, rest) = rest.split_at_checked(len)?;
        let (stderr, rest) = rest.split_at_checked(len2)?;
        let (order, rest) = rest.as_chunks::<4>();
        if !rest.is_empty() {
            return None;
        }
        Some(Self {
            order: order.iter().map(|n| u32::from_le_bytes(*n)).collect(),
            exit_code: i32::from_le_bytes(*code),
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_read_back() {
        let r = ExecResult {
            exit_code: 3,
            stdout: b"onethree"[..].into(),
            stderr: b"two"[..].into(),
            order: [3, 3].into(),
        };
        assert_eq!(r.combined(), b"onetwothree");
        assert_eq!(ExecResult::decode(&r.encode()), Some(r));
        assert_eq!(ExecResult::decode(b"xx"), None);
    }

    #[test]
    fn expectations_follow_the_documented_ranges() {
        assert!(Expect::Success.accepts(0) && !Expect::Success.accepts(1));
        assert!(
            Expect::Failure.accepts(127)
                && !Expect::Failure.accepts(0)
                && !Expect::Failure.accepts(128)
        );
        assert!(
            Expect::Any(127).accepts(0)
                && !Expect::Any(127).accepts(255)
                && Expect::Any(255).accepts(255)
        );
        assert!(Expect::Codes(vec![0, 42]).accepts(42) && !Expect::Codes(vec![0, 42]).accepts(1));
    }
}
