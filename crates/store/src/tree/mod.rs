//! Reading and editing a tree through a descriptor of its root.
//!
//! Paths are bytes relative to the root; a leading `/` and `..` never lead out of it, and links are resolved as a process
//! with this root would resolve them. The functions that write are the API's operations on directories and files, with
//! its rules for modes, owners and merging, and its error texts.

mod change;
mod copy;
mod dates;
mod diff;
mod digest;
mod list;
mod meta;
mod modes;
mod path;
mod read;
mod remove;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

pub use change::{Change, What};
pub use copy::{CopyOptions, Top};
pub use list::Listed;
pub(crate) use list::{is_empty_dir, names_of};
pub(crate) use meta::{copy_root_metadata, copy_xattrs, same_xattrs, set_own_metadata};
pub use modes::Modes;
pub use walk::Walked;

use crate::{DiskError, Snapshot};

/// A tree: the root's descriptor, and what keeps it alive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tree {
    place: Arc<Place>,
}

/// The root of a tree. Dropping it unmounts what was mounted for it.
#[derive(Debug)]
pub(crate) struct Place {
    root: OwnedFd,
    /// The layers below must stay as long as the mount.
    lower: Option<Snapshot>,
}

/// What kind of thing has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What is known about a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks on disk.
    pub blocks: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// Which device, for device files.
    pub rdev: u64,
    /// The file system it is on.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u64,
}

/// Why an operation on a tree failed. The texts of the first ones are what clients expect to read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Nothing has this name.
    #[error("{path}: no such file or directory")]
    NotFound {
        /// The path as it was asked for.
        path: String,
    },
    /// A directory was asked for.
    #[error("path {path} is a file, not a directory")]
    FileNotDirectory {
        /// The path as it was asked for.
        path: String,
    },
    /// A file was asked for.
    #[error("path {path} is a directory, not a file")]
    DirectoryNotFile {
        /// The path as it was asked for.
        path: String,
    },
    /// Something on the way, or at its end, is no directory.
    #[error("{path}: not a directory")]
    NotDirectory {
        /// The path as it was asked for.
        path: String,
    },
    /// A file was to be written there.
    #[error("{path}: is a directory")]
    IsDirectory {
        /// The path as it was asked for.
        path: String,
    },
    /// No file system takes such a name.
    #[error("{path}: File name length exceeds the maximum supported 255 characters")]
    NameTooLong {
        /// The path as it was asked for.
        path: String,
    },
    /// The end of every text the kernel is given.
    #[error("the path \"{}\" contains a NUL byte (\\0), which no path can", path.replace('\0', "\\0"))]
    Nul {
        /// The path as it was asked for.
        path: String,
    },
    /// More than the caller is ready to read.
    #[error("{path}: {size} bytes are more than the {limit} that can be read at once")]
    TooLarge {
        /// The path as it was asked for.
        path: String,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The root itself was to be removed or replaced.
    #[error("cannot {action} the root of a tree")]
    Root {
        /// What was tried.
        action: &'static str,
    },
    /// Deeper than anything real.
    #[error("{path}: more than {limit} directories deep")]
    TooDeep {
        /// Where the walk stopped.
        path: String,
        /// How deep it may be.
        limit: usize,
    },
    /// Nobody waits for it any more.
    #[error("stopped: nobody waits for it any more")]
    Stopped,
    /// A malformed pattern.
    #[error(transparent)]
    Pattern(#[from] patterns::PatternError),
    /// Mounting the tree failed.
    #[error("cannot mount a tree")]
    Mount(#[from] sys::mount::MountError),
    /// One of the store's own files.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Any other failed call.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, e.g. `write`.
        action: &'static str,
        /// On what.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl TreeError {
    /// A failed call. Common errnos become their own variants.
    pub fn io(action: &'static str, path: impl AsRef<[u8]>, source: io::Error) -> TreeError {
        let path = String::from_utf8_lossy(path.as_ref()).into_owned();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => TreeError::NotFound { path },
            Some(Errno::NOTDIR) => TreeError::NotDirectory { path },
            Some(Errno::ISDIR) => TreeError::IsDirectory { path },
            Some(Errno::NAMETOOLONG) => TreeError::NameTooLong { path },
            _ if path.contains('\0') => TreeError::Nul { path },
            _ => TreeError::Io {
                action,
                path,
                source,
            },
        }
    }

    /// Whether there was nothing at the path.
    pub fn is_not_found(&self) -> bool {
        matches!(self, TreeError::NotFound { .. })
    }
}

/// Attaches action and path to an errno.
fn on<P: AsRef<[u8]>>(action: &'static str, path: P) -> impl FnOnce(Errno) -> TreeError {
    move |errno| TreeError::io(action, path, errno.into())
}

impl Tree {
    /// The tree of any directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_dir(dir: &Path) -> Result<Tree, TreeError> {
        Ok(Tree::at(Arc::new(Place::new(
            crate::disk::open_dir(dir)?,
            None,
        ))))
    }

    pub(crate) fn at(place: Arc<Place>) -> Tree {
        Tree { place }
    }

    /// The root's descriptor.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.place.root.as_fd()
    }
}

impl Place {
    pub(crate) fn new(root: OwnedFd, lower: Option<Snapshot>) -> Place {
        Place { root, lower }
    }
}

impl Stat {
    fn new(stat: &rustix::fs::Stat) -> Stat {
        let ns = |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
        Stat {
            kind: Kind::of(FileType::from_raw_mode(stat.st_mode)),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec as i64),
            rdev: stat.st_rdev,
            dev: stat.st_dev,
            ino: stat.st_ino,
            #[allow(clippy::useless_conversion, reason = "of 32 bits on arm64")]
            nlink: u64::from(stat.st_nlink),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Overlayfs's mark for a deleted file: seen only when a layer is read by itself.
    fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.rdev == 0
    }
}

impl Kind {
    fn of(kind: FileType) -> Kind {
        match kind {
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::RegularFile | FileType::Unknown => Kind::File,
        }
    }
}

/// Looks at a name without following it. `None` when there is nothing.
pub(crate) fn lstat(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Stat::new(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn fstat(fd: BorrowedFd<'_>) -> rustix::io::Result<Stat> {
    rustix::fs::fstat(fd).map(|stat| Stat::new(&stat))
}

/// Opens a subdirectory that must be one itself, not a link to one.
pub(crate) fn open_child_dir(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}
