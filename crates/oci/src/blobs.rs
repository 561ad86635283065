//! Where blobs are kept. The store is one; tests keep them in memory.

use std::{fs::File, io};

use crate::digest::Digest;

/// A place for blobs named by digest. All calls may block and are made on blocking threads.
pub trait Blobs: Send + Sync + 'static {
    /// The whole blob if it is there.
    ///
    /// # Errors
    /// It cannot be read, or has more than `limit` bytes.
    fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>>;

    /// The blob as a file if it is there.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&self, digest: &Digest) -> io::Result<Option<File>>;

    /// Begins or continues to write a blob.
    ///
    /// # Errors
    /// There is no room, or someone else is writing it.
    fn ingest(&self, digest: &Digest, size: u64) -> io::Result<Box<dyn Ingest>>;

    /// Begins to make a blob whose digest is not known yet.
    ///
    /// # Errors
    /// There is no room.
    fn fresh(&self) -> io::Result<Box<dyn Fresh>>;
}

/// A blob being made. Dropped before it is committed, it is gone.
pub trait Fresh: io::Write + Send {
    /// Makes it visible, and gives its digest and size.
    ///
    /// # Errors
    /// The disk's.
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)>;
}

/// A blob being written. Dropped before it is committed, it may keep what it has for another day.
pub trait Ingest: Send {
    /// How many bytes are there already.
    fn offset(&self) -> u64;

    /// Appends.
    ///
    /// # Errors
    /// The disk's.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Checks digest and size and makes the blob visible. A blob that fails is thrown away.
    ///
    /// # Errors
    /// It is not the blob it was announced as, or the disk's.
    fn commit(self: Box<Self>) -> Result<(), CommitError>;
}

/// Why a blob was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Other contents than announced.
    #[error("content has another digest than {expected}")]
    Digest {
        /// As announced.
        expected: Digest,
    },
    /// It could not be written.
    #[error("cannot store blob {digest}")]
    Io {
        /// The blob.
        digest: Digest,
        /// The disk's answer.
        #[source]
        source: io::Error,
    },
}
