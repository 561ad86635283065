//! Writable trees.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use sys::mount::Overlay;

use crate::{
    DiskError, Inner, Snapshot, Store, disk,
    disk::on,
    snapshot::EMPTY_LAYER,
    tree::{self, Place, Tree, TreeError},
};

/// A tree being written. [`Draft::commit`] makes it a snapshot; dropping it throws it away.
#[derive(Debug)]
pub struct Draft {
    id: u64,
    store: Arc<Inner>,
    parent: Option<Snapshot>,
    dir: PathBuf,
    upper: PathBuf,
    /// Each mount gets a work directory of its own: a volatile one cannot be mounted twice.
    mounts: AtomicU32,
    tree: Mutex<Weak<Place>>,
}

/// Why a draft did not become a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A call on the store's own files failed.
    #[error("cannot commit a tree")]
    Disk(#[from] DiskError),
    /// Squashing a long chain failed.
    #[error("cannot squash a chain of {layers} layers")]
    Squash {
        /// How long it was.
        layers: usize,
        /// What failed.
        #[source]
        source: TreeError,
    },
}

impl Store {
    /// A new writable tree that starts as a copy of `parent`, or empty.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn draft(&self, parent: Option<&Snapshot>) -> Result<Draft, DiskError> {
        let store = self.inner.clone();
        let id = store.new_id();
        let dir = store.layout.draft(id);
        let upper = dir.join("upper");
        fs::create_dir(&dir).map_err(on("create", &dir))?;
        let parent = parent.filter(|p| !p.layer_ids().is_empty()).cloned();
        let draft = Draft { id, store, parent, dir, upper, mounts: AtomicU32::new(0), tree: Mutex::default() };
        disk::make_dir(&draft.upper, 0o755)?;
        if let Some(root) = draft.parent_root() {
            // An overlay's root is its upper directory: it must look like the root it replaces.
            tree::copy_root_metadata(&root, &draft.upper)?;
            let work = draft.dir.join("work");
            fs::create_dir(&work).map_err(on("create", &work))?;
        }
        Ok(draft)
    }
}

impl Draft {
    /// The layer being written. With a parent it holds only the changes, as overlayfs writes them.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// A writable mount of the tree, with a work directory that no earlier mount used.
    ///
    /// If that directory cannot be made, mounting says so.
    pub fn overlay(&self) -> Overlay {
        let lower = match &self.parent {
            Some(parent) => parent.layers(),
            None => vec![self.store.layout.layer(EMPTY_LAYER)],
        };
        let all = self.dir.join("work");
        let work = all.join(self.mounts.fetch_add(1, Ordering::Relaxed).to_string());
        if let Err(error) = fs::create_dir_all(&work) {
            tracing::debug!(path = %work.display(), %error, "cannot make a work directory");
        }
        Overlay { lower, upper: Some((self.upper.clone(), work)) }
    }

    /// The tree, for reading and writing. Drop it before the draft is mounted elsewhere or committed.
    ///
    /// # Errors
    /// When the mount is refused.
    pub fn tree(&self) -> Result<Tree, TreeError> {
        let mut cached = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = cached.upgrade() {
            return Ok(Tree::at(place));
        }
        let root = match self.parent {
            // What has nothing below is its own view.
            None => disk::open_dir(&self.upper)?,
            Some(_) => sys::mount::overlay(&self.overlay())?,
        };
        let place = Arc::new(Place::new(root, self.parent.clone()));
        *cached = Arc::downgrade(&place);
        Ok(Tree::at(place))
    }

    /// Makes it an immutable snapshot. A draft in which nothing changed becomes its parent.
    ///
    /// All mounts of it must be gone.
    ///
    /// # Errors
    /// When the layer cannot be moved to its place, or a long chain cannot be squashed; the draft is lost.
    pub fn commit(self) -> Result<Snapshot, CommitError> {
        match self.unchanged()? {
            Some(Unchanged::Parent(parent)) => return Ok(parent),
            Some(Unchanged::Empty) => return Ok(Store { inner: self.store.clone() }.empty()?),
            None => {}
        }
        let layer = self.store.layout.layer(self.id);
        disk::rename(&self.upper, &layer)?;
        let mut layers = vec![self.id];
        if let Some(parent) = &self.parent {
            layers.extend_from_slice(parent.layer_ids());
        }
        if layers.len() > self.store.options.max_layers {
            // Held by a snapshot meanwhile, so that the layer goes if squashing fails.
            let whole = self.store.enter(layers.clone());
            let squashed = self.store.squash(layers)?;
            let snapshot = self.store.enter(squashed);
            drop(whole);
            return Ok(snapshot);
        }
        Ok(self.store.enter(layers))
    }

    fn parent_root(&self) -> Option<PathBuf> {
        self.parent.as_ref().and_then(|parent| parent.layers().into_iter().next())
    }

    /// What the draft is, if nothing was written to it.
    fn unchanged(&self) -> Result<Option<Unchanged>, DiskError> {
        let upper = disk::open_dir(&self.upper)?;
        if !tree::is_empty_dir(upper.as_fd()).map_err(on("list", &self.upper))? {
            return Ok(None);
        }
        let now = fs::metadata(&self.upper).map_err(on("look at", &self.upper))?;
        let looks = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid());
        match (&self.parent, self.parent_root()) {
            (Some(parent), Some(root)) => {
                let was = fs::metadata(&root).map_err(on("look at", &root))?;
                let same = looks(&now) == looks(&was) && tree::same_xattrs(&self.upper, &root).map_err(on("look at", &root))?;
                Ok(same.then(|| Unchanged::Parent(parent.clone())))
            }
            _ => Ok((looks(&now) == (0o40755, 0, 0)).then_some(Unchanged::Empty)),
        }
    }
}

enum Unchanged {
    Parent(Snapshot),
    Empty,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a commit this holds overlayfs's work directory, which must be gone before the layer is mounted as a lower
        // one only in so far as nothing may use it any more.
        self.store.trash.take_or_warn(&self.dir);
    }
}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}
