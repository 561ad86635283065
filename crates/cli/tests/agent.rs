//! The engine's agent in a container, with this test as the engine.

use std::{
    io::{BufReader, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use wire::{
    LinkError, LinkErrorKind, LinkRequest, Preamble, Status, ToClient, Welcome, line,
    link::{FileBytes, Network},
};

/// An agent, and its control connection.
struct Agent {
    channel: UnixStream,
    control: BufReader<UnixStream>,
    thread: JoinHandle<u8>,
    asked: u64,
}

fn connection(channel: &UnixStream) -> (BufReader<UnixStream>, Preamble) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    );
    assert_eq!(got.unwrap().bytes, 1);
    let fd: OwnedFd = control
        .drain()
        .find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .unwrap();
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).unwrap();
    let mut conn = BufReader::new(stream);
    let preamble = line::read(&mut conn, line::MAX_PREAMBLE).unwrap().unwrap();
    (conn, preamble)
}

impl Agent {
    fn start() -> Self {
        let (channel, theirs) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || cli::agent::run(theirs.into()));
        let (mut control, preamble) = connection(&channel);
        let Preamble::Control { client, .. } = preamble else {
            panic!("{preamble:?}")
        };
        assert_eq!(
            *client,
            wire::ClientInfo::default(),
            "it says nothing of itself, and looks for nothing"
        );
        let welcome = Welcome::Ok {
            session: "s".into(),
            engine_version: "v".into(),
        };
        line::write(control.get_mut(), &welcome).unwrap();
        Self {
            channel,
            control,
            thread,
            asked: 0,
        }
    }

    /// The connection on which a request is answered.
    fn ask(&mut self, request: LinkRequest) -> BufReader<UnixStream> {
        self.asked += 1;
        let stream = self.asked;
        line::write(self.control.get_mut(), &ToClient::Open { stream, request }).unwrap();
        let (conn, preamble) = connection(&self.channel);
        assert_eq!(
            preamble,
            Preamble::Stream {
                session: "s".into(),
                stream
            }
        );
        conn
    }

    fn end(self) {
        drop(self.control);
        assert_eq!(self.thread.join().unwrap(), 0);
    }
}

fn status<T: serde::de::DeserializeOwned>(
    conn: &mut BufReader<UnixStream>,
) -> Result<T, LinkError> {
    match line::read(conn, line::MAX_LINE).unwrap().unwrap() {
        Status::Ok(v) => Ok(v),
        Status::Error(e) => Err(e),
    }
}

#[test]
fn an_agent_answers_for_files_and_sockets() {
    let mut agent = Agent::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "inner").unwrap();
    let mut conn = agent.ask(LinkRequest::ReadFile {
        path: file.into(),
        max: 100,
    });
    assert_eq!(status::<FileBytes>(&mut conn).unwrap().size, 5);
    let mut text = String::new();
    conn.read_to_string(&mut text).unwrap();
    assert_eq!(text, "inner");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut conn = agent.ask(LinkRequest::Dial {
        network: Network::Tcp,
        addr,
        pass: false,
    });
    status::<()>(&mut conn).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    conn.get_mut().write_all(b"ping").unwrap();
    let mut bytes = [0; 4];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ping");
    drop((peer, conn));
    agent.end();
}

#[test]
fn an_agent_does_not_answer_what_a_program_might_be_run_for() {
    let mut agent = Agent::start();
    let mut conn = agent.ask(LinkRequest::DockerAuth {
        host: "docker.io".into(),
    });
    let refused = status::<()>(&mut conn).unwrap_err();
    assert_eq!(
        (refused.kind, refused.message.as_str()),
        (LinkErrorKind::Invalid, "a container is not asked for that")
    );
    agent.end();
}
