//! Network namespaces by descriptor, and the socket options of a transparent proxy.
#![expect(unsafe_code, reason = "calls and options that rustix lacks")]

use std::{
    fs::File,
    io,
    mem::{self, MaybeUninit},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
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

/// One instruction of a classic BPF program, see `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub hit: u8,
    /// Instructions to skip when it does not.
    pub miss: u8,
    /// The operand.
    pub operand: u32,
}

/// A neighbour on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The device's index.
    pub device: i32,
    /// The hardware address.
    pub address: [u8; 6],
}

/// Opens a non-blocking socket that sees, from the IP header on, the IPv4 packets that arrive in the calling thread's namespace
/// and that the filter lets through, and that sends such packets as they are.
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`, `EINVAL` for a filter that is no program.
pub fn tap(filter: &[Instruction]) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is passed. Protocol 0 receives nothing yet, so that no packet passes before the filter is there.
    let fd = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut program: Vec<libc::sock_filter> = filter
        .iter()
        .map(|i| libc::sock_filter {
            code: i.code,
            jt: i.hit,
            jf: i.miss,
            k: i.operand,
        })
        .collect();
    let length =
        libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program's header and the instructions it points to live across the call, which copies them.
    let ret = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            libc::socklen_t::try_from(mem::size_of::<libc::sock_fprog>()).unwrap_or(16),
        )
    };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    let everywhere = link_address(Neighbour {
        device: 0,
        address: [0; 6],
    });
    // SAFETY: the address lives across the call and has the size given.
    let ret = unsafe { libc::bind(fd, (&raw const everywhere).cast(), LINK_ADDRESS) };
    if ret == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Receives one packet from a [`tap`]; what does not fit the buffer is lost.
///
/// # Errors
/// `EAGAIN` when none waits.
pub fn receive_packet(tap: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Neighbour)> {
    let mut from = link_address(Neighbour {
        device: 0,
        address: [0; 6],
    });
    let mut size = LINK_ADDRESS;
    // SAFETY: buffer and address are live memory of the sizes given.
    let length = unsafe {
        libc::recvfrom(
            tap.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut from).cast(),
            &raw mut size,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let [a, b, c, d, e, f, ..] = from.sll_addr;
    Ok((
        length,
        Neighbour {
            device: from.sll_ifindex,
            address: [a, b, c, d, e, f],
        },
    ))
}

/// Sends a packet, complete from the IP header on, to a neighbour.
///
/// # Errors
/// When the device is gone or its queue is full.
pub fn send_packet(tap: impl AsFd, packet: &[u8], to: Neighbour) -> io::Result<()> {
    let to = link_address(to);
    // SAFETY: packet and address are live memory of the sizes given, only read by the call.
    let sent = unsafe {
        libc::sendto(
            tap.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            LINK_ADDRESS,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the size of a small struct"
)]
const LINK_ADDRESS: libc::socklen_t = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;

fn link_address(to: Neighbour) -> libc::sockaddr_ll {
    /// `ETH_P_IP`
    const IPV4: u16 = 0x0800;
    let [a, b, c, d, e, f] = to.address;
    libc::sockaddr_ll {
        sll_family: 17, // AF_PACKET
        sll_protocol: IPV4.to_be(),
        sll_ifindex: to.device,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [a, b, c, d, e, f, 0, 0],
    }
}
