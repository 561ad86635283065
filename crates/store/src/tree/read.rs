//! Looking at files.

use std::{fs::File, io::Read, os::fd::AsFd};

use rustix::fs::OFlags;

use super::{Kind, Stat, Tree, TreeError, fstat, lstat, on};

impl Tree {
    /// What a path names, links followed. `None` when there is nothing, or a link leads nowhere.
    ///
    /// # Errors
    /// When looking fails otherwise.
    pub fn stat(&self, path: impl AsRef<[u8]>) -> Result<Option<Stat>, TreeError> {
        let path = path.as_ref();
        match self.open_at_path(path, OFlags::PATH) {
            Ok(fd) => fstat(fd.as_fd()).map(Some).map_err(on("look at", path)),
            Err(
                TreeError::NotFound { .. }
                | TreeError::NotDirectory { .. }
                | TreeError::NameTooLong { .. },
            ) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What has this name itself, even a link.
    ///
    /// # Errors
    /// When looking fails.
    pub fn lstat(&self, path: impl AsRef<[u8]>) -> Result<Option<Stat>, TreeError> {
        let path = path.as_ref();
        match self.existing_spot(path)? {
            Some(spot) => lstat(spot.dir.as_fd(), &spot.name).map_err(on("look at", path)),
            None => self.stat(path),
        }
    }

    /// A directory that must be there. `shown` is how errors name the path.
    ///
    /// # Errors
    /// `<shown>: no such file or directory`, `path <shown> is a file, not a directory`.
    pub fn expect_dir(&self, path: impl AsRef<[u8]>, shown: &str) -> Result<Stat, TreeError> {
        let stat = self.expect(path.as_ref(), shown)?;
        if stat.is_dir() {
            Ok(stat)
        } else {
            Err(TreeError::FileNotDirectory {
                path: shown.to_owned(),
            })
        }
    }

    /// A file that must be there. `shown` is how errors name the path.
    ///
    /// # Errors
    /// `<shown>: no such file or directory`, `path <shown> is a directory, not a file`.
    pub fn expect_file(&self, path: impl AsRef<[u8]>, shown: &str) -> Result<Stat, TreeError> {
        let stat = self.expect(path.as_ref(), shown)?;
        if stat.is_dir() {
            Err(TreeError::DirectoryNotFile {
                path: shown.to_owned(),
            })
        } else {
            Ok(stat)
        }
    }

    fn expect(&self, path: &[u8], shown: &str) -> Result<Stat, TreeError> {
        self.stat(path)?.ok_or_else(|| TreeError::NotFound {
            path: shown.to_owned(),
        })
    }

    /// Where a link points.
    ///
    /// # Errors
    /// When it is no link, or not there.
    pub fn read_link(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, TreeError> {
        let path = path.as_ref();
        let not_found = || TreeError::NotFound {
            path: String::from_utf8_lossy(path).into_owned(),
        };
        let spot = self.existing_spot(path)?.ok_or_else(not_found)?;
        let target = rustix::fs::readlinkat(spot.dir, spot.name.as_slice(), Vec::new())
            .map_err(on("read the link", path))?;
        Ok(target.into_bytes())
    }

    /// Opens a regular file for reading, links followed.
    ///
    /// # Errors
    /// When it is not there or something else.
    pub fn open(&self, path: impl AsRef<[u8]>) -> Result<File, TreeError> {
        Ok(self.open_regular(path.as_ref())?.0)
    }

    /// A file's contents, if they are not more than `max` bytes.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`], or when it cannot be read.
    pub fn read_file(&self, path: impl AsRef<[u8]>, max: u64) -> Result<Vec<u8>, TreeError> {
        let path = path.as_ref();
        let (file, stat) = self.open_regular(path)?;
        let too_large = |size| TreeError::TooLarge {
            path: String::from_utf8_lossy(path).into_owned(),
            size,
            limit: max,
        };
        if stat.size > max {
            return Err(too_large(stat.size));
        }
        let mut contents =
            Vec::with_capacity(usize::try_from(stat.size).unwrap_or(0).saturating_add(1));
        file.take(max.saturating_add(1))
            .read_to_end(&mut contents)
            .map_err(|e| TreeError::io("read", path, e))?;
        if contents.len() as u64 > max {
            return Err(too_large(contents.len() as u64));
        }
        Ok(contents)
    }

    pub(super) fn open_regular(&self, path: &[u8]) -> Result<(File, Stat), TreeError> {
        // Without blocking: opening a pipe would wait for its other end.
        let fd = self.open_at_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = fstat(fd.as_fd()).map_err(on("look at", path))?;
        let shown = || String::from_utf8_lossy(path).into_owned();
        match stat.kind {
            Kind::File => Ok((fd.into(), stat)),
            Kind::Dir => Err(TreeError::DirectoryNotFile { path: shown() }),
            _ => Err(TreeError::io(
                "read",
                path,
                std::io::Error::other("it is not a regular file"),
            )),
        }
    }
}
