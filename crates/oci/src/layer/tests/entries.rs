//! What entries become, and which are refused.

use std::os::unix::fs::MetadataExt as _;

use expect_test::expect;

use super::*;

#[test]
fn root_makes_every_kind_of_entry_with_its_attributes() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let layer = LayerBuilder::new()
        .dir_mode("./", 0o711)
        .dir_mode("bin/", 0o2555)
        .raw(
            &Raw {
                name: b"bin/su",
                mode: 0o4755,
                uid: 10,
                gid: 20,
                size: 2,
                mtime: -5,
                ..Raw::default()
            },
            b"su",
        )
        .hard_link("bin/sudo", "/bin/su")
        .symlink("sbin", "bin")
        .file("sbin/init", "init")
        .raw(
            &Raw {
                kind: b'3',
                name: b"dev/null",
                device: (1, 3),
                mode: 0o666,
                ..Raw::default()
            },
            b"",
        )
        .raw(
            &Raw {
                kind: b'4',
                name: b"dev/disk",
                device: (8, 300),
                mode: 0o660,
                gid: 6,
                ..Raw::default()
            },
            b"",
        )
        .raw(
            &Raw {
                kind: b'6',
                name: b"dev/fifo",
                mode: 0o600,
                ..Raw::default()
            },
            b"",
        )
        .raw(
            &Raw {
                name: b"big-id",
                uid: 4_000_000_000,
                gid: 3_000_000,
                ..Raw::default()
            },
            b"",
        )
        .file(&long, "long");
    let done = place.unpack(layer.clone()).unwrap();
    assert_eq!(done.diff_id, Digest::of(&layer.tar()));
    assert_eq!((done.entries, done.compression), (11, Compression::None));
    let listing = place
        .listing()
        .replace(&long, "LONG")
        .replace(&"d".repeat(90), "D");
    // Directories nobody described were made just now.
    let listing: String = listing
        .lines()
        .map(|line| {
            if line.starts_with("/D ") || line.starts_with("/dev ") {
                "made\n".to_owned()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    expect![[r#"
        /big-id 644 4000000000:3000000 1000000000 links=1 ""
        /bin 2555 0:0 1000000000 dir
        /bin/init 644 0:0 1000000000 links=1 "init"
        /bin/su 4755 10:20 -5 links=2 "su"
        /bin/sudo 4755 10:20 -5 links=2 "su"
        made
        /LONG 644 0:0 1000000000 links=1 "long"
        made
        /dev/disk 660 0:6 1000000000 node rdev=10082c kind=6
        /dev/fifo 600 0:0 1000000000 node rdev=0 kind=1
        /dev/null 666 0:0 1000000000 node rdev=103 kind=2
        /sbin 777 0:0 1000000000 -> bin
    "#]]
    .assert_eq(&listing);
    assert_eq!(place.root().metadata().unwrap().mode() & 0o7777, 0o711);
    assert_eq!(place.root().metadata().unwrap().mtime(), 1_000_000_000);
}

#[test]
fn root_extended_attributes_but_not_those_of_overlayfs() {
    let place = Place::new();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = LayerBuilder::new()
        .pax(&[
            ("SCHILY.xattr.trusted.a", b"x\0y"),
            ("SCHILY.xattr.security.capability", capability),
        ])
        .raw(
            &Raw {
                name: b"ping",
                uid: 5,
                ..Raw::default()
            },
            b"",
        )
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.whiteout", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .dir("dir");
    place.unpack(layer).unwrap();
    let get = |path: &str, name: &str| {
        let mut value = Vec::with_capacity(100);
        rustix::fs::lgetxattr(
            place.root().join(path),
            name,
            rustix::buffer::spare_capacity(&mut value),
        )
        .map(|_| value)
    };
    assert_eq!(get("ping", "trusted.a").unwrap(), b"x\0y");
    assert_eq!(
        get("ping", "security.capability").unwrap(),
        capability,
        "set after the owner, which would clear it"
    );
    for name in [
        "trusted.overlay.opaque",
        "user.overlay.whiteout",
        "trusted.overlay.redirect",
    ] {
        let error = get("dir", name).unwrap_err();
        // Before Linux 6.6 a tmpfs knows none of users' own.
        let unknown = name.starts_with("user.") && error == rustix::io::Errno::OPNOTSUPP;
        assert!(unknown || error == rustix::io::Errno::NODATA, "{name}");
    }
}

#[test]
fn root_links_are_followed_inside_the_root_only() {
    let place = Place::new();
    let layer = LayerBuilder::new()
        .symlink("abs", "/target")
        .file("abs/made-later", "1")
        .symlink("up", "../../../../../outside")
        .file("up/file", "2")
        .symlink("a", "b")
        .symlink("b", "c")
        .dir("c")
        .file("a/x", "3")
        .symlink("etc", "/proc/self/root/etc")
        .file("etc/x", "4");
    place.unpack(layer).unwrap();
    let names: Vec<String> = place
        .listing()
        .lines()
        .filter_map(|l| l.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(
        names,
        [
            "/a",
            "/abs",
            "/b",
            "/c",
            "/c/x",
            "/etc",
            "/outside",
            "/outside/file",
            "/proc",
            "/proc/self",
            "/proc/self/root",
            "/proc/self/root/etc",
            "/proc/self/root/etc/x",
            "/target",
            "/target/made-later",
            "/up"
        ]
    );
}

#[test]
fn root_the_last_component_is_never_followed() {
    let place = Place::new();
    let outside = place.dir.path().join("outside/secret");
    let outside = outside.to_str().unwrap();
    let layer = LayerBuilder::new()
        .symlink("file", outside)
        .file("file", "mine")
        .symlink("dir", place.dir.path().join("outside").to_str().unwrap())
        .dir_mode("dir", 0o700)
        .file("dir/x", "x")
        .symlink("owned", outside)
        .raw(
            &Raw {
                name: b"owned",
                uid: 77,
                mode: 0o777,
                ..Raw::default()
            },
            b"",
        );
    place.unpack(layer).unwrap();
    assert_eq!(std::fs::metadata(outside).unwrap().uid(), 0);
    expect![[r#"
        /dir 700 0:0 1000000000 dir
        /dir/x 644 0:0 1000000000 links=1 "x"
        /file 644 0:0 1000000000 links=1 "mine"
        /owned 777 77:0 1000000000 links=1 ""
    "#]]
    .assert_eq(&place.listing());
}

#[test]
fn root_hostile_names_and_links_are_refused() {
    let file = |name: &str| LayerBuilder::new().file(name, "x");
    let link = |target: &str| LayerBuilder::new().file("x", "").hard_link("l", target);
    check_error(
        file("../outside/x"),
        expect!["layer entry `../outside/x` is refused: path contains `..`"],
    );
    check_error(
        file("a/../../x"),
        expect!["layer entry `a/../../x` is refused: path contains `..`"],
    );
    check_error(
        file(""),
        expect!["layer entry `` is refused: path has 0 bytes"],
    );
    check_error(
        file("./"),
        expect!["layer entry `./` is refused: the root of a layer can only be a directory"],
    );
    check_error(
        LayerBuilder::new().pax(&[("path", b"a\0b")]).file("x", ""),
        expect!["layer entry `a\u{fffd}b` is refused: path contains a NUL byte"],
    );
    check_error(
        link("../outside/secret"),
        expect!["layer entry `l` is refused: path contains `..`"],
    );
    check_error(
        link("/outside/secret"),
        expect!["layer entry `l` is refused: hard link to `/outside/secret`, which does not exist"],
    );
    check_error(
        link(".wh.x"),
        expect!["layer entry `l` is refused: hard link to `.wh.x`, which does not exist"],
    );
    check_error(
        link("/"),
        expect!["layer entry `l` is refused: hard link to `/`, which does not exist"],
    );
    check_error(
        LayerBuilder::new()
            .symlink("s", "../../outside")
            .hard_link("l", "s/secret"),
        expect!["layer entry `l` is refused: hard link to `s/secret`, which does not exist"],
    );
    check_error(
        LayerBuilder::new().dir("d").hard_link("l", "d"),
        expect!["cannot link layer entry `l`: Operation not permitted (os error 1)"],
    );
    check_error(
        LayerBuilder::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", ""),
        expect![
            "cannot find the parent directory of layer entry `a/x`: Too many levels of symbolic links (os error 40)"
        ],
    );
    check_error(
        file("f").file("f/x", ""),
        expect![
            "cannot find the parent directory of layer entry `f/x`: Not a directory (os error 20)"
        ],
    );
    check_error(
        LayerBuilder::new().raw(
            &Raw {
                name: b"x",
                uid: u32::MAX.into(),
                ..Raw::default()
            },
            b"",
        ),
        expect!["layer entry `x` is refused: owner ID 4294967295 is not usable"],
    );
    check_error(
        LayerBuilder::new().raw(
            &Raw {
                name: b"x",
                gid: 1 << 32,
                ..Raw::default()
            },
            b"",
        ),
        expect!["layer entry `x` is refused: owner ID 4294967296 is not usable"],
    );
    check_error(
        LayerBuilder::new().raw(
            &Raw {
                kind: b'3',
                name: b"x",
                ..Raw::default()
            },
            b"",
        ),
        expect!["layer entry `x` is refused: character device 0:0 is reserved for deletions"],
    );
    check_error(
        LayerBuilder::new().symlink("x", ""),
        expect!["layer entry `x` is refused: path has 0 bytes"],
    );
    let text = chain(&Place::new().unpack(file(&"a/".repeat(2048))).unwrap_err());
    assert!(text.ends_with("is refused: path has 4096 bytes"), "{text}");
    let text = chain(&Place::new().unpack(file(&"a/".repeat(2000))).unwrap_err());
    assert!(
        text.ends_with("is refused: directories are nested too deeply"),
        "{text}"
    );
    let text = chain(&Place::new().unpack(file(&"a".repeat(256))).unwrap_err());
    assert!(text.ends_with("File name too long (os error 36)"), "{text}");
}

#[test]
fn root_the_same_name_again_replaces_what_was_there() {
    let place = Place::new();
    let layer = LayerBuilder::new()
        .dir("d/e")
        .file("d/e/f", "old")
        .file("d", "now a file")
        .file("x", "old")
        .hard_link("y", "x")
        .file("x", "new")
        .hard_link("x", "x")
        .dir_mode("k", 0o700)
        .file("k/a", "kept")
        .dir_mode("k", 0o755)
        .dir("p")
        .file("p/1", "1")
        .symlink("p", "k")
        .file("p/b", "through the link");
    place.unpack(layer).unwrap();
    expect![[r#"
        /d 644 0:0 1000000000 links=1 "now a file"
        /k 755 0:0 1000000000 dir
        /k/a 644 0:0 1000000000 links=1 "kept"
        /k/b 644 0:0 1000000000 links=1 "through the link"
        /p 777 0:0 1000000000 -> k
        /x 644 0:0 1000000000 links=1 "new"
        /y 644 0:0 1000000000 links=1 "old"
    "#]]
    .assert_eq(&place.listing());
}
