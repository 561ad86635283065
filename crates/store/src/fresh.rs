//! Blobs made here, whose digest is known only when they are whole.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    sync::Arc,
};

use sha2::{Digest, Sha256};

use crate::{
    Blobs, IngestError, Inner,
    blobs::to_hex,
    disk::{self, on},
    layout,
};

/// A blob being made. Dropping it throws it away.
#[derive(Debug)]
pub struct Fresh {
    store: Arc<Inner>,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
    /// It has become a blob.
    placed: bool,
}

impl Blobs {
    /// Begins to make a blob.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn fresh(&self) -> Result<Fresh, IngestError> {
        let store = self.store.upgrade().ok_or(IngestError::Closed)?;
        let path = store.layout.tmp().join(layout::name(store.new_id()));
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(on("create", &path))?;
        Ok(Fresh {
            store,
            path,
            file,
            hash: Sha256::new(),
            size: 0,
            placed: false,
        })
    }
}

impl Fresh {
    /// Makes what was written a blob, and gives its digest (`sha256:…`) and size.
    ///
    /// # Errors
    /// A failed call on its file.
    pub fn commit(mut self) -> Result<(String, u64), IngestError> {
        let hex = to_hex(&self.hash.finalize_reset());
        let digest = self.store.blobs.place(&hex, self.size, |to| {
            disk::rename(&self.path, to)?;
            Ok(())
        })?;
        self.placed = true;
        Ok((digest, self.size))
    }
}

impl io::Write for Fresh {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = io::Write::write(&mut self.file, bytes)?;
        self.hash.update(bytes.get(..n).unwrap_or_default());
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut self.file)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove an unfinished blob");
        }
    }
}
