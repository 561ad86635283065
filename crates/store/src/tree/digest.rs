//! Digests of contents.

use std::{fs::File, io::Read, os::fd::AsFd};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::{Kind, Stat, Tree, TreeError, fstat, on};

impl Tree {
    /// `sha256:…` of everything at and below a path: kinds, permissions, owners, names, contents and link targets, but no
    /// times.
    ///
    /// # Errors
    /// When there is nothing, or something cannot be read.
    pub fn digest(&self, path: impl AsRef<[u8]>) -> Result<String, TreeError> {
        let path = path.as_ref();
        let fd = self.open_at_path(path, OFlags::PATH)?;
        let stat = fstat(fd.as_fd()).map_err(on("look at", path))?;
        if !stat.is_dir() {
            return self.file_digest(path, false);
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        entry(&mut hash, b"", &stat);
        self.walk(path, &mut |walked| {
            entry(&mut hash, walked.path, walked.stat);
            match walked.stat.kind {
                Kind::File => {
                    hash.update(contents(self.open_at(walked)?, &mut buffer, walked.path)?)
                }
                Kind::Symlink => text(&mut hash, &self.read_link_at(walked)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(shown(&hash.finalize()))
    }

    /// `sha256:…` of a file: its contents, and unless told otherwise its permissions and owner.
    ///
    /// # Errors
    /// When it is no file, or cannot be read.
    pub fn file_digest(
        &self,
        path: impl AsRef<[u8]>,
        exclude_metadata: bool,
    ) -> Result<String, TreeError> {
        let path = path.as_ref();
        let (file, stat) = self.open_regular(path)?;
        let contents = contents(file, &mut vec![0; 128 << 10], path)?;
        if exclude_metadata {
            return Ok(shown(&contents));
        }
        let mut hash = Sha256::new();
        entry(&mut hash, b"", &stat);
        hash.update(contents);
        Ok(shown(&hash.finalize()))
    }
}

fn entry(hash: &mut Sha256, path: &[u8], stat: &Stat) {
    let kind = match stat.kind {
        Kind::File => b'f',
        Kind::Dir => b'd',
        Kind::Symlink => b'l',
        Kind::Fifo => b'p',
        Kind::Socket => b's',
        Kind::CharDevice => b'c',
        Kind::BlockDevice => b'b',
    };
    // A link's own permissions mean nothing.
    let mode = if stat.kind == Kind::Symlink {
        0
    } else {
        stat.mode
    };
    hash.update([kind]);
    for number in [mode, stat.uid, stat.gid] {
        hash.update(number.to_le_bytes());
    }
    let rdev = if matches!(stat.kind, Kind::CharDevice | Kind::BlockDevice) {
        stat.rdev
    } else {
        0
    };
    hash.update(rdev.to_le_bytes());
    text(hash, path);
}

fn text(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn contents(mut file: File, buffer: &mut [u8], path: &[u8]) -> Result<[u8; 32], TreeError> {
    let mut hash = Sha256::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(TreeError::io("read", path, e)),
        }
    }
}

fn shown(hash: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(7 + hash.len() * 2);
    out.push_str("sha256:");
    for byte in hash {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
