//! What GNU tar makes of an archive and what this crate makes of it must be the same tree.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::{
        fd::AsFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        },
    },
    path::Path,
    process::Command,
};

use oci::{
    Digest,
    layer::{Beneath, Expected, Limits, Target, unpack},
};

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Everything about a tree that a layer can express.
fn describe(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut lines = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    // Names of one inode, told by the first of them.
    let mut twins: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
        let contents = if meta.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            String::new()
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if meta.is_file() {
            let holes = meta.blocks() * 512 < meta.len();
            format!(
                "{} {} holes={holes}",
                meta.len(),
                Digest::of(&fs::read(&path).unwrap())
            )
        } else {
            format!("{:x}", meta.rdev())
        };
        let linked = if meta.is_dir() || meta.nlink() == 1 {
            String::new()
        } else {
            format!("nlink={}", meta.nlink())
        };
        inodes.insert(name.clone(), meta.ino());
        let first = twins.entry(meta.ino()).or_insert_with(|| name.clone());
        if name < *first {
            first.clone_from(&name);
        }
        let mut attributes: Vec<String> = Vec::new();
        if !meta.is_symlink() {
            let mut list = Vec::with_capacity(4096);
            rustix::fs::llistxattr(&path, rustix::buffer::spare_capacity(&mut list)).unwrap();
            for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
                let mut value = Vec::with_capacity(4096);
                rustix::fs::lgetxattr(&path, name, rustix::buffer::spare_capacity(&mut value))
                    .unwrap();
                attributes.push(format!("{}={value:?}", String::from_utf8_lossy(name)));
            }
            attributes.sort();
        }
        let line = format!(
            "{:o} {}:{} {}.{:09} {linked} {contents} {attributes:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
        );
        lines.insert(name, line);
    }
    for (name, line) in &mut lines {
        line.push_str(&format!(
            " = {}",
            String::from_utf8_lossy(&twins[&inodes[name]])
        ));
    }
    lines
}

fn compare(tree: &Path, scratch: &Path, options: &[&str]) {
    let (archive, theirs, ours) = (
        scratch.join("a.tar"),
        scratch.join("theirs"),
        scratch.join("ours"),
    );
    for dir in [&theirs, &ours] {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir(dir).unwrap();
    }
    run(Command::new("tar")
        .args(options)
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(tree)
        .arg("."));
    run(Command::new("tar")
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "-p",
            "--delay-directory-restore",
            "-xf",
        ])
        .arg(&archive)
        .arg("-C")
        .arg(&theirs));
    let root = fs::File::open(&ours).unwrap();
    let target = Target {
        root: root.as_fd(),
        beneath: Beneath::Nothing,
    };
    let blob = fs::File::open(&archive).unwrap();
    let done = unpack(blob, target, &Expected::default(), &Limits::default()).unwrap();
    assert_eq!(done.diff_id, Digest::of(&fs::read(&archive).unwrap()));
    let (theirs, ours) = (describe(&theirs), describe(&ours));
    for (name, line) in &theirs {
        let shown = String::from_utf8_lossy(name);
        assert_eq!(ours.get(name), Some(line), "{options:?}: {shown}");
    }
    assert_eq!(theirs.len(), ours.len(), "{options:?}");
}

#[test]
fn root_a_tree_with_everything() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let tree = scratch.path().join("tree");
    let path = |name: &str| tree.join(name);
    fs::create_dir_all(path("a/b/c")).unwrap();
    fs::write(path("a/file"), "hello").unwrap();
    fs::write(path("a/empty"), "").unwrap();
    fs::hard_link(path("a/file"), path("a/b/hard")).unwrap();
    symlink("../file", path("a/b/link")).unwrap();
    symlink("/nowhere/at/all", path("dangling")).unwrap();
    symlink("t".repeat(300), path("long-target")).unwrap();
    fs::hard_link(path("dangling"), path("hard-to-link")).unwrap();
    fs::write(tree.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), "x").unwrap();
    fs::write(path("spaces and \n newline"), "x").unwrap();
    fs::write(path(&"n".repeat(255)), "long name").unwrap();
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(120));
    fs::create_dir_all(path(&deep)).unwrap();
    fs::write(path(&format!("{deep}/f")), "deep").unwrap();
    fs::write(path("setuid"), "x").unwrap();
    fs::set_permissions(path("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::create_dir(path("sticky")).unwrap();
    fs::set_permissions(path("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::create_dir(path("closed")).unwrap();
    fs::write(path("closed/inside"), "x").unwrap();
    fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    std::os::unix::fs::lchown(path("a/b/link"), Some(3), Some(4)).unwrap();
    std::os::unix::fs::chown(path("a/b"), Some(70_000), Some(2_097_151)).unwrap();
    let sparse = fs::File::create(path("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(&[1; 5000], 1 << 20).unwrap();
    sparse.write_all_at(&[2; 5000], 5 << 20).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_111_111_111, 0);
    fs::File::open(path("a/file"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    let dir =
        rustix::fs::open(&tree, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(
        &dir,
        "null",
        rustix::fs::FileType::CharacterDevice,
        mode,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    rustix::fs::mknodat(
        &dir,
        "disk",
        rustix::fs::FileType::BlockDevice,
        mode,
        rustix::fs::makedev(8, 17),
    )
    .unwrap();
    rustix::fs::mknodat(&dir, "fifo", rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for options in [
        &["--format=pax"][..],
        &["--format=pax", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--no-seek", "-b", "1"],
    ] {
        compare(&tree, scratch.path(), options);
    }
    rustix::fs::lsetxattr(
        path("a/file"),
        "trusted.test",
        b"\0value=\n",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    rustix::fs::lsetxattr(
        path("a/b"),
        "security.test",
        b"x",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    compare(
        &tree,
        scratch.path(),
        &["--format=pax", "--xattrs", "--xattrs-include=*"],
    );
}

#[test]
fn root_a_real_tree() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    for options in [
        &["--format=pax"][..],
        &["--format=gnu"],
        &["--format=ustar"],
    ] {
        compare(Path::new("/etc"), scratch.path(), options);
    }
}
