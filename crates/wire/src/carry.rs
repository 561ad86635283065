//! Carries the bytes of a connection between two others. Each side's end reaches the other; what a side said before it broke
//! is delivered.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
    time::sleep,
};

/// Room for the next bytes of a direction: little for requests and short answers, more for what turns out to be long.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// At first, and after short pieces.
    pub first: usize,
    /// At most.
    pub most: usize,
}

impl Room {
    /// Between any streams.
    pub const USUAL: Self = Self {
        first: 8 << 10,
        most: 64 << 10,
    };
}

/// How long a side that still talks to one that has gone is listened to, after it was told the last: closing at once could
/// destroy what is on its way to it.
const GRACE: Duration = Duration::from_secs(1);

/// What a side is told when the other breaks without an orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The end of what there is.
    End,
    /// Nothing: the caller closes the connection in a way that tells it.
    Nothing,
}

/// Carries bytes between two streams until both directions are done. One that breaks looks to the other like one that ends.
pub async fn streams(
    one: impl AsyncRead + AsyncWrite,
    other: impl AsyncRead + AsyncWrite,
    room: Room,
) {
    let (one, other) = (tokio::io::split(one), tokio::io::split(other));
    halves(one, other, room, Break::End).await;
}

/// [`streams`] whose directions have been split already. True when a side broke.
pub async fn halves(
    one: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    other: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    room: Room,
    told: Break,
) -> bool {
    let (mut one, mut other) = (one, other);
    let (there, back, gone) = (Notify::new(), Notify::new(), Notify::new());
    let both = async {
        tokio::join!(
            direction(
                &mut one.0,
                &mut other.1,
                (room, told),
                (&there, &back, &gone)
            ),
            direction(
                &mut other.0,
                &mut one.1,
                (room, told),
                (&back, &there, &gone)
            ),
        )
    };
    tokio::select! { (there, back) = both => there || back, () = after(&gone) => true }
}

async fn after(event: &Notify) {
    event.notified().await;
    sleep(GRACE).await;
}

/// Carries all that `from` says to `to`, and its end. If `to` takes no more, `from` is still listened to while the other
/// direction goes on, and a little longer. `done` is told when nothing more will be delivered, `gone` that `from` has broken,
/// which is the answer too.
async fn direction(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    (room, told): (Room, Break),
    (done, opposite_done, gone): (&Notify, &Notify, &Notify),
) -> bool {
    let stopped = copy(from, to, room).await;
    if stopped == Stopped::Ended || stopped == Stopped::SenderGone && told == Break::End {
        // It may have ended by itself.
        let _ = to.shutdown().await;
    }
    done.notify_one();
    match stopped {
        Stopped::Ended => {}
        Stopped::SenderGone => gone.notify_one(),
        Stopped::ReceiverGone => {
            let mut buffer = vec![0; room.first];
            let discard = async { while matches!(from.read(&mut buffer).await, Ok(1..)) {} };
            tokio::select! { () = after(opposite_done) => {}, () = discard => {} }
        }
    }
    stopped == Stopped::SenderGone
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// The sender said all it wanted.
    Ended,
    /// The sender is gone: nothing can be told to it either.
    SenderGone,
    /// The receiver takes no more. What it said may be on its way.
    ReceiverGone,
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    room: Room,
) -> Stopped {
    let mut buffer = Vec::new();
    let mut len = room.first;
    loop {
        if buffer.len() != len {
            buffer = vec![0; len];
        }
        let n = match from.read(&mut buffer).await {
            Ok(0) => return Stopped::Ended,
            Ok(n) => n,
            Err(_) => return Stopped::SenderGone,
        };
        let piece = buffer.get(..n).unwrap_or_default();
        if to.write_all(piece).await.is_err() || to.flush().await.is_err() {
            return Stopped::ReceiverGone;
        }
        if n == len {
            len = len.saturating_mul(8).min(room.most);
        } else if n < len / 64 {
            len = room.first;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    /// The outer ends of two connections that are carried.
    fn through() -> (UnixStream, UnixStream) {
        let (one, a) = UnixStream::pair().expect("a pair");
        let (b, other) = UnixStream::pair().expect("a pair");
        tokio::spawn(streams(a, b, Room::USUAL));
        (one, other)
    }

    #[tokio::test]
    async fn what_a_peer_said_before_it_closed_is_delivered() {
        for len in [5, 3 << 20] {
            let (mut one, mut other) = through();
            let reply = vec![7; len];
            let said = reply.clone();
            let peer = tokio::spawn(async move {
                other.write_all(&said).await.expect("said");
                // Closed without having read a byte.
            });
            // More than the buffers between hold: writing to the peer fails while its reply is on its way.
            let (mut reader, mut writer) = one.split();
            let mut got = Vec::new();
            let request = vec![1; 1 << 20];
            let (sent, read) =
                tokio::join!(writer.write_all(&request), reader.read_to_end(&mut got));
            sent.expect("a side is listened to until it has heard all");
            read.expect("an end");
            assert!(got == reply, "{} of {len} bytes", got.len());
            peer.await.expect("no panic");
        }
    }

    #[tokio::test]
    async fn a_half_close_passes_and_the_answer_comes_back() {
        let (mut one, mut other) = through();
        one.write_all(b"question").await.expect("sent");
        one.shutdown().await.expect("a half-close");
        let mut asked = String::new();
        other.read_to_string(&mut asked).await.expect("an end");
        assert_eq!(asked, "question");
        other.write_all(b"answer").await.expect("sent");
        drop(other);
        let mut answer = String::new();
        one.read_to_string(&mut answer).await.expect("an end");
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn a_side_that_broke_ends_the_connection() {
        let (one, mut other) = through();
        other.write_all(b"unread").await.expect("sent");
        // By then it has come.
        one.readable().await.expect("readable");
        drop(one);
        let mut end = Vec::new();
        other.read_to_end(&mut end).await.expect("an end");
        let gone = async { while other.write_all(b"x").await.is_ok() {} };
        tokio::time::timeout(GRACE * 10, gone)
            .await
            .expect("the connection is closed");
    }

    #[tokio::test]
    async fn a_side_that_never_stops_is_left() {
        let (mut one, other) = through();
        drop(other);
        let endless = async { while one.write_all(&[0; 4096]).await.is_ok() {} };
        tokio::time::timeout(GRACE * 10, endless)
            .await
            .expect("the connection is closed");
    }
}
