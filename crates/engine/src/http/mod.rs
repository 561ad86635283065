//! Files fetched over HTTP.
//!
//! A file is fetched when it is asked for, once per session and address, and known by its content: what is made of it is
//! found again in the cache whichever address it came from the next time. What the server said of it (`ETag`,
//! `Last-Modified`) is kept, so that the next session only asks whether it has changed. A file that cannot be had is told to
//! those who want its content, not to those who only name it.

mod address;
mod client;
mod error;
mod fetch;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

pub use self::{address::Checksum, error::FetchError};
use self::{
    address::{Address, check_file_name},
    client::{Limits, Pool},
};
use crate::{
    Ctx,
    directory::{File, Tree},
    dispatch::Binder,
    flight::Flights,
    node::{Key, KeyHasher, Node, Output},
    secret::Secret,
    service::Service,
};

/// Mode of a fetched file unless one is asked for.
pub const MODE: u32 = 0o600;
/// Files remembered per session; more are asked for again.
const SEEN_MAX: usize = 4096;

/// A file to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// From where.
    pub url: String,
    /// Its name; the address's last part when absent.
    pub name: Option<String>,
    /// Permission bits.
    pub mode: u32,
    /// What it must be.
    pub checksum: Option<Checksum>,
    /// The value of an `Authorization` header.
    pub authorization: Option<Secret>,
    /// Who serves it.
    pub service: Option<Service>,
}

/// A file that has been fetched.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The file, alone in a tree that is named by its content.
    pub file: File,
    /// SHA-256 of the content in hex.
    pub sha256: Arc<str>,
}

/// What a session has fetched, and its connections.
#[derive(Debug, Default)]
pub struct Seen {
    done: Mutex<HashMap<Key, Fetched>>,
    running: Flights<Key, Result<Fetched, Error>>,
    pool: Pool,
    limits: OnceLock<Limits>,
}

impl Seen {
    fn done(&self) -> MutexGuard<'_, HashMap<Key, Fetched>> {
        crate::lock(&self.done)
    }

    fn limits(&self) -> Limits {
        *self.limits.get_or_init(Limits::default)
    }

    /// Lets go of everything.
    pub fn forget(&self) {
        self.done().clear();
        self.pool.forget();
    }
}

/// A [`Wanted`] that makes sense.
#[derive(Debug, Clone)]
struct Plan {
    address: Address,
    name: String,
    mode: u32,
    checksum: Option<Checksum>,
    authorization: Option<Secret>,
    service: Option<Service>,
}

impl Plan {
    fn of(wanted: Wanted) -> Result<Self, FetchError> {
        let address = Address::parse(&wanted.url)?;
        let name = match wanted.name.filter(|n| !n.is_empty()) {
            Some(name) => {
                check_file_name(&name)?;
                name
            }
            None => address.file_name(),
        };
        Ok(Self {
            address,
            name,
            mode: wanted.mode & 0o777,
            checksum: wanted.checksum,
            authorization: wanted.authorization,
            service: wanted.service,
        })
    }

    /// What one session asks once.
    fn question(&self) -> Key {
        let mut h = KeyHasher::new("http");
        h.str(self.address.url.as_str())
            .str(&self.name)
            .num(u64::from(self.mode))
            .str(&self.source());
        h.str(
            &self
                .checksum
                .as_ref()
                .map(Checksum::to_string)
                .unwrap_or_default(),
        );
        h.finish()
    }

    /// Whom it comes from and who asks, beside the address.
    fn source(&self) -> String {
        let secret = self.authorization.as_ref().map(|s| s.id.to_string());
        let service = self.service.as_ref().map(|s| s.id.to_string());
        let user = self.address.login.as_ref().map(|(user, _)| user.clone());
        format!("{secret:?} {service:?} {user:?}")
    }

    /// The name of a tree with this content. Times are not in it: the same file served again is the same file.
    fn content(&self, sha256: &str) -> String {
        format!("http:{sha256}:{:o}:{}", self.mode, self.name)
    }

    fn fetched(&self, sha256: &str, output: Output) -> Fetched {
        Fetched {
            file: File {
                tree: Tree {
                    output: Some(output),
                    path: format!("/{}", self.name).into(),
                },
            },
            sha256: sha256.into(),
        }
    }
}

/// Fetches a file, or finds out that it is still the one that was fetched before.
///
/// # Errors
/// What is wrong with the address, the way there, the answer, or the content.
pub async fn fetch(ctx: &Ctx, wanted: Wanted) -> Result<Fetched, Error> {
    let plan = Plan::of(wanted)?;
    let question = plan.question();
    if let Some(known) = ctx.session.fetched.done().get(&question) {
        return Ok(known.clone());
    }
    let work = ctx.clone();
    let outcome = ctx
        .session
        .fetched
        .running
        .join(question, move || async move {
            let fetched = fetch::fetch(&work, &plan).await?;
            let mut done = work.session.fetched.done();
            if done.len() < SEEN_MAX {
                done.insert(question, fetched.clone());
            }
            Ok(fetched)
        })
        .await;
    outcome.unwrap_or_else(|| Err(Error::internal("a download ended without an answer")))
}

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    // Failures are tried again; what came is remembered by `Seen`.
    b.bind("Query.http", Memo::Never, http);
}

async fn http(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let service = match inv.args.id("experimentalServiceHost") {
        Some(id) => Some(inv.ctx.load::<Service>(id).await?),
        None => None,
    };
    let authorization = match inv.args.id("authHeader") {
        Some(id) => Some(inv.ctx.load::<Secret>(id).await?),
        None => None,
    };
    let checksum = inv.args.opt_str("checksum").filter(|c| !c.is_empty());
    let mode = match inv.args.int("permissions") {
        None | Some(0) => MODE,
        Some(mode) => mode as u32 & 0o777,
    };
    let wanted = Wanted {
        url: inv.args.str("url").to_owned(),
        name: inv.args.opt_str("name").map(str::to_owned),
        mode,
        checksum: checksum.map(Checksum::parse).transpose()?,
        authorization,
        service,
    };
    let nameless =
        Address::parse(&wanted.url).map_or_else(|_| "download".to_owned(), |a| a.file_name());
    let name = wanted
        .name
        .clone()
        .filter(|n| !n.is_empty())
        .unwrap_or(nameless);
    let file = match fetch(&inv.ctx, wanted).await {
        Ok(fetched) => fetched.file,
        Err(e) if e.class() == graph::error::Class::Cancelled => return Err(e),
        Err(e) => File {
            tree: Tree {
                output: Some(Node::failed(e)),
                path: format!("/{name}").into(),
            },
        },
    };
    Ok(inv.object(file))
}
