//! Secrets: values that a session holds and nobody prints.

use std::sync::Arc;

use graph::{
    call::{Call, Digest, Literal},
    error::Error,
    resolve::{Invocation, Memo},
    value::{Object, Value},
};

use crate::{Ctx, dispatch::Binder};

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
    /// The name it was set under.
    pub name: Arc<str>,
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
}

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.sensitive("Query.setSecret", Memo::Never, &["plaintext"], set_secret);
    b.bind("Query.secret", Memo::Session, secret);
    b.bind("Secret.name", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Secret>()?.name.clone()))
    });
    b.bind("Secret.plaintext", Memo::Never, plaintext);
}

/// `secret(name:)`: the name alone finds nothing; whether there is a value shows when it is used.
async fn secret(inv: Invocation<Ctx>) -> Result<Value, Error> {
    if let Some(id) = inv.args.id("id") {
        return Ok(Value::Object(inv.ctx.load_object(id).await?));
    }
    Ok(inv.object(Secret {
        id: inv.call.digest(),
        name: inv.args.str("name").into(),
    }))
}

async fn plaintext(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let value = inv.this::<Secret>()?.value(&inv.ctx)?;
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
            name: name.into(),
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
        name: name.into(),
    };
    ctx.session.set_secret(secret.id, value);
    Value::Object(Object::new("Secret", call, secret))
}
