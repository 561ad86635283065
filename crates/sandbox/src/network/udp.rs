//! Containers' datagrams to the outside: one flow per pair of addresses, with a socket on each side, until it falls silent.
//!
//! The first datagrams of a flow arrive at one socket for all; then a socket bound to the wanted address and connected to
//! the container takes over, so that the kernel sorts the rest.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use tokio::{io::Interest, net::UdpSocket, sync::mpsc, task::JoinSet, time::Instant};

use super::{
    namespace::{self, Inside},
    outside::Outside,
    tenants::{Pass, Tenants},
};

/// A flow without datagrams for this long is over.
const SILENCE: Duration = Duration::from_secs(90);
/// The same for name queries, of which there are many and each is answered once.
const QUERY_SILENCE: Duration = Duration::from_secs(10);
/// Datagrams kept while a flow's sockets are made.
const EARLY: usize = 16;
/// Datagrams moved before another task gets its turn.
const BURST: usize = 32;

thread_local! {
    /// Room for the largest datagram, used within one poll.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 65_536].into_boxed_slice());
}

/// Container and wanted address.
type Key = (SocketAddrV4, SocketAddrV4);

/// The socket for first datagrams, and the flows.
#[derive(Debug)]
pub(super) struct Proxy {
    socket: UdpSocket,
    tenants: Arc<Tenants>,
    outside: Arc<Outside>,
    inside: Inside,
    flows: HashMap<Key, mpsc::Sender<Box<[u8]>>>,
    running: JoinSet<Key>,
}

impl Proxy {
    pub(super) fn new(
        socket: std::net::UdpSocket,
        tenants: Arc<Tenants>,
        outside: Arc<Outside>,
        inside: Inside,
    ) -> io::Result<Proxy> {
        let socket = UdpSocket::from_std(socket)?;
        Ok(Proxy {
            socket,
            tenants,
            outside,
            inside,
            flows: HashMap::new(),
            running: JoinSet::new(),
        })
    }

    /// Serves until dropped; dropping it ends all flows.
    pub(super) async fn serve(mut self) {
        loop {
            tokio::select! {
                Some(ended) = self.running.join_next() => {
                    // A flow cannot panic or be aborted while this loop runs; its entry would only refuse datagrams.
                    if let Ok(key) = ended {
                        self.flows.remove(&key);
                    }
                }
                first = first(&self.socket) => match first {
                    Ok((key, datagram)) => self.deliver(key, datagram),
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive a container's datagram");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
            }
        }
    }

    fn deliver(&mut self, key: Key, datagram: Box<[u8]>) {
        // Full or ended: lost, as datagrams may be.
        if let Some(flow) = self.flows.get(&key) {
            drop(flow.try_send(datagram));
            return;
        }
        let Some(pass) = self.tenants.pass(*key.0.ip()) else {
            return;
        };
        let (sender, early) = mpsc::channel(EARLY);
        drop(sender.try_send(datagram));
        self.flows.insert(key, sender);
        let (outside, inside) = (Arc::clone(&self.outside), self.inside.clone());
        self.running.spawn(async move {
            flow(key, early, pass, outside, inside).await;
            key
        });
    }
}

async fn first(socket: &UdpSocket) -> io::Result<(Key, Box<[u8]>)> {
    socket
        .async_io(Interest::READABLE, || {
            BUFFER.with_borrow_mut(|buffer| {
                let datagram = sys::netns::receive(socket, buffer)?;
                let bytes = buffer.get(..datagram.length).unwrap_or_default();
                Ok(((datagram.source, datagram.destination), Box::from(bytes)))
            })
        })
        .await
}

async fn flow(
    key: Key,
    early: mpsc::Receiver<Box<[u8]>>,
    mut pass: Pass,
    outside: Arc<Outside>,
    inside: Inside,
) {
    let (container, to) = key;
    let work = async {
        let out = match outside.datagrams(to).await {
            Ok(out) => out,
            Err(error) => {
                tracing::debug!(%to, error = &error as &dyn std::error::Error, "container's datagram not sent");
                return;
            }
        };
        let back = match inside
            .run(move || answering(container, to))
            .await
            .and_then(|made| UdpSocket::from_std(made?))
        {
            Ok(back) => back,
            Err(error) => {
                tracing::debug!(%to, %error, "cannot answer a container's datagram");
                return;
            }
        };
        // Whether a new socket has room is unknown until asked once.
        if out.writable().await.and(back.writable().await).is_err() {
            return;
        }
        let silence = if to.port() == 53 {
            QUERY_SILENCE
        } else {
            SILENCE
        };
        relay(&out, &back, early, silence).await;
    };
    tokio::select! {
        () = work => {}
        () = pass.revoked() => {}
    }
}

/// The socket that is, for the container, the other end.
fn answering(container: SocketAddrV4, to: SocketAddrV4) -> io::Result<std::net::UdpSocket> {
    let socket = namespace::datagrams(SocketAddr::V4(to), true)?;
    socket.connect(container)?;
    Ok(socket)
}

/// Moves datagrams both ways until silence or refusal.
async fn relay(
    out: &UdpSocket,
    back: &UdpSocket,
    mut early: mpsc::Receiver<Box<[u8]>>,
    silence: Duration,
) {
    let idle = tokio::time::sleep(silence);
    tokio::pin!(idle);
    loop {
        let moved = tokio::select! {
            datagram = early.recv() => match datagram {
                Some(datagram) => passable(out.try_send(&datagram).map(drop)),
                None => return,
            },
            ready = out.readable() => ready.and_then(|()| burst(out, back)),
            ready = back.readable() => ready.and_then(|()| burst(back, out)),
            () = &mut idle => return,
        };
        if let Err(error) = moved {
            tracing::trace!(%error, "datagram flow refused");
            return;
        }
        idle.as_mut().reset(Instant::now() + silence);
    }
}

fn burst(from: &UdpSocket, to: &UdpSocket) -> io::Result<()> {
    BUFFER.with_borrow_mut(|buffer| {
        for _ in 0..BURST {
            match from.try_recv(buffer) {
                Ok(length) => passable(
                    to.try_send(buffer.get(..length).unwrap_or_default())
                        .map(drop),
                )?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

/// A datagram may be lost where there is no room for it, or where it is too long for the way.
fn passable(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error)
            if error.kind() == io::ErrorKind::WouldBlock
                || error.raw_os_error() == Some(libc::EMSGSIZE) =>
        {
            Ok(())
        }
        sent => sent,
    }
}
