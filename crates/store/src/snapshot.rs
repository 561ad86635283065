//! Immutable trees.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use sys::mount::Overlay;

use crate::{
    DiskError, Inner, Store,
    db::Write,
    disk,
    table::Found,
    tree::{Place, Tree, TreeError},
};

/// The number of a snapshot: never used twice in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// An immutable tree, kept in the store while this handle or a clone of it exists.
#[derive(Clone)]
pub struct Snapshot {
    live: Arc<Live>,
}

/// What the handles of one snapshot share.
pub(crate) struct Live {
    id: SnapshotId,
    layers: Arc<[u64]>,
    store: Arc<Inner>,
    tree: Mutex<Weak<Place>>,
}

/// The directory that stands for a tree without layers.
pub(crate) const EMPTY_LAYER: u64 = 0;
/// A second empty directory: a read-only overlay needs two lower ones, and they must differ.
pub(crate) const OTHER_EMPTY_LAYER: u64 = 1;

impl Snapshot {
    /// Its number.
    pub fn id(&self) -> SnapshotId {
        self.live.id
    }

    /// The layer directories, uppermost first; one empty directory for the empty tree.
    pub fn layers(&self) -> Vec<PathBuf> {
        let layout = &self.live.store.layout;
        if self.live.layers.is_empty() {
            return vec![layout.layer(EMPTY_LAYER)];
        }
        self.live
            .layers
            .iter()
            .map(|id| layout.layer(*id))
            .collect()
    }

    /// A read-only mount of it.
    pub fn overlay(&self) -> Overlay {
        let mut lower = self.layers();
        if lower.len() == 1 {
            lower.push(self.live.store.layout.layer(OTHER_EMPTY_LAYER));
        }
        Overlay { lower, upper: None }
    }

    /// The tree, for reading. One mount serves all who look at the same time.
    ///
    /// # Errors
    /// When the mount is refused.
    pub fn tree(&self) -> Result<Tree, TreeError> {
        let mut cached = self
            .live
            .tree
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = cached.upgrade() {
            return Ok(Tree::at(place));
        }
        let root = match self.layers().as_slice() {
            [only] => disk::open_dir(only)?,
            _ => sys::mount::overlay(&self.overlay())?,
        };
        let place = Arc::new(Place::new(root, Some(self.clone())));
        *cached = Arc::downgrade(&place);
        Ok(Tree::at(place))
    }

    pub(crate) fn layer_ids(&self) -> &Arc<[u64]> {
        &self.live.layers
    }

    pub(crate) fn is_of(&self, store: &Arc<Inner>) -> bool {
        Arc::ptr_eq(&self.live.store, store)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Snapshot({}, {} layers)",
            self.live.id,
            self.live.layers.len()
        )
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Snapshot) -> bool {
        self.live.id == other.live.id && Arc::ptr_eq(&self.live.store, &other.live.store)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Live({})", self.id)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let free = self.store.table.lock().collect(self.id);
        self.store.throw_away(free);
    }
}

impl Store {
    /// The empty tree.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn empty(&self) -> Result<Snapshot, DiskError> {
        for id in [EMPTY_LAYER, OTHER_EMPTY_LAYER] {
            disk::ensure_dir(&self.inner.layout.layer(id), 0o755)?;
        }
        Ok(self.inner.adopt(SnapshotId(0), Arc::new([])))
    }

    /// A snapshot by its number, if it still exists.
    pub fn snapshot(&self, id: SnapshotId) -> Option<Snapshot> {
        self.inner.snapshot(id)
    }

    /// One tree of several, as if each were copied over those before it: `[base, …, top]`. Nothing is copied.
    ///
    /// Deletions that a snapshot's upper layers record delete from those before it too.
    ///
    /// # Errors
    /// When a chain has become so long that it must be squashed, and that fails.
    pub fn stack(&self, lowest_first: &[Snapshot]) -> Result<Snapshot, crate::CommitError> {
        let layers: Vec<u64> = lowest_first
            .iter()
            .rev()
            .flat_map(|s| s.layer_ids().iter().copied())
            .collect();
        let layers = self.inner.squash(layers)?;
        Ok(self.inner.enter(layers))
    }
}

impl Inner {
    /// A handle to a known snapshot.
    pub(crate) fn snapshot(self: &Arc<Inner>, id: SnapshotId) -> Option<Snapshot> {
        let mut table = self.table.lock();
        let Found { layers, live } = table.find(id)?;
        let live = live.unwrap_or_else(|| {
            let live = Arc::new(Live {
                id,
                layers,
                store: self.clone(),
                tree: Mutex::default(),
            });
            table.set_live(id, &live);
            live
        });
        drop(table);
        Some(Snapshot { live })
    }

    /// A new snapshot of these layers.
    pub(crate) fn enter(self: &Arc<Inner>, layers: Vec<u64>) -> Snapshot {
        self.adopt(SnapshotId(self.new_id()), layers.into())
    }

    /// A handle to a snapshot, entering it if need be.
    fn adopt(self: &Arc<Inner>, id: SnapshotId, layers: Arc<[u64]>) -> Snapshot {
        let mut table = self.table.lock();
        let known = table.find(id);
        if known.is_none() {
            table.insert(id.0, layers.clone());
        }
        let live = known.and_then(|found| found.live).unwrap_or_else(|| {
            let live = Arc::new(Live {
                id,
                layers,
                store: self.clone(),
                tree: Mutex::default(),
            });
            table.set_live(id, &live);
            live
        });
        drop(table);
        Snapshot { live }
    }

    /// Deletes layers that nothing needs.
    pub(crate) fn throw_away(&self, layers: Vec<u64>) {
        for layer in &layers {
            self.trash.take_or_warn(&self.layout.layer(*layer));
        }
        if !layers.is_empty() {
            self.writer.write(Write::RemoveLayers(layers));
        }
    }
}
