//! Names for containers: a name server on the gateway's address that knows the session's own names and asks the machine's
//! name servers for all others.
//!
//! Who asks is known by address, so two sessions may use the same name for different things, and neither can find out what
//! the other has. Questions are bounded per container; nothing is answered to anyone else.

mod hosts;
mod message;
mod resolv;
mod serve;
mod upstream;
mod zone;

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::OwnedSemaphorePermit;

pub(crate) use self::serve::{serve_tcp, serve_udp};
use self::upstream::Upstream;
pub use self::{
    hosts::hosts_file,
    resolv::ResolvConf,
    zone::{Found, Name, NameError, Names, Zone},
};
use crate::network::SessionId;

/// The name server's knowledge.
#[derive(Debug)]
pub struct Dns {
    zone: RwLock<Arc<Zone>>,
    upstream: Upstream,
}

impl Dns {
    pub(crate) fn new(resolv_conf: PathBuf) -> Dns {
        Dns {
            zone: RwLock::default(),
            upstream: Upstream::new(resolv_conf),
        }
    }

    /// What is known now; later changes do not show in it.
    pub fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces everything.
    pub fn set_zone(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }

    /// Changes a part. Questions being answered meanwhile see the old or the new state, nothing between.
    pub fn update(&self, change: impl FnOnce(&mut Zone)) {
        change(Arc::make_mut(
            &mut self.zone.write().unwrap_or_else(PoisonError::into_inner),
        ));
    }

    /// What the machine's own `resolv.conf` says now.
    pub fn machine(&self) -> Arc<ResolvConf> {
        self.upstream.resolv_conf()
    }
}

/// Who may ask.
pub(crate) trait Clients: Send + Sync {
    /// The right to ask one question; none for strangers and for those who ask too much.
    fn admit(&self, address: Ipv4Addr) -> Option<Client>;
}

/// Someone who asks.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) session: SessionId,
    /// Held until the answer is sent.
    pub(crate) _permit: OwnedSemaphorePermit,
}
