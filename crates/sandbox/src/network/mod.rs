//! The network of containers, in a namespace of the engine's own.
//!
//! Nothing of the machine is touched: no interface, no route, no packet filter rule, no forwarding switch. Containers hang
//! on the engine's namespace by one link each; what they send to each other is routed there, within a session only. What
//! they send to the outside is handed (`TPROXY`) to sockets of the engine, which dials in the machine's own namespace and
//! copies. Everything is held by descriptors and threads, so it is gone when the engine is, however the engine ended.
//!
//! [`Network::take`] gives a namespace ready to run a container in. They are made ahead of need (`pool`), used once and
//! dropped by closing the descriptor, because deleting a link costs thousands of times as much.

mod address;
mod gate;
mod link;
mod namespace;
mod netlink;
mod outside;
mod packet;
mod pool;
mod rules;
mod tcp;
mod tenants;
mod udp;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub use self::{
    address::{Subnet, SubnetError},
    namespace::{alone, bind_udp_in, dial_in, listen_in, run_in},
    tenants::SessionId,
};
use self::{
    gate::Gate,
    namespace::Inside,
    netlink::Socket,
    outside::Outside,
    pool::Pool,
    tenants::{Place, Tenants},
};
use crate::dns::{self, Dns};

/// What a [`Network`] is to be like.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where containers get their addresses from.
    pub subnet: Subnet,
    /// How many namespaces are kept ready, 1 to 64.
    pub ready: usize,
    /// Where the machine's name servers are read from, again whenever it changes.
    pub resolv_conf: PathBuf,
    /// How many connections and datagram flows to the outside one container may have open.
    pub flows: usize,
    /// How long [`Network::take`] waits when none is ready.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            subnet: Subnet::DEFAULT,
            ready: 8,
            resolv_conf: "/etc/resolv.conf".into(),
            flows: 1024,
            patience: Duration::from_secs(20),
        }
    }
}

/// The running network. Dropping it ends all connections through it.
#[derive(Debug)]
pub struct Network {
    subnet: Subnet,
    patience: Duration,
    inside: Inside,
    tenants: Arc<Tenants>,
    pool: Pool,
    dns: Arc<Dns>,
    /// Ends the proxy and the name server with this value.
    _tasks: JoinSet<()>,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine may not make namespaces: containers must do without.
    #[error("no right to make a network: cannot {}", .0.step)]
    NotPermitted(#[source] Problem),
    /// The kernel lacks something.
    #[error("cannot start the network")]
    Failed(#[source] Problem),
}

/// Why a container gets no network.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// None became ready in time.
    #[error("no network namespace became ready within {0:?}")]
    Slow(Duration),
    /// Making one failed.
    #[error("cannot make a container's network")]
    Make(#[source] Arc<Problem>),
    /// The packet filter refused the container.
    #[error("cannot connect the container's network")]
    Admit(#[source] Problem),
    /// The session was closed.
    #[error("the session has ended")]
    Closed,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct Problem {
    step: Why,
    #[source]
    source: io::Error,
}

#[derive(Debug)]
enum Why {
    Step(&'static str),
    Parameter(String),
    NoAddress(Subnet),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Step(step) => f.write_str(step),
            Why::Parameter(name) => write!(f, "set kernel parameter `net/{name}`"),
            Why::NoAddress(subnet) => write!(f, "find a free address in `{subnet}`"),
        }
    }
}

impl Problem {
    fn not_permitted(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    }
}

/// Names the step of a failed call.
trait Step<T> {
    fn why(self, step: &'static str) -> Result<T, Problem>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn why(self, step: &'static str) -> Result<T, Problem> {
        self.map_err(|source| Problem {
            step: Why::Step(step),
            source: source.into(),
        })
    }
}

/// A network namespace for one container, ready: `lo` and `eth0` up, address and default route set.
///
/// Dropping it ends the container's connections to the outside and frees the address; the namespace itself lives as long as
/// a process is in it.
#[derive(Debug)]
pub struct Lease {
    /// The namespace.
    pub namespace: OwnedFd,
    /// The container's address.
    pub address: Ipv4Addr,
    place: Place,
}

impl Lease {
    /// Whose it is.
    pub fn session(&self) -> SessionId {
        self.place.session()
    }
}

/// What the thread inside made.
struct Made {
    links: Socket,
    filter: Socket,
    namespace: OwnedFd,
    tap: OwnedFd,
    tcp: std::net::TcpListener,
    udp: std::net::UdpSocket,
    dns_udp: std::net::UdpSocket,
    dns_tcp: std::net::TcpListener,
}

impl Network {
    /// Makes the namespace, the packet filter, the proxy and the name server. Containers will reach the outside from the
    /// namespace that the calling thread and the runtime's workers are in.
    ///
    /// # Errors
    /// [`StartError::NotPermitted`] when the engine lacks the rights, so that containers must run without network.
    pub async fn start(config: Config) -> Result<Network, StartError> {
        Network::start_all(config).await.map_err(|problem| {
            if problem.not_permitted() {
                StartError::NotPermitted(problem)
            } else {
                StartError::Failed(problem)
            }
        })
    }

    async fn start_all(config: Config) -> Result<Network, Problem> {
        let subnet = config.subnet;
        let outside = Arc::new(Outside::here().why("open a netlink socket")?);
        let (inside, made) = Inside::new(move || prepare(subnet)).await?;
        let register = "register a socket";
        let tenants = Arc::new(Tenants::new(subnet, config.flows, made.filter));
        let pool = Pool::start(
            config.ready,
            made.namespace,
            made.links,
            Arc::clone(&tenants),
        )?;
        let dns = Arc::new(Dns::new(config.resolv_conf));

        let mut tasks = JoinSet::new();
        let gate = Gate::new(
            made.tap,
            made.tcp,
            Arc::clone(&tenants),
            Arc::clone(&outside),
        )
        .why(register)?;
        tasks.spawn(gate.serve());
        tasks.spawn(
            udp::Proxy::new(made.udp, Arc::clone(&tenants), outside, inside.clone())
                .why(register)?
                .serve(),
        );
        let dns_udp = tokio::net::UdpSocket::from_std(made.dns_udp).why(register)?;
        let dns_tcp = TcpListener::from_std(made.dns_tcp).why(register)?;
        let clients: Arc<dyn dns::Clients> = Arc::clone(&tenants) as _;
        tasks.spawn(dns::serve_udp(
            dns_udp,
            Arc::clone(&dns),
            Arc::clone(&clients),
        ));
        tasks.spawn(dns::serve_tcp(dns_tcp, Arc::clone(&dns), clients));
        Ok(Network {
            subnet,
            patience: config.patience,
            inside,
            tenants,
            pool,
            dns,
            _tasks: tasks,
        })
    }

    /// A new session: its containers reach each other, and nobody else's.
    pub fn open_session(&self) -> SessionId {
        self.tenants.open()
    }

    /// Ends a session: its containers lose their connections, its names are forgotten, and no more can be taken for it.
    pub fn close_session(&self, session: SessionId) {
        self.tenants.close(session);
        self.dns.update(|zone| zone.remove(session));
    }

    /// A namespace for one container. Quick while some are ready, and never later than [`Config::patience`].
    ///
    /// # Errors
    /// When none can be made, or the session is closed.
    pub async fn take(&self, session: SessionId) -> Result<Lease, TakeError> {
        let prepared = match tokio::time::timeout(self.patience, self.pool.take()).await {
            Ok(prepared) => prepared.map_err(TakeError::Make)?,
            Err(_) => return Err(TakeError::Slow(self.patience)),
        };
        let address = prepared.address.address();
        let place = self.tenants.admit(session, prepared.address)?;
        Ok(Lease {
            namespace: prepared.namespace,
            address,
            place,
        })
    }

    /// The engine's address on the containers' side: their gateway and name server.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// The name server, for its zone.
    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    /// Connects to a container (tunnels, health checks), from the gateway's address.
    ///
    /// # Errors
    /// When the container does not answer.
    pub async fn dial(&self, to: SocketAddrV4) -> io::Result<TcpStream> {
        if !self.subnet.contains(*to.ip()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{}` is no container", to.ip()),
            ));
        }
        let to = SocketAddr::from(to);
        let socket = self.inside.run(move || namespace::tcp_socket(to)).await??;
        namespace::stream_socket(socket)?.connect(to).await
    }
}

/// Sets up the engine's namespace; runs inside it.
fn prepare(subnet: Subnet) -> Result<Made, Problem> {
    namespace::set("ipv4/ip_forward", "1")?;
    // A container's packets must come from its own address, because only that leads back to its link.
    namespace::set("ipv4/conf/all/rp_filter", "0")?;
    namespace::set("ipv4/conf/default/rp_filter", "1")?;
    // The gate sends containers' packets through the loopback device, which takes the default unless told otherwise.
    namespace::set("ipv4/conf/lo/rp_filter", "0")?;
    namespace::set("ipv4/conf/all/send_redirects", "0")?;
    namespace::set("ipv4/conf/default/send_redirects", "0")?;
    // Not there at all when the kernel has no IPv6.
    for parameter in [
        "ipv6/conf/all/disable_ipv6",
        "ipv6/conf/default/disable_ipv6",
    ] {
        drop(namespace::set(parameter, "1"));
    }
    let links = Socket::route().why("open a netlink socket")?;
    links
        .apply(&link::engine(subnet))
        .why("set up the network namespace")?;

    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let tcp = namespace::listener(loopback, true).why("listen for containers' connections")?;
    let proxy = tcp.local_addr().why("listen for containers' connections")?;
    let udp = namespace::datagrams(proxy, true).why("listen for containers' datagrams")?;
    sys::netns::set_receive_destination(&udp).why("listen for containers' datagrams")?;
    let names = SocketAddr::from((subnet.gateway(), 53));
    let filter = Socket::netfilter().why("open a packet filter socket")?;
    filter
        .apply(&rules::table(subnet, proxy.port()))
        .why("set up the packet filter")?;
    let tap = sys::netns::tap(&packet::filter(subnet)).why("open a packet socket")?;
    let dns_udp = namespace::datagrams(names, false).why("listen for name queries")?;
    namespace::widen(&tap);
    namespace::widen(&udp);
    namespace::widen(&dns_udp);
    Ok(Made {
        tap,
        links,
        filter,
        namespace: sys::netns::current().why("open the network namespace")?,
        tcp,
        udp,
        dns_udp,
        dns_tcp: namespace::listener(names, false).why("listen for name queries")?,
    })
}
