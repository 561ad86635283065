//! The network of execs: a namespace from the sandbox's pool, or none when the machine does not allow it.

use std::sync::Arc;

use graph::error::{Class, Error};
use sandbox::{
    network::{Lease, Network, SessionId, StartError},
    spec::Net,
};
use tokio::sync::OnceCell;

use crate::{config, session::Session};

/// The engine's network. Started once, in the background, when the engine opens; without the rights for it execs run
/// without network and the log says so once.
#[derive(Clone)]
pub struct Networking {
    config: config::Network,
    started: Arc<OnceCell<Option<Arc<Network>>>>,
}

/// What one exec gets.
#[derive(Debug)]
pub struct ExecNetwork {
    lease: Option<Lease>,
    gateway: Option<std::net::Ipv4Addr>,
}

/// A session's place in the network: what its containers share.
#[derive(Debug, Default)]
pub struct SessionNetwork(std::sync::OnceLock<SessionId>);

impl Networking {
    /// Does nothing yet.
    pub fn new(config: &config::Network) -> Self {
        Self { config: config.clone(), started: Arc::default() }
    }

    /// The running network, once it is up; `None` when execs must do without.
    pub async fn get(&self) -> Option<Arc<Network>> {
        self.started.get_or_init(|| start(&self.config)).await.clone()
    }

    /// A namespace for an exec of this session.
    ///
    /// # Errors
    /// None became ready in time, or the session has ended.
    pub async fn take(&self, session: &Session) -> Result<ExecNetwork, Error> {
        let Some(network) = self.get().await else { return Ok(ExecNetwork { lease: None, gateway: None }) };
        let id = *session.network.0.get_or_init(|| network.open_session());
        let lease = network.take(id).await.map_err(|e| Error::from_chain(Class::Environment, &e))?;
        Ok(ExecNetwork { lease: Some(lease), gateway: Some(network.gateway()) })
    }

    /// Ends a session's place.
    pub fn close_session(&self, session: &SessionNetwork) {
        if let (Some(id), Some(Some(network))) = (session.0.get(), self.started.get()) {
            network.close_session(*id);
        }
    }
}

async fn start(config: &config::Network) -> Option<Arc<Network>> {
    if config.disabled {
        return None;
    }
    let mut wanted = sandbox::network::Config::default();
    if let Some(cidr) = &config.cidr {
        match cidr.parse() {
            Ok(subnet) => wanted.subnet = subnet,
            Err(e) => tracing::warn!("`network.cidr` is not used: {e}"),
        }
    }
    match Network::start(wanted).await {
        Ok(n) => Some(Arc::new(n)),
        Err(e @ StartError::NotPermitted(_)) => {
            tracing::warn!("containers run without network: {}", graph::error::chain(&e));
            None
        }
        Err(e) => {
            tracing::error!("containers run without network: {}", graph::error::chain(&e));
            None
        }
    }
}

impl ExecNetwork {
    /// As the sandbox wants it. The lease stays held by this value until the process has ended.
    ///
    /// # Errors
    /// The namespace's descriptor cannot be duplicated.
    pub fn spec(&self) -> Result<Net, Error> {
        match &self.lease {
            None => Ok(Net::None),
            Some(lease) => {
                let fd = lease.namespace.try_clone().map_err(|e| Error::environment(format!("cannot hand over a network namespace: {e}")))?;
                Ok(Net::Namespace(fd))
            }
        }
    }

    /// `/etc/hosts`.
    pub fn hosts(&self, hostname: &str) -> Vec<u8> {
        let own = self.lease.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |l| l.address.to_string());
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}\t{hostname}\n").into_bytes()
    }

    /// `/etc/resolv.conf`. A search line is always there.
    pub fn resolv_conf(&self) -> Vec<u8> {
        let server = self.gateway.map_or_else(|| "127.0.0.1".to_owned(), |g| g.to_string());
        format!("nameserver {server}\nsearch dagger.local\n").into_bytes()
    }
}
