//! The store on a real file system. Tests whose names begin with `root_` mount overlays.

mod blobs;
mod crash;
mod full;
mod layers;
mod locking;
mod prune;
mod results;
mod volumes;

use std::path::Path;

use store::{Options, Snapshot, Store, Tree};

/// A directory for one store, on a RAM disk where there is one.
pub fn dir() -> tempfile::TempDir {
    let base = Path::new("/dev/shm");
    let base = if base.is_dir() {
        base.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("store-")
        .tempdir_in(base)
        .expect("a scratch directory")
}

pub fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(dir.path(), Options::default()).expect("open the store")
}

/// Whether overlays can be mounted; says so when not. With `CI` set that is a failure.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(
        root || std::env::var_os("CI").is_none(),
        "this test needs root"
    );
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A snapshot made from `parent` by some edits.
pub fn edited(store: &Store, parent: Option<&Snapshot>, edit: impl FnOnce(&Tree)) -> Snapshot {
    let draft = store.draft(parent).expect("a draft");
    edit(&draft.tree().expect("its tree"));
    draft.commit().expect("commit")
}

/// A snapshot with one file.
pub fn with_file(store: &Store, parent: Option<&Snapshot>, path: &str, contents: &str) -> Snapshot {
    edited(store, parent, |tree| {
        tree.write_file(path, contents.as_bytes(), 0o644, None)
            .expect("write")
    })
}

/// All paths of a snapshot.
pub fn paths(snapshot: &Snapshot) -> Vec<String> {
    let mut paths = Vec::new();
    let tree = snapshot.tree().expect("its tree");
    tree.walk("/", &mut |walked| {
        paths.push(String::from_utf8_lossy(walked.path).into_owned());
        Ok(())
    })
    .expect("walk");
    paths
}

pub fn read(snapshot: &Snapshot, path: &str) -> String {
    let bytes = snapshot
        .tree()
        .expect("its tree")
        .read_file(path, 1 << 20)
        .expect("read");
    String::from_utf8(bytes).expect("text")
}

/// The names in a directory of the store.
pub fn names(store: &Store, dir: &str) -> Vec<String> {
    let list = std::fs::read_dir(store.dir().join(dir)).expect("list");
    let mut names: Vec<String> = list
        .map(|e| e.expect("entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

/// The layers on disk, apart from the two empty ones.
pub fn layers(store: &Store) -> Vec<String> {
    names(store, "layers")
        .into_iter()
        .filter(|name| name != "0" && name != "1")
        .collect()
}

pub fn key(n: u8) -> store::Key {
    [n; 32]
}
