//! How a layer came about: kept beside it for the history of images, and to know which times in it are this engine's own.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use store::{Snapshot, Store};

/// The space of these facts.
const SPACE: &str = "layer-made";
/// What made a layer of file edits.
pub(crate) const EDITS: &str = "file changes";
/// The kernel stamps files with a clock that ticks this seldom at worst, in nanoseconds.
const TICK: i64 = 20_000_000;

/// How a layer came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// In words: a command line, or [`EDITS`].
    pub(crate) by: String,
    /// For edits, when they began: nanoseconds since 1970.
    pub(crate) begun: Option<i64>,
}

impl Made {
    /// A moment that no file written from now on is older than.
    pub(crate) fn now() -> i64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(now.as_nanos()).unwrap_or(i64::MAX) - TICK
    }

    /// Remembers it for the uppermost layer of a tree.
    pub(crate) fn remember(&self, store: &Store, snapshot: &Snapshot) {
        let layers = snapshot.layers();
        if let (Some(name), Ok(value)) = (
            layers.first().and_then(|l| name(l)),
            serde_json::to_vec(self),
        ) {
            store.facts().put(SPACE, name, &value);
        }
    }

    /// How a layer came about, if it is known.
    pub(crate) fn of(store: &Store, layer: &Path) -> Option<Self> {
        serde_json::from_slice(&store.facts().get(SPACE, name(layer)?)?).ok()
    }
}

/// The name of a layer: its number, never used twice.
fn name(layer: &Path) -> Option<&str> {
    layer.file_name()?.to_str()
}
