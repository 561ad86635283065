//! The operations on plain directories. What needs layers is in `tests/`.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    tree: Tree,
}

fn empty() -> Fixture {
    let base = Path::new("/dev/shm");
    let base = if base.is_dir() {
        base.to_owned()
    } else {
        std::env::temp_dir()
    };
    let dir = tempfile::Builder::new()
        .prefix("store-tree-")
        .tempdir_in(base)
        .unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let tree = Tree::open_dir(dir.path()).unwrap();
    Fixture { dir, tree }
}

/// The tree of the recorded cases.
fn recorded() -> Fixture {
    let f = empty();
    for (path, contents) in [
        ("a.txt", "A"),
        ("b.md", "B"),
        ("sub/c.txt", "C"),
        ("sub/deep/d.txt", "D"),
        (".hidden", "H"),
    ] {
        f.tree
            .write_file(path, contents.as_bytes(), 0o644, None)
            .unwrap();
    }
    f.tree.make_dir("empty", 0o755, None).unwrap();
    f
}

impl Fixture {
    fn glob(&self, pattern: &str) -> Vec<String> {
        self.tree
            .glob("/", pattern)
            .unwrap()
            .into_iter()
            .map(|l| String::from_utf8(l.name).unwrap())
            .collect()
    }

    fn entries(&self, path: &str) -> Vec<String> {
        self.tree
            .entries(path)
            .unwrap()
            .into_iter()
            .map(|l| String::from_utf8(l.name).unwrap())
            .collect()
    }

    fn read(&self, path: &str) -> String {
        String::from_utf8(self.tree.read_file(path, 1 << 20).unwrap()).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        self.tree.lstat(path).unwrap().unwrap().mode
    }

    fn owner(&self, path: &str) -> (u32, u32) {
        let stat = self.tree.lstat(path).unwrap().unwrap();
        (stat.uid, stat.gid)
    }
}

fn options(include: &[&str], exclude: &[&str]) -> CopyOptions {
    let list = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect();
    CopyOptions {
        include: list(include),
        exclude: list(exclude),
        ..CopyOptions::default()
    }
}

#[test]
fn entries_are_sorted_and_paths_are_clamped() {
    let f = recorded();
    for path in ["", ".", "/", "./", "..", "/sub/.."] {
        assert_eq!(
            f.entries(path),
            [".hidden", "a.txt", "b.md", "empty", "sub"],
            "{path}"
        );
    }
    assert_eq!(f.entries("../../sub"), ["c.txt", "deep"]);
    assert_eq!(f.read("sub/../a.txt"), "A");
    assert_eq!(
        f.tree.entries("sub/nope").unwrap_err().to_string(),
        "sub/nope: no such file or directory"
    );
    assert_eq!(
        f.tree.entries("a.txt").unwrap_err().to_string(),
        "a.txt: not a directory"
    );
}

#[test]
fn what_is_not_as_expected_is_said_as_clients_know_it() {
    let f = recorded();
    let dir = |path, shown| f.tree.expect_dir(path, shown).unwrap_err().to_string();
    let file = |path, shown| f.tree.expect_file(path, shown).unwrap_err().to_string();
    assert_eq!(
        dir("/a.txt", "a.txt"),
        "path a.txt is a file, not a directory"
    );
    assert_eq!(dir("/x", "x"), "x: no such file or directory");
    assert_eq!(
        dir("/a.txt/x", "a.txt/x"),
        "a.txt/x: no such file or directory"
    );
    assert_eq!(file("/sub", "sub"), "path sub is a directory, not a file");
    assert_eq!(file("/", ""), "path  is a directory, not a file");
    assert_eq!(
        file("/sub/nope", "sub/nope"),
        "sub/nope: no such file or directory"
    );
    let long = "n".repeat(256);
    assert_eq!(
        f.tree.read_file(&long, 10).unwrap_err().to_string(),
        format!("{long}: File name length exceeds the maximum supported 255 characters")
    );
    assert_eq!(
        f.tree.read_file("a.txt", 0).unwrap_err().to_string(),
        "a.txt: 1 bytes are more than the 0 that can be read at once"
    );
}

#[test]
fn links_stay_inside() {
    let f = recorded();
    let root = f.dir.path();
    symlink("/a.txt", root.join("absolute")).unwrap();
    symlink("../../../../sub", root.join("sub/up")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    assert_eq!(f.read("absolute"), "A");
    assert_eq!(f.read("sub/up/c.txt"), "C");
    assert_eq!(
        f.tree
            .expect_file("dangling", "dangling")
            .unwrap_err()
            .to_string(),
        "dangling: no such file or directory"
    );
    assert!(f.tree.stat("dangling").unwrap().is_none());
    assert_eq!(
        f.tree.lstat("dangling").unwrap().unwrap().kind,
        Kind::Symlink
    );
    assert_eq!(f.tree.read_link("dangling").unwrap(), b"nowhere");
    assert!(f.tree.stat("loop").is_err());
}

#[test]
fn globs_select_exactly_what_they_match() {
    let f = recorded();
    assert_eq!(
        f.glob("**"),
        [
            ".hidden",
            "a.txt",
            "b.md",
            "empty",
            "sub",
            "sub/c.txt",
            "sub/deep",
            "sub/deep/d.txt"
        ]
    );
    assert_eq!(f.glob("sub/*"), ["sub/c.txt", "sub/deep"]);
    assert_eq!(f.glob("**/deep/**"), ["sub/deep/d.txt"]);
    let below: Vec<_> = f
        .tree
        .glob("sub", "**/*.txt")
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .collect();
    assert_eq!(below, [b"c.txt".to_vec(), b"deep/d.txt".to_vec()]);
    assert_eq!(
        f.tree.glob("/", "[a").unwrap_err().to_string(),
        "syntax error in pattern `[a`"
    );
}

#[test]
fn new_files_get_parents_and_plain_permissions() {
    let f = empty();
    f.tree.write_file("/x/y/f", b"h", 0o755, None).unwrap();
    assert_eq!(
        (f.mode("x"), f.mode("x/y"), f.mode("x/y/f")),
        (0o755, 0o755, 0o755)
    );
    f.tree.write_file("zero", b"", 0, None).unwrap();
    f.tree.write_file("setuid", b"", 0o4755, None).unwrap();
    assert_eq!((f.mode("zero"), f.mode("setuid")), (0o644, 0o755));
    f.tree.write_file("../n", b"x", 0o600, None).unwrap();
    assert_eq!((f.read("n"), f.mode("n")), ("x".into(), 0o600));
    f.tree.write_file("n", b"longer", 0o640, None).unwrap();
    assert_eq!((f.read("n"), f.mode("n")), ("longer".into(), 0o640));
}

#[test]
fn new_files_do_not_replace_directories() {
    let f = recorded();
    let write = |path: &str| {
        f.tree
            .write_file(path, b"x", 0o644, None)
            .map_err(|e| e.to_string())
    };
    assert_eq!(write("sub").unwrap_err(), "sub: is a directory");
    assert_eq!(write("/").unwrap_err(), "/: is a directory");
    assert_eq!(write("a.txt/x").unwrap_err(), "a.txt/x: not a directory");
    let long = "n".repeat(256);
    assert_eq!(
        write(&long).unwrap_err(),
        format!("{long}: File name length exceeds the maximum supported 255 characters")
    );
    assert_eq!(
        write("a\0b").unwrap_err(),
        "the path \"a\\0b\" contains a NUL byte (\\0), which no path can"
    );
    write(&"n".repeat(255)).unwrap();
}

#[test]
fn new_files_are_written_through_links() {
    let f = recorded();
    let root = f.dir.path();
    symlink("/sub/deep/../c.txt", root.join("absolute")).unwrap();
    symlink("../made", root.join("sub/relative")).unwrap();
    symlink("sub", root.join("dir")).unwrap();
    f.tree.write_file("absolute", b"1", 0o644, None).unwrap();
    f.tree
        .write_file("dir/relative", b"2", 0o644, None)
        .unwrap();
    assert_eq!(
        (f.read("sub/c.txt"), f.read("made")),
        ("1".into(), "2".into())
    );
    assert_eq!(
        f.tree.lstat("absolute").unwrap().unwrap().kind,
        Kind::Symlink
    );
    symlink("loop", root.join("loop")).unwrap();
    assert!(f.tree.write_file("loop", b"", 0o644, None).is_err());
    assert_eq!(
        f.tree
            .write_file("dir", b"", 0o644, None)
            .unwrap_err()
            .to_string(),
        "dir: is a directory"
    );
}

#[test]
fn a_file_with_two_names_is_replaced_under_one() {
    let f = recorded();
    fs::hard_link(f.dir.path().join("a.txt"), f.dir.path().join("other")).unwrap();
    f.tree.write_file("a.txt", b"new", 0o644, None).unwrap();
    assert_eq!(
        (f.read("a.txt"), f.read("other")),
        ("new".into(), "A".into())
    );
}

#[test]
fn overwriting_keeps_what_a_shell_would_keep() {
    let f = recorded();
    f.tree
        .write_file("kept", b"old longer", 0o640, None)
        .unwrap();
    f.tree.overwrite_file("kept", b"new", 0o600, None).unwrap();
    f.tree.overwrite_file("made", b"x", 0o600, None).unwrap();
    assert_eq!(
        (f.read("kept"), f.mode("kept"), f.mode("made")),
        ("new".into(), 0o640, 0o600)
    );
    let fails = |path: &str| {
        f.tree
            .overwrite_file(path, b"", 0o600, None)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(fails("no/dir"), "no/dir: no such file or directory");
    assert_eq!(fails("sub"), "sub: is a directory");
}

#[test]
fn directories_give_their_mode_to_parents_they_make() {
    let f = recorded();
    f.tree.make_dir("x/y", 0o700, None).unwrap();
    f.tree.make_dir("zero", 0, None).unwrap();
    f.tree.make_dir("null", 0o644, None).unwrap();
    assert_eq!(
        (f.mode("x"), f.mode("x/y"), f.mode("zero"), f.mode("null")),
        (0o700, 0o700, 0o755, 0o644)
    );
    f.tree.make_dir("sub", 0o700, None).unwrap();
    assert_eq!(
        (f.mode("sub"), f.entries("sub")),
        (0o755, vec!["c.txt".into(), "deep".into()])
    );
    assert_eq!(
        f.tree
            .make_dir("a.txt", 0o755, None)
            .unwrap_err()
            .to_string(),
        "a.txt: not a directory"
    );
    assert!(f.tree.make_dir("/", 0o700, None).is_ok());
}

#[test]
fn removing_takes_wildcards_and_forgives_what_is_missing() {
    let left = |path: &str| {
        let f = recorded();
        f.tree.remove(path).unwrap();
        f.glob("**")
    };
    let all = [
        ".hidden",
        "a.txt",
        "b.md",
        "empty",
        "sub",
        "sub/c.txt",
        "sub/deep",
        "sub/deep/d.txt",
    ];
    let without = |gone: &[&str]| -> Vec<&str> {
        all.iter().copied().filter(|p| !gone.contains(p)).collect()
    };
    assert_eq!(left("a.txt"), without(&["a.txt"]));
    assert_eq!(left("*.txt"), without(&["a.txt"]));
    assert_eq!(left("**/*.txt"), without(&["sub/c.txt"]));
    assert_eq!(left("sub/d*/?.txt"), without(&["sub/deep/d.txt"]));
    assert_eq!(
        left("/sub/"),
        without(&["sub", "sub/c.txt", "sub/deep", "sub/deep/d.txt"])
    );
    assert_eq!(left("{sub,empty}"), without(&[]));
    for missing in ["nope", "nope/x", "a.txt/x", "nope/*", "a.txt/*", "x*"] {
        assert_eq!(left(missing), without(&[]), "{missing}");
    }
    assert!(left("*").is_empty());
    let f = recorded();
    assert_eq!(
        f.tree.remove("/").unwrap_err().to_string(),
        "cannot remove the root of a tree"
    );
    assert_eq!(
        f.tree.remove("[a").unwrap_err().to_string(),
        "syntax error in pattern `[a`"
    );
}

#[test]
fn removing_a_link_leaves_its_target() {
    let f = recorded();
    symlink("sub", f.dir.path().join("link")).unwrap();
    f.tree.remove("link/c.txt").unwrap();
    f.tree.remove("link").unwrap();
    assert_eq!(f.entries("sub"), ["deep"]);
    assert!(f.tree.lstat("link").unwrap().is_none());
}

#[test]
fn copying_directories_merges() {
    let (f, o) = (recorded(), empty());
    o.tree.write_file("a.txt", b"other", 0o600, None).unwrap();
    o.tree.write_file("sub/new", b"n", 0o644, None).unwrap();
    f.tree
        .copy_dir(&o.tree, "/", "", &CopyOptions::default())
        .unwrap();
    assert_eq!(
        f.glob("**/*"),
        [
            ".hidden",
            "a.txt",
            "b.md",
            "empty",
            "sub",
            "sub/c.txt",
            "sub/deep",
            "sub/deep/d.txt",
            "sub/new"
        ]
    );
    assert_eq!((f.read("a.txt"), f.mode("a.txt")), ("other".into(), 0o600));
    f.tree
        .copy_dir(&o.tree, "sub", "x/y", &CopyOptions::default())
        .unwrap();
    assert_eq!(f.glob("x/**"), ["x/y", "x/y/new"]);
    f.tree
        .copy_dir(&empty().tree, "/", "e2", &CopyOptions::default())
        .unwrap();
    assert!(f.entries("e2").is_empty());
}

#[test]
fn copying_replaces_what_is_of_another_kind() {
    let (f, o) = (recorded(), empty());
    o.tree.write_file("sub", b"file", 0o644, None).unwrap();
    o.tree.write_file("a.txt/inner", b"i", 0o644, None).unwrap();
    symlink("target", o.dir.path().join("empty")).unwrap();
    f.tree
        .copy_dir(&o.tree, "/", "/", &CopyOptions::default())
        .unwrap();
    assert_eq!(
        (f.read("sub"), f.read("a.txt/inner")),
        ("file".into(), "i".into())
    );
    assert_eq!(f.tree.read_link("empty").unwrap(), b"target");
    f.tree
        .copy_dir(&o.tree, "a.txt", "b.md", &CopyOptions::default())
        .unwrap();
    assert_eq!(f.entries("b.md"), ["inner"]);
    assert_eq!(
        f.tree
            .copy_dir(&o.tree, "sub", "x", &CopyOptions::default())
            .unwrap_err()
            .to_string(),
        "path sub is a file, not a directory"
    );
}

#[test]
fn copying_takes_what_the_patterns_say_and_directories_only_as_needed() {
    let copied = |include: &[&str], exclude: &[&str]| {
        let (f, to) = (recorded(), empty());
        to.tree
            .copy_dir(&f.tree, "/", "in", &options(include, exclude))
            .unwrap();
        assert!(to.tree.stat("in").unwrap().unwrap().is_dir());
        to.tree
            .glob("in", "**")
            .unwrap()
            .into_iter()
            .map(|l| String::from_utf8(l.name).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        copied(&["**/*.txt"], &["a.*"]),
        ["sub", "sub/c.txt", "sub/deep", "sub/deep/d.txt"]
    );
    assert_eq!(copied(&["empty"], &[]), ["empty"]);
    assert_eq!(
        copied(&[], &["sub", "!sub/deep/d.txt", ".*", "*.*"]),
        ["empty", "sub", "sub/deep", "sub/deep/d.txt"]
    );
    assert_eq!(
        copied(&[], &["sub/*"]),
        [".hidden", "a.txt", "b.md", "empty", "sub"]
    );
    assert!(copied(&[], &["*"]).is_empty());
    let f = recorded();
    assert_eq!(
        empty()
            .tree
            .copy_dir(&f.tree, "/", "/", &options(&[], &["[a"]))
            .unwrap_err()
            .to_string(),
        "syntax error in pattern `[a`"
    );
}

#[test]
fn copying_keeps_times_links_holes_and_attributes() {
    let (f, to) = (empty(), empty());
    let root = f.dir.path();
    f.tree
        .write_file("d/one", &[7; 100_000], 0o640, None)
        .unwrap();
    fs::hard_link(root.join("d/one"), root.join("two")).unwrap();
    symlink("/abs", root.join("link")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"mid", 4 << 20).unwrap();
    sparse.set_len(16 << 20).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let xattr = rustix::fs::setxattr(
        root.join("d/one"),
        "user.note",
        b"v",
        rustix::fs::XattrFlags::empty(),
    );
    f.tree.set_times("/", 1_000_000_000).unwrap();
    to.tree
        .copy_dir(&f.tree, "/", "/", &CopyOptions::default())
        .unwrap();

    let meta = |path: &str| fs::symlink_metadata(to.dir.path().join(path)).unwrap();
    for path in ["d", "d/one", "two", "link", "sparse", "pipe", ""] {
        assert_eq!(meta(path).mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(meta("d/one").ino(), meta("two").ino());
    assert_eq!(meta("d/one").mode() & 0o7777, 0o640);
    assert_eq!(fs::read(to.dir.path().join("two")).unwrap(), [7; 100_000]);
    assert_eq!(to.tree.read_link("link").unwrap(), b"/abs");
    assert_eq!(to.tree.lstat("pipe").unwrap().unwrap().kind, Kind::Fifo);
    assert_eq!(
        (meta("sparse").len(), meta("sparse").blocks() < 1000),
        (16 << 20, true)
    );
    let copy = fs::read(to.dir.path().join("sparse")).unwrap();
    assert_eq!(
        (
            &copy[4 << 20..(4 << 20) + 3],
            copy.iter().filter(|b| **b != 0).count()
        ),
        (&b"mid"[..], 3)
    );
    if xattr.is_ok() {
        let mut value = [0; 4];
        assert_eq!(
            rustix::fs::getxattr(to.dir.path().join("d/one"), "user.note", &mut value).unwrap(),
            1
        );
    }
}

#[test]
fn copying_a_file_gives_it_exactly_the_name() {
    let (f, o) = (recorded(), empty());
    o.tree.write_file("s/one", b"1", 0o600, None).unwrap();
    let copy = |to: &str, mode| {
        f.tree.copy_file(
            &o.tree,
            "s/one",
            to,
            &CopyOptions {
                mode,
                ..CopyOptions::default()
            },
        )
    };
    copy("k", None).unwrap();
    copy("x/y/p", Some(0o777)).unwrap();
    copy("sub", None).unwrap();
    copy("a.txt", None).unwrap();
    assert_eq!(
        (f.mode("k"), f.mode("x/y/p"), f.mode("x")),
        (0o600, 0o777, 0o755)
    );
    assert_eq!((f.read("sub"), f.read("a.txt")), ("1".into(), "1".into()));
    assert_eq!(
        copy("/", None).unwrap_err().to_string(),
        "cannot replace the root of a tree"
    );
    assert_eq!(
        copy(&"n".repeat(256), None).unwrap_err().to_string(),
        format!(
            "{}: File name length exceeds the maximum supported 255 characters",
            "n".repeat(256)
        )
    );
    let missing = f
        .tree
        .copy_file(&o.tree, "nope", "z", &CopyOptions::default())
        .unwrap_err();
    assert!(missing.is_not_found());
}

#[test]
fn root_owners_travel_and_are_given() {
    let (f, to) = (empty(), empty());
    f.tree
        .write_file("d/e/f", b"x", 0o640, Some((12, 34)))
        .unwrap();
    for path in ["d", "d/e"] {
        assert_eq!(f.owner(path), (0, 0), "parents of new files are root's");
        f.tree.set_owner(path, 12, 34).unwrap();
    }
    to.tree
        .copy_dir(&f.tree, "d", "p/g", &CopyOptions::default())
        .unwrap();
    assert_eq!(
        (
            to.owner("p"),
            to.owner("p/g"),
            to.owner("p/g/e"),
            to.owner("p/g/e/f")
        ),
        ((0, 0), (0, 0), (12, 34), (12, 34))
    );
    assert_eq!(to.mode("p/g/e/f"), 0o640);
    to.tree
        .copy_file(&f.tree, "d/e/f", "q/f", &CopyOptions::default())
        .unwrap();
    assert_eq!((to.owner("q"), to.owner("q/f")), ((0, 0), (12, 34)));
    let owned = CopyOptions {
        owner: Some((5, 6)),
        ..CopyOptions::default()
    };
    to.tree.copy_dir(&f.tree, "d", "r/s", &owned).unwrap();
    to.tree.copy_file(&f.tree, "d/e/f", "t/f", &owned).unwrap();
    for path in ["r", "r/s", "r/s/e", "r/s/e/f", "t", "t/f"] {
        assert_eq!(to.owner(path), (5, 6), "{path}");
    }
    to.tree.make_dir("u/v", 0o755, Some((7, 8))).unwrap();
    assert_eq!((to.owner("u"), to.owner("u/v")), ((7, 8), (7, 8)));
}

#[test]
fn root_the_top_directory_takes_the_mode_of_the_source() {
    let (f, to) = (recorded(), empty());
    to.tree.make_dir("d", 0o700, Some((9, 9))).unwrap();
    to.tree
        .copy_dir(&f.tree, "/", "d", &CopyOptions::default())
        .unwrap();
    assert_eq!((to.mode("d"), to.owner("d")), (0o755, (0, 0)));
}

#[test]
fn root_copying_keeps_setuid_through_a_change_of_owner() {
    let (f, to) = (empty(), empty());
    f.tree.write_file("s", b"x", 0o755, None).unwrap();
    fs::set_permissions(f.dir.path().join("s"), fs::Permissions::from_mode(0o4755)).unwrap();
    to.tree
        .copy_file(
            &f.tree,
            "s",
            "s",
            &CopyOptions {
                owner: Some((3, 4)),
                ..CopyOptions::default()
            },
        )
        .unwrap();
    assert_eq!((to.mode("s"), to.owner("s")), (0o4755, (3, 4)));
}

#[test]
fn times_are_set_on_everything() {
    let f = recorded();
    symlink("nowhere", f.dir.path().join("link")).unwrap();
    for seconds in [1_000_000_000, 0, -5] {
        f.tree.set_times("/", seconds).unwrap();
        f.tree
            .walk("/", &mut |walked| {
                assert_eq!(
                    walked.stat.mtime_ns,
                    seconds * 1_000_000_000,
                    "{}",
                    String::from_utf8_lossy(walked.path)
                );
                Ok(())
            })
            .unwrap();
    }
    f.tree.set_times("a.txt", 7).unwrap();
    assert_eq!(
        f.tree.stat("a.txt").unwrap().unwrap().mtime_ns,
        7_000_000_000
    );
}

#[test]
fn times_are_set_on_everything_by_many_hands() {
    let f = empty();
    for n in 0..60 {
        let dir = f.dir.path().join(format!("d{n}/in/deep"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "x").unwrap();
        fs::write(dir.join("../../file"), "x").unwrap();
        symlink("nowhere", dir.join("link")).unwrap();
    }
    f.tree.set_times("/", 77).unwrap();
    let mut seen = 0;
    f.tree
        .walk("/", &mut |walked| {
            seen += 1;
            let path = String::from_utf8_lossy(walked.path);
            assert_eq!(walked.stat.mtime_ns, 77_000_000_000, "{path}");
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, 60 * 6);
    assert_eq!(fs::metadata(f.dir.path()).unwrap().mtime(), 77);
    // Too deep for one thread is too deep for all.
    let mut deep = f.dir.path().join("d7");
    for _ in 0..super::walk::DEPTH_MAX {
        deep.push("x");
        fs::create_dir(&deep).unwrap();
    }
    assert!(matches!(
        f.tree.set_times("/", 78),
        Err(TreeError::TooDeep { .. })
    ));
}

#[test]
fn digests_follow_contents_and_permissions_but_not_times() {
    let digest = |files: &[(&str, &str, u32)]| {
        let f = empty();
        for (path, contents, mode) in files {
            f.tree
                .write_file(path, contents.as_bytes(), *mode, None)
                .unwrap();
        }
        f.tree.set_times("/", files.len() as i64 + 5).unwrap();
        (
            f.tree.digest("/").unwrap(),
            f.tree.file_digest("x", false).unwrap(),
            f.tree.file_digest("x", true).unwrap(),
        )
    };
    let a = digest(&[("x", "1", 0o644), ("y", "2", 0o644)]);
    let b = digest(&[("y", "2", 0o644), ("x", "1", 0o644)]);
    let c = digest(&[("x", "1", 0o644), ("y", "3", 0o644)]);
    let d = digest(&[("x", "1", 0o600), ("y", "2", 0o644)]);
    assert_eq!(a, b);
    assert_ne!(a.0, c.0);
    assert_ne!(a.0, d.0);
    assert_ne!(a.1, d.1);
    assert_eq!(a.2, d.2);
    assert_eq!(
        a.2,
        "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    );
}

#[test]
fn a_diff_holds_what_is_new_or_changed() {
    let (lower, upper) = (recorded(), recorded());
    upper.tree.write_file("a.txt", b"B", 0o644, None).unwrap();
    upper
        .tree
        .write_file("sub/deep/new", b"n", 0o644, None)
        .unwrap();
    upper.tree.write_file(".hidden", b"H", 0o600, None).unwrap();
    upper.tree.make_dir("made/inner", 0o755, None).unwrap();
    upper.tree.remove("b.md").unwrap();
    let out = empty();
    out.tree
        .diff_from(Some(&lower.tree), &upper.tree, "/")
        .unwrap();
    assert_eq!(
        out.glob("**"),
        [
            ".hidden",
            "a.txt",
            "made",
            "made/inner",
            "sub",
            "sub/deep",
            "sub/deep/new"
        ]
    );

    let same = empty();
    same.tree
        .diff_from(Some(&lower.tree), &lower.tree, "/")
        .unwrap();
    assert!(same.glob("**").is_empty());
    let below = empty();
    below
        .tree
        .diff_from(Some(&lower.tree), &upper.tree, "sub")
        .unwrap();
    assert_eq!(below.glob("**"), ["sub", "sub/deep", "sub/deep/new"]);
    let all = empty();
    all.tree.diff_from(None, &lower.tree, "/").unwrap();
    assert_eq!(
        all.tree.digest("/").unwrap(),
        lower.tree.digest("/").unwrap()
    );
}

#[test]
fn sizes_count_files_once() {
    let f = recorded();
    fs::hard_link(f.dir.path().join("a.txt"), f.dir.path().join("again")).unwrap();
    assert_eq!(f.tree.size("/").unwrap(), 5);
    assert_eq!(f.tree.size("sub").unwrap(), 2);
    assert_eq!(f.tree.size("a.txt").unwrap(), 1);
}

#[test]
fn deep_trees_are_refused_not_crashed_on() {
    let f = empty();
    let mut at = rustix::fs::open(f.dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..600 {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
    }
    assert!(matches!(f.tree.digest("/"), Err(TreeError::TooDeep { .. })));
    assert!(matches!(
        empty()
            .tree
            .copy_dir(&f.tree, "/", "/", &CopyOptions::default()),
        Err(TreeError::TooDeep { .. })
    ));
    drop(at);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Thing {
        File(String, u32),
        Dir(u32),
        Link(String),
    }

    fn thing() -> impl Strategy<Value = Thing> {
        prop_oneof![
            (
                "[a-z]{0,3}",
                prop::sample::select(vec![0o644, 0o755, 0o600])
            )
                .prop_map(|(c, m)| Thing::File(c, m)),
            prop::sample::select(vec![0o755, 0o700]).prop_map(Thing::Dir),
            "[a-c]{1,2}".prop_map(Thing::Link),
        ]
    }

    fn things() -> impl Strategy<Value = Vec<(String, Thing)>> {
        let path = prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
        prop::collection::vec((path, thing()), 0..12)
    }

    /// Makes a tree of what fits.
    fn build(things: &[(String, Thing)]) -> Fixture {
        let f = empty();
        for (path, thing) in things {
            // Some land below files or links to nothing: those are not made.
            let _ = match thing {
                Thing::File(contents, mode) => {
                    f.tree.write_file(path, contents.as_bytes(), *mode, None)
                }
                Thing::Dir(mode) => f.tree.make_dir(path, *mode, None),
                Thing::Link(target) => f.tree.symlink(target, path),
            };
        }
        f
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// A copy is what was copied.
        #[test]
        fn a_copy_is_equal(things in things()) {
            let (from, to) = (build(&things), empty());
            to.tree.copy_dir(&from.tree, "/", "/", &CopyOptions::default()).unwrap();
            prop_assert_eq!(to.tree.digest("/").unwrap(), from.tree.digest("/").unwrap());
        }

        /// Applying a difference to the old tree gives the new one, where nothing was removed.
        #[test]
        fn a_difference_leads_to_the_new_tree(old in things(), new in things()) {
            let (old, diff) = (build(&old), empty());
            let whole = empty();
            whole.tree.copy_dir(&old.tree, "/", "/", &CopyOptions::default()).unwrap();
            whole.tree.copy_dir(&build(&new).tree, "/", "/", &CopyOptions::default()).unwrap();
            diff.tree.diff_from(Some(&old.tree), &whole.tree, "/").unwrap();
            old.tree.copy_dir(&diff.tree, "/", "/", &CopyOptions::default()).unwrap();
            prop_assert_eq!(old.tree.digest("/").unwrap(), whole.tree.digest("/").unwrap());
        }

        /// A filtered copy has exactly what the filter includes, and parents.
        #[test]
        fn a_filtered_copy_is_the_filtered_walk(things in things(), include in prop::collection::vec("!?[abc*/]{1,4}", 0..3), exclude in prop::collection::vec("!?[abc*/]{1,4}", 0..3)) {
            let (from, to) = (build(&things), empty());
            let options = CopyOptions { include, exclude, ..CopyOptions::default() };
            let Ok(filter) = patterns::Filter::new(&options.include, &options.exclude) else { return Ok(()) };
            to.tree.copy_dir(&from.tree, "/", "/", &options).unwrap();
            let mut expect = std::collections::BTreeSet::new();
            from.tree.walk("/", &mut |walked| {
                if filter.decide(walked.path, walked.stat.is_dir()) == patterns::Decision::Include {
                    let parts: Vec<&[u8]> = walked.path.split(|b| *b == b'/').collect();
                    for n in 1..=parts.len() {
                        expect.insert(parts[..n].join(&b'/'));
                    }
                }
                Ok(())
            }).unwrap();
            let mut got = std::collections::BTreeSet::new();
            to.tree.walk("/", &mut |walked| { got.insert(walked.path.to_vec()); Ok(()) }).unwrap();
            prop_assert_eq!(got, expect);
        }
    }
}
