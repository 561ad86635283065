//! Ports of the client's machine for containers: a namespace without a process in which the engine listens.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use graph::error::{Class, Error};
use sandbox::network::{bind_udp_in, listen_in};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
};
use wire::{
    LinkRequest,
    datagrams::{self, Flow},
    link::{Network, read_status},
};

use super::{
    Door, Forward, Service, carry, domain,
    registry::{Announce, Controls},
};
use crate::{Ctx, container::Port, link::Dialed, session::Client};

/// Connections of one service at once.
const CONNECTIONS_MAX: usize = 1024;

/// Ports of a client's machine.
pub struct HostPorts {
    /// What the client connects to.
    pub(super) host: String,
    /// Which ports.
    pub(super) forwards: Vec<Forward>,
    /// Whose machine.
    pub(super) client: Arc<Client>,
}

impl std::fmt::Debug for HostPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "HostPorts({} {:?} of client {})",
            self.host, self.forwards, self.client.key
        )
    }
}

impl HostPorts {
    /// The ports containers see.
    pub(super) fn ports(&self) -> Vec<Port> {
        let port = |f: &Forward| Port {
            port: f.frontend.unwrap_or(f.backend),
            udp: f.udp,
            description: None,
            skip_healthcheck: false,
        };
        self.forwards.iter().map(port).collect()
    }

    /// What the client connects to for a port.
    fn target(&self, f: &Forward) -> String {
        let host = if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        format!("{host}:{}", f.backend)
    }
}

/// A port that is open.
enum Opening {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Listens, tells so, and carries connections until told to end.
pub(super) async fn live(
    ctx: &Ctx,
    service: &Service,
    h: &HostPorts,
    controls: &mut Controls,
    announce: &mut Announce<'_>,
) -> Result<(), Error> {
    let network = tokio::select! {
        network = ctx.engine.networking.take(&ctx.session) => network?,
        () = controls.abort() => return Err(Error::new(Class::Cancelled, "it was stopped while it started")),
    };
    let Some((namespace, address)) = network.namespace().zip(network.address()) else {
        return Err(Error::environment(
            "this engine runs containers without network",
        ));
    };
    let mut doors = Vec::with_capacity(h.forwards.len());
    for (f, port) in h.forwards.iter().zip(h.ports()) {
        let on = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.port));
        let door = if f.udp {
            bind_udp_in(namespace, on).await.map(Opening::Udp)
        } else {
            listen_in(namespace, on).await.map(Opening::Tcp)
        };
        let door = door.map_err(|e| {
            Error::user(format!(
                "container to host: listen on port {}: {e}",
                port.port
            ))
        })?;
        doors.push((door, h.target(f)));
    }
    let fqdn = format!("{}.{}", service.hostname, domain(&ctx.session.id));
    let _named = ctx
        .engine
        .networking
        .name(&network, &[&fqdn, &service.hostname])
        .await?;
    let own = namespace
        .try_clone()
        .map_err(|e| Error::environment(format!("cannot keep a network namespace: {e}")))?;
    announce.ready(fqdn, Some(Door::new(own, address)), h.ports());
    let mut serving = JoinSet::new();
    for (door, target) in doors {
        let client = h.client.clone();
        match door {
            Opening::Tcp(listener) => serving.spawn(tcp(listener, target, client)),
            Opening::Udp(socket) => serving.spawn(udp(socket, target, client)),
        };
    }
    controls.end(None).await;
    serving.shutdown().await;
    Ok(())
}

async fn tcp(listener: TcpListener, target: String, client: Arc<Client>) {
    carry::hasten(&listener);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Owned here: ending this task closes the connections too.
    let mut connections = JoinSet::new();
    while let Ok(place) = room.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (target, client) = (target.clone(), client.clone());
        connections.spawn(async move {
            let _place = place;
            forward(stream, target, &client).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(stream: TcpStream, target: String, client: &Client) {
    match client.link.dial(target).await {
        Ok(Dialed::Socket(there)) => {
            if let Ok(there) = TcpStream::from_std(there) {
                carry::hasten(&there);
                carry::sockets(stream, there).await;
            }
        }
        Ok(Dialed::Stream(there)) => {
            carry::streams(there, stream).await;
        }
        // A reset is all that can be said to a container whose peer does not answer.
        Err(e) => {
            carry::reset(&stream);
            tracing::debug!("a connection to the client's machine: {e}");
        }
    }
}

/// Datagrams: a stream to the client per peer.
async fn udp(socket: UdpSocket, target: String, client: Arc<Client>) {
    let carry = |flow| relay(flow, target.clone(), client.clone());
    datagrams::serve(socket, carry).await;
}

async fn relay(flow: Flow, target: String, client: Arc<Client>) {
    let request = LinkRequest::Dial {
        network: Network::Udp,
        addr: target,
        pass: false,
    };
    let Ok(mut there) = client.link.open(request).await else {
        return;
    };
    if read_status::<()>(&mut there).await.is_ok() {
        datagrams::to_stream(flow, there).await;
    }
}
