//! Layers, friendly and hostile, against a directory of their own.

use std::{
    collections::BTreeMap,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use expect_test::{Expect, expect};

use super::*;
use crate::testkit::{LayerBuilder, Raw};

/// A root inside a directory whose other contents an attack would reach.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self, layer: LayerBuilder) -> Result<Unpacked, UnpackError> {
        self.unpack_bytes(&layer.tar(), Beneath::Nothing)
    }

    /// Over what is there already, as if it had come from lower layers.
    fn unpack_over(&self, layer: LayerBuilder) -> Result<Unpacked, UnpackError> {
        self.unpack_bytes(&layer.tar(), Beneath::Layers)
    }

    fn unpack_bytes(&self, bytes: &[u8], beneath: Beneath) -> Result<Unpacked, UnpackError> {
        let root = std::fs::File::open(self.root()).unwrap();
        let target = Target { root: root.as_fd(), beneath };
        let result = unpack(bytes, target, &Expected::default(), &Limits::default());
        assert_eq!(std::fs::read_to_string(self.dir.path().join("outside/secret")).unwrap(), "secret");
        assert_eq!(std::fs::read_dir(self.dir.path().join("outside")).unwrap().count(), 1, "something was made outside");
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 2, "something was made outside");
        result
    }

    fn listing(&self) -> String {
        let mut lines = BTreeMap::new();
        list(&self.root(), "", &mut lines);
        lines.into_iter().map(|(path, line)| format!("{path} {line}\n")).collect()
    }
}

fn list(dir: &Path, prefix: &str, lines: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        let meta = entry.path().symlink_metadata().unwrap();
        let what = if meta.is_dir() {
            list(&entry.path(), &path, lines);
            "dir".to_owned()
        } else if meta.is_symlink() {
            format!("-> {}", std::fs::read_link(entry.path()).unwrap().display())
        } else if meta.is_file() {
            let text = std::fs::read(entry.path()).unwrap();
            format!("links={} {:?}", meta.nlink(), String::from_utf8_lossy(&text))
        } else {
            format!("node rdev={:x} kind={:o}", meta.rdev(), meta.mode() >> 12)
        };
        lines.insert(path, format!("{:o} {}:{} {} {what}", meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn check_error(layer: LayerBuilder, expected: Expect) {
    let place = Place::new();
    expected.assert_eq(&chain(&place.unpack(layer).unwrap_err()));
}

#[test]
fn root_makes_every_kind_of_entry_with_its_attributes() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let layer = LayerBuilder::new()
        .dir_mode("./", 0o711)
        .dir_mode("bin/", 0o2555)
        .raw(&Raw { name: b"bin/su", mode: 0o4755, uid: 10, gid: 20, size: 2, mtime: -5, ..Raw::default() }, b"su")
        .hard_link("bin/sudo", "/bin/su")
        .symlink("sbin", "bin")
        .file("sbin/init", "init")
        .raw(&Raw { kind: b'3', name: b"dev/null", device: (1, 3), mode: 0o666, ..Raw::default() }, b"")
        .raw(&Raw { kind: b'4', name: b"dev/disk", device: (8, 300), mode: 0o660, gid: 6, ..Raw::default() }, b"")
        .raw(&Raw { kind: b'6', name: b"dev/fifo", mode: 0o600, ..Raw::default() }, b"")
        .raw(&Raw { name: b"big-id", uid: 4_000_000_000, gid: 3_000_000, ..Raw::default() }, b"")
        .file(&long, "long");
    let done = place.unpack(layer.clone()).unwrap();
    assert_eq!(done.diff_id, Digest::of(&layer.tar()));
    assert_eq!((done.entries, done.compression), (11, Compression::None));
    let listing = place.listing().replace(&long, "LONG").replace(&"d".repeat(90), "D");
    // Directories nobody described were made just now.
    let listing: String = listing
        .lines()
        .map(|line| if line.starts_with("/D ") || line.starts_with("/dev ") { "made\n".to_owned() } else { format!("{line}\n") })
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
        .pax(&[("SCHILY.xattr.trusted.a", b"x\0y"), ("SCHILY.xattr.security.capability", capability)])
        .raw(&Raw { name: b"ping", uid: 5, ..Raw::default() }, b"")
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.whiteout", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .dir("dir");
    place.unpack(layer).unwrap();
    let get = |path: &str, name: &str| {
        let mut value = Vec::with_capacity(100);
        rustix::fs::lgetxattr(place.root().join(path), name, rustix::buffer::spare_capacity(&mut value)).map(|_| value)
    };
    assert_eq!(get("ping", "trusted.a").unwrap(), b"x\0y");
    assert_eq!(get("ping", "security.capability").unwrap(), capability, "set after the owner, which would clear it");
    for name in ["trusted.overlay.opaque", "user.overlay.whiteout", "trusted.overlay.redirect"] {
        assert_eq!(get("dir", name), Err(rustix::io::Errno::NODATA), "{name}");
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
    let names: Vec<String> = place.listing().lines().filter_map(|l| l.split(' ').next().map(str::to_owned)).collect();
    assert_eq!(
        names,
        [
            "/a", "/abs", "/b", "/c", "/c/x", "/etc", "/outside", "/outside/file", "/proc", "/proc/self", "/proc/self/root",
            "/proc/self/root/etc", "/proc/self/root/etc/x", "/target", "/target/made-later", "/up"
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
        .raw(&Raw { name: b"owned", uid: 77, mode: 0o777, ..Raw::default() }, b"");
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
    check_error(file("../outside/x"), expect!["layer entry `../outside/x` is refused: path contains `..`"]);
    check_error(file("a/../../x"), expect!["layer entry `a/../../x` is refused: path contains `..`"]);
    check_error(file(""), expect!["layer entry `` is refused: path has 0 bytes"]);
    check_error(file("./"), expect!["layer entry `./` is refused: the root of a layer can only be a directory"]);
    check_error(
        LayerBuilder::new().pax(&[("path", b"a\0b")]).file("x", ""),
        expect!["layer entry `a\u{fffd}b` is refused: path contains a NUL byte"],
    );
    check_error(link("../outside/secret"), expect!["layer entry `l` is refused: path contains `..`"]);
    check_error(link("/outside/secret"), expect!["layer entry `l` is refused: hard link to `/outside/secret`, which does not exist"]);
    check_error(link(".wh.x"), expect!["layer entry `l` is refused: hard link to `.wh.x`, which does not exist"]);
    check_error(link("/"), expect!["layer entry `l` is refused: hard link to `/`, which does not exist"]);
    check_error(
        LayerBuilder::new().symlink("s", "../../outside").hard_link("l", "s/secret"),
        expect!["layer entry `l` is refused: hard link to `s/secret`, which does not exist"],
    );
    check_error(
        LayerBuilder::new().dir("d").hard_link("l", "d"),
        expect!["cannot link layer entry `l`: Operation not permitted (os error 1)"],
    );
    check_error(
        LayerBuilder::new().symlink("a", "b").symlink("b", "a").file("a/x", ""),
        expect!["cannot find the parent directory of layer entry `a/x`: Too many levels of symbolic links (os error 40)"],
    );
    check_error(
        file("f").file("f/x", ""),
        expect!["cannot find the parent directory of layer entry `f/x`: Not a directory (os error 20)"],
    );
    check_error(
        LayerBuilder::new().raw(&Raw { name: b"x", uid: u32::MAX.into(), ..Raw::default() }, b""),
        expect!["layer entry `x` is refused: owner ID 4294967295 is not usable"],
    );
    check_error(
        LayerBuilder::new().raw(&Raw { name: b"x", gid: 1 << 32, ..Raw::default() }, b""),
        expect!["layer entry `x` is refused: owner ID 4294967296 is not usable"],
    );
    check_error(
        LayerBuilder::new().raw(&Raw { kind: b'3', name: b"x", ..Raw::default() }, b""),
        expect!["layer entry `x` is refused: character device 0:0 is reserved for deletions"],
    );
    check_error(
        LayerBuilder::new().symlink("x", ""),
        expect!["layer entry `x` is refused: path has 0 bytes"],
    );
    let text = chain(&Place::new().unpack(file(&"a/".repeat(2048))).unwrap_err());
    assert!(text.ends_with("is refused: path has 4096 bytes"), "{text}");
    let text = chain(&Place::new().unpack(file(&"a/".repeat(2000))).unwrap_err());
    assert!(text.ends_with("is refused: directories are nested too deeply"), "{text}");
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

#[test]
fn root_deletions_take_from_lower_layers_only() {
    let place = Place::new();
    let lower = LayerBuilder::new()
        .file("gone", "")
        .file("stays", "lower")
        .dir("tree/sub")
        .file("tree/sub/deep", "")
        .file("opaque/lower", "")
        .file("opaque/both/lower", "")
        .file("again/lower", "")
        .symlink("link", "opaque");
    place.unpack(lower).unwrap();
    let upper = LayerBuilder::new()
        .whiteout("gone")
        .whiteout("tree")
        .whiteout("nothing/here")
        .whiteout("link")
        .dir("opaque")
        .file("opaque/upper", "1")
        .file("opaque/both/upper", "2")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/later", "3")
        // Deleted and made again, in both orders.
        .whiteout("again")
        .file("again/upper", "4")
        .file("stays", "upper")
        .whiteout("stays")
        .file(".wh..wh.plnk", "")
        .file("x/.wh..wh.aufs/y", "");
    place.unpack_over(upper).unwrap();
    let names: Vec<String> = place.listing().lines().filter_map(|l| l.split(' ').next().map(str::to_owned)).collect();
    assert_eq!(
        names,
        ["/again", "/again/upper", "/opaque", "/opaque/both", "/opaque/both/upper", "/opaque/later", "/opaque/upper", "/stays"]
    );
    place.unpack_over(LayerBuilder::new().file(".wh..wh..opq", "").file("only", "")).unwrap();
    assert_eq!(place.listing().lines().count(), 1);
}

#[test]
fn root_deletion_marks_in_the_lowest_layer_mean_nothing() {
    let place = Place::new();
    place.unpack(LayerBuilder::new().file("x", "").whiteout("x").file("d/.wh..wh..opq", "").whiteout("y")).unwrap();
    expect![[r#"
        /x 644 0:0 1000000000 links=1 ""
    "#]]
    .assert_eq(&place.listing());
}

#[test]
fn root_malformed_deletion_marks_are_refused() {
    let refused = "is refused: invalid deletion mark";
    for name in ["a/.wh.", "a/.wh..", "a/.wh...", ".wh.x/y"] {
        let text = chain(&Place::new().unpack_over(LayerBuilder::new().dir("a").file(name, "")).unwrap_err());
        assert!(text.ends_with(refused), "{name}: {text}");
    }
}

#[test]
fn root_a_deletion_does_not_reach_through_a_link_out_of_the_tree() {
    let place = Place::new();
    place.unpack(LayerBuilder::new().symlink("s", "../outside").symlink("t", "/../outside")).unwrap();
    place.unpack_over(LayerBuilder::new().whiteout("s/secret").whiteout("t/secret").file("s/.wh..wh..opq", "")).unwrap();
}

#[test]
fn root_headers_two_readers_could_take_differently_are_refused() {
    let raw = |kind: u8, size: u64| LayerBuilder::new().raw(&Raw { kind, name: b"x", size, ..Raw::default() }, &[0; 512]);
    check_error(raw(b'5', 512), expect!["layer has a bad header at byte 0, near entry `x`: an entry without contents claims 512 bytes"]);
    check_error(raw(b'2', 512), expect!["layer has a bad header at byte 0, near entry `x`: an entry without contents claims 512 bytes"]);
    check_error(raw(b'V', 0), expect!["layer has a bad header at byte 0, near entry `x`: unsupported entry type `V`"]);
    check_error(
        LayerBuilder::new().pax(&[("size", b"-1")]).file("x", ""),
        expect!["layer has a bad header at byte 0, near entry ``: field `size` is not a valid number"],
    );
    check_error(
        LayerBuilder::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("x", ""),
        expect!["layer has a bad header at byte 0, near entry ``: ambiguous: two extended headers for one entry"],
    );
    check_error(
        LayerBuilder::new().pax(&[("path", b"a")]).file(&"n".repeat(101), ""),
        expect!["layer has a bad header at byte 0, near entry ``: ambiguous: two long names for one entry"],
    );
    check_error(
        LayerBuilder::new().extended(b'g', &[("size", b"1")]).file("x", ""),
        expect!["layer has a bad header at byte 0, near entry ``: ambiguous: a global header sets names, sizes or attributes"],
    );
    check_error(
        LayerBuilder::new().file("x", "").pax(&[("path", b"a")]),
        expect!["layer has a bad header at byte 512, near entry `x`: ambiguous: an extended header without its entry"],
    );
    check_error(
        LayerBuilder::new().bytes(&[0; 512]).file("x", ""),
        expect!["layer has a bad header at byte 0, near entry ``: ambiguous: entries after a lone zero block"],
    );
    check_error(
        LayerBuilder::new().bytes(&[b'z'; 512]),
        expect!["layer has a bad header at byte 0, near entry ``: checksum does not match"],
    );
    let huge = Raw { kind: b'x', name: b"x", size: 2 << 20, ..Raw::default() };
    check_error(
        LayerBuilder::new().raw(&huge, &[b'a'; 512]),
        expect!["layer has a bad header at byte 0, near entry ``: extended header of 2097152 bytes is too large"],
    );
    // The size of the extended header wins, as POSIX says: what follows is contents, not a hidden entry.
    let place = Place::new();
    let hidden = LayerBuilder::new().file("hidden", "").unfinished();
    let layer = LayerBuilder::new().pax(&[("size", b"512")]).raw(&Raw { name: b"outer", ..Raw::default() }, &hidden);
    place.unpack(layer).unwrap();
    assert_eq!(place.listing().lines().count(), 1);
    assert_eq!(std::fs::read(place.root().join("outer")).unwrap(), hidden);
}

#[test]
fn root_half_a_layer_is_an_error() {
    let place = Place::new();
    let tar = LayerBuilder::new().file("x", [b'x'; 5000]).unfinished();
    expect!["layer is cut off after 2000 bytes, in entry `x`"]
        .assert_eq(&chain(&place.unpack_bytes(&tar[..2000], Beneath::Nothing).unwrap_err()));
    expect!["layer is cut off after 100 bytes, in entry ``"]
        .assert_eq(&chain(&place.unpack_bytes(&tar[..100], Beneath::Nothing).unwrap_err()));
    for compression in [Compression::Gzip, Compression::Zstd] {
        let blob = crate::testkit::compress(&tar, compression);
        let text = chain(&place.unpack_bytes(&blob[..blob.len() - 6], Beneath::Nothing).unwrap_err());
        assert!(text.starts_with("cannot read the layer after"), "{text}");
    }
    let text = chain(&place.unpack_bytes(b"<html>not found</html>", Beneath::Nothing).unwrap_err());
    assert_eq!(text, "layer is cut off after 22 bytes, in entry ``");
}

#[test]
fn root_every_compression_gives_the_same_tree_and_digest() {
    let tar = LayerBuilder::new().file("x", vec![7; 3 << 20]).file("y", "y").tar();
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
        let target = Target { root: root.as_fd(), beneath: Beneath::Nothing };
        let expected = Expected { digest: Some(Digest::of(&blob)), diff_id: Some(Digest::of(&tar)) };
        let done = unpack(blob.as_slice(), target, &expected, &Limits::default()).unwrap();
        assert_eq!((done.compression, done.size), (compression, tar.len() as u64));
        assert_eq!(std::fs::metadata(place.root().join("x")).unwrap().len(), 3 << 20);
        let other = Digest::of(b"other");
        for (expected, message) in [
            (Expected { digest: Some(other), diff_id: None }, format!("layer blob has digest {}, expected {other}", Digest::of(&blob))),
            (
                Expected { digest: None, diff_id: Some(other) },
                format!("layer contents have digest {}, the image config says {other}", Digest::of(&tar)),
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
    let target = Target { root: root.as_fd(), beneath: Beneath::Nothing };
    let bomb = crate::testkit::compress(&LayerBuilder::new().file("x", vec![0; 8 << 20]).tar(), Compression::Zstd);
    assert!(bomb.len() < 2000);
    let run = |blob: &[u8], limits| unpack(blob, target, &Expected::default(), &limits).unwrap_err().to_string();
    assert_eq!(run(&bomb, Limits { bytes: 1 << 20, entries: 9 }), "layer has more than 1048576 bytes");
    let many = (0..10).fold(LayerBuilder::new(), |layer, n| layer.file(&n.to_string(), "")).tar();
    assert_eq!(run(&many, Limits { bytes: 1 << 20, entries: 9 }), "layer has more than 9 entries");
    // Rubbish after the end counts too.
    let mut trailing = LayerBuilder::new().file("y", "").tar();
    trailing.resize(2 << 20, 0);
    assert_eq!(run(&trailing, Limits { bytes: 1 << 20, entries: 9 }), "layer has more than 1048576 bytes");
}

#[test]
fn root_sparse_files_of_every_version() {
    let place = Place::new();
    let gnu = {
        // GNU's own: the map stands in the header.
        let mut block = LayerBuilder::new()
            .raw(&Raw { kind: b'S', name: b"old", size: 6, ..Raw::default() }, b"")
            .unfinished();
        block[257..265].copy_from_slice(b"ustar  \0");
        for (at, number) in [(386, 0), (398, 3), (410, 1 << 20), (422, 3), (434, 5 << 20), (446, 0), (483, 5 << 20)] {
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
        .pax(&[("GNU.sparse.size", length.as_bytes()), ("GNU.sparse.name", b"v0.1"), ("GNU.sparse.map", commas.as_bytes())])
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
        assert!(path.metadata().unwrap().blocks() < 100, "{name} has its holes");
    }
    assert!(place.root().join("after").exists());
    for map in ["0,3,2,3", "0,3,9999999999,3", "0,3", "0,3,1048576", "x"] {
        let layer = LayerBuilder::new()
            .pax(&[("GNU.sparse.size", length.as_bytes()), ("GNU.sparse.map", map.as_bytes())])
            .file("x", "abcdef");
        let text = chain(&Place::new().unpack(layer).unwrap_err());
        assert!(text.ends_with("invalid sparse file map"), "{map}: {text}");
    }
}

/// An overlay mount: what unpacking a layer that is not the lowest really looks like.
#[test]
fn root_over_lower_layers_the_kernel_writes_the_whiteouts() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let unpack_into = |root: std::os::fd::BorrowedFd<'_>, beneath, layer: LayerBuilder| {
        let target = Target { root, beneath };
        unpack(layer.tar().as_slice(), target, &Expected::default(), &Limits::default()).unwrap();
    };
    let lower = std::fs::File::open(path("lower")).unwrap();
    let first = LayerBuilder::new()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .dir_mode("private", 0o700)
        .file("private/old", "old")
        .file("linked", "linked")
        .file("gone", "")
        .file("tree/a/b", "")
        .file("opaque/x", "")
        .dir("replaced")
        .file("replaced/x", "");
    unpack_into(lower.as_fd(), Beneath::Nothing, first);
    let mount = sys::mount::overlay(&sys::mount::Overlay {
        lower: vec![path("lower")],
        upper: Some((path("upper"), path("work"))),
    })
    .unwrap();
    let second = LayerBuilder::new()
        // Through a link of the layer below, as every other engine does.
        .file("lib/new.so", "so")
        // Into a directory this layer does not describe: it keeps its mode.
        .file("private/new", "new")
        // Hard links reach lower layers too.
        .hard_link("alias", "linked")
        .whiteout("gone")
        .whiteout("tree")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/y", "")
        .file("replaced", "a file now");
    unpack_into(mount.as_fd(), Beneath::Layers, second);
    drop(mount);
    let mount = sys::mount::overlay(&sys::mount::Overlay { lower: vec![path("upper"), path("lower")], upper: None }).unwrap();
    let merged = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
    let mut lines = BTreeMap::new();
    list(Path::new(&merged), "", &mut lines);
    let names: Vec<String> = lines.keys().cloned().collect();
    assert_eq!(
        names,
        [
            "/alias", "/lib", "/linked", "/opaque", "/opaque/y", "/private", "/private/new", "/private/old", "/replaced", "/usr",
            "/usr/lib", "/usr/lib/new.so"
        ]
    );
    assert!(lines["/private"].starts_with("700 "), "{}", lines["/private"]);
    assert!(lines["/alias"].ends_with("links=2 \"linked\"") || lines["/alias"].ends_with("links=1 \"linked\""), "{}", lines["/alias"]);
    let whiteout = path("upper/gone").symlink_metadata().unwrap();
    assert_eq!((whiteout.rdev(), whiteout.mode() >> 12), (0, 2), "character device 0:0");
}

/// Whatever bytes come, there is an answer and nothing outside is touched.
#[test]
fn root_damaged_layers_never_panic() {
    let sound = LayerBuilder::new()
        .dir("a")
        .pax(&[("path", b"a/long"), ("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"y")])
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
    assert!(accepted > 50, "the damage is not so bad that nothing gets past the first header: {accepted}");
}

fn repair_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
