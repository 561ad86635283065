//! Talking to registries: who to ask (mirrors, then the registry itself), how to prove who asks, how to wait, and how to
//! trust nothing that comes back before its digest is checked.
//!
//! [`Client`] is shared by everybody: connections, configuration, downloads under way. [`Access`] is one user's: it holds
//! their credentials and tokens, so that what one session may read is never answered from another's.

mod auth;
mod client;
mod config;
mod error;
mod fetch;
mod push;
mod resolve;
mod tags;
mod tls;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, Weak},
};

use futures::future::BoxFuture;

pub use self::{
    config::{Config, Host, Patience, is_internal},
    error::{Attempt, Attempts, AuthError, ContentError, RequestError},
    fetch::{FetchError, Progress, Watch},
    push::{Push, PushBlob, PushError},
    resolve::{ResolveError, Resolved},
    tags::{Known, Remembered, Sighting, Tags},
    tls::trust,
};
use crate::digest::Digest;

/// A name and what proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name. `<token>` says that the secret is an identity token.
    pub username: String,
    /// Password or token.
    pub secret: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Looks up one user's credentials. `host` is what a reference begins with (`docker.io`, `host:port`) or a mirror's address.
pub trait Credentials: Send + Sync {
    /// Credentials for `host`, or `None` to go on without.
    fn login<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Option<Login>>;
}

/// Nobody: public images only.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

impl Credentials for Anonymous {
    fn login<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, Option<Login>> {
        Box::pin(async { None })
    }
}

/// Connections and configuration, shared by all users. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    connections: Mutex<HashMap<tls::Profile, reqwest::Client>>,
    /// Blobs being downloaded, so that two users of one layer fetch it once.
    busy: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    downloads: tokio::sync::Semaphore,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client with this configuration. Connects to nothing yet.
    pub fn new(config: Config) -> Self {
        let downloads = tokio::sync::Semaphore::new(config.patience.downloads.max(1));
        Self {
            shared: Arc::new(Shared {
                config,
                connections: Mutex::default(),
                busy: Mutex::default(),
                downloads,
            }),
        }
    }

    /// A client that reaches one more registry, or reaches one in another way; it shares no connections with this one.
    #[must_use]
    pub fn with_host(&self, registry: &str, host: Host) -> Self {
        let mut config = self.shared.config.clone();
        config.registries.insert(registry.to_owned(), host);
        Self::new(config)
    }

    /// One user's access.
    pub fn access(&self, credentials: Arc<dyn Credentials>) -> Access {
        Access {
            client: self.clone(),
            credentials,
            tokens: tokio::sync::Mutex::default(),
            tags: None,
        }
    }
}

/// One user's way into registries: credentials, and the tokens they were exchanged for.
pub struct Access {
    client: Client,
    credentials: Arc<dyn Credentials>,
    tokens: tokio::sync::Mutex<HashMap<auth::Realm, auth::Token>>,
    tags: Option<Arc<dyn Tags>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// The right to do work named by a digest, among all users.
    pub(crate) async fn only(&self, digest: Digest) -> fetch::Only {
        self.client.only(digest).await
    }

    /// Forgets all tokens, for when a user's credentials have changed.
    pub async fn forget(&self) {
        self.tokens.lock().await.clear();
    }
}

#[cfg(test)]
mod tests;
