//! Owners, modes, times and extended attributes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{Kind, Stat};
use crate::{DiskError, disk};

/// Overlayfs's own attributes: they describe a layer, not a file.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";
/// Largest value the kernel keeps.
const XATTR_MAX: usize = 64 * 1024;

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    pub(crate) const ROOT: Owner = Owner { uid: 0, gid: 0 };

    pub(crate) fn of(owner: Option<(u32, u32)>) -> Owner {
        owner.map_or(Owner::ROOT, |(uid, gid)| Owner { uid, gid })
    }

    fn ids(self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

/// Sets owner and mode of an open file or directory, where they differ. In this order: a new owner clears setuid.
pub(crate) fn own_and_mode(fd: BorrowedFd<'_>, owner: Owner, mode: u32) -> rustix::io::Result<()> {
    let now = super::fstat(fd)?;
    let chowned = (now.uid, now.gid) != (owner.uid, owner.gid);
    if chowned {
        let (uid, gid) = owner.ids();
        rustix::fs::fchown(fd, uid, gid)?;
    }
    if now.mode != mode || (chowned && mode & 0o6000 != 0) {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

/// Times as the kernel wants them: the same for access and modification.
pub(crate) fn times(mtime_ns: i64) -> Timestamps {
    let at = Timespec {
        tv_sec: mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: mtime_ns.rem_euclid(1_000_000_000) as _,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

/// Makes an open file or directory look like `stat`, with another owner and mode.
pub(crate) fn set_metadata(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &Stat,
    owner: Owner,
    mode: u32,
) -> rustix::io::Result<()> {
    own_and_mode(to, owner, mode)?;
    copy_xattrs(from, to)?;
    rustix::fs::futimens(to, &times(stat.mtime_ns))
}

/// Makes an open directory look exactly like another.
pub(crate) fn set_own_metadata(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &Stat,
) -> rustix::io::Result<()> {
    set_metadata(
        from,
        to,
        stat,
        Owner {
            uid: stat.uid,
            gid: stat.gid,
        },
        stat.mode,
    )
}

/// Makes a named thing that is neither file nor directory look like `stat`.
pub(crate) fn set_named_metadata(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    owner: Owner,
) -> rustix::io::Result<()> {
    let (uid, gid) = owner.ids();
    rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.kind != Kind::Symlink {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(stat.mode), AtFlags::empty())?;
    }
    rustix::fs::utimensat(dir, name, &times(stat.mtime_ns), AtFlags::SYMLINK_NOFOLLOW)
}

/// Copies extended attributes between open files or directories.
pub(crate) fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    each_xattr(
        &Attrs::Open(from),
        |name, value| match rustix::fs::fsetxattr(to, name, value, XattrFlags::empty()) {
            // The target's file system keeps none of this kind.
            Err(Errno::NOTSUP) => Ok(()),
            other => other,
        },
    )
}

/// Copies extended attributes between named things that cannot be opened, such as links.
pub(crate) fn copy_named_xattrs(
    from: (BorrowedFd<'_>, &[u8]),
    to: (BorrowedFd<'_>, &[u8]),
) -> rustix::io::Result<()> {
    let to = through_proc(to.0, to.1);
    each_xattr(&Attrs::Path(through_proc(from.0, from.1)), |name, value| {
        match rustix::fs::lsetxattr(to.as_slice(), name, value, XattrFlags::empty()) {
            // Links take no `user.` attributes.
            Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
            other => other,
        }
    })
}

/// A path for calls that only take paths.
fn through_proc(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [
        format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(),
        name,
    ]
    .concat()
}

enum Attrs<'a> {
    Open(BorrowedFd<'a>),
    Path(Vec<u8>),
}

impl Attrs<'_> {
    fn list(&self, buf: &mut Vec<u8>) -> rustix::io::Result<usize> {
        buf.clear();
        match self {
            Attrs::Open(fd) => rustix::fs::flistxattr(fd, rustix::buffer::spare_capacity(buf)),
            Attrs::Path(path) => {
                rustix::fs::llistxattr(path.as_slice(), rustix::buffer::spare_capacity(buf))
            }
        }
    }

    fn get(&self, name: &[u8], buf: &mut Vec<u8>) -> rustix::io::Result<usize> {
        buf.clear();
        match self {
            Attrs::Open(fd) => rustix::fs::fgetxattr(fd, name, rustix::buffer::spare_capacity(buf)),
            Attrs::Path(path) => {
                rustix::fs::lgetxattr(path.as_slice(), name, rustix::buffer::spare_capacity(buf))
            }
        }
    }
}

/// Calls `f` with every attribute but overlayfs's own.
fn each_xattr(
    attrs: &Attrs<'_>,
    mut f: impl FnMut(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let mut names = Vec::with_capacity(256);
    match retry_larger(&mut names, |buf| attrs.list(buf)) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        Ok(_) => {}
        Err(e) => return Err(e),
    }
    let mut value = Vec::with_capacity(256);
    for name in names
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(OVERLAY_XATTRS))
    {
        match retry_larger(&mut value, |buf| attrs.get(name, buf)) {
            Ok(_) => f(name, &value)?,
            // Gone meanwhile, or not readable.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn retry_larger(
    buf: &mut Vec<u8>,
    mut call: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    match call(buf) {
        Err(Errno::RANGE) => {
            buf.clear();
            buf.reserve_exact(XATTR_MAX);
            call(buf)
        }
        other => other,
    }
}

/// Makes a new layer's root look exactly like the root it covers.
pub(crate) fn copy_root_metadata(from: &Path, to: &Path) -> Result<(), DiskError> {
    let (source, target) = (disk::open_dir(from)?, disk::open_dir(to)?);
    let copy = || {
        let stat = super::fstat(source.as_fd())?;
        let mut old = Vec::new();
        each_xattr(&Attrs::Open(target.as_fd()), |name, _| {
            old.push(name.to_vec());
            Ok(())
        })?;
        for name in old {
            rustix::fs::fremovexattr(&target, name)?;
        }
        set_own_metadata(source.as_fd(), target.as_fd(), &stat)
    };
    copy().map_err(|e| DiskError::new("set the owner of", to, e))
}

/// Whether two directories have the same extended attributes, overlayfs's aside.
pub(crate) fn same_xattrs(one: &Path, other: &Path) -> io::Result<bool> {
    let all = |dir: &Path| {
        let fd = disk::open_dir(dir)?;
        let mut all = std::collections::BTreeMap::new();
        each_xattr(&Attrs::Open(fd.as_fd()), |name, value| {
            all.insert(name.to_vec(), value.to_vec());
            Ok(())
        })?;
        Ok::<_, io::Error>(all)
    };
    Ok(all(one)? == all(other)?)
}

/// Whether two open files or directories have the same extended attributes, overlayfs's aside.
pub(crate) fn same_open_xattrs(
    one: BorrowedFd<'_>,
    other: BorrowedFd<'_>,
) -> rustix::io::Result<bool> {
    let all = |fd| {
        let mut all = std::collections::BTreeMap::new();
        each_xattr(&Attrs::Open(fd), |name, value| {
            all.insert(name.to_vec(), value.to_vec());
            Ok(())
        })?;
        Ok::<_, Errno>(all)
    };
    Ok(all(one)? == all(other)?)
}
