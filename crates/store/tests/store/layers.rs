//! Drafts, snapshots, chains.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use store::{CopyOptions, Kind, Options, Snapshot, Store};

use crate::{dir, edited, is_root, layers, names, open, paths, read, with_file};

#[test]
fn a_draft_without_parent_needs_no_mount() {
    let dir = dir();
    let store = open(&dir);
    let snapshot = with_file(&store, None, "d/f", "x");
    assert_eq!(paths(&snapshot), ["d", "d/f"]);
    assert_eq!(snapshot.layers().len(), 1);
    assert_eq!(layers(&store).len(), 1);
    assert_eq!(store.snapshot(snapshot.id()), Some(snapshot.clone()));
}

#[test]
fn the_empty_tree_is_one_empty_directory() {
    let dir = dir();
    let store = open(&dir);
    let empty = store.empty().unwrap();
    assert!(paths(&empty).is_empty());
    assert_eq!(empty.layers().len(), 1);
    let unchanged = store.draft(Some(&empty)).unwrap().commit().unwrap();
    assert_eq!(unchanged, empty);
    assert_eq!(store.draft(None).unwrap().commit().unwrap(), empty);
    assert!(layers(&store).is_empty());
}

#[test]
fn root_changes_of_the_root_alone_are_a_layer() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let first = edited(&store, None, |tree| tree.set_owner("/", 5, 6).unwrap());
    assert_eq!(first.layers().len(), 1);
    let second = with_file(&store, Some(&first), "f", "x");
    let draft = store.draft(Some(&second)).unwrap();
    assert_eq!(
        draft.commit().unwrap(),
        second,
        "an unchanged root is no change"
    );
    let third = edited(&store, Some(&second), |tree| {
        tree.set_owner("/", 7, 8).unwrap()
    });
    assert_eq!(
        (third.layers().len(), paths(&third)),
        (3, vec!["f".to_owned()])
    );
    for (snapshot, owner) in [(&first, 5), (&second, 5), (&third, 7)] {
        assert_eq!(
            snapshot.tree().unwrap().stat("/").unwrap().unwrap().uid,
            owner
        );
    }
}

#[test]
fn root_a_child_covers_its_parent_and_leaves_it_alone() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = edited(&store, None, |tree| {
        for path in ["a", "b", "d/x", "d/y"] {
            tree.write_file(path, path.as_bytes(), 0o644, None).unwrap();
        }
    });
    let child = edited(&store, Some(&base), |tree| {
        tree.write_file("a", b"new", 0o644, None).unwrap();
        tree.remove("b").unwrap();
        tree.remove("d").unwrap();
        tree.write_file("d/z", b"z", 0o644, None).unwrap();
    });
    assert_eq!(paths(&base), ["a", "b", "d", "d/x", "d/y"]);
    assert_eq!(paths(&child), ["a", "d", "d/z"]);
    assert_eq!(
        (read(&base, "a"), read(&child, "a")),
        ("a".into(), "new".into())
    );
    let same = store.draft(Some(&child)).unwrap().commit().unwrap();
    assert_eq!(same, child);
}

#[test]
fn root_a_tree_is_mounted_once_for_all_who_look() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = with_file(&store, None, "a", "1");
    let child = with_file(&store, Some(&base), "b", "2");
    let (one, two) = (child.tree().unwrap(), child.clone().tree().unwrap());
    let dev = |tree: &store::Tree| tree.stat("/").unwrap().unwrap().dev;
    assert_eq!(dev(&one), dev(&two));
    drop((base, child));
    assert_eq!(
        one.read_file("a", 9).unwrap(),
        b"1",
        "the tree keeps its layers"
    );
    assert_eq!(layers(&store).len(), 2);
    drop((one, two));
    assert!(layers(&store).is_empty());
}

#[test]
fn root_a_draft_can_be_mounted_many_times() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = with_file(&store, None, "a", "1");
    let draft = store.draft(Some(&base)).unwrap();
    for n in 0..3 {
        draft
            .tree()
            .unwrap()
            .write_file(format!("f{n}"), b"x", 0o644, None)
            .unwrap();
        let mount = sys::mount::overlay(&draft.overlay()).unwrap();
        rustix::fs::mkdirat(
            &mount,
            format!("d{n}"),
            rustix::fs::Mode::from_raw_mode(0o755),
        )
        .unwrap();
    }
    let snapshot = draft.commit().unwrap();
    assert_eq!(paths(&snapshot), ["a", "d0", "d1", "d2", "f0", "f1", "f2"]);
    assert_eq!(names(&store, "drafts").len(), 1, "kept to be used again");
}

#[test]
fn root_drafts_use_the_same_directories_again() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = edited(&store, None, |tree| tree.set_owner("/", 5, 6).unwrap());
    for n in 0..100_u32 {
        let parent = if n % 2 == 0 { Some(&base) } else { None };
        let draft = store.draft(parent).unwrap();
        let root = draft.tree().unwrap().stat("/").unwrap().unwrap();
        assert_eq!(
            (root.uid, root.mode),
            (if n % 2 == 0 { 5 } else { 0 }, 0o755)
        );
        assert!(draft.tree().unwrap().entries("/").unwrap().is_empty());
        match n % 5 {
            0 => drop(draft),
            1 => {
                draft
                    .tree()
                    .unwrap()
                    .write_file("f", b"x", 0o644, None)
                    .unwrap();
                drop(draft);
            }
            2 => {
                draft.tree().unwrap().set_owner("/", 9, 9).unwrap();
                assert_eq!(
                    draft
                        .commit()
                        .unwrap()
                        .tree()
                        .unwrap()
                        .stat("/")
                        .unwrap()
                        .unwrap()
                        .uid,
                    9
                );
            }
            3 => {
                draft
                    .tree()
                    .unwrap()
                    .write_file("f", b"x", 0o644, None)
                    .unwrap();
                sys::mount::overlay(&draft.overlay()).unwrap();
                assert_eq!(paths(&draft.commit().unwrap()), ["f"]);
            }
            _ => drop(draft.commit().unwrap()),
        }
    }
    assert!(names(&store, "drafts").len() <= 20);
}

#[test]
fn root_read_only_mounts_are_read_only() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = with_file(&store, None, "a", "1");
    for snapshot in [
        store.empty().unwrap(),
        base.clone(),
        with_file(&store, Some(&base), "b", "2"),
    ] {
        let mount = sys::mount::overlay(&snapshot.overlay()).unwrap();
        let made = rustix::fs::mkdirat(&mount, "d", rustix::fs::Mode::from_raw_mode(0o755));
        assert_eq!(made, Err(rustix::io::Errno::ROFS));
    }
}

#[test]
fn dropped_drafts_and_snapshots_leave_nothing() {
    let dir = dir();
    let store = open(&dir);
    let draft = store.draft(None).unwrap();
    draft
        .tree()
        .unwrap()
        .write_file("f", b"x", 0o644, None)
        .unwrap();
    drop(draft);
    let snapshot = with_file(&store, None, "f", "x");
    let id = snapshot.id();
    drop(snapshot);
    assert!(store.snapshot(id).is_none());
    assert!(layers(&store).is_empty());
    store.empty_trash();
    assert!(names(&store, "trash").is_empty());
}

#[test]
fn trees_of_any_depth_are_deleted() {
    let dir = dir();
    let store = open(&dir);
    let draft = store.draft(None).unwrap();
    let mut at = rustix::fs::open(
        draft.upper(),
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    for _ in 0..5000 {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(
            &at,
            "d",
            rustix::fs::OFlags::PATH,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
    }
    drop(at);
    drop(draft);
    store.empty_trash();
    assert!(names(&store, "trash").is_empty());
}

#[test]
fn root_stacked_trees_merge() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let one = edited(&store, None, |tree| {
        tree.write_file("a", b"1", 0o644, None).unwrap();
        tree.write_file("d/x", b"1", 0o644, None).unwrap();
    });
    let two = edited(&store, None, |tree| {
        tree.write_file("a", b"2", 0o644, None).unwrap();
        tree.write_file("d/y", b"2", 0o644, None).unwrap();
    });
    let both = store.stack(&[one.clone(), two.clone()]).unwrap();
    assert_eq!(
        (paths(&both), read(&both, "a")),
        (
            vec!["a".into(), "d".into(), "d/x".into(), "d/y".into()],
            "2".into()
        )
    );
    let other = store.stack(&[two, one]).unwrap();
    assert_eq!(read(&other, "a"), "1");
    assert_eq!(layers(&store).len(), 2);
}

/// A chain in which every kind of change happens over and over.
fn long_chain(store: &Store, steps: u32) -> Snapshot {
    let mut top = edited(store, None, |tree| {
        tree.write_file("base", b"base", 0o644, None).unwrap();
        tree.write_file("gone/early", b"x", 0o644, None).unwrap();
        tree.write_file("dir/sub/kept", b"x", 0o644, None).unwrap();
    });
    for n in 0..steps {
        top = edited(store, Some(&top), |tree| {
            tree.write_file(format!("n{}", n % 7), n.to_string().as_bytes(), 0o644, None)
                .unwrap();
            match n % 5 {
                0 => tree
                    .write_file(format!("dir/sub/f{n}"), b"f", 0o600, Some((n, n)))
                    .unwrap(),
                1 => tree.remove("dir/sub/f*").unwrap(),
                2 => tree.remove("gone").unwrap(),
                3 => tree
                    .write_file(format!("gone/{n}"), b"again", 0o644, None)
                    .unwrap(),
                _ => {
                    tree.remove(format!("n{}", (n + 3) % 7)).unwrap();
                    tree.make_dir(format!("n{}/d", (n + 3) % 7), 0o755, None)
                        .unwrap();
                    tree.remove(format!("n{}", (n + 3) % 7)).unwrap();
                }
            }
        });
    }
    top
}

#[test]
fn root_squashed_chains_show_the_same_tree() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = Store::open(dir.path(), Options { max_layers: 4 }).unwrap();
    let whole_dir = crate::dir();
    let whole = Store::open(whole_dir.path(), Options { max_layers: 400 }).unwrap();
    for steps in [3, 4, 5, 9, 23] {
        let (short, long) = (long_chain(&store, steps), long_chain(&whole, steps));
        assert!(short.layers().len() <= 4, "{} layers", short.layers().len());
        assert_eq!(long.layers().len(), steps as usize + 1);
        assert_eq!(paths(&short), paths(&long), "{steps} steps");
        assert_eq!(
            short.tree().unwrap().digest("/").unwrap(),
            long.tree().unwrap().digest("/").unwrap()
        );
    }
    assert!(layers(&store).is_empty(), "squashing leaves nothing behind");
}

#[test]
fn root_a_squashed_layer_still_hides_what_is_below() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = Store::open(dir.path(), Options { max_layers: 4 }).unwrap();
    let mut top = edited(&store, None, |tree| {
        tree.write_file("d/old", b"x", 0o644, None).unwrap();
        tree.write_file("file", b"x", 0o644, None).unwrap();
        tree.write_file("opaque/old", b"x", 0o644, None).unwrap();
    });
    // The deletions are squashed into a layer that lies on the one above; the files they hide stay below it.
    top = with_file(&store, Some(&top), "one", "1");
    top = edited(&store, Some(&top), |tree| {
        tree.remove("d").unwrap();
        tree.remove("file").unwrap();
        tree.remove("opaque").unwrap();
        tree.write_file("opaque/new", b"x", 0o644, None).unwrap();
        tree.make_dir("file", 0o755, None).unwrap();
    });
    for n in 0..6 {
        top = with_file(&store, Some(&top), &format!("n{n}"), "x");
    }
    assert_eq!(
        paths(&top),
        [
            "file",
            "n0",
            "n1",
            "n2",
            "n3",
            "n4",
            "n5",
            "one",
            "opaque",
            "opaque/new"
        ]
    );
}

#[test]
fn root_metadata_and_special_files_survive_layers() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = edited(&store, None, |tree| {
        tree.write_file("f", b"x", 0o644, Some((3, 4))).unwrap()
    });
    let draft = store.draft(Some(&base)).unwrap();
    {
        let mount = sys::mount::overlay(&draft.overlay()).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(&mount, "pipe", rustix::fs::FileType::Fifo, mode, 0).unwrap();
        rustix::fs::mknodat(
            &mount,
            "null",
            rustix::fs::FileType::CharacterDevice,
            mode,
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
        rustix::fs::symlinkat("f", &mount, "link").unwrap();
        rustix::fs::linkat(&mount, "f", &mount, "again", rustix::fs::AtFlags::empty()).unwrap();
        rustix::fs::chmodat(
            &mount,
            "f",
            rustix::fs::Mode::from_raw_mode(0o4755),
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
    }
    let snapshot = draft.commit().unwrap();
    let copy = edited(&store, None, |tree| {
        tree.copy_dir(&snapshot.tree().unwrap(), "/", "/", &CopyOptions::default())
            .unwrap();
    });
    for snapshot in [&snapshot, &copy] {
        let tree = snapshot.tree().unwrap();
        let stat = |path: &str| tree.lstat(path).unwrap().unwrap();
        assert_eq!(
            (stat("pipe").kind, stat("link").kind),
            (Kind::Fifo, Kind::Symlink)
        );
        assert_eq!(
            (stat("null").kind, stat("null").rdev),
            (Kind::CharDevice, rustix::fs::makedev(1, 3))
        );
        assert_eq!(
            (stat("f").mode, stat("f").uid, stat("f").gid),
            (0o4755, 3, 4)
        );
        assert_eq!(stat("f").ino, stat("again").ino);
    }
}

#[test]
fn root_a_diff_of_layers_is_what_the_upper_ones_brought() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = edited(&store, None, |tree| {
        for n in 0..20 {
            tree.write_file(format!("d{}/f{n}", n % 3), b"same", 0o644, None)
                .unwrap();
        }
    });
    let upper = edited(&store, Some(&base), |tree| {
        tree.write_file("d1/new", b"n", 0o644, None).unwrap();
        tree.remove("d2").unwrap();
        // Copied up, but what it was.
        tree.set_times("d0/f0", 7).unwrap();
    });
    let diff = edited(&store, None, |tree| {
        tree.diff_from(Some(&base.tree().unwrap()), &upper.tree().unwrap(), "/")
            .unwrap();
    });
    assert_eq!(paths(&diff), ["d1", "d1/new"]);
}

#[test]
fn root_a_directory_is_shared_where_it_can_be() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = edited(&store, None, |tree| {
        tree.write_file("a/b/old", b"old", 0o644, None).unwrap();
        tree.write_file("a/b/f", b"old", 0o644, None).unwrap();
        tree.write_file("a/b/sub/deep", b"old", 0o644, None)
            .unwrap();
        tree.write_file("a/b/was", b"a file", 0o644, None).unwrap();
        tree.write_file("file", b"x", 0o644, None).unwrap();
        tree.symlink("a", "link").unwrap();
        tree.set_owner("a", 7, 8).unwrap();
    });
    let base = with_file(&store, Some(&base), "second", "layer");
    let source = edited(&store, None, |tree| {
        tree.write_file("s/f", b"new", 0o600, Some((1, 2))).unwrap();
        tree.write_file("s/sub/more", b"new", 0o644, None).unwrap();
        tree.write_file("s/was/inner", b"new", 0o644, None).unwrap();
        tree.make_dir("s/empty", 0o700, None).unwrap();
        tree.set_times("/", 1_000_000_000).unwrap();
    });
    let deep = with_file(&store, Some(&source), "s/z", "z");
    let owned = CopyOptions {
        owner: Some((5, 6)),
        ..CopyOptions::default()
    };
    let filtered = CopyOptions {
        exclude: vec!["sub".into()],
        ..CopyOptions::default()
    };
    for source in [&source, &deep] {
        for to in [
            "/",
            "a/b",
            "/a/b/new/deep",
            "file",
            "link/b",
            "link",
            "a/b/was",
        ] {
            for options in [&CopyOptions::default(), &owned, &filtered] {
                for parent in [Some(&base), None] {
                    let shared = store.copied(parent, source, "s", to, options).unwrap();
                    let copied = edited(&store, parent, |tree| {
                        tree.copy_dir(&source.tree().unwrap(), "s", to, options)
                            .unwrap();
                    });
                    let digest = |s: &Snapshot| s.tree().unwrap().digest("/").unwrap();
                    assert_eq!(paths(&shared), paths(&copied), "to {to} with {options:?}");
                    assert_eq!(digest(&shared), digest(&copied), "to {to} with {options:?}");
                }
            }
        }
    }
    let shared = store
        .copied(Some(&base), &source, "s", "a/b", &CopyOptions::default())
        .unwrap();
    let ino = |s: &Snapshot, path: &str| s.tree().unwrap().stat(path).unwrap().unwrap().ino;
    assert_eq!(ino(&shared, "a/b/f"), ino(&source, "s/f"));
    let error = |to: &str| {
        store
            .copied(Some(&base), &source, "s", to, &CopyOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error("file/x"), "file/x: not a directory");
    // What comes later leaves the shared file alone.
    let later = edited(&store, Some(&shared), |tree| {
        tree.set_times("/", 5).unwrap();
        tree.overwrite_file("a/b/f", b"changed", 0o644, None)
            .unwrap();
    });
    assert_eq!(
        (
            read(&later, "a/b/f"),
            read(&shared, "a/b/f"),
            read(&source, "s/f")
        ),
        ("changed".into(), "new".into(), "new".into())
    );
    assert_eq!(
        source
            .tree()
            .unwrap()
            .stat("s/f")
            .unwrap()
            .unwrap()
            .mtime_ns,
        1_000_000_000_000_000_000
    );
}

#[test]
fn layers_do_not_depend_on_the_umask() {
    let dir = dir();
    let store = open(&dir);
    let snapshot = with_file(&store, None, "d/f", "x");
    let mode = |path: &str| {
        fs::metadata(snapshot.layers()[0].join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!((mode(""), mode("d"), mode("d/f")), (0o755, 0o755, 0o644));
    assert_eq!(
        fs::metadata(dir.path()).unwrap().uid(),
        rustix::process::geteuid().as_raw()
    );
}
