//! Paths within a tree: cleaned without looking, then resolved by the kernel with the tree as the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{Kind, Tree, TreeError, lstat, meta::Owner, on, open_child_dir};

/// Longest name of a file.
const NAME_MAX: usize = 255;
/// Links followed before giving up, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// How often the kernel may ask to try again.
const AGAIN_MAX: usize = 10_000;

/// The parts of a path; `.` and `..` resolved as text, as the API does, and the root as the limit.
pub(super) fn parts(path: &[u8]) -> Vec<&[u8]> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

/// A path as the kernel wants it: relative, never empty.
pub(super) fn relative(parts: &[&[u8]]) -> Vec<u8> {
    if parts.is_empty() {
        b".".to_vec()
    } else {
        parts.join(&b'/')
    }
}

/// Opens a path that may hold links and `..`, staying in the tree whatever they say.
pub(super) fn open_in(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() {
        b".".as_slice()
    } else {
        path
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = || rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    for _ in 0..AGAIN_MAX {
        match open() {
            // Something was renamed or mounted, anywhere, while a `..` was followed: see openat2(2).
            Err(Errno::AGAIN) => std::hint::spin_loop(),
            other => return other,
        }
    }
    open()
}

/// Modes and owner of directories that are made on the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parents {
    pub(super) mode: u32,
    pub(super) owner: Owner,
}

impl Parents {
    /// What most operations make: `drwxr-xr-x 0:0`.
    pub(super) const PLAIN: Parents = Parents {
        mode: 0o755,
        owner: Owner::ROOT,
    };
}

/// A name in an open directory.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) dir: OwnedFd,
    pub(super) name: Vec<u8>,
}

impl Tree {
    /// Opens what a path names, links followed.
    pub(super) fn open_at_path(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, TreeError> {
        open_in(self.root(), &relative(&parts(path)), flags).map_err(on("open", path))
    }

    /// The directory a path lies in, links in it followed, and the path's last name. Missing directories are made.
    /// `None` for the root.
    pub(super) fn spot(&self, path: &[u8], parents: Parents) -> Result<Option<Spot>, TreeError> {
        let parts = parts(path);
        let Some((name, above)) = parts.split_last() else {
            return Ok(None);
        };
        if parts.iter().any(|part| part.len() > NAME_MAX) {
            return Err(TreeError::NameTooLong {
                path: String::from_utf8_lossy(path).into_owned(),
            });
        }
        let dir = self.make_dirs(path, above, parents)?;
        Ok(Some(Spot {
            dir,
            name: name.to_vec(),
        }))
    }

    /// Like [`Tree::spot`], for an existing directory; `None` also when it does not exist.
    pub(super) fn existing_spot(&self, path: &[u8]) -> Result<Option<Spot>, TreeError> {
        let parts = parts(path);
        let Some((name, above)) = parts.split_last() else {
            return Ok(None);
        };
        match open_in(
            self.root(),
            &relative(above),
            OFlags::PATH | OFlags::DIRECTORY,
        ) {
            Ok(dir) => Ok(Some(Spot {
                dir,
                name: name.to_vec(),
            })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(e) => Err(on("open", path)(e)),
        }
    }

    /// Like [`Tree::spot`], following a link at the end to where a file written through it would be.
    pub(super) fn spot_behind_links(
        &self,
        path: &[u8],
        parents: Parents,
    ) -> Result<Option<Spot>, TreeError> {
        let Some(mut spot) = self.spot(path, parents)? else {
            return Ok(None);
        };
        let mut above = relative(parts(path).split_last().map_or(&[], |(_, above)| above));
        for _ in 0..LINKS_MAX {
            match lstat(spot.dir.as_fd(), &spot.name).map_err(on("look at", path))? {
                Some(stat) if stat.kind == Kind::Symlink => {}
                _ => return Ok(Some(spot)),
            }
            let target = rustix::fs::readlinkat(&spot.dir, spot.name.as_slice(), Vec::new())
                .map_err(on("read the link", path))?;
            // Not cleaned: a `..` behind a link means the parent of where the link leads.
            let target = target.into_bytes();
            let whole = if target.starts_with(b"/") {
                target
            } else {
                [above.as_slice(), b"/", &target].concat()
            };
            let end = whole
                .iter()
                .rposition(|b| *b != b'/')
                .map_or(0, |at| at + 1);
            let whole = whole.get(..end).unwrap_or_default();
            let (dir, name) = match whole.iter().rposition(|b| *b == b'/') {
                Some(at) => (
                    whole.get(..at).unwrap_or_default(),
                    whole.get(at + 1..).unwrap_or_default(),
                ),
                None => (&b"."[..], whole),
            };
            if matches!(name, b"" | b"." | b"..") {
                return Err(on("write", path)(Errno::ISDIR));
            }
            let dir = if dir.is_empty() { b"/" } else { dir };
            above = dir.to_vec();
            spot = Spot {
                dir: open_in(self.root(), dir, OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(on("open", path))?,
                name: name.to_vec(),
            };
        }
        Err(on("write", path)(Errno::LOOP))
    }

    /// Opens a directory, making it and those above where they are missing.
    pub(super) fn make_dirs(
        &self,
        path: &[u8],
        parts: &[&[u8]],
        parents: Parents,
    ) -> Result<OwnedFd, TreeError> {
        let open = |parts: &[&[u8]]| {
            open_in(
                self.root(),
                &relative(parts),
                OFlags::PATH | OFlags::DIRECTORY,
            )
        };
        let mut existing = parts.len();
        let mut dir = loop {
            match open(parts.get(..existing).unwrap_or_default()) {
                Ok(dir) => break dir,
                Err(Errno::NOENT) if existing > 0 => existing -= 1,
                Err(e) => return Err(on("open", path)(e)),
            }
        };
        for part in parts.get(existing..).unwrap_or_default() {
            rustix::fs::mkdirat(&dir, *part, Mode::from_raw_mode(parents.mode)).map_err(
                |e| match e {
                    // A link that leads nowhere.
                    Errno::EXIST => on("create", path)(Errno::NOENT),
                    e => on("create", path)(e),
                },
            )?;
            let made = open_child_dir(dir.as_fd(), part).map_err(on("open", path))?;
            super::meta::own_and_mode(made.as_fd(), parents.owner, parents.mode)
                .map_err(on("set the mode of", path))?;
            dir = made;
        }
        Ok(dir)
    }
}
