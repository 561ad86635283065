//! `Changeset`: how a directory differs from an earlier one.

use std::sync::Arc;

use graph::{
    error::{Class, Error},
    resolve::{Invocation, Memo},
    value::Value,
};
use store::{Kind, What};

use super::{Directory, File, Tree, export, patch, tree_error};
use crate::{
    Ctx,
    dispatch::Binder,
    engine::Stop,
    node::{Conflict, Edit},
};

type Answer = Result<Value, Error>;

/// A directory and an earlier one.
#[derive(Debug, Clone)]
pub(crate) struct Changeset {
    before: Directory,
    after: Directory,
}

/// How much a file changed.
#[derive(Debug, Clone)]
struct DiffStat {
    path: Arc<str>,
    old_path: Option<Arc<str>>,
    kind: &'static str,
    added: u64,
    removed: u64,
}

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    b.bind("Query.changeset", Memo::Session, |inv| async move {
        let empty = Directory {
            tree: Tree::empty(),
        };
        Ok(inv.object(Changeset {
            before: empty.clone(),
            after: empty,
        }))
    });
    b.bind("Directory.changes", Memo::Session, |inv| async move {
        Ok(inv.object(Changeset {
            before: dir_arg(&inv, "from").await?,
            after: inv.this::<Directory>()?.clone(),
        }))
    });
    b.bind("Directory.withChanges", Memo::Session, with_changes);
    b.bind("Changeset.before", Memo::Session, |inv| async move {
        Ok(inv.object(inv.this::<Changeset>()?.before.clone()))
    });
    b.bind("Changeset.after", Memo::Session, |inv| async move {
        Ok(inv.object(inv.this::<Changeset>()?.after.clone()))
    });
    b.bind("Changeset.layer", Memo::Session, |inv| async move {
        let changes = inv.this::<Changeset>()?;
        Ok(inv.object(Directory {
            tree: changes.layer(),
        }))
    });
    b.bind("Changeset.addedPaths", Memo::Never, |inv| async move {
        paths_of(&inv, What::Added).await
    });
    b.bind("Changeset.modifiedPaths", Memo::Never, |inv| async move {
        paths_of(&inv, What::Modified).await
    });
    b.bind("Changeset.removedPaths", Memo::Never, |inv| async move {
        paths_of(&inv, What::Removed).await
    });
    b.bind("Changeset.isEmpty", Memo::Never, |inv| async move {
        let all = compare(&inv, |before, after, stop| {
            differing(before, after, stop).map_err(|e| tree_error(&e))
        });
        Ok(Value::Bool(all.await?.is_empty()))
    });
    b.bind("Changeset.asPatch", Memo::Session, as_patch);
    b.bind("Changeset.diffStats", Memo::Session, diff_stats);
    b.bind("Changeset.sync", Memo::Never, sync);
    b.bind("Changeset.export", Memo::Never, export_changes);
    b.bind("Changeset.withChangeset", Memo::Session, |inv| async move {
        let changes = inv.this::<Changeset>()?.clone();
        let id = inv.args.id("changes").cloned();
        merged(&inv, changes, id.into_iter().collect()).await
    });
    b.bind(
        "Changeset.withChangesets",
        Memo::Session,
        |inv| async move {
            let changes = inv.this::<Changeset>()?.clone();
            merged(&inv, changes, inv.args.ids("changes")).await
        },
    );
    b.bind("DiffStat.path", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<DiffStat>()?.path.clone()))
    });
    b.bind("DiffStat.oldPath", Memo::Never, |inv| async move {
        Ok(Value::opt_string(inv.this::<DiffStat>()?.old_path.clone()))
    });
    b.bind("DiffStat.kind", Memo::Never, |inv| async move {
        Ok(Value::Enum(inv.this::<DiffStat>()?.kind.into()))
    });
    b.bind("DiffStat.addedLines", Memo::Never, |inv| async move {
        Ok(count(inv.this::<DiffStat>()?.added))
    });
    b.bind("DiffStat.removedLines", Memo::Never, |inv| async move {
        Ok(count(inv.this::<DiffStat>()?.removed))
    });
}

fn count(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

async fn dir_arg(inv: &Invocation<Ctx>, name: &str) -> Result<Directory, Error> {
    let id = inv.args.id(name);
    inv.ctx
        .load(id.ok_or_else(|| Error::user(format!("`{name}` is missing")))?)
        .await
}

impl Changeset {
    /// What was added and modified.
    fn layer(&self) -> Tree {
        self.applied_to(&Tree::empty())
    }

    /// A place with these changes made.
    fn applied_to(&self, tree: &Tree) -> Tree {
        let edit = Edit::Changes {
            at: tree.path.to_string(),
            before: self.before.tree.path.to_string(),
            after: self.after.tree.path.to_string(),
        };
        let sources = vec![
            self.before.tree.output.clone(),
            self.after.tree.output.clone(),
        ];
        tree.edited_from(edit, sources)
    }
}

async fn with_changes(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let id = inv.args.id("changes");
    let changes: Changeset = inv
        .ctx
        .load(id.ok_or_else(|| Error::user("`changes` is missing"))?)
        .await?;
    Ok(inv.object(Directory {
        tree: changes.applied_to(&dir.tree),
    }))
}

/// A tree and a directory in it.
pub(super) type At<'a> = (&'a store::Tree, &'a str);

/// Makes both trees and runs `f` on them, on a thread that may block.
async fn compare<T, F>(inv: &Invocation<Ctx>, f: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(At<'_>, At<'_>, &Stop) -> Result<T, Error> + Send + 'static,
{
    let changes = inv.this::<Changeset>()?;
    let (before, after) = tokio::try_join!(
        changes.before.tree.snapshot(&inv.ctx),
        changes.after.tree.snapshot(&inv.ctx)
    )?;
    let (old, new) = (
        changes.before.tree.path.clone(),
        changes.after.tree.path.clone(),
    );
    inv.ctx
        .engine
        .stoppable(move |stop| {
            let environment = |e| Error::from_chain(Class::Environment, &e);
            let (before, after) = (
                before.tree().map_err(environment)?,
                after.tree().map_err(environment)?,
            );
            f((&before, &old), (&after, &new), stop)
        })
        .await
}

/// What differs, looked for as long as somebody waits.
pub(super) fn differing(
    before: At<'_>,
    after: At<'_>,
    stop: &Stop,
) -> Result<Vec<store::Change>, store::TreeError> {
    store::Tree::changes_until(&|| stop.stopped(), before, after)
}

/// A path as it is told: directories end with a slash.
fn shown(change: &store::Change) -> String {
    let path = String::from_utf8_lossy(&change.path).into_owned();
    if change.kind == Kind::Dir {
        path + "/"
    } else {
        path
    }
}

async fn paths_of(inv: &Invocation<Ctx>, what: What) -> Answer {
    let found = compare(inv, move |before, after, stop| {
        let all = differing(before, after, stop).map_err(|e| tree_error(&e))?;
        Ok(all
            .iter()
            .filter(|c| c.what == what)
            .map(shown)
            .collect::<Vec<_>>())
    })
    .await?;
    Ok(Value::strings(found))
}

/// A file that changed, with both its sides.
struct Changed {
    path: Vec<u8>,
    old: Option<patch::Side>,
    new: Option<patch::Side>,
}

/// All files that changed, sorted by path; those of removed directories too.
fn files(
    before: At<'_>,
    after: At<'_>,
    stop: &Stop,
    each: &mut dyn FnMut(Changed),
) -> Result<(), store::TreeError> {
    let mut tell = |path: Vec<u8>, what: What| -> Result<(), store::TreeError> {
        if stop.stopped() {
            return Err(store::TreeError::Stopped);
        }
        let side = |(tree, at): At<'_>, there: bool| match there {
            true => patch::side(tree, &patch::below(at, &path)),
            false => Ok(None),
        };
        let old = side(before, what != What::Added)?;
        let new = side(after, what != What::Removed)?;
        each(Changed { old, new, path });
        Ok(())
    };
    for change in differing(before, after, stop)? {
        if change.kind != Kind::Dir {
            tell(change.path, change.what)?;
        } else if change.what == What::Removed {
            let top = patch::below(before.1, &change.path);
            let mut inside = Vec::new();
            before.0.walk(&top, &mut |walked| {
                if !walked.stat.is_dir() {
                    inside.push([&change.path, &b"/"[..], walked.path].concat());
                }
                Ok(())
            })?;
            for path in inside {
                tell(path, What::Removed)?;
            }
        }
    }
    Ok(())
}

/// Most bytes of a patch.
const PATCH_MAX: usize = 256 << 20;
/// Name of the file a patch is.
const PATCH_NAME: &str = "/diff.patch";

async fn as_patch(inv: Invocation<Ctx>) -> Answer {
    let patch = compare(&inv, |before, after, stop| {
        let mut out = Vec::new();
        files(before, after, stop, &mut |c| {
            if out.len() < PATCH_MAX {
                patch::write(&mut out, &c.path, c.old.as_ref(), c.new.as_ref());
            }
        })
        .map_err(|e| tree_error(&e))?;
        if out.len() >= PATCH_MAX {
            return Err(Error::user(format!(
                "the changes are too large for a patch of {PATCH_MAX} bytes"
            )));
        }
        Ok(out)
    })
    .await?;
    let edit = Edit::WriteFile {
        path: PATCH_NAME.to_owned(),
        contents: patch.into(),
        mode: 0o644,
        owner: None,
    };
    Ok(inv.object(File {
        tree: Tree {
            output: Tree::empty().edited(edit, vec![]).output,
            path: PATCH_NAME.into(),
        },
    }))
}

async fn diff_stats(inv: Invocation<Ctx>) -> Answer {
    let stats = compare(&inv, |before, after, stop| {
        let (mut stats, mut gone, mut come) = (Vec::new(), Vec::new(), Vec::new());
        files(before, after, stop, &mut |c| {
            let (added, removed) = patch::counts(c.old.as_ref(), c.new.as_ref());
            let kind = match (&c.old, &c.new) {
                (None, _) => "ADDED",
                (_, None) => "REMOVED",
                _ => "MODIFIED",
            };
            // Equal contents are told by their digest: the files themselves need not be kept.
            let digest = |side: &Option<patch::Side>| {
                side.as_ref()
                    .filter(|s| !s.is_empty())
                    .map(|s| (s.mode, s.digest()))
            };
            match kind {
                "ADDED" => come.push((stats.len(), digest(&c.new))),
                "REMOVED" => gone.push((stats.len(), digest(&c.old))),
                _ => {}
            }
            stats.push(Some(DiffStat {
                path: String::from_utf8_lossy(&c.path).into(),
                old_path: None,
                kind,
                added,
                removed,
            }));
        })
        .map_err(|e| tree_error(&e))?;
        // What went from one path and came with the same content at another was renamed.
        for (at, digest) in gone {
            let Some(to) = come.iter().position(|(_, d)| d.is_some() && *d == digest) else {
                continue;
            };
            let (to, _) = come.swap_remove(to);
            let old = stats.get_mut(at).and_then(Option::take);
            if let (Some(old), Some(Some(stat))) = (old, stats.get_mut(to)) {
                stat.kind = "RENAMED";
                stat.old_path = Some(old.path);
                (stat.added, stat.removed) = (0, 0);
            }
        }
        Ok(stats.into_iter().flatten().collect::<Vec<_>>())
    })
    .await?;
    Ok(inv.objects(stats))
}

async fn sync(inv: Invocation<Ctx>) -> Answer {
    compare(&inv, |_, _, _| Ok(())).await?;
    let this = inv
        .this
        .as_ref()
        .ok_or_else(|| Error::internal("`sync` without a receiver"))?;
    Ok(Value::Id(this.call.clone()))
}

async fn export_changes(inv: Invocation<Ctx>) -> Answer {
    let removed = compare(&inv, |before, after, stop| {
        let all = differing(before, after, stop).map_err(|e| tree_error(&e))?;
        Ok(all
            .into_iter()
            .filter(|c| c.what == What::Removed)
            .map(|c| wire::RawPath(c.path))
            .collect::<Vec<_>>())
    })
    .await?;
    let layer = inv.this::<Changeset>()?.layer();
    export::changes(&inv, layer, removed).await
}

/// These changes with others merged in, one after another.
async fn merged(
    inv: &Invocation<Ctx>,
    mut changes: Changeset,
    others: Vec<Arc<graph::call::Call>>,
) -> Answer {
    let conflict = match inv.args.str("onConflict") {
        "FAIL_EARLY" => Conflict::FailEarly,
        "LEAVE_CONFLICT_MARKERS" => Conflict::Markers,
        "PREFER_OURS" => Conflict::Ours,
        "PREFER_THEIRS" => Conflict::Theirs,
        _ => Conflict::Fail,
    };
    for id in others {
        let other: Changeset = inv.ctx.load(&id).await?;
        let at = |d: &Directory| d.tree.path.to_string();
        let edit = Edit::Merge {
            at: at(&changes.after),
            before: at(&other.before),
            after: at(&other.after),
            base: at(&changes.before),
            conflict,
        };
        let sources = vec![
            other.before.tree.output.clone(),
            other.after.tree.output.clone(),
            changes.before.tree.output.clone(),
        ];
        changes.after.tree = changes.after.tree.edited_from(edit, sources);
    }
    Ok(inv.object(changes))
}
