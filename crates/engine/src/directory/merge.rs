//! Bringing two sides' changes to the same directory together.

use std::collections::BTreeSet;

use graph::error::Error;
use store::{Kind, Tree, TreeError, What};

use super::tree_error;
use crate::{container::paths, node::Conflict};

/// Largest file whose lines are merged, in bytes.
const LINES_MAX: u64 = 16 << 20;

/// A tree and a directory in it.
type At<'a> = (&'a Tree, &'a str);

/// A file that both sides changed, as this side has it.
struct Contested {
    path: String,
    ours: Option<Vec<u8>>,
    mode: u32,
    owner: (u32, u32),
}

/// Makes to directory `at`, which was `ours_before` once, what changed between the two trees of `theirs`.
///
/// # Errors
/// Conflicts that `conflict` does not settle, or failed calls.
pub(crate) fn merge(
    tree: &Tree,
    at: &str,
    theirs: (At<'_>, At<'_>),
    ours_before: At<'_>,
    conflict: Conflict,
) -> Result<(), Error> {
    let err = |e: TreeError| tree_error(&e);
    let changed = |before, after| -> Result<BTreeSet<Vec<u8>>, Error> {
        let all = Tree::changes(before, after).map_err(err)?;
        Ok(all
            .into_iter()
            .filter(|c| c.kind != Kind::Dir || c.what == What::Removed)
            .map(|c| c.path)
            .collect())
    };
    let ours = changed(ours_before, (tree, at))?;
    let other = changed(theirs.0, theirs.1)?;
    let both: Vec<String> = other
        .iter()
        .filter(|p| touches(&ours, p))
        .map(|p| String::from_utf8_lossy(p).into_owned())
        .collect();
    // What both did alike is no conflict.
    let both: Vec<String> = {
        let mut differ = Vec::new();
        for path in both {
            if file(tree, at, &path)? != file(theirs.1.0, theirs.1.1, &path)? {
                differ.push(path);
            }
        }
        differ
    };
    if conflict == Conflict::FailEarly && !both.is_empty() {
        return Err(conflicts(&both));
    }
    let mut contested = Vec::new();
    for path in both {
        let inner = paths::join(at, &path);
        let stat = tree.lstat(&inner).map_err(err)?;
        contested.push(Contested {
            ours: file(tree, at, &path)?,
            mode: stat.as_ref().map_or(0o644, |s| s.mode),
            owner: stat.map_or((0, 0), |s| (s.uid, s.gid)),
            path,
        });
    }
    tree.apply_changes(at, theirs.0, theirs.1).map_err(err)?;
    let mut unsettled = Vec::new();
    for c in contested {
        let base = file(ours_before.0, ours_before.1, &c.path)?;
        let their = file(theirs.1.0, theirs.1.1, &c.path)?;
        let to = paths::join(at, &c.path);
        let settled = match (&c.ours, &their) {
            (Some(our), Some(their)) => {
                match diffy::merge_bytes(base.as_deref().unwrap_or_default(), our, their) {
                    Ok(merged) => Some(merged),
                    Err(marked) if conflict == Conflict::Markers => Some(marked),
                    Err(_) if conflict == Conflict::Ours => Some(our.clone()),
                    Err(_) if conflict == Conflict::Theirs => Some(their.clone()),
                    Err(_) => {
                        unsettled.push(c.path);
                        continue;
                    }
                }
            }
            // One side removed it: between lines nothing can be marked, so the version that is left stays.
            (our, their) => match conflict {
                Conflict::Ours => our.clone(),
                Conflict::Theirs => their.clone(),
                Conflict::Markers => our.clone().or_else(|| their.clone()),
                Conflict::Fail | Conflict::FailEarly => {
                    unsettled.push(c.path);
                    continue;
                }
            },
        };
        match settled {
            Some(bytes) => tree.write_file(&to, &bytes, c.mode, Some(c.owner)),
            None if tree.lstat(&to).map_err(err)?.is_some_and(|s| !s.is_dir()) => {
                tree.remove(patterns::literal(&to))
            }
            None => Ok(()),
        }
        .map_err(err)?;
    }
    if unsettled.is_empty() {
        Ok(())
    } else {
        Err(conflicts(&unsettled))
    }
}

/// Is the path, or a directory it is in, among those?
fn touches(among: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
    among.contains(path)
        || path
            .iter()
            .enumerate()
            .any(|(i, b)| *b == b'/' && among.contains(&path[..i]))
}

fn conflicts(paths: &[String]) -> Error {
    Error::user(format!(
        "cannot merge the changes: both sides changed {}; choose with `onConflict` what to do",
        paths.join(", ")
    ))
}

/// A file's bytes; a link counts as the text it is. `None` when there is neither.
fn file(tree: &Tree, at: &str, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let path = paths::join(at, path);
    let read = match tree.lstat(&path).map_err(|e| tree_error(&e))? {
        Some(s) if s.kind == Kind::File => tree.read_file(&path, LINES_MAX),
        Some(s) if s.kind == Kind::Symlink => tree.read_link(&path),
        _ => return Ok(None),
    };
    read.map(Some).map_err(|e| tree_error(&e))
}
