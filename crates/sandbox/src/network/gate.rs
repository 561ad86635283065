//! The gate: decides about a container's connection before the container's kernel hears an answer.
//!
//! A proxy that accepts first and dials then would tell every container that every port of every machine is open. So the
//! packet filter drops the first packet of each connection, and a socket that sees packets before the filter does brings it
//! here. The engine dials; when the outside has answered, the same packet is sent through the loopback device, which the
//! filter lets pass to the listener. When the outside has refused, the container gets the same refusal.
//!
//! Echo requests come the same way, and are made by the machine.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use sys::netns::{self, Neighbour};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};

use super::{
    link::LOOPBACK,
    outside::{DialError, Outside},
    packet::{self, PROHIBITED, Packet, Refusal, Wants},
    tcp,
    tenants::{Pass, Tenants},
};

/// After the outside has answered, the container's side takes microseconds, or never comes.
const ACCEPT: Duration = Duration::from_secs(10);
/// How long an echo may take.
const ECHO: Duration = Duration::from_secs(10);
/// After a failure to accept or receive (descriptors used up) the loop rests.
const REST: Duration = Duration::from_millis(20);
/// The longest packet: one frame.
const LONGEST: usize = 2048;

/// Container and wanted address.
type Key = (SocketAddrV4, SocketAddrV4);

/// A connection being made: which attempt of its key, and who waits for the container's side of it.
#[derive(Debug)]
struct Waiting {
    attempt: u64,
    accepted: oneshot::Sender<TcpStream>,
}

/// The way out, shared by all connections.
#[derive(Debug)]
struct Ways {
    /// A packet socket of the engine's namespace. Only sockets can be waited for without `unsafe`, and this is the type
    /// for sockets that carry datagrams.
    tap: UdpSocket,
    outside: Arc<Outside>,
    gateway: Ipv4Addr,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Gate {
    ways: Arc<Ways>,
    listener: TcpListener,
    tenants: Arc<Tenants>,
    waiting: HashMap<Key, Waiting>,
    attempts: u64,
    running: JoinSet<Option<(Key, u64)>>,
}

impl Gate {
    pub(super) fn new(
        tap: std::os::fd::OwnedFd,
        listener: std::net::TcpListener,
        tenants: Arc<Tenants>,
        outside: Arc<Outside>,
    ) -> io::Result<Gate> {
        let ways = Ways {
            tap: UdpSocket::from_std(tap.into())?,
            outside,
            gateway: tenants.subnet().gateway(),
        };
        let listener = TcpListener::from_std(listener)?;
        Ok(Gate {
            ways: Arc::new(ways),
            listener,
            tenants,
            waiting: HashMap::new(),
            attempts: 0,
            running: JoinSet::new(),
        })
    }

    /// Serves until dropped; dropping it ends all connections.
    pub(super) async fn serve(mut self) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let event = tokio::select! {
                Some(ended) = self.running.join_next() => {
                    if let Ok(Some((key, attempt))) = ended {
                        self.forget(key, attempt);
                    }
                    Ok(())
                }
                accepted = self.listener.accept() => accepted.map(|(stream, _)| self.accepted(stream)),
                arrived = receive(&self.ways.tap, &mut buffer) => arrived.map(|(length, from)| {
                    if let Some(packet) = buffer.get(..length).and_then(Packet::parse) {
                        self.arrived(packet, from);
                    }
                }),
            };
            if let Err(error) = event {
                tracing::debug!(%error, "cannot take a container's connection");
                tokio::time::sleep(REST).await;
            }
        }
    }

    fn forget(&mut self, key: Key, attempt: u64) {
        if self
            .waiting
            .get(&key)
            .is_some_and(|waiting| waiting.attempt == attempt)
        {
            self.waiting.remove(&key);
        }
    }

    /// The container's side of a connection is there.
    fn accepted(&mut self, stream: TcpStream) {
        let waiting = match (stream.peer_addr(), stream.local_addr()) {
            (Ok(SocketAddr::V4(from)), Ok(SocketAddr::V4(to))) => self.waiting.remove(&(from, to)),
            _ => None,
        };
        match waiting {
            // Whoever waited may have given up just now, which closes it.
            Some(waiting) => drop(waiting.accepted.send(stream)),
            None => tcp::reset(&stream),
        }
    }

    /// A container asks for something.
    fn arrived(&mut self, packet: Packet, from: Neighbour) {
        match packet.wants {
            Wants::Connection { from: client, to } => {
                let key = (client, to);
                // Sent again because the answer takes long.
                if self.waiting.contains_key(&key) {
                    return;
                }
                let Some(pass) = self.tenants.pass(*client.ip()) else {
                    self.ways.refuse(&packet, Refusal::Reset, from);
                    return;
                };
                self.attempts += 1;
                let attempt = self.attempts;
                let (sender, accepted) = oneshot::channel();
                self.waiting.insert(
                    key,
                    Waiting {
                        attempt,
                        accepted: sender,
                    },
                );
                let ways = Arc::clone(&self.ways);
                self.running.spawn(async move {
                    until_revoked(pass, connection(&ways, &packet, to, from, accepted)).await;
                    Some((key, attempt))
                });
            }
            Wants::Echo { from: client, to } => {
                let Some(pass) = self.tenants.pass(client) else {
                    return;
                };
                let ways = Arc::clone(&self.ways);
                self.running.spawn(async move {
                    until_revoked(pass, echo(&ways, &packet, to, from)).await;
                    None
                });
            }
        }
    }
}

async fn receive(tap: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Neighbour)> {
    tap.async_io(Interest::READABLE, || netns::receive_packet(tap, buffer))
        .await
}

async fn until_revoked(mut pass: Pass, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = pass.revoked() => {}
    }
}

async fn connection(
    ways: &Ways,
    packet: &Packet,
    to: SocketAddrV4,
    from: Neighbour,
    accepted: oneshot::Receiver<TcpStream>,
) {
    let outside = match ways.outside.connect(to).await {
        Ok(stream) => stream,
        Err(error) => {
            ways.failed(packet, &error, from);
            return;
        }
    };
    let home = i32::try_from(LOOPBACK).unwrap_or(1);
    ways.send(
        &packet.bytes,
        Neighbour {
            device: home,
            address: [0; 6],
        },
    );
    match timeout(ACCEPT, accepted).await {
        Ok(Ok(inside)) => tcp::relay(&inside, &outside).await,
        Ok(Err(_)) | Err(_) => tcp::reset(&outside),
    }
}

async fn echo(ways: &Ways, packet: &Packet, to: Ipv4Addr, from: Neighbour) {
    match timeout(ECHO, ways.outside.echo(to, packet.payload())).await {
        Ok(Ok(reply)) => {
            if let Some(reply) = packet.echoed(&reply) {
                ways.send(&reply, from);
            }
        }
        Ok(Err(error)) => ways.failed(packet, &error, from),
        Err(_) => {}
    }
}

impl Ways {
    fn failed(&self, packet: &Packet, error: &DialError, from: Neighbour) {
        tracing::debug!(wants = ?packet.wants, error = error as &dyn std::error::Error, "container refused");
        let refusal = match error {
            // These ranges the packet filter answers.
            DialError::Reserved(_) => Refusal::None,
            DialError::Refused(_) => PROHIBITED,
            DialError::Failed { source, .. } => packet::refusal(source),
        };
        self.refuse(packet, refusal, from);
    }

    fn refuse(&self, packet: &Packet, refusal: Refusal, from: Neighbour) {
        if let Some(answer) = packet.refuse(refusal, self.gateway) {
            self.send(&answer, from);
        }
    }

    fn send(&self, packet: &[u8], to: Neighbour) {
        if let Err(error) = netns::send_packet(&self.tap, packet, to) {
            tracing::debug!(%error, "packet not sent");
        }
    }
}
