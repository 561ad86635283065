//! Carries the bytes of a connection between two others. Each side's end reaches the other, what breaks ends both.
//!
//! Between two sockets of this machine long streams are moved by the kernel, without a copy here.

use std::{io, os::fd::AsFd};

use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::TcpStream,
};

/// Bytes on their way in each direction, where they are copied.
const COPIED: usize = 64 << 10;
/// A direction is worth a pipe after this many bytes.
const WORTH_A_PIPE: usize = 128 << 10;
/// Bytes on their way in each direction, where the kernel moves them.
const MOVED: usize = 1 << 20;
/// A first reading: requests and short answers.
const FIRST: usize = 8 << 10;

/// Between any two streams.
pub(super) async fn streams(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
) {
    // There is nobody to tell of a connection that broke.
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut one, &mut other, COPIED, COPIED).await;
}

/// Between two sockets.
pub(super) async fn sockets(one: TcpStream, other: TcpStream) {
    // Latency over throughput; a failure changes nothing.
    let _ = one.set_nodelay(true);
    let _ = other.set_nodelay(true);
    // As above.
    let _ = tokio::try_join!(direction(&one, &other), direction(&other, &one));
}

/// Carries all that `from` says to `to`, and its end.
async fn direction(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    if copied(from, to).await? {
        moved(from, to).await?;
    }
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        // It has ended by itself.
        Err(rustix::io::Errno::NOTCONN) => Ok(()),
        other => Ok(other?),
    }
}

/// Copies the beginning; true when there is more.
async fn copied(from: &TcpStream, to: &TcpStream) -> io::Result<bool> {
    let mut total = 0;
    let mut buffer = Vec::new();
    while total < WORTH_A_PIPE {
        from.readable().await?;
        buffer.resize(if total < FIRST { FIRST } else { COPIED }, 0);
        let n = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        };
        let mut rest = buffer.get(..n).unwrap_or_default();
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        total += n;
    }
    Ok(true)
}

/// Lets the kernel move the rest.
async fn moved(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (out, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Smaller ones work as well.
    let _ = rustix::pipe::fcntl_setpipe_size(&into, MOVED);
    let splice = |from: &dyn AsFd, to: &dyn AsFd, n| {
        Ok(rustix::pipe::splice(
            from.as_fd(),
            None,
            to.as_fd(),
            None,
            n,
            SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
        )?)
    };
    loop {
        let mut held = from
            .async_io(Interest::READABLE, || splice(from, &into, MOVED))
            .await?;
        if held == 0 {
            return Ok(());
        }
        while held > 0 {
            held -= to
                .async_io(Interest::WRITABLE, || splice(&out, to, held))
                .await?;
        }
    }
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
    async fn a_peer_that_is_gone_ends_the_other_side() {
        let (one, mut other) = through().await;
        drop(one);
        assert_eq!(other.read(&mut [0; 1]).await.expect("an end"), 0);
    }
}
