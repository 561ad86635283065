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
        /// Leave out, too, what `.gitignore` files of the source name.
        git_ignore: bool,
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
    /// Gives a path and everything below it another owner.
    Chown {
        /// Where.
        path: String,
        /// `uid:gid`.
        owner: (u32, u32),
    },
    /// Gives a path and everything below it these permission bits.
    Chmod {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Makes to a directory what changed from the second input to the third.
    Changes {
        /// The directory.
        at: String,
        /// The directory of the second input.
        before: String,
        /// The directory of the third input.
        after: String,
    },
    /// The same, but the directory was changed otherwise, too: from the fourth input, of which it is the outcome.
    Merge {
        /// The directory.
        at: String,
        /// The directory of the second input.
        before: String,
        /// The directory of the third input.
        after: String,
        /// The directory of the fourth input.
        base: String,
        /// What to do when both changed a file.
        conflict: Conflict,
    },
    /// Applies a patch to a directory.
    Patch {
        /// The directory.
        at: String,
        /// The patch.
        patch: Arc<[u8]>,
    },
    /// Applies the patch in a file of the second input.
    PatchFile {
        /// The directory.
        at: String,
        /// The file.
        file: String,
    },
    /// Replaces text in a file.
    Replace {
        /// The file.
        path: String,
        /// What to look for.
        search: String,
        /// What to put there.
        replacement: String,
        /// Which of several.
        which: Which,
    },
}

/// What to do with a file that two sides changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// An error, even when the changes do not touch.
    FailEarly,
    /// An error when the same lines changed.
    Fail,
    /// Both versions, between lines that mark them.
    Markers,
    /// The version that is there.
    Ours,
    /// The version that comes.
    Theirs,
}

/// Which of several equal texts to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// There may be one only.
    Only,
    /// Every one.
    All,
    /// The first from this line on, counted from 1.
    FirstFrom(u64),
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
                git_ignore,
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
                if *git_ignore {
                    h.str("gitignore");
                }
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
            Self::Chown { path, owner: o } => {
                h.str("chown").str(path);
                owner(h, &Some(*o));
            }
            Self::Chmod { path, mode } => {
                h.str("chmod").str(path).num(u64::from(*mode));
            }
            Self::Changes { at, before, after } => {
                h.str("changes").str(at).str(before).str(after);
            }
            Self::Merge {
                at,
                before,
                after,
                base,
                conflict,
            } => {
                h.str("merge").str(at).str(before).str(after).str(base);
                h.num(*conflict as u64);
            }
            Self::Patch { at, patch } => {
                h.str("patch").str(at).bytes(patch);
            }
            Self::PatchFile { at, file } => {
                h.str("patch-file").str(at).str(file);
            }
            Self::Replace {
                path,
                search,
                replacement,
                which,
            } => {
                h.str("replace").str(path).str(search).str(replacement);
                h.opt(match which {
                    Which::Only => None,
                    Which::All => Some(0),
                    Which::FirstFrom(line) => Some((*line).max(1)),
                });
            }
        }
    }
}
