//! The parts of a container, made on the caller's thread and in the host's mount namespace: everything that is named by a
//! path of the host becomes a detached mount or a descriptor.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid},
    mount::MountAttrFlags,
};

use crate::{
    StartError,
    error::{Step as _, shown},
    rooted,
    spec::{Mount, Root, Source},
};

/// A mount that is not attached anywhere yet.
#[derive(Debug)]
pub(crate) struct Detached {
    pub(crate) mount: OwnedFd,
    /// The directory of the upper layer, when the mount is a writable overlay.
    pub(crate) upper: Option<OwnedFd>,
    /// Whether its root is a directory.
    pub(crate) is_dir: bool,
}

/// What is to be mounted in the container.
#[derive(Debug)]
pub(crate) enum Part {
    /// This mount.
    Whole(Detached),
    /// What lies at this path inside this mount.
    Below(Detached, Vec<u8>),
    /// A small file.
    File {
        contents: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// One mount of the container.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) target: Vec<u8>,
    pub(crate) part: Part,
    pub(crate) readonly: bool,
}

/// Makes the container's root, detached.
pub(crate) fn root(root: Root) -> Result<Detached, StartError> {
    match root {
        Root::Overlay(overlay) => overlaid(&overlay),
        Root::Dir(path) => plain(bind(&path)?),
    }
}

/// Makes one mount, detached.
pub(crate) fn mount(mount: Mount) -> Result<Prepared, StartError> {
    let Mount {
        target,
        source,
        readonly,
    } = mount;
    if !target.starts_with(b"/") {
        return Err(StartError::Spec(format!(
            "the mount target `{}` is not an absolute path",
            shown(&target)
        )));
    }
    let whole = |mount| plain(mount).map(Part::Whole);
    let part = match source {
        Source::Overlay { overlay, subpath } if subpath.iter().all(|b| *b == b'/') => {
            Part::Whole(overlaid(&overlay)?)
        }
        Source::Overlay { overlay, subpath } => Part::Below(overlaid(&overlay)?, subpath),
        Source::Bind(path) => whole(bind(&path)?)?,
        Source::Detached(mount) => {
            let private = sys::mount::set_private(&mount, MountAttrFlags::empty());
            private.step(|| format!("take over the mount for `{}`", shown(&target)))?;
            whole(mount)?
        }
        Source::Tmpfs { size } => whole(tmpfs(size)?)?,
        Source::File {
            contents,
            mode,
            uid,
            gid,
        } => Part::File {
            contents,
            mode,
            uid,
            gid,
        },
    };
    Ok(Prepared {
        target,
        part,
        readonly,
    })
}

fn overlaid(overlay: &sys::mount::Overlay) -> Result<Detached, StartError> {
    let upper = match &overlay.upper {
        None => None,
        Some((upper, _)) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Some(
                rustix::fs::open(upper, flags, Mode::empty())
                    .step(|| format!("open the upper directory `{}`", upper.display()))?,
            )
        }
    };
    Ok(Detached {
        mount: sys::mount::overlay(overlay)?,
        upper,
        is_dir: true,
    })
}

fn plain(mount: OwnedFd) -> Result<Detached, StartError> {
    let is_dir = rooted::is_dir(&mount).step(|| "look at a mount".into())?;
    Ok(Detached {
        mount,
        upper: None,
        is_dir,
    })
}

fn bind(path: &Path) -> Result<OwnedFd, StartError> {
    let mount = sys::mount::copy_of(CWD, path).step(|| format!("bind `{}`", path.display()))?;
    sys::mount::set_private(&mount, MountAttrFlags::empty())
        .step(|| format!("make the bind of `{}` private", path.display()))?;
    Ok(mount)
}

fn tmpfs(size: Option<u64>) -> Result<OwnedFd, StartError> {
    let size = size.map(|s| s.to_string());
    let mut options = vec![("mode", "755"), ("source", "tmpfs")];
    if let Some(size) = &size {
        options.push(("size", size.as_str()));
    }
    Ok(sys::mount::filesystem(
        "tmpfs",
        &options,
        MountAttrFlags::MOUNT_ATTR_NOSUID,
    )?)
}

/// Writes a small file that did not exist.
pub(crate) fn write_file(
    dir: BorrowedFd<'_>,
    name: &str,
    contents: &[u8],
    mode: u32,
    uid: u32,
    gid: u32,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = contents;
    while !rest.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(n..).unwrap_or_default();
    }
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).map_err(Into::into)
}
