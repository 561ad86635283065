//! The way to an engine whose socket cannot be seen from here: each connection is made as a pair, one end of which is handed
//! to the engine.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{io::Interest, net::UnixStream};

/// Hands connections to the engine that listens at the other end.
#[derive(Debug)]
pub struct Broker(UnixStream);

impl Broker {
    /// Uses one end of a pair of stream sockets.
    ///
    /// # Errors
    /// It is no socket, or there is no runtime.
    pub fn new(channel: OwnedFd) -> io::Result<Self> {
        let channel = std::os::unix::net::UnixStream::from(channel);
        channel.set_nonblocking(true)?;
        Ok(Self(UnixStream::from_std(channel)?))
    }

    /// A connection to the engine.
    ///
    /// # Errors
    /// The engine is gone, or no descriptor is free.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.0
            .async_io(Interest::WRITABLE, || hand_over(&self.0, &theirs))
            .await?;
        Ok(ours)
    }
}

/// Sends a copy of the descriptor along with one byte, because a message cannot be empty.
fn hand_over(to: &UnixStream, end: &UnixStream) -> io::Result<()> {
    let fds = [end.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(to, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
