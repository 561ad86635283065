//! Who may open a store, and where.

use std::fs;

use store::{OpenError, Options, Store};

use crate::{dir, is_root, open};

#[test]
fn two_engines_cannot_share_a_store() {
    let dir = dir();
    let first = open(&dir);
    let error = Store::open(dir.path(), Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "another engine (process {}) uses `{}`",
            std::process::id(),
            dir.path().display()
        )
    );
    assert!(matches!(error, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()));
    drop(first);
    open(&dir);
}

#[test]
fn a_handle_keeps_the_store_open() {
    let dir = dir();
    let store = open(&dir);
    let snapshot = crate::with_file(&store, None, "f", "x");
    drop(store);
    assert!(matches!(
        Store::open(dir.path(), Options::default()),
        Err(OpenError::InUse { .. })
    ));
    assert_eq!(crate::read(&snapshot, "f"), "x");
    drop(snapshot);
    open(&dir);
}

#[test]
fn a_store_of_the_future_is_refused() {
    let dir = dir();
    drop(open(&dir));
    let path = dir.path().join("format.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("layers-1", "layers-9")).unwrap();
    assert_eq!(
        Store::open(dir.path(), Options::default())
            .unwrap_err()
            .to_string(),
        format!(
            "`{}` was made by a newer program: it needs `layers-9`; use that program, or another directory",
            dir.path().display()
        )
    );
    fs::write(
        &path,
        r#"{"incompatible":["layers-1"],"compatible":["new"],"more":1}"#,
    )
    .unwrap();
    open(&dir);
    fs::write(&path, "garbage").unwrap();
    assert!(matches!(
        Store::open(dir.path(), Options::default()),
        Err(OpenError::Unreadable { .. })
    ));
}

#[test]
fn a_directory_that_is_something_else_is_left_alone() {
    for name in ["tmp", "blobs", "trash", "db"] {
        let dir = dir();
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("precious"), "x").unwrap();
        let error = Store::open(dir.path(), Options::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`{}` is not a store, but has a `{name}` already: choose an empty directory with BODKIN_STATE_DIR",
                dir.path().display()
            )
        );
        assert!(dir.path().join(name).join("precious").exists());
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing was made");
    }
    let dir = dir();
    fs::write(dir.path().join("engine.log"), "x").unwrap();
    open(&dir);
}

#[test]
fn root_a_store_on_an_overlay_is_refused_with_advice() {
    if !is_root() {
        return;
    }
    let dir = dir();
    let store = open(&dir);
    let base = crate::with_file(&store, None, "f", "x");
    let draft = store.draft(Some(&base)).unwrap();
    let mount = sys::mount::overlay(&draft.overlay()).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
    let error = Store::open(path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::OnOverlay { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("choose another directory with BODKIN_STATE_DIR")
    );
}

/// Whoever loses must say so: a command that started an engine goes to the other one then, and only then.
#[test]
fn of_many_who_make_a_store_at_once_one_has_it() {
    for _ in 0..500 {
        let dir = dir();
        let path = dir.path().join("state");
        let barrier = std::sync::Barrier::new(4);
        let open = || {
            barrier.wait();
            let opened = Store::open(&path, Options::default());
            // Held until all have tried.
            barrier.wait();
            opened.map(drop)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for result in lost {
            let error = result.unwrap_err();
            assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        }
    }
}
