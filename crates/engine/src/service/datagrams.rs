//! Datagrams between a port that is open and somewhere else: a flow for each peer, until it falls silent.

use std::{collections::HashMap, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};

/// Peers of one port at once.
const FLOWS_MAX: usize = 256;
/// Datagrams waiting for one peer's way.
const WAITING: usize = 64;
/// A peer that is silent for so long is forgotten.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest datagram.
pub(super) const LONGEST: usize = 64 << 10;

/// What one peer says, and the way back to it.
pub(super) struct Flow {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    queue: mpsc::Receiver<Vec<u8>>,
}

impl Flow {
    /// The peer's next datagram; `None` when it has been silent for long.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        timeout(SILENCE, self.queue.recv()).await.ok().flatten()
    }

    /// The way back, to be used beside [`Flow::next`].
    pub(super) fn back(&self) -> Back {
        Back {
            socket: self.socket.clone(),
            peer: self.peer,
        }
    }
}

/// The way back to a peer.
pub(super) struct Back {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
}

impl Back {
    /// Sends an answer. One that is not taken is lost, as datagrams are.
    pub(super) async fn send(&self, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, self.peer).await;
    }
}

/// Carries what arrives at a port: `carry` is run for each new peer and ends with it.
pub(super) async fn serve<F, R>(socket: UdpSocket, carry: F)
where
    F: Fn(Flow) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let socket = Arc::new(socket);
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut running = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        tokio::select! {
            Some(over) = running.join_next() => {
                if let Ok(peer) = over {
                    flows.remove(&peer);
                } else {
                    flows.retain(|_, f| !f.is_closed());
                }
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
                    running.spawn(async move {
                        flow.await;
                        peer
                    });
                }
                if let Some(datagrams) = flows.get(&peer) {
                    // One there is no room for is lost, as datagrams are.
                    let _ = datagrams.try_send(buffer.get(..n).unwrap_or_default().to_vec());
                }
            }
        }
    }
}

/// Carries a flow to a connected socket and back.
pub(super) async fn to_socket(mut flow: Flow, there: UdpSocket) {
    let back = flow.back();
    let outward = async {
        while let Some(datagram) = flow.next().await {
            // An unreachable port is told here; it may be opened yet.
            let _ = there.send(&datagram).await;
        }
    };
    let inward = async {
        let mut buffer = vec![0; LONGEST];
        let mut refused = 0;
        loop {
            match there.recv(&mut buffer).await {
                Ok(n) => back.send(buffer.get(..n).unwrap_or_default()).await,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && refused < WAITING => {
                    refused += 1
                }
                Err(_) => return,
            }
        }
    };
    tokio::select! { () = outward => {}, () = inward => {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_peer_gets_its_own_answers() {
        let bind = || async { UdpSocket::bind("127.0.0.1:0").await.expect("a port") };
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
            let there = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            there.connect(to).await.expect("connected");
            to_socket(flow, there).await;
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
}
