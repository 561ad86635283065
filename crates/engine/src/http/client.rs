//! The way to a server: over the network of the engine's machine, through a proxy, or into a service.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::timeout;

use super::{FetchError, address::Address, error::cause};
use crate::{
    lock,
    service::{self, Passage, Use},
};

/// How long is waited for what, and how much is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Until a connection stands.
    pub(super) connect: Duration,
    /// Between two pieces of an answer.
    pub(super) silence: Duration,
    /// Bytes a second below which an answer is not worth waiting for.
    pub(super) least_rate: u64,
    /// Largest file.
    pub(super) size: u64,
    /// Redirects followed.
    pub(super) redirects: usize,
    /// Times a question is asked when the answer is that it may help.
    pub(super) tries: u32,
    /// Between two of them, at first.
    pub(super) pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(60),
            least_rate: 256,
            size: 64 << 30,
            redirects: 10,
            tries: 3,
            pause: Duration::from_millis(500),
        }
    }
}

/// The connections of a session to servers.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// With the proxies that the environment names, and without.
    clients: Mutex<[Option<reqwest::Client>; 2]>,
}

impl Pool {
    /// The client for an address.
    pub(super) fn client(
        &self,
        address: &Address,
        limits: &Limits,
    ) -> Result<reqwest::Client, FetchError> {
        let direct = address.is_loopback();
        let mut clients = lock(&self.clients);
        let slot = &mut clients[usize::from(direct)];
        if let Some(client) = slot {
            return Ok(client.clone());
        }
        let mut builder = builder(limits)?;
        if direct {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| FetchError::Setup(e.into()))?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Closes what is idle.
    pub(super) fn forget(&self) {
        *lock(&self.clients) = Default::default();
    }
}

fn builder(limits: &Limits) -> Result<reqwest::ClientBuilder, FetchError> {
    let tls = oci::registry::trust(&[]).map_err(|e| FetchError::Setup(e.into()))?;
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(limits.connect)
        .pool_idle_timeout(Duration::from_secs(30))
        .user_agent(concat!("bodkin/", env!("CARGO_PKG_VERSION"))))
}

/// A running service that a file is fetched from.
pub(super) struct Served {
    hostname: Arc<str>,
    used: Use,
    run_dir: PathBuf,
}

impl Served {
    pub(super) fn new(hostname: Arc<str>, used: Use, run_dir: PathBuf) -> Self {
        Self {
            hostname,
            used,
            run_dir,
        }
    }

    /// Does the address mean the service?
    pub(super) fn serves(&self, address: &Address) -> bool {
        service::is_meant(
            &self.hostname,
            &self.used.running().hostname,
            address.host().0,
        )
    }

    /// A client whose connections all lead to the address's port of the service.
    pub(super) async fn client(
        &self,
        address: &Address,
        limits: &Limits,
    ) -> Result<(reqwest::Client, Passage), FetchError> {
        let door = self.used.running().door.clone();
        let door = door.ok_or_else(|| FetchError::NoAddress {
            hostname: self.hostname.to_string(),
        })?;
        let port = address.host().1;
        let failed = |why: String| FetchError::Connect {
            url: address.shown(),
            why,
        };
        // The first connection is made here, where a failure can be told.
        let first = timeout(limits.connect, door.connect(port))
            .await
            .map_err(|_| {
                failed(format!(
                    "no connection within {} s",
                    limits.connect.as_secs()
                ))
            })?
            .map_err(|e| failed(cause(&e)))?;
        let passage = Passage::open(&self.run_dir, door, port, first)
            .map_err(|e| FetchError::Setup(e.into()))?;
        let client = builder(limits)?
            .unix_socket(passage.path().to_owned())
            .build()
            .map_err(|e| FetchError::Setup(e.into()))?;
        Ok((client, passage))
    }
}
