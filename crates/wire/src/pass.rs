//! Descriptors beside the bytes of a unix connection: a client on the engine's machine hands over the sockets it opened, so
//! that their bytes need not pass through it.
//!
//! They come with the [`Status`](crate::Status) line of a [`Dial`](crate::LinkRequest::Dial) (the connected socket) or a
//! [`Listen`](crate::LinkRequest::Listen) (the listening one), where the request asks for it. Without one, bytes are carried as said there.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Room for what a message may bring: one descriptor. More are closed by the kernel.
const ROOM: usize = rustix::cmsg_space!(ScmRights(1));

/// Sends bytes and a descriptor with them; how many bytes were taken, at least one.
///
/// # Errors
/// The other side is gone, or does not read at the moment.
pub fn send(stream: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let descriptors = [descriptor];
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut beside = SendAncillaryBuffer::new(&mut room);
    if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )?)
}

/// Reads bytes and the descriptor that came with them.
///
/// # Errors
/// The connection broke, or there is nothing to read at the moment.
pub fn receive(stream: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut beside = RecvAncillaryBuffer::new(&mut room);
    let read = recvmsg(
        stream,
        &mut [IoSliceMut::new(buffer)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptor = None;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            // Those replaced are closed.
            descriptors.for_each(|d| descriptor = Some(d));
        }
    }
    Ok((read.bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::*;

    #[test]
    fn a_listener_arrives_with_its_line_and_works() {
        let (one, other) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(send(one.as_fd(), b"line\n", listener.as_fd()).unwrap(), 5);
        drop(listener);
        let mut buffer = [0; 16];
        let (n, descriptor) = receive(other.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"line\n");
        let listener = TcpListener::from(descriptor.unwrap());
        let mut client = TcpStream::connect(address).unwrap();
        listener.accept().unwrap().0.write_all(b"hello").unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
    }

    #[test]
    fn bytes_without_a_descriptor_are_just_bytes() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"x").unwrap();
        let mut buffer = [0; 16];
        assert!(matches!(receive(other.as_fd(), &mut buffer), Ok((1, None))));
        drop(one);
        assert!(matches!(receive(other.as_fd(), &mut buffer), Ok((0, None))));
    }
}
