//! What the client does on its machine when the engine asks, over a socket pair.

use std::{
    fs::{self, File},
    io::{BufReader, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, PermissionsExt, symlink},
            net::UnixStream,
        },
    },
    path::Path,
    thread::{self, JoinHandle},
    time::Duration,
};

use cli::link::serve;
use wire::{
    LinkError, LinkErrorKind, LinkRequest, RawPath, Status,
    frame::{self, Kind},
    line,
    link::{Exported, FileBytes, ListAnswer},
    listing::{self, Decoder, EntryKind},
    piece::{Meta, Piece},
};

/// The engine's end of one request.
struct Asked {
    conn: BufReader<UnixStream>,
    _server: JoinHandle<()>,
}

fn ask(request: LinkRequest) -> Asked {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let server = thread::spawn(move || {
        // Failures are told on the connection.
        let _ = serve(File::from(OwnedFd::from(theirs)), request);
    });
    Asked {
        conn: BufReader::new(ours),
        _server: server,
    }
}

impl Asked {
    fn status<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        line::read::<Status<T>>(&mut self.conn, line::MAX_LINE)
            .unwrap()
            .expect("a status")
            .into_result()
    }

    fn send(&mut self, pieces: &[Piece<'_>]) {
        let mut out = Vec::new();
        pieces.iter().for_each(|p| p.encode(&mut out));
        self.conn.get_mut().write_all(&out).unwrap();
    }

    /// All frames up to `Done` or `Fail`.
    fn frames(&mut self) -> Vec<(Kind, Vec<u8>)> {
        let mut all = Vec::new();
        loop {
            let mut payload = Vec::new();
            let kind = frame::read(&mut self.conn, &mut payload).unwrap();
            all.push((kind, payload));
            if matches!(kind, Kind::Done | Kind::Fail) {
                return all;
            }
        }
    }
}

fn path(p: &Path) -> RawPath {
    p.into()
}

/// A tree from lines: `d/`, `f=content`, `l->target`.
fn tree(lines: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for line in lines {
        if let Some((name, target)) = line.split_once("->") {
            symlink(target, dir.path().join(name)).unwrap();
        } else if let Some((name, content)) = line.split_once('=') {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        } else {
            fs::create_dir_all(dir.path().join(line)).unwrap();
        }
    }
    dir
}

/// A listing as text, and its digest.
fn list(root: &Path, include: &[&str], exclude: &[&str]) -> (String, String) {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    let request = LinkRequest::List {
        path: path(root),
        include: own(include),
        exclude: own(exclude),
        git_ignore: false,
        known: None,
    };
    let mut asked = ask(request);
    assert_eq!(asked.status::<ListAnswer>().unwrap(), ListAnswer::Entries);
    let (mut decoder, mut text) = (Decoder::new(), String::new());
    let mut frames = asked.frames();
    let (kind, done) = frames.pop().unwrap();
    assert_eq!(kind, Kind::Done);
    for (_, payload) in frames {
        decoder
            .chunk(&payload, |path, e| {
                let path = String::from_utf8_lossy(path);
                text.push_str(&match e.kind {
                    EntryKind::Dir => format!("{path}/ "),
                    EntryKind::File { size, .. } => format!("{path}:{size} "),
                    EntryKind::Symlink(to) => format!("{path}->{} ", String::from_utf8_lossy(to)),
                });
            })
            .unwrap();
    }
    (
        text.trim_end().to_owned(),
        listing::hex(&decoder.finish(&done).unwrap()),
    )
}

#[test]
fn a_listing_is_sorted_and_pruned_and_keeps_only_the_way_to_what_matches() {
    let dir = tree(&[
        "b=22",
        "a/x.go=1",
        "a/y.txt=",
        "a/deep/er/z.go=333",
        "empty/",
        "l->a/x.go",
        "c/node_modules/m=1",
    ]);
    let all = list(dir.path(), &[], &[]).0;
    assert_eq!(
        all,
        "/ a/ a/deep/ a/deep/er/ a/deep/er/z.go:3 a/x.go:1 a/y.txt:0 b:2 c/ c/node_modules/ c/node_modules/m:1 empty/ l->a/x.go"
    );
    assert_eq!(
        list(dir.path(), &["**/*.go"], &[]).0,
        "/ a/ a/deep/ a/deep/er/ a/deep/er/z.go:3 a/x.go:1"
    );
    assert_eq!(
        list(dir.path(), &[], &["a", "**/node_modules"]).0,
        "/ b:2 c/ empty/ l->a/x.go"
    );
    assert_eq!(
        list(dir.path(), &["a"], &["a/deep"]).0,
        "/ a/ a/x.go:1 a/y.txt:0"
    );
    assert_eq!(list(dir.path(), &["nothing"], &[]).0, "/");
    assert_eq!(
        list(dir.path(), &[], &["*", "!a/deep/er/z.go"]).0,
        "/ a/ a/deep/ a/deep/er/ a/deep/er/z.go:3"
    );
}

#[test]
fn a_large_tree_is_listed_alike_by_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = vec!["/".to_owned()];
    for a in 0..12 {
        expected.push(format!("d{a:02}/"));
        for b in 0..6 {
            fs::create_dir_all(dir.path().join(format!("d{a:02}/e{b}/f"))).unwrap();
            expected.push(format!("d{a:02}/e{b}/"));
            for c in 0..20 {
                fs::write(dir.path().join(format!("d{a:02}/e{b}/{c:02}.txt")), "x").unwrap();
                expected.push(format!("d{a:02}/e{b}/{c:02}.txt:1"));
            }
            expected.push(format!("d{a:02}/e{b}/f/"));
        }
    }
    assert_eq!(list(dir.path(), &[], &[]).0, expected.join(" "));
    let some = list(dir.path(), &["**/e3"], &["**/f", "**/1*.txt", "d1*"]).0;
    let kept: Vec<_> = expected
        .iter()
        .filter(|p| {
            *p == "/"
                || (p.starts_with("d0")
                    && (p.len() == 4 || p.contains("e3"))
                    && !p.contains("/f/")
                    && !p.contains("/1"))
        })
        .map(String::as_str)
        .collect();
    assert_eq!(some, kept.join(" "));
}

#[test]
fn an_excluded_directory_is_not_even_opened() {
    let dir = tree(&["ok=1", "locked/f=1"]);
    fs::set_permissions(dir.path().join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(list(dir.path(), &[], &["locked"]).0, "/ ok:1");
}

#[test]
fn an_unchanged_tree_is_answered_with_same_and_a_changed_one_is_not() {
    let dir = tree(&["a/x=1", "b=2"]);
    let once = |known: &str| {
        let known = Some(known.to_owned());
        ask(LinkRequest::List {
            path: path(dir.path()),
            include: vec![],
            exclude: vec![],
            git_ignore: false,
            known,
        })
        .status::<ListAnswer>()
        .unwrap()
    };
    // Files of this very moment are never the same: wait, with a deadline, until the kernel's clock has moved on.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    let digest = loop {
        let digest = list(dir.path(), &[], &[]).1;
        if digest == list(dir.path(), &[], &[]).1 {
            break digest;
        }
        assert!(std::time::Instant::now() < end);
    };
    assert_eq!(once(&digest), ListAnswer::Same);
    // Same size, and the old time put back: only the change time tells.
    let (file, before) = (
        dir.path().join("b"),
        fs::metadata(dir.path().join("b")).unwrap(),
    );
    fs::write(&file, "3").unwrap();
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(before.modified().unwrap())
        .unwrap();
    assert_eq!(once(&digest), ListAnswer::Entries);
    assert_eq!(once("nonsense"), ListAnswer::Entries);
}

#[test]
fn what_cannot_be_listed_is_told() {
    let dir = tree(&["f=1", "l->nowhere"]);
    let fail = |name: &str, exclude: Vec<String>| {
        let request = LinkRequest::List {
            path: path(&dir.path().join(name)),
            include: vec![],
            exclude,
            git_ignore: false,
            known: None,
        };
        ask(request).status::<ListAnswer>().unwrap_err()
    };
    let missing = fail("nope", vec![]);
    assert_eq!(missing.kind, LinkErrorKind::NotFound);
    assert!(
        missing.message.ends_with("nope: no such file or directory"),
        "{}",
        missing.message
    );
    assert!(
        fail("f", vec![])
            .message
            .ends_with("f is a file, not a directory")
    );
    assert_eq!(fail("l", vec![]).kind, LinkErrorKind::NotFound);
    let bad = fail("", vec!["[a".into()]);
    assert_eq!(bad.kind, LinkErrorKind::Invalid);
    assert!(
        bad.message.contains("syntax error in pattern"),
        "{}",
        bad.message
    );
}

#[test]
fn names_of_any_bytes_and_special_files_do_no_harm() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tree(&["plain=1"]);
    fs::write(
        dir.path().join(std::ffi::OsStr::from_bytes(b"odd\xff\n")),
        "x",
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert_eq!(list(dir.path(), &[], &[]).0, "/ odd\u{fffd}\n:1 plain:1");
    let odd = RawPath(b"odd\xff\n".to_vec());
    assert_eq!(
        read(dir.path(), &[odd, "pipe".into()]),
        "0 x ok; 1 missing Invalid; "
    );
}

/// A read as text.
fn read(root: &Path, paths: &[RawPath]) -> String {
    let mut asked = ask(LinkRequest::Read {
        root: path(root),
        paths: paths.to_vec(),
    });
    asked.status::<()>().unwrap();
    let mut text = String::new();
    for (kind, payload) in asked.frames() {
        text.push_str(&match Piece::decode(kind, &payload).unwrap() {
            Piece::Begin { index, .. } => format!("{index} "),
            Piece::Data(bytes) if bytes.len() > 20 => format!("[{}] ", bytes.len()),
            Piece::Data(bytes) => format!("{} ", String::from_utf8_lossy(bytes)),
            Piece::Hole(len) => format!("<{len}> "),
            Piece::End { changed } => if changed { "changed; " } else { "ok; " }.to_owned(),
            Piece::Missing { index, error } => format!("{index} missing {:?}; ", error.kind),
            Piece::Done => String::new(),
            other => panic!("{other:?}"),
        });
    }
    text
}

#[test]
fn a_file_that_is_made_up_while_it_is_read_is_read_to_its_end() {
    // Its size is 0.
    let text = read(Path::new("/proc/self"), &[RawPath::from("comm")]);
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(text, format!("0 {comm} ok; "));
}

#[test]
fn contents_come_in_order_with_holes_and_without_what_is_not_there() {
    let dir = tree(&["a=one", "d/b=", "link->a", "big="]);
    fs::write(dir.path().join("big"), vec![7; 300 << 10]).unwrap();
    let sparse = File::create(dir.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 10 << 30).unwrap();
    let want: Vec<RawPath> = ["a", "gone", "d/b", "link", "d", "big"]
        .map(RawPath::from)
        .to_vec();
    let text = read(dir.path(), &want);
    assert_eq!(
        text,
        "0 one ok; 1 missing NotFound; 2 ok; 3 missing Io; 4 missing Invalid; 5 [262144] [45056] ok; "
    );
    let text = read(dir.path(), &["sparse".into()]);
    assert!(
        text.starts_with("0 <107374") && text.ends_with(" ok; "),
        "{text}"
    );
}

#[test]
fn no_link_on_the_way_leads_out_of_the_root() {
    let dir = tree(&["secret=s", "root/f=1"]);
    symlink("..", dir.path().join("root/up")).unwrap();
    let want: Vec<RawPath> = ["up/secret", "../secret", "/etc/passwd", "f"]
        .map(RawPath::from)
        .to_vec();
    let text = read(&dir.path().join("root"), &want);
    assert!(
        text.starts_with("0 missing") && text.contains("1 missing") && text.contains("2 missing"),
        "{text}"
    );
    assert!(text.ends_with("3 1 ok; "), "{text}");
}

#[test]
fn a_small_file_is_read_up_to_its_limit() {
    let dir = tree(&["f=12345", "d/", "l->f"]);
    let read = |name: &str, max| {
        let mut asked = ask(LinkRequest::ReadFile {
            path: path(&dir.path().join(name)),
            max,
        });
        asked.status::<FileBytes>().map(|answer| {
            let mut bytes = vec![0; usize::try_from(answer.size).unwrap()];
            asked.conn.read_exact(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        })
    };
    assert_eq!(read("f", 5).unwrap(), "12345");
    assert_eq!(read("l", 5).unwrap(), "12345");
    assert_eq!(read("f", 4).unwrap_err().kind, LinkErrorKind::TooLarge);
    assert_eq!(read("d", 4).unwrap_err().kind, LinkErrorKind::Invalid);
    assert_eq!(read("none", 4).unwrap_err().kind, LinkErrorKind::NotFound);
}

fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        mtime_ns: 1_000_000_000_000_000_001,
    }
}

fn file<'a>(path: &'a str, content: &'a str, mode: u32) -> Vec<Piece<'a>> {
    let data = (!content.is_empty()).then_some(Piece::Data(content.as_bytes()));
    std::iter::once(Piece::File {
        path: path.as_bytes(),
        meta: meta(mode),
    })
    .chain(data)
    .chain([Piece::End { changed: false }])
    .collect()
}

fn export(dest: &Path, wipe: bool, pieces: &[Piece<'_>]) -> Result<(), LinkError> {
    let mut asked = ask(LinkRequest::ExportTree {
        dest: path(dest),
        wipe,
        remove: Vec::new(),
    });
    asked.status::<()>()?;
    asked.send(pieces);
    let exported = asked.status::<Exported>()?;
    assert_eq!(exported.path, path(dest));
    Ok(())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_tree_is_written_with_its_modes_and_times() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/out");
    let mut pieces = vec![
        Piece::Dir {
            path: b"",
            meta: meta(0o777),
        },
        Piece::Dir {
            path: b"ro",
            meta: meta(0o555),
        },
    ];
    pieces.extend(file("ro/suid", "s", 0o4755));
    pieces.push(Piece::HardLink {
        path: b"ro/twin",
        target: b"ro/suid",
    });
    pieces.extend(file("z", "", 0o600));
    pieces.push(Piece::Symlink {
        path: b"l",
        target: b"/nowhere",
        mtime_ns: 5,
    });
    pieces.extend(file("implied/parent", "p", 0o644));
    pieces.extend([
        Piece::File {
            path: b"holes",
            meta: meta(0o644),
        },
        Piece::Hole(5000),
        Piece::Data(b"x"),
        Piece::Hole(5000),
        Piece::End { changed: false },
        Piece::Done,
    ]);
    export(&out, false, &pieces).unwrap();
    assert_eq!(mode(&dir.path().join("new")), 0o700);
    assert_eq!(mode(&out), 0o700);
    assert_eq!(mode(&out.join("ro")), 0o555);
    assert_eq!(
        mode(&out.join("ro/suid")),
        0o755,
        "setuid does not leave a container"
    );
    assert_eq!(
        fs::metadata(out.join("ro/twin")).unwrap().ino(),
        fs::metadata(out.join("ro/suid")).unwrap().ino()
    );
    assert_eq!(mode(&out.join("z")), 0o600);
    assert_eq!(mode(&out.join("implied")), 0o755);
    assert_eq!(fs::read_link(out.join("l")).unwrap(), Path::new("/nowhere"));
    assert_eq!(fs::metadata(out.join("holes")).unwrap().len(), 10001);
    for name in ["ro", "z", "holes"] {
        let m = fs::metadata(out.join(name)).unwrap();
        assert_eq!((m.mtime(), m.mtime_nsec()), (1_000_000_000, 1), "{name}");
    }
    fs::set_permissions(out.join("ro"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_export_merges_and_replaces_and_wipes_when_asked() {
    let dir = tree(&[
        "keep=k",
        "f=old content",
        "was-dir/x=1",
        "was-file=1",
        "link->keep",
    ]);
    let mut pieces = file("f", "new", 0o644);
    pieces.extend(file("was-dir", "now a file", 0o644));
    pieces.push(Piece::Dir {
        path: b"was-file",
        meta: meta(0o755),
    });
    pieces.extend(file("was-file/y", "2", 0o644));
    pieces.extend(file("link", "not through it", 0o644));
    pieces.push(Piece::Done);
    export(dir.path(), false, &pieces).unwrap();
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(
        (text("keep"), text("f"), text("was-dir"), text("was-file/y")),
        ("k".into(), "new".into(), "now a file".into(), "2".into())
    );
    assert_eq!(text("link"), "not through it");
    export(
        dir.path(),
        true,
        &[file("only", "o", 0o644), vec![Piece::Done]].concat(),
    )
    .unwrap();
    assert_eq!(list(dir.path(), &[], &[]).0, "/ only:1");
}

#[test]
fn no_link_in_the_destination_leads_a_write_elsewhere() {
    let dir = tree(&["outside/precious=p", "dest/"]);
    let (outside, dest) = (dir.path().join("outside"), dir.path().join("dest"));
    symlink(&outside, dest.join("d")).unwrap();
    symlink(outside.join("precious"), dest.join("f")).unwrap();
    let mut pieces = vec![Piece::Dir {
        path: b"d",
        meta: meta(0o755),
    }];
    pieces.extend(file("d/precious", "overwritten", 0o644));
    pieces.extend(file("f", "overwritten", 0o644));
    // A link of the export itself, then a file "through" it.
    pieces.push(Piece::Symlink {
        path: b"s",
        target: outside.as_os_str().as_encoded_bytes(),
        mtime_ns: 0,
    });
    pieces.extend(file("s/precious", "overwritten", 0o644));
    pieces.push(Piece::Done);
    export(&dest, false, &pieces).unwrap();
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "p");
    assert_eq!(list(&outside, &[], &[]).0, "/ precious:1");
    // Wiping removes the links, not what they lead to.
    symlink(&outside, dest.join("again")).unwrap();
    export(&dest, true, &[Piece::Done]).unwrap();
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "p");
}

#[test]
fn a_failed_export_says_why_and_leaves_no_half_file() {
    let dir = tree(&["file=1"]);
    let error = export(&dir.path().join("file"), false, &[Piece::Done]).unwrap_err();
    assert!(
        error.message.ends_with("file: not a directory"),
        "{}",
        error.message
    );
    let out = dir.path().join("out");
    let cut = [
        Piece::File {
            path: b"half",
            meta: meta(0o644),
        },
        Piece::Data(b"ha"),
        Piece::Fail(LinkError::new(LinkErrorKind::Io, "no")),
    ];
    assert_eq!(export(&out, false, &cut).unwrap_err().message, "no");
    assert_eq!(list(&out, &[], &[]).0, "/");
    // What comes after a failure is read to its end, however much it is.
    let mut asked = ask(LinkRequest::ExportTree {
        dest: path(&out),
        wipe: false,
        remove: Vec::new(),
    });
    asked.status::<()>().unwrap();
    let mut pieces = vec![Piece::End { changed: false }];
    let long = "x".repeat(1 << 20);
    (0..20).for_each(|_| pieces.extend(file("f", &long, 0o644)));
    pieces.push(Piece::Done);
    asked.send(&pieces);
    assert!(
        asked
            .status::<Exported>()
            .unwrap_err()
            .message
            .contains("order")
    );
}

fn export_file(
    dest: &Path,
    allow_parent_dir: bool,
    mode: u32,
    content: &str,
) -> Result<RawPath, LinkError> {
    let name = "f".into();
    let mut asked = ask(LinkRequest::ExportFile {
        dest: path(dest),
        name,
        allow_parent_dir,
        mode,
        mtime_ns: Some(1),
    });
    asked.status::<()>()?;
    asked.send(&[Piece::Data(content.as_bytes()), Piece::Hole(3), Piece::Done]);
    Ok(asked.status::<Exported>()?.path)
}

#[test]
fn a_file_is_exported_as_dagger_does() {
    let dir = tree(&["dir/", "old=longer contents", "target=t", "link->target"]);
    let at = |name: &str| dir.path().join(name);
    export_file(&at("p/q/new"), false, 0o755, "x").unwrap();
    assert_eq!(
        (mode(&at("p")), mode(&at("p/q")), mode(&at("p/q/new"))),
        (0o700, 0o700, 0o755)
    );
    assert_eq!(fs::read(at("p/q/new")).unwrap(), b"x\0\0\0");
    let refused = export_file(&at("dir"), false, 0o644, "x").unwrap_err();
    assert!(
        refused
            .message
            .contains("is a directory; must be a file path unless allowParentDirPath is set")
    );
    assert_eq!(
        export_file(&at("dir"), true, 0o644, "x").unwrap(),
        path(&at("dir"))
    );
    assert_eq!(fs::read(at("dir/f")).unwrap(), b"x\0\0\0");
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o600)).unwrap();
    export_file(&at("old"), false, 0o755, "n").unwrap();
    assert_eq!(
        (mode(&at("old")), fs::read(at("old")).unwrap()),
        (0o600, b"n\0\0\0".to_vec())
    );
    // The user's own link is followed: it was named.
    export_file(&at("link"), false, 0o644, "via").unwrap();
    assert_eq!(fs::read(at("target")).unwrap(), b"via\0\0\0");
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    export_file(Path::new("/dev/null"), false, 0o644, "gone").unwrap();
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|n| !n.to_string_lossy().starts_with(".bodkin")),
        "{left:?}"
    );
}

#[test]
fn an_export_removes_what_it_is_told_and_nothing_through_links() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let dest = dir.path().join("dest");
    fs::create_dir_all(outside.join("kept")).unwrap();
    fs::create_dir_all(dest.join("gone/deep")).unwrap();
    fs::write(dest.join("file"), "x").unwrap();
    fs::write(dest.join("stays"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, dest.join("link")).unwrap();
    let remove = |paths: &[&str]| {
        let mut asked = ask(LinkRequest::ExportTree {
            dest: path(&dest),
            wipe: false,
            remove: paths.iter().map(|p| RawPath::from(*p)).collect(),
        });
        asked.status::<()>()?;
        asked.send(&[Piece::Done]);
        asked.status::<Exported>()
    };
    remove(&["gone", "file", "nowhere/x", "link/kept"]).unwrap();
    assert!(outside.join("kept").exists() && dest.join("stays").exists());
    assert!(!dest.join("gone").exists() && !dest.join("file").exists());
    assert!(remove(&["../outside"]).is_err());
    assert!(outside.exists());
}
