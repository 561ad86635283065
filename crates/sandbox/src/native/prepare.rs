//! First part of a start, on the caller's thread and in the host's mount namespace: everything that is named by a path of
//! the host becomes a detached mount or a descriptor.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::MountAttrFlags,
};

use crate::{
    StartError,
    error::{Step as _, shown},
    spec::{Mount, Root, Source},
};

/// A mount that is not attached anywhere yet.
#[derive(Debug)]
pub(super) struct Detached {
    pub(super) mount: OwnedFd,
    /// The directory of the upper layer, when the mount is a writable overlay.
    pub(super) upper: Option<OwnedFd>,
}

/// What is to be mounted in the container.
#[derive(Debug)]
pub(super) enum Part {
    /// This mount.
    Whole(Detached),
    /// What lies at this path inside this mount.
    Below(Detached, Vec<u8>),
    /// A small file.
    File { contents: Vec<u8>, mode: u32, uid: u32, gid: u32 },
}

/// One mount of the container.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) target: Vec<u8>,
    pub(super) part: Part,
    pub(super) readonly: bool,
}

/// Makes the container's root, detached.
pub(super) fn root(root: Root) -> Result<Detached, StartError> {
    match root {
        Root::Overlay(overlay) => overlaid(&overlay),
        Root::Dir(path) => Ok(Detached { mount: bind(&path)?, upper: None }),
    }
}

/// Makes one mount, detached.
pub(super) fn mount(mount: Mount) -> Result<Prepared, StartError> {
    let Mount { target, source, readonly } = mount;
    if !target.starts_with(b"/") {
        return Err(StartError::Spec(format!("the mount target `{}` is not an absolute path", shown(&target))));
    }
    let whole = |mount| Part::Whole(Detached { mount, upper: None });
    let part = match source {
        Source::Overlay { overlay, subpath } if subpath.iter().all(|b| *b == b'/') => Part::Whole(overlaid(&overlay)?),
        Source::Overlay { overlay, subpath } => Part::Below(overlaid(&overlay)?, subpath),
        Source::Bind(path) => whole(bind(&path)?),
        Source::Detached(mount) => {
            let private = sys::mount::set_private(&mount, MountAttrFlags::empty());
            private.step(|| format!("take over the mount for `{}`", shown(&target)))?;
            whole(mount)
        }
        Source::Tmpfs { size } => whole(tmpfs(size)?),
        Source::File { contents, mode, uid, gid } => Part::File { contents, mode, uid, gid },
    };
    Ok(Prepared { target, part, readonly })
}

fn overlaid(overlay: &sys::mount::Overlay) -> Result<Detached, StartError> {
    let upper = match &overlay.upper {
        None => None,
        Some((upper, _)) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Some(rustix::fs::open(upper, flags, Mode::empty()).step(|| format!("open the upper directory `{}`", upper.display()))?)
        }
    };
    Ok(Detached { mount: sys::mount::overlay(overlay)?, upper })
}

fn bind(path: &Path) -> Result<OwnedFd, StartError> {
    let mount = sys::mount::copy_of(CWD, path).step(|| format!("bind `{}`", path.display()))?;
    sys::mount::set_private(&mount, MountAttrFlags::empty()).step(|| format!("make the bind of `{}` private", path.display()))?;
    Ok(mount)
}

fn tmpfs(size: Option<u64>) -> Result<OwnedFd, StartError> {
    let size = size.map(|s| s.to_string());
    let mut options = vec![("mode", "1777")];
    if let Some(size) = &size {
        options.push(("size", size.as_str()));
    }
    Ok(sys::mount::filesystem("tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOSUID)?)
}
