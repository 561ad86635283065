//! Who has which address: the sessions, their containers, and how much each may have open at once.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::Resource;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Problem, Step, TakeError, Why,
    address::{Addresses, Subnet},
    netlink::Socket,
    rules::{self, Member},
};
use crate::dns;

/// A session of the network, see [`super::Network::open_session`]. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub(crate) u32);

/// Connections and datagram flows all containers together may have open.
const ALL_FLOWS: usize = 16 * 1024;
/// Name queries one container may have open.
const QUERIES: usize = 64;

/// All tenants.
#[derive(Debug)]
pub(super) struct Tenants {
    subnet: Subnet,
    state: Mutex<State>,
    /// Belongs to the engine's namespace.
    filter: Mutex<Socket>,
    /// How many one container may have open.
    flows_each: usize,
    flows: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    addresses: Addresses,
    next: u32,
    sessions: HashMap<SessionId, Vec<Ipv4Addr>>,
    tenants: HashMap<Ipv4Addr, Tenant>,
}

/// One container.
#[derive(Debug)]
struct Tenant {
    session: SessionId,
    /// Dropped when the container has left: whoever waits for a change gets an error.
    stay: watch::Sender<()>,
    flows: Arc<Semaphore>,
    queries: Arc<Semaphore>,
}

/// The right to have one connection open, and word of when it ends.
#[derive(Debug)]
pub(super) struct Pass {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    stay: watch::Receiver<()>,
}

impl Pass {
    /// Returns once the container has left.
    pub(super) async fn revoked(&mut self) {
        while self.stay.changed().await.is_ok() {}
    }
}

/// An address in use; free again when dropped.
#[derive(Debug)]
pub(super) struct Address {
    address: Ipv4Addr,
    tenants: Arc<Tenants>,
}

impl Address {
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.tenants.state().addresses.give_back(self.address);
    }
}

/// An address given to a session; dropped, the container has left.
#[derive(Debug)]
pub(super) struct Place {
    session: SessionId,
    address: Address,
}

impl Place {
    pub(super) fn session(&self) -> SessionId {
        self.session
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Address { address, tenants } = &self.address;
        let left = tenants.state().leave(*address);
        if left.is_some() {
            tenants.expel(self.session, *address);
        }
    }
}

impl Tenants {
    pub(super) fn new(subnet: Subnet, flows_each: usize, filter: Socket) -> Tenants {
        let state = State {
            addresses: Addresses::new(subnet),
            next: 1,
            sessions: HashMap::new(),
            tenants: HashMap::new(),
        };
        let all = flows_for(rustix::process::getrlimit(Resource::Nofile).current);
        Tenants {
            subnet,
            state: Mutex::new(state),
            filter: Mutex::new(filter),
            // No container can use up what all share.
            flows_each: flows_each.min(all / 2),
            flows: Arc::new(Semaphore::new(all)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filter(&self) -> MutexGuard<'_, Socket> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subnet(&self) -> Subnet {
        self.subnet
    }

    pub(super) fn open(&self) -> SessionId {
        let mut state = self.state();
        let session = SessionId(state.next);
        state.next = state.next.wrapping_add(1).max(1);
        state.sessions.insert(session, Vec::new());
        session
    }

    pub(super) fn close(&self, session: SessionId) {
        let mut state = self.state();
        let members = state.sessions.remove(&session).unwrap_or_default();
        for address in &members {
            state.tenants.remove(address);
        }
        drop(state);
        for address in members {
            self.expel(session, address);
        }
    }

    /// An address for a namespace that is being made.
    pub(super) fn address(self: &Arc<Tenants>) -> Result<Address, Problem> {
        let address = self.state().addresses.take();
        let none = || Problem {
            step: Why::NoAddress(self.subnet),
            source: std::io::ErrorKind::AddrNotAvailable.into(),
        };
        Ok(Address {
            address: address.ok_or_else(none)?,
            tenants: Arc::clone(self),
        })
    }

    /// Gives a made namespace's address to a session.
    pub(super) fn admit(&self, session: SessionId, address: Address) -> Result<Place, TakeError> {
        let tenant = Tenant {
            session,
            stay: watch::Sender::new(()),
            flows: Arc::new(Semaphore::new(self.flows_each)),
            queries: Arc::new(Semaphore::new(QUERIES)),
        };
        {
            let mut state = self.state();
            state
                .sessions
                .get_mut(&session)
                .ok_or(TakeError::Closed)?
                .push(address.address);
            state.tenants.insert(address.address, tenant);
        }
        let member = Member {
            session: session.0,
            address: address.address,
        };
        let place = Place { session, address };
        self.filter()
            .apply(&rules::admit(member))
            .why("admit the container to its session")
            .map_err(TakeError::Admit)?;
        Ok(place)
    }

    fn expel(&self, session: SessionId, address: Ipv4Addr) {
        if let Err(error) = self.filter().apply(&rules::expel(Member {
            session: session.0,
            address,
        })) {
            tracing::debug!(%address, %error, "packet filter did not know the container");
        }
    }

    /// The right to open one more connection; none for strangers and for those who have too many.
    pub(super) fn pass(&self, address: Ipv4Addr) -> Option<Pass> {
        let (own, stay) = {
            let state = self.state();
            let tenant = state.tenants.get(&address)?;
            (Arc::clone(&tenant.flows), tenant.stay.subscribe())
        };
        let own = own.try_acquire_owned().ok()?;
        let all = Arc::clone(&self.flows).try_acquire_owned().ok()?;
        Some(Pass {
            _own: own,
            _all: all,
            stay,
        })
    }
}

/// How many flows there may be in a process that may have this many descriptors: each needs two, and half of the
/// descriptors are for the rest of the engine.
fn flows_for(descriptors: Option<u64>) -> usize {
    let flows = descriptors
        .and_then(|limit| usize::try_from(limit / 4).ok())
        .unwrap_or(ALL_FLOWS);
    flows.clamp(32, ALL_FLOWS)
}

impl State {
    fn leave(&mut self, address: Ipv4Addr) -> Option<Tenant> {
        let tenant = self.tenants.remove(&address)?;
        if let Some(members) = self.sessions.get_mut(&tenant.session) {
            members.retain(|member| *member != address);
        }
        Some(tenant)
    }
}

impl dns::Clients for Tenants {
    fn admit(&self, address: Ipv4Addr) -> Option<dns::Client> {
        let (session, queries) = {
            let state = self.state();
            let tenant = state.tenants.get(&address)?;
            (tenant.session, Arc::clone(&tenant.queries))
        };
        Some(dns::Client {
            session,
            _permit: queries.try_acquire_owned().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_leave_descriptors_for_the_engine() {
        assert_eq!(
            [None, Some(64), Some(1024), Some(1 << 20)].map(flows_for),
            [ALL_FLOWS, 32, 256, ALL_FLOWS]
        );
    }
}
