//! What to remove. No effects here.

use std::collections::{HashMap, HashSet};

use super::{Policy, Rule};
use crate::{Key, usage::EntryKind};

/// Something that could go.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) kind: EntryKind,
    pub(crate) id: String,
    /// Of a result.
    pub(crate) key: Option<Key>,
    pub(crate) description: String,
    /// Layers it needs, maybe with others.
    pub(crate) layers: Vec<u64>,
    /// Bytes that are its own.
    pub(crate) size: u64,
    pub(crate) created: i64,
    pub(crate) last_used: i64,
    pub(crate) in_use: bool,
}

/// What there is besides the items.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World<'a> {
    /// Bytes of each layer.
    pub(crate) sizes: &'a HashMap<u64, u64>,
    /// Layers that are needed whatever goes.
    pub(crate) held: &'a [u64],
    /// Free bytes of the disk.
    pub(crate) free: u64,
    /// Nanoseconds since the epoch.
    pub(crate) now: i64,
}

/// One removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Which of the items.
    pub(crate) item: usize,
    /// The bytes that frees: layers that others need stay.
    pub(crate) freed: u64,
}

/// Decides what to remove, in order.
pub(crate) fn plan(items: &[Item], world: &World<'_>, policy: &Policy) -> Vec<Step> {
    let mut needs: HashMap<u64, usize> = HashMap::new();
    for layer in items.iter().flat_map(|item| &item.layers).chain(world.held) {
        *needs.entry(*layer).or_default() += 1;
    }
    let of = |layer: &u64| world.sizes.get(layer).copied().unwrap_or(0);
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|at| {
        items
            .get(*at)
            .map(|item| (item.last_used, item.id.as_str()))
    });
    let mut used = items
        .iter()
        .map(|item| item.size)
        .chain(needs.keys().map(of))
        .fold(0, u64::saturating_add);
    let mut free = world.free;
    let mut gone = HashSet::new();
    let mut steps = Vec::new();
    for rule in &policy.rules {
        for at in &order {
            let Some(item) = items.get(*at) else { continue };
            if gone.contains(at) || item.in_use || !rule.applies(item, world.now) {
                continue;
            }
            // A rule for some kinds looks at what these use.
            let counted = if rule.kinds.is_empty() {
                used
            } else {
                used_by(items, &gone, &rule.kinds)
            };
            if rule.holds(counted, free) {
                break;
            }
            let mut freed = item.size;
            for layer in &item.layers {
                if let Some(count) = needs.get_mut(layer) {
                    *count -= 1;
                    if *count == 0 {
                        needs.remove(layer);
                        freed = freed.saturating_add(of(layer));
                    }
                }
            }
            gone.insert(*at);
            used = used.saturating_sub(freed);
            free = free.saturating_add(freed);
            steps.push(Step { item: *at, freed });
        }
    }
    steps
}

fn used_by(items: &[Item], gone: &HashSet<usize>, kinds: &[EntryKind]) -> u64 {
    let left = items
        .iter()
        .enumerate()
        .filter(|(at, item)| !gone.contains(at) && kinds.contains(&item.kind));
    left.map(|(_, item)| item.size).fold(0, u64::saturating_add)
}

impl Rule {
    fn applies(&self, item: &Item, now: i64) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.contains(&item.kind);
        let unused = i128::from(now) - i128::from(item.last_used);
        kind && self
            .unused_for
            .is_none_or(|time| unused >= i128::try_from(time.as_nanos()).unwrap_or(i128::MAX))
    }

    /// Whether nothing more needs to go.
    fn holds(&self, used: u64, free: u64) -> bool {
        if self.max_used.is_none() && self.min_free.is_none() && self.reserved == 0 {
            return false;
        }
        let over = self.max_used.is_some_and(|max| used > max)
            || self.min_free.is_some_and(|min| free < min);
        let unlimited = self.max_used.is_none() && self.min_free.is_none();
        used <= self.reserved || !(over || unlimited)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn item(kind: EntryKind, id: &str, last_used: i64, size: u64, layers: &[u64]) -> Item {
        Item {
            kind,
            id: id.into(),
            key: None,
            description: String::new(),
            layers: layers.to_vec(),
            size,
            created: 0,
            last_used,
            in_use: false,
        }
    }

    fn planned(items: &[Item], held: &[u64], free: u64, rule: Rule) -> Vec<(String, u64)> {
        let sizes = HashMap::from([(1, 100), (2, 20), (3, 3)]);
        let world = World {
            sizes: &sizes,
            held,
            free,
            now: 1_000_000_000,
        };
        let steps = plan(items, &world, &Policy { rules: vec![rule] });
        steps
            .into_iter()
            .map(|step| (items[step.item].id.clone(), step.freed))
            .collect()
    }

    fn three() -> Vec<Item> {
        vec![
            item(EntryKind::Result, "new", 30, 0, &[1, 2, 3]),
            item(EntryKind::Result, "old", 10, 0, &[1]),
            item(EntryKind::Result, "mid", 20, 0, &[1, 2]),
            item(EntryKind::Blob, "blob", 15, 7, &[]),
        ]
    }

    fn steps(expect: &[(&str, u64)]) -> Vec<(String, u64)> {
        expect
            .iter()
            .map(|(id, freed)| ((*id).to_owned(), *freed))
            .collect()
    }

    #[test]
    fn everything_goes_in_the_order_of_use_and_shared_layers_go_with_the_last() {
        assert_eq!(
            planned(&three(), &[], 0, Rule::default()),
            steps(&[("old", 0), ("blob", 7), ("mid", 0), ("new", 123)])
        );
    }

    #[test]
    fn what_is_in_use_stays_with_its_layers() {
        let mut items = three();
        items[2].in_use = true;
        assert_eq!(
            planned(&items, &[], 0, Rule::default()),
            steps(&[("old", 0), ("blob", 7), ("new", 3)])
        );
        assert_eq!(
            planned(&three(), &[2], 0, Rule::default()),
            steps(&[("old", 0), ("blob", 7), ("mid", 0), ("new", 103)])
        );
    }

    #[test]
    fn limits_stop_the_removal() {
        let rule = |max_used, min_free, reserved| Rule {
            max_used,
            min_free,
            reserved,
            ..Rule::default()
        };
        assert!(planned(&three(), &[], 0, rule(Some(130), None, 0)).is_empty());
        assert_eq!(
            planned(&three(), &[], 0, rule(Some(129), None, 0)),
            steps(&[("old", 0), ("blob", 7)])
        );
        assert!(planned(&three(), &[], 50, rule(None, Some(50), 0)).is_empty());
        assert_eq!(
            planned(&three(), &[], 50, rule(None, Some(51), 0)),
            steps(&[("old", 0), ("blob", 7)])
        );
        assert!(planned(&three(), &[], 0, rule(None, Some(1000), 130)).is_empty());
        assert_eq!(
            planned(&three(), &[], 0, rule(None, None, 125)),
            steps(&[("old", 0), ("blob", 7)])
        );
    }

    #[test]
    fn rules_for_kinds_and_ages_touch_nothing_else() {
        let rule = Rule {
            kinds: vec![EntryKind::Blob],
            ..Rule::default()
        };
        assert_eq!(planned(&three(), &[], 0, rule), steps(&[("blob", 7)]));
        let rule = Rule {
            kinds: vec![EntryKind::Blob],
            max_used: Some(7),
            ..Rule::default()
        };
        assert!(planned(&three(), &[], 0, rule).is_empty());
        let rule = Rule {
            unused_for: Some(Duration::from_nanos(1_000_000_000 - 15)),
            ..Rule::default()
        };
        assert_eq!(
            planned(&three(), &[], 0, rule),
            steps(&[("old", 0), ("blob", 7)])
        );
    }
}
