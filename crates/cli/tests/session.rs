//! A session in this process, with an engine that asks for things.

mod fake;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixListener,
    sync::mpsc,
    thread,
};

use cli::{
    connect::Door,
    session::{Over, Session, client_info},
};
use fake::{Engine, LIMIT};
use wire::{
    LinkErrorKind, LinkRequest, ProgressEvent, RawPath, ToClient,
    frame::{self, Kind},
    link::{FileBytes, Listening, Network, PathStat},
    paths::Address,
};

/// Runs a client beside `with`, which plays the engine; how the session ended.
fn play(with: impl FnOnce(&Engine)) -> (Over, Vec<ProgressEvent>) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::at(&dir.path().join("k"));
    let door = Door::At(Address::Unix(dir.path().join("k")));
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (show, shown) = mpsc::channel();
    let client = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let conn = door.connect().await.unwrap();
            let info = client_info(
                None,
                BTreeMap::new(),
                std::path::Path::new("/w"),
                "token".into(),
            );
            let show = Box::new(move |e: &ProgressEvent| drop(show.send(e.clone())));
            let session = Session::open(door, conn, info, show).await.unwrap();
            tokio::select! {
                over = session.ended() => over,
                _ = ended => session.close().await,
            }
        })
    });
    with(&engine);
    // A session that the engine ended does not wait for this.
    let _ = end.send(());
    let over = client.join().unwrap();
    engine.wait_idle();
    (over, shown.try_iter().collect())
}

#[test]
fn files_are_answered_many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (over, _) = play(|engine| {
        let asked: Vec<_> = (0..100)
            .map(|n| {
                let file = dir.path().join(format!("f{n}"));
                std::fs::write(&file, n.to_string()).unwrap();
                (
                    n,
                    engine.open(LinkRequest::ReadFile {
                        path: file.as_path().into(),
                        max: 10,
                    }),
                )
            })
            .collect();
        for (n, stream) in asked {
            let mut conn = engine.stream(stream);
            let answer: wire::Status<FileBytes> =
                wire::line::read(&mut conn, 1000).unwrap().unwrap();
            let mut text = String::new();
            conn.read_to_string(&mut text).unwrap();
            assert_eq!(
                (text, answer.into_result().unwrap().size),
                (n.to_string(), n.to_string().len() as u64)
            );
        }
        let (missing, _) = engine.ask::<PathStat>(LinkRequest::Stat {
            path: RawPath::from("/nowhere"),
            follow: false,
        });
        assert_eq!(missing.unwrap_err().kind, LinkErrorKind::NotFound);
    });
    assert_eq!(over, Over::Bye);
}

#[test]
fn requests_of_a_newer_engine_are_refused_and_its_lines_ignored() {
    let (over, _) = play(|engine| {
        let (answer, _) = engine.ask::<()>(LinkRequest::Unknown);
        assert_eq!(answer.unwrap_err().kind, LinkErrorKind::Invalid);
        engine.say(&ToClient::Unknown);
        engine
            .ask::<PathStat>(LinkRequest::Stat {
                path: "/".into(),
                follow: true,
            })
            .0
            .unwrap();
    });
    assert_eq!(over, Over::Bye);
}

#[test]
fn a_dialled_connection_carries_bytes_and_both_ends() {
    play(|engine| {
        let dir = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        let tcp_addr = format!("localhost:{}", tcp.local_addr().unwrap().port());
        let unix_addr = dir.path().join("s").to_str().unwrap().to_owned();
        for (network, addr) in [(Network::Tcp, tcp_addr), (Network::Unix, unix_addr)] {
            let (answer, mut conn) = engine.ask::<()>(LinkRequest::Dial {
                network,
                addr,
                pass: false,
            });
            answer.unwrap();
            conn.get_mut().write_all(b"question").unwrap();
            conn.get_mut().shutdown(Shutdown::Write).unwrap();
            let mut question = String::new();
            let answer =
                |peer: &mut dyn Read, question: &mut String| peer.read_to_string(question).unwrap();
            if network == Network::Tcp {
                let mut peer = tcp.accept().unwrap().0;
                answer(&mut peer, &mut question);
                peer.write_all(b"answer").unwrap();
            } else {
                let mut peer = unix.accept().unwrap().0;
                answer(&mut peer, &mut question);
                peer.write_all(b"answer").unwrap();
            }
            let mut text = String::new();
            conn.read_to_string(&mut text).unwrap();
            assert_eq!((question.as_str(), text.as_str()), ("question", "answer"));
        }
    });
}

#[test]
fn nobody_listening_is_told_as_go_tells_it() {
    play(|engine| {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let dial = |network, addr: &str| {
            engine
                .ask::<()>(LinkRequest::Dial {
                    network,
                    addr: addr.into(),
                    pass: false,
                })
                .0
                .unwrap_err()
                .message
        };
        assert_eq!(
            dial(Network::Tcp, &free),
            format!("dial tcp {free}: connection refused")
        );
        assert_eq!(
            dial(Network::Unix, "/nowhere/s"),
            "dial unix /nowhere/s: no such file or directory"
        );
        assert!(dial(Network::Tcp, "no-port").contains("is not host:port"));
    });
}

#[test]
fn datagrams_keep_their_borders() {
    play(|engine| {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        let addr = server.local_addr().unwrap().to_string();
        let (answer, mut conn) = engine.ask::<()>(LinkRequest::Dial {
            network: Network::Udp,
            addr,
            pass: false,
        });
        answer.unwrap();
        frame::write(conn.get_mut(), Kind::Data, b"one").unwrap();
        frame::write(conn.get_mut(), Kind::Data, b"two!").unwrap();
        let mut buffer = [0; 100];
        let (n, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"one");
        assert_eq!(server.recv_from(&mut buffer).unwrap().0, 4);
        server.send_to(b"back", from).unwrap();
        let mut payload = Vec::new();
        assert_eq!(
            (
                frame::read(&mut conn, &mut payload).unwrap(),
                payload.as_slice()
            ),
            (Kind::Data, &b"back"[..])
        );
    });
}

#[test]
fn a_listener_lives_as_long_as_its_stream() {
    play(|engine| {
        let stream = engine.open(LinkRequest::Listen {
            addr: "127.0.0.1:0".into(),
            network: Network::Tcp,
            pass: false,
        });
        let mut conn = engine.stream(stream);
        let bound: wire::Status<Listening> = wire::line::read(&mut conn, 1000).unwrap().unwrap();
        let addr = bound.into_result().unwrap().addr;
        let mut peer = TcpStream::connect(&addr).unwrap();
        peer.write_all(b"hello").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut accepted = engine.accepted(stream);
        let mut text = String::new();
        accepted.read_to_string(&mut text).unwrap();
        accepted.get_mut().write_all(b"bye").unwrap();
        drop(accepted);
        assert_eq!(text, "hello");
        text.clear();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bye");
        let (taken, _) = engine.ask::<Listening>(LinkRequest::Listen {
            addr: addr.clone(),
            network: Network::Tcp,
            pass: false,
        });
        let said = taken.unwrap_err().message;
        assert!(
            said.starts_with(&format!("listen tcp {addr}: address already in use by `")),
            "{said}"
        );
        drop(conn);
        let end = std::time::Instant::now() + LIMIT;
        while TcpStream::connect(&addr).is_ok() {
            assert!(std::time::Instant::now() < end);
        }
    });
}

#[test]
fn progress_is_shown_and_an_engine_that_leaves_is_noticed() {
    let note = ProgressEvent::Note {
        text: "hello".into(),
    };
    let (over, shown) = play(|engine| {
        engine.progress(note.clone());
        engine.say(&ToClient::Bye);
    });
    assert_eq!((over, shown), (Over::Bye, vec![note]));
    let (over, _) = play(Engine::die_when_open);
    assert_eq!(over, Over::Lost);
}
