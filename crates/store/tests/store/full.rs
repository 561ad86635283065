//! A disk without room.

use std::{fs, io::Write as _, path::PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::{is_root, key, read, with_file};
use store::{IngestError, Options, Store};

const SIZE: usize = 80 << 20;

/// A small file system.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn new() -> Self {
        let dir = crate::dir();
        rustix::mount::mount(
            "none",
            dir.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(
                std::ffi::CString::new(format!("size={SIZE}"))
                    .unwrap()
                    .as_c_str(),
            ),
        )
        .expect("mount");
        Self { dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Fills it to the last byte.
    fn fill(&self, name: &str) {
        let mut file = fs::File::create(self.dir.path().join(name)).expect("create");
        for len in [1 << 20, 4096] {
            while file.write_all(&vec![1; len]).is_ok() {}
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn root_a_store_on_a_full_disk_opens_again() {
    if !is_root() {
        return;
    }
    let small = Small::new();
    {
        let store = Store::open(small.state(), Options::default()).expect("open");
        store
            .results()
            .put(&key(1), &[with_file(&store, None, "f", "kept")], b"", "");
        store.close().expect("close");
    }
    // What a killed engine left, and then the disk is full.
    fs::create_dir_all(small.state().join("drafts/77/upper")).expect("a draft");
    small.fill("state/drafts/77/upper/big");
    for _ in 0..2 {
        let store = Store::open(small.state(), Options::default()).expect("open again");
        let kept = store.results().get(&key(1)).expect("the result");
        assert_eq!(read(&kept.outputs[0], "f"), "kept");
        store.flush().expect("records are written");
    }
    // Full of what is not ours: the reserve is what is left.
    small.fill("others");
    let store = Store::open(small.state(), Options::default()).expect("open on a full disk");
    assert!(store.results().get(&key(1)).is_some());
    store.flush().expect("records are written");
    drop(store);
    fs::remove_file(small.dir.path().join("others")).expect("remove");
    drop(Store::open(small.state(), Options::default()).expect("open"));
    assert!(small.state().join("reserve").exists(), "put aside anew");
}

#[test]
fn root_a_blob_that_fills_the_disk_is_gone_at_once() {
    if !is_root() {
        return;
    }
    let small = Small::new();
    let store = Store::open(small.state(), Options::default()).expect("open");
    let digest = format!("sha256:{:064x}", 5);
    let mut ingest = store.blobs().ingest(&digest, None).expect("begin");
    let piece = vec![0; 1 << 20];
    let error = loop {
        if let Err(error) = ingest.write(&piece) {
            break error;
        }
    };
    assert!(matches!(error, IngestError::Disk(_)), "{error}");
    drop(ingest);
    assert!(crate::names(&store, "ingest").is_empty());
    // What is half there and idle goes when room is wanted.
    let mut half = store.blobs().ingest(&digest, None).expect("begin");
    half.write(&piece).expect("write");
    assert_eq!(store.drop_unfinished(), 0, "in use");
    drop(half);
    assert_eq!(store.drop_unfinished(), 1 << 20);
}
