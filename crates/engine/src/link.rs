//! The client's machine, as the engine reaches it: one of two ports to another machine.

use std::{future::Future, pin::Pin};

use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::sync::mpsc;
use wire::{LinkError, LinkRequest, link::Network};

/// Bytes to and from a client.
pub trait Io: AsyncBufRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncBufRead + AsyncWrite + Send + Unpin> Io for T {}

/// A boxed future of a link.
pub type LinkFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asks things of a client's machine. The answer begins with a [`wire::Status`] line.
pub trait ClientLink: Send + Sync {
    /// Opens a stream for a request.
    ///
    /// # Errors
    /// The client is gone or does not answer.
    fn open(&self, request: LinkRequest) -> LinkFuture<'_, Result<Box<dyn Io>, LinkError>>;

    /// Listens on the client's machine at `host:port`.
    ///
    /// # Errors
    /// The address is taken or none of the machine's, or the client is gone.
    fn listen(&self, network: Network, addr: String)
    -> LinkFuture<'_, Result<Listener, LinkError>>;

    /// Connects over TCP from the client's machine to `host:port`.
    ///
    /// # Errors
    /// Nobody answers there, or the client is gone.
    fn dial(&self, addr: String) -> LinkFuture<'_, Result<Dialed, LinkError>> {
        Box::pin(async {
            let mut stream = self
                .open(LinkRequest::Dial {
                    network: Network::Tcp,
                    addr,
                    pass: false,
                })
                .await?;
            wire::link::read_status::<()>(&mut stream).await?;
            Ok(Dialed::Stream(stream))
        })
    }
}

/// A connection from a client's machine.
pub enum Dialed {
    /// The socket itself, not blocking: the client is on this machine.
    Socket(std::net::TcpStream),
    /// Its bytes, carried by the client.
    Stream(Box<dyn Io>),
}

/// A port that is open on a client's machine.
pub struct Listener {
    /// The address it has.
    pub addr: String,
    /// The socket itself, not blocking, when the client is on this machine; then nothing is `accepted` for us.
    pub socket: Option<ListeningSocket>,
    /// Connections to it, carried by the client.
    pub accepted: mpsc::Receiver<Box<dyn Io>>,
    /// It is open as long as this is.
    pub control: Box<dyn Io>,
}

/// A socket that is bound on a client's machine.
pub enum ListeningSocket {
    /// Listens for connections.
    Tcp(std::net::TcpListener),
    /// Takes datagrams.
    Udp(std::net::UdpSocket),
}
