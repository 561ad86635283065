//! The persistent cache and the facts.

use crate::{dir, key, layers, open, read, with_file};

#[test]
fn results_survive_a_restart_with_their_trees() {
    let dir = dir();
    let big = vec![7_u8; 100_000];
    {
        let store = open(&dir);
        let one = with_file(&store, None, "f", "1");
        store.results().put(
            &key(1),
            &[one.clone(), store.empty().unwrap()],
            b"extra",
            "first",
        );
        store.results().put(&key(2), &[one], &big, "second");
        store.results().put(&key(3), &[], b"", "nothing");
        store.close().unwrap();
    }
    let store = open(&dir);
    let record = store.results().get(&key(1)).unwrap();
    assert_eq!(
        (read(&record.outputs[0], "f"), record.outputs.len()),
        ("1".into(), 2)
    );
    assert_eq!(
        (&*record.extra, &*record.description),
        (&b"extra"[..], "first")
    );
    let second = store.results().get(&key(2)).unwrap();
    assert_eq!(second.outputs[0], record.outputs[0]);
    assert_eq!(*second.extra, *big);
    assert!(store.results().get(&key(3)).unwrap().outputs.is_empty());
    assert!(store.results().get(&key(4)).is_none());
    assert_eq!(store.results().len(), 3);
}

#[test]
fn a_large_extra_is_there_before_and_after_it_is_written() {
    let dir = dir();
    let store = open(&dir);
    let big = vec![7_u8; 100_000];
    store.results().put(&key(1), &[], &big, "");
    assert_eq!(*store.results().get(&key(1)).unwrap().extra, *big);
    store.flush().unwrap();
    // Another record makes the first one's extra leave the memory.
    store.results().put(&key(2), &[], b"", "");
    assert_eq!(*store.results().get(&key(1)).unwrap().extra, *big);
}

#[test]
fn a_tree_lives_as_long_as_a_result_or_a_handle() {
    let dir = dir();
    let store = open(&dir);
    let tree = with_file(&store, None, "f", "1");
    let id = tree.id();
    store
        .results()
        .put(&key(1), std::slice::from_ref(&tree), b"", "");
    store
        .results()
        .put(&key(2), std::slice::from_ref(&tree), b"", "");
    drop(tree);
    assert_eq!(layers(&store).len(), 1);
    store.results().remove(&key(1));
    let held = store.snapshot(id).unwrap();
    store.results().remove(&key(2));
    assert_eq!(read(&held, "f"), "1");
    drop(held);
    assert!(layers(&store).is_empty());
    assert!(store.snapshot(id).is_none());
}

#[test]
fn a_replaced_result_lets_its_old_tree_go() {
    let dir = dir();
    {
        let store = open(&dir);
        store
            .results()
            .put(&key(1), &[with_file(&store, None, "f", "old")], b"", "");
        store
            .results()
            .put(&key(1), &[with_file(&store, None, "f", "new")], b"", "");
        assert_eq!(layers(&store).len(), 1);
    }
    let store = open(&dir);
    assert_eq!(
        read(&store.results().get(&key(1)).unwrap().outputs[0], "f"),
        "new"
    );
}

#[test]
fn facts_are_what_was_put_last() {
    let dir = dir();
    {
        let store = open(&dir);
        let facts = store.facts();
        assert_eq!(facts.get("s", "a"), None);
        for n in 0..3000_u32 {
            facts.put("s", "a", &n.to_le_bytes());
            assert_eq!(facts.get("s", "a").unwrap(), n.to_le_bytes());
        }
        facts.put("t", "a", b"other space");
        facts.put("s", "gone", b"x");
        facts.remove("s", "gone");
        assert_eq!(facts.get("s", "gone"), None);
        store.flush().unwrap();
        assert_eq!(facts.get("s", "gone"), None);
        assert_eq!(facts.get("t", "a").unwrap(), b"other space");
    }
    let facts = open(&dir);
    let facts = facts.facts();
    assert_eq!(facts.get("s", "a").unwrap(), 2999_u32.to_le_bytes());
    assert_eq!(
        (facts.get("t", "a").unwrap(), facts.get("s", "gone")),
        (b"other space".to_vec(), None)
    );
}

#[test]
fn many_threads_may_use_everything_at_once() {
    let dir = dir();
    {
        let store = open(&dir);
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let store = store.clone();
                scope.spawn(move || {
                    for n in 0..200_u8 {
                        let k = key(n % 16);
                        match (n + thread) % 4 {
                            0 => store.results().put(
                                &k,
                                &[with_file(&store, None, "f", "x")],
                                &[n; 5000],
                                "x",
                            ),
                            1 => store.results().remove(&k),
                            2 => store.facts().put("s", &format!("{}", n % 8), &[n; 1000]),
                            _ => {
                                if let Some(record) = store.results().get(&k) {
                                    assert_eq!(record.extra.len(), 5000);
                                    assert_eq!(read(&record.outputs[0], "f"), "x");
                                }
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(layers(&store).len(), store.results().len());
        store.close().unwrap();
    }
    let store = open(&dir);
    assert_eq!(layers(&store).len(), store.results().len());
}
