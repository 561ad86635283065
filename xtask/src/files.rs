//! Small file operations that name the path in their errors.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create folder `{}`", path.display()))
}

/// Replaces `path` at once: a reader sees the old or the new contents, never a part.
pub(crate) fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".tmp{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = File::create(&temporary)
        .and_then(|mut f| f.write_all(contents))
        .and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        fs::remove_file(&temporary).ok();
    }
    result.with_context(|| format!("cannot write `{}`", path.display()))
}

/// The files of a folder, sorted by name; none if the folder is missing.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot list `{}`", dir.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(
            entry
                .with_context(|| format!("cannot list `{}`", dir.display()))?
                .path(),
        );
    }
    paths.sort();
    Ok(paths)
}

/// Waits for and takes the lock file at `path`; the lock ends when the result is dropped.
pub(crate) fn lock(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = file.with_context(|| format!("cannot open `{}`", path.display()))?;
    if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
        eprintln!(
            "waiting for another `cargo xtask` (lock `{}`)",
            path.display()
        );
    }
    file.lock()
        .with_context(|| format!("cannot lock `{}`", path.display()))?;
    Ok(file)
}

/// Lower-case hexadecimal text of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A hash over parts whose borders count.
pub(crate) fn hash_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_of_hashed_parts_count() {
        assert_ne!(hash_of([&b"ab"[..], b"c"]), hash_of([&b"a"[..], b"bc"]));
    }
}
