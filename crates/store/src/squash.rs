//! Merging layers of a long chain into one. Files are hard links, so it costs names, not bytes.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, XattrFlags},
    io::Errno,
};

use crate::{
    CommitError, DiskError, Inner, disk,
    tree::{
        Kind, TreeError, copy_xattrs, fstat, lstat, names_of, open_child_dir, set_own_metadata,
    },
};

/// How overlayfs marks a directory that hides what is below.
const OPAQUE: &str = "trusted.overlay.opaque";

impl Inner {
    /// Shortens a chain, uppermost first, that has become too long: its upper half becomes one layer.
    pub(crate) fn squash(&self, mut layers: Vec<u64>) -> Result<Vec<u64>, CommitError> {
        let max = self.options.max_layers.max(2);
        let before = layers.len();
        while layers.len() > max {
            // At least enough to be short again, at most what one merge should hold open.
            let count = (layers.len() - max / 2).clamp(2, 256).min(layers.len());
            let upper: Vec<u64> = layers.drain(..count).collect();
            let merged = self.merge(&upper).map_err(|source| CommitError::Squash {
                layers: before,
                source,
            })?;
            layers.insert(0, merged);
        }
        Ok(layers)
    }

    /// One layer that says what these say together, uppermost first.
    fn merge(&self, layers: &[u64]) -> Result<u64, TreeError> {
        let id = self.new_id();
        let dir = self.layout.draft(id);
        let to = dir.join("upper");
        fs::create_dir(&dir).map_err(disk::on("create", &dir))?;
        let merged = disk::make_dir(&to, 0o755)
            .map_err(TreeError::from)
            .and_then(|()| {
                let from: Vec<OwnedFd> = layers
                    .iter()
                    .map(|layer| disk::open_dir(&self.layout.layer(*layer)))
                    .collect::<Result<_, _>>()?;
                let target = disk::open_dir(&to)?;
                let from: Vec<BorrowedFd<'_>> = from.iter().map(AsFd::as_fd).collect();
                merge_dirs(&from, target.as_fd(), 0)
                    .map_err(|e| DiskError::new("merge layers into", &to, e))?;
                disk::rename(&to, &self.layout.layer(id))?;
                Ok(())
            });
        self.trash.take_or_warn(&dir);
        merged.map(|()| id)
    }
}

/// Merges directories of the same name, uppermost first, into an empty one.
fn merge_dirs(from: &[BorrowedFd<'_>], to: BorrowedFd<'_>, depth: usize) -> rustix::io::Result<()> {
    if depth > 256 {
        return Err(Errno::LOOP);
    }
    let mut done = std::collections::HashSet::new();
    for (at, dir) in from.iter().enumerate() {
        for (name, _) in names_of(*dir)? {
            if !done.insert(name.clone()) {
                continue;
            }
            let Some(stat) = lstat(*dir, &name)? else {
                continue;
            };
            if stat.kind == Kind::Dir {
                merge_named(from.get(at..).unwrap_or_default(), &name, to, depth)?;
            } else {
                rustix::fs::linkat(*dir, name.as_slice(), to, name.as_slice(), AtFlags::empty())?;
            }
        }
    }
    // Last, because making entries changes the time.
    if let Some(top) = from.first() {
        let stat = fstat(*top)?;
        set_own_metadata(*top, to, &stat)?;
    }
    Ok(())
}

/// Merges what has this name in the uppermost directory, which is one itself, with what shows through from below.
fn merge_named(
    from: &[BorrowedFd<'_>],
    name: &[u8],
    to: BorrowedFd<'_>,
    depth: usize,
) -> rustix::io::Result<()> {
    let mut parts = Vec::new();
    let mut opaque = false;
    for dir in from {
        match lstat(*dir, name)? {
            None => continue,
            Some(stat) if stat.kind == Kind::Dir => {
                let part = open_child_dir(*dir, name)?;
                opaque = is_opaque(part.as_fd())?;
                parts.push(part);
            }
            // A file or a whiteout hides everything below it.
            Some(_) => opaque = true,
        }
        if opaque {
            break;
        }
    }
    rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
    let made = open_child_dir(to, name)?;
    let parts: Vec<BorrowedFd<'_>> = parts.iter().map(AsFd::as_fd).collect();
    merge_dirs(&parts, made.as_fd(), depth + 1)?;
    if let Some(top) = parts.first() {
        copy_xattrs(*top, made.as_fd())?;
    }
    if opaque {
        rustix::fs::fsetxattr(&made, OPAQUE, b"y", XattrFlags::empty())?;
    }
    Ok(())
}

fn is_opaque(dir: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut value = [0_u8; 2];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value) {
        Ok(len) => Ok(value.get(..len) == Some(b"y")),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e),
    }
}
