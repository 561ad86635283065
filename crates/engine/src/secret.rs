//! Secrets: values that a session holds and nobody prints.

use std::sync::Arc;

use graph::{
    call::{Call, Digest, Literal},
    error::Error,
    resolve::{Invocation, Memo},
    value::{Object, Value},
};

use tokio::io::AsyncReadExt;
use wire::{
    LinkRequest,
    link::{FileBytes, read_status},
};

use crate::{Ctx, container::paths, dispatch::Binder, session::Client};

/// A secret's bytes. Has no `Display`; `Debug` shows nothing.
#[derive(Clone)]
pub struct Plaintext(Arc<[u8]>);

impl Plaintext {
    /// Takes the bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for the one place that needs them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret as pipelines pass it around: who it is, not what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The digest of its recipe; what a session finds the value by.
    pub id: Digest,
    /// What cached results know it by.
    pub key: Digest,
    /// The name it was set under; empty for one that is kept elsewhere.
    pub name: Arc<str>,
    /// Where its value is kept, when it was not set.
    pub uri: Option<Arc<str>>,
}

/// Where a secret's value can be got, and from whose machine.
#[derive(Clone)]
pub struct Source {
    /// `env://NAME`, `file://PATH`, `cmd://COMMAND`.
    uri: Arc<str>,
    client: Arc<Client>,
}

impl Secret {
    /// The value, if this session holds it.
    ///
    /// # Errors
    /// `secret not found: <id>`.
    pub fn value(&self, ctx: &Ctx) -> Result<Plaintext, Error> {
        ctx.session
            .secret(self.id)
            .ok_or_else(|| Error::user(format!("secret not found: {}", self.id)))
    }

    /// The value; one that is kept elsewhere is read from there the first time.
    ///
    /// # Errors
    /// `secret not found: <id>`, or why it could not be read.
    pub async fn fetch(&self, ctx: &Ctx) -> Result<Plaintext, Error> {
        if let Some(value) = ctx.session.secret(self.id) {
            return Ok(value);
        }
        let Some(source) = ctx.session.secret_source(self.id) else {
            return self.value(ctx);
        };
        let value = source
            .read()
            .await
            .map_err(|e| e.context(format!("cannot get secret {}", source.shown())))?;
        ctx.session.set_secret(self.id, value.clone());
        Ok(value)
    }
}

impl Source {
    /// The address as errors and names tell it: a command may hold what nobody should see.
    fn shown(&self) -> &str {
        match self.uri.starts_with("cmd://") {
            true => "cmd://…",
            false => &self.uri,
        }
    }

    async fn read(&self) -> Result<Plaintext, Error> {
        let request = match self.uri.split_once("://") {
            Some(("file", path)) => {
                let path = match path.strip_prefix("~/") {
                    // The client knows its home.
                    Some(_) => path.to_owned(),
                    None => paths::join(&self.client.info.workdir, path),
                };
                LinkRequest::SecretFile {
                    path: path.as_str().into(),
                }
            }
            Some(("env", name)) => LinkRequest::SecretVariable { name: name.into() },
            Some(("cmd", command)) => LinkRequest::SecretCommand {
                command: command.into(),
                workdir: self.client.info.workdir.as_str().into(),
            },
            other => {
                let what = other.map_or("it", |(scheme, _)| scheme);
                return Err(Error::user(format!(
                    "{what} is no place that secrets can be got from: use env://NAME, file://PATH or cmd://COMMAND"
                )));
            }
        };
        let refused = |e: wire::LinkError| crate::host::link_error(&e);
        let mut stream = self.client.link.open(request).await.map_err(refused)?;
        let about: FileBytes = read_status(&mut stream).await.map_err(refused)?;
        if about.size > SECRET_FILE_MAX {
            return Err(Error::user(format!(
                "it has {} bytes, more than the {SECRET_FILE_MAX} allowed",
                about.size
            )));
        }
        let mut bytes = Vec::new();
        stream
            .take(about.size)
            .read_to_end(&mut bytes)
            .await
            .map_err(|e| Error::environment(format!("cannot read it from the client: {e}")))?;
        Ok(Plaintext::new(bytes))
    }
}

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.sensitive("Query.setSecret", Memo::Never, &["plaintext"], set_secret);
    b.bind("Query.secret", Memo::Client, secret);
    b.bind("Secret.name", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Secret>()?.name.clone()))
    });
    b.bind("Secret.uri", Memo::Never, |inv| async move {
        let uri = inv.this::<Secret>()?.uri.clone();
        Ok(Value::String(uri.unwrap_or_default()))
    });
    b.bind("Secret.plaintext", Memo::Never, plaintext);
}

/// `secret(name:)`: the name alone finds nothing; whether there is a value shows when it is used.
async fn secret(inv: Invocation<Ctx>) -> Result<Value, Error> {
    if let Some(id) = inv.args.id("id") {
        return Ok(Value::Object(inv.ctx.load_object(id).await?));
    }
    if let Some(uri) = inv.args.opt_str("uri") {
        return kept_elsewhere(&inv, uri);
    }
    Ok(inv.object(Secret {
        id: inv.call.digest(),
        key: inv.call.digest(),
        name: inv.args.str("name").into(),
        uri: None,
    }))
}

/// `secret(uri:)`: read from the machine of the client that asked, when it is needed.
fn kept_elsewhere(inv: &Invocation<Ctx>, uri: &str) -> Result<Value, Error> {
    if !uri.contains("://") {
        return Err(Error::user(format!(
            "`{uri}` is no address of a secret: use env://NAME, file://PATH or cmd://COMMAND"
        )));
    }
    let missing = match uri.split_once("://") {
        Some((scheme, rest)) if rest.trim().is_empty() => match scheme {
            "env" => Some("names no variable: write env://NAME"),
            "file" => Some("names no file: write file://PATH"),
            "cmd" => Some("has no command: write cmd://COMMAND"),
            _ => None,
        },
        _ => None,
    };
    if let Some(missing) = missing {
        return Err(Error::user(format!("`{}` {missing}", uri.trim())));
    }
    let client = inv.ctx.client.clone();
    // The same address means something else on another machine.
    let mut id = inv.call.digest();
    if !Arc::ptr_eq(&client, &client.user()) {
        let mut bytes = id.0.to_le_bytes().to_vec();
        bytes.extend_from_slice(&client.key.to_le_bytes());
        id = Digest(xxhash_rust::xxh3::xxh3_128(&bytes));
    }
    let key = match inv.args.opt_str("cacheKey").filter(|k| !k.is_empty()) {
        Some(key) => Digest(xxhash_rust::xxh3::xxh3_128(
            format!("secret cache key\0{key}").as_bytes(),
        )),
        None => id,
    };
    let source = Source {
        uri: uri.into(),
        client,
    };
    inv.ctx.session.set_secret_source(id, source);
    Ok(inv.object(Secret {
        id,
        key,
        name: "".into(),
        uri: Some(uri.into()),
    }))
}

async fn plaintext(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let value = inv.this::<Secret>()?.fetch(&inv.ctx).await?;
    Ok(Value::string(String::from_utf8_lossy(value.reveal())))
}

/// Most bytes `setSecret` takes.
const SET_SECRET_MAX: usize = 128_000;
/// Most bytes `setSecretFile` takes.
pub const SECRET_FILE_MAX: u64 = 512_000;

/// `Query.setSecret`: the recipe it returns names the secret, never the value.
async fn set_secret(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let name = inv.args.str("name");
    // Loaded from its ID, which has no plaintext: whether the session holds the value shows when it is used.
    let Some(plaintext) = inv.args.opt_str("plaintext") else {
        return Ok(inv.object(Secret {
            id: inv.call.digest(),
            key: inv.call.digest(),
            name: name.into(),
            uri: None,
        }));
    };
    if plaintext.len() > SET_SECRET_MAX {
        return Err(Error::user(format!(
            "secret `{name}` is {} bytes; a secret set by value may have at most {SET_SECRET_MAX} bytes",
            plaintext.len()
        )));
    }
    Ok(store_secret(
        &inv.ctx,
        name,
        Plaintext::new(plaintext.as_bytes()),
    ))
}

/// Puts a value into the session and returns its object.
pub fn store_secret(ctx: &Ctx, name: &str, value: Plaintext) -> Value {
    let call = Call::new(
        None,
        "setSecret",
        vec![("name".into(), Literal::String(name.into()))],
        "Secret",
    );
    let secret = Secret {
        id: call.digest(),
        key: call.digest(),
        name: name.into(),
        uri: None,
    };
    ctx.session.set_secret(secret.id, value);
    Value::Object(Object::new("Secret", call, secret))
}
