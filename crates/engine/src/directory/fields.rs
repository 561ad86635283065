//! The fields of `Directory`.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

use super::{Directory, File, Tree, changes, check_name, check_target, export, search, stat};
use crate::{
    Ctx,
    container::{owner, paths},
    dispatch::Binder,
    node::{CopyKind, Edit},
};

type Answer = Result<Value, Error>;

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.bind("Query.directory", Memo::Session, query_directory);
    b.bind("Directory.sync", Memo::Never, sync);
    b.bind("Directory.entries", Memo::Never, entries);
    b.bind("Directory.glob", Memo::Never, glob);
    b.bind("Directory.digest", Memo::Never, digest);
    b.bind("Directory.directory", Memo::Session, directory);
    b.bind("Directory.file", Memo::Session, file);
    b.bind("Directory.withNewFile", Memo::Session, with_new_file);
    b.bind(
        "Directory.withNewDirectory",
        Memo::Session,
        with_new_directory,
    );
    b.bind("Directory.withFile", Memo::Session, with_file);
    b.bind("Directory.withFiles", Memo::Session, with_files);
    b.bind("Directory.withDirectory", Memo::Session, with_directory);
    b.bind("Directory.withoutFile", Memo::Session, without_path);
    b.bind("Directory.withoutFiles", Memo::Session, without_files);
    b.bind("Directory.withoutDirectory", Memo::Session, without_path);
    b.bind("Directory.withTimestamps", Memo::Session, with_timestamps);
    b.bind("Directory.diff", Memo::Session, diff);
    b.bind("Directory.export", Memo::Never, export::directory);
    b.bind("Directory.name", Memo::Never, |inv| async move {
        let dir = inv.this::<Directory>()?;
        Ok(Value::string(paths::base_name(&dir.tree.path)))
    });
    b.bind("Directory.filter", Memo::Session, filter);
    b.bind("Directory.chown", Memo::Session, chown);
    b.bind("Directory.withPatch", Memo::Session, with_patch);
    b.bind("Directory.withPatchFile", Memo::Session, with_patch_file);
    b.bind("Directory.withSymlink", Memo::Session, with_symlink);
    b.bind("Directory.withError", Memo::Session, with_error);
    changes::bind(b);
    search::bind(b);
    stat::bind(b);
    b.bind("Directory.pipeline", Memo::Session, |inv| async move {
        Ok(inv.object(inv.this::<Directory>()?.clone()))
    });
}

async fn query_directory(inv: Invocation<Ctx>) -> Answer {
    // Views below 0.10 load a directory this way.
    match inv.args.id("id") {
        Some(id) => Ok(Value::Object(inv.ctx.load_object(id).await?)),
        None => Ok(inv.object(Directory {
            tree: Tree::empty(),
        })),
    }
}

async fn sync(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    dir.tree.snapshot(&inv.ctx).await?;
    let call = &inv
        .this
        .as_ref()
        .ok_or_else(|| Error::internal("`sync` without a receiver"))?
        .call;
    Ok(Value::Id(call.clone()))
}

async fn entries(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let asked = inv.args.opt_str("path").unwrap_or("").to_owned();
    let place = Tree {
        output: dir.tree.output.clone(),
        path: dir.tree.clamped(&asked).into(),
    };
    let slash = inv.view >= graph::resolve::View::new(0, 17, 0);
    let names = place
        .read(&inv.ctx, move |tree, path| {
            let names = tree.entries(path)?;
            Ok(names
                .into_iter()
                .map(|e| {
                    let name = String::from_utf8_lossy(&e.name).into_owned();
                    if slash && e.is_dir() {
                        name + "/"
                    } else {
                        name
                    }
                })
                .collect::<Vec<_>>())
        })
        .await
        .map_err(|e| if asked.is_empty() { e } else { e.clone() })?;
    Ok(Value::strings(names))
}

async fn glob(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let pattern = inv.args.str("pattern").to_owned();
    let slash = inv.view >= graph::resolve::View::new(0, 17, 0);
    let found = dir
        .tree
        .read(&inv.ctx, move |tree, path| {
            Ok(tree
                .glob(path, &pattern)?
                .into_iter()
                .map(|e| {
                    let name = String::from_utf8_lossy(&e.name).into_owned();
                    if slash && e.is_dir() {
                        name + "/"
                    } else {
                        name
                    }
                })
                .collect::<Vec<_>>())
        })
        .await?;
    Ok(Value::strings(found))
}

async fn digest(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let digest = dir
        .tree
        .read(&inv.ctx, |tree, path| tree.digest(path))
        .await?;
    Ok(Value::string(digest))
}

/// `directory(path)` of a tree; looked at at once, so that a wrong path fails here.
pub(crate) async fn subdirectory(ctx: &Ctx, tree: &Tree, asked: &str) -> Result<Directory, Error> {
    let place = Tree {
        output: tree.output.clone(),
        path: tree.clamped(asked).into(),
    };
    let shown = shown_path(asked).to_owned();
    place
        .read(ctx, move |tree, path| tree.expect_dir(path, &shown))
        .await?;
    Ok(Directory { tree: place })
}

/// `file(path)` of a tree; looked at at once.
pub(crate) async fn subfile(ctx: &Ctx, tree: &Tree, asked: &str) -> Result<File, Error> {
    check_name(asked)?;
    let place = Tree {
        output: tree.output.clone(),
        path: tree.clamped(asked).into(),
    };
    let shown = shown_path(asked).to_owned();
    place
        .read(ctx, move |tree, path| tree.expect_file(path, &shown))
        .await?;
    Ok(File { tree: place })
}

/// How a path is named in an error.
fn shown_path(asked: &str) -> &str {
    if asked.is_empty() { "/" } else { asked }
}

async fn directory(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    Ok(inv.object(subdirectory(&inv.ctx, &dir.tree, inv.args.str("path")).await?))
}

async fn file(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    Ok(inv.object(subfile(&inv.ctx, &dir.tree, inv.args.str("path")).await?))
}

/// The mode of a new file: 0 means the default, set-id bits are dropped.
pub(crate) fn file_mode(permissions: Option<i64>) -> u32 {
    match permissions {
        Some(p) if p != 0 => (p & 0o777) as u32,
        _ => 0o644,
    }
}

async fn with_new_file(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let path = inv.args.str("path");
    check_name(path)?;
    let edit = Edit::WriteFile {
        path: dir.tree.clamped(path),
        contents: inv.args.str("contents").as_bytes().into(),
        mode: file_mode(inv.args.int("permissions")),
        owner: None,
    };
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![]),
    }))
}

async fn with_new_directory(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let path = inv.args.str("path");
    // `withNewFile` is clamped to the root; a directory outside is refused.
    if paths_outside(path) {
        return Err(Error::user(format!(
            "cannot create directory outside parent: {path}"
        )));
    }
    check_name(path)?;
    let mode = match inv.args.int("permissions") {
        Some(0) => 0o755,
        Some(p) => (p & 0o777) as u32,
        None => 0o644,
    };
    let edit = Edit::MakeDir {
        path: dir.tree.clamped(path),
        mode,
        owner: None,
    };
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![]),
    }))
}

/// Does the path, once cleaned, begin with `..`?
fn paths_outside(path: &str) -> bool {
    let mut depth = 0i64;
    if path.starts_with('/') {
        return false;
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

/// Where `withFile` puts a file: a path with a trailing slash names a directory of that name, and the file in it.
pub(crate) fn file_target(path: &str) -> String {
    if path.len() > 1 && path.ends_with('/') {
        format!("{path}{}", paths::base_name(path))
    } else {
        path.to_owned()
    }
}

/// A copy of one file to exactly `to`.
pub(crate) fn copy_file(
    tree: &Tree,
    file: &File,
    to: String,
    mode: Option<i64>,
    owner: Option<(u32, u32)>,
) -> Tree {
    let edit = Edit::Copy {
        kind: CopyKind::File,
        from: file.tree.path.to_string(),
        to,
        include: vec![],
        exclude: vec![],
        owner,
        mode: mode.map(|m| (m & 0o777) as u32),
        git_ignore: false,
    };
    tree.edited(edit, file.tree.output.clone().into_iter().collect())
}

/// A merge of a directory's contents into `to`.
pub(crate) fn copy_dir(
    tree: &Tree,
    source: &Directory,
    to: String,
    include: Vec<Arc<str>>,
    exclude: Vec<Arc<str>>,
    owner: Option<(u32, u32)>,
) -> Tree {
    Copy {
        source,
        include,
        exclude,
        git_ignore: false,
        owner,
        mode: None,
    }
    .into(tree, to)
}

/// A merge of a directory's contents, with all there is to say of it.
pub(crate) struct Copy<'a> {
    pub(crate) source: &'a Directory,
    pub(crate) include: Vec<Arc<str>>,
    pub(crate) exclude: Vec<Arc<str>>,
    /// Leave out, too, what `.gitignore` files name.
    pub(crate) git_ignore: bool,
    pub(crate) owner: Option<(u32, u32)>,
    /// Permission bits of everything that is copied.
    pub(crate) mode: Option<i64>,
}

impl Copy<'_> {
    /// Makes the copy at `to`, a path of the whole tree.
    pub(crate) fn into(self, tree: &Tree, to: String) -> Tree {
        if let Some(mode) = self.mode {
            // Everything copied gets the permissions, and nothing that is there already.
            let apart = Copy { mode: None, ..self }.into(&Tree::empty(), "/".to_owned());
            let edit = Edit::Chmod {
                path: "/".to_owned(),
                mode: (mode & 0o777) as u32,
            };
            let source = Directory {
                tree: apart.edited(edit, vec![]),
            };
            return Copy {
                source: &source,
                include: vec![],
                exclude: vec![],
                git_ignore: false,
                owner: self.owner,
                mode: None,
            }
            .into(tree, to);
        }
        let owned = |v: Vec<Arc<str>>| v.iter().map(|s| s.to_string()).collect();
        let edit = Edit::Copy {
            kind: CopyKind::Dir,
            from: self.source.tree.path.to_string(),
            to,
            include: owned(self.include),
            exclude: owned(self.exclude),
            owner: self.owner,
            mode: None,
            git_ignore: self.git_ignore,
        };
        tree.edited(edit, self.source.tree.output.clone().into_iter().collect())
    }
}

async fn with_file(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let path = inv.args.str("path");
    check_name(path)?;
    let source: File = inv
        .ctx
        .load(
            inv.args
                .id("source")
                .ok_or_else(|| Error::user("`source` is missing"))?,
        )
        .await?;
    let tree = copy_file(
        &dir.tree,
        &source,
        dir.tree.clamped(&file_target(path)),
        inv.args.int("permissions"),
        owner::by_number(inv.args.str("owner"))?,
    );
    Ok(inv.object(Directory { tree }))
}

async fn with_files(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let path = inv.args.str("path");
    let mut tree = dir.tree.clone();
    for id in inv.args.ids("sources") {
        let source: File = inv.ctx.load(&id).await?;
        let to = dir.tree.clamped(&paths::join(
            &paths::join("/", path),
            paths::base_name(&source.tree.path),
        ));
        tree = copy_file(&tree, &source, to, inv.args.int("permissions"), None);
    }
    Ok(inv.object(Directory { tree }))
}

async fn with_directory(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    // Views from 0.19 on call the argument `source`.
    let id = inv.args.id("directory").or_else(|| inv.args.id("source"));
    let source: Directory = inv
        .ctx
        .load(id.ok_or_else(|| Error::user("`directory` is missing"))?)
        .await?;
    let to = dir.tree.clamped(inv.args.str("path"));
    let tree = Copy {
        source: &source,
        include: inv.args.strings("include"),
        exclude: inv.args.strings("exclude"),
        git_ignore: inv.args.bool("gitignore"),
        owner: owner::by_number(inv.args.str("owner"))?,
        mode: inv.args.int("permissions"),
    }
    .into(&dir.tree, to);
    Ok(inv.object(Directory { tree }))
}

/// `filter`: a copy of a part.
async fn filter(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let tree = Copy {
        source: dir,
        include: inv.args.strings("include"),
        exclude: inv.args.strings("exclude"),
        git_ignore: inv.args.bool("gitignore"),
        owner: None,
        mode: None,
    }
    .into(&Tree::empty(), "/".to_owned());
    Ok(inv.object(Directory { tree }))
}

async fn chown(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let asked = inv.args.str("owner");
    let owner = owner::by_number(asked)?
        .ok_or_else(|| Error::user("`owner` is empty: give `user` or `user:group` by number"))?;
    let edit = Edit::Chown {
        path: dir.tree.clamped(inv.args.str("path")),
        owner,
    };
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![]),
    }))
}

async fn with_patch(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let edit = Edit::Patch {
        at: dir.tree.path.to_string(),
        patch: inv.args.str("patch").as_bytes().into(),
    };
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![]),
    }))
}

async fn with_patch_file(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let id = inv.args.id("patch");
    let patch: File = inv
        .ctx
        .load(id.ok_or_else(|| Error::user("`patch` is missing"))?)
        .await?;
    let edit = Edit::PatchFile {
        at: dir.tree.path.to_string(),
        file: patch.tree.path.to_string(),
    };
    Ok(inv.object(Directory {
        tree: dir.tree.edited_from(edit, vec![patch.tree.output]),
    }))
}

async fn with_symlink(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let link = inv.args.str("linkName");
    check_name(link)?;
    check_target(inv.args.str("target"))?;
    let edit = Edit::Symlink {
        target: inv.args.str("target").to_owned(),
        path: dir.tree.clamped(link),
    };
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![]),
    }))
}

async fn with_error(inv: Invocation<Ctx>) -> Answer {
    match inv.args.str("err") {
        "" => Ok(inv.object(inv.this::<Directory>()?.clone())),
        message => Err(Error::user(message)),
    }
}

/// Paths to remove, as patterns of the whole tree.
pub(crate) fn removal(tree: &Tree, asked: impl IntoIterator<Item = Arc<str>>) -> Edit {
    Edit::Remove {
        paths: asked.into_iter().map(|p| tree.clamped(&p)).collect(),
    }
}

async fn without_path(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let edit = removal(&dir.tree, [Arc::from(inv.args.str("path"))]);
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![]),
    }))
}

async fn without_files(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let edit = removal(&dir.tree, inv.args.strings("paths"));
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![]),
    }))
}

async fn with_timestamps(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let edit = Edit::SetTimes {
        path: dir.tree.path.to_string(),
        seconds: inv.args.int("timestamp").unwrap_or(0),
    };
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![]),
    }))
}

async fn diff(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let other: Directory = inv
        .ctx
        .load(
            inv.args
                .id("other")
                .ok_or_else(|| Error::user("`other` is missing"))?,
        )
        .await?;
    if dir.tree.path != other.tree.path {
        return Err(Error::user(format!(
            "cannot diff with different relative paths: {:?} != {:?}",
            dir.tree.path, other.tree.path
        )));
    }
    let Some(upper) = other.tree.output.clone() else {
        return Ok(inv.object(Directory {
            tree: Tree {
                output: None,
                path: dir.tree.path.clone(),
            },
        }));
    };
    let edit = Edit::Diff {
        path: dir.tree.path.to_string(),
    };
    Ok(inv.object(Directory {
        tree: dir.tree.edited(edit, vec![upper]),
    }))
}
