//! The fields of `Host`.

use std::sync::Arc;

use graph::{
    call::{Call, Literal},
    error::Error,
    resolve::{Invocation, Memo},
    value::{Object, Value},
};
use tokio::io::AsyncReadExt;
use wire::{
    LinkRequest,
    link::{FileBytes, PathKind, PathStat, read_status},
};

use super::{
    socket,
    upload::{self, Uploaded, Wanted, link_error},
};
use crate::{
    Ctx,
    container::paths,
    directory::{Directory, File, Tree, check_name, subfile},
    dispatch::Binder,
    node::Node,
    secret::{Plaintext, SECRET_FILE_MAX, store_secret},
};

type Answer = Result<Value, Error>;

/// The client's machine: a handle without content.
#[derive(Debug, Clone)]
pub struct Host;

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.bind("Query.host", Memo::Session, |inv| async move {
        Ok(inv.object(Host))
    });
    b.bind("Query.blob", Memo::Session, blob);
    b.bind("Host.directory", Memo::ClientUnless("noCache"), directory);
    b.bind("Host.file", Memo::ClientUnless("noCache"), file);
    b.bind("Host.findUp", Memo::ClientUnless("noCache"), find_up);
    b.bind("Host.setSecretFile", Memo::Never, set_secret_file);
    b.bind("Host.unixSocket", Memo::Client, unix_socket);
    b.bind("Query.socket", Memo::Session, socket_by_id);
}

/// A path of the client's machine: absolute ones as they are, relative ones below its working directory.
pub(crate) fn client_path(ctx: &Ctx, path: &str) -> Result<String, Error> {
    if path.starts_with('/') {
        return Ok(paths::join("/", path));
    }
    let mut depth = 0i32;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return Err(Error::user(format!(
                "path {path:?} escapes workdir; use an absolute path instead"
            )));
        }
    }
    Ok(paths::join(&ctx.client.info.workdir, path))
}

/// The ID of an uploaded tree: by content, so that it is the same wherever the same files are.
fn uploaded_object(uploaded: Uploaded) -> Object {
    let text = |s: &str| Literal::String(s.into());
    let args = vec![
        ("digest".into(), text(&uploaded.digest)),
        ("mediaType".into(), text("application/vnd.bodkin.tree")),
        ("size".into(), Literal::Int(0)),
        ("uncompressed".into(), text(&uploaded.digest)),
    ];
    let call = Call::new(None, "blob", args, "Directory");
    Object::new(
        "Directory",
        call,
        Directory {
            tree: Tree::root(uploaded.output),
        },
    )
}

async fn blob(inv: Invocation<Ctx>) -> Answer {
    let digest = inv.args.str("digest");
    // Told to whoever needs the files: a recipe that mentions them may not.
    let output = match upload::known(&inv.ctx.engine.store, digest) {
        Some(snapshot) => Node::given(digest, snapshot),
        None => Node::failed(Error::user(format!(
            "the directory {digest} is not in this engine's store any more: ask for it again with `host.directory`"
        ))),
    };
    Ok(inv.object(Directory {
        tree: Tree::root(output),
    }))
}

fn owned(list: Vec<Arc<str>>) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

async fn directory(inv: Invocation<Ctx>) -> Answer {
    let path = client_path(&inv.ctx, inv.args.str("path"))?;
    let wanted = Wanted {
        path,
        include: owned(inv.args.strings("include")),
        exclude: owned(inv.args.strings("exclude")),
        git_ignore: inv.args.bool("gitignore"),
    };
    let uploaded = upload::upload(&inv.ctx, &wanted).await?;
    Ok(Value::Object(uploaded_object(uploaded)))
}

/// A name as a pattern that matches nothing else.
fn literal_pattern(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '!' | '#') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

async fn file(inv: Invocation<Ctx>) -> Answer {
    let asked = inv.args.str("path");
    check_name(asked)?;
    let path = client_path(&inv.ctx, asked)?;
    let name = paths::base_name(&path).to_owned();
    let parent = paths::join(&path, "..");
    let wanted = Wanted {
        path: parent,
        include: vec![literal_pattern(&name)],
        exclude: vec![],
        git_ignore: false,
    };
    let object = uploaded_object(upload::upload(&inv.ctx, &wanted).await?);
    let dir = object
        .get::<Directory>()
        .ok_or_else(|| Error::internal("an upload that is no directory"))?;
    let file: File = match subfile(&inv.ctx, &dir.tree, &name).await {
        Ok(file) => file,
        Err(e) => {
            let e = not_a_file(&inv.ctx, &path).await.unwrap_or(e);
            return Err(e.context(format!("cannot upload {path}")));
        }
    };
    let call = Call::new(
        Some(object.call.clone()),
        "file",
        vec![("path".into(), Literal::String(name.into()))],
        "File",
    );
    Ok(Value::Object(Object::new("File", call, file)))
}

/// Looks at a path of the client's machine, links as they are.
async fn stat(ctx: &Ctx, path: &str) -> Result<PathStat, wire::LinkError> {
    let request = LinkRequest::Stat {
        path: path.into(),
        follow: false,
    };
    let mut stream = ctx.client.link.open(request).await?;
    read_status(&mut stream).await
}

/// What is wrong with a path of the client's that is there and gave no file; `None` when that is not known.
async fn not_a_file(ctx: &Ctx, path: &str) -> Option<Error> {
    let what = match stat(ctx, path).await.ok()?.kind {
        PathKind::Dir | PathKind::File => return None,
        PathKind::Symlink => {
            "it is a symbolic link to nothing inside its directory: name the file that is meant"
        }
        PathKind::Socket => "it is a socket: pass it with `host.unixSocket`",
        PathKind::Other => "it is a pipe or a device, not a regular file",
    };
    Some(Error::user(what))
}

/// `findUp`: from the client's working directory up to the root.
async fn find_up(inv: Invocation<Ctx>) -> Answer {
    let name = inv.args.str("name");
    if name.is_empty() || name.contains('/') {
        return Err(Error::user(format!("`{name}` is no name to look for")));
    }
    let mut at = paths::join("/", &inv.ctx.client.info.workdir);
    loop {
        let path = paths::join(&at, name);
        match stat(&inv.ctx, &path).await {
            Ok(_) => return Ok(Value::string(path)),
            Err(e) if e.kind == wire::LinkErrorKind::NotFound => {}
            Err(e) => return Err(link_error(&e)),
        }
        if at == "/" {
            return Ok(Value::Null);
        }
        at = paths::join(&at, "..");
    }
}

async fn set_secret_file(inv: Invocation<Ctx>) -> Answer {
    let path = client_path(&inv.ctx, inv.args.str("path"))?;
    let request = LinkRequest::ReadFile {
        path: path.as_str().into(),
        max: SECRET_FILE_MAX,
    };
    let mut stream = inv
        .ctx
        .client
        .link
        .open(request)
        .await
        .map_err(|e| link_error(&e))?;
    let about: FileBytes = read_status(&mut stream).await.map_err(|e| link_error(&e))?;
    if about.size > SECRET_FILE_MAX {
        return Err(Error::user(format!(
            "secret file {path} is larger than {SECRET_FILE_MAX} bytes"
        )));
    }
    let mut bytes = Vec::new();
    stream
        .take(about.size)
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| Error::environment(format!("cannot read secret file {path}: {e}")))?;
    Ok(store_secret(
        &inv.ctx,
        inv.args.str("name"),
        Plaintext::new(bytes),
    ))
}

async fn unix_socket(inv: Invocation<Ctx>) -> Answer {
    let path = client_path(&inv.ctx, inv.args.str("path"))?;
    Ok(Value::Object(socket::object(&inv.ctx, &path)))
}

async fn socket_by_id(inv: Invocation<Ctx>) -> Answer {
    let id = inv
        .args
        .id("id")
        .ok_or_else(|| Error::user("`id` is missing"))?;
    Ok(Value::Object(inv.ctx.load_object(id).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_patterns_of_themselves() {
        assert_eq!(literal_pattern("a*b[1]"), "a\\*b\\[1\\]");
    }
}
