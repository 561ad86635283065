//! The persistent cache: a key, the trees that came of it, and what else there is to know.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rusqlite::Connection;

use crate::{
    Inner, Key, Snapshot, SnapshotId, clock,
    db::{self, ResultRow, Write},
};

/// Uses that are remembered before they are written.
const USES: usize = 256;

/// The index of results. All of it is in memory, so a look-up takes no system call.
pub struct Results {
    state: Mutex<State>,
    reader: Arc<Mutex<Connection>>,
    store: Weak<Inner>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    used: Vec<Key>,
    /// Entries whose large extra need not stay in memory once the change of this number is committed.
    large: Vec<(u64, Key, u64)>,
}

struct Entry {
    /// Grows with every record of the store.
    seq: u64,
    outputs: Vec<u64>,
    /// `None` when it is so large that it stays on disk.
    extra: Option<Arc<[u8]>>,
    description: Arc<str>,
    created: i64,
    last_used: i64,
    /// Used since that was last written.
    touched: bool,
}

/// A result.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its trees.
    pub outputs: Vec<Snapshot>,
    /// What the engine keeps with it.
    pub extra: Arc<[u8]>,
    /// What it was, for people.
    pub description: Arc<str>,
    /// When it came to be, nanoseconds since the epoch.
    pub created_ns: i64,
    /// When it was last used before this time.
    pub last_used_ns: i64,
}

/// A result as `prune` and `usage` see it.
pub(crate) struct Seen {
    pub(crate) key: Key,
    pub(crate) outputs: Vec<u64>,
    pub(crate) description: Arc<str>,
    pub(crate) created: i64,
    pub(crate) last_used: i64,
    pub(crate) extra: u64,
}

impl Results {
    pub(crate) fn new(
        rows: Vec<ResultRow>,
        reader: Arc<Mutex<Connection>>,
        store: Weak<Inner>,
    ) -> Results {
        let entry = |row: ResultRow| {
            let entry = Entry {
                seq: row.seq,
                outputs: row.outputs,
                extra: row.extra.map(Arc::from),
                description: row.description.into(),
                created: row.created,
                last_used: row.last_used,
                touched: false,
            };
            (row.key, entry)
        };
        let entries = rows.into_iter().map(entry).collect();
        Results {
            state: Mutex::new(State {
                entries,
                ..State::default()
            }),
            reader,
            store,
        }
    }

    /// What is known under a key. The trees are held by the answer.
    pub fn get(&self, key: &Key) -> Option<Record> {
        let store = self.store.upgrade()?;
        let now = clock::now_ns();
        let (record, missing_extra, used) = {
            let mut state = self.lock();
            let State { entries, used, .. } = &mut *state;
            let entry = entries.get_mut(key)?;
            let outputs = entry
                .outputs
                .iter()
                .map(|id| store.snapshot(SnapshotId(*id)))
                .collect::<Option<Vec<_>>>()?;
            let record = Record {
                outputs,
                extra: entry.extra.clone().unwrap_or_default(),
                description: entry.description.clone(),
                created_ns: entry.created,
                last_used_ns: entry.last_used,
            };
            entry.last_used = now;
            if !std::mem::replace(&mut entry.touched, true) {
                used.push(*key);
            }
            let missing_extra = entry.extra.is_none();
            (record, missing_extra, used.len() >= USES)
        };
        if used {
            self.write_uses();
        }
        if !missing_extra {
            return Some(record);
        }
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match db::extra(&reader, key) {
            Ok(Some(extra)) => Some(Record {
                extra: extra.into(),
                ..record
            }),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot read a result");
                None
            }
        }
    }

    /// Whether something is known under a key.
    pub fn contains(&self, key: &Key) -> bool {
        self.lock().entries.contains_key(key)
    }

    /// Remembers a result, replacing an older one. It is on disk soon after, by [`crate::Store::flush`] for certain.
    pub fn put(&self, key: &Key, outputs: &[Snapshot], extra: &[u8], description: &str) {
        let Some(store) = self.store.upgrade() else {
            return;
        };
        debug_assert!(
            outputs.iter().all(|snapshot| snapshot.is_of(&store)),
            "a snapshot of another store"
        );
        let now = clock::now_ns();
        let row = ResultRow {
            key: *key,
            seq: store.writer.next_seq(),
            outputs: outputs.iter().map(|snapshot| snapshot.id().0).collect(),
            extra: Some(extra.to_vec()),
            description: description.to_owned(),
            created: now,
            last_used: now,
        };
        let snapshots = outputs
            .iter()
            .map(|snapshot| (snapshot.id().0, snapshot.layer_ids().to_vec()))
            .collect();
        let entry = Entry {
            seq: row.seq,
            outputs: row.outputs.clone(),
            extra: Some(extra.into()),
            description: description.into(),
            created: now,
            last_used: now,
            touched: false,
        };
        let free = {
            let mut state = self.lock();
            {
                let mut table = store.table.lock();
                for snapshot in outputs {
                    table.retain(snapshot.id());
                }
            }
            // Queued under the lock, so that the order in the database is the order here.
            let seq = row.seq;
            let turn = store.writer.write(Write::Result { row, snapshots });
            state.forget_large(store.writer.committed());
            if extra.len() > db::EXTRA_IN_MEMORY {
                state.large.push((turn, *key, seq));
            }
            let old = state.entries.insert(*key, entry);
            old.map(|old| store.release(&old.outputs))
                .unwrap_or_default()
        };
        store.throw_away(free);
    }

    /// Forgets a result. Its trees go when nothing else needs them.
    pub fn remove(&self, key: &Key) {
        self.remove_if(key, |_| true);
    }

    /// Forgets a result if it has not been used since, and none of its trees is held. Answers whether it did.
    pub(crate) fn remove_idle(&self, key: &Key, last_used: i64) -> bool {
        let Some(store) = self.store.upgrade() else {
            return false;
        };
        self.remove_if(key, |entry| {
            let table = store.table.lock();
            entry.last_used == last_used
                && !entry
                    .outputs
                    .iter()
                    .any(|id| *id != 0 && table.is_live(SnapshotId(*id)))
        })
    }

    fn remove_if(&self, key: &Key, agreed: impl FnOnce(&Entry) -> bool) -> bool {
        let Some(store) = self.store.upgrade() else {
            return false;
        };
        let free = {
            let mut state = self.lock();
            if !state.entries.get(key).is_some_and(agreed) {
                return false;
            }
            store.writer.write(Write::RemoveResult(*key));
            let old = state.entries.remove(key);
            old.map(|old| store.release(&old.outputs))
                .unwrap_or_default()
        };
        store.throw_away(free);
        true
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queues the times of use that have not been written.
    pub(crate) fn write_uses(&self) {
        let Some(store) = self.store.upgrade() else {
            return;
        };
        self.write_uses_to(&store.writer);
    }

    pub(crate) fn write_uses_to(&self, writer: &crate::writer::Writer) {
        let mut state = self.lock();
        let State { entries, used, .. } = &mut *state;
        let mut uses = Vec::with_capacity(used.len());
        for key in used.drain(..) {
            if let Some(entry) = entries.get_mut(&key) {
                entry.touched = false;
                uses.push((key, entry.last_used));
            }
        }
        drop(state);
        if !uses.is_empty() {
            writer.write(Write::ResultUses(uses));
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        let state = self.lock();
        let seen = |(key, entry): (&Key, &Entry)| Seen {
            key: *key,
            outputs: entry.outputs.clone(),
            description: entry.description.clone(),
            created: entry.created,
            last_used: entry.last_used,
            extra: entry.extra.as_ref().map_or(0, |extra| extra.len() as u64),
        };
        state.entries.iter().map(seen).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_large(&mut self, committed: u64) {
        let State { entries, large, .. } = self;
        large.retain(|(turn, key, seq)| {
            if *turn > committed {
                return true;
            }
            if let Some(entry) = entries.get_mut(key).filter(|entry| entry.seq == *seq) {
                entry.extra = None;
            }
            false
        });
    }
}

impl Inner {
    /// A result does not name these snapshots any more. Answers the layers that nothing needs now. Called with the index
    /// locked, so that nothing comes in between.
    fn release(&self, ids: &[u64]) -> Vec<u64> {
        let mut table = self.table.lock();
        let gone: Vec<u64> = ids
            .iter()
            .copied()
            .filter(|id| table.release(SnapshotId(*id)))
            .collect();
        let free = gone
            .iter()
            .flat_map(|id| table.collect(SnapshotId(*id)))
            .collect();
        drop(table);
        if !gone.is_empty() {
            self.writer.write(Write::RemoveSnapshots(gone));
        }
        free
    }
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Results({})", self.len())
    }
}
