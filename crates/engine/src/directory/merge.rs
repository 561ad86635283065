//! Bringing two sides' changes to the same directory together.

use std::collections::BTreeSet;

use graph::error::Error;
use store::{Kind, Tree, TreeError, What};

use super::{
    changes::{At, differing},
    lines, patch, tree_error,
};
use crate::{engine::Stop, node::Conflict};

/// Largest file that is merged, in bytes.
const FILE_MAX: u64 = patch::TEXT_MAX;

/// A file that both sides changed, as this side has it.
struct Contested {
    path: Vec<u8>,
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
    stop: &Stop,
) -> Result<(), Error> {
    let err = |e: TreeError| tree_error(&e);
    let changed = |before, after| -> Result<BTreeSet<Vec<u8>>, Error> {
        let all = differing(before, after, stop).map_err(err)?;
        Ok(all
            .into_iter()
            .filter(|c| c.kind != Kind::Dir || c.what == What::Removed)
            .map(|c| c.path)
            .collect())
    };
    let ours = changed(ours_before, (tree, at))?;
    let other = changed(theirs.0, theirs.1)?;
    // What both did alike is no conflict.
    let mut both = Vec::new();
    for path in other.into_iter().filter(|p| touches(&ours, p)) {
        stop.check()?;
        if file(tree, at, &path)? != file(theirs.1.0, theirs.1.1, &path)? {
            both.push(path);
        }
    }
    if conflict == Conflict::FailEarly && !both.is_empty() {
        return Err(conflicts(&both));
    }
    let mut contested = Vec::new();
    for path in both {
        let inner = patch::below(at, &path);
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
        stop.check()?;
        let base = file(ours_before.0, ours_before.1, &c.path)?;
        let their = file(theirs.1.0, theirs.1.1, &c.path)?;
        let to = patch::below(at, &c.path);
        let settled = match (&c.ours, &their) {
            (Some(our), Some(their)) => {
                let base = base.unwrap_or_default();
                match merged(&base, our, their, conflict) {
                    Some(merged) => Some(merged),
                    None => {
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

/// Both sides' versions of a file in one. `None` when they contradict each other and `conflict` does not settle it.
fn merged(base: &[u8], our: &[u8], their: &[u8], conflict: Conflict) -> Option<Vec<u8>> {
    if [base, our, their].iter().any(|side| patch::is_binary(side)) {
        return match conflict {
            Conflict::Ours => Some(our.to_vec()),
            Conflict::Theirs => Some(their.to_vec()),
            // There are no lines to put marks between.
            Conflict::Markers | Conflict::Fail | Conflict::FailEarly => None,
        };
    }
    let contested = match conflict {
        Conflict::Ours => lines::Contested::Ours,
        Conflict::Theirs => lines::Contested::Theirs,
        Conflict::Markers => lines::Contested::Marked,
        Conflict::Fail | Conflict::FailEarly => lines::Contested::Refused,
    };
    lines::merge(base, our, their, contested)
}

/// Is the path, or a directory it is in, among those?
fn touches(among: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
    among.contains(path)
        || path
            .iter()
            .enumerate()
            .any(|(i, b)| *b == b'/' && among.contains(&path[..i]))
}

fn conflicts(paths: &[Vec<u8>]) -> Error {
    let shown: Vec<_> = paths.iter().map(|p| String::from_utf8_lossy(p)).collect();
    Error::user(format!(
        "cannot merge the changes: both sides changed {}; choose with `onConflict` what to do",
        shown.join(", ")
    ))
}

/// A file's bytes; a link counts as the text it is. `None` when there is neither.
fn file(tree: &Tree, at: &str, path: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let path = patch::below(at, path);
    let read = match tree.lstat(&path).map_err(|e| tree_error(&e))? {
        Some(s) if s.kind == Kind::File => tree.read_file(&path, FILE_MAX),
        Some(s) if s.kind == Kind::Symlink => tree.read_link(&path),
        _ => return Ok(None),
    };
    read.map(Some).map_err(|e| tree_error(&e))
}
