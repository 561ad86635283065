//! Containers' TCP connections to the outside: accepted in the engine's namespace, dialled in the machine's, copied.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    outside::{self, Outside},
    tenants::{Pass, Tenants},
};

/// Bytes moved at once. Held only while bytes are moving, so an idle connection costs nothing but its descriptors.
const CHUNK: usize = 64 * 1024;
/// After a failure to accept (descriptors used up) the loop rests.
const REST: Duration = Duration::from_millis(20);

/// Accepts until dropped; dropping it ends all connections.
pub(super) async fn serve(listener: TcpListener, tenants: Arc<Tenants>, outside: Arc<Outside>) {
    let mut flows = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match ends(&stream) {
                    Some((container, to)) => match tenants.pass(*container.ip()) {
                        Some(pass) => drop(flows.spawn(flow(stream, to, pass, Arc::clone(&outside)))),
                        None => reset(&stream),
                    },
                    None => reset(&stream),
                },
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a container's connection");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(_) = flows.join_next() => {}
        }
    }
}

/// The container's address and the one it wanted.
fn ends(stream: &TcpStream) -> Option<(SocketAddrV4, SocketAddrV4)> {
    match (stream.peer_addr().ok()?, stream.local_addr().ok()?) {
        (SocketAddr::V4(container), SocketAddr::V4(to)) => Some((container, to)),
        _ => None,
    }
}

async fn flow(inside: TcpStream, to: SocketAddrV4, mut pass: Pass, outside: Arc<Outside>) {
    let work = async {
        match outside.connect(to).await {
            Ok(stream) => match relay(&inside, &stream).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::trace!(%to, %error, "connection broke");
                    reset(&stream);
                }
            },
            Err(error) => {
                tracing::debug!(%to, error = &error as &dyn std::error::Error, "container's connection failed")
            }
        }
        reset(&inside);
    };
    tokio::select! {
        () = work => {}
        () = pass.revoked() => {}
    }
}

/// Makes the close that follows a reset, so that the peer cannot take it for an orderly end.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

/// Copies both ways until both ended.
async fn relay(inside: &TcpStream, outside: &TcpStream) -> io::Result<()> {
    outside::prepare(inside)?;
    tokio::try_join!(pump(inside, outside), pump(outside, inside))?;
    Ok(())
}

/// Copies until `from` ends, and passes the end on.
async fn pump(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.try_read(&mut buffer) {
                Ok(0) => {
                    return rustix::net::shutdown(to, rustix::net::Shutdown::Write)
                        .map_err(Into::into);
                }
                Ok(length) => write(to, buffer.get(..length).unwrap_or_default()).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
