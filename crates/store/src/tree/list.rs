//! The names in a directory.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, RawDir};

use super::{Kind, Tree, TreeError, lstat, on};

/// For the names of a directory at a time.
const DIR_BUFFER: usize = 32 << 10;

/// One thing that was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, or for [`Tree::glob`] its path.
    pub name: Vec<u8>,
    /// What it is; a link is a link.
    pub kind: Kind,
}

impl Listed {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
}

impl Tree {
    /// What a directory holds, sorted.
    ///
    /// # Errors
    /// `<path>: no such file or directory`, `<path>: not a directory`.
    pub fn entries(&self, path: impl AsRef<[u8]>) -> Result<Vec<Listed>, TreeError> {
        let path = path.as_ref();
        let dir = self.open_at_path(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut found = Vec::new();
        for (name, kind) in names_of(std::os::fd::AsFd::as_fd(&dir)).map_err(on("list", path))? {
            let kind = match kind {
                // Some file systems do not say, and a whiteout must be told from a device.
                FileType::Unknown | FileType::CharacterDevice => {
                    match lstat(std::os::fd::AsFd::as_fd(&dir), &name)
                        .map_err(on("look at", path))?
                    {
                        Some(stat) if !stat.is_whiteout() => stat.kind,
                        _ => continue,
                    }
                }
                kind => Kind::of(kind),
            };
            found.push(Listed { name, kind });
        }
        Ok(found)
    }
}

/// All names of an open directory, sorted, with what the directory says of their kinds.
pub(crate) fn names_of(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    each_name(dir, |name, kind| {
        names.push((name.to_vec(), kind));
        true
    })?;
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// Whether an open directory has no names.
pub(crate) fn is_empty_dir(dir: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut empty = true;
    each_name(dir, |_, _| {
        empty = false;
        false
    })?;
    Ok(empty)
}

fn each_name(
    dir: BorrowedFd<'_>,
    mut f: impl FnMut(&[u8], FileType) -> bool,
) -> rustix::io::Result<()> {
    // A descriptor of its own: positions are shared by all who use one.
    let dir = rustix::fs::openat(
        dir,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut buffer = Vec::with_capacity(DIR_BUFFER);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !f(name, entry.file_type()) {
            break;
        }
    }
    Ok(())
}
