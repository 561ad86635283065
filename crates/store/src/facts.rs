//! Small facts: bytes by name, in spaces.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rusqlite::Connection;

use crate::{
    Inner, clock,
    db::{self, Write},
};

/// Larger values are not kept.
const VALUE_MAX: usize = 256 << 20;

type Name = (String, String);

/// Facts that survive restarts but may be lost: whoever keeps one can find it out again.
pub struct Facts {
    /// What the database does not have yet; `None` is a removal.
    pending: Mutex<HashMap<Name, Pending>>,
    reader: Arc<Mutex<Connection>>,
    store: Weak<Inner>,
}

struct Pending {
    /// The number of the change.
    turn: u64,
    value: Option<Arc<[u8]>>,
}

impl Facts {
    pub(crate) fn new(reader: Arc<Mutex<Connection>>, store: Weak<Inner>) -> Facts {
        Facts {
            pending: Mutex::default(),
            reader,
            store,
        }
    }

    /// The value of a fact.
    pub fn get(&self, space: &str, key: &str) -> Option<Vec<u8>> {
        if let Some(pending) = self.lock().get(&(space.to_owned(), key.to_owned())) {
            return pending.value.as_deref().map(<[u8]>::to_vec);
        }
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        db::fact(&reader, space, key).unwrap_or_else(|error| {
            tracing::warn!(%error, space, "cannot read a fact");
            None
        })
    }

    /// Remembers a fact, replacing what it was.
    pub fn put(&self, space: &str, key: &str, value: &[u8]) {
        if value.len() > VALUE_MAX {
            tracing::warn!(space, bytes = value.len(), "too large a fact: not kept");
            return self.remove(space, key);
        }
        let value: Arc<[u8]> = value.into();
        let used = clock::now_ns();
        let write = Write::Fact {
            space: space.to_owned(),
            key: key.to_owned(),
            value: value.clone(),
            used,
        };
        self.change(space, key, Some(value), write);
    }

    /// Forgets a fact.
    pub fn remove(&self, space: &str, key: &str) {
        self.change(
            space,
            key,
            None,
            Write::RemoveFact {
                space: space.to_owned(),
                key: key.to_owned(),
            },
        );
    }

    fn change(&self, space: &str, key: &str, value: Option<Arc<[u8]>>, write: Write) {
        let Some(store) = self.store.upgrade() else {
            return;
        };
        let mut pending = self.lock();
        // Queued under the lock, so that the order in the database is the order here.
        let turn = store.writer.write(write);
        let committed = store.writer.committed();
        pending.retain(|_, pending| pending.turn > committed);
        pending.insert((space.to_owned(), key.to_owned()), Pending { turn, value });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Facts({} pending)", self.lock().len())
    }
}
