//! Removing, by name and by pattern.

use std::os::fd::{AsFd, BorrowedFd};

use patterns::{PatternError, go_match, has_wildcards};
use rustix::{
    fs::{AtFlags, OFlags},
    io::Errno,
};

use super::{
    Tree, TreeError, names_of, on, open_child_dir,
    path::{open_in, parts, relative},
    walk::DEPTH_MAX,
};

impl Tree {
    /// Removes a file, link or directory with all that is in it; what is not there is fine. In a path with wildcards `*` and
    /// `?` match within one name, and `**` is `*`.
    ///
    /// # Errors
    /// When the path is the root, a pattern is malformed, or a call fails.
    pub fn remove(&self, path: impl AsRef<[u8]>) -> Result<(), TreeError> {
        let path = path.as_ref();
        let parts = parts(path);
        if parts.is_empty() {
            return Err(TreeError::Root { action: "remove" });
        }
        let text: Vec<&str> = parts
            .iter()
            .map_while(|part| std::str::from_utf8(part).ok())
            .collect();
        let plain = text.iter().take_while(|part| !has_wildcards(part)).count();
        // Not text: no pattern either.
        if plain == text.len() || text.len() < parts.len() {
            return match self.existing_spot(path)? {
                Some(spot) => remove_any(spot.dir.as_fd(), &spot.name).map_err(on("remove", path)),
                None => Ok(()),
            };
        }
        for part in text.get(plain..).unwrap_or_default() {
            go_match(part, b"").map_err(|_| PatternError::Syntax {
                pattern: String::from_utf8_lossy(path).into_owned(),
            })?;
        }
        match open_in(
            self.root(),
            &relative(parts.get(..plain).unwrap_or_default()),
            OFlags::RDONLY | OFlags::DIRECTORY,
        ) {
            Ok(dir) => remove_matching(dir.as_fd(), text.get(plain..).unwrap_or_default(), path),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(e) => Err(on("open", path)(e)),
        }
    }
}

fn remove_matching(dir: BorrowedFd<'_>, patterns: &[&str], shown: &[u8]) -> Result<(), TreeError> {
    let Some((pattern, deeper)) = patterns.split_first() else {
        return Ok(());
    };
    for (name, _) in names_of(dir).map_err(on("list", shown))? {
        if !go_match(pattern, &name)? {
            continue;
        }
        if deeper.is_empty() {
            remove_any(dir, &name).map_err(on("remove", shown))?;
            continue;
        }
        match open_child_dir(dir, &name) {
            Ok(inner) => remove_matching(inner.as_fd(), deeper, shown)?,
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
            Err(e) => return Err(on("open", shown)(e)),
        }
    }
    Ok(())
}

/// Removes whatever has a name; nothing is fine.
pub(super) fn remove_any(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    remove_deep(dir, name, 0)
}

fn remove_deep(dir: BorrowedFd<'_>, name: &[u8], depth: usize) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    if depth > DEPTH_MAX {
        return Err(Errno::LOOP);
    }
    // An empty directory goes at once; overlayfs, too, sees no names where everything is deleted.
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let inner = open_child_dir(dir, name)?;
    for (child, _) in names_of(inner.as_fd())? {
        remove_deep(inner.as_fd(), &child, depth + 1)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
