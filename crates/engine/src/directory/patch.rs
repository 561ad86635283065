//! Patches as `git diff` writes them: reading, applying and making them.

use std::{borrow::Cow, fmt::Write as _};

use graph::error::Error;
use patterns::literal;
use store::{Kind, Tree};

use super::{binary, lines, tree_error};
use crate::engine::Stop;

/// Largest patch that is read, in bytes.
pub(crate) const PATCH_MAX: u64 = 64 << 20;
/// Largest file a patch changes, in bytes.
const FILE_MAX: usize = 128 << 20;
/// Largest file whose lines are compared, in bytes. What is larger counts as binary, and is named in a patch and not held in it.
pub(super) const TEXT_MAX: u64 = 64 << 20;
/// Mode of a symbolic link in a patch.
const LINK: u32 = 0o120_000;

/// Mode of a submodule's commit in a patch.
const COMMIT: u32 = 0o160_000;
/// The kind in a mode.
const KIND: u32 = 0o170_000;

/// What a patch does to one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct FilePatch<'a> {
    /// Its path before; `None` when it is new.
    old: Option<Vec<u8>>,
    /// Its path after; `None` when it is removed.
    new: Option<Vec<u8>>,
    /// Its mode after, when the patch says it, with the kind.
    mode: Option<u32>,
    /// The old file stays.
    copy: bool,
    /// What Git calls the contents before, if the patch says it whole.
    was: Option<String>,
    /// How its contents change.
    change: Change<'a>,
}

impl FilePatch<'_> {
    /// Its name for a message: the one after, where it has one.
    fn called(&self) -> Cow<'_, str> {
        let name = self.new.as_ref().or(self.old.as_ref());
        shown(name.map_or(&[][..], Vec::as_slice))
    }
}

/// How a file's contents change.
#[derive(Debug, Default, PartialEq, Eq)]
enum Change<'a> {
    /// Not at all.
    #[default]
    None,
    /// By hunks; these are their lines.
    Lines(Vec<&'a [u8]>),
    /// As something that is no text.
    Binary(binary::Part),
}

/// Reads a patch.
fn parse(patch: &[u8]) -> Result<Vec<FilePatch<'_>>, String> {
    let mut files: Vec<FilePatch<'_>> = Vec::new();
    let lines = lines::split(patch);
    let text = |line: &[u8]| {
        String::from_utf8_lossy(line)
            .trim_end_matches(['\n', '\r'])
            .to_owned()
    };
    let mut at = 0;
    let mut in_git = false;
    while let Some(line) = lines.get(at) {
        let said = text(line);
        at += 1;
        if let Some(rest) = said.strip_prefix("diff --git ") {
            let (old, new) = git_names(rest);
            files.push(FilePatch {
                old,
                new,
                ..FilePatch::default()
            });
            in_git = true;
            continue;
        }
        let next_is_new = lines.get(at).is_some_and(|l| l.starts_with(b"+++ "));
        if said.starts_with("--- ") && next_is_new {
            let old = name(&said[4..])?;
            let new = name(&text(lines[at])[4..])?;
            if !in_git || files.last().is_none_or(|f| f.change != Change::None) {
                files.push(FilePatch::default());
            }
            let Some(file) = files.last_mut() else {
                continue;
            };
            file.old = old;
            file.new = new;
            let start = at - 1;
            at += 1;
            while lines.get(at).is_some_and(|l| l.starts_with(b"@@ ")) {
                at = hunk_end(&lines, at)?;
            }
            file.change = Change::Lines(lines[start + 2..at].to_vec());
            continue;
        }
        let Some(file) = files.last_mut().filter(|_| in_git) else {
            continue;
        };
        let octal = |s: &str| u32::from_str_radix(s.trim(), 8).ok();
        let index = said.strip_prefix("index ").and_then(|r| r.rsplit_once(' '));
        if let Some((was, _)) = said.strip_prefix("index ").and_then(|r| r.split_once("..")) {
            let whole = was.len() == 40 && was.bytes().any(|b| b != b'0');
            file.was = whole.then(|| was.to_owned());
        }
        let modes = [
            "new file mode ",
            "deleted file mode ",
            "new mode ",
            "old mode ",
        ];
        let said_mode = modes.iter().find_map(|p| said.strip_prefix(p));
        if said_mode
            .or(index.map(|(_, mode)| mode))
            .and_then(octal)
            .map(|m| m & KIND)
            == Some(COMMIT)
        {
            return Err(format!(
                "{}: it is a submodule (mode 160000), whose commit no directory holds: leave it out of the patch",
                file.called()
            ));
        }
        if let Some(mode) = said.strip_prefix("new file mode ") {
            file.old = None;
            file.mode = octal(mode);
        } else if said.starts_with("deleted file mode ") {
            file.new = None;
        } else if let Some(mode) = said.strip_prefix("new mode ") {
            file.mode = octal(mode);
        } else if let Some(path) = said
            .strip_prefix("rename from ")
            .or(said.strip_prefix("copy from "))
        {
            file.copy = said.starts_with("copy");
            file.old = Some(unquote(path));
        } else if let Some(path) = said
            .strip_prefix("rename to ")
            .or(said.strip_prefix("copy to "))
        {
            file.new = Some(unquote(path));
        } else if said.starts_with("GIT binary patch") {
            let (part, used) = binary::read(&lines[at..], FILE_MAX)
                .map_err(|e| format!("{}: line {}: {e}", file.called(), at + 1))?;
            file.change = Change::Binary(part);
            at += used;
        } else if said.starts_with("Binary files ") {
            return Err(format!(
                "{}: the patch only says that this binary file differs, not how",
                file.called()
            ));
        }
    }
    if files.is_empty() && !patch.trim_ascii().is_empty() {
        return Err("there is no `diff --git` and no `---` line in it".to_owned());
    }
    Ok(files)
}

/// The line after a hunk, by the numbers in its head.
fn hunk_end(lines: &[&[u8]], head: usize) -> Result<usize, String> {
    let said = String::from_utf8_lossy(lines[head]).into_owned();
    let bad = || {
        format!(
            "line {}: `{}` is no head of a hunk",
            head + 1,
            said.trim_end()
        )
    };
    let counts = lines::Head::parse(lines[head]).ok_or_else(bad)?;
    let (mut old, mut new) = (counts.old, counts.new);
    let mut at = head + 1;
    loop {
        let line = lines.get(at).copied().unwrap_or_default();
        match line.first() {
            Some(b'\\') => {}
            _ if old == 0 && new == 0 => return Ok(at),
            Some(b' ' | b'\n' | b'\r') => {
                (old, new) = (old.saturating_sub(1), new.saturating_sub(1))
            }
            Some(b'-') => old = old.saturating_sub(1),
            Some(b'+') => new = new.saturating_sub(1),
            _ => {
                return Err(format!(
                    "line {}: the hunk of line {} ends too early",
                    at + 1,
                    head + 1
                ));
            }
        }
        at += 1;
    }
}

/// The name in a `---` or `+++` line.
fn name(text: &str) -> Result<Option<Vec<u8>>, String> {
    let text = text.split('\t').next().unwrap_or(text).trim_end();
    if text == "/dev/null" {
        return Ok(None);
    }
    let text = unquote(text);
    // Patches of other tools have no prefix.
    let path = text
        .strip_prefix(b"a/")
        .or_else(|| text.strip_prefix(b"b/"))
        .unwrap_or(&text);
    if path.is_empty() {
        return Err("a file without a name".to_owned());
    }
    Ok(Some(path.to_vec()))
}

/// The names in `a/x b/x`. Names with blanks are told apart by being the same.
fn git_names(rest: &str) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    if rest.starts_with('"') {
        let mut parts = rest.split("\" ");
        let strip = |p: Option<&str>| {
            let text = unquote(&format!("\"{}\"", p?.trim_matches('"')));
            text.get(2..).map(<[u8]>::to_vec)
        };
        return (strip(parts.next()), strip(parts.next()));
    }
    // The prefixes are `a/` and `b/`, the other way round in a patch that takes back, or others that git was told.
    let inner = |name: &str| name.split_once('/').map(|(_, inner)| inner.to_owned());
    let same = rest.match_indices(' ').find_map(|(at, _)| {
        let (old, new) = (inner(rest.get(..at)?)?, inner(rest.get(at + 1..)?)?);
        (old == new).then(|| (Some(old.into_bytes()), Some(new.into_bytes())))
    });
    same.unwrap_or((None, None))
}

/// A name as git writes it when it holds unusual characters.
fn unquote(text: &str) -> Vec<u8> {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return text.as_bytes().to_vec();
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.bytes();
    while let Some(b) = bytes.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match bytes.next() {
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'r') => out.push(b'\r'),
            Some(d @ b'0'..=b'7') => {
                let mut n = u32::from(d - b'0');
                for d in bytes.by_ref().take(2) {
                    n = n * 8 + u32::from(d.wrapping_sub(b'0') & 7);
                }
                out.push((n & 0xff) as u8);
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

/// A name as git writes it. Letters of all languages stay as they are.
fn quote(name: &[u8]) -> String {
    let mut out = String::new();
    let mut unusual = false;
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            unusual |= matches!(c, '"' | '\\') || c.is_ascii_control();
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                c if c.is_ascii_control() => out.push_str(&format!("\\{:03o}", u32::from(c))),
                c => out.push(c),
            }
        }
        unusual |= !chunk.invalid().is_empty();
        for b in chunk.invalid() {
            out.push_str(&format!("\\{b:03o}"));
        }
    }
    if unusual { format!("\"{out}\"") } else { out }
}

/// A name for a message.
fn shown(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name)
}

/// A path below a directory, whatever bytes it has.
pub(super) fn below(dir: &str, path: &[u8]) -> Vec<u8> {
    [dir.trim_end_matches('/').as_bytes(), b"/", path].concat()
}

/// Applies a patch to directory `at`. Nothing is half done: the tree is thrown away when this fails.
///
/// # Errors
/// A patch that cannot be read, or does not fit; or that nobody waits for it any more.
pub(crate) fn apply(tree: &Tree, at: &str, patch: &[u8], stop: &Stop) -> Result<(), Error> {
    let bad = |why: String| Error::user(format!("cannot apply the patch: {why}"));
    // A text that was pasted may have lost its end.
    let whole;
    let patch = match patch.last() {
        None | Some(b'\n') => patch,
        Some(_) => {
            whole = [patch, b"\n"].concat();
            &whole
        }
    };
    for file in parse(patch).map_err(bad)? {
        stop.check()?;
        apply_file(tree, at, &file)?;
    }
    Ok(())
}

fn apply_file(tree: &Tree, at: &str, patch: &FilePatch<'_>) -> Result<(), Error> {
    let bad = |path: &[u8], why: &str| {
        Error::user(format!("cannot apply the patch: {}: {why}", shown(path)))
    };
    let inside = |path: &Vec<u8>| -> Result<Vec<u8>, Error> {
        if path.starts_with(b"/") || path.split(|b| *b == b'/').any(|p| p == b"..") {
            return Err(bad(path, "it is outside of the directory"));
        }
        // Names in a patch are those of its own directory: no link leads out of it, or elsewhere in it.
        for (end, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let parent = below(at, &path[..end]);
            let stat = tree.lstat(&parent).map_err(|e| tree_error(&e))?;
            if stat.is_some_and(|s| s.kind == Kind::Symlink) {
                return Err(bad(path, "it is beyond a symbolic link"));
            }
        }
        Ok(below(at, path))
    };
    let old = patch
        .old
        .as_ref()
        .map(|p| Ok::<_, Error>((p, inside(p)?)))
        .transpose()?;
    let new = patch
        .new
        .as_ref()
        .map(|p| Ok::<_, Error>((p, inside(p)?)))
        .transpose()?;
    let stat = match &old {
        Some((shown, path)) => Some(
            tree.lstat(path)
                .map_err(|e| tree_error(&e))?
                .ok_or_else(|| bad(shown, "no such file or directory"))?,
        ),
        None => None,
    };
    if let (None, Some((shown, path))) = (&old, &new)
        && tree.lstat(path).map_err(|e| tree_error(&e))?.is_some()
    {
        return Err(bad(shown, "it is there already"));
    }
    let before = match (&old, &stat) {
        (Some((_, path)), Some(s)) if s.kind == Kind::Symlink => tree.read_link(path),
        (Some((_, path)), Some(_)) => tree.read_file(path, FILE_MAX as u64),
        _ => Ok(Vec::new()),
    }
    .map_err(|e| tree_error(&e))?;
    let of = new.as_ref().or(old.as_ref());
    let of = of.map_or(&[][..], |(p, _)| p.as_slice());
    let after = match &patch.change {
        Change::Lines(hunks) => lines::apply(&before, hunks).map_err(|e| bad(of, &e))?,
        Change::Binary(part) => {
            if patch
                .was
                .as_ref()
                .is_some_and(|was| *was != binary::id(&before))
            {
                return Err(bad(
                    of,
                    "the patch was made for another version of this binary file",
                ));
            }
            part.apply(&before, FILE_MAX)
                .ok_or_else(|| bad(of, "the binary change does not fit the file"))?
        }
        Change::None => before,
    };
    let err = |e: store::TreeError| tree_error(&e);
    if let Some((_, path)) = &old
        && !patch.copy
        && old.as_ref().map(|o| &o.1) != new.as_ref().map(|n| &n.1)
    {
        tree.remove(literal(path)).map_err(err)?;
    }
    let Some((_, path)) = &new else {
        return Ok(());
    };
    let link = match patch.mode {
        Some(mode) => mode & KIND == LINK,
        None => stat.as_ref().is_some_and(|s| s.kind == Kind::Symlink),
    };
    if link {
        let target = String::from_utf8_lossy(&after).into_owned();
        tree.remove(literal(path)).map_err(err)?;
        return tree.symlink(&target, path).map_err(err);
    }
    let mode = patch
        .mode
        .or(stat.as_ref().map(|s| s.mode))
        .map_or(0o644, |m| m & 0o777);
    let owner = stat.map(|s| (s.uid, s.gid));
    tree.write_file(path, &after, mode, owner).map_err(err)
}

/// A file of one side of a patch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Side {
    /// Its mode, with the kind.
    pub(crate) mode: u32,
    body: Body,
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Bytes(Vec<u8>),
    /// More than [`TEXT_MAX`] bytes: only their digest.
    Large(blake3::Hash),
}

impl Side {
    /// Is there nothing in it?
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.body, Body::Bytes(bytes) if bytes.is_empty())
    }

    /// Equal for equal contents.
    pub(crate) fn digest(&self) -> blake3::Hash {
        match &self.body {
            Body::Bytes(bytes) => blake3::hash(bytes),
            Body::Large(digest) => *digest,
        }
    }
}

/// The side of a patch that a path is.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn side(tree: &Tree, path: &[u8]) -> Result<Option<Side>, store::TreeError> {
    let (mode, body) = match tree.lstat(path)? {
        Some(s) if s.kind == Kind::File => {
            let mode = if s.mode & 0o100 == 0 {
                0o100_644
            } else {
                0o100_755
            };
            let body = if s.size > TEXT_MAX {
                let mut digest = blake3::Hasher::new();
                digest
                    .update_reader(tree.open(path)?)
                    .map_err(|e| store::TreeError::io("read", path, e))?;
                Body::Large(digest.finalize())
            } else {
                Body::Bytes(tree.read_file(path, TEXT_MAX)?)
            };
            (mode, body)
        }
        Some(s) if s.kind == Kind::Symlink => (LINK, Body::Bytes(tree.read_link(path)?)),
        _ => return Ok(None),
    };
    Ok(Some(Side { mode, body }))
}

/// Adds the patch that makes one side of a file the other. A file with a zero byte near its beginning is binary: its contents are
/// in the patch as `git diff --binary` writes them, unless it has more than [`TEXT_MAX`] bytes. Then they are not.
pub(crate) fn write(out: &mut Vec<u8>, path: &[u8], old: Option<&Side>, new: Option<&Side>) {
    let name = |prefix: &[u8]| quote(&[prefix, path].concat());
    let (a, b) = (name(b"a/"), name(b"b/"));
    let modes = (old.map(|s| s.mode), new.map(|s| s.mode));
    if old.is_none() && new.is_none() {
        return;
    }
    // A file that became a link, or a link a file, goes and comes.
    if let (Some(was), Some(is)) = modes
        && (was == LINK) != (is == LINK)
    {
        write(out, path, old, None);
        write(out, path, None, new);
        return;
    }
    let mut head = format!("diff --git {a} {b}\n");
    // Writing to a string cannot fail.
    let _ = match modes {
        (None, Some(mode)) => writeln!(head, "new file mode {mode:06o}"),
        (Some(mode), None) => writeln!(head, "deleted file mode {mode:06o}"),
        (Some(was), Some(is)) if was != is => {
            writeln!(head, "old mode {was:06o}\nnew mode {is:06o}")
        }
        _ => Ok(()),
    };
    let nothing = Body::Bytes(Vec::new());
    let before = old.map_or(&nothing, |s| &s.body);
    let after = new.map_or(&nothing, |s| &s.body);
    if before == after && modes.0 == modes.1 {
        return;
    }
    out.extend_from_slice(head.as_bytes());
    if before == after {
        return;
    }
    let from = if old.is_some() { &a } else { "/dev/null" };
    let to = if new.is_some() { &b } else { "/dev/null" };
    let (Body::Bytes(before), Body::Bytes(after)) = (before, after) else {
        out.extend_from_slice(format!("Binary files {from} and {to} differ\n").as_bytes());
        return;
    };
    if is_binary(before) || is_binary(after) {
        let id = |side: Option<&Side>, bytes| match side {
            Some(_) => binary::id(bytes),
            None => "0".repeat(40),
        };
        let mode = match modes {
            (Some(was), Some(is)) if was == is => format!(" {is:06o}"),
            _ => String::new(),
        };
        let line = format!("index {}..{}{mode}\n", id(old, before), id(new, after));
        out.extend_from_slice(line.as_bytes());
        binary::write(out, before, after);
        return;
    }
    // A name with a blank ends at a tab, as with git.
    let end = if path.contains(&b' ') { "\t" } else { "" };
    let name_line = |sign: &str, name: &str| match name {
        "/dev/null" => format!("{sign} {name}\n"),
        name => format!("{sign} {name}{end}\n"),
    };
    out.extend_from_slice(name_line("---", from).as_bytes());
    out.extend_from_slice(name_line("+++", to).as_bytes());
    lines::write_hunks(out, before, after);
}

/// Lines added and removed between two sides; none when one is binary or has more than [`TEXT_MAX`] bytes.
pub(crate) fn counts(old: Option<&Side>, new: Option<&Side>) -> (u64, u64) {
    fn text(side: Option<&Side>) -> Option<&[u8]> {
        match side.map(|s| &s.body) {
            None => Some(&[]),
            Some(Body::Bytes(bytes)) if !is_binary(bytes) => Some(bytes),
            Some(_) => None,
        }
    }
    match (text(old), text(new)) {
        (Some(old), Some(new)) => lines::counts(old, new),
        _ => (0, 0),
    }
}

/// As git decides it: a zero byte near the beginning.
pub(super) fn is_binary(bytes: &[u8]) -> bool {
    bytes.iter().take(8000).any(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32, bytes: &[u8]) -> Side {
        Side {
            mode,
            body: Body::Bytes(bytes.to_vec()),
        }
    }

    #[test]
    fn patches_of_git_and_of_diff_are_read() {
        let git = b"diff --git a/x y b/x y\nindex 1..2 100644\n--- a/x y\n+++ b/x y\n@@ -1 +1 @@\n-a\n+--- b\n\
            diff --git a/n b/n\nnew file mode 100755\nindex 0..1\n\
            diff --git a/o b/p\nsimilarity index 100%\nrename from o\nrename to p\n\
            diff --git a/g b/g\ndeleted file mode 100644\n--- a/g\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\\ No newline at end of file\n";
        let files = parse(git).expect("a patch");
        let names: Vec<_> = files
            .iter()
            .map(|f| {
                let text = |n: &Option<Vec<u8>>| n.as_deref().map(|n| shown(n).into_owned());
                (text(&f.old), text(&f.new), f.mode)
            })
            .collect();
        let name = |n: &str| Some(n.to_owned());
        assert_eq!(
            names,
            [
                (name("x y"), name("x y"), None),
                (None, name("n"), Some(0o100_755)),
                (name("o"), name("p"), None),
                (name("g"), None, None)
            ]
        );
        let plain = parse(b"--- old.txt\t2024\n+++ old.txt\t2025\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n")
            .expect("a patch");
        assert_eq!(plain[0].new.as_deref(), Some(&b"old.txt"[..]));
        let back = parse(b"diff --git b/x y a/x y\nold mode 100644\nnew mode 100755\n");
        assert_eq!(back.expect("a patch")[0].new.as_deref(), Some(&b"x y"[..]));
        assert!(parse(b"hello").expect_err("none").contains("diff --git"));
        assert!(
            parse(b"--- a\n+++ b\n@@ -1,2 +1 @@\n a\n")
                .expect_err("cut")
                .contains("too early")
        );
    }

    #[test]
    fn unusual_names_survive() {
        for text in [
            &b"a\tb\"c\\"[..],
            b"plain",
            "ä b".as_bytes(),
            b"\xff\xfe\x01x",
        ] {
            assert_eq!(unquote(&quote(text)), text);
        }
        assert_eq!(unquote(r#""a\303\244""#), "aä".as_bytes());
        assert_eq!(quote(b"b/\xff"), r#""b/\377""#);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = Vec::new();
        let side = |text: &str| file(0o100_644, text.as_bytes());
        write(&mut out, b"a b", Some(&side("1\n2\n")), Some(&side("1\n3")));
        write(&mut out, b"new", None, Some(&file(0o100_755, b"")));
        write(&mut out, b"same", Some(&side("x")), Some(&side("x")));
        let text = String::from_utf8(out.clone()).expect("text");
        assert_eq!(
            text,
            "diff --git a/a b b/a b\n--- a/a b\t\n+++ b/a b\t\n@@ -1,2 +1,2 @@\n 1\n-2\n+3\n\\ No newline at end of file\n\
             diff --git a/new b/new\nnew file mode 100755\n"
        );
        assert_eq!(parse(&out).expect("a patch").len(), 2);
        assert_eq!(
            counts(Some(&side("1\n2\n")), Some(&side("1\n3\n4\n"))),
            (2, 1)
        );
        assert_eq!(counts(Some(&side("1\n\0")), Some(&side("1\n"))), (0, 0));
        assert_eq!(counts(None, Some(&side("1\n2"))), (2, 0));
    }
}
