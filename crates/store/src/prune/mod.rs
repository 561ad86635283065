//! Making room: what goes is decided first ([`plan`]), then removed, unless it has come into use meanwhile.

pub(crate) mod plan;

use std::{collections::HashSet, sync::PoisonError, time::Duration};

pub(crate) use plan::Item;

use crate::{
    DiskError, Store, clock,
    db::Write,
    usage::{Disk, EntryKind},
};

/// Facts that were not written anew for so long are forgotten.
const FACTS_KEPT: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// What may go: rules, applied one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The rules.
    pub rules: Vec<Rule>,
}

/// Removes what was used least lately until the limits hold. A rule without limits removes all it applies to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// What it applies to; empty means everything.
    pub kinds: Vec<EntryKind>,
    /// Only to what has not been used for so long.
    pub unused_for: Option<Duration>,
    /// The store may use so many bytes.
    pub max_used: Option<u64>,
    /// So many bytes of the disk must be free.
    pub min_free: Option<u64>,
    /// The store may use so many bytes whatever the other limits say.
    pub reserved: u64,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// How many entries.
    pub removed: usize,
    /// How many bytes they took.
    pub freed: u64,
}

impl Policy {
    /// Removes everything that is not in use.
    pub fn everything() -> Policy {
        Policy {
            rules: vec![Rule::default()],
        }
    }

    /// What a store removes by itself, on a disk of `total` bytes: what has not been used for 60 days; blobs and volumes not
    /// used for two days beyond 512 MB; and what is over three quarters of the disk, or leaves less than a fifth of it free,
    /// down to a tenth of it or 10 GB.
    pub fn standard(total: u64) -> Policy {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let reserved = (total / 10).min(10_000_000_000);
        let side = Rule {
            kinds: vec![EntryKind::Blob, EntryKind::Volume],
            unused_for: Some(2 * DAY),
            max_used: Some(512_000_000),
            ..Rule::default()
        };
        let old = Rule {
            unused_for: Some(60 * DAY),
            max_used: Some(total / 4 * 3),
            min_free: Some(total / 5),
            reserved,
            ..Rule::default()
        };
        let all = Rule {
            unused_for: None,
            ..old.clone()
        };
        Policy {
            rules: vec![side, old, all],
        }
    }
}

impl Store {
    /// Removes what a policy says. Nothing that is in use goes. The bytes are free when the trash is empty.
    ///
    /// # Errors
    /// When the room on the disk cannot be told.
    pub fn prune(&self, policy: &Policy) -> Result<Report, DiskError> {
        let inner = &self.inner;
        let _one = inner
            .prune_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = clock::now_ns();
        let items = inner.items();
        let held: Vec<u64> = inner
            .table
            .lock()
            .unrecorded()
            .iter()
            .flat_map(|layers| layers.to_vec())
            .collect();
        let layers: HashSet<u64> = items
            .iter()
            .flat_map(|item| item.layers.iter().copied())
            .collect();
        let sizes = inner.layer_sizes(layers.into_iter());
        let Disk { free, .. } = self.disk()?;
        let mut report = Report::default();
        for step in plan::plan(
            &items,
            &plan::World {
                sizes: &sizes,
                held: &held,
                free,
                now,
            },
            policy,
        ) {
            let Some(item) = items.get(step.item) else {
                continue;
            };
            let removed = match (item.kind, &item.key) {
                (EntryKind::Result, Some(key)) => inner.results.remove_idle(key, item.last_used),
                (EntryKind::Result, None) => false,
                (EntryKind::Blob, _) => inner.blobs.remove_idle(&item.id, item.last_used),
                (EntryKind::Volume, _) => inner.remove_idle_volume(&item.id, item.last_used),
            };
            if removed {
                report.removed += 1;
                report.freed = report.freed.saturating_add(step.freed);
            }
        }
        let keep = i64::try_from(FACTS_KEPT.as_nanos()).unwrap_or(i64::MAX);
        inner
            .writer
            .write(Write::RemoveFactsBefore(now.saturating_sub(keep)));
        Ok(report)
    }
}
