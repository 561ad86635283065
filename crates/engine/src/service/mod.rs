//! Services: containers that listen, tunnels to them from the client's machine, and ports of that machine for containers.
//!
//! A [`Service`] is a value like any other: it says what would run. What runs are the instances, at most one per service and
//! session, kept by [`registry::Services`]. Every one is a task of its own (`instance`, `tunnel`, `host`) that starts, tells
//! whoever waits, and ends when it is told to, when nobody has used it for a while, or with its session.

mod carry;
mod door;
mod fields;
mod health;
mod healthcheck;
mod host;
mod instance;
mod output;
mod passage;
mod ready;
mod registry;
mod tunnel;

use std::{net::Ipv4Addr, sync::Arc};

use graph::{call::Digest, error::Error};

pub(crate) use self::fields::command_of;
pub(crate) use self::passage::Passage;
pub use self::{
    door::Door,
    fields::bind as bind_fields,
    host::HostPorts,
    instance::ContainerService,
    output::Log,
    ready::Wanted,
    registry::{Running, Services, Use},
    tunnel::Tunnel,
};
use crate::{Ctx, container::Port};

/// How deep services may depend on each other.
const DEPTH_MAX: u32 = 64;
/// Longest wait for a connection into a service.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

/// A service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Names its instance within a session.
    pub id: Digest,
    /// Its host name for containers of the session: chosen, or a digest of its recipe.
    pub hostname: Arc<str>,
    /// What runs.
    pub kind: Arc<Kind>,
    /// When it counts as started, beside what its container says.
    pub ready: Arc<Wanted>,
}

/// What a service is made of.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "always behind an `Arc`, and nearly always the large one"
)]
pub enum Kind {
    /// A process in a container.
    Container(ContainerService),
    /// Ports of the client's machine that lead to a container's.
    Tunnel(Tunnel),
    /// Ports of the client's machine for containers.
    Host(HostPorts),
}

/// A port to open and where it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The port to open; `None` lets the machine choose.
    pub frontend: Option<u16>,
    /// Where it leads.
    pub backend: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// A service that a container's execs reach, and the names they reach it under beside its host name.
#[derive(Debug, Clone)]
pub struct Binding {
    /// Which service.
    pub service: Service,
    /// Further names.
    pub aliases: Vec<Arc<str>>,
}

impl Binding {
    /// `hostname=alias` for each alias; what the cache knows of a binding.
    pub fn names(&self) -> Vec<String> {
        let host = &self.service.hostname;
        if self.aliases.is_empty() {
            vec![host.to_string()]
        } else {
            self.aliases.iter().map(|a| format!("{host}={a}")).collect()
        }
    }

    /// How a binding is named in errors: `abc (aliased as db, cache)`.
    fn shown(&self) -> String {
        let host = &self.service.hostname;
        if self.aliases.is_empty() {
            format!("{host} (no aliases)")
        } else {
            format!("{host} (aliased as {})", self.aliases.join(", "))
        }
    }
}

/// Adds a binding to a list: the same service again only gains the alias.
pub fn add_binding(list: &mut Vec<Binding>, service: Service, alias: &str) {
    let binding = match list.iter_mut().find(|b| b.service.id == service.id) {
        Some(b) => b,
        None => {
            list.push(Binding {
                service,
                aliases: Vec::new(),
            });
            let Some(last) = list.last_mut() else { return };
            last
        }
    };
    if !alias.is_empty() && !binding.aliases.iter().any(|a| **a == *alias) {
        binding.aliases.push(alias.into());
    }
}

/// Running services that an exec reaches; they are released with this value.
#[derive(Debug, Default)]
pub struct Bound {
    uses: Vec<Use>,
    aliases: Vec<(Ipv4Addr, String)>,
}

impl Bound {
    /// Names for `/etc/hosts`.
    pub fn aliases(&self) -> &[(Ipv4Addr, String)] {
        &self.aliases
    }

    /// The instances.
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }
}

/// Starts what is bound, all at once, and waits until everything is ready.
///
/// # Errors
/// The first that did not start: `start abc (aliased as db): …`.
pub async fn bind(ctx: &Ctx, bindings: &[Binding]) -> Result<Bound, Error> {
    if bindings.is_empty() {
        return Ok(Bound::default());
    }
    let started = bindings.iter().map(|b| async move {
        let used = ctx.session.services.acquire(ctx, &b.service).await;
        used.map_err(|e| e.context(format_args!("start {}", b.shown())))
    });
    let uses = futures::future::try_join_all(started).await?;
    let mut aliases = Vec::new();
    for (binding, used) in bindings.iter().zip(&uses) {
        if binding.aliases.is_empty() {
            continue;
        }
        let Some(address) = used.running().door.as_ref().map(Door::address) else {
            return Err(Error::user(format!(
                "lookup {} for hosts file: it has no address that containers can reach",
                binding.service.hostname
            )));
        };
        aliases.extend(binding.aliases.iter().map(|a| (address, a.to_string())));
    }
    Ok(Bound { uses, aliases })
}

/// A service that the engine itself uses, for `git` and `http` of a service host: it runs as long as this value.
#[derive(Debug)]
pub struct Reached {
    hostname: Arc<str>,
    used: Use,
    door: Door,
}

/// Holds a service running while the engine does something with it: starts it when it does not run, waits until it is
/// ready, and gives the way to it. Dropping the answer ends the use; the service then stays for its usual ten seconds.
///
/// ```ignore
/// let reached = service::reach(&ctx, &service).await?;
/// let stream = reached.connect(9418).await?; // while `reached` lives
/// ```
///
/// # Errors
/// It did not start: `start abc (no aliases): …`; it is a tunnel, which has no address for containers; the engine runs
/// containers without network.
pub async fn reach(ctx: &Ctx, service: &Service) -> Result<Reached, Error> {
    let hostname = service.hostname.clone();
    let used = ctx.session.services.acquire(ctx, service).await;
    let used = used.map_err(|e| e.context(format_args!("start {hostname} (no aliases)")))?;
    let door = used.running().door.clone().ok_or_else(|| {
        Error::user(format!(
            "service {hostname} has no address that can be reached"
        ))
    })?;
    Ok(Reached {
        hostname,
        used,
        door,
    })
}

impl Reached {
    /// Its address in the containers' network. The machine's own network does not lead there: see [`Reached::connect`].
    pub fn address(&self) -> Ipv4Addr {
        self.door.address()
    }

    /// Is this what a URL means by the host: the service's host name, short or fully qualified?
    pub fn is_called(&self, host: &str) -> bool {
        is_meant(&self.hostname, &self.used.running().hostname, host)
    }

    /// A socket whose connections lead to a port of it, for as long as both this and the answer live.
    ///
    /// # Errors
    /// Nobody listens there, or nobody answers in time.
    pub(crate) async fn passage(
        &self,
        run_dir: &std::path::Path,
        port: u16,
    ) -> std::io::Result<Passage> {
        // Made here, where a failure can be told.
        let first = tokio::time::timeout(CONNECT, self.connect(port))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        Passage::open(run_dir, self.door.clone(), port, first)
    }

    /// Connects to a port of it.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(&self, port: u16) -> std::io::Result<tokio::net::TcpStream> {
        self.door.connect(port).await
    }
}

/// Does a host in an address mean the service: its name, alone or with a domain, or the one it runs under? As host names
/// are: of any case, and with or without the dot at the end.
pub(crate) fn is_meant(hostname: &str, running: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host.eq_ignore_ascii_case(running)
        || host
            .strip_prefix(&hostname.to_ascii_lowercase())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Service {
    /// The ports a container or host service is asked for, without running; a tunnel has them only when it runs.
    fn declared_ports(&self) -> Vec<Port> {
        match &*self.kind {
            Kind::Container(c) => c.ports.to_vec(),
            Kind::Host(h) => h.ports(),
            Kind::Tunnel(_) => Vec::new(),
        }
    }

    /// How deep services are nested below this one.
    fn depth(&self) -> u32 {
        match &*self.kind {
            Kind::Container(c) => c.depth,
            Kind::Tunnel(t) => t.upstream.depth() + 1,
            Kind::Host(_) => 0,
        }
    }
}

/// The domain of a session's names.
pub fn domain(session: &str) -> String {
    format!("{}.dagger.local", short_digest(session.as_bytes()))
}

/// A service's host name: a digest of its recipe, so that it is the same in every session.
fn hostname_of(id: Digest, scope: &str) -> String {
    let mut bytes = id.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(scope.as_bytes());
    short_digest(&bytes)
}

/// 64 bits of digest as 13 characters that a host name may have: base 32 with digits and the letters up to `v`.
fn short_digest(bytes: &[u8]) -> String {
    let bits = u128::from(xxhash_rust::xxh3::xxh3_64(bytes)) << 1;
    (0..13)
        .rev()
        .map(|i| char::from(b"0123456789abcdefghijklmnopqrstuv"[(bits >> (5 * i)) as usize & 31]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_digests_are_host_names_of_a_fixed_length() {
        let digests: Vec<String> = ["", "a", "b"]
            .iter()
            .map(|s| short_digest(s.as_bytes()))
            .collect();
        for d in &digests {
            assert!(
                d.len() == 13
                    && d.bytes()
                        .all(|b| b.is_ascii_digit() || (b'a'..=b'v').contains(&b)),
                "{d}"
            );
        }
        assert_ne!(digests[1], digests[2]);
        // The same for ever: names appear in users' files.
        assert_eq!(short_digest(b"bodkin"), short_digest(b"bodkin"));
    }
}
