//! Blobs in a directory, for tests that need no store.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use sha2::{Digest as _, Sha256};

use crate::{
    blobs::{Blobs, CommitError, Fresh, Ingest},
    digest::Digest,
};

/// Blobs as files `<hex>`, unfinished ones as `<hex>.part`.
#[derive(Debug, Clone)]
pub struct DirBlobs {
    dir: PathBuf,
}

impl DirBlobs {
    /// Blobs in this existing directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Names of all files.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.dir)
            .expect("the directory exists")
            .map(|entry| {
                entry
                    .expect("readable")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

impl Blobs for DirBlobs {
    fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(digest)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            Err(io::ErrorKind::FileTooLarge.into())
        } else {
            Ok(Some(bytes))
        }
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.path(digest)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn ingest(&self, digest: &Digest, size: u64) -> io::Result<Box<dyn Ingest>> {
        let part = self.path(digest).with_extension("part");
        let file = OpenOptions::new().create(true).append(true).open(&part)?;
        let offset = file.metadata()?.len();
        Ok(Box::new(Part {
            file,
            part,
            to: self.path(digest),
            digest: *digest,
            size,
            offset,
        }))
    }

    fn fresh(&self) -> io::Result<Box<dyn Fresh>> {
        Ok(Box::new(New {
            dir: self.dir.clone(),
            bytes: Vec::new(),
        }))
    }
}

struct Part {
    file: File,
    part: PathBuf,
    to: PathBuf,
    digest: Digest,
    size: u64,
    offset: u64,
}

impl Ingest for Part {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), CommitError> {
        let failed = |source| CommitError::Io {
            digest: self.digest,
            source,
        };
        let bytes = fs::read(&self.part).map_err(failed)?;
        if bytes.len() as u64 != self.size
            || Sha256::digest(&bytes).as_slice() != self.digest.as_bytes()
        {
            fs::remove_file(&self.part).map_err(failed)?;
            return Err(CommitError::Digest {
                expected: self.digest,
            });
        }
        fs::rename(&self.part, &self.to).map_err(failed)
    }
}

struct New {
    dir: PathBuf,
    bytes: Vec<u8>,
}

impl io::Write for New {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Fresh for New {
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)> {
        let digest = Digest::of(&self.bytes);
        fs::write(self.dir.join(digest.hex()), &self.bytes)?;
        Ok((digest, self.bytes.len() as u64))
    }
}
