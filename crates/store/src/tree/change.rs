//! How two trees differ, removals included, and bringing such a difference to a third.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use patterns::{Filter, GIT_IGNORE, GitIgnore, literal};
use rustix::fs::{AtFlags, Gid, OFlags, Uid};

use super::{
    Kind, Stat, Tree, TreeError,
    copy::Copier,
    diff::same,
    fstat, lstat,
    meta::Owner,
    meta::own_and_mode,
    names_of, on, open_child_dir,
    path::{open_in, parts, relative},
    remove::remove_any,
    walk::{DEPTH_MAX, Descend},
};

/// Largest `.gitignore` that counts.
const GIT_IGNORE_MAX: u64 = 1 << 20;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It was not there before.
    Added,
    /// It was there and is otherwise now.
    Modified,
    /// It is not there any more. Of a directory that went with all that was in it, only its own path is told.
    Removed,
}

/// One difference between two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to both directories.
    pub path: Vec<u8>,
    /// What happened.
    pub what: What,
    /// What it is, or was.
    pub kind: Kind,
}

/// A directory of one tree or of both.
struct Pair {
    path: Vec<u8>,
    before: Option<OwnedFd>,
    after: Option<OwnedFd>,
    depth: usize,
}

impl Tree {
    /// The directory at a path, opened.
    ///
    /// # Errors
    /// When there is none.
    pub fn dir_fd(&self, path: impl AsRef<[u8]>) -> Result<OwnedFd, TreeError> {
        self.open_source_dir(path.as_ref())
    }

    /// What is different in directory `after.1` of one tree from directory `before.1` of another, sorted by path. Directories
    /// that are in both are not told, whatever their looks. Times do not matter.
    ///
    /// # Errors
    /// When one of the directories is missing, or looking fails.
    pub fn changes(before: (&Tree, &str), after: (&Tree, &str)) -> Result<Vec<Change>, TreeError> {
        Self::changes_until(&|| false, before, after)
    }

    /// [`Tree::changes`] that gives up before the next directory once `stopped` says so.
    ///
    /// # Errors
    /// [`TreeError::Stopped`], and those of [`Tree::changes`].
    pub fn changes_until(
        stopped: &dyn Fn() -> bool,
        before: (&Tree, &str),
        after: (&Tree, &str),
    ) -> Result<Vec<Change>, TreeError> {
        let mut found = Vec::new();
        let mut pending = vec![Pair {
            path: Vec::new(),
            before: Some(before.0.dir_fd(before.1)?),
            after: Some(after.0.dir_fd(after.1)?),
            depth: 0,
        }];
        while let Some(pair) = pending.pop() {
            if stopped() {
                return Err(TreeError::Stopped);
            }
            if pair.depth > DEPTH_MAX {
                return Err(TreeError::TooDeep {
                    path: String::from_utf8_lossy(&pair.path).into_owned(),
                    limit: DEPTH_MAX,
                });
            }
            compare(&pair, &mut found, &mut pending).map_err(on("compare", &pair.path))?;
        }
        found.sort_unstable_by(|a, b| (&a.path, a.what).cmp(&(&b.path, b.what)));
        Ok(found)
    }

    /// Makes to directory `at` what changed from `before` to `after`: files are removed, added and replaced.
    ///
    /// # Errors
    /// When one of the directories is missing, or a call fails.
    pub fn apply_changes(
        &self,
        at: &str,
        before: (&Tree, &str),
        after: (&Tree, &str),
    ) -> Result<(), TreeError> {
        let top = self.make_top(at.as_bytes(), None)?;
        for change in Tree::changes(before, after)? {
            if change.what == What::Removed {
                remove_below(top.as_fd(), &change.path)?;
            }
        }
        let (old, new) = (before.0.dir_fd(before.1)?, after.0.dir_fd(after.1)?);
        Copier::new(Filter::default(), None).run(new.as_fd(), top.as_fd(), Some(old.as_fd()))
    }

    /// Gives a path, and everything below it, another owner. Links are owned themselves.
    ///
    /// # Errors
    /// When there is nothing, or a call fails.
    pub fn chown_all(&self, path: impl AsRef<[u8]>, uid: u32, gid: u32) -> Result<(), TreeError> {
        let path = path.as_ref();
        let fd = self.open_at_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = fstat(fd.as_fd()).map_err(on("look at", path))?;
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if stat.is_dir() {
            self.walk_into(path, &mut |_| Ok(Descend::Into), &mut |walked| {
                rustix::fs::chownat(
                    walked.dir,
                    walked.name,
                    owner.0,
                    owner.1,
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .map_err(on("set the owner of", walked.path))
            })?;
        }
        own_and_mode(fd.as_fd(), Owner { uid, gid }, stat.mode)
            .map_err(on("set the owner of", path))
    }

    /// Gives a path, and every file and directory below it, these permission bits. Links have none.
    ///
    /// # Errors
    /// When there is nothing, or a call fails.
    pub fn chmod_all(&self, path: impl AsRef<[u8]>, mode: u32) -> Result<(), TreeError> {
        let path = path.as_ref();
        let mode = rustix::fs::Mode::from_raw_mode(mode & 0o777);
        let fd = self.open_at_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = fstat(fd.as_fd()).map_err(on("look at", path))?;
        if stat.is_dir() {
            self.walk_into(path, &mut |_| Ok(Descend::Into), &mut |walked| {
                if walked.stat.kind == Kind::Symlink {
                    return Ok(());
                }
                rustix::fs::chmodat(walked.dir, walked.name, mode, AtFlags::empty())
                    .map_err(on("set the mode of", walked.path))
            })?;
        }
        rustix::fs::fchmod(&fd, mode).map_err(on("set the mode of", path))
    }

    /// Patterns for everything below a directory that its `.gitignore` files leave out.
    ///
    /// # Errors
    /// When there is no directory, or looking fails.
    pub fn git_ignored(&self, path: impl AsRef<[u8]>) -> Result<Vec<String>, TreeError> {
        let path = path.as_ref();
        let mut ignore = GitIgnore::default();
        let mut ignored = Vec::new();
        let text = |dir: &[u8]| {
            let file = [path, dir, GIT_IGNORE.as_bytes()].join(&b'/');
            // What is no readable file of reasonable size says nothing.
            self.read_file(file, GIT_IGNORE_MAX).ok()
        };
        if let Some(text) = text(b"") {
            ignore.enter(b"", &text);
        }
        self.walk_into(
            path,
            &mut |walked| {
                let is_dir = walked.stat.is_dir();
                if ignore.ignores(walked.path, is_dir) {
                    ignored.push(String::from_utf8_lossy(&literal(walked.path)).into_owned());
                    return Ok(Descend::Past);
                }
                if is_dir && let Some(text) = text(walked.path) {
                    ignore.enter(walked.path, &text);
                }
                Ok(Descend::Into)
            },
            &mut |_| Ok(()),
        )?;
        Ok(ignored)
    }
}

fn remove_below(top: BorrowedFd<'_>, path: &[u8]) -> Result<(), TreeError> {
    let parts = parts(path);
    let Some((name, above)) = parts.split_last() else {
        return Ok(());
    };
    match open_in(top, &relative(above), OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(dir) => remove_any(dir.as_fd(), name).map_err(on("remove", path)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
        Err(e) => Err(on("open", path)(e)),
    }
}

fn compare(
    pair: &Pair,
    found: &mut Vec<Change>,
    pending: &mut Vec<Pair>,
) -> rustix::io::Result<()> {
    let names = |dir: &Option<OwnedFd>| match dir {
        Some(dir) => names_of(dir.as_fd()),
        None => Ok(Vec::new()),
    };
    let (old, new) = (names(&pair.before)?, names(&pair.after)?);
    let mut all: Vec<&[u8]> = old.iter().chain(&new).map(|(n, _)| n.as_slice()).collect();
    all.sort_unstable();
    all.dedup();
    for name in all {
        let look = |dir: &Option<OwnedFd>| -> rustix::io::Result<Option<Stat>> {
            match dir {
                Some(dir) => Ok(lstat(dir.as_fd(), name)?.filter(|s| !s.is_whiteout())),
                None => Ok(None),
            }
        };
        let (old, new) = (look(&pair.before)?, look(&pair.after)?);
        let mut path = pair.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let mut tell = |what, kind| {
            found.push(Change {
                path: path.clone(),
                what,
                kind,
            });
        };
        let open = |dir: &Option<OwnedFd>, stat: &Option<Stat>| match (dir, stat) {
            (Some(dir), Some(stat)) if stat.is_dir() => open_child_dir(dir.as_fd(), name).map(Some),
            _ => Ok(None),
        };
        match (&old, &new) {
            (None, None) => continue,
            (None, Some(new)) => tell(What::Added, new.kind),
            (Some(old), None) => tell(What::Removed, old.kind),
            (Some(old), Some(new)) if old.is_dir() != new.is_dir() => {
                tell(What::Removed, old.kind);
                tell(What::Added, new.kind);
            }
            (Some(_), Some(new)) if new.is_dir() => {}
            (Some(_), Some(new)) => {
                if let (Some(lower), Some(upper)) = (&pair.before, &pair.after)
                    && !same(lower.as_fd(), (upper.as_fd(), name), new)?
                {
                    tell(What::Modified, new.kind);
                }
            }
        }
        // A directory that is gone is told once.
        if new.as_ref().is_some_and(Stat::is_dir) {
            pending.push(Pair {
                before: open(&pair.before, &old)?,
                after: open(&pair.after, &new)?,
                path,
                depth: pair.depth + 1,
            });
        }
    }
    Ok(())
}
