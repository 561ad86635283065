//! The fields of `File`.

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

use crate::{
    Ctx,
    container::{owner, paths},
    directory::{self, File, Tree},
    dispatch::Binder,
    env_file::EnvFile,
    json::JsonValue,
    node::{Edit, Which},
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
    b.bind("File.chown", Memo::Session, chown);
    b.bind("File.withReplaced", Memo::Session, with_replaced);
    b.bind("File.asEnvFile", Memo::Session, |inv| async move {
        let text = text(&inv).await?;
        Ok(inv.object(EnvFile::parse(&text)?))
    });
    b.bind("File.asJSON", Memo::Session, |inv| async move {
        let text = text(&inv).await?;
        let name = paths::base_name(&inv.this::<File>()?.tree.path).to_owned();
        Ok(inv.object(JsonValue::parse(text.as_bytes(), &name)?))
    });
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

/// The lines from `offset` (counted from 1) on, at most `limit` of them.
fn lines(text: &str, offset: Option<i64>, limit: Option<i64>) -> Result<String, Error> {
    if let Some(bad) = [offset, limit].into_iter().flatten().find(|n| *n < 0) {
        return Err(Error::user(format!("line number {bad} is negative")));
    }
    let skip = usize::try_from(offset.unwrap_or(1).max(1) - 1).unwrap_or(usize::MAX);
    let take = limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    Ok(text.split_inclusive('\n').skip(skip).take(take).collect())
}

async fn contents(inv: Invocation<Ctx>) -> Answer {
    let (offset, limit) = (inv.args.int("offsetLines"), inv.args.int("limitLines"));
    let text = text(&inv).await?;
    Ok(match (offset, limit) {
        (None, None) => Value::string(text),
        _ => Value::string(lines(&text, offset, limit)?),
    })
}

async fn text(inv: &Invocation<Ctx>) -> Result<String, Error> {
    let bytes = inv
        .this::<File>()?
        .tree
        .read(&inv.ctx, |tree, path| tree.read_file(path, CONTENTS_MAX))
        .await?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// A file alone in a tree: what is done to it is done to nothing beside it.
fn alone(file: &File) -> Tree {
    let path = paths::join("/", paths::base_name(&file.tree.path));
    let copied = directory::copy_file(&Tree::empty(), file, path.clone(), None, None);
    Tree {
        output: copied.output,
        path: path.into(),
    }
}

async fn chown(inv: Invocation<Ctx>) -> Answer {
    let owner = owner::by_number(inv.args.str("owner"))?
        .ok_or_else(|| Error::user("`owner` is empty: give `user` or `user:group` by number"))?;
    let tree = alone(inv.this::<File>()?);
    let path = tree.path.to_string();
    Ok(inv.object(File {
        tree: tree.edited(Edit::Chown { path, owner }, vec![]),
    }))
}

async fn with_replaced(inv: Invocation<Ctx>) -> Answer {
    let tree = alone(inv.this::<File>()?);
    let which = match (inv.args.bool("all"), inv.args.int("firstFrom")) {
        (true, None) => Which::All,
        (true, Some(_)) => {
            return Err(Error::user("`all` and `firstFrom` cannot be used together"));
        }
        (false, Some(line)) => Which::FirstFrom(u64::try_from(line).unwrap_or(0).max(1)),
        (false, None) => Which::Only,
    };
    let edit = Edit::Replace {
        path: tree.path.to_string(),
        search: inv.args.str("search").to_owned(),
        replacement: inv.args.str("replacement").to_owned(),
        which,
    };
    Ok(inv.object(File {
        tree: tree.edited(edit, vec![]),
    }))
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
