//! The way back to a client: requests go over the control connection, answers come as connections of their own.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use engine::link::{ClientLink, Dialed, Io, LinkFuture, Listener, ListeningSocket};
use tokio::sync::{mpsc, oneshot};
use wire::{
    LinkError, LinkErrorKind, LinkRequest, ToClient,
    link::{Listening, Network, read_status},
};

use crate::conn::Conn;

/// Longest time a client may take to answer with a connection.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Accepted connections of one listener that wait to be carried.
const BACKLOG: usize = 512;

/// The engine's side of one client.
pub(crate) struct Link {
    lines: mpsc::Sender<ToClient>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Conn>>>,
    listeners: Mutex<HashMap<u64, mpsc::Sender<Box<dyn Io>>>>,
}

impl Link {
    pub(crate) fn new(lines: mpsc::Sender<ToClient>) -> Self {
        Self {
            lines,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            listeners: Mutex::default(),
        }
    }

    /// The client's connection for a request.
    pub(crate) fn deliver(&self, stream: u64, conn: Conn) {
        let waiter = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&stream);
        if let Some(waiter) = waiter {
            // Whoever asked may have given up.
            let _ = waiter.send(conn);
        }
    }

    /// A connection that one of the client's listeners accepted.
    pub(crate) fn accepted(&self, stream: u64, conn: Conn) {
        let sender = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&stream)
            .cloned();
        if let Some(sender) = sender {
            // One too many is closed, as a full backlog does.
            let _ = sender.try_send(Box::new(conn));
        }
    }

    /// Lets everyone know who still waits for the client that it is gone.
    pub(crate) fn close(&self) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    async fn request(&self, request: LinkRequest) -> Result<Box<dyn Io>, LinkError> {
        let conn = self
            .ask(self.next.fetch_add(1, Ordering::Relaxed), request)
            .await?;
        Ok(Box::new(conn))
    }

    async fn start_listening(&self, network: Network, addr: String) -> Result<Listener, LinkError> {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, accepted) = mpsc::channel(BACKLOG);
        {
            let mut listeners = self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            listeners.retain(|_, l| !l.is_closed());
            listeners.insert(stream, sender);
        }
        let mut control = self
            .ask(
                stream,
                LinkRequest::Listen {
                    addr,
                    pass: true,
                    network,
                },
            )
            .await?;
        let Listening { addr } = read_status(&mut control).await?;
        let socket = match (control.get_mut().descriptor(), network) {
            (None, _) => None,
            (Some(fd), Network::Udp) => {
                Some(ListeningSocket::Udp(checked(fd, Wanted::Datagrams)?.into()))
            }
            (Some(fd), _) => Some(ListeningSocket::Tcp(checked(fd, Wanted::Listener)?.into())),
        };
        Ok(Listener {
            addr,
            socket,
            accepted,
            control: Box::new(control),
        })
    }

    async fn connect(&self, addr: String) -> Result<Dialed, LinkError> {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let mut conn = self
            .ask(
                stream,
                LinkRequest::Dial {
                    network: Network::Tcp,
                    addr,
                    pass: true,
                },
            )
            .await?;
        read_status::<()>(&mut conn).await?;
        Ok(match conn.get_mut().descriptor() {
            Some(fd) => Dialed::Socket(std::net::TcpStream::from(checked(fd, Wanted::Connection)?)),
            None => Dialed::Stream(Box::new(conn)),
        })
    }

    async fn ask(&self, stream: u64, request: LinkRequest) -> Result<Conn, LinkError> {
        let gone = || LinkError::new(LinkErrorKind::Io, "the client is gone");
        let (tx, rx) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(stream, tx);
        let forget = Forget { link: self, stream };
        self.lines
            .send(ToClient::Open { stream, request })
            .await
            .map_err(|_| gone())?;
        let conn = tokio::time::timeout(ANSWER_TIME, rx)
            .await
            .map_err(|_| {
                LinkError::new(
                    LinkErrorKind::Io,
                    format!(
                        "the client did not answer within {} s",
                        ANSWER_TIME.as_secs()
                    ),
                )
            })?
            .map_err(|_| gone())?;
        drop(forget);
        Ok(conn)
    }
}

/// What a descriptor that a client handed over should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Connection,
    Listener,
    Datagrams,
}

/// A descriptor that a client handed over, if it is the socket it should be.
fn checked(fd: OwnedFd, wanted: Wanted) -> Result<OwnedFd, LinkError> {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let family = matches!(
        sockopt::socket_domain(&fd),
        Ok(AddressFamily::INET | AddressFamily::INET6)
    );
    let kind = if wanted == Wanted::Datagrams {
        SocketType::DGRAM
    } else {
        SocketType::STREAM
    };
    let accepts = matches!(sockopt::socket_acceptconn(&fd), Ok(true));
    if !family || sockopt::socket_type(&fd) != Ok(kind) || accepts != (wanted == Wanted::Listener) {
        return Err(LinkError::new(
            LinkErrorKind::Invalid,
            "the client handed over something else than the socket it was asked for",
        ));
    }
    let blocking = |e: rustix::io::Errno| {
        LinkError::new(
            LinkErrorKind::Io,
            format!("cannot use the client's socket: {e}"),
        )
    };
    rustix::io::ioctl_fionbio(&fd, true).map_err(blocking)?;
    Ok(fd)
}

/// Removes the seat of a request that was given up.
struct Forget<'a> {
    link: &'a Link,
    stream: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.link
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.stream);
    }
}

impl ClientLink for Link {
    fn open(&self, request: LinkRequest) -> LinkFuture<'_, Result<Box<dyn Io>, LinkError>> {
        Box::pin(self.request(request))
    }

    fn listen(
        &self,
        network: Network,
        addr: String,
    ) -> LinkFuture<'_, Result<Listener, LinkError>> {
        Box::pin(self.start_listening(network, addr))
    }

    fn dial(&self, addr: String) -> LinkFuture<'_, Result<Dialed, LinkError>> {
        Box::pin(self.connect(addr))
    }
}
