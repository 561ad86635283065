//! The fields of `File`.

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

use crate::{
    Ctx,
    container::paths,
    directory::{self, File, Tree},
    dispatch::Binder,
    node::Edit,
};

type Answer = Result<Value, Error>;

/// Largest file whose contents are answered, in bytes.
const CONTENTS_MAX: u64 = 128 << 20;

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.bind("Query.file", Memo::Session, query_file);
    b.bind("File.sync", Memo::Never, sync);
    b.bind("File.contents", Memo::Never, contents);
    b.bind("File.size", Memo::Never, size);
    b.bind("File.name", Memo::Never, name);
    b.bind("File.digest", Memo::Never, digest);
    b.bind("File.withName", Memo::Session, with_name);
    b.bind("File.withTimestamps", Memo::Session, with_timestamps);
    b.bind("File.export", Memo::Never, directory::export::file);
}

/// Below 0.10 `file(id:)` loads a file; from 0.21 on `file(name:, contents:)` makes one.
async fn query_file(inv: Invocation<Ctx>) -> Answer {
    if let Some(id) = inv.args.id("id") {
        return Ok(Value::Object(inv.ctx.load_object(id).await?));
    }
    let path = paths::join("/", inv.args.str("name"));
    directory::check_name(&path)?;
    let edit = Edit::WriteFile {
        path: path.clone(),
        contents: inv.args.str("contents").as_bytes().into(),
        mode: directory::file_mode(inv.args.int("permissions")),
        owner: None,
    };
    Ok(inv.object(File {
        tree: Tree {
            output: Tree::empty().edited(edit, vec![]).output,
            path: path.into(),
        },
    }))
}

async fn sync(inv: Invocation<Ctx>) -> Answer {
    inv.this::<File>()?.tree.snapshot(&inv.ctx).await?;
    let call = &inv
        .this
        .as_ref()
        .ok_or_else(|| Error::internal("`sync` without a receiver"))?
        .call;
    Ok(Value::Id(call.clone()))
}

async fn contents(inv: Invocation<Ctx>) -> Answer {
    let bytes = inv
        .this::<File>()?
        .tree
        .read(&inv.ctx, |tree, path| tree.read_file(path, CONTENTS_MAX))
        .await?;
    Ok(Value::string(String::from_utf8_lossy(&bytes)))
}

async fn size(inv: Invocation<Ctx>) -> Answer {
    let size = inv
        .this::<File>()?
        .tree
        .read(&inv.ctx, |tree, path| {
            Ok(tree.expect_file(path, path)?.size)
        })
        .await?;
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

async fn name(inv: Invocation<Ctx>) -> Answer {
    Ok(Value::string(paths::base_name(
        &inv.this::<File>()?.tree.path,
    )))
}

async fn digest(inv: Invocation<Ctx>) -> Answer {
    let exclude_metadata = inv.args.bool("excludeMetadata");
    let digest = inv
        .this::<File>()?
        .tree
        .read(&inv.ctx, move |tree, path| {
            tree.file_digest(path, exclude_metadata)
        })
        .await?;
    Ok(Value::string(digest))
}

async fn with_name(inv: Invocation<Ctx>) -> Answer {
    let file = inv.this::<File>()?;
    let path = paths::join("/", inv.args.str("name"));
    directory::check_name(&path)?;
    let copied = directory::copy_file(&Tree::empty(), file, path.clone(), None, None);
    Ok(inv.object(File {
        tree: Tree {
            output: copied.output,
            path: path.into(),
        },
    }))
}

async fn with_timestamps(inv: Invocation<Ctx>) -> Answer {
    let file = inv.this::<File>()?;
    // Only this file: it moves to a tree of its own, so that its siblings are not copied along.
    let path = paths::join("/", paths::base_name(&file.tree.path));
    let alone = directory::copy_file(&Tree::empty(), file, path.clone(), None, None);
    let edit = Edit::SetTimes {
        path: path.clone(),
        seconds: inv.args.int("timestamp").unwrap_or(0),
    };
    let dated = Tree {
        output: alone.output,
        path: path.into(),
    }
    .edited(edit, vec![]);
    Ok(inv.object(File { tree: dated }))
}
