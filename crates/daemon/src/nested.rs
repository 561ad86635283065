//! The API inside containers, and the way to what the API needs of them.
//!
//! An agent in a container reaches the engine over a channel on which it hands over one end of each connection that it makes.
//! The first is its control connection; on all of them it speaks as any client does, but it can only answer.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::Duration,
};

use engine::{
    Ctx,
    nested::{ApiServer, Remote, Serving},
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::{TcpListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use wire::{Preamble, ToClient, Welcome, line};

use crate::{
    conn::{Conn, PREAMBLE_TIME},
    http,
    link::Link,
    passing::Passing,
};

/// Connections to the API of one container at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// Between two attempts when no descriptor is free.
const AGAIN: Duration = Duration::from_millis(50);
/// Lines waiting for an agent at most.
const LINES: usize = 64;

/// Serves sessions' APIs to processes in containers.
pub(crate) struct Api;

impl ApiServer for Api {
    fn serve(&self, listener: TcpListener, ctx: Ctx) -> Serving {
        Serving::new(tokio::spawn(accept(listener, ctx)).abort_handle())
    }

    fn remote(&self) -> Remote {
        let (lines, outgoing) = mpsc::channel(LINES);
        let link = Arc::new(Link::new(lines));
        let (tell, wanted) = oneshot::channel();
        let (agent, channel) = oneshot::channel();
        tokio::spawn(watch(Arc::downgrade(&link), outgoing, tell, channel));
        Remote {
            link,
            wanted,
            agent,
        }
    }
}

/// Accepts until it is dropped, and everything it accepted with it.
async fn accept(listener: TcpListener, ctx: Ctx) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        // Latency over throughput. A failure changes nothing.
        let _ = stream.set_nodelay(true);
        let ctx = ctx.clone();
        connections.spawn(async move {
            let _slot = slot;
            http::serve(BufReader::new(Box::new(stream)), ctx).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Waits until something is asked of the machine, then for the agent, and passes on what is asked until either is gone.
async fn watch(
    link: Weak<Link>,
    mut outgoing: mpsc::Receiver<ToClient>,
    wanted: oneshot::Sender<()>,
    mut channel: oneshot::Receiver<std::os::unix::net::UnixStream>,
) {
    let first = tokio::select! {
        line = outgoing.recv() => line,
        _ = &mut channel => None,
    };
    if let Some(first) = first {
        let _ = wanted.send(());
        if let Ok(channel) = channel.await
            && let Err(e) = serve_agent(&link, channel, &mut outgoing, first).await
        {
            tracing::debug!("an agent in a container went wrong: {e}");
        }
    }
    // Before the link is closed: nobody can begin to wait after that.
    drop(outgoing);
    if let Some(link) = link.upgrade() {
        link.close();
    }
}

async fn serve_agent(
    link: &Weak<Link>,
    channel: std::os::unix::net::UnixStream,
    outgoing: &mut mpsc::Receiver<ToClient>,
    first: ToClient,
) -> io::Result<()> {
    channel.set_nonblocking(true)?;
    let channel = UnixStream::from_std(channel)?;
    let control = timeout(PREAMBLE_TIME, handed_over(&channel))
        .await??
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut control = buffered(control)?;
    match preamble(&mut control).await? {
        Preamble::Control {
            version: wire::PROTOCOL,
            ..
        } => {}
        _ => return Err(io::Error::other("not a control connection")),
    }
    // The name means nothing: whose connection it is follows from the channel it came over.
    let welcome = Welcome::Ok {
        session: String::new(),
        engine_version: wire::API_VERSION.to_owned(),
    };
    line::write_async(&mut control, &welcome)
        .await
        .map_err(io::Error::other)?;
    line::write_async(&mut control, &first)
        .await
        .map_err(io::Error::other)?;
    control.flush().await?;
    let (mut read, mut write) = tokio::io::split(control);
    let mut byte = [0; 1];
    let mut introduced = JoinSet::new();
    loop {
        tokio::select! {
            // An agent says nothing here; this is its end.
            _ = read.read(&mut byte) => return Ok(()),
            conn = handed_over(&channel) => match conn? {
                Some(conn) => {
                    introduced.spawn(introduce(link.clone(), buffered(conn)?));
                    while introduced.try_join_next().is_some() {}
                }
                None => return Ok(()),
            },
            line = outgoing.recv() => match line {
                Some(line) => {
                    line::write_async(&mut write, &line).await.map_err(io::Error::other)?;
                    write.flush().await?;
                }
                None => return Ok(()),
            },
        }
    }
}

/// Gives an agent's connection to whoever waits for it.
async fn introduce(link: Weak<Link>, mut conn: Conn) {
    let Ok(preamble) = preamble(&mut conn).await else {
        return;
    };
    let Some(link) = link.upgrade() else { return };
    match preamble {
        Preamble::Stream { stream, .. } => link.deliver(stream, conn),
        Preamble::Accepted { stream, .. } => link.accepted(stream, conn),
        // An agent answers, it does not ask.
        Preamble::Control { .. } | Preamble::Http { .. } | Preamble::Admin { .. } => {}
    }
}

async fn preamble(conn: &mut Conn) -> io::Result<Preamble> {
    let read = timeout(
        PREAMBLE_TIME,
        line::read_async::<Preamble>(conn, line::MAX_PREAMBLE),
    )
    .await?;
    read.map_err(io::Error::other)?
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn buffered(fd: OwnedFd) -> io::Result<Conn> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    Ok(BufReader::with_capacity(
        64 << 10,
        Box::new(Passing::new(UnixStream::from_std(stream)?)),
    ))
}

/// The next connection; `None` when the agent is gone. Safe to be given up.
async fn handed_over(channel: &UnixStream) -> io::Result<Option<OwnedFd>> {
    loop {
        match channel
            .async_io(Interest::READABLE, || receive(channel))
            .await?
        {
            Received::Connection(fd) => return Ok(Some(fd)),
            Received::Nothing => {}
            Received::End => return Ok(None),
        }
    }
}

enum Received {
    Connection(OwnedFd),
    /// A byte without a descriptor, which was lost for want of free ones.
    Nothing,
    End,
}

/// One byte, and the descriptor that came with it. Further ones are closed.
fn receive(channel: &UnixStream) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut [0])],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = control.drain().filter_map(|m| match m {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    Ok(match (got.bytes, fd) {
        (_, Some(fd)) => Received::Connection(fd),
        (0, None) => Received::End,
        (_, None) => Received::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, os::fd::AsFd, path::PathBuf};

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use wire::{ClientInfo, LinkError, LinkRequest, Status, link::read_status};

    use super::*;

    /// The container's side of a channel.
    struct Agent(UnixStream);

    impl Agent {
        fn new(remote: oneshot::Sender<std::os::unix::net::UnixStream>) -> Self {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            remote.send(ours).unwrap();
            theirs.set_nonblocking(true).unwrap();
            Self(UnixStream::from_std(theirs).unwrap())
        }

        /// Sends a byte, and descriptors with it.
        fn send(&self, ends: &[UnixStream]) {
            let fds: Vec<_> = ends.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            }
            sendmsg(
                &self.0,
                &[IoSlice::new(&[0])],
                &mut control,
                SendFlags::empty(),
            )
            .unwrap();
        }

        async fn connect(&self, preamble: &Preamble) -> BufReader<UnixStream> {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            self.send(&[theirs]);
            line::write_async(&mut ours, preamble).await.unwrap();
            BufReader::new(ours)
        }

        async fn control(&self) -> BufReader<UnixStream> {
            let client = Box::new(ClientInfo::default());
            let preamble = Preamble::Control {
                version: wire::PROTOCOL,
                session: None,
                client,
            };
            let mut control = self.connect(&preamble).await;
            let welcome: Welcome = line::read_async(&mut control, line::MAX_LINE)
                .await
                .unwrap()
                .unwrap();
            assert!(matches!(welcome, Welcome::Ok { .. }));
            control
        }
    }

    fn dial() -> LinkRequest {
        LinkRequest::Dial {
            network: wire::link::Network::Unix,
            addr: "/s".into(),
            pass: false,
        }
    }

    async fn asked(control: &mut BufReader<UnixStream>) -> (u64, LinkRequest) {
        match line::read_async(control, line::MAX_LINE)
            .await
            .unwrap()
            .unwrap()
        {
            ToClient::Open { stream, request } => (stream, request),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_agent_is_wanted_when_something_is_asked_and_answers_over_connections_it_hands_over()
    {
        let Remote {
            link,
            mut wanted,
            agent,
        } = Api.remote();
        tokio::task::yield_now().await;
        assert!(wanted.try_recv().is_err());
        let engine = tokio::spawn(async move {
            let mut answer = link.open(dial()).await.unwrap();
            read_status::<()>(&mut answer).await.unwrap();
            let mut said = String::new();
            answer.read_to_string(&mut said).await.unwrap();
            (said, link)
        });
        wanted.await.unwrap();
        let agent = Agent::new(agent);
        // What carries no connection does no harm.
        agent.send(&[]);
        let mut control = agent.control().await;
        let (stream, request) = asked(&mut control).await;
        assert_eq!(request, dial());
        drop(
            agent
                .connect(&Preamble::Http {
                    session: String::new(),
                })
                .await,
        );
        let mut answer = agent
            .connect(&Preamble::Stream {
                session: "any".into(),
                stream,
            })
            .await;
        line::write_async(&mut answer, &Status::Ok(()))
            .await
            .unwrap();
        answer.write_all(b"hello").await.unwrap();
        drop(answer);
        let (said, link) = engine.await.unwrap();
        assert_eq!(said, "hello");

        // Whoever waits when the agent ends hears of it.
        let waiting = tokio::spawn(async move { (link.open(dial()).await.err(), link) });
        asked(&mut control).await;
        drop((agent, control));
        let (error, link) = waiting.await.unwrap();
        assert_eq!(error, Some(gone()));
        assert_eq!(link.open(dial()).await.err(), Some(gone()));
    }

    fn gone() -> LinkError {
        LinkError::new(wire::LinkErrorKind::Io, "the client is gone")
    }

    #[tokio::test]
    async fn without_an_agent_requests_fail_at_once() {
        let Remote {
            link,
            wanted,
            agent,
        } = Api.remote();
        let engine = tokio::spawn(async move { link.open(dial()).await.err() });
        wanted.await.unwrap();
        drop(agent);
        assert_eq!(engine.await.unwrap(), Some(gone()));

        let Remote {
            link,
            wanted: _,
            agent,
        } = Api.remote();
        drop(agent);
        assert_eq!(
            link.open(LinkRequest::Stat {
                path: PathBuf::from("/").into(),
                follow: true
            })
            .await
            .err(),
            Some(gone())
        );
    }

    #[tokio::test]
    async fn an_agent_that_does_not_begin_with_its_control_connection_is_none() {
        let Remote {
            link,
            wanted,
            agent,
        } = Api.remote();
        let engine = tokio::spawn(async move { link.open(dial()).await.err() });
        wanted.await.unwrap();
        let agent = Agent::new(agent);
        let _stream = agent
            .connect(&Preamble::Stream {
                session: String::new(),
                stream: 1,
            })
            .await;
        assert_eq!(engine.await.unwrap(), Some(gone()));
    }
}
