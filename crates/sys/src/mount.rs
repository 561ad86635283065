//! Detached mounts by file descriptor: made with `fsopen`/`fsmount` or `open_tree`, never by path string.

#![expect(unsafe_code, reason = "`mount_setattr` is not in rustix")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

/// Why a mount could not be made: the step and the kernel's own words where it gave some.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}{}", if kernel.is_empty() { String::new() } else { format!(" (kernel: {kernel})") })]
pub struct MountError {
    /// What was being done, e.g. `` set `lowerdir+` of overlay``.
    pub step: String,
    /// Messages read from the filesystem context, possibly empty.
    pub kernel: String,
    /// The errno.
    #[source]
    pub source: io::Error,
}

/// The layers of an overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only layers, uppermost first. At least one, at most 500 (kernel limit).
    pub lower: Vec<PathBuf>,
    /// Writable layer and its work directory, on the same non-overlay filesystem; `None` mounts read-only.
    pub upper: Option<(PathBuf, PathBuf)>,
}

/// Mounts an overlay and returns its detached root. Dropping the descriptor unmounts it.
///
/// The mount is `volatile` when writable: whoever commits the upper directory must sync it.
///
/// # Errors
/// The step that failed with the kernel's message.
pub fn overlay(spec: &Overlay) -> Result<OwnedFd, MountError> {
    let err = |step: &str, fs: Option<BorrowedFd<'_>>, e: rustix::io::Errno| MountError {
        step: format!("{step} of overlay"),
        kernel: fs.map(kernel_words).unwrap_or_default(),
        source: e.into(),
    };
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| err("open the context", None, e))?;
    for dir in &spec.lower {
        let fd = open_path(dir).map_err(|e| err(&format!("open lower directory `{}`", dir.display()), None, e))?;
        fsconfig_set_fd(fs.as_fd(), "lowerdir+", fd.as_fd()).map_err(|e| err("set `lowerdir+`", Some(fs.as_fd()), e))?;
    }
    let mut attrs = MountAttrFlags::empty();
    if let Some((upper, work)) = &spec.upper {
        for (key, dir) in [("upperdir", upper), ("workdir", work)] {
            let fd = open_path(dir).map_err(|e| err(&format!("open {key} `{}`", dir.display()), None, e))?;
            fsconfig_set_fd(fs.as_fd(), key, fd.as_fd()).map_err(|e| err(&format!("set `{key}`"), Some(fs.as_fd()), e))?;
        }
        fsconfig_set_flag(fs.as_fd(), "volatile").map_err(|e| err("set `volatile`", Some(fs.as_fd()), e))?;
    } else {
        attrs |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    for (key, value) in [("xino", "off"), ("metacopy", "off"), ("index", "off"), ("redirect_dir", "off")] {
        fsconfig_set_string(fs.as_fd(), key, value).map_err(|e| err(&format!("set `{key}`"), Some(fs.as_fd()), e))?;
    }
    fsconfig_create(fs.as_fd()).map_err(|e| err("create the superblock", Some(fs.as_fd()), e))?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs).map_err(|e| err("mount", Some(fs.as_fd()), e))
}

/// Makes a new filesystem of type `fstype` with `key=value` options and returns its detached root.
///
/// # Errors
/// The step that failed with the kernel's message.
pub fn filesystem(fstype: &str, options: &[(&str, &str)], attrs: MountAttrFlags) -> Result<OwnedFd, MountError> {
    let err = |step: String, fs: Option<BorrowedFd<'_>>, e: rustix::io::Errno| MountError {
        step: format!("{step} of {fstype}"),
        kernel: fs.map(kernel_words).unwrap_or_default(),
        source: e.into(),
    };
    let fs = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| err("open the context".into(), None, e))?;
    for (key, value) in options {
        fsconfig_set_string(fs.as_fd(), *key, *value).map_err(|e| err(format!("set `{key}={value}`"), Some(fs.as_fd()), e))?;
    }
    fsconfig_create(fs.as_fd()).map_err(|e| err("create the superblock".into(), Some(fs.as_fd()), e))?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs).map_err(|e| err("mount".into(), Some(fs.as_fd()), e))
}

/// A detached copy of the mount at `path` below `dir` (of `dir` itself when `path` is empty), with nothing that is mounted
/// further below it.
///
/// # Errors
/// The kernel's: the path does not exist, or the mount belongs to another mount namespace.
pub fn copy_of(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(dir, path, flags).map_err(Into::into)
}

/// Mounts a detached mount on the file or directory that `target` is open on.
///
/// # Errors
/// `EINVAL` when one is a directory and the other is not, or when `target` is not in this mount namespace.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).map_err(Into::into)
}

/// Sets attributes of the mount that `mount` is the root of, and makes it private: nothing that is mounted below its source
/// later propagates into it, nor the other way.
///
/// # Errors
/// The kernel's.
pub fn set_private(mount: impl AsFd, attrs: MountAttrFlags) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let attr = MountAttr { set: u64::from(attrs.bits()), clear: 0, propagation: libc::MS_PRIVATE, userns: 0 };
    // SAFETY: the path is a literal and the struct lives across the call; its size is passed along.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn open_path(dir: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads what the kernel wrote into a filesystem context about its last failure.
fn kernel_words(fs: BorrowedFd<'_>) -> String {
    let mut out = String::new();
    let mut buf = [0u8; 1024];
    for _ in 0..16 {
        match rustix::io::read(fs, &mut buf) {
            Ok(n) if n > 0 => {
                if !out.is_empty() {
                    out.push_str("; ");
                }
                out.push_str(String::from_utf8_lossy(&buf[..n]).trim());
            }
            _ => break,
        }
    }
    out
}
