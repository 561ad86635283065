//! Files as users have them: names of all kinds, large folders, large texts, and folders that an export empties.

#[path = "../services/kit.rs"]
#[expect(dead_code, reason = "services use more of it")]
mod kit;
mod newer;

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, symlink},
    },
    path::Path,
    process::Command,
    time::Duration,
};

use serde_json::json;

use kit::{Lab, Session, args, quoted, until};

const NEW: &str = "v0.21.7";
/// A name that is no UTF-8.
const ODD: &[u8] = b"odd-\xff\xfe";
/// How it is shown.
const SHOWN: &str = "odd-\u{fffd}\u{fffd}";

fn path(path: &Path) -> String {
    quoted(path.to_str().expect("a path of text"))
}

/// `{ host { directory(path: …) { … } } }`
fn host(dir: &Path, tail: &str) -> String {
    format!(
        "host {{ directory(path: {}, noCache: true) {{ {tail} }} }}",
        path(dir)
    )
}

fn id(session: &Session, dir: &Path) -> String {
    quoted(&session.text(&format!("{{ {} }}", host(dir, "id"))))
}

fn run(dir: &Path, command: &[&str]) {
    let out = Command::new(command[0])
        .args(&command[1..])
        .current_dir(dir)
        .output();
    let out = out.expect("a program that is there");
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn changes_of_large_and_binary_files_are_told_and_applied() {
    let Some(lab) = Lab::new() else { return };
    let session = lab.session_of(NEW);
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let lines = |from: u32| {
        (from..from + 300_000).fold(String::new(), |mut text, n| {
            let _ = writeln!(text, "line {n}");
            text
        })
    };
    for (side, from, byte) in [("old", 0, 1), ("new", 500_000, 2)] {
        fs::create_dir(at(side)).unwrap();
        fs::write(at(side).join("large"), lines(from)).unwrap();
        fs::write(at(side).join("b i"), [0, byte, 255]).unwrap();
        fs::write(at(side).join("text ä"), format!("1\n{byte}\n3")).unwrap();
        fs::write(at(side).join(OsStr::from_bytes(ODD)), format!("{byte}\n")).unwrap();
    }
    fs::write(at("old/gone"), [0; 70_000]).unwrap();
    fs::write(at("new/come"), [7, 0]).unwrap();
    let (old, new) = (id(&session, &at("old")), id(&session, &at("new")));
    let changes = |tail: &str| {
        format!("{{ loadDirectoryFromID(id: {new}) {{ changes(from: {old}) {{ {tail} }} }} }}")
    };
    let stats = session.get(&changes("diffStats { path kind addedLines removedLines }"));
    let told = |path: &str, kind: &str, added: u32, removed: u32| json!({"path": path, "kind": kind, "addedLines": added, "removedLines": removed});
    assert_eq!(
        stats,
        json!([
            told("b i", "MODIFIED", 0, 0),
            told("come", "ADDED", 0, 0),
            told("gone", "REMOVED", 0, 0),
            told("large", "MODIFIED", 300_000, 300_000),
            told(SHOWN, "MODIFIED", 1, 1),
            told("text ä", "MODIFIED", 1, 1)
        ])
    );
    let patch = at("patch");
    session.get(&changes(&format!(
        "asPatch {{ export(path: {}) }}",
        path(&patch)
    )));
    let file = session.text(&format!(
        "{{ {} }}",
        host(dir.path(), "file(path: \"patch\") { id }")
    ));
    let applied = format!("withPatchFile(patch: {})", quoted(&file));
    session.get(&format!(
        "{{ loadDirectoryFromID(id: {old}) {{ {applied} {{ export(path: {}, wipe: true) }} }} }}",
        path(&at("applied"))
    ));
    run(dir.path(), &["diff", "-r", "new", "applied"]);
    // And Git itself takes it, and makes one that is taken.
    run(dir.path(), &["cp", "-r", "old", "git"]);
    run(&at("git"), &["git", "apply", "../patch"]);
    run(dir.path(), &["diff", "-r", "new", "git"]);
    let command = "git init -q && git add . && cp -r ../old/. . && rm come && git diff -R --binary > ../of-git && rm -r .git";
    run(&at("git"), &["sh", "-c", command]);
    let file = session.text(&format!(
        "{{ {} }}",
        host(dir.path(), "file(path: \"of-git\") { id }")
    ));
    session.get(&format!(
        "{{ loadDirectoryFromID(id: {old}) {{ withPatchFile(patch: {}) {{ export(path: {}, wipe: true) }} }} }}",
        quoted(&file),
        path(&at("of-git-applied"))
    ));
    run(dir.path(), &["rm", "of-git-applied/gone"]);
    run(dir.path(), &["diff", "-r", "new", "of-git-applied"]);
    // Another version of the binary file is not changed.
    let error = session.error(&format!(
        "{{ loadDirectoryFromID(id: {new}) {{ {applied} {{ entries }} }} }}"
    ));
    assert!(
        error.contains("b i: the patch was made for another version"),
        "{error}"
    );
    session.close();
}

/// Seconds of processor time that the engine has used.
fn used(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let times = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    times
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

#[test]
fn who_leaves_stops_the_comparison() {
    let Some(lab) = Lab::new() else { return };
    let session = lab.session_of(NEW);
    let dir = tempfile::tempdir().expect("a folder");
    // Few words in no order are what takes longest: some minutes for all.
    let mut word = 7_u64;
    for side in ["old", "new"] {
        fs::create_dir(dir.path().join(side)).unwrap();
        for n in 0..300 {
            let mut text = String::new();
            for _ in 0..10_000 {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let _ = writeln!(text, "{}", word >> 61);
            }
            fs::write(dir.path().join(side).join(format!("{n}")), text).unwrap();
        }
    }
    let (old, new) = (
        id(&session, &dir.path().join("old")),
        id(&session, &dir.path().join("new")),
    );
    let engine = lab.engine().expect("an engine");
    let before = used(engine);
    let query = format!(
        "{{ loadDirectoryFromID(id: {new}) {{ changes(from: {old}) {{ diffStats {{ path }} }} }} }}"
    );
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| session.ask(&query));
        until("the comparison works", Duration::from_secs(60), || {
            used(engine) > before + 1.5
        });
        let pid = rustix::process::Pid::from_raw(session.pid().cast_signed()).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it ran");
        assert!(asked.join().is_err(), "there was an answer");
    });
    // The file that is being compared is finished; then there is nothing to do any more.
    let last = std::cell::Cell::new((used(engine), 0));
    until("the engine rests", Duration::from_secs(30), || {
        let now = used(engine);
        let (was, quiet) = last.get();
        last.set((now, if now - was < 0.02 { quiet + 1 } else { 0 }));
        std::thread::sleep(Duration::from_millis(200));
        quiet >= 5
    });
    assert!(used(engine) < before + 12.0, "{}", used(engine) - before);
    session.kill();
}

#[test]
fn names_of_all_kinds_come_and_go() {
    let Some(lab) = Lab::new() else { return };
    let session = lab.session_of(NEW);
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let long = format!("{}é", "x".repeat(253));
    let odd = OsStr::from_bytes(ODD);
    fs::create_dir_all(from.join(odd)).unwrap();
    for name in [
        OsStr::new(&long),
        OsStr::new("new\nline\t\\"),
        OsStr::new(" "),
        OsStr::new("*"),
    ] {
        fs::write(from.join(name), "text").unwrap();
        fs::write(from.join(odd).join(name), "text").unwrap();
    }
    fs::write(from.join(odd).join(odd), "text").unwrap();
    symlink(odd, from.join("link")).unwrap();
    let here = host(
        &from,
        "entries glob(pattern: \"*/o*\") found: search(pattern: \"text\", globs: [\"x*\"]) { filePath }",
    );
    let told = session.get(&format!("{{ {here} }}"));
    assert_eq!(
        told["entries"],
        json!([" ", "*", "link", "new\nline\t\\", format!("{SHOWN}/"), long])
    );
    assert_eq!(told["glob"], json!([format!("{SHOWN}/{SHOWN}")]));
    assert_eq!(
        told["found"],
        json!([{"filePath": format!("{SHOWN}/{long}")}, {"filePath": long}])
    );
    // Through a container and out again.
    let list = "cd /d && find . | wc -l && cat odd*/odd* && touch \"$(printf 'made-\\377')\"";
    let id = id(&session, &from);
    let through = format!(
        "container {{ from(address: \"alpine\") {{ withDirectory(path: \"/d\", source: {id}) {{ withExec(args: {}) {{ stdout directory(path: \"/d\") {{ export(path: {}) }} }} }} }} }}",
        args(&["sh", "-c", list]),
        path(&to)
    );
    let told = session.get(&format!("{{ {through} }}"));
    assert_eq!(told["stdout"], json!("14\ntext"));
    assert!(to.join(OsStr::from_bytes(b"made-\xff")).exists());
    fs::remove_file(to.join(OsStr::from_bytes(b"made-\xff"))).unwrap();
    run(
        dir.path(),
        &["diff", "-r", "--no-dereference", "from", "to"],
    );
    // One byte more is no name.
    let error = session.error(&format!(
        "{{ directory {{ withNewFile(path: {}, contents: \"\") {{ entries }} }} }}",
        quoted(&format!("{long}x"))
    ));
    assert!(error.contains("File name length exceeds"), "{error}");
    session.close();
}

#[test]
fn wipe_empties_what_it_is_given_and_no_home() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().join("users/home");
    let dest = home.join("dest");
    fs::create_dir_all(dest.join("old/deep")).unwrap();
    fs::write(dest.join(".hidden"), "").unwrap();
    fs::write(home.join("precious"), "").unwrap();
    symlink(&home, dest.join("link")).unwrap();
    symlink(&home, dir.path().join("to-home")).unwrap();
    let text = home.to_str().expect("a path of text");
    let session = lab.session_with(NEW, &[("HOME", text)]);
    let export = |to: &Path| {
        format!(
            "{{ directory {{ withNewFile(path: \"new\", contents: \"n\") {{ export(path: {}, wipe: true) }} }} }}",
            path(to)
        )
    };
    for to in [
        Path::new("/"),
        &home,
        dir.path(),
        &dir.path().join("to-home"),
    ] {
        let error = session.error(&export(to));
        assert!(error.contains("`wipe` would remove"), "{error}");
    }
    let inode = fs::metadata(&dest).unwrap().ino();
    session.get(&export(&dest));
    let names = fs::read_dir(&dest).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["new"]);
    assert_eq!(
        fs::metadata(&dest).unwrap().ino(),
        inode,
        "the folder itself stays"
    );
    assert!(home.join("precious").exists(), "links are not followed");
    session.close();
}

#[test]
fn a_hundred_thousand_files_are_a_folder_too() {
    let Some(lab) = Lab::new() else { return };
    let session = lab.session_of(NEW);
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    for d in 0..100 {
        let sub = from.join(format!("d{d:02}"));
        fs::create_dir_all(&sub).unwrap();
        for f in 0..1000 {
            fs::write(sub.join(format!("f{f:03}")), format!("{d} {f}\n")).unwrap();
        }
    }
    let tail = "entries one: glob(pattern: \"d07/f*\") all: glob(pattern: \"**\") search(pattern: \"^42 999$\") { filePath lineNumber }";
    let told = session.get(&format!("{{ {} }}", host(&from, tail)));
    let count = |name: &str| told[name].as_array().map_or(0, Vec::len);
    assert_eq!(
        (count("entries"), count("one"), count("all")),
        (100, 1000, 100_100)
    );
    assert_eq!(
        told["search"],
        json!([{"filePath": "d42/f999", "lineNumber": 1}])
    );
    let id = id(&session, &from);
    let exported = session.get(&format!(
        "{{ loadDirectoryFromID(id: {id}) {{ export(path: {}) }} }}",
        path(&to)
    ));
    assert_eq!(exported, json!(to.to_str()));
    run(dir.path(), &["diff", "-rq", "from", "to"]);
    fs::write(from.join("d00/f000"), "other\n").unwrap();
    fs::remove_dir_all(from.join("d99")).unwrap();
    let now = crate::id(&session, &from);
    let told = session.get(&format!(
        "{{ loadDirectoryFromID(id: {now}) {{ changes(from: {id}) {{ modifiedPaths removedPaths diffStats {{ path }} }} }} }}"
    ));
    assert_eq!(told["modifiedPaths"], json!(["d00/f000"]));
    assert_eq!(told["removedPaths"], json!(["d99/"]));
    assert_eq!(told["diffStats"].as_array().map_or(0, Vec::len), 1001);
    session.close();
}
