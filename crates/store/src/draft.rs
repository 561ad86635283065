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
    slots::Slot,
    snapshot::EMPTY_LAYER,
    tree::{self, CopyOptions, Place, Tree, TreeError},
};

/// A tree being written. [`Draft::commit`] makes it a snapshot; dropping it throws it away.
#[derive(Debug)]
pub struct Draft {
    store: Arc<Inner>,
    parent: Option<Snapshot>,
    /// There until the draft is dropped.
    slot: Option<Slot>,
    upper: PathBuf,
    /// Each mount gets a work directory of its own: a volatile one cannot be mounted twice.
    mounts: AtomicU32,
    state: State,
    tree: Mutex<Weak<Place>>,
}

/// What is known of the upper directory when the draft is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may hold anything.
    Unknown,
    /// It is empty and looks like the parent's root.
    Unchanged,
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
        let slot = store.take_slot()?;
        let upper = slot.upper();
        let parent = parent.filter(|p| !p.layer_ids().is_empty()).cloned();
        let (mounts, tree) = (AtomicU32::new(0), Mutex::default());
        let draft = Draft {
            store,
            parent,
            slot: Some(slot),
            upper,
            mounts,
            state: State::Unknown,
            tree,
        };
        // An overlay's root is its upper directory: it must look like the root it replaces.
        tree::copy_root_metadata(&draft.parent_root(), &draft.upper)?;
        Ok(draft)
    }
}

impl Store {
    /// A snapshot in which directory `from` of `source` is copied to `to` of `parent`, as [`Tree::copy_dir`] does it. If the
    /// source is one layer, its files are not copied but shared, without any mount; otherwise they are copied.
    ///
    /// # Errors
    /// As [`Tree::copy_dir`], or when the layer cannot be made.
    pub fn copied(
        &self,
        parent: Option<&Snapshot>,
        source: &Snapshot,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
        options: &CopyOptions,
    ) -> Result<Snapshot, CopiedError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let below = match parent {
            Some(parent) => parent.tree()?,
            None => self.empty()?.tree()?,
        };
        let files = source.tree()?;
        if source.layer_ids().len() == 1 {
            let draft = self.draft(parent)?;
            if Tree::open_dir(draft.upper())?.share_dir(&below, &files, from, to, options)? {
                return Ok(draft.commit()?);
            }
        }
        let draft = self.draft(parent)?;
        draft.tree()?.copy_dir(&files, from, to, options)?;
        Ok(draft.commit()?)
    }
}

/// Why [`Store::copied`] failed.
#[derive(Debug, thiserror::Error)]
pub enum CopiedError {
    /// The copy itself.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Making the snapshot.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<DiskError> for CopiedError {
    fn from(error: DiskError) -> CopiedError {
        CopiedError::Tree(error.into())
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
        let n = self.mounts.fetch_add(1, Ordering::Relaxed);
        let work = self
            .slot
            .as_ref()
            .map(|slot| slot.work(&self.store, n))
            .unwrap_or_default();
        Overlay {
            lower,
            upper: Some((self.upper.clone(), work)),
        }
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
    pub fn commit(mut self) -> Result<Snapshot, CommitError> {
        if self.is_unchanged()? {
            self.state = State::Unchanged;
            return match &self.parent {
                Some(parent) => Ok(parent.clone()),
                None => Ok(Store {
                    inner: self.store.clone(),
                }
                .empty()?),
            };
        }
        let id = self.store.new_id();
        let layer = self.store.layout.layer(id);
        disk::rename(&self.upper, &layer)?;
        let mut layers = vec![id];
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

    /// The directory that the upper one covers.
    fn parent_root(&self) -> PathBuf {
        let parent = self
            .parent
            .as_ref()
            .and_then(|parent| parent.layers().into_iter().next());
        parent.unwrap_or_else(|| self.store.layout.layer(EMPTY_LAYER))
    }

    /// Whether nothing was written.
    fn is_unchanged(&self) -> Result<bool, DiskError> {
        let upper = disk::open_dir(&self.upper)?;
        if !tree::is_empty_dir(upper.as_fd()).map_err(on("list", &self.upper))? {
            return Ok(false);
        }
        let root = self.parent_root();
        let looks = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid());
        let now = fs::metadata(&self.upper).map_err(on("look at", &self.upper))?;
        let was = fs::metadata(&root).map_err(on("look at", &root))?;
        Ok(looks(&now) == looks(&was)
            && tree::same_xattrs(&self.upper, &root).map_err(on("look at", &root))?)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let mounts = *self.mounts.get_mut();
        if let Some(slot) = self.slot.take() {
            self.store
                .give_back(slot, mounts, self.state == State::Unchanged && mounts == 0);
        }
    }
}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}
