//! Paths that a container or an image named, resolved inside a root directory and never through it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};

/// No resolution follows more symbolic links than this (the kernel's own limit).
const MAX_LINKS: usize = 40;
/// No path has more components than this.
const MAX_COMPONENTS: usize = 4096;

/// Opens `path` as if `root` were `/`: absolute links and `..` stay inside, links of procfs are refused.
///
/// # Errors
/// The kernel's.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, resolve) {
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => open_by_steps(root, path, flags),
        other => other,
    }
}

/// [`open`] without the kernel's `..`, which it refuses to follow while anything is mounted or renamed anywhere.
fn open_by_steps(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let walk = walk(root, path)?;
    match (walk.missing.is_empty(), &walk.file, walk.last()) {
        (true, Some((name, _)), Some(dir)) => child(dir.fd.as_fd(), name, flags),
        (true, None, Some(dir)) => child(dir.fd.as_fd(), b".", flags),
        _ => Err(rustix::io::Errno::NOENT.into()),
    }
}

/// Opens the single name `name` in `dir` without following it.
pub(crate) fn child(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    openat2(
        dir,
        name,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        resolve,
    )
}

fn openat2(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    // The kernel answers EAGAIN when a rename elsewhere made the walk uncertain.
    for _ in 0..16 {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
    Err(rustix::io::Errno::AGAIN.into())
}

/// One directory on the way.
#[derive(Debug)]
pub(crate) struct Step {
    /// Its name in the one before; empty for the root.
    pub(crate) name: Vec<u8>,
    /// Open as `O_PATH`.
    pub(crate) fd: OwnedFd,
    /// The mount it is on.
    pub(crate) mount: u64,
}

/// Where a path leads inside a root, with all links followed.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The directories from the root down to the deepest one that exists.
    pub(crate) dirs: Vec<Step>,
    /// The file at the end, when the path exists and is no directory.
    pub(crate) file: Option<(Vec<u8>, OwnedFd)>,
    /// The names below the last directory that do not exist.
    pub(crate) missing: Vec<Vec<u8>>,
}

impl Walk {
    /// The deepest existing directory.
    pub(crate) fn last(&self) -> Option<&Step> {
        self.dirs.last()
    }
}

/// Follows `path` from `root`, one component at a time: each step starts at a descriptor, so nobody who renames or links
/// meanwhile can lead the walk out of the root.
///
/// # Errors
/// `ELOOP` for too many links, `ENOTDIR` when a component in the middle is a file, or the kernel's.
pub(crate) fn walk(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Walk> {
    let errno = |e: rustix::io::Errno| -> io::Error { e.into() };
    let top = || -> io::Result<Step> {
        let fd = rustix::io::fcntl_dupfd_cloexec(root, 3)?;
        Ok(Step {
            name: Vec::new(),
            mount: mount_id(&fd)?,
            fd,
        })
    };
    let mut walk = Walk {
        dirs: vec![top()?],
        file: None,
        missing: Vec::new(),
    };
    let mut todo: VecDeque<Vec<u8>> = components(path);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == b".." {
            if walk.missing.pop().is_none() && walk.dirs.len() > 1 {
                walk.dirs.pop();
            }
            continue;
        }
        if !walk.missing.is_empty() {
            walk.missing.push(name);
            continue;
        }
        let Some(here) = walk.dirs.last() else {
            return Err(errno(rustix::io::Errno::NOENT));
        };
        let fd = match child(here.fd.as_fd(), &name, OFlags::PATH) {
            Ok(fd) => fd,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                walk.missing.push(name);
                continue;
            }
            Err(e) => return Err(e),
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Directory => walk.dirs.push(Step {
                name,
                mount: mount_id(&fd)?,
                fd,
            }),
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(errno(rustix::io::Errno::LOOP));
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes();
                if target.first() == Some(&b'/') {
                    walk.dirs.truncate(1);
                }
                let mut rest = components(&target);
                rest.append(&mut todo);
                if rest.len() > MAX_COMPONENTS {
                    return Err(errno(rustix::io::Errno::NAMETOOLONG));
                }
                todo = rest;
            }
            _ if todo.iter().all(|c| c == b".") => {
                walk.file = Some((name, fd));
                return Ok(walk);
            }
            _ => return Err(errno(rustix::io::Errno::NOTDIR)),
        }
    }
    Ok(walk)
}

/// The id of the mount that a descriptor is on.
pub(crate) fn mount_id(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Whether a descriptor is open on a directory.
pub(crate) fn is_dir(fd: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn names(walk: &Walk) -> String {
        let dirs: Vec<_> = walk
            .dirs
            .iter()
            .skip(1)
            .map(|s| String::from_utf8_lossy(&s.name).into_owned())
            .collect();
        let missing: Vec<_> = walk
            .missing
            .iter()
            .map(|n| String::from_utf8_lossy(n).into_owned())
            .collect();
        let file = walk
            .file
            .as_ref()
            .map(|(n, _)| String::from_utf8_lossy(n).into_owned());
        format!(
            "{} | {} | {}",
            dirs.join("/"),
            file.unwrap_or_default(),
            missing.join("/")
        )
    }

    #[test]
    fn no_path_leads_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("etc/sub")).unwrap();
        fs::write(root.join("etc/hosts"), "x").unwrap();
        symlink("/etc", root.join("abs")).unwrap();
        symlink("../../../../etc/sub", root.join("etc/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/run/stub/resolv.conf", root.join("etc/resolv.conf")).unwrap();
        symlink("/proc/self/root", root.join("etc/magic")).unwrap();
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let check = |path: &str, expected: &str| {
            let found =
                walk(fd.as_fd(), path.as_bytes()).map_or_else(|e| format!("{e}"), |w| names(&w));
            assert_eq!(found, expected, "{path}");
        };
        check("/", " |  | ");
        check("/../../etc", "etc |  | ");
        check("/abs/hosts", "etc | hosts | ");
        check("/etc/up/./x", "etc/sub |  | x");
        check("/etc/resolv.conf", " |  | run/stub/resolv.conf");
        check("/new/a/../b", " |  | new/b");
        check("/new/../etc/hosts", "etc | hosts | ");
        check("/etc/magic", " |  | proc/self/root");
        check("/etc/hosts/x", "Not a directory (os error 20)");
        check("/loop", "Too many levels of symbolic links (os error 40)");
        for open in [open, open_by_steps] {
            let inode = |path: &str| {
                open(fd.as_fd(), path.as_bytes(), OFlags::PATH)
                    .map(|f| rustix::fs::fstat(f).unwrap().st_ino)
            };
            assert_eq!(inode("/etc/up").unwrap(), inode("etc/sub").unwrap());
            assert_eq!(
                inode("/abs/up/../hosts").unwrap(),
                inode("/etc/hosts").unwrap()
            );
            assert_eq!(inode("../../").unwrap(), inode(".").unwrap());
            assert_eq!(
                inode("/etc/none").unwrap_err().raw_os_error(),
                Some(libc::ENOENT)
            );
            assert_eq!(
                open(fd.as_fd(), b"/etc/hosts", OFlags::PATH | OFlags::DIRECTORY)
                    .unwrap_err()
                    .raw_os_error(),
                Some(libc::ENOTDIR)
            );
        }
    }
}
