//! Ports of the client's machine that lead to a container's.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use graph::error::{Class, Error};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use wire::datagrams;

use super::{
    Door, Forward, Kind, Service, Use, carry,
    registry::{Announce, Controls},
};
use crate::{
    Ctx,
    container::Port,
    link::{Io, Listener, ListeningSocket},
    session::Client,
};

/// What a tunnel is reached under.
pub(super) const LOCALHOST: &str = "127.0.0.1";
/// Connections of one port at once.
const CONNECTIONS_MAX: usize = 2048;

/// Ports of a client's machine that lead to a container service.
pub struct Tunnel {
    /// Where they lead.
    pub(super) upstream: Service,
    /// Which.
    pub(super) forwards: Vec<Forward>,
    /// The address they are opened on.
    pub(super) bind: IpAddr,
    /// Whose machine.
    pub(super) client: Arc<Client>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Tunnel({:?} to {} for client {})",
            self.forwards, self.upstream.hostname, self.client.key
        )
    }
}

/// The container service behind the tunnel: running as long as the tunnel, and started again when it has died.
struct Upstream {
    service: Service,
    used: tokio::sync::Mutex<Use>,
}

impl Upstream {
    async fn door(&self, ctx: &Ctx) -> Result<Door, Error> {
        let mut used = self.used.lock().await;
        if used.running().ended.is_cancelled() {
            *used = ctx.session.services.acquire(ctx, &self.service).await?;
        }
        used.running().door.clone().ok_or_else(|| {
            Error::environment(
                "the service has no address: this engine runs containers without network",
            )
        })
    }
}

/// Opens the ports, tells where they are, and carries connections until told to end.
pub(super) async fn live(
    ctx: &Ctx,
    tunnel: &Tunnel,
    controls: &mut Controls,
    announce: &mut Announce<'_>,
) -> Result<(), Error> {
    let opened = tokio::select! {
        opened = open(ctx, tunnel) => opened,
        () = controls.abort() => Err(Error::new(Class::Cancelled, "it was stopped while it started")),
    };
    let (upstream, mut listeners, ports) = opened?;
    announce.ready(LOCALHOST.to_owned(), None, ports);
    let upstream = Arc::new(upstream);
    let mut accepting = JoinSet::new();
    let mut open = Vec::new();
    for (
        Listener {
            socket,
            accepted,
            control,
            ..
        },
        forward,
    ) in listeners.drain(..).zip(&tunnel.forwards)
    {
        open.push(control);
        let (ctx, upstream) = (ctx.clone(), upstream.clone());
        let failed = |e: std::io::Error| Error::environment(format!("host to container: {e}"));
        match socket {
            Some(ListeningSocket::Tcp(listener)) => {
                carry::hasten(&listener);
                let listener = TcpListener::from_std(listener).map_err(failed)?;
                accepting.spawn(accept(listener, ctx, upstream, forward.backend))
            }
            Some(ListeningSocket::Udp(socket)) => {
                let socket = UdpSocket::from_std(socket).map_err(failed)?;
                accepting.spawn(take(socket, ctx, upstream, forward.backend))
            }
            None => accepting.spawn(receive(accepted, ctx, upstream, *forward)),
        };
    }
    // Nobody's last connection: a tunnel nobody wants any more is closed at once.
    controls.end(Some(Duration::ZERO)).await;
    accepting.shutdown().await;
    futures::future::join_all(open.into_iter().map(close)).await;
    Ok(())
}

async fn open(ctx: &Ctx, tunnel: &Tunnel) -> Result<(Upstream, Vec<Listener>, Vec<Port>), Error> {
    let used = ctx.session.services.acquire(ctx, &tunnel.upstream).await;
    let used = used.map_err(|e| e.context(format_args!("start {}", tunnel.upstream.hostname)))?;
    let mut listeners = Vec::with_capacity(tunnel.forwards.len());
    let mut ports = Vec::with_capacity(tunnel.forwards.len());
    for f in &tunnel.forwards {
        let network = if f.udp {
            wire::link::Network::Udp
        } else {
            wire::link::Network::Tcp
        };
        let wanted = SocketAddr::new(tunnel.bind, f.frontend.unwrap_or(0)).to_string();
        let listener = tunnel.client.link.listen(network, wanted).await;
        let listener = listener.map_err(|e| Error::user(format!("host to container: {e}")))?;
        let bound: SocketAddr = listener
            .addr
            .parse()
            .map_err(|_| Error::internal(format!("`{}` is no address", listener.addr)))?;
        ports.push(Port {
            port: bound.port(),
            udp: f.udp,
            description: Some(
                format!(
                    "tunnel {bound} -> {}:{}",
                    used.running().hostname,
                    f.backend
                )
                .into(),
            ),
            skip_healthcheck: false,
        });
        listeners.push(listener);
    }
    Ok((
        Upstream {
            service: tunnel.upstream.clone(),
            used: tokio::sync::Mutex::new(used),
        },
        listeners,
        ports,
    ))
}

/// Carries connections that a client's socket accepts.
async fn accept(listener: TcpListener, ctx: Ctx, upstream: Arc<Upstream>, backend: u16) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Owned here: ending this task closes the connections too.
    let mut connections = JoinSet::new();
    while let Ok(place) = room.clone().acquire_owned().await {
        let Ok((conn, _)) = listener.accept().await else {
            // Out of descriptors, most likely: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (ctx, upstream) = (ctx.clone(), upstream.clone());
        connections.spawn(async move {
            let _place = place;
            match connect(&ctx, &upstream, backend).await {
                Ok(there) => carry::sockets(conn, there).await,
                Err(e) => {
                    carry::reset(&conn);
                    tracing::debug!("a connection through a tunnel: {e}");
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries connections that a client elsewhere has accepted, and datagrams that its peers sent.
async fn receive(
    mut accepted: mpsc::Receiver<Box<dyn Io>>,
    ctx: Ctx,
    upstream: Arc<Upstream>,
    forward: Forward,
) {
    let mut connections = JoinSet::new();
    while let Some(conn) = accepted.recv().await {
        let (ctx, upstream) = (ctx.clone(), upstream.clone());
        let Forward { backend, udp, .. } = forward;
        connections.spawn(async move {
            let carried = if udp {
                let there = port(&ctx, &upstream, backend).await;
                there.map(|there| datagrams::stream_to_socket(conn, there).boxed())
            } else {
                let there = connect(&ctx, &upstream, backend).await;
                there.map(|there| carry::streams(conn, there).boxed())
            };
            match carried {
                Ok(carried) => carried.await,
                Err(e) => tracing::debug!("a connection through a tunnel: {e}"),
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries the datagrams of a client's socket.
async fn take(socket: UdpSocket, ctx: Ctx, upstream: Arc<Upstream>, backend: u16) {
    let carry = |flow| {
        let (ctx, upstream) = (ctx.clone(), upstream.clone());
        async move {
            match port(&ctx, &upstream, backend).await {
                Ok(there) => datagrams::to_socket(flow, there).await,
                Err(e) => tracing::debug!("datagrams through a tunnel: {e}"),
            }
        }
    };
    datagrams::serve(socket, carry).await;
}

async fn connect(ctx: &Ctx, upstream: &Upstream, backend: u16) -> Result<TcpStream, Error> {
    let door = upstream.door(ctx).await?;
    door.connect(backend)
        .await
        .map_err(|e| Error::environment(format!("dial tcp {}:{backend}: {e}", door.address())))
}

async fn port(ctx: &Ctx, upstream: &Upstream, backend: u16) -> Result<UdpSocket, Error> {
    let door = upstream.door(ctx).await?;
    door.datagrams(backend)
        .await
        .map_err(|e| Error::environment(format!("dial udp {}:{backend}: {e}", door.address())))
}

/// Ends a listener and waits for the client to have closed it, so that its port is free when the tunnel counts as stopped.
async fn close(mut control: Box<dyn Io>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let closed = async {
        let _ = control.shutdown().await;
        let _ = control.read(&mut [0; 1]).await;
    };
    // A client that does not answer is as good as gone.
    let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
}

/// Which ports a tunnel opens: all of the service's under their own numbers when `native`, those asked for, and without either
/// every port of the service on a free one.
pub(super) fn forwards(
    service: &Service,
    native: bool,
    asked: Vec<Forward>,
) -> Result<Vec<Forward>, Error> {
    let Kind::Container(c) = &*service.kind else {
        return Err(Error::user(
            "tunneling to non-Container services is not supported",
        ));
    };
    let exposed = |own: bool| {
        c.ports.iter().map(move |p| Forward {
            frontend: own.then_some(p.port),
            backend: p.port,
            udp: p.udp,
        })
    };
    let mut all: Vec<Forward> = if native {
        exposed(true).collect()
    } else {
        Vec::new()
    };
    all.extend(asked);
    if all.is_empty() && !native {
        all.extend(exposed(false));
    }
    if all.is_empty() {
        Err(Error::user("no ports to forward"))
    } else {
        Ok(all)
    }
}
