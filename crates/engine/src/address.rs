//! `Address`: a text that a user gave, read as whatever is asked of it.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Args, Invocation, Memo},
    value::{Object, Value},
};

use crate::{Ctx, dispatch::Binder};

type Answer = Result<Value, Error>;

/// The text.
#[derive(Debug, Clone)]
struct Address(Arc<str>);

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    b.bind("Query.address", Memo::Session, |inv| async move {
        Ok(inv.object(Address(inv.args.str("value").into())))
    });
    b.bind("Address.value", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Address>()?.0.clone()))
    });
    b.bind("Address.container", Memo::Session, |inv| async move {
        let container = object(root(&inv, "container", vec![]).await?)?;
        select(&inv, &container, "from", vec![("address", text(&inv)?)]).await
    });
    b.bind("Address.secret", Memo::Client, |inv| async move {
        root(&inv, "secret", vec![("uri", text(&inv)?)]).await
    });
    b.bind(
        "Address.directory",
        Memo::ClientUnless("noCache"),
        directory,
    );
    b.bind("Address.file", Memo::ClientUnless("noCache"), file);
    b.bind("Address.socket", Memo::Client, |inv| async move {
        let path = inv.this::<Address>()?.0.clone();
        let path = path.strip_prefix("unix://").unwrap_or(&path).to_owned();
        let host = host(&inv).await?;
        select(
            &inv,
            &host,
            "unixSocket",
            vec![("path", Value::string(path))],
        )
        .await
    });
    b.bind("Address.service", Memo::Client, service);
    b.bind("Address.gitRepository", Memo::Session, |inv| async move {
        let (url, _) = git_parts(&inv.this::<Address>()?.0);
        root(&inv, "git", vec![("url", Value::string(url))]).await
    });
    b.bind("Address.gitRef", Memo::Session, |inv| async move {
        let (url, fragment) = git_parts(&inv.this::<Address>()?.0);
        git_ref(&inv, url, fragment.map(|f| f.0)).await
    });
}

fn text(inv: &Invocation<Ctx>) -> Answer {
    Ok(Value::String(inv.this::<Address>()?.0.clone()))
}

fn object(value: Value) -> Result<Object, Error> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Error::internal("a field that gives no object")),
    }
}

fn args(list: Vec<(&str, Value)>) -> Args {
    Args(list.into_iter().map(|(n, v)| (n.into(), v)).collect())
}

/// A field of `Query`.
async fn root(inv: &Invocation<Ctx>, field: &str, list: Vec<(&str, Value)>) -> Answer {
    let solver = &inv.ctx.session.solver;
    solver
        .select(&inv.ctx, inv.view, None, field, args(list))
        .await
}

/// A field of an object.
async fn select(
    inv: &Invocation<Ctx>,
    of: &Object,
    field: &str,
    list: Vec<(&str, Value)>,
) -> Answer {
    let solver = &inv.ctx.session.solver;
    solver
        .select(&inv.ctx, inv.view, Some(of), field, args(list))
        .await
}

async fn host(inv: &Invocation<Ctx>) -> Result<Object, Error> {
    object(root(inv, "host", vec![]).await?)
}

/// Does the text name a Git repository and not a path?
fn is_git(text: &str) -> bool {
    let (url, _) = text.split_once('#').unwrap_or((text, ""));
    let scheme = ["https://", "http://", "ssh://", "git://"];
    scheme.iter().any(|s| url.starts_with(s))
        || (url.starts_with("git@") && url.contains(':'))
        || (!url.starts_with(['.', '/']) && url.ends_with(".git"))
}

/// The repository's URL, and what follows `#`: a ref and a path in its tree.
fn git_parts(text: &str) -> (&str, Option<(&str, &str)>) {
    match text.split_once('#') {
        Some((url, fragment)) => {
            let (name, path) = fragment.split_once(':').unwrap_or((fragment, ""));
            (url, Some((name, path)))
        }
        None => (text, None),
    }
}

async fn git_ref(inv: &Invocation<Ctx>, url: &str, name: Option<&str>) -> Answer {
    let repository = object(root(inv, "git", vec![("url", Value::string(url))]).await?)?;
    match name.filter(|n| !n.is_empty()) {
        Some(name) => select(inv, &repository, "ref", vec![("name", Value::string(name))]).await,
        None => select(inv, &repository, "head", vec![]).await,
    }
}

/// The arguments that both files and directories of the client's machine take.
fn selection(inv: &Invocation<Ctx>) -> Vec<(&'static str, Value)> {
    ["exclude", "include", "gitignore", "noCache"]
        .into_iter()
        .map(|name| (name, inv.args.get(name).clone()))
        .filter(|(_, v)| !v.is_null())
        .collect()
}

async fn directory(inv: Invocation<Ctx>) -> Answer {
    let address = inv.this::<Address>()?.0.clone();
    if is_git(&address) {
        let (url, fragment) = git_parts(&address);
        let found = object(git_ref(&inv, url, fragment.map(|f| f.0)).await?)?;
        let mut tree = object(select(&inv, &found, "tree", vec![]).await?)?;
        if let Some((_, path)) = fragment.filter(|f| !f.1.is_empty()) {
            tree = object(
                select(
                    &inv,
                    &tree,
                    "directory",
                    vec![("path", Value::string(path))],
                )
                .await?,
            )?;
        }
        let mut filter = selection(&inv);
        filter.retain(|(n, _)| *n != "noCache");
        return select(&inv, &tree, "filter", filter).await;
    }
    let mut list = selection(&inv);
    list.push(("path", local(&address)));
    let host = host(&inv).await?;
    select(&inv, &host, "directory", list).await
}

async fn file(inv: Invocation<Ctx>) -> Answer {
    let address = inv.this::<Address>()?.0.clone();
    if is_git(&address) {
        let (url, fragment) = git_parts(&address);
        let Some((name, path)) = fragment.filter(|f| !f.1.is_empty()) else {
            return Err(Error::user(format!(
                "`{address}` names no file: write the repository's URL, `#`, a ref, `:` and the path"
            )));
        };
        let found = object(git_ref(&inv, url, Some(name)).await?)?;
        let tree = object(select(&inv, &found, "tree", vec![]).await?)?;
        return select(&inv, &tree, "file", vec![("path", Value::string(path))]).await;
    }
    let mut list = vec![("path", local(&address))];
    list.extend(selection(&inv).into_iter().filter(|(n, _)| *n == "noCache"));
    let host = host(&inv).await?;
    select(&inv, &host, "file", list).await
}

/// A path of the client's machine.
fn local(address: &str) -> Value {
    Value::string(address.strip_prefix("file://").unwrap_or(address))
}

async fn service(inv: Invocation<Ctx>) -> Answer {
    let address = inv.this::<Address>()?.0.clone();
    let bad = || {
        Error::user(format!(
            "`{address}` is no address of a service: write `tcp://host:port` or `udp://host:port`"
        ))
    };
    let (scheme, rest) = address.split_once("://").ok_or_else(bad)?;
    let protocol = match scheme {
        "tcp" => "TCP",
        "udp" => "UDP",
        _ => return Err(bad()),
    };
    let (name, port) = rest.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    let forward = Value::Input(vec![
        ("frontend".into(), Value::Int(port.into())),
        ("backend".into(), Value::Int(port.into())),
        ("protocol".into(), Value::Enum(protocol.into())),
    ]);
    let host = host(&inv).await?;
    let list = vec![
        ("host", Value::string(name)),
        ("ports", Value::List(vec![forward])),
    ];
    select(&inv, &host, "service", list).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_paths() {
        for text in [
            "https://github.com/a/b",
            "git@github.com:a/b",
            "github.com/a/b.git#v1:sub",
        ] {
            assert!(is_git(text), "{text}");
        }
        for text in [".", "./a.git", "/a/b.git", "src", "github.com/a/b"] {
            assert!(!is_git(text), "{text}");
        }
        assert_eq!(git_parts("u#v1:a/b"), ("u", Some(("v1", "a/b"))));
        assert_eq!(git_parts("u"), ("u", None));
    }
}
