//! Headers, compression, sizes: the bytes below the entries.

use expect_test::expect;

use super::*;

#[test]
fn root_headers_two_readers_could_take_differently_are_refused() {
    let raw = |kind: u8, size: u64| {
        LayerBuilder::new().raw(
            &Raw {
                kind,
                name: b"x",
                size,
                ..Raw::default()
            },
            &[0; 512],
        )
    };
    check_error(
        raw(b'5', 512),
        expect![
            "layer has a bad header at byte 0, near entry `x`: an entry without contents claims 512 bytes"
        ],
    );
    check_error(
        raw(b'2', 512),
        expect![
            "layer has a bad header at byte 0, near entry `x`: an entry without contents claims 512 bytes"
        ],
    );
    check_error(
        raw(b'V', 0),
        expect!["layer has a bad header at byte 0, near entry `x`: unsupported entry type `V`"],
    );
    check_error(
        LayerBuilder::new().pax(&[("size", b"-1")]).file("x", ""),
        expect![
            "layer has a bad header at byte 0, near entry ``: field `size` is not a valid number"
        ],
    );
    check_error(
        LayerBuilder::new()
            .pax(&[("path", b"a")])
            .pax(&[("path", b"b")])
            .file("x", ""),
        expect![
            "layer has a bad header at byte 0, near entry ``: ambiguous: two extended headers for one entry"
        ],
    );
    check_error(
        LayerBuilder::new()
            .pax(&[("path", b"a")])
            .file(&"n".repeat(101), ""),
        expect![
            "layer has a bad header at byte 0, near entry ``: ambiguous: two long names for one entry"
        ],
    );
    check_error(
        LayerBuilder::new()
            .extended(b'g', &[("size", b"1")])
            .file("x", ""),
        expect![
            "layer has a bad header at byte 0, near entry ``: ambiguous: a global header sets names, sizes or attributes"
        ],
    );
    check_error(
        LayerBuilder::new().file("x", "").pax(&[("path", b"a")]),
        expect![
            "layer has a bad header at byte 512, near entry `x`: ambiguous: an extended header without its entry"
        ],
    );
    check_error(
        LayerBuilder::new().bytes(&[0; 512]).file("x", ""),
        expect![
            "layer has a bad header at byte 0, near entry ``: ambiguous: entries after a lone zero block"
        ],
    );
    check_error(
        LayerBuilder::new().bytes(&[b'z'; 512]),
        expect!["layer has a bad header at byte 0, near entry ``: checksum does not match"],
    );
    let huge = Raw {
        kind: b'x',
        name: b"x",
        size: 2 << 20,
        ..Raw::default()
    };
    check_error(
        LayerBuilder::new().raw(&huge, &[b'a'; 512]),
        expect![
            "layer has a bad header at byte 0, near entry ``: extended header of 2097152 bytes is too large"
        ],
    );
    // The size of the extended header wins, as POSIX says: what follows is contents, not a hidden entry.
    let place = Place::new();
    let hidden = LayerBuilder::new().file("hidden", "").unfinished();
    let layer = LayerBuilder::new().pax(&[("size", b"512")]).raw(
        &Raw {
            name: b"outer",
            ..Raw::default()
        },
        &hidden,
    );
    place.unpack(layer).unwrap();
    assert_eq!(place.listing().lines().count(), 1);
    assert_eq!(std::fs::read(place.root().join("outer")).unwrap(), hidden);
}

#[test]
fn root_half_a_layer_is_an_error() {
    let place = Place::new();
    let tar = LayerBuilder::new().file("x", [b'x'; 5000]).unfinished();
    expect!["layer is cut off after 2000 bytes, in entry `x`"].assert_eq(&chain(
        &place
            .unpack_bytes(&tar[..2000], Beneath::Nothing)
            .unwrap_err(),
    ));
    expect!["layer is cut off after 100 bytes, in entry ``"].assert_eq(&chain(
        &place
            .unpack_bytes(&tar[..100], Beneath::Nothing)
            .unwrap_err(),
    ));
    for compression in [Compression::Gzip, Compression::Zstd] {
        let blob = crate::testkit::compress(&tar, compression);
        let text = chain(
            &place
                .unpack_bytes(&blob[..blob.len() - 6], Beneath::Nothing)
                .unwrap_err(),
        );
        assert!(text.starts_with("cannot read the layer after"), "{text}");
    }
    let text = chain(
        &place
            .unpack_bytes(b"<html>not found</html>", Beneath::Nothing)
            .unwrap_err(),
    );
    assert_eq!(text, "layer is cut off after 22 bytes, in entry ``");
}

#[test]
fn root_every_compression_gives_the_same_tree_and_digest() {
    let tar = LayerBuilder::new()
        .file("x", vec![7; 3 << 20])
        .file("y", "y")
        .tar();
    let mut members = crate::testkit::compress(&tar[..1000], Compression::Gzip);
    members.extend(crate::testkit::compress(&tar[1000..], Compression::Gzip));
    let mut frames = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    frames.extend(crate::testkit::compress(&tar, Compression::Zstd));
    let compress = crate::testkit::compress;
    for (blob, compression) in [
        (tar.clone(), Compression::None),
        (compress(&tar, Compression::Gzip), Compression::Gzip),
        (members, Compression::Gzip),
        (compress(&tar, Compression::Zstd), Compression::Zstd),
        (frames, Compression::Zstd),
    ] {
        let place = Place::new();
        let root = std::fs::File::open(place.root()).unwrap();
        let target = Target {
            root: root.as_fd(),
            beneath: Beneath::Nothing,
        };
        let expected = Expected {
            digest: Some(Digest::of(&blob)),
            diff_id: Some(Digest::of(&tar)),
        };
        let done = unpack(blob.as_slice(), target, &expected, &Limits::default()).unwrap();
        assert_eq!(
            (done.compression, done.size),
            (compression, tar.len() as u64)
        );
        assert_eq!(
            std::fs::metadata(place.root().join("x")).unwrap().len(),
            3 << 20
        );
        let other = Digest::of(b"other");
        for (expected, message) in [
            (
                Expected {
                    digest: Some(other),
                    diff_id: None,
                },
                format!(
                    "layer blob has digest {}, expected {other}",
                    Digest::of(&blob)
                ),
            ),
            (
                Expected {
                    digest: None,
                    diff_id: Some(other),
                },
                format!(
                    "layer contents have digest {}, the image config says {other}",
                    Digest::of(&tar)
                ),
            ),
        ] {
            let error = unpack(blob.as_slice(), target, &expected, &Limits::default()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}

#[test]
fn root_an_empty_layer_is_a_layer() {
    let place = Place::new();
    let done = place.unpack_bytes(b"", Beneath::Nothing).unwrap();
    assert_eq!((done.diff_id, done.entries), (Digest::of(b""), 0));
    let done = place.unpack(LayerBuilder::new()).unwrap();
    assert_eq!(done.diff_id, Digest::of(&[0; 1024]));
}

#[test]
fn root_limits_stop_bombs() {
    let place = Place::new();
    let root = std::fs::File::open(place.root()).unwrap();
    let target = Target {
        root: root.as_fd(),
        beneath: Beneath::Nothing,
    };
    let bomb = crate::testkit::compress(
        &LayerBuilder::new().file("x", vec![0; 8 << 20]).tar(),
        Compression::Zstd,
    );
    assert!(bomb.len() < 2000);
    let run = |blob: &[u8], limits| {
        unpack(blob, target, &Expected::default(), &limits)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        run(
            &bomb,
            Limits {
                bytes: 1 << 20,
                entries: 9
            }
        ),
        "layer has more than 1048576 bytes"
    );
    let many = (0..10)
        .fold(LayerBuilder::new(), |layer, n| {
            layer.file(&n.to_string(), "")
        })
        .tar();
    assert_eq!(
        run(
            &many,
            Limits {
                bytes: 1 << 20,
                entries: 9
            }
        ),
        "layer has more than 9 entries"
    );
    // Rubbish after the end counts too.
    let mut trailing = LayerBuilder::new().file("y", "").tar();
    trailing.resize(2 << 20, 0);
    assert_eq!(
        run(
            &trailing,
            Limits {
                bytes: 1 << 20,
                entries: 9
            }
        ),
        "layer has more than 1048576 bytes"
    );
}

#[test]
fn root_sparse_files_of_every_version() {
    let place = Place::new();
    let gnu = {
        // GNU's own: the map stands in the header.
        let mut block = LayerBuilder::new()
            .raw(
                &Raw {
                    kind: b'S',
                    name: b"old",
                    size: 6,
                    ..Raw::default()
                },
                b"",
            )
            .unfinished();
        block[257..265].copy_from_slice(b"ustar  \0");
        for (at, number) in [
            (386, 0),
            (398, 3),
            (410, 1 << 20),
            (422, 3),
            (434, 5 << 20),
            (446, 0),
            (483, 5 << 20),
        ] {
            block[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
        }
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    };
    let map = format!("3\n0\n3\n{}\n3\n{}\n0\n", 1 << 20, 5 << 20);
    let mut prefixed = map.into_bytes();
    prefixed.resize(512, 0);
    prefixed.extend(b"abcdef");
    let length = (5u64 << 20).to_string();
    let commas = format!("0,3,{},3,{length},0", 1 << 20);
    let layer = LayerBuilder::new()
        .bytes(&gnu)
        .bytes(b"abcdef")
        .bytes(&[0; 506])
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"v1.0"),
            ("GNU.sparse.realsize", length.as_bytes()),
        ])
        .file("GNUSparseFile.0/v1.0", &prefixed)
        .pax(&[
            ("GNU.sparse.size", length.as_bytes()),
            ("GNU.sparse.name", b"v0.1"),
            ("GNU.sparse.map", commas.as_bytes()),
        ])
        .file("GNUSparseFile.0/v0.1", "abcdef")
        .pax(&[
            ("GNU.sparse.size", length.as_bytes()),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"1048576"),
            ("GNU.sparse.numbytes", b"3"),
        ])
        .file("v0.0", "abcdef")
        .file("after", "");
    place.unpack(layer).unwrap();
    let mut whole = vec![0; 5 << 20];
    whole[..3].copy_from_slice(b"abc");
    whole[1 << 20..(1 << 20) + 3].copy_from_slice(b"def");
    for name in ["old", "v1.0", "v0.1", "v0.0"] {
        let path = place.root().join(name);
        assert!(std::fs::read(&path).unwrap() == whole, "{name}");
        assert!(
            path.metadata().unwrap().blocks() < 100,
            "{name} has its holes"
        );
    }
    assert!(place.root().join("after").exists());
    for map in ["0,3,2,3", "0,3,9999999999,3", "0,3", "0,3,1048576", "x"] {
        let layer = LayerBuilder::new()
            .pax(&[
                ("GNU.sparse.size", length.as_bytes()),
                ("GNU.sparse.map", map.as_bytes()),
            ])
            .file("x", "abcdef");
        let text = chain(&Place::new().unpack(layer).unwrap_err());
        assert!(text.ends_with("invalid sparse file map"), "{map}: {text}");
    }
}

/// Whatever bytes come, there is an answer and nothing outside is touched.
#[test]
fn root_damaged_layers_never_panic() {
    let sound = LayerBuilder::new()
        .dir("a")
        .pax(&[
            ("path", b"a/long"),
            ("mtime", b"1.5"),
            ("SCHILY.xattr.user.x", b"y"),
        ])
        .file("x", "contents")
        .symlink("s", "../outside")
        .file("s/t", "t")
        .hard_link("h", "a/long")
        .file(&"n".repeat(150), "n")
        .whiteout("a/long")
        .tar();
    // A small generator: the same damage every time.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut accepted = 0;
    for _ in 0..600 {
        let mut tar = sound.clone();
        for _ in 0..=next(3) {
            let at = next(tar.len());
            match next(4) {
                0 => tar[at] = u8::try_from(next(256)).unwrap(),
                1 => tar.truncate(at.max(1)),
                2 => {
                    let from = next(tar.len()) / 512 * 512;
                    let block: Vec<u8> = tar[from..(from + 512).min(tar.len())].to_vec();
                    tar.splice(at / 512 * 512..at / 512 * 512, block);
                }
                _ => tar[at] = *b"./\0-9x".get(next(6)).unwrap(),
            }
        }
        repair_checksums(&mut tar);
        accepted += usize::from(Place::new().unpack_bytes(&tar, Beneath::Layers).is_ok());
    }
    assert!(
        accepted > 50,
        "the damage is not so bad that nothing gets past the first header: {accepted}"
    );
}

fn repair_checksums(tar: &mut [u8]) {
    for block in tar
        .chunks_exact_mut(512)
        .filter(|block| block[257..262] == *b"ustar")
    {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
