//! Changes of a tree, as data.

use std::sync::Arc;

use super::KeyHasher;

/// What a copy's source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKind {
    /// A directory's contents, merged into the destination.
    Dir,
    /// One file, to exactly the destination's name.
    File,
}

/// One change. Paths are relative to the tree's root.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Writes a file; parents are made with 0755.
    WriteFile {
        /// Where.
        path: String,
        /// What.
        contents: Arc<[u8]>,
        /// Permission bits.
        mode: u32,
        /// `uid:gid`.
        owner: Option<(u32, u32)>,
    },
    /// Makes a directory and its parents.
    MakeDir {
        /// Where.
        path: String,
        /// Permission bits, also of parents it makes.
        mode: u32,
        /// `uid:gid`.
        owner: Option<(u32, u32)>,
    },
    /// Copies from the second input.
    Copy {
        /// Directory or file.
        kind: CopyKind,
        /// Where in the source tree.
        from: String,
        /// Where to.
        to: String,
        /// Patterns to keep; empty keeps all.
        include: Vec<String>,
        /// Patterns to leave out.
        exclude: Vec<String>,
        /// New owner of all that is copied.
        owner: Option<(u32, u32)>,
        /// New permission bits (of the file, or of the top directory).
        mode: Option<u32>,
    },
    /// Removes paths; wildcards allowed, missing ones are fine.
    Remove {
        /// Which.
        paths: Vec<String>,
    },
    /// Sets the modification time of everything below a path.
    SetTimes {
        /// Where.
        path: String,
        /// Seconds since the epoch.
        seconds: i64,
    },
    /// Replaces the tree: what the second input has at `path` and the first does not have equally. Deletions are dropped.
    Diff {
        /// Where, in both.
        path: String,
    },
    /// Makes a symbolic link.
    Symlink {
        /// What it points to.
        target: String,
        /// Where.
        path: String,
    },
    /// What an instruction of a Dockerfile does to files. Sources come from the second input.
    Instruction(Arc<crate::dockerfile::FileStep>),
}

impl Edit {
    /// Adds everything the result depends on, inputs aside.
    pub fn add_to(&self, h: &mut KeyHasher) {
        let owner = |h: &mut KeyHasher, o: &Option<(u32, u32)>| {
            h.opt(o.map(|(u, g)| (u64::from(u) << 32) | u64::from(g)));
        };
        match self {
            Self::WriteFile {
                path,
                contents,
                mode,
                owner: o,
            } => {
                h.str("write")
                    .str(path)
                    .bytes(contents)
                    .num(u64::from(*mode));
                owner(h, o);
            }
            Self::MakeDir {
                path,
                mode,
                owner: o,
            } => {
                h.str("mkdir").str(path).num(u64::from(*mode));
                owner(h, o);
            }
            Self::Copy {
                kind,
                from,
                to,
                include,
                exclude,
                owner: o,
                mode,
            } => {
                h.str(if *kind == CopyKind::Dir {
                    "copy-dir"
                } else {
                    "copy-file"
                })
                .str(from)
                .str(to)
                .list(include)
                .list(exclude);
                owner(h, o);
                h.opt(mode.map(u64::from));
            }
            Self::Remove { paths } => {
                h.str("remove").list(paths);
            }
            Self::SetTimes { path, seconds } => {
                h.str("times").str(path).num(*seconds as u64);
            }
            Self::Diff { path } => {
                h.str("diff").str(path);
            }
            Self::Instruction(step) => step.add_to(h),
            Self::Symlink { target, path } => {
                h.str("symlink").str(target).str(path);
            }
        }
    }
}
