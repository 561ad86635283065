//! File system calls of the store's own files, with the path in the error.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

/// A failed file system call.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct DiskError {
    /// What was tried, e.g. `create`.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    pub(crate) fn new(
        action: &'static str,
        path: &Path,
        source: impl Into<io::Error>,
    ) -> DiskError {
        DiskError {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Attaches action and path to an error.
pub(crate) fn on<E: Into<io::Error>>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> DiskError {
    move |source| DiskError::new(action, path, source)
}

/// Makes a directory with exactly this mode, whatever the umask.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), DiskError> {
    fs::create_dir(path).map_err(on("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(on("set the mode of", path))
}

/// Makes a directory if it is not there.
pub(crate) fn ensure_dir(path: &Path, mode: u32) -> Result<(), DiskError> {
    match make_dir(path, mode) {
        Err(e) if e.source.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(on("rename", from))
}

/// The names in a directory that are valid text; the store makes no others.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, DiskError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(on("list", dir))? {
        names.extend(entry.map_err(on("list", dir))?.file_name().into_string());
    }
    Ok(names)
}

/// Opens a directory to look things up in.
pub(crate) fn open_dir(path: &Path) -> Result<std::os::fd::OwnedFd, DiskError> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(on("open", path))
}
