//! Visiting everything below a directory.

use std::{
    collections::HashSet,
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use patterns::Glob;
use rustix::fs::{FileType, Mode, OFlags};

use super::{Kind, Listed, Stat, Tree, TreeError, fstat, lstat, names_of, on, open_child_dir};

/// Deeper trees are refused: each level holds a descriptor.
pub(super) const DEPTH_MAX: usize = 256;

/// One thing that a walk came by.
#[derive(Debug)]
pub struct Walked<'a> {
    /// Relative to where the walk began.
    pub path: &'a [u8],
    /// What it is; a link is a link.
    pub stat: &'a Stat,
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
}

/// Whether to look into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Descend {
    Into,
    Past,
}

impl Tree {
    /// Visits everything below a directory, depth first, names in byte order, a directory before what is in it. The
    /// directory itself is not visited.
    ///
    /// # Errors
    /// What `f` answered, or what looking failed with.
    pub fn walk(
        &self,
        path: impl AsRef<[u8]>,
        f: &mut dyn FnMut(&Walked<'_>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        self.walk_into(
            path.as_ref(),
            &mut |walked| f(walked).map(|()| Descend::Into),
            &mut |_| Ok(()),
        )
    }

    /// The same, with a say in what to look into, and a visit after what is in a directory.
    pub(super) fn walk_into(
        &self,
        path: &[u8],
        before: &mut dyn FnMut(&Walked<'_>) -> Result<Descend, TreeError>,
        after: &mut dyn FnMut(&Walked<'_>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let dir = self.open_at_path(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut walk = Walk {
            path: Vec::new(),
            levels: Vec::new(),
        };
        walk.enter(dir, Vec::new(), None)?;
        while walk.next(before, after)? {}
        Ok(())
    }

    /// The target of a link that a walk came by.
    ///
    /// # Errors
    /// When it is none.
    pub fn read_link_at(&self, walked: &Walked<'_>) -> Result<Vec<u8>, TreeError> {
        let target = rustix::fs::readlinkat(walked.dir, walked.name, Vec::new())
            .map_err(on("read the link", walked.path))?;
        Ok(target.into_bytes())
    }

    /// Opens a regular file that a walk came by.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_at(&self, walked: &Walked<'_>) -> Result<File, TreeError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(walked.dir, walked.name, flags, Mode::empty())
            .map(File::from)
            .map_err(on("open", walked.path))
    }

    /// The paths below a directory that a pattern matches, in walk order.
    ///
    /// # Errors
    /// A malformed pattern, or a failed walk.
    pub fn glob(&self, path: impl AsRef<[u8]>, pattern: &str) -> Result<Vec<Listed>, TreeError> {
        let glob = Glob::new(pattern)?;
        let mut found = Vec::new();
        self.walk_into(
            path.as_ref(),
            &mut |walked| {
                if glob.matches(walked.path) {
                    found.push(Listed {
                        name: walked.path.to_vec(),
                        kind: walked.stat.kind,
                    });
                }
                Ok(if glob.may_match_below(walked.path) {
                    Descend::Into
                } else {
                    Descend::Past
                })
            },
            &mut |_| Ok(()),
        )?;
        Ok(found)
    }

    /// The bytes of all regular files at or below a path; a file with several names counts once.
    ///
    /// # Errors
    /// When there is nothing, or a failed walk.
    pub fn size(&self, path: impl AsRef<[u8]>) -> Result<u64, TreeError> {
        let path = path.as_ref();
        let fd = self.open_at_path(path, OFlags::PATH)?;
        let stat = fstat(fd.as_fd()).map_err(on("look at", path))?;
        if !stat.is_dir() {
            return Ok(stat.size);
        }
        let mut total = 0_u64;
        let mut seen = HashSet::new();
        self.walk(path, &mut |walked| {
            let stat = walked.stat;
            if stat.kind == Kind::File && (stat.nlink < 2 || seen.insert((stat.dev, stat.ino))) {
                total = total.saturating_add(stat.size);
            }
            Ok(())
        })?;
        Ok(total)
    }
}

/// A walk under way. It keeps its own stack: the depth of a tree is not ours to trust.
struct Walk {
    path: Vec<u8>,
    levels: Vec<Level>,
}

/// A directory that is being visited.
struct Level {
    dir: OwnedFd,
    names: std::vec::IntoIter<(Vec<u8>, FileType)>,
    /// How much of the path is this directory's.
    path_len: usize,
    name: Vec<u8>,
    /// `None` for the top, which is not visited itself.
    stat: Option<Stat>,
}

impl Walk {
    /// Goes on by one step. Answers whether there was one.
    fn next(
        &mut self,
        before: &mut dyn FnMut(&Walked<'_>) -> Result<Descend, TreeError>,
        after: &mut dyn FnMut(&Walked<'_>) -> Result<(), TreeError>,
    ) -> Result<bool, TreeError> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(false);
        };
        self.path.truncate(level.path_len);
        let Some((name, _)) = level.names.next() else {
            let left = self.levels.pop();
            if let (
                Some(Level {
                    name,
                    stat: Some(stat),
                    ..
                }),
                Some(above),
            ) = (&left, self.levels.last())
            {
                after(&Walked {
                    path: &self.path,
                    stat,
                    dir: above.dir.as_fd(),
                    name,
                })?;
            }
            return Ok(true);
        };
        if level.path_len > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        let stat = match lstat(level.dir.as_fd(), &name).map_err(on("look at", &self.path))? {
            Some(stat) if !stat.is_whiteout() => stat,
            _ => return Ok(true),
        };
        let walked = Walked {
            path: &self.path,
            stat: &stat,
            dir: level.dir.as_fd(),
            name: &name,
        };
        if before(&walked)? == Descend::Into && stat.is_dir() {
            let inner = open_child_dir(level.dir.as_fd(), &name).map_err(on("open", &self.path))?;
            self.enter(inner, name, Some(stat))?;
        } else {
            after(&walked)?;
        }
        Ok(true)
    }

    fn enter(&mut self, dir: OwnedFd, name: Vec<u8>, stat: Option<Stat>) -> Result<(), TreeError> {
        if self.levels.len() > DEPTH_MAX {
            return Err(TreeError::TooDeep {
                path: String::from_utf8_lossy(&self.path).into_owned(),
                limit: DEPTH_MAX,
            });
        }
        let names = names_of(dir.as_fd())
            .map_err(on("list", &self.path))?
            .into_iter();
        self.levels.push(Level {
            dir,
            names,
            path_len: self.path.len(),
            name,
            stat,
        });
        Ok(())
    }
}
