//! Network namespaces by descriptor, and the socket options of a transparent proxy.
#![expect(unsafe_code, reason = "calls and options that rustix lacks")]

use std::{
    fs::File,
    io,
    mem::{self, MaybeUninit},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// The network namespace of the calling thread.
///
/// # Errors
/// When `/proc` is not mounted or no descriptor is free.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Moves the calling thread, and only it, into the namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over the namespace, `EINVAL` when the descriptor is something else.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
        .map_err(Into::into)
}

/// Moves the calling thread, and only it, into a new, empty network namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshare() -> io::Result<()> {
    // SAFETY: only the network namespace is unshared; the table of descriptors stays shared with the other threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}

/// Lets the socket bind to, and answer from, addresses that are not the machine's own (`IP_TRANSPARENT`).
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` over the socket's namespace.
pub fn set_transparent(socket: impl AsFd) -> io::Result<()> {
    set_int(socket.as_fd(), libc::SOL_IP, libc::IP_TRANSPARENT, 1)
}

/// Makes [`receive`] report where each datagram was sent to (`IP_RECVORIGDSTADDR`).
///
/// # Errors
/// When the socket is no IPv4 socket.
pub fn set_receive_destination(socket: impl AsFd) -> io::Result<()> {
    set_int(socket.as_fd(), libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)
}

/// Limits how long the kernel waits for acknowledgement of data sent (`TCP_USER_TIMEOUT`), in milliseconds.
///
/// # Errors
/// When the socket is no TCP socket.
pub fn set_user_timeout(socket: impl AsFd, milliseconds: u32) -> io::Result<()> {
    let milliseconds = libc::c_int::try_from(milliseconds).unwrap_or(libc::c_int::MAX);
    set_int(
        socket.as_fd(),
        libc::SOL_TCP,
        libc::TCP_USER_TIMEOUT,
        milliseconds,
    )
}

fn set_int(socket: BorrowedFd<'_>, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value's address and size are those of a live `c_int`, which the kernel only reads.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            libc::socklen_t::try_from(mem::size_of::<libc::c_int>()).unwrap_or(4),
        )
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A datagram as [`receive`] saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes written to the buffer; what did not fit is lost.
    pub length: usize,
    /// Who sent it.
    pub source: SocketAddrV4,
    /// Where it was sent to.
    pub destination: SocketAddrV4,
}

/// Room for the control messages asked for; 24 bytes are needed.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Receives one datagram and its original destination, see [`set_receive_destination`].
///
/// # Errors
/// `EAGAIN` when none waits on a non-blocking socket; `InvalidData` when the kernel reported no destination.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut name = MaybeUninit::<libc::sockaddr_in>::zeroed();
    let mut control = Control([0; 128]);
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain data for which zero is a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen =
        libc::socklen_t::try_from(mem::size_of::<libc::sockaddr_in>()).unwrap_or(16);
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in the header points to live memory of the size given beside it, for the length of the call.
    let length = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &raw mut message,
            libc::MSG_CMSG_CLOEXEC,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: zero-initialised plain data; the kernel may have overwritten a part of it.
    let source = address(unsafe { name.assume_init() });

    // SAFETY: the header describes the control buffer that the kernel just filled.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR only return headers that lie within the control buffer.
        let header = unsafe { &*next };
        if header.cmsg_level == libc::SOL_IP && header.cmsg_type == libc::IP_ORIGDSTADDR {
            // SAFETY: the kernel writes a whole sockaddr_in for this type; read unaligned because nothing promises alignment.
            let destination = address(unsafe {
                libc::CMSG_DATA(next)
                    .cast::<libc::sockaddr_in>()
                    .read_unaligned()
            });
            return Ok(Datagram {
                length,
                source,
                destination,
            });
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "a datagram without destination",
    ))
}

fn address(raw: libc::sockaddr_in) -> SocketAddrV4 {
    SocketAddrV4::new(
        Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)),
        u16::from_be(raw.sin_port),
    )
}
