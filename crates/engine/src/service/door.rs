//! The engine's way into a service: sockets of its network namespace, made a few at a time because entering it takes a thread.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
};
use sandbox::network::run_in;
use tokio::net::{TcpStream, UdpSocket};

use super::carry;

/// Sockets made at once.
const BATCH: usize = 16;
/// With fewer than this, more are made ahead of need.
const FEW: usize = 6;

/// A container's namespace and its address there. Cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    namespace: OwnedFd,
    address: Ipv4Addr,
    ready: Mutex<Vec<OwnedFd>>,
    making: AtomicBool,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Door({})", self.0.address)
    }
}

impl Door {
    /// Into this namespace.
    pub(super) fn new(namespace: OwnedFd, address: Ipv4Addr) -> Self {
        Self(Arc::new(Inner {
            namespace,
            address,
            ready: Mutex::default(),
            making: AtomicBool::new(false),
        }))
    }

    /// The container's address.
    pub fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    /// Connects to a port of the container, from within.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let (socket, left) = {
            let mut ready = self.ready();
            (ready.pop(), ready.len())
        };
        let socket = match socket {
            Some(socket) => socket,
            None => {
                let mut made = self.make()?;
                let one = made.pop().ok_or(io::ErrorKind::Other)?;
                self.ready().append(&mut made);
                one
            }
        };
        if (1..FEW).contains(&left) && !self.0.making.swap(true, Ordering::AcqRel) {
            let door = self.clone();
            tokio::task::spawn_blocking(move || {
                // Whoever finds none makes them, and learns why it fails.
                if let Ok(mut made) = door.make() {
                    door.ready().append(&mut made);
                }
                door.0.making.store(false, Ordering::Release);
            });
        }
        connected(socket, SocketAddr::from((self.0.address, port))).await
    }

    /// A datagram socket of the namespace, connected to a port of the container.
    ///
    /// # Errors
    /// No socket can be had.
    pub async fn datagrams(&self, port: u16) -> io::Result<UdpSocket> {
        let socket = run_in(&self.0.namespace, || {
            std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        })??;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.connect((self.0.address, port)).await?;
        Ok(socket)
    }

    /// Runs something in the container's network, on a thread of its own. Blocks.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        run_in(&self.0.namespace, work)
    }

    fn ready(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        crate::lock(&self.0.ready)
    }

    fn make(&self) -> io::Result<Vec<OwnedFd>> {
        run_in(&self.0.namespace, || {
            (0..BATCH).map(|_| Ok(socket()?)).collect()
        })?
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    carry::hasten(&socket);
    Ok(socket)
}

/// Connects a socket. Within one machine that is over when the system call returns: it is only waited for when it is not.
async fn connected(socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(e.into()),
    }
    let early = rustix::net::getpeername(&socket).is_ok();
    let socket = std::net::TcpStream::from(socket);
    if !early && let Some(e) = socket.take_error()? {
        return Err(e);
    }
    let socket = TcpStream::from_std(socket)?;
    if !early {
        socket.writable().await?;
        if let Some(e) = socket.take_error()? {
            return Err(e);
        }
        socket.peer_addr()?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn sockets_are_connected_or_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let mut here = connected(socket().expect("a socket"), at)
            .await
            .expect("connected");
        let (mut there, _) = listener.accept().await.expect("accepted");
        there.write_all(b"x").await.expect("sent");
        assert_eq!(here.read_u8().await.expect("a byte"), b'x');
        drop(listener);
        let e = connected(socket().expect("a socket"), at)
            .await
            .expect_err("nobody listens");
        assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_slow_answer_is_waited_for() {
        // Its backlog is full: the kernel asks again after a second.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        rustix::net::listen(&listener, 0).expect("it listens");
        let at = listener.local_addr().expect("an address");
        let _first = std::net::TcpStream::connect(at).expect("connected");
        let waiting = tokio::spawn(connected(socket().expect("a socket"), at));
        tokio::task::yield_now().await;
        let accepted = tokio::task::spawn_blocking(move || {
            (
                listener.accept().expect("one"),
                listener.accept().expect("two"),
            )
        });
        waiting.await.expect("no panic").expect("connected");
        accepted.await.expect("no panic");
    }
}
