//! Connections from this machine, and to it.

use std::{io, net::SocketAddr, os::fd::AsFd, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpListener, UdpSocket, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use wire::{
    LinkError, LinkErrorKind, Status,
    carry::{self, Room},
    datagrams::{self, Flow},
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
        Peer::Datagrams(socket) => {
            datagrams::stream_to_socket(conn, socket).await;
            Ok(())
        }
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

/// Answers a `listen` request for datagrams: hands the socket to the engine where that is possible, and carries its datagrams
/// otherwise, a connection for each peer.
async fn listen_udp(
    server: &Server,
    stream: u64,
    mut conn: Conn,
    socket: UdpSocket,
    handed: bool,
) -> io::Result<()> {
    let listening = Status::Ok(Listening {
        addr: socket.local_addr()?.to_string(),
    });
    if !handed {
        say(&mut conn, &listening).await?;
    } else if say_with(&mut conn, &listening, &socket).await? {
        // The engine's copy is the only one: it closes the port when it likes.
        drop(socket);
        let _ = conn.read(&mut [0; 1]).await;
        return Ok(());
    }
    let carry = |flow: Flow| {
        let server = server.clone();
        async move {
            let peer = flow.peer().to_string();
            if let Ok(to_engine) = server.accepted(stream, peer).await {
                datagrams::to_stream(flow, to_engine).await;
            }
        }
    };
    let mut byte = [0; 1];
    tokio::select! {
        () = datagrams::serve(socket, carry) => {}
        // Nothing is expected from the engine but the end.
        _ = conn.read(&mut byte) => {}
    }
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
    if network == Network::Unix {
        let why = format!("cannot listen at `{addr}`: only tcp and udp are supported");
        let error = LinkError::new(LinkErrorKind::Invalid, why);
        return Ok(say::<()>(&mut conn, &Status::Error(error)).await?);
    }
    if network == Network::Udp {
        return match UdpSocket::bind(&at[..]).await {
            Err(e) => Ok(say::<()>(&mut conn, &failed(&e, first)).await?),
            Ok(socket) => Ok(listen_udp(server, stream, conn, socket, handed).await?),
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
