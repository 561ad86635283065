//! Working in a network namespace: running code there, and sockets of there used from here.
//!
//! A socket belongs for ever to the namespace of the thread that made it, and may be used by any thread.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp},
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::oneshot,
};

use super::{Problem, Step, Why, link, netlink::Socket};

/// Runs `work` on a fresh thread inside the namespace and returns its answer. Blocks the calling thread meanwhile.
///
/// # Errors
/// When the namespace cannot be entered, or no thread can be had.
///
/// # Panics
/// With the panic of `work`.
pub fn run_in<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("in-netns".to_owned())
            .spawn_scoped(scope, || {
                sys::netns::enter(namespace.as_fd())?;
                Ok(work())
            })?;
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A new namespace that leads nowhere: it has a loopback device, and that is up.
///
/// # Errors
/// [`Problem`] names the step that failed, for want of rights most likely.
pub fn alone() -> Result<OwnedFd, Problem> {
    let make = || {
        sys::netns::unshare().why("make a network namespace")?;
        let links = Socket::route().why("open a netlink socket")?;
        links
            .apply(&link::alone())
            .why("bring the loopback device up")?;
        sys::netns::current().why("open the network namespace")
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("alone".to_owned())
            .spawn_scoped(scope, make)
            .why("start a thread")?;
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Connects from inside the namespace.
///
/// # Errors
/// When the namespace cannot be entered, or the connection is not answered.
pub async fn dial_in(namespace: &OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    stream_socket(run_in(namespace, || tcp_socket(to))??)?
        .connect(to)
        .await
}

/// Listens inside the namespace.
///
/// # Errors
/// When the namespace cannot be entered, or the address is taken or not one of its own.
pub async fn listen_in(namespace: &OwnedFd, on: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(run_in(namespace, || listener(on, false))??)
}

/// A datagram socket inside the namespace, bound to the address.
///
/// # Errors
/// As [`listen_in`].
pub async fn bind_udp_in(namespace: &OwnedFd, on: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::from_std(run_in(namespace, || datagrams(on, false))??)
}

/// A socket ready to be connected with tokio.
pub(super) fn tcp_socket(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(Into::into)
}

pub(super) fn stream_socket(fd: OwnedFd) -> io::Result<TcpSocket> {
    Ok(TcpSocket::from_std_stream(std::net::TcpStream::from(fd)))
}

/// A listener in the calling thread's namespace; a transparent one also takes what the packet filter hands to it.
pub(super) fn listener(on: SocketAddr, transparent: bool) -> io::Result<StdListener> {
    let fd = tcp_socket(on)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if transparent {
        sys::netns::set_transparent(&fd)?;
    }
    rustix::net::bind(&fd, &on)?;
    rustix::net::listen(&fd, 4096)?;
    Ok(fd.into())
}

/// A datagram socket in the calling thread's namespace; a transparent one may bind to any address at all, and share it.
pub(super) fn datagrams(on: SocketAddr, transparent: bool) -> io::Result<StdUdp> {
    let family = if on.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let fd = rustix::net::socket_with(
        family,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    if transparent {
        sockopt::set_socket_reuseaddr(&fd, true)?;
        sys::netns::set_transparent(&fd)?;
    }
    rustix::net::bind(&fd, &on)?;
    Ok(fd.into())
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that lives in a namespace of its own and keeps it alive.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    jobs: SyncSender<Job>,
}

/// Jobs waiting for the thread. Each takes a few microseconds; more than this is an attack or a bug.
const JOBS: usize = 1024;

impl Inside {
    /// Makes a namespace and a thread in it that first runs `prepare`.
    pub(super) async fn new<T: Send + 'static>(
        prepare: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<(Inside, T), Problem> {
        let (jobs, queue) = sync_channel(JOBS);
        let (ready, answer) = oneshot::channel();
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                let prepared = sys::netns::unshare()
                    .why("make a network namespace")
                    .and_then(|()| prepare());
                let go_on = prepared.is_ok();
                if ready.send(prepared).is_ok() && go_on {
                    work(&queue);
                }
            })
            .why("start a thread")?;
        let gone = || io::Error::other("the thread of the network namespace is gone");
        let prepared = answer
            .await
            .map_err(|_| gone())
            .why("make a network namespace")??;
        Ok((Inside { jobs }, prepared))
    }

    /// Runs `job` in the namespace.
    ///
    /// # Errors
    /// When too many are waiting.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move || drop(done.send(job())));
        self.jobs
            .try_send(job)
            .map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
        answer
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

fn work(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        job();
    }
}

/// Makes room for bursts: what a socket for all containers cannot hold is lost, and sent again only after a second.
pub(super) fn widen(socket: impl AsFd) {
    const ROOM: usize = 4 << 20;
    if sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).is_err() {
        // As much as anybody may have.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, ROOM);
    }
}

/// Sets a kernel parameter of the calling thread's namespace, below `/proc/sys/net`.
pub(super) fn set(parameter: &str, value: &str) -> Result<(), Problem> {
    fs::write(format!("/proc/sys/net/{parameter}"), value).map_err(|source| Problem {
        step: Why::Parameter(parameter.to_owned()),
        source,
    })
}
