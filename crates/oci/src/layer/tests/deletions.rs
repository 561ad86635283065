//! Whiteouts.

use expect_test::expect;

use super::*;

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
    let names: Vec<String> = place
        .listing()
        .lines()
        .filter_map(|l| l.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(
        names,
        [
            "/again",
            "/again/upper",
            "/opaque",
            "/opaque/both",
            "/opaque/both/upper",
            "/opaque/later",
            "/opaque/upper",
            "/stays"
        ]
    );
    place
        .unpack_over(
            LayerBuilder::new()
                .file(".wh..wh..opq", "")
                .file("only", ""),
        )
        .unwrap();
    assert_eq!(place.listing().lines().count(), 1);
}

#[test]
fn root_deletion_marks_in_the_lowest_layer_mean_nothing() {
    let place = Place::new();
    place
        .unpack(
            LayerBuilder::new()
                .file("x", "")
                .whiteout("x")
                .file("d/.wh..wh..opq", "")
                .whiteout("y"),
        )
        .unwrap();
    expect![[r#"
        /x 644 0:0 1000000000 links=1 ""
    "#]]
    .assert_eq(&place.listing());
}

#[test]
fn root_malformed_deletion_marks_are_refused() {
    let refused = "is refused: invalid deletion mark";
    for name in ["a/.wh.", "a/.wh..", "a/.wh...", ".wh.x/y"] {
        let text = chain(
            &Place::new()
                .unpack_over(LayerBuilder::new().dir("a").file(name, ""))
                .unwrap_err(),
        );
        assert!(text.ends_with(refused), "{name}: {text}");
    }
}

#[test]
fn root_a_deletion_does_not_reach_through_a_link_out_of_the_tree() {
    let place = Place::new();
    place
        .unpack(
            LayerBuilder::new()
                .symlink("s", "../outside")
                .symlink("t", "/../outside"),
        )
        .unwrap();
    place
        .unpack_over(
            LayerBuilder::new()
                .whiteout("s/secret")
                .whiteout("t/secret")
                .file("s/.wh..wh..opq", ""),
        )
        .unwrap();
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
        unpack(
            layer.tar().as_slice(),
            target,
            &Expected::default(),
            &Limits::default(),
        )
        .unwrap();
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
    let mount = sys::mount::overlay(&sys::mount::Overlay {
        lower: vec![path("upper"), path("lower")],
        upper: None,
    })
    .unwrap();
    let merged = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
    let mut lines = BTreeMap::new();
    list(Path::new(&merged), "", &mut lines);
    let names: Vec<String> = lines.keys().cloned().collect();
    assert_eq!(
        names,
        [
            "/alias",
            "/lib",
            "/linked",
            "/opaque",
            "/opaque/y",
            "/private",
            "/private/new",
            "/private/old",
            "/replaced",
            "/usr",
            "/usr/lib",
            "/usr/lib/new.so"
        ]
    );
    assert!(
        lines["/private"].starts_with("700 "),
        "{}",
        lines["/private"]
    );
    assert!(
        lines["/alias"].ends_with("links=2 \"linked\"")
            || lines["/alias"].ends_with("links=1 \"linked\""),
        "{}",
        lines["/alias"]
    );
    let whiteout = path("upper/gone").symlink_metadata().unwrap();
    assert_eq!(
        (whiteout.rdev(), whiteout.mode() >> 12),
        (0, 2),
        "character device 0:0"
    );
}
