//! Replacing text in a file.

use graph::error::Error;

use super::tree_error;
use crate::node::Which;

/// Largest file in which text is replaced, in bytes.
const FILE_MAX: u64 = 128 << 20;

/// The bytes with `search` replaced.
///
/// # Errors
/// When it is not there, or not only once though it has to be.
fn replaced(bytes: &[u8], search: &[u8], with: &[u8], which: Which) -> Result<Vec<u8>, String> {
    if search.is_empty() {
        return Err("there is no text to look for".to_owned());
    }
    let finder = |from: usize| {
        bytes
            .get(from..)?
            .windows(search.len())
            .position(|w| w == search)
            .map(|at| from + at)
    };
    let from = match which {
        Which::FirstFrom(line) => {
            start_of_line(bytes, line).ok_or_else(|| format!("there is no line {line}"))?
        }
        _ => 0,
    };
    let first = finder(from).ok_or_else(|| match which {
        Which::FirstFrom(line) if line > 1 => {
            format!("the text to replace is not there from line {line} on")
        }
        _ => "the text to replace is not there".to_owned(),
    })?;
    if which == Which::Only && finder(first + search.len()).is_some() {
        return Err(
            "the text to replace is there more than once: ask for `all` of them or for `firstFrom` a line"
                .to_owned(),
        );
    }
    let mut out = Vec::with_capacity(bytes.len() + with.len());
    let mut done = 0;
    let mut next = Some(first);
    while let Some(at) = next {
        out.extend_from_slice(&bytes[done..at]);
        out.extend_from_slice(with);
        done = at + search.len();
        next = (which == Which::All).then(|| finder(done)).flatten();
    }
    out.extend_from_slice(&bytes[done..]);
    Ok(out)
}

/// Where a line begins, counted from 1.
fn start_of_line(bytes: &[u8], line: u64) -> Option<usize> {
    let mut at = 0;
    for _ in 1..line {
        at += bytes.get(at..)?.iter().position(|b| *b == b'\n')? + 1;
    }
    Some(at)
}

/// Replaces text in a file of a tree; its looks stay.
pub(crate) fn apply(
    tree: &store::Tree,
    path: &str,
    search: &str,
    replacement: &str,
    which: Which,
) -> Result<(), Error> {
    let stat = tree.expect_file(path, path).map_err(|e| tree_error(&e))?;
    let bytes = tree.read_file(path, FILE_MAX).map_err(|e| tree_error(&e))?;
    let bytes = replaced(&bytes, search.as_bytes(), replacement.as_bytes(), which)
        .map_err(|why| Error::user(format!("cannot replace text in {path}: {why}")))?;
    tree.write_file(path, &bytes, stat.mode, Some((stat.uid, stat.gid)))
        .map_err(|e| tree_error(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_all_or_the_first_from_a_line() {
        let r = |text: &str, which| {
            replaced(text.as_bytes(), b"ab", b"x", which)
                .map(|b| String::from_utf8(b).expect("text"))
        };
        assert_eq!(r("1ab2", Which::Only).as_deref(), Ok("1x2"));
        assert!(
            r("abab", Which::Only)
                .expect_err("twice")
                .contains("more than once")
        );
        assert_eq!(r("abab\nab", Which::All).as_deref(), Ok("xx\nx"));
        assert_eq!(
            r("ab\nab\nab", Which::FirstFrom(2)).as_deref(),
            Ok("ab\nx\nab")
        );
        assert!(
            r("ab\n", Which::FirstFrom(2))
                .expect_err("gone")
                .contains("from line 2")
        );
        assert!(
            r("ab", Which::FirstFrom(9))
                .expect_err("short")
                .contains("no line 9")
        );
        assert!(r("b", Which::All).expect_err("gone").contains("not there"));
    }
}
