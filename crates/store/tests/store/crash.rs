//! What a crash leaves.

use std::{fs, os::unix::fs::FileExt, path::Path};

use store::{Options, Store};

use crate::{dir, key, layers, names, open, read, with_file};

/// What is on the disk at this moment, as a crash would leave it.
fn crashed(store: &Store) -> tempfile::TempDir {
    let copy = dir();
    let to = store::Tree::open_dir(copy.path()).unwrap();
    let from = store::Tree::open_dir(store.dir()).unwrap();
    to.copy_dir(&from, "/", "/", &store::CopyOptions::default())
        .unwrap();
    copy
}

#[test]
fn what_no_record_mentions_is_swept() {
    let dir = dir();
    let store = open(&dir);
    store
        .results()
        .put(&key(1), &[with_file(&store, None, "f", "kept")], b"", "");
    store.flush().unwrap();
    let _draft = store.draft(None).unwrap();
    let _unrecorded = with_file(&store, None, "f", "x");
    fs::create_dir_all(store.dir().join("tmp/x/y")).unwrap();
    fs::create_dir_all(store.dir().join("layers/not-ours")).unwrap();
    fs::create_dir_all(store.dir().join("volumes/not-ours")).unwrap();
    let blob = "blobs/sha256/2c/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    fs::create_dir_all(store.dir().join(blob).parent().unwrap()).unwrap();
    fs::write(store.dir().join(blob), "renamed but not recorded").unwrap();

    let copy = crashed(&store);
    let again = open(&copy);
    assert_eq!(
        read(&again.results().get(&key(1)).unwrap().outputs[0], "f"),
        "kept"
    );
    again.empty_trash();
    assert_eq!(layers(&again).len(), 1);
    for dir in ["drafts", "tmp", "trash", "volumes", "blobs/sha256/2c"] {
        assert!(names(&again, dir).is_empty(), "{dir}");
    }
}

#[test]
fn a_result_whose_layer_is_gone_is_forgotten() {
    let dir = dir();
    {
        let store = open(&dir);
        store
            .results()
            .put(&key(1), &[with_file(&store, None, "f", "1")], b"", "");
        store
            .results()
            .put(&key(2), &[with_file(&store, None, "f", "2")], b"", "");
        store.close().unwrap();
    }
    let first = fs::read_dir(dir.path().join("layers"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|path| path.join("f").exists());
    fs::remove_dir_all(first.unwrap()).unwrap();
    for _ in 0..2 {
        let store = open(&dir);
        assert_eq!(store.results().len(), 1);
        let left = [1, 2]
            .into_iter()
            .find_map(|n| store.results().get(&key(n)))
            .unwrap();
        assert!(["1", "2"].contains(&read(&left.outputs[0], "f").as_str()));
    }
}

#[test]
fn every_moment_of_a_crash_leaves_a_store_that_opens() {
    let dir = dir();
    let store = open(&dir);
    let mut before = 0;
    for n in 0..12_u8 {
        store.results().put(
            &key(n),
            &[with_file(&store, None, "f", &n.to_string())],
            &[n; 100],
            "",
        );
        if n % 3 == 0 {
            store.results().remove(&key(n / 2));
        }
        // Without waiting for the writer: any part of what was queued may be on the disk.
        let copy = crashed(&store);
        let again = open(&copy);
        for n in 0..=n {
            if let Some(record) = again.results().get(&key(n)) {
                assert_eq!(read(&record.outputs[0], "f"), n.to_string());
            }
        }
        assert_eq!(layers(&again).len(), again.results().len());
        before = before.max(again.results().len());
    }
    store.flush().unwrap();
    assert_eq!(
        open(&crashed(&store)).results().len(),
        store.results().len()
    );
}

fn damage(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.write_at(&vec![0xA5; usize::try_from(len).unwrap()], 0)
        .unwrap();
}

#[test]
fn a_damaged_database_costs_results_only() {
    const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let dir = dir();
    {
        let store = open(&dir);
        store
            .results()
            .put(&key(1), &[with_file(&store, None, "f", "x")], b"", "");
        let mut ingest = store.blobs().ingest(HELLO, None).unwrap();
        ingest.write(b"hello").unwrap();
        ingest.commit().unwrap();
        fs::write(store.volume("v").unwrap().path().join("f"), "x").unwrap();
        store.close().unwrap();
    }
    damage(&dir.path().join("db"));
    // A file of the right size but with other bytes must not be taken for a blob.
    let wrong = dir.path().join("blobs/sha256/00").join("0".repeat(64));
    fs::create_dir_all(wrong.parent().unwrap()).unwrap();
    fs::write(&wrong, "x").unwrap();
    {
        let store = open(&dir);
        assert!(store.results().is_empty());
        assert!(store.blobs().path(HELLO).is_some());
        assert!(!wrong.exists());
        assert!(store.dir().join("db.damaged-0").exists());
        assert!(
            store.usage().iter().any(|e| e.id == "v"),
            "volumes are known by their directories"
        );
        assert_eq!(
            fs::read(store.volume("v").unwrap().path().join("f")).unwrap(),
            b"x"
        );
        assert!(layers(&store).is_empty());
        store
            .results()
            .put(&key(2), &[with_file(&store, None, "f", "x")], b"", "");
        store.close().unwrap();
    }
    let store = open(&dir);
    assert!(store.results().contains(&key(2)) && store.blobs().path(HELLO).is_some());
}

#[test]
fn after_a_restart_of_the_machine_only_what_was_synced_is_believed() {
    let dir = dir();
    let db = || rusqlite::Connection::open(dir.path().join("db")).unwrap();
    {
        let store = open(&dir);
        store
            .results()
            .put(&key(1), &[with_file(&store, None, "f", "1")], b"", "");
        store
            .results()
            .put(&key(2), &[with_file(&store, None, "f", "2")], b"", "");
        store.close().unwrap();
    }
    // As if the file system had been synced between the two, and the machine had started anew.
    let seq: i64 = db()
        .query_row("SELECT min(seq) FROM results", [], |row| row.get(0))
        .unwrap();
    db().execute(
        "INSERT OR REPLACE INTO meta VALUES ('synced', ?1)",
        [seq.to_le_bytes().to_vec()],
    )
    .unwrap();
    db().execute("UPDATE meta SET value = x'00' WHERE name = 'booted'", [])
        .unwrap();
    for _ in 0..2 {
        let store = open(&dir);
        assert!(store.results().contains(&key(1)) && !store.results().contains(&key(2)));
        assert_eq!(layers(&store).len(), 1);
    }
}

#[test]
fn numbers_are_not_used_twice() {
    let dir = dir();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let store = Store::open(dir.path(), Options::default()).unwrap();
        for _ in 0..3 {
            assert!(seen.insert(with_file(&store, None, "f", "x").id()));
        }
    }
}

/// A file system of 8 MiB on a directory, for as long as this lives.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn mount(at: &Path) -> SmallDisk<'_> {
        let mount = sys::mount::filesystem(
            "tmpfs",
            &[("size", "8m")],
            rustix::mount::MountAttrFlags::empty(),
        )
        .unwrap();
        sys::mount::attach(mount, fs::File::open(at).unwrap()).unwrap();
        SmallDisk(at)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn root_a_full_disk_is_an_error_and_not_the_end() {
    if !crate::is_root() {
        return;
    }
    let dir = dir();
    let _small = SmallDisk::mount(dir.path());
    let path = dir.path();
    let store = Store::open(path, Options::default()).unwrap();
    let total = store.disk().unwrap().total;
    assert_eq!(
        (store.dir(), total),
        (path, 8 << 20),
        "never fill another disk"
    );
    let fill = fs::File::create(store.dir().join("fill")).unwrap();
    while fill
        .write_at(&[1; 65536], fill.metadata().unwrap().len())
        .is_ok()
    {}
    while fill
        .write_at(&[1; 512], fill.metadata().unwrap().len())
        .is_ok()
    {}
    for n in 0..200 {
        store.results().put(&key(n), &[], &[n; 3000], "");
    }
    assert!(store.flush().is_err());
    assert!(store.flush().is_err(), "they are still not on the disk");
    assert_eq!(
        *store.results().get(&key(7)).unwrap().extra,
        [7; 3000],
        "memory goes on"
    );
    store.results().put(&key(201), &[], &[1; 9000], "");
    assert_eq!(store.results().get(&key(201)).unwrap().extra.len(), 9000);
    if let Ok(draft) = store.draft(None) {
        assert!(
            draft
                .tree()
                .unwrap()
                .write_file("f", &[1; 100_000], 0o644, None)
                .is_err()
        );
    }
    drop(fill);
    fs::remove_file(store.dir().join("fill")).unwrap();
    store.results().put(&key(202), &[], b"", "");
    store.flush().unwrap();
    drop(store);
    let store = Store::open(path, Options::default()).unwrap();
    assert!(store.results().contains(&key(202)));
}
