//! Carries the bytes of a connection between two others, as [`wire::carry`] does.

use std::os::fd::AsFd;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use wire::carry::{self, Break, Room};

/// Between sockets. The kernel's own ways of moving bytes between them were measured and are slower than copies of this size;
/// half of it costs a tenth of the throughput, double of it gains nothing more.
const SOCKETS: Room = Room {
    first: 8 << 10,
    most: 2 << 20,
};

/// Between any two streams.
pub(crate) async fn streams(one: impl AsyncRead + AsyncWrite, other: impl AsyncRead + AsyncWrite) {
    carry::streams(one, other, Room::USUAL).await;
}

/// Latency over throughput, for a socket and all that it accepts.
pub(super) fn hasten(socket: impl AsFd) {
    // A failure changes nothing.
    let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
}

/// Between two sockets, hastened before. A reset of one is a reset of the other.
pub(super) async fn sockets(mut one: TcpStream, mut other: TcpStream) {
    if carry::halves(one.split(), other.split(), SOCKETS, Break::Nothing).await {
        reset(&one);
        reset(&other);
    }
}

/// Makes the close that follows a reset, which a peer cannot take for an orderly end.
pub(super) fn reset(stream: &TcpStream) {
    // A socket that cannot be told so is gone already.
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Two connected pairs with the inner ends joined.
    async fn through() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let mut pairs = Vec::new();
        for _ in 0..2 {
            let (outer, inner) = tokio::join!(TcpStream::connect(at), listener.accept());
            pairs.push((outer.expect("connected"), inner.expect("accepted").0));
        }
        let ((one, a), (other, b)) = (pairs.remove(0), pairs.remove(0));
        tokio::spawn(sockets(a, b));
        (one, other)
    }

    #[tokio::test]
    async fn long_streams_and_ends_pass_both_ways() {
        let (mut one, mut other) = through().await;
        let data: Vec<u8> = (0..5_000_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let sent = data.clone();
        let sender = tokio::spawn(async move {
            one.write_all(&sent).await.expect("sent");
            one.shutdown().await.expect("a half-close");
            let mut answer = String::new();
            one.read_to_string(&mut answer).await.expect("an answer");
            answer
        });
        let mut got = Vec::new();
        other.read_to_end(&mut got).await.expect("an end");
        assert!(got == data, "{} bytes", got.len());
        other.write_all(b"all of it").await.expect("sent");
        drop(other);
        assert_eq!(sender.await.expect("no panic"), "all of it");
    }

    #[tokio::test]
    async fn a_reply_survives_a_request_that_nobody_reads() {
        let (mut one, mut other) = through().await;
        other.write_all(b"pong").await.expect("sent");
        drop(other);
        // More than the sockets between hold.
        let asked = vec![0; 16 << 20];
        let (mut reader, mut writer) = one.split();
        let mut reply = String::new();
        let (sent, read) =
            tokio::join!(writer.write_all(&asked), reader.read_to_string(&mut reply));
        read.expect("an end");
        assert_eq!(reply, "pong");
        sent.expect("a side is listened to until it has heard all");
    }

    #[tokio::test]
    async fn a_reset_is_no_orderly_end_for_the_other_side() {
        let (mut one, mut other) = through().await;
        one.write_all(b"half of it").await.expect("sent");
        let mut got = [0; 10];
        other.read_exact(&mut got).await.expect("delivered");
        reset(&one);
        drop(one);
        let e = other.read(&mut [0; 1]).await.expect_err("a reset");
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_ends_the_other_side() {
        let (one, mut other) = through().await;
        drop(one);
        assert_eq!(other.read(&mut [0; 1]).await.expect("an end"), 0);
    }

    #[tokio::test]
    async fn a_reset_ends_the_other_side() {
        let (one, mut other) = through().await;
        reset(&one);
        drop(one);
        assert!(matches!(other.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        // And soon it cannot be written to any more.
        let gone = async { while other.write_all(b"still there?").await.is_ok() {} };
        tokio::time::timeout(std::time::Duration::from_secs(20), gone)
            .await
            .expect("told");
    }
}
