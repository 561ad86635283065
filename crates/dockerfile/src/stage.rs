//! What a plan is made of: stages of steps.

use crate::{Settings, mount::Mount, parse::Heredoc, plan::ImageKey};

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// The directory that is built.
    Context,
    /// Nothing.
    Scratch,
    /// A stage of the plan, by its position in the Dockerfile.
    Stage(usize),
    /// An image.
    Image(ImageKey),
}

/// What a stage begins with: never the context.
pub type Base = From;

/// A stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Position in the Dockerfile, from 0.
    pub index: usize,
    /// Its name, or its position.
    pub name: String,
    /// What it begins with.
    pub base: Base,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// The configuration it ends with.
    pub settings: Settings,
    /// `os/arch[/variant]`; empty is the one that was asked for.
    pub platform: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Line in the Dockerfile, from 1.
    pub line: usize,
    /// The instruction, shortened.
    pub text: String,
    /// What is done.
    pub op: Op,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Runs a process.
    Run(Run),
    /// Brings files.
    Copy(Copy),
    /// Makes a directory, for `WORKDIR`.
    MakeDir {
        /// Absolute.
        path: String,
        /// Who owns what is made: `user[:group]`, empty is root.
        owner: String,
    },
}

/// How a process reaches others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// As every other.
    Default,
    /// Not at all.
    None,
}

/// A process.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `user[:group]`.
    pub user: String,
    /// What is mounted, and from where for those that read from something.
    pub mounts: Vec<(Mount, Option<From>)>,
    /// A script that is mounted at this path.
    pub script: Option<(String, String)>,
    /// Its network.
    pub network: Network,
    /// All capabilities.
    pub privileged: bool,
}

/// Files that are brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// From where.
    pub from: From,
    /// Paths or patterns there.
    pub sources: Vec<String>,
    /// URLs.
    pub urls: Vec<String>,
    /// Files of the Dockerfile itself, variables replaced.
    pub inline: Vec<Heredoc>,
    /// Absolute destination; a directory when it ends with a slash.
    pub dest: String,
    /// `user[:group]`; `None` keeps what is there.
    pub chown: Option<String>,
    /// `0755` or `u=rwX,go=rX`.
    pub chmod: Option<String>,
    /// The paths of the sources are kept below the destination.
    pub parents: bool,
    /// Patterns of what to leave out.
    pub exclude: Vec<String>,
    /// Local archives are unpacked.
    pub unpack: bool,
    /// Archives from URLs are unpacked.
    pub unpack_urls: bool,
    /// Expected digest of what a URL gives.
    pub checksum: Option<String>,
    /// The `.git` directory of a repository is kept.
    pub keep_git_dir: bool,
}
