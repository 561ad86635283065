//! Dialling for containers from the machine's own namespace, and what containers may not dial.
//!
//! A connection made here comes from the machine itself: services that trust the machine would trust containers. So
//! everything that is this machine is refused, whatever the container called it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::{link, netlink::Socket, packet};

/// Ranges that are refused without asking the routing table: "this" network (the kernel takes 0.0.0.0 for itself),
/// loopback, link-local (machine metadata services live there), multicast and the reserved rest.
pub(super) const REFUSED: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// How long the outside may take to answer a connection attempt.
const CONNECT: Duration = Duration::from_secs(130);

/// The way out.
#[derive(Debug)]
pub(super) struct Outside {
    /// Belongs to the namespace of the thread that made this value: the machine's.
    routes: Mutex<Socket>,
    /// The number of the next echo.
    echoes: AtomicU16,
}

/// Why a container may not, or cannot, reach an address.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// In a range of [`REFUSED`].
    #[error("`{0}` is no other machine's address")]
    Reserved(Ipv4Addr),
    /// The machine's own address, or none to connect to.
    #[error("`{0}` is not for containers")]
    Refused(Ipv4Addr),
    #[error("cannot reach `{to}`")]
    Failed {
        to: SocketAddrV4,
        #[source]
        source: io::Error,
    },
}

impl Outside {
    /// Containers will dial from the calling thread's namespace.
    pub(super) fn here() -> io::Result<Outside> {
        Ok(Outside {
            routes: Mutex::new(Socket::route()?),
            echoes: AtomicU16::new(1),
        })
    }

    /// Connects to an address outside.
    pub(super) async fn connect(&self, to: SocketAddrV4) -> Result<TcpStream, DialError> {
        self.check(to)?;
        let failed = |source| DialError::Failed { to, source };
        let socket = TcpSocket::new_v4().map_err(failed)?;
        let stream = match tokio::time::timeout(CONNECT, socket.connect(to.into())).await {
            Ok(answer) => answer.map_err(failed)?,
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        prepare(&stream).map_err(failed)?;
        Ok(stream)
    }

    /// A socket for datagrams to and from one address outside.
    pub(super) async fn datagrams(&self, to: SocketAddrV4) -> Result<UdpSocket, DialError> {
        self.check(to)?;
        let failed = |source| DialError::Failed { to, source };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .await
            .map_err(failed)?;
        socket.connect(to).await.map_err(failed)?;
        Ok(socket)
    }

    /// Sends an echo request and waits for the reply; both are ICMP messages.
    pub(super) async fn echo(&self, to: Ipv4Addr, request: &[u8]) -> Result<Vec<u8>, DialError> {
        let to = SocketAddrV4::new(to, 0);
        self.check(to)?;
        self.exchange(to, request)
            .await
            .map_err(|source| DialError::Failed { to, source })
    }

    async fn exchange(&self, to: SocketAddrV4, request: &[u8]) -> io::Result<Vec<u8>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            flags,
            Some(ipproto::ICMP),
        )?;
        rustix::net::connect(&socket, &to)?;
        // Only sockets of tokio's types can be waited for without `unsafe`; this one is for any that carries datagrams.
        let socket = UdpSocket::from_std(socket.into())?;
        // The socket sees the replies to all: ours are known by the number.
        let number = self.echoes.fetch_add(1, Ordering::Relaxed);
        socket.send(&packet::echo_request(request, number)).await?;
        let mut buffer = vec![0; 2048];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let reply = buffer
                .get(..length)
                .and_then(|reply| packet::echo_reply(reply, number));
            if let Some(reply) = reply {
                return Ok(reply.to_vec());
            }
        }
    }

    fn check(&self, to: SocketAddrV4) -> Result<(), DialError> {
        if refused(*to.ip()) {
            return Err(DialError::Reserved(*to.ip()));
        }
        let socket = self
            .routes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match socket.ask(&link::route_query(*to.ip()), link::is_elsewhere) {
            Ok(true) => Ok(()),
            Ok(false) => Err(DialError::Refused(*to.ip())),
            Err(source) => Err(DialError::Failed { to, source }),
        }
    }
}

/// Is the address in a range that is refused?
fn refused(address: Ipv4Addr) -> bool {
    REFUSED.iter().any(|(network, length)| {
        let mask = u32::MAX << (32 - u32::from(*length));
        u32::from(address) & mask == u32::from(*network)
    })
}

/// What both ends of a proxied connection get: no waiting for more data, and an end when the other side is gone without a
/// word.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(20))?;
    sockopt::set_tcp_keepcnt(stream, 6)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_itself_is_refused_by_range() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(refused(address.parse().expect("an address")), "{address}");
        }
        for address in [
            "1.1.1.1",
            "10.0.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "172.17.0.2",
            "192.168.1.1",
            "223.255.255.255",
        ] {
            assert!(!refused(address.parse().expect("an address")), "{address}");
        }
    }
}
