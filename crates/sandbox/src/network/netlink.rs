//! Netlink messages as bytes, and the socket that carries them.
//!
//! Written by hand because the few messages needed here fit a page, and because a namespace is quicker to make when all of
//! its messages leave in one system call. Everything here is synchronous: the kernel works inside `sendmsg`.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink,
};

/// `NLM_F_REQUEST | NLM_F_ACK`
pub(super) const ACKED: u16 = 0x1 | 0x4;
/// `NLM_F_REQUEST`
pub(super) const REQUEST: u16 = 0x1;
/// `NLM_F_EXCL`
pub(super) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_REPLACE`
pub(super) const REPLACE: u16 = 0x100;
/// `NLM_F_CREATE`
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`
pub(super) const APPEND: u16 = 0x800;

const HEADER: usize = 16;
const ERROR: u16 = 2;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// Answers are small: an error repeats at most the header of the message it is about.
const ANSWER: usize = 16 * 1024;

/// Messages to be sent in one system call, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

/// The message being written; see [`Batch::message`].
#[derive(Debug)]
pub(super) struct Message<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Batch {
    /// Appends a message of this type with these flags; `write` adds the family's header and the attributes.
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        write: impl FnOnce(&mut Message<'_>),
    ) -> &mut Batch {
        self.count += 1;
        let start = self.bytes.len();
        self.bytes.extend([0; HEADER]);
        write(&mut Message {
            bytes: &mut self.bytes,
        });
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        let mut header = Vec::with_capacity(HEADER);
        header.extend(length.to_ne_bytes());
        header.extend(kind.to_ne_bytes());
        header.extend(flags.to_ne_bytes());
        header.extend(self.count.to_ne_bytes());
        header.extend(0_u32.to_ne_bytes());
        if let Some(slot) = self.bytes.get_mut(start..start + HEADER) {
            slot.copy_from_slice(&header);
        }
        self
    }

    /// The messages as they go to the kernel.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Message<'_> {
    /// Appends bytes as they are (a family's header), padded to four.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(value)
    }

    /// Appends an attribute holding a zero-terminated string.
    pub(super) fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute holding a number in the machine's byte order (rtnetlink).
    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute holding a number in network byte order (nfnetlink).
    pub(super) fn number_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an attribute that holds what `write` appends.
    pub(super) fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Message<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        write(&mut Message { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(slot) = self.bytes.get_mut(start..start + 2) {
            slot.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some(slot) = self.bytes.get_mut(start + 2..start + 4) {
            slot.copy_from_slice(&(kind | NESTED).to_ne_bytes());
        }
        self
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// A netlink socket. It belongs to the namespace that its thread was in when it was opened, for ever.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// A socket for links, addresses and routes.
    pub(super) fn route() -> io::Result<Socket> {
        Socket::open(None)
    }

    /// A socket for packet filter rules.
    pub(super) fn netfilter() -> io::Result<Socket> {
        Socket::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
        Ok(Socket { fd })
    }

    /// Sends the messages and reads the answer to each that asked for one; the first refusal is the error.
    ///
    /// # Errors
    /// What the kernel answered; `InvalidData` when it answered nonsense, or not at all.
    pub(super) fn apply(&self, batch: &Batch) -> io::Result<()> {
        self.send(batch)?;
        let mut waiting = batch.acked();
        let mut first: io::Result<()> = Ok(());
        while waiting > 0 {
            let received = self.receive(|kind, body| {
                if kind == ERROR {
                    waiting = waiting.saturating_sub(1);
                    if first.is_ok() {
                        first = code(body);
                    }
                }
            });
            if let Err(error) = received {
                // A batch refused as a whole is answered once.
                return first.and(Err(error));
            }
        }
        first
    }

    /// Sends one request and hands the answer's type and body to `read`.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(super) fn ask<T>(
        &self,
        batch: &Batch,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> io::Result<T> {
        self.send(batch)?;
        let mut answer = Err(io::Error::from(io::ErrorKind::InvalidData));
        let mut read = Some(read);
        self.receive(|kind, body| {
            if kind == ERROR {
                answer = code(body).and(Err(io::Error::from(io::ErrorKind::InvalidData)));
            } else if let Some(value) = read.take().and_then(|read| read(body)) {
                answer = Ok(value);
            }
        })?;
        answer
    }

    fn send(&self, batch: &Batch) -> io::Result<()> {
        let to = netlink::SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| {
            rustix::net::sendto(&self.fd, batch.bytes(), SendFlags::empty(), &to)
        })?;
        Ok(())
    }

    /// The kernel answers within the call that sends, so nothing is ever waited for.
    fn receive(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER];
        let (length, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT)
        })
        .map_err(silent)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = split(rest) {
            each(kind, body);
            rest = next;
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Batch {
    /// How many answers to expect.
    fn acked(&self) -> usize {
        let mut rest = self.bytes.as_slice();
        let mut count = 0;
        while let Some((_, _, next)) = split(rest) {
            count += usize::from(
                rest.get(6)
                    .is_some_and(|flags| u16::from(*flags) & 0x4 != 0),
            );
            rest = next;
        }
        count
    }
}

fn silent(error: rustix::io::Errno) -> io::Error {
    match error {
        rustix::io::Errno::AGAIN => {
            io::Error::new(io::ErrorKind::InvalidData, "no answer from the kernel")
        }
        error => error.into(),
    }
}

/// The first message of a buffer: its type, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((
        kind,
        body,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// The errno of an acknowledgement.
fn code(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|chunk| i32::from_ne_bytes(*chunk)) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The value of an attribute among attributes.
pub(super) fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?) & !NESTED;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_padded_and_numbered() {
        let mut batch = Batch::default();
        batch.message(16, ACKED, |m| {
            m.raw(&[1, 2]).string(3, "abcd");
        });
        batch.message(17, REQUEST, |m| {
            m.nested(1, |m| {
                m.number(2, 7);
            });
        });
        assert_eq!(batch.acked(), 1);
        let (kind, body, rest) = split(batch.bytes()).expect("a message");
        assert_eq!(
            (kind, body),
            (
                16,
                &[1, 2, 0, 0, 9, 0, 3, 0, b'a', b'b', b'c', b'd', 0, 0, 0, 0][..]
            )
        );
        let (kind, body, rest) = split(rest).expect("a second message");
        assert_eq!(
            (kind, find(find(body, 1).expect("nested"), 2)),
            (17, Some(&7_u32.to_ne_bytes()[..]))
        );
        assert!(rest.is_empty());
    }

    #[test]
    fn torn_answers_are_no_answers() {
        let mut batch = Batch::default();
        batch.message(3, REQUEST, |m| {
            m.number(1, 2);
        });
        for end in 0..batch.bytes().len() {
            assert!(split(&batch.bytes()[..end]).is_none());
        }
        assert!(code(&[1]).is_err());
        assert!(find(&[8, 0, 1], 1).is_none());
        assert!(find(&[0, 0, 1, 0], 1).is_none());
        assert!(find(&[0, 0, 1, 0, 0, 0, 0, 0], 9).is_none());
    }
}
