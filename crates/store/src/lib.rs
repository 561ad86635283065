//! The store: blobs by digest, trees as stacks of overlay layers, cache volumes, and an index of results.
//!
//! ```text
//! <state dir>/
//!   lock                     held by the one engine that uses the store; names its pid
//!   format.json              what a reader must understand
//!   db, db-wal, db-shm       SQLite: results, layer sizes, blobs, volumes, facts. A cache of what is below: losing it loses
//!                            only results
//!   blobs/sha256/ab/abcd…    whole and verified; nothing else ever has such a name
//!   ingest/<hex>             blobs on their way, kept to be resumed
//!   layers/<id>/             one committed layer: what was the upper directory of a draft. Never changes again
//!   drafts/<id>/upper        a tree being written; used again for another
//!   drafts/<id>/work/<n>     overlayfs's own, one per mount
//!   volumes/<hash>/data      a cache volume
//!   tmp/<id>                 scratch of running work
//!   trash/<id>               being deleted
//! ```
//!
//! The store is crash-only. Everything appears whole by `rename` and is recorded after, so what a crash leaves is exactly
//! what no record mentions, and [`Store::open`] sweeps it. A machine that loses power may lose file contents that were
//! never written back: records newer than the last `syncfs` are dropped when the machine has booted since.
//!
//! A [`Snapshot`] is an immutable tree: layers, uppermost first. A [`Draft`] is a writable one that becomes a snapshot by
//! [`Draft::commit`]. A snapshot lives while a handle to it exists or a result names it; its layers live with it.

#![forbid(unsafe_code)]

mod blobs;
mod clock;
mod db;
mod disk;
mod draft;
mod facts;
mod fresh;
mod layout;
mod open;
mod prune;
mod results;
mod room;
mod slots;
mod snapshot;
mod squash;
mod table;
mod trash;
mod tree;
mod usage;
mod volumes;
mod writer;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

pub use blobs::{Blobs, Ingest, IngestError};
pub use db::DbError;
pub use disk::DiskError;
pub use draft::{CommitError, CopiedError, Draft};
pub use facts::Facts;
pub use fresh::Fresh;
pub use open::OpenError;
pub use prune::{Policy, Report, Rule};
pub use results::{Record, Results};
pub use snapshot::{Snapshot, SnapshotId};
pub use tree::{
    Change, CopyOptions, Kind, Listed, Modes, Stat, Top, Tree, TreeError, Walked, What,
};
pub use usage::{Disk, Entry, EntryKind};
pub use volumes::Volume;

/// The key of a result.
pub type Key = [u8; 32];

/// How a store is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chains of more layers than this are squashed: every layer costs 2 µs on each look-up of a missing name.
    pub max_layers: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { max_layers: 64 }
    }
}

/// An open store. Cheap to clone; all methods may block on the disk.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What all handles share. Fields are dropped in order: the lock goes last.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: layout::Layout,
    pub(crate) options: Options,
    next_id: AtomicU64,
    pub(crate) table: table::Table,
    results: results::Results,
    facts: facts::Facts,
    blobs: blobs::Blobs,
    volumes: volumes::Volumes,
    slots: slots::Slots,
    pub(crate) writer: writer::Writer,
    pub(crate) trash: Arc<trash::Trash>,
    prune_lock: std::sync::Mutex<()>,
    _lock: std::fs::File,
}

impl Store {
    /// The state directory.
    pub fn dir(&self) -> &Path {
        self.inner.layout.root()
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// The persistent cache.
    pub fn results(&self) -> &Results {
        &self.inner.results
    }

    /// Small facts.
    pub fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// Waits until everything recorded so far is in the database.
    ///
    /// # Errors
    /// When the last write failed; the store goes on from memory.
    pub fn flush(&self) -> Result<(), DbError> {
        self.inner.writer.flush()
    }

    /// Writes everything out. Call it once, when nothing else uses the store; not calling it loses nothing but the last uses.
    ///
    /// # Errors
    /// As [`Store::flush`].
    pub fn close(&self) -> Result<(), DbError> {
        self.inner.results.write_uses();
        self.inner.writer.flush()
    }

    /// Waits until what was thrown away so far is gone from the disk. For tests and `prune`.
    pub fn empty_trash(&self) {
        self.inner.trash.wait();
    }
}

impl Inner {
    /// A number that this store has never used and never will again.
    pub(crate) fn new_id(&self) -> u64 {
        self.next_id
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}
