//! Which snapshots exist, who needs them, and which layers they are made of. In memory; the database mirrors it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::snapshot::{Live, SnapshotId};

/// All known snapshots.
#[derive(Debug, Default)]
pub(crate) struct Table {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    snapshots: HashMap<u64, Row>,
    /// By how many snapshots a layer is used.
    layers: HashMap<u64, u32>,
    /// Bytes on disk, where they have been counted.
    pub(crate) sizes: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Row {
    layers: Arc<[u64]>,
    /// How many results name it.
    results: u32,
    live: Weak<Live>,
}

/// A known snapshot.
pub(crate) struct Found {
    pub(crate) layers: Arc<[u64]>,
    /// The handle others hold, if any does.
    pub(crate) live: Option<Arc<Live>>,
}

impl Table {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Enters a snapshot that the caller is about to hold or that a result names.
    pub(crate) fn insert(&mut self, id: u64, layers: Arc<[u64]>) {
        for layer in &*layers {
            *self.layers.entry(*layer).or_default() += 1;
        }
        self.snapshots.insert(
            id,
            Row {
                layers,
                results: 0,
                live: Weak::new(),
            },
        );
    }

    /// Looks a snapshot up. Do not drop the answer while the table is locked.
    pub(crate) fn find(&self, id: SnapshotId) -> Option<Found> {
        self.snapshots.get(&id.0).map(|row| Found {
            layers: row.layers.clone(),
            live: row.live.upgrade(),
        })
    }

    pub(crate) fn layers_of(&self, id: SnapshotId) -> Option<Arc<[u64]>> {
        self.snapshots.get(&id.0).map(|row| row.layers.clone())
    }

    pub(crate) fn set_live(&mut self, id: SnapshotId, live: &Arc<Live>) {
        if let Some(row) = self.snapshots.get_mut(&id.0) {
            row.live = Arc::downgrade(live);
        }
    }

    pub(crate) fn is_live(&self, id: SnapshotId) -> bool {
        self.snapshots
            .get(&id.0)
            .is_some_and(|row| row.live.strong_count() > 0)
    }

    /// A result names it.
    pub(crate) fn retain(&mut self, id: SnapshotId) {
        if let Some(row) = self.snapshots.get_mut(&id.0) {
            row.results += 1;
        }
    }

    /// A result does not name it any more. Answers whether no other does.
    #[must_use]
    pub(crate) fn release(&mut self, id: SnapshotId) -> bool {
        match self.snapshots.get_mut(&id.0) {
            Some(row) => {
                row.results = row.results.saturating_sub(1);
                row.results == 0
            }
            None => false,
        }
    }

    /// Forgets a snapshot that neither a handle nor a result needs. Answers the layers that nothing needs now.
    #[must_use]
    pub(crate) fn collect(&mut self, id: SnapshotId) -> Vec<u64> {
        match self.snapshots.get(&id.0) {
            Some(row) if row.results == 0 && row.live.strong_count() == 0 => {}
            _ => return Vec::new(),
        }
        let Some(row) = self.snapshots.remove(&id.0) else {
            return Vec::new();
        };
        let mut free = Vec::new();
        for layer in &*row.layers {
            if let Some(count) = self.layers.get_mut(layer) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.layers.remove(layer);
                    self.sizes.remove(layer);
                    free.push(*layer);
                }
            }
        }
        free
    }

    /// Whether any snapshot is made of this layer.
    pub(crate) fn uses_layer(&self, layer: u64) -> bool {
        self.layers.contains_key(&layer)
    }

    /// Snapshots that no result names, each with its layers: they live by their handles alone.
    pub(crate) fn unrecorded(&self) -> Vec<Arc<[u64]>> {
        self.snapshots
            .values()
            .filter(|row| row.results == 0)
            .map(|row| row.layers.clone())
            .collect()
    }
}
