//! Datagrams between a port that is open and somewhere else: a flow for each peer, until it falls silent.
//!
//! Over a stream every datagram is a [`Data`](Kind::Data) frame.

use std::{collections::HashMap, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    net::UdpSocket,
    sync::mpsc,
    time::timeout,
};

use crate::frame::{self, Kind};

/// Peers of one port at once.
const FLOWS_MAX: usize = 256;
/// Datagrams waiting for one peer's way.
const WAITING: usize = 64;
/// A peer that is silent for so long is forgotten.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest datagram, in bytes.
const LONGEST: usize = 64 << 10;

/// What one peer of a port says, and the way back to it.
pub struct Flow {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    queue: mpsc::Receiver<Vec<u8>>,
}

impl Flow {
    /// The peer's next datagram; `None` when it has been silent for long.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        timeout(SILENCE, self.queue.recv()).await.ok().flatten()
    }

    /// Who it is.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The way back, to be used beside [`Flow::next`].
    pub fn back(&self) -> Back {
        Back {
            socket: self.socket.clone(),
            peer: self.peer,
        }
    }
}

/// The way back to a peer.
pub struct Back {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
}

impl Back {
    /// Sends an answer. One that is not taken is lost, as datagrams are.
    pub async fn send(&self, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, self.peer).await;
    }
}

/// Carries what arrives at a port: `carry` is run for each new peer and ends with it. Dropping this ends all, and the port is
/// free then: flows are no tasks of their own, which would hold the socket until they are found to be aborted.
pub async fn serve<F, R>(socket: UdpSocket, carry: F)
where
    F: Fn(Flow) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let socket = Arc::new(socket);
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut running = FuturesUnordered::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        tokio::select! {
            Some(peer) = running.next() => {
                flows.remove(&peer);
            }
            received = socket.recv_from(&mut buffer) => {
                // What cannot be received was lost on the way: an unreachable peer is told so here.
                let Ok((n, peer)) = received else { continue };
                if !flows.contains_key(&peer) {
                    if flows.len() >= FLOWS_MAX {
                        continue;
                    }
                    let (datagrams, queue) = mpsc::channel(WAITING);
                    flows.insert(peer, datagrams);
                    let flow = carry(Flow { socket: socket.clone(), peer, queue });
                    running.push(Box::pin(async move {
                        flow.await;
                        peer
                    }));
                }
                if let Some(datagrams) = flows.get(&peer) {
                    // One there is no room for is lost, as datagrams are.
                    let _ = datagrams.try_send(buffer.get(..n).unwrap_or_default().to_vec());
                }
            }
        }
    }
}

/// Carries a flow to a connected socket and back, until the peer is silent for long.
pub async fn to_socket(mut flow: Flow, there: UdpSocket) {
    let back = flow.back();
    let outward = async {
        while let Some(datagram) = flow.next().await {
            // An unreachable port is told here; it may be opened yet.
            let _ = there.send(&datagram).await;
        }
    };
    let inward = async {
        let mut buffer = vec![0; LONGEST];
        while let Some(n) = received(&there, &mut buffer).await {
            back.send(buffer.get(..n).unwrap_or_default()).await;
        }
    };
    tokio::select! { () = outward => {}, () = inward => {} }
}

/// Carries a flow over a stream and back, until the peer is silent for long or the stream ends.
pub async fn to_stream(mut flow: Flow, stream: impl AsyncRead + AsyncWrite) {
    let (from, mut to) = tokio::io::split(stream);
    let mut from = BufReader::new(from);
    let back = flow.back();
    let outward = async {
        while let Some(datagram) = flow.next().await {
            if frame::write_async(&mut to, Kind::Data, &datagram)
                .await
                .is_err()
            {
                return;
            }
        }
    };
    let inward = async {
        let mut payload = Vec::new();
        while let Ok(Kind::Data) = frame::read_async(&mut from, &mut payload).await {
            back.send(&payload).await;
        }
    };
    tokio::select! { () = outward => {}, () = inward => {} }
}

/// Carries the datagrams of a stream to a connected socket and back, until the stream ends.
pub async fn stream_to_socket(stream: impl AsyncRead + AsyncWrite, there: UdpSocket) {
    let (from, mut to) = tokio::io::split(stream);
    let mut from = BufReader::new(from);
    let outward = async {
        let mut payload = Vec::new();
        while let Ok(Kind::Data) = frame::read_async(&mut from, &mut payload).await {
            // A datagram that nobody takes is lost, as datagrams are.
            let _ = there.send(&payload).await;
        }
    };
    let inward = async {
        let mut buffer = vec![0; LONGEST];
        while let Some(n) = received(&there, &mut buffer).await {
            let datagram = buffer.get(..n).unwrap_or_default();
            if frame::write_async(&mut to, Kind::Data, datagram)
                .await
                .is_err()
            {
                return;
            }
        }
    };
    tokio::select! { () = outward => {}, () = inward => {} }
}

/// The next datagram of a connected socket; `None` when it is of no use any more.
async fn received(there: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    let mut refused = 0;
    loop {
        match there.recv(buffer).await {
            Ok(n) => return Some(n),
            // An unreachable port is told here; it may be opened yet.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && refused < WAITING => {
                refused += 1;
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.expect("a port")
    }

    /// Says and hears something as two peers of a port that leads to an echo.
    async fn each_peer_gets_its_own_answers<R: Future<Output = ()> + Send + 'static>(
        carry: impl Fn(Flow, UdpSocket) -> R + Copy + Send + Sync + 'static,
    ) {
        let (server, port) = (bind().await, bind().await);
        let (to, at) = (
            server.local_addr().expect("an address"),
            port.local_addr().expect("an address"),
        );
        let echo = tokio::spawn(async move {
            let mut buffer = [0; 100];
            loop {
                let (n, from) = server.recv_from(&mut buffer).await.expect("a datagram");
                server.send_to(&buffer[..n], from).await.expect("sent");
            }
        });
        let serving = tokio::spawn(serve(port, move |flow| async move {
            let there = bind().await;
            there.connect(to).await.expect("connected");
            carry(flow, there).await;
        }));
        let (one, other) = (bind().await, bind().await);
        for (peer, text) in [(&one, b"one"), (&other, b"two"), (&one, b"ONE")] {
            peer.send_to(text, at).await.expect("sent");
        }
        for (peer, texts) in [(&one, vec![b"one", b"ONE"]), (&other, vec![b"two"])] {
            for text in texts {
                let mut buffer = [0; 100];
                let n = peer.recv(&mut buffer).await.expect("an answer");
                assert_eq!(&buffer[..n], text);
            }
        }
        serving.abort();
        echo.abort();
    }

    #[tokio::test]
    async fn each_peer_gets_its_own_answers_from_a_socket() {
        each_peer_gets_its_own_answers(to_socket).await;
    }

    #[tokio::test]
    async fn each_peer_gets_its_own_answers_over_a_stream() {
        each_peer_gets_its_own_answers(|flow, there| async move {
            let (here, away) = tokio::io::duplex(1 << 10);
            tokio::join!(to_stream(flow, here), stream_to_socket(away, there));
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_ends_the_carrying_has_the_port_back() {
        for _ in 0..200 {
            let (port, peer) = (bind().await, bind().await);
            let at = port.local_addr().expect("an address");
            let (began, mut begun) = mpsc::channel(1);
            let serving = tokio::spawn(serve(port, move |mut flow| {
                let began = began.clone();
                async move {
                    began.send(()).await.expect("somebody waits");
                    while flow.next().await.is_some() {}
                }
            }));
            peer.send_to(b"x", at).await.expect("sent");
            begun.recv().await.expect("a flow");
            serving.abort();
            assert!(serving.await.expect_err("aborted").is_cancelled());
            UdpSocket::bind(at).await.expect("the port is free");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_ends_its_flow() {
        let (port, peer, there) = (bind().await, bind().await, bind().await);
        let at = port.local_addr().expect("an address");
        let (ended, mut endings) = mpsc::channel(1);
        let serving = tokio::spawn(serve(port, move |flow| {
            let ended = ended.clone();
            async move {
                let (here, away) = tokio::io::duplex(1 << 10);
                drop(away);
                to_stream(flow, here).await;
                ended.send(()).await.expect("somebody waits");
            }
        }));
        peer.send_to(b"x", at).await.expect("sent");
        endings.recv().await.expect("the flow ended");
        serving.abort();
        let (here, away) = tokio::io::duplex(1 << 10);
        drop(here);
        stream_to_socket(away, there).await;
    }
}
