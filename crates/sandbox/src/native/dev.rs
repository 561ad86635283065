//! The container's `/dev`.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev},
    mount::MountAttrFlags,
    pty::OpenptFlags,
};

use crate::{
    StartError,
    error::Step as _,
    plan::{DEV_LINKS, DEVICES},
    rooted,
};

/// The group that owns terminals.
const TTY: u32 = 5;

/// A terminal whose slave lives in the container's `devpts`.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// What later steps need of a `/dev`.
#[derive(Debug)]
pub(super) struct Dev {
    pub(super) root: OwnedFd,
    pub(super) mqueue: OwnedFd,
    pub(super) null: OwnedFd,
    pts: OwnedFd,
}

/// Mounts a tmpfs on `target` and fills it. `nodes` holds device nodes to bind, when the container must not use those it
/// makes itself; without it the nodes are made in place.
pub(super) fn mount(
    target: BorrowedFd<'_>,
    nodes: Option<BorrowedFd<'_>>,
) -> Result<Dev, StartError> {
    let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let nodev = if nodes.is_some() {
        MountAttrFlags::MOUNT_ATTR_NODEV
    } else {
        MountAttrFlags::empty()
    };
    let root = sys::mount::filesystem(
        "tmpfs",
        &[("mode", "755"), ("size", "64m")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | nodev,
    )?;
    sys::mount::attach(&root, target).step(|| "mount on `/dev`".into())?;
    fill(root.as_fd(), nodes).step(|| "fill `/dev`".into())?;

    let dir = |name: &str| rooted::child(root.as_fd(), name.as_bytes(), OFlags::PATH);
    let pts = sys::mount::filesystem(
        "devpts",
        &[
            ("ptmxmode", "666"),
            ("mode", "620"),
            ("gid", &TTY.to_string()),
        ],
        nosuid,
    )?;
    dir("pts")
        .and_then(|t| sys::mount::attach(&pts, t))
        .step(|| "mount on `/dev/pts`".into())?;
    let shm = sys::mount::filesystem(
        "tmpfs",
        &[("mode", "1777"), ("size", "64m")],
        nosuid | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    dir("shm")
        .and_then(|t| sys::mount::attach(&shm, t))
        .step(|| "mount on `/dev/shm`".into())?;
    let mqueue = dir("mqueue").step(|| "open `/dev/mqueue`".into())?;
    let null = dir("null").step(|| "open `/dev/null`".into())?;
    Ok(Dev {
        root,
        mqueue,
        null,
        pts,
    })
}

fn fill(root: BorrowedFd<'_>, nodes: Option<BorrowedFd<'_>>) -> io::Result<()> {
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755))?;
    }
    for (name, target) in DEV_LINKS {
        rustix::fs::symlinkat(*target, root, *name)?;
    }
    match nodes {
        None => make_nodes(root),
        Some(nodes) => {
            for (name, ..) in DEVICES {
                rustix::fs::mknodat(
                    root,
                    *name,
                    FileType::RegularFile,
                    Mode::from_raw_mode(0o666),
                    0,
                )?;
                let node = sys::mount::copy_of(nodes, name.as_ref())?;
                sys::mount::attach(&node, rooted::child(root, name.as_bytes(), OFlags::PATH)?)?;
            }
            Ok(())
        }
    }
}

/// Makes the standard device nodes.
pub(super) fn make_nodes(dir: BorrowedFd<'_>) -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        rustix::fs::mknodat(
            dir,
            *name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(*major, *minor),
        )?;
    }
    Ok(())
}

/// Makes the devices of the host, found at `host`, in a privileged container's `/dev`.
pub(super) fn add_host_devices(root: BorrowedFd<'_>, host: BorrowedFd<'_>) -> io::Result<()> {
    copy_devices(root, host, 0)
}

/// Deeper trees of devices than this do not exist.
const MAX_DEPTH: usize = 4;

fn copy_devices(to: BorrowedFd<'_>, from: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    let entries = rustix::fs::Dir::new(rustix::fs::openat(
        from,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.to_bytes();
        if matches!(bytes, b"." | b".." | b"console")
            || (depth == 0 && matches!(bytes, b"pts" | b"shm" | b"mqueue" | b"fd"))
        {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::CharacterDevice | FileType::BlockDevice => {
                match rustix::fs::mknodat(
                    to,
                    name,
                    kind,
                    Mode::from_raw_mode(stat.st_mode & 0o777),
                    stat.st_rdev,
                ) {
                    Ok(()) => rustix::fs::chownat(
                        to,
                        name,
                        Some(Uid::from_raw(stat.st_uid)),
                        Some(Gid::from_raw(stat.st_gid)),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?,
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            FileType::Directory if depth < MAX_DEPTH => {
                match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let (to, from) = (
                    rooted::child(to, bytes, OFlags::PATH | OFlags::DIRECTORY)?,
                    rooted::child(from, bytes, OFlags::PATH | OFlags::DIRECTORY)?,
                );
                copy_devices(to.as_fd(), from.as_fd(), depth + 1)?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl Dev {
    /// Opens a terminal in this `/dev`, owned by `uid`, and puts it on `/dev/console`.
    pub(super) fn terminal(&self, uid: u32) -> Result<Terminal, StartError> {
        let terminal =
            open_terminal(self.pts.as_fd(), uid).step(|| "open a terminal in `/dev/pts`".into())?;
        self.console()
            .step(|| "put the terminal on `/dev/console`".into())?;
        Ok(terminal)
    }

    fn console(&self) -> io::Result<()> {
        rustix::fs::mknodat(
            &self.root,
            "console",
            FileType::RegularFile,
            Mode::from_raw_mode(0o600),
            0,
        )?;
        // The first terminal of a new devpts.
        let slave = sys::mount::copy_of(&self.pts, "0".as_ref())?;
        sys::mount::attach(
            &slave,
            rooted::child(self.root.as_fd(), b"console", OFlags::PATH)?,
        )
    }
}

/// Opens a new terminal of the `devpts` that `pts` is the root of.
pub(super) fn open_terminal(pts: BorrowedFd<'_>, uid: u32) -> io::Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = rooted::child(pts, b"ptmx", flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(TTY)))?;
    Ok(Terminal { master, slave })
}
