//! What a session remembers: results by digest, and computations under way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::value::Value;

use super::task::{Task, Waiter};

/// The digest of a call, and whose memory it is in: 0 the session's, else a client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) u128, pub(crate) u64);

enum Slot {
    Done(Value),
    Running(Arc<Task>),
}

/// What is known of a call.
pub(crate) enum Found {
    Done(Value),
    Running(Waiter),
    /// Nothing yet: the asker computes it, as this task.
    Nothing(Arc<Task>),
}

const SHARDS: usize = 16;
/// Texts larger than this are computed again rather than remembered.
const MAX_TEXT: usize = 1 << 20;

/// All slots, spread over locks that are only held for a look-up.
pub(crate) struct Memory {
    shards: [Mutex<HashMap<Key, Slot>>; SHARDS],
}

impl Default for Memory {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Memory {
    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.shards[key.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins what is there, or begins.
    pub(crate) fn find(&self, key: &Key) -> Found {
        let mut shard = self.shard(key);
        match shard.get(key) {
            Some(Slot::Done(v)) => Found::Done(v.clone()),
            Some(Slot::Running(task)) => Found::Running(task.join()),
            None => {
                let task = Task::new();
                shard.insert(*key, Slot::Running(task.clone()));
                Found::Nothing(task)
            }
        }
    }

    /// The result, if it is there.
    pub(crate) fn recall(&self, key: &Key) -> Option<Value> {
        match self.shard(key).get(key) {
            Some(Slot::Done(v)) => Some(v.clone()),
            _ => None,
        }
    }

    /// The computation `task` is over; without a value the slot is emptied.
    pub(crate) fn settle(&self, key: &Key, task: &Arc<Task>, value: Option<&Value>) {
        let mut shard = self.shard(key);
        if !matches!(shard.get(key), Some(Slot::Running(t)) if Arc::ptr_eq(t, task)) {
            return;
        }
        let old = match value {
            Some(v) if texts(v) <= MAX_TEXT => shard.insert(*key, Slot::Done(v.clone())),
            _ => shard.remove(key),
        };
        // What the slot held may be large to drop.
        drop(shard);
        drop(old);
    }

    /// Remembers a result nobody asked for, unless something is there.
    pub(crate) fn teach(&self, key: Key, value: Option<&Value>) {
        if let Some(v) = value {
            self.shard(&key).entry(key).or_insert_with(|| Slot::Done(v.clone()));
        }
    }

    /// Empties the slot if nobody waits for `task`; false when someone does.
    pub(crate) fn abandon(&self, key: &Key, task: &Arc<Task>) -> bool {
        let mut shard = self.shard(key);
        if task.awaited() {
            return false;
        }
        if matches!(shard.get(key), Some(Slot::Running(t)) if Arc::ptr_eq(t, task)) {
            shard.remove(key);
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.count(|s| matches!(s, Slot::Done(_)))
    }

    pub(crate) fn running(&self) -> usize {
        self.count(|s| matches!(s, Slot::Running(_)))
    }

    fn count(&self, what: impl Fn(&Slot) -> bool) -> usize {
        let lock = |s: &Mutex<HashMap<Key, Slot>>| s.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|s| what(s)).count();
        self.shards.iter().map(lock).sum()
    }
}

/// How many bytes of text a value holds.
fn texts(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len(),
        Value::List(items) => items.iter().map(texts).sum(),
        _ => 0,
    }
}
