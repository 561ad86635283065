//! Making files, directories and links; setting times and owners.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{
    Tree, TreeError,
    dates::date_all,
    lstat,
    meta::{Owner, own_and_mode, times},
    on,
    path::{Parents, parts},
    remove::remove_any,
    walk::Descend,
};

/// Permission bits that an operation may set: setuid, setgid and sticky are dropped.
const PERMISSIONS: u32 = 0o777;
/// What a mode of zero means for a file.
const FILE_MODE: u32 = 0o644;
/// What a mode of zero means for a directory.
const DIR_MODE: u32 = 0o755;

impl Tree {
    /// Writes a file, replacing one that is there; a link is written through. Missing directories are made `0755 0:0`.
    /// Mode 0 means 0644; without an owner it is 0:0.
    ///
    /// # Errors
    /// `<path>: is a directory`, `<path>: not a directory`, a name that is too long.
    pub fn write_file(
        &self,
        path: impl AsRef<[u8]>,
        contents: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<(), TreeError> {
        let path = path.as_ref();
        let is_dir = || TreeError::IsDirectory {
            path: String::from_utf8_lossy(path).into_owned(),
        };
        let spot = self
            .spot_behind_links(path, Parents::PLAIN)?
            .ok_or_else(is_dir)?;
        let mut file = create(spot.dir.as_fd(), &spot.name).or_else(|e| match e {
            Errno::EXIST => {
                rustix::fs::unlinkat(&spot.dir, spot.name.as_slice(), AtFlags::empty()).map_err(
                    |e| match e {
                        Errno::ISDIR | Errno::PERM => is_dir(),
                        e => on("replace", path)(e),
                    },
                )?;
                create(spot.dir.as_fd(), &spot.name).map_err(on("create", path))
            }
            e => Err(on("create", path)(e)),
        })?;
        file.write_all(contents)
            .map_err(|e| TreeError::io("write", path, e))?;
        let mode = if mode & PERMISSIONS == 0 {
            FILE_MODE
        } else {
            mode & PERMISSIONS
        };
        own_and_mode(file.as_fd(), Owner::of(owner), mode).map_err(on("set the mode of", path))
    }

    /// Writes a file as a shell's `>` does: an existing one keeps its mode and owner, links are followed, and the directory
    /// must be there.
    ///
    /// # Errors
    /// `<path>: is a directory`, `<path>: no such file or directory`.
    pub fn overwrite_file(
        &self,
        path: impl AsRef<[u8]>,
        contents: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<(), TreeError> {
        let path = path.as_ref();
        let mut file =
            match self.open_at_path(path, OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK) {
                Ok(fd) => File::from(fd),
                Err(TreeError::NotFound { path: shown }) => {
                    let missing = || TreeError::NotFound { path: shown };
                    let spot = self.existing_spot(path)?.ok_or_else(missing)?;
                    let file = create(spot.dir.as_fd(), &spot.name).map_err(|e| match e {
                        // A link that leads nowhere.
                        Errno::EXIST => on("create", path)(Errno::NOENT),
                        e => on("create", path)(e),
                    })?;
                    own_and_mode(file.as_fd(), Owner::of(owner), mode & PERMISSIONS)
                        .map_err(on("set the mode of", path))?;
                    file
                }
                Err(e) => return Err(e),
            };
        file.write_all(contents)
            .map_err(|e| TreeError::io("write", path, e))
    }

    /// Makes a directory, and those above it alike. One that is there stays as it is. Mode 0 means 0755.
    ///
    /// # Errors
    /// `<path>: not a directory` when a file has the name.
    pub fn make_dir(
        &self,
        path: impl AsRef<[u8]>,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<(), TreeError> {
        let path = path.as_ref();
        let parts = parts(path);
        if parts.iter().any(|part| part.len() > 255) {
            return Err(TreeError::NameTooLong {
                path: String::from_utf8_lossy(path).into_owned(),
            });
        }
        let mode = if mode & PERMISSIONS == 0 {
            DIR_MODE
        } else {
            mode & PERMISSIONS
        };
        self.make_dirs(
            path,
            &parts,
            Parents {
                mode,
                owner: Owner::of(owner),
            },
        )
        .map(drop)
    }

    /// Makes a symbolic link, replacing a file or link that is there.
    ///
    /// # Errors
    /// `<path>: is a directory`.
    pub fn symlink(
        &self,
        target: impl AsRef<[u8]>,
        path: impl AsRef<[u8]>,
    ) -> Result<(), TreeError> {
        let path = path.as_ref();
        let is_dir = || TreeError::IsDirectory {
            path: String::from_utf8_lossy(path).into_owned(),
        };
        let spot = self.spot(path, Parents::PLAIN)?.ok_or_else(is_dir)?;
        match lstat(spot.dir.as_fd(), &spot.name).map_err(on("look at", path))? {
            Some(stat) if stat.is_dir() => return Err(is_dir()),
            Some(_) => remove_any(spot.dir.as_fd(), &spot.name).map_err(on("replace", path))?,
            None => {}
        }
        rustix::fs::symlinkat(target.as_ref(), &spot.dir, spot.name.as_slice())
            .map_err(on("create", path))
    }

    /// Sets the permission bits of what a path names, links followed.
    ///
    /// # Errors
    /// When there is nothing, or a call fails.
    pub fn set_mode(&self, path: impl AsRef<[u8]>, mode: u32) -> Result<(), TreeError> {
        let path = path.as_ref();
        let fd = self.open_at_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777))
            .map_err(on("set the mode of", path))
    }

    /// Sets the modification time of everything at and below a path.
    ///
    /// # Errors
    /// When there is nothing, or a call fails.
    pub fn set_times(&self, path: impl AsRef<[u8]>, seconds: i64) -> Result<(), TreeError> {
        let path = path.as_ref();
        let times = times(seconds.saturating_mul(1_000_000_000));
        let fd = self.open_at_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if super::fstat(fd.as_fd())
            .map_err(on("look at", path))?
            .is_dir()
        {
            if self.place.lower.is_none() {
                return date_all(fd, &times);
            }
            self.walk_into(path, &mut |_| Ok(Descend::Into), &mut |walked| {
                rustix::fs::utimensat(walked.dir, walked.name, &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(on("date", walked.path))
            })?;
        }
        rustix::fs::futimens(fd, &times).map_err(on("date", path))
    }

    /// Sets the owner of one file or directory.
    ///
    /// # Errors
    /// When there is nothing, or the call fails.
    pub fn set_owner(&self, path: impl AsRef<[u8]>, uid: u32, gid: u32) -> Result<(), TreeError> {
        let path = path.as_ref();
        let fd = self.open_at_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = super::fstat(fd.as_fd()).map_err(on("look at", path))?;
        own_and_mode(fd.as_fd(), Owner { uid, gid }, stat.mode)
            .map_err(on("set the owner of", path))
    }
}

/// Makes a file that must not be there yet.
pub(super) fn create(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
}
