//! Patches as `git diff` writes them: reading, applying and making them.

use std::fmt::Write as _;

use graph::error::Error;
use store::{Kind, Tree};

use super::tree_error;
use crate::container::paths;

/// Largest patch that is read, in bytes.
pub(crate) const PATCH_MAX: u64 = 64 << 20;
/// Largest file a patch changes, in bytes.
const FILE_MAX: u64 = 128 << 20;
/// Mode of a symbolic link in a patch.
const LINK: u32 = 0o120_000;

/// Mode of a submodule's commit in a patch.
const COMMIT: u32 = 0o160_000;
/// The kind in a mode.
const KIND: u32 = 0o170_000;

/// What a patch does to one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct FilePatch {
    /// Its path before; `None` when it is new.
    old: Option<String>,
    /// Its path after; `None` when it is removed.
    new: Option<String>,
    /// Its mode after, when the patch says it, with the kind.
    mode: Option<u32>,
    /// The old file stays.
    copy: bool,
    /// The part that begins with `---`, if lines change.
    hunks: Option<Vec<u8>>,
}

/// Reads a patch.
fn parse(patch: &[u8]) -> Result<Vec<FilePatch>, String> {
    let mut files: Vec<FilePatch> = Vec::new();
    let lines: Vec<&[u8]> = patch.split_inclusive(|b| *b == b'\n').collect();
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
            if !in_git || files.last().is_none_or(|f| f.hunks.is_some()) {
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
            // The names are ours to know: the part is read with plain ones.
            let mut hunks = b"--- a\n+++ b\n".to_vec();
            lines[start + 2..at]
                .iter()
                .for_each(|l| hunks.extend_from_slice(l));
            file.hunks = Some(hunks);
            continue;
        }
        let Some(file) = files.last_mut().filter(|_| in_git) else {
            continue;
        };
        let octal = |s: &str| u32::from_str_radix(s.trim(), 8).ok();
        let index = said.strip_prefix("index ").and_then(|r| r.rsplit_once(' '));
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
            let of = file.new.as_ref().or(file.old.as_ref());
            return Err(format!(
                "{}: it is a submodule (mode 160000), whose commit no directory holds: leave it out of the patch",
                of.map_or("", String::as_str)
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
        } else if said.starts_with("GIT binary patch") || said.starts_with("Binary files ") {
            let of = file.new.as_ref().or(file.old.as_ref());
            return Err(format!(
                "{}: changes of binary files are not in patches that can be applied",
                of.map_or("", String::as_str)
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
    let mut words = said.split(' ').skip(1);
    let mut count = |sign: char| -> Option<u64> {
        let range = words.next()?.strip_prefix(sign)?;
        match range.split_once(',') {
            Some((_, n)) => n.parse().ok(),
            None => Some(1),
        }
    };
    let (mut old, mut new) = (count('-').ok_or_else(bad)?, count('+').ok_or_else(bad)?);
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
fn name(text: &str) -> Result<Option<String>, String> {
    let text = text.split('\t').next().unwrap_or(text).trim_end();
    if text == "/dev/null" {
        return Ok(None);
    }
    let text = unquote(text);
    // Patches of other tools have no prefix.
    let path = text
        .strip_prefix("a/")
        .or_else(|| text.strip_prefix("b/"))
        .unwrap_or(&text);
    if path.is_empty() {
        return Err("a file without a name".to_owned());
    }
    Ok(Some(path.to_owned()))
}

/// The names in `a/x b/x`. Names with blanks are told apart by being the same.
fn git_names(rest: &str) -> (Option<String>, Option<String>) {
    if rest.starts_with('"') {
        let mut parts = rest.split("\" ");
        let strip = |p: Option<&str>| {
            let text = unquote(&format!("\"{}\"", p?.trim_matches('"')));
            text.get(2..).map(str::to_owned)
        };
        return (strip(parts.next()), strip(parts.next()));
    }
    let same = rest.match_indices(" b/").find_map(|(at, _)| {
        let (old, new) = (rest.get(2..at)?, rest.get(at + 3..)?);
        (old == new).then(|| (Some(old.to_owned()), Some(new.to_owned())))
    });
    same.unwrap_or((None, None))
}

/// A name as git writes it when it holds unusual characters.
fn unquote(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return text.to_owned();
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
    String::from_utf8_lossy(&out).into_owned()
}

/// A name as git writes it.
fn quote(text: &str) -> String {
    if !text.contains(['"', '\\', '\n', '\t', '\r']) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Applies a patch to directory `at`. Nothing is half done: the tree is thrown away when this fails.
///
/// # Errors
/// A patch that cannot be read, or does not fit.
pub(crate) fn apply(tree: &Tree, at: &str, patch: &[u8]) -> Result<(), Error> {
    let bad = |why: String| Error::user(format!("cannot apply the patch: {why}"));
    for file in parse(patch).map_err(bad)? {
        apply_file(tree, at, &file)?;
    }
    Ok(())
}

fn apply_file(tree: &Tree, at: &str, patch: &FilePatch) -> Result<(), Error> {
    let bad = |path: &str, why: &str| Error::user(format!("cannot apply the patch: {path}: {why}"));
    let inside = |path: &String| -> Result<String, Error> {
        if path.starts_with('/') || path.split('/').any(|p| p == "..") {
            return Err(bad(path, "it is outside of the directory"));
        }
        // Names in a patch are those of its own directory: no link leads out of it, or elsewhere in it.
        for (end, _) in path.match_indices('/') {
            let parent = paths::join(at, path.get(..end).unwrap_or_default());
            let stat = tree.lstat(&parent).map_err(|e| tree_error(&e))?;
            if stat.is_some_and(|s| s.kind == Kind::Symlink) {
                return Err(bad(path, "it is beyond a symbolic link"));
            }
        }
        Ok(paths::join(at, path))
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
        (Some((_, path)), Some(_)) => tree.read_file(path, FILE_MAX),
        _ => Ok(Vec::new()),
    }
    .map_err(|e| tree_error(&e))?;
    let shown = new
        .as_ref()
        .or(old.as_ref())
        .map_or("", |(p, _)| p.as_str());
    let after = match &patch.hunks {
        Some(hunks) => {
            let hunks = diffy::Patch::from_bytes(hunks).map_err(|e| bad(shown, &e.to_string()))?;
            diffy::apply_bytes(&before, &hunks).map_err(|e| bad(shown, &e.to_string()))?
        }
        None => before,
    };
    let err = |e: store::TreeError| tree_error(&e);
    if let Some((_, path)) = &old
        && !patch.copy
        && old.as_ref().map(|o| &o.1) != new.as_ref().map(|n| &n.1)
    {
        tree.remove(patterns::literal(path)).map_err(err)?;
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
        tree.remove(patterns::literal(path)).map_err(err)?;
        return tree.symlink(&target, path).map_err(err);
    }
    let mode = patch
        .mode
        .or(stat.as_ref().map(|s| s.mode))
        .map_or(0o644, |m| m & 0o777);
    let owner = stat.map(|s| (s.uid, s.gid));
    tree.write_file(path, &after, mode, owner).map_err(err)
}

/// A file of one side of a patch: its mode with the kind, and its bytes.
pub(crate) type Side = (u32, Vec<u8>);

/// The side of a patch that a path is.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn side(tree: &Tree, path: &str) -> Result<Option<Side>, store::TreeError> {
    Ok(match tree.lstat(path)? {
        Some(s) if s.kind == Kind::File => {
            let mode = if s.mode & 0o100 == 0 {
                0o100_644
            } else {
                0o100_755
            };
            Some((mode, tree.read_file(path, FILE_MAX)?))
        }
        Some(s) if s.kind == Kind::Symlink => Some((LINK, tree.read_link(path)?)),
        _ => None,
    })
}

/// Adds the patch that makes one side of a file the other.
pub(crate) fn write(out: &mut Vec<u8>, path: &str, old: Option<&Side>, new: Option<&Side>) {
    let (a, b) = (quote(&format!("a/{path}")), quote(&format!("b/{path}")));
    let mut head = format!("diff --git {a} {b}\n");
    // Writing to a string cannot fail.
    let _ = match (old, new) {
        (None, Some((mode, _))) => writeln!(head, "new file mode {mode:06o}"),
        (Some((mode, _)), None) => writeln!(head, "deleted file mode {mode:06o}"),
        (Some((was, _)), Some((is, _))) if was != is => {
            writeln!(head, "old mode {was:06o}\nnew mode {is:06o}")
        }
        _ => Ok(()),
    };
    let empty = Vec::new();
    let before = old.map_or(&empty, |(_, bytes)| bytes);
    let after = new.map_or(&empty, |(_, bytes)| bytes);
    if before == after && old.map(|o| o.0) == new.map(|n| n.0) {
        return;
    }
    out.extend_from_slice(head.as_bytes());
    if before == after {
        return;
    }
    let from = if old.is_some() { &a } else { "/dev/null" };
    let to = if new.is_some() { &b } else { "/dev/null" };
    if is_binary(before) || is_binary(after) {
        out.extend_from_slice(format!("Binary files {from} and {to} differ\n").as_bytes());
        return;
    }
    out.extend_from_slice(format!("--- {from}\n+++ {to}\n").as_bytes());
    let patch = diffy::create_patch_bytes(before, after).to_bytes();
    // Its own two lines of names are not wanted.
    let body = patch
        .split_inclusive(|b| *b == b'\n')
        .skip_while(|l| !l.starts_with(b"@@"));
    body.for_each(|l| out.extend_from_slice(l));
}

/// Lines added and removed between two sides.
pub(crate) fn counts(old: &[u8], new: &[u8]) -> (u64, u64) {
    if is_binary(old) || is_binary(new) {
        return (0, 0);
    }
    let patch = diffy::create_patch_bytes(old, new);
    let (mut added, mut removed) = (0, 0);
    for line in patch.hunks().iter().flat_map(diffy::Hunk::lines) {
        match line {
            diffy::Line::Insert(_) => added += 1,
            diffy::Line::Delete(_) => removed += 1,
            diffy::Line::Context(_) => {}
        }
    }
    (added, removed)
}

/// As git decides it: a zero byte near the beginning.
fn is_binary(bytes: &[u8]) -> bool {
    bytes.iter().take(8000).any(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_of_git_and_of_diff_are_read() {
        let git = b"diff --git a/x y b/x y\nindex 1..2 100644\n--- a/x y\n+++ b/x y\n@@ -1 +1 @@\n-a\n+--- b\n\
            diff --git a/n b/n\nnew file mode 100755\nindex 0..1\n\
            diff --git a/o b/p\nsimilarity index 100%\nrename from o\nrename to p\n\
            diff --git a/g b/g\ndeleted file mode 100644\n--- a/g\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\\ No newline at end of file\n";
        let files = parse(git).expect("a patch");
        let names: Vec<_> = files
            .iter()
            .map(|f| (f.old.as_deref(), f.new.as_deref(), f.mode))
            .collect();
        assert_eq!(
            names,
            [
                (Some("x y"), Some("x y"), None),
                (None, Some("n"), Some(0o100_755)),
                (Some("o"), Some("p"), None),
                (Some("g"), None, None)
            ]
        );
        let plain = parse(b"--- old.txt\t2024\n+++ old.txt\t2025\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n")
            .expect("a patch");
        assert_eq!(plain[0].new.as_deref(), Some("old.txt"));
        assert!(parse(b"hello").expect_err("none").contains("diff --git"));
        assert!(
            parse(b"--- a\n+++ b\n@@ -1,2 +1 @@\n a\n")
                .expect_err("cut")
                .contains("too early")
        );
    }

    #[test]
    fn unusual_names_survive() {
        for text in ["a\tb\"c\\", "plain", "ä b"] {
            assert_eq!(unquote(&quote(text)), text);
        }
        assert_eq!(unquote(r#""a\303\244""#), "aä");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = Vec::new();
        let side = |text: &str| (0o100_644, text.as_bytes().to_vec());
        write(&mut out, "a b", Some(&side("1\n2\n")), Some(&side("1\n3")));
        write(&mut out, "new", None, Some(&(0o100_755, Vec::new())));
        write(&mut out, "same", Some(&side("x")), Some(&side("x")));
        let text = String::from_utf8(out.clone()).expect("text");
        assert_eq!(
            text,
            "diff --git a/a b b/a b\n--- a/a b\n+++ b/a b\n@@ -1,2 +1,2 @@\n 1\n-2\n+3\n\\ No newline at end of file\n\
             diff --git a/new b/new\nnew file mode 100755\n"
        );
        assert_eq!(parse(&out).expect("a patch").len(), 2);
        assert_eq!(counts(b"1\n2\n", b"1\n3\n4\n"), (2, 1));
    }
}
