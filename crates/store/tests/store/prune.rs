//! Usage and prune.

use std::fs;

use store::{EntryKind, Policy, Rule};

use crate::{dir, is_root, key, layers, open, with_file};

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[test]
fn everything_that_is_not_held_goes() {
    let dir = dir();
    {
        let store = open(&dir);
        let held = with_file(&store, None, "f", "held");
        store
            .results()
            .put(&key(1), std::slice::from_ref(&held), b"", "held");
        store.results().put(
            &key(2),
            &[with_file(&store, None, "f", "idle")],
            b"",
            "idle",
        );
        store
            .results()
            .put(&key(3), &[store.empty().unwrap()], b"", "empty");
        let mut ingest = store.blobs().ingest(HELLO, None).unwrap();
        ingest.write(b"hello").unwrap();
        ingest.commit().unwrap();
        let volume = store.volume("used").unwrap();
        fs::write(
            store.volume("idle").unwrap().path().join("f"),
            vec![1; 10_000],
        )
        .unwrap();

        let usage = store.usage();
        let seen: Vec<_> = usage
            .iter()
            .map(|e| (e.kind, e.description.as_str(), e.size > 0, e.in_use))
            .collect();
        assert_eq!(
            seen,
            [
                (EntryKind::Result, "held", true, true),
                (EntryKind::Result, "idle", true, false),
                (EntryKind::Result, "empty", false, false),
                (EntryKind::Blob, &*format!("blob {HELLO}"), true, false),
                (EntryKind::Volume, "cache volume used", false, true),
                (EntryKind::Volume, "cache volume idle", true, false),
            ]
            .map(|(k, d, s, u)| (
                k,
                d,
                if k == EntryKind::Volume { true } else { s },
                u
            ))
        );

        let report = store.prune(&Policy::everything()).unwrap();
        assert_eq!(report.removed, 4);
        assert!(report.freed > 10_000);
        let left: Vec<_> = store.usage().into_iter().map(|e| e.description).collect();
        assert_eq!(left, ["held", "cache volume used"]);
        assert_eq!(layers(&store).len(), 1);
        assert!(store.blobs().path(HELLO).is_none());
        assert!(volume.path().exists());
        store.empty_trash();
        drop((held, volume));
        store.close().unwrap();
    }
    let store = open(&dir);
    assert_eq!(store.results().len(), 1);
    assert_eq!(store.prune(&Policy::everything()).unwrap().removed, 2);
    assert!(layers(&store).is_empty());
}

#[test]
fn root_what_others_need_is_counted_once_and_stays() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = with_file(&store, None, "big", &"x".repeat(1 << 20));
    let top = with_file(&store, Some(&base), "small", "x");
    store
        .results()
        .put(&key(1), std::slice::from_ref(&base), b"", "base");
    store
        .results()
        .put(&key(2), std::slice::from_ref(&top), b"", "top");
    let sizes: Vec<u64> = store.usage().iter().map(|e| e.size).collect();
    assert!(sizes[0] >= 1 << 20 && sizes[1] < 1 << 20, "{sizes:?}");
    drop(base);
    assert_eq!(
        store.prune(&Policy::everything()).unwrap(),
        store::Report {
            removed: 1,
            freed: 0
        }
    );
    assert_eq!(crate::paths(&top), ["big", "small"]);
    drop(top);
    let report = store.prune(&Policy::everything()).unwrap();
    assert!(report.removed == 1 && report.freed >= 1 << 20, "{report:?}");
}

#[test]
fn limits_keep_what_was_used_last() {
    let dir = dir();
    let store = open(&dir);
    for n in 1..=4 {
        store.results().put(
            &key(n),
            &[with_file(&store, None, "f", &"x".repeat(1 << 20))],
            b"",
            "",
        );
    }
    store.results().get(&key(1)).unwrap();
    let rule = Rule {
        max_used: Some((2 << 20) + (1 << 19)),
        ..Rule::default()
    };
    assert_eq!(
        store.prune(&Policy { rules: vec![rule] }).unwrap().removed,
        2
    );
    let left: Vec<u8> = (1..=4)
        .filter(|n| store.results().contains(&key(*n)))
        .collect();
    assert_eq!(left, [1, 4]);
    let young = Policy::standard(store.disk().unwrap().total);
    let unused: Vec<_> = young
        .rules
        .iter()
        .filter(|r| r.unused_for.is_some())
        .cloned()
        .collect();
    assert_eq!(store.prune(&Policy { rules: unused }).unwrap().removed, 0);
}
