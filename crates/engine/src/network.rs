//! The network of execs: a namespace from the sandbox's pool, or none when the machine does not allow it.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
    sync::Arc,
};

use graph::error::{Class, Error};
use sandbox::{
    dns,
    network::{Lease, Network, SessionId, StartError},
    spec::Net,
};
use tokio::sync::OnceCell;

use crate::{config, service, session::Session};

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
    /// Leads nowhere: what a process gets beside which the engine must listen although there is no network.
    alone: Option<OwnedFd>,
    resolv_conf: Vec<u8>,
}

/// Names of a container in its session's part of the name server; gone when dropped.
pub struct Named {
    network: Arc<Network>,
    session: SessionId,
    address: Ipv4Addr,
    names: Vec<dns::Name>,
}

/// A session's place in the network: what its containers share.
#[derive(Debug, Default)]
pub struct SessionNetwork(std::sync::OnceLock<SessionId>);

impl Networking {
    /// Does nothing yet.
    pub fn new(config: &config::Network) -> Self {
        Self {
            config: config.clone(),
            started: Arc::default(),
        }
    }

    /// The running network, once it is up; `None` when execs must do without.
    pub async fn get(&self) -> Option<Arc<Network>> {
        self.started
            .get_or_init(|| start(&self.config))
            .await
            .clone()
    }

    /// A namespace for an exec of this session.
    ///
    /// # Errors
    /// None became ready in time, or the session has ended.
    pub async fn take(&self, session: &Session) -> Result<ExecNetwork, Error> {
        let domain = service::domain(&session.id);
        let Some(network) = self.get().await else {
            let resolv_conf = dns::ResolvConf::default().container(Ipv4Addr::LOCALHOST, &[domain]);
            return Ok(ExecNetwork {
                lease: None,
                alone: None,
                resolv_conf,
            });
        };
        let id = *session.network.0.get_or_init(|| {
            let id = network.open_session();
            if let Ok(domain) = domain.parse() {
                network.dns().update(|zone| {
                    zone.names_mut(id).domains.insert(domain);
                });
            }
            id
        });
        let lease = network
            .take(id)
            .await
            .map_err(|e| Error::from_chain(Class::Environment, &e))?;
        Ok(ExecNetwork {
            lease: Some(lease),
            alone: None,
            resolv_conf: network
                .dns()
                .machine()
                .container(network.gateway(), &[domain]),
        })
    }

    /// Makes names known to the session's containers, until the answer is dropped. `None` when the place has no address.
    ///
    /// # Errors
    /// A name that no name server can hold.
    pub async fn name(&self, place: &ExecNetwork, names: &[&str]) -> Result<Option<Named>, Error> {
        let (Some(lease), Some(network)) = (&place.lease, self.get().await) else {
            return Ok(None);
        };
        let names: Result<Vec<dns::Name>, _> = names.iter().map(|n| n.parse()).collect();
        let names = names.map_err(|e| Error::from_chain(Class::User, &e))?;
        let named = Named {
            network,
            session: lease.session(),
            address: lease.address,
            names,
        };
        named.network.dns().update(|zone| {
            let hosts = &mut zone.names_mut(named.session).hosts;
            for name in &named.names {
                hosts.entry(name.clone()).or_default().push(named.address);
            }
        });
        Ok(Some(named))
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
            // A configuration from a file has been checked.
            Err(e) => tracing::warn!("`network.cidr` is not used: {e}"),
        }
    }
    match Network::start(wanted).await {
        Ok(n) => Some(Arc::new(n)),
        Err(e @ StartError::NotPermitted(_)) => {
            tracing::warn!(
                "containers run without network: {}",
                graph::error::chain(&e)
            );
            None
        }
        Err(e) => {
            tracing::error!(
                "containers run without network: {}",
                graph::error::chain(&e)
            );
            None
        }
    }
}

impl ExecNetwork {
    /// No network at all.
    pub fn none() -> Self {
        Self {
            lease: None,
            alone: None,
            resolv_conf: dns::ResolvConf::default().container(Ipv4Addr::LOCALHOST, &[]),
        }
    }

    /// As the sandbox wants it. The lease stays held by this value until the process has ended.
    ///
    /// # Errors
    /// The namespace's descriptor cannot be duplicated.
    pub fn spec(&self) -> Result<Net, Error> {
        match self.namespace().or(self.alone.as_ref()) {
            None => Ok(Net::None),
            Some(namespace) => {
                let fd = namespace.try_clone().map_err(|e| {
                    Error::environment(format!("cannot hand over a network namespace: {e}"))
                })?;
                Ok(Net::Namespace(fd))
            }
        }
    }

    /// The container's address.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.lease.as_ref().map(|l| l.address)
    }

    /// The namespace, to make sockets in.
    pub fn namespace(&self) -> Option<&OwnedFd> {
        self.lease.as_ref().map(|l| &l.namespace)
    }

    /// The namespace that the process will be in, to listen on its loopback.
    ///
    /// # Errors
    /// There is no network, and a namespace that leads nowhere cannot be made either.
    pub fn loopback(&mut self) -> Result<&OwnedFd, Error> {
        if let Some(lease) = &self.lease {
            return Ok(&lease.namespace);
        }
        match &mut self.alone {
            Some(namespace) => Ok(namespace),
            none => Ok(none.insert(
                sandbox::network::alone().map_err(|e| Error::from_chain(Class::Environment, &e))?,
            )),
        }
    }

    /// `/etc/hosts`: its own name and further ones for its own address, then names of others.
    pub fn hosts(
        &self,
        hostname: &str,
        own_names: &[String],
        aliases: &[(Ipv4Addr, String)],
    ) -> Vec<u8> {
        let own = IpAddr::V4(self.address().unwrap_or(Ipv4Addr::LOCALHOST));
        let own_names = own_names.iter().map(|n| (own, n.clone()));
        let others = aliases.iter().map(|(a, n)| (IpAddr::V4(*a), n.clone()));
        dns::hosts_file(
            Some((own, hostname)),
            &own_names.chain(others).collect::<Vec<_>>(),
        )
    }

    /// `/etc/resolv.conf`. A search line is always there.
    pub fn resolv_conf(&self) -> Vec<u8> {
        self.resolv_conf.clone()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.network.dns().update(|zone| {
            // A session that has ended is forgotten as a whole, and must not come back.
            if zone.names(self.session).is_none() {
                return;
            }
            let hosts = &mut zone.names_mut(self.session).hosts;
            for name in &self.names {
                if let Some(addresses) = hosts.get_mut(name) {
                    if let Some(at) = addresses.iter().position(|a| *a == self.address) {
                        addresses.remove(at);
                    }
                    if addresses.is_empty() {
                        hosts.remove(name);
                    }
                }
            }
        });
    }
}
