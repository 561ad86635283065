//! `stat`, `exists` and `findUp`: looking at what is at a path.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Args, Invocation, Memo},
    value::Value,
};
use store::Kind;

use super::{Directory, File, Tree};
use crate::{Ctx, container::paths, dispatch::Binder};

type Answer = Result<Value, Error>;

/// What `stat` tells.
#[derive(Debug, Clone)]
pub(crate) struct Stat {
    name: Arc<str>,
    kind: Kind,
    mode: u32,
    size: u64,
}

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    b.bind("Directory.stat", Memo::Session, |inv| async move {
        let dir = inv.this::<Directory>()?;
        let path = inv.args.str("path").to_owned();
        let found = look(&inv.ctx, &dir.tree, &path, follow(&inv.args)).await?;
        answer(&inv, found, &path)
    });
    b.bind("Directory.exists", Memo::Never, |inv| async move {
        let dir = inv.this::<Directory>()?;
        let found = look(&inv.ctx, &dir.tree, inv.args.str("path"), follow(&inv.args)).await?;
        Ok(exists(found, &inv.args))
    });
    b.bind("Directory.findUp", Memo::Never, find_up);
    b.bind("File.stat", Memo::Session, |inv| async move {
        let file = inv.this::<File>()?;
        let found = look(&inv.ctx, &file.tree, "", true).await?;
        answer(&inv, found, &file.tree.path)
    });
    b.bind("Stat.name", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Stat>()?.name.clone()))
    });
    b.bind("Stat.permissions", Memo::Never, |inv| async move {
        Ok(Value::Int(i64::from(inv.this::<Stat>()?.mode & 0o777)))
    });
    b.bind("Stat.size", Memo::Never, |inv| async move {
        let size = inv.this::<Stat>()?.size;
        Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
    });
    b.bind("Stat.fileType", Memo::Never, |inv| async move {
        let name = match inv.this::<Stat>()?.kind {
            Kind::File => "REGULAR",
            Kind::Dir => "DIRECTORY",
            Kind::Symlink => "SYMLINK",
            _ => "UNKNOWN",
        };
        Ok(Value::Enum(name.into()))
    });
}

/// Are links to be followed?
pub(crate) fn follow(args: &Args) -> bool {
    !args.bool("doNotFollowSymlinks")
}

/// What is at a path below a place.
pub(crate) async fn look(
    ctx: &Ctx,
    tree: &Tree,
    path: &str,
    follow: bool,
) -> Result<Option<Stat>, Error> {
    let place = Tree {
        output: tree.output.clone(),
        path: tree.clamped(path).into(),
    };
    place
        .read(ctx, move |tree, path| {
            let found = if follow {
                tree.stat(path)?
            } else {
                tree.lstat(path)?
            };
            Ok(found.map(|s| Stat {
                name: paths::base_name(path).into(),
                kind: s.kind,
                mode: s.mode,
                size: s.size,
            }))
        })
        .await
}

/// A `Stat`, or an error when there is nothing at the path.
pub(crate) fn answer(inv: &Invocation<Ctx>, found: Option<Stat>, path: &str) -> Answer {
    match found {
        Some(stat) => Ok(inv.object(stat)),
        None => Err(Error::user(format!("{path}: no such file or directory"))),
    }
}

/// Whether something is there, of the kind that is expected.
pub(crate) fn exists(found: Option<Stat>, args: &Args) -> Value {
    Value::Bool(found.is_some_and(|s| match args.opt_str("expectedType") {
        None | Some("") => true,
        Some("REGULAR_TYPE") => s.kind == Kind::File,
        Some("DIRECTORY_TYPE") => s.kind == Kind::Dir,
        Some("SYMLINK_TYPE") => s.kind == Kind::Symlink,
        Some(_) => false,
    }))
}

async fn find_up(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let name = inv.args.str("name").to_owned();
    if name.is_empty() || name.contains('/') {
        return Err(Error::user(format!("`{name}` is no name to look for")));
    }
    let start = paths::join("/", inv.args.str("start"));
    let top = dir.tree.path.to_string();
    let found = dir
        .tree
        .read(&inv.ctx, move |tree, _| {
            let mut at = start;
            loop {
                let path = paths::join(&at, &name);
                if tree
                    .lstat(paths::join(&top, path.trim_start_matches('/')))?
                    .is_some()
                {
                    return Ok(Some(path.trim_start_matches('/').to_owned()));
                }
                if at == "/" {
                    return Ok(None);
                }
                at = paths::join(&at, "..");
            }
        })
        .await?;
    Ok(Value::opt_string(found))
}
