//! Cache volumes.

use std::fs;

use store::TreeError;

use crate::{dir, names, open};

#[test]
fn a_volume_is_one_directory_for_its_key() {
    let dir = dir();
    {
        let store = open(&dir);
        let volume = store.volume("go-build / ünï\0x").unwrap();
        fs::write(volume.path().join("f"), "x").unwrap();
        assert_eq!(
            store.volume("go-build / ünï\0x").unwrap().path(),
            volume.path()
        );
        assert_ne!(store.volume("other").unwrap().path(), volume.path());
        assert_eq!(volume.key(), "go-build / ünï\0x");
    }
    let store = open(&dir);
    assert_eq!(
        fs::read(store.volume("go-build / ünï\0x").unwrap().path().join("f")).unwrap(),
        b"x"
    );
    assert_eq!(names(&store, "volumes").len(), 2);
}

#[test]
fn a_volume_is_filled_once() {
    let dir = dir();
    {
        let store = open(&dir);
        let volume = store.volume("v").unwrap();
        let failed = volume.prepare(|tree| {
            tree.write_file("half", b"x", 0o644, None)?;
            Err(TreeError::Root { action: "fill" })
        });
        assert!(failed.is_err());
        assert!(
            fs::read_dir(volume.path()).unwrap().next().is_none(),
            "half-filled is not filled"
        );
        volume
            .prepare(|tree| tree.write_file("f", b"x", 0o644, None))
            .unwrap();
        volume.prepare(|_| panic!("filled twice")).unwrap();
        fs::remove_file(volume.path().join("f")).unwrap();
    }
    let store = open(&dir);
    let volume = store.volume("v").unwrap();
    volume.prepare(|_| panic!("filled again")).unwrap();
    assert!(
        fs::read_dir(volume.path()).unwrap().next().is_none(),
        "what its users removed stays removed"
    );
    assert!(names(&store, "tmp").is_empty());
}

#[test]
fn a_volume_in_use_is_not_filled_over() {
    let dir = dir();
    let store = open(&dir);
    let volume = store.volume("v").unwrap();
    fs::write(volume.path().join("used"), "x").unwrap();
    volume
        .prepare(|tree| tree.write_file("f", b"x", 0o644, None))
        .unwrap();
    assert!(volume.path().join("used").exists());
    assert!(!volume.path().join("f").exists());
}

#[test]
fn those_who_prepare_at_once_wait_for_the_first() {
    let dir = dir();
    let store = open(&dir);
    let count = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let volume = store.volume("v").unwrap();
                volume
                    .prepare(|tree| {
                        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        tree.write_file("f", b"x", 0o644, None)
                    })
                    .unwrap();
                assert!(volume.path().join("f").exists());
            });
        }
    });
    assert_eq!(count.into_inner(), 1);
}
