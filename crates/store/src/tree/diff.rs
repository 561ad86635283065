//! What one tree has that another does not.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
};

use patterns::Filter;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    Kind, Stat, Tree, TreeError,
    copy::Copier,
    fstat, lstat,
    meta::{Owner, same_open_xattrs, set_metadata},
    on, open_child_dir,
};

impl Tree {
    /// Copies to `path` what `upper` has at `path` and `lower` does not have equally. What only `lower` has is not mentioned.
    ///
    /// Files are equal when kind, mode, owner, extended attributes and contents are; times do not matter.
    ///
    /// # Errors
    /// When `upper` has no directory there, or a call fails.
    pub fn diff_from(
        &self,
        lower: Option<&Tree>,
        upper: &Tree,
        path: impl AsRef<[u8]>,
    ) -> Result<(), TreeError> {
        let path = path.as_ref();
        let from = upper.open_source_dir(path)?;
        let stat = fstat(from.as_fd()).map_err(on("look at", path))?;
        let below = match lower.map(|lower| lower.open_source_dir(path)) {
            Some(Ok(dir)) => Some(dir),
            None | Some(Err(TreeError::NotFound { .. } | TreeError::FileNotDirectory { .. })) => {
                None
            }
            Some(Err(e)) => return Err(e),
        };
        let top = self.make_top(path, None)?;
        Copier::new(Filter::default(), None).run(
            from.as_fd(),
            top.as_fd(),
            below.as_ref().map(AsFd::as_fd),
        )?;
        let owner = Owner {
            uid: stat.uid,
            gid: stat.gid,
        };
        set_metadata(from.as_fd(), top.as_fd(), &stat, owner, stat.mode)
            .map_err(on("set the mode of", path))
    }
}

/// Whether a directory has an equal entry of this name. For directories only the looks count, not what is in them.
pub(super) fn same(
    lower: BorrowedFd<'_>,
    upper: (BorrowedFd<'_>, &[u8]),
    stat: &Stat,
) -> rustix::io::Result<bool> {
    let (dir, name) = upper;
    let Some(other) = lstat(lower, name)? else {
        return Ok(false);
    };
    let looks = |s: &Stat| (s.kind, s.mode, s.uid, s.gid);
    if looks(stat) != looks(&other) {
        return Ok(false);
    }
    match stat.kind {
        Kind::Dir => same_open_xattrs(
            open_child_dir(lower, name)?.as_fd(),
            open_child_dir(dir, name)?.as_fd(),
        ),
        Kind::Symlink => {
            let target = |dir| rustix::fs::readlinkat(dir, name, Vec::new());
            Ok(target(lower)? == target(dir)?)
        }
        Kind::CharDevice | Kind::BlockDevice => Ok(stat.rdev == other.rdev),
        Kind::Fifo | Kind::Socket => Ok(true),
        Kind::File if stat.size != other.size => Ok(false),
        // The same file, seen through two mounts of one layer: no write leaves the change time alone.
        Kind::File
            if (stat.ino, stat.ctime_ns, stat.mtime_ns)
                == (other.ino, other.ctime_ns, other.mtime_ns) =>
        {
            Ok(true)
        }
        Kind::File => {
            let open = |dir| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from)
            };
            let (one, two) = (open(lower)?, open(dir)?);
            Ok(same_open_xattrs(one.as_fd(), two.as_fd())?
                && same_contents(one, two).map_err(|e| errno(&e))?)
        }
    }
}

fn errno(e: &io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

fn same_contents(one: File, two: File) -> io::Result<bool> {
    const CHUNK: u64 = 128 << 10;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        (&one).take(CHUNK).read_to_end(&mut a)?;
        (&two).take(CHUNK).read_to_end(&mut b)?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}
