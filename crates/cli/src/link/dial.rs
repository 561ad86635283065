//! Connections from this machine, and to it.

use std::{io, net::SocketAddr, os::fd::AsFd, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::{TcpListener, UdpSocket, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use wire::{
    LinkError, LinkErrorKind, Status,
    carry::{self, Room},
    frame::{self, Kind},
    link::{Listening, Network},
    pass,
};

use super::{Broken, Server, holder, status_line};
use crate::{
    connect::Conn,
    resolve::{self, Names},
};

/// How long a connection may take to be accepted.
const CONNECT: Duration = Duration::from_secs(30);
/// Longest datagram.
const DATAGRAM: usize = 64 << 10;
/// Most connections of one listener at once; more wait to be accepted.
const ACCEPTED: usize = 512;

/// Worded as Go programs do.
fn refused(what: &str, network: Network, addr: &str, error: &io::Error) -> LinkError {
    let net = match network {
        Network::Tcp => "tcp",
        Network::Udp => "udp",
        Network::Unix => "unix",
    };
    LinkError::io(&format!("{what} {net}"), Path::new(addr), error)
}

async fn say<T: serde::Serialize>(conn: &mut Conn, status: &Status<T>) -> io::Result<()> {
    conn.write_all(&status_line(status)?).await
}

/// Says a status with a socket beside it, if the way to the engine can carry one; whether it could.
async fn say_with<T: serde::Serialize>(
    conn: &mut Conn,
    status: &Status<T>,
    socket: &impl AsFd,
) -> io::Result<bool> {
    let line = status_line(status)?;
    let Conn::Unix(stream) = &*conn else {
        conn.write_all(&line).await?;
        return Ok(false);
    };
    let send = || pass::send(stream.as_fd(), &line, socket.as_fd());
    let sent = stream.async_io(Interest::WRITABLE, send).await?;
    conn.write_all(line.get(sent..).unwrap_or_default()).await?;
    Ok(true)
}

/// Answers a `dial` request and carries the bytes until both sides are done.
///
/// # Errors
/// A broken connection to the engine.
pub async fn dial(
    mut conn: Conn,
    network: Network,
    addr: &str,
    handed: bool,
    names: Names,
) -> io::Result<()> {
    let connected = async {
        match network {
            Network::Tcp => resolve::connect_tcp(addr, names).await.map(|s| {
                // Latency over throughput, as every Go program has it. A failure changes nothing.
                let _ = s.set_nodelay(true);
                Peer::Stream(Conn::Tcp(s))
            }),
            Network::Unix => UnixStream::connect(addr)
                .await
                .map(|s| Peer::Stream(Conn::Unix(s))),
            Network::Udp => connect_udp(addr, names).await.map(Peer::Datagrams),
        }
    };
    let peer = match timeout(CONNECT, connected)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    {
        Ok(peer) => peer,
        Err(e) => {
            return say::<()>(
                &mut conn,
                &Status::Error(refused("dial", network, addr, &e)),
            )
            .await;
        }
    };
    if let (true, Peer::Stream(Conn::Tcp(socket))) = (handed, &peer) {
        if say_with(&mut conn, &Status::Ok(()), socket).await? {
            return Ok(());
        }
    } else {
        say(&mut conn, &Status::Ok(())).await?;
    }
    match peer {
        Peer::Stream(stream) => {
            carry::streams(conn, stream, Room::USUAL).await;
            Ok(())
        }
        Peer::Datagrams(socket) => datagrams(conn, socket).await,
    }
}

enum Peer {
    Stream(Conn),
    Datagrams(UdpSocket),
}

async fn connect_udp(addr: &str, names: Names) -> io::Result<UdpSocket> {
    let to = resolve::lookup(addr, names)
        .await?
        .first()
        .copied()
        .ok_or(io::ErrorKind::NotFound)?;
    let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(from).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Carries datagrams until the engine closes the stream.
async fn datagrams(conn: Conn, socket: UdpSocket) -> io::Result<()> {
    let (from_engine, mut to_engine) = tokio::io::split(conn);
    let mut from_engine = BufReader::new(from_engine);
    let outward = async {
        let mut payload = Vec::new();
        while let Ok(Kind::Data) = frame::read_async(&mut from_engine, &mut payload).await {
            // A datagram that nobody takes is lost, as datagrams are.
            let _ = socket.send(&payload).await;
        }
    };
    let inward = async {
        let mut datagram = vec![0; DATAGRAM];
        loop {
            // An unreachable port is told at the next receive; the peer may come back.
            let Ok(n) = socket.recv(&mut datagram).await else {
                continue;
            };
            let payload = datagram.get(..n).unwrap_or_default();
            if frame::write_async(&mut to_engine, Kind::Data, payload)
                .await
                .is_err()
            {
                return;
            }
        }
    };
    tokio::select! { () = outward => {}, () = inward => {} }
    Ok(())
}

/// Hands a datagram socket to the engine, where that is possible: nobody carries datagrams over a stream yet.
async fn hand_over(
    mut conn: Conn,
    network: Network,
    addr: &str,
    socket: UdpSocket,
    handed: bool,
) -> io::Result<()> {
    if network != Network::Udp || !handed || !matches!(conn, Conn::Unix(_)) {
        let why =
            format!("cannot listen at `{addr}`: only tcp is supported with an engine elsewhere");
        let error = LinkError::new(LinkErrorKind::Invalid, why);
        return say::<()>(&mut conn, &Status::Error(error)).await;
    }
    let listening = Status::Ok(Listening {
        addr: socket.local_addr()?.to_string(),
    });
    say_with(&mut conn, &listening, &socket).await?;
    // The engine's copy is the only one: it closes the port when it likes.
    drop(socket);
    let _ = conn.read(&mut [0; 1]).await;
    Ok(())
}

/// Answers a `listen` request: accepts until the engine closes the stream.
pub(super) async fn listen(
    server: &Server,
    stream: u64,
    mut conn: Conn,
    (network, addr): (Network, &str),
    handed: bool,
) -> Result<(), Broken> {
    let failed = |e: &io::Error, at: Option<SocketAddr>| {
        let mut error = refused("listen", network, addr, e);
        if let (io::ErrorKind::AddrInUse, Some(at)) = (e.kind(), at)
            && let Some(holder) = holder::of(at, network == Network::Udp)
        {
            error.message = format!("{} by {holder}", error.message);
        }
        Status::Error(error)
    };
    let at = match resolve::lookup(addr, server.names()).await {
        Ok(at) => at,
        Err(e) => return Ok(say::<()>(&mut conn, &failed(&e, None)).await?),
    };
    let first = at.first().copied();
    if network != Network::Tcp {
        return match UdpSocket::bind(&at[..]).await {
            Err(e) => Ok(say::<()>(&mut conn, &failed(&e, first)).await?),
            Ok(socket) => Ok(hand_over(conn, network, addr, socket, handed).await?),
        };
    }
    let listener = match TcpListener::bind(&at[..]).await {
        Ok(l) => l,
        Err(e) => return Ok(say::<()>(&mut conn, &failed(&e, first)).await?),
    };
    let local = listener.local_addr()?;
    let listening = Status::Ok(Listening {
        addr: local.to_string(),
    });
    if !handed {
        say(&mut conn, &listening).await?;
    } else if say_with(&mut conn, &listening, &listener).await? {
        // The engine accepts, and its copy is the only one: it closes the port when it likes.
        drop(listener);
        let _ = conn.read(&mut [0; 1]).await;
        return Ok(());
    }
    let room = Arc::new(Semaphore::new(ACCEPTED));
    let accept = async {
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let Ok((accepted, peer)) = listener.accept().await else {
                // Out of descriptors, most likely: wait for some to be closed.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let server = server.clone();
            tokio::spawn(async move {
                let _permit = permit;
                let _ = accepted.set_nodelay(true);
                if let Ok(to_engine) = server.accepted(stream, peer.to_string()).await {
                    carry::streams(accepted, to_engine, Room::USUAL).await;
                }
            });
        }
    };
    let mut byte = [0; 1];
    tokio::select! {
        () = accept => {}
        // Nothing is expected from the engine but the end.
        _ = conn.read(&mut byte) => {}
    }
    Ok(())
}
