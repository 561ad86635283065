//! What the store holds, and what it costs.

use std::collections::{HashMap, HashSet};

use crate::{
    DiskError, Inner, SnapshotId, Store, blobs::to_hex, db::Write, disk::on, prune::Item,
    tree::Tree,
};

/// What kind of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// A result with its trees.
    Result,
    /// A blob.
    Blob,
    /// A cache volume.
    Volume,
}

/// One thing that the store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its key in hexadecimal digits, its digest, or its volume key.
    pub id: String,
    /// What it is, for people.
    pub description: String,
    /// Bytes on disk. A layer that several results share counts for the oldest, so that the sum is right.
    pub size: u64,
    /// When it came to be, nanoseconds since the epoch.
    pub created_ns: i64,
    /// When it was last used.
    pub last_used_ns: i64,
    /// Whether something holds it now, so that it cannot be pruned.
    pub in_use: bool,
}

/// A file system's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that can be used.
    pub free: u64,
}

impl Store {
    /// Everything the store holds, oldest first. Layers are measured the first time, which takes a walk through them.
    pub fn usage(&self) -> Vec<Entry> {
        let items = self.inner.items();
        let sizes = self
            .inner
            .layer_sizes(items.iter().flat_map(|item| item.layers.iter().copied()));
        let mut counted = HashSet::new();
        let entry = |item: Item| {
            let layers: u64 = item
                .layers
                .iter()
                .filter(|l| counted.insert(**l))
                .filter_map(|layer| sizes.get(layer))
                .sum();
            Entry {
                kind: item.kind,
                id: item.id,
                description: item.description,
                size: item.size.saturating_add(layers),
                created_ns: item.created,
                last_used_ns: item.last_used,
                in_use: item.in_use,
            }
        };
        items.into_iter().map(entry).collect()
    }

    /// The room on the store's file system.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn disk(&self) -> Result<Disk, DiskError> {
        let root = self.inner.layout.root();
        let stat = rustix::fs::statvfs(root).map_err(on("look at", root))?;
        Ok(Disk {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

impl Inner {
    /// Everything the store holds, oldest first.
    pub(crate) fn items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        {
            let seen = self.results.seen();
            let table = self.table.lock();
            for result in seen {
                let mut layers = Vec::new();
                for of in result
                    .outputs
                    .iter()
                    .filter_map(|id| table.layers_of(SnapshotId(*id)))
                {
                    layers.extend_from_slice(&of);
                }
                layers.sort_unstable();
                layers.dedup();
                items.push(Item {
                    kind: EntryKind::Result,
                    id: to_hex(&result.key),
                    key: Some(result.key),
                    description: result.description.to_string(),
                    layers,
                    size: result.extra,
                    created: result.created,
                    last_used: result.last_used,
                    in_use: result
                        .outputs
                        .iter()
                        .any(|id| *id != 0 && table.is_live(SnapshotId(*id))),
                });
            }
        }
        for row in self.blobs.rows() {
            items.push(Item {
                kind: EntryKind::Blob,
                description: format!("blob {}", row.digest),
                id: row.digest,
                key: None,
                layers: Vec::new(),
                size: row.size,
                created: row.created,
                last_used: row.last_used,
                in_use: false,
            });
        }
        for (row, in_use) in self.volumes.rows() {
            let dir = crate::volumes::directory(&self.layout, &row.key);
            items.push(Item {
                kind: EntryKind::Volume,
                description: format!("cache volume {}", row.key),
                size: blocks_below(&dir),
                id: row.key,
                key: None,
                layers: Vec::new(),
                created: row.created,
                last_used: row.last_used,
                in_use,
            });
        }
        items.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        items
    }

    /// Bytes on disk of layers.
    pub(crate) fn layer_sizes(&self, layers: impl Iterator<Item = u64>) -> HashMap<u64, u64> {
        let mut sizes = HashMap::new();
        let mut unknown = Vec::new();
        {
            let table = self.table.lock();
            for layer in layers {
                match table.sizes.get(&layer) {
                    Some(size) => drop(sizes.insert(layer, *size)),
                    None => unknown.push(layer),
                }
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        let measured: Vec<(u64, u64)> = unknown
            .into_iter()
            .map(|layer| (layer, blocks_below(&self.layout.layer(layer))))
            .collect();
        if measured.is_empty() {
            return sizes;
        }
        let mut table = self.table.lock();
        let known: Vec<(u64, u64)> = measured
            .iter()
            .copied()
            .filter(|(layer, _)| table.uses_layer(*layer))
            .collect();
        table.sizes.extend(known.iter().copied());
        drop(table);
        self.writer.write(Write::LayerSizes(known));
        sizes.extend(measured);
        sizes
    }
}

/// Bytes on disk of everything below a directory, roughly; what cannot be seen counts nothing.
fn blocks_below(dir: &std::path::Path) -> u64 {
    let mut total = 0_u64;
    let measured = Tree::open_dir(dir).and_then(|tree| {
        tree.walk("", &mut |walked| {
            let stat = walked.stat;
            // A file with several names, here or in other layers, costs each of them its share.
            let names = if stat.is_dir() { 1 } else { stat.nlink.max(1) };
            total = total.saturating_add(stat.blocks.saturating_mul(512) / names);
            Ok(())
        })
    });
    if let Err(error) = measured {
        tracing::debug!(dir = %dir.display(), %error, "cannot measure");
    }
    total
}
