//! Blobs.

use store::IngestError;

use crate::{dir, names, open};

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[test]
fn a_blob_is_taken_in_piece_by_piece_and_kept() {
    let dir = dir();
    {
        let store = open(&dir);
        assert!(store.blobs().path(HELLO).is_none());
        let mut ingest = store.blobs().ingest(HELLO, Some(5)).unwrap();
        ingest.write(b"he").unwrap();
        assert!(matches!(
            store.blobs().ingest(HELLO, Some(5)),
            Err(IngestError::Busy { .. })
        ));
        drop(ingest);
        let mut ingest = store.blobs().ingest(HELLO, Some(5)).unwrap();
        assert_eq!(ingest.offset(), 2);
        ingest.write(b"llo").unwrap();
        ingest.commit().unwrap();
        assert_eq!(
            std::fs::read(store.blobs().path(HELLO).unwrap()).unwrap(),
            b"hello"
        );
        assert!(names(&store, "ingest").is_empty());
    }
    assert!(open(&dir).blobs().path(HELLO).is_some());
}

#[test]
fn partial_blobs_survive_a_restart() {
    let dir = dir();
    open(&dir)
        .blobs()
        .ingest(HELLO, None)
        .unwrap()
        .write(b"hel")
        .unwrap();
    let store = open(&dir);
    let mut ingest = store.blobs().ingest(HELLO, None).unwrap();
    assert_eq!(ingest.offset(), 3);
    ingest.write(b"lo").unwrap();
    ingest.commit().unwrap();
    assert!(store.blobs().path(HELLO).is_some());
}

#[test]
fn what_is_not_as_promised_is_refused() {
    let dir = dir();
    let store = open(&dir);
    let mut ingest = store.blobs().ingest(HELLO, None).unwrap();
    ingest.write(b"hallo").unwrap();
    let error = ingest.commit().unwrap_err();
    assert!(error.is_mismatch());
    assert!(error.to_string().starts_with(&format!(
        "blob {HELLO} is something else: its content has sha256:d3751d33"
    )));
    let mut ingest = store.blobs().ingest(HELLO, Some(5)).unwrap();
    assert_eq!(ingest.offset(), 0, "what was wrong is not resumed");
    assert_eq!(
        ingest.write(b"hello!").unwrap_err().to_string(),
        format!("blob {HELLO} has 6 bytes instead of 5")
    );
    drop(ingest);
    let mut ingest = store.blobs().ingest(HELLO, Some(5)).unwrap();
    ingest.write(b"hell").unwrap();
    assert!(matches!(
        ingest.commit(),
        Err(IngestError::Size {
            expected: 5,
            actual: 4,
            ..
        })
    ));
    for wrong in [
        "",
        "sha256:",
        "sha512:00",
        "sha256:../../../../etc/passwd",
        &HELLO.to_uppercase(),
        &format!("{HELLO}0"),
    ] {
        assert!(
            matches!(
                store.blobs().ingest(wrong, None),
                Err(IngestError::NotADigest { .. })
            ),
            "{wrong}"
        );
        assert!(store.blobs().path(wrong).is_none());
    }
}
