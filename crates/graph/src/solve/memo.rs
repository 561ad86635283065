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

/// Most slots of one shard; beyond it the shard forgets what can be computed again.
const MAX_SLOTS: usize = 1 << 16;

/// All slots, spread over locks that are only held for a look-up.
pub(crate) struct Memory {
    shards: [Mutex<HashMap<Key, Slot>>; SHARDS],
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Memory {
    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.shards[key.0 as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins what is there, or begins.
    pub(crate) fn find(&self, key: &Key) -> Found {
        let mut shard = self.shard(key);
        match shard.get(key) {
            Some(Slot::Done(v)) => Found::Done(v.clone()),
            Some(Slot::Running(task)) => Found::Running(task.join()),
            None => {
                make_room(&mut shard);
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
            let mut shard = self.shard(&key);
            make_room(&mut shard);
            shard.entry(key).or_insert_with(|| Slot::Done(v.clone()));
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

    /// Forgets all results.
    pub(crate) fn forget(&self) {
        for shard in &self.shards {
            let forgotten: Vec<Slot> = {
                let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard
                    .extract_if(|_, s| matches!(s, Slot::Done(_)))
                    .map(|(_, s)| s)
                    .collect()
            };
            // Not under the lock: what is dropped may be large, or ask the solver.
            drop(forgotten);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count(|s| matches!(s, Slot::Done(_)))
    }

    pub(crate) fn running(&self) -> usize {
        self.count(|s| matches!(s, Slot::Running(_)))
    }

    fn count(&self, what: impl Fn(&Slot) -> bool) -> usize {
        let lock = |s: &Mutex<HashMap<Key, Slot>>| {
            s.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .filter(|s| what(s))
                .count()
        };
        self.shards.iter().map(lock).sum()
    }
}

/// Forgets scalars first, as they are made of remembered objects; then whatever is not under way.
fn make_room(shard: &mut HashMap<Key, Slot>) {
    if shard.len() < MAX_SLOTS {
        return;
    }
    let scalar = |v: &Value| !matches!(v, Value::Object(_) | Value::List(_));
    shard.retain(|_, s| !matches!(s, Slot::Done(v) if scalar(v)));
    if shard.len() > MAX_SLOTS / 2 {
        shard.retain(|_, s| matches!(s, Slot::Running(_)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_memory_forgets_results_but_not_work() {
        let memory = Memory::default();
        // All in one shard.
        let key = |i: usize| Key((i * SHARDS) as u128, 0);
        let Found::Nothing(work) = memory.find(&key(0)) else {
            panic!("nothing yet")
        };
        for i in 1..3 * MAX_SLOTS {
            let Found::Nothing(task) = memory.find(&key(i)) else {
                panic!("nothing yet")
            };
            memory.settle(&key(i), &task, Some(&Value::Int(i as i64)));
        }
        assert!(memory.len() < MAX_SLOTS);
        assert!(matches!(memory.find(&key(0)), Found::Running(_)));
        memory.settle(
            &key(0),
            &work,
            Some(&Value::List(vec![
                Value::string("x".repeat(MAX_TEXT)),
                Value::string("y"),
            ])),
        );
        assert!(memory.recall(&key(0)).is_none(), "large texts are not kept");
        assert!(matches!(
            memory.recall(&key(3 * MAX_SLOTS - 1)),
            Some(Value::Int(_))
        ));
    }

    #[test]
    fn an_abandoned_computation_is_replaced_unless_someone_waits() {
        let memory = Memory::default();
        let key = Key(1, 2);
        let Found::Nothing(first) = memory.find(&key) else {
            panic!("nothing yet")
        };
        let waiter = first.join();
        assert!(!memory.abandon(&key, &first));
        drop(waiter);
        assert!(memory.abandon(&key, &first));
        let Found::Nothing(second) = memory.find(&key) else {
            panic!("nothing any more")
        };
        // The first one's end does not touch the second.
        memory.settle(&key, &first, Some(&Value::Int(1)));
        assert!(memory.abandon(&key, &first));
        assert!(matches!(memory.find(&key), Found::Running(_)));
        memory.settle(&key, &second, Some(&Value::Int(2)));
        assert!(matches!(memory.recall(&key), Some(Value::Int(2))));
    }
}
