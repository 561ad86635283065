//! Where things are: the repository, its `target` folder and the cache for downloads.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The repository's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let mut root = PathBuf::from(manifest);
    root.pop();
    root
}

/// A path below `target`, which does not follow `CARGO_TARGET_DIR`: images and services belong to the work tree, not to
/// whoever compiles in it.
pub(crate) fn target(below: &str) -> PathBuf {
    root().join("target").join(below)
}

/// The folder for downloads. It outlives `target`, so that `cargo clean` costs no network.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(base) = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        return Ok(PathBuf::from(base).join("bodkin"));
    }
    let home = std::env::var_os("HOME")
        .context("cannot choose a cache folder: neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/bodkin"))
}
