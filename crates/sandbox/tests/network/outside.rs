//! Containers and the outside.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sandbox::network::{bind_udp_in, listen_in, run_in};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{MACHINE, OUTSIDE, OUTSIDE_TOO, connect, inside, read_all, world};

#[test]
fn root_connections_leave_whole_in_both_directions() {
    world(|world| async move {
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        let listener = listen_in(&world.outside, SocketAddr::from((OUTSIDE, 7)))
            .await
            .expect("a listener");
        let server = tokio::spawn(async move {
            let (mut stream, peer) = listener.accept().await.expect("a connection");
            let mut bytes = Vec::new();
            stream
                .read_to_end(&mut bytes)
                .await
                .expect("received until the end");
            stream.write_all(&bytes).await.expect("sent");
            peer.ip()
        });
        let echoed = inside(&lease, || {
            let sent: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
            let mut stream = connect((OUTSIDE, 7)).expect("a connection");
            stream.write_all(&sent).expect("sent");
            stream.shutdown(Shutdown::Write).expect("ended");
            read_all(stream).expect("received") == sent
        });
        assert!(echoed.await);
        assert_eq!(server.await.expect("served"), MACHINE);
    });
}

#[test]
fn root_datagrams_leave_and_return_to_who_sent_them() {
    world(|world| async move {
        let network = world.network().await;
        let session = network.open_session();
        let (a, b) = (
            network.take(session).await.expect("a"),
            network.take(session).await.expect("b"),
        );
        for address in [OUTSIDE, OUTSIDE_TOO] {
            let server = bind_udp_in(&world.outside, SocketAddr::from((address, 7)))
                .await
                .expect("bound");
            tokio::spawn(async move {
                let mut buffer = vec![0; 9000];
                while let Ok((length, peer)) = server.recv_from(&mut buffer).await {
                    let reply = [format!("{address} ").as_bytes(), &buffer[..length]].concat();
                    server.send_to(&reply, peer).await.expect("sent");
                }
            });
        }
        let talk = |name: &'static str| {
            move || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000)).expect("bound");
                socket
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .expect("a timeout");
                let mut answers = Vec::new();
                // Longer than a frame.
                socket.send_to(&[b'z'; 8000], (OUTSIDE, 7)).expect("sent");
                assert_eq!(socket.recv_from(&mut [0; 9000]).expect("an answer").0, 8013);
                for round in 0..3 {
                    for to in [OUTSIDE, OUTSIDE_TOO] {
                        socket
                            .send_to(format!("{name}{round}").as_bytes(), (to, 7))
                            .expect("sent");
                        let mut buffer = [0; 100];
                        let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
                        assert_eq!(from, SocketAddr::from((to, 7)));
                        answers.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
                    }
                }
                answers
            }
        };
        let (of_a, of_b) = tokio::join!(inside(&a, talk("a")), inside(&b, talk("b")));
        assert_eq!(of_a.first().map(String::as_str), Some("198.51.100.2 a0"));
        assert_eq!(of_b.last().map(String::as_str), Some("198.51.100.3 b2"));
    });
}

#[test]
fn root_the_machine_itself_is_out_of_reach() {
    world(|world| async move {
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        let listener = run_in(&world.machine, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9000)).expect("a listener")
        })
        .expect("the machine");
        let datagrams = run_in(&world.machine, || {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9000)).expect("bound")
        })
        .expect("the machine");
        let gateway = network.gateway();
        inside(&lease, move || {
            for target in [
                MACHINE,
                Ipv4Addr::LOCALHOST,
                gateway,
                Ipv4Addr::new(169, 254, 169, 254),
                Ipv4Addr::new(0, 0, 0, 1),
            ] {
                let reached =
                    connect((target, 9000)).and_then(|mut stream| stream.read(&mut [0; 1]));
                assert!(reached.is_err(), "{target}: {reached:?}");
            }
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
            socket.send_to(b"x", (MACHINE, 9000)).expect("sent");
        })
        .await;
        listener.set_nonblocking(true).expect("set");
        assert_eq!(
            listener.accept().expect_err("nobody").kind(),
            ErrorKind::WouldBlock
        );
        datagrams.set_nonblocking(true).expect("set");
        assert_eq!(
            datagrams.recv(&mut [0; 1]).expect_err("nothing").kind(),
            ErrorKind::WouldBlock
        );
    });
}

#[test]
fn root_who_opens_too_many_connections_is_alone_with_it() {
    world(|world| async move {
        let config = sandbox::network::Config {
            flows: 20,
            ..world.config()
        };
        let network = sandbox::network::Network::start(config)
            .await
            .expect("a network");
        let session = network.open_session();
        let (greedy, modest) = (
            network.take(session).await.expect("a"),
            network.take(session).await.expect("b"),
        );
        let listener = listen_in(&world.outside, SocketAddr::from((OUTSIDE, 7)))
            .await
            .expect("a listener");
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(b"!").await.expect("sent");
                open.push(stream);
            }
        });
        let one = || {
            let mut stream = connect((OUTSIDE, 7))?;
            stream.read_exact(&mut [0; 1]).map(|()| stream)
        };
        let held = inside(&greedy, move || {
            (0..40).filter_map(|_| one().ok()).collect::<Vec<_>>()
        })
        .await;
        assert_eq!(held.len(), 20);
        inside(&modest, move || one().expect("a connection")).await;
        drop(held);
    });
}

#[test]
fn root_a_flood_of_datagrams_and_first_packets_leaves_room_for_others() {
    world(|world| async move {
        let network = world.network().await;
        let session = network.open_session();
        let (flooder, other) = (
            network.take(session).await.expect("a"),
            network.take(session).await.expect("b"),
        );
        let echo = bind_udp_in(&world.outside, SocketAddr::from((OUTSIDE, 7)))
            .await
            .expect("bound");
        let listener = listen_in(&world.outside, SocketAddr::from((OUTSIDE, 7)))
            .await
            .expect("a listener");
        tokio::spawn(async move {
            let mut buffer = [0; 100];
            while let Ok((length, peer)) = echo.recv_from(&mut buffer).await {
                echo.send_to(&buffer[..length], peer).await.expect("sent");
            }
        });
        let calm = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&calm);
        let flood = inside(&flooder, move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
            for port in (1..=u16::MAX).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                drop(socket.send_to(b"x", (OUTSIDE_TOO, port)));
                // A connection attempt that nobody waits for.
                if port % 64 == 0 {
                    let nobody = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 77), port));
                    drop(std::net::TcpStream::connect_timeout(
                        &nobody,
                        Duration::from_micros(1),
                    ));
                }
            }
        });
        let work = inside(&other, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .expect("a timeout");
            let answered = (0..50).any(|_| {
                socket
                    .send_to(b"hello", (OUTSIDE, 7))
                    .and_then(|_| socket.recv(&mut [0; 9]))
                    .is_ok()
            });
            (answered, connect((OUTSIDE, 7)).is_ok())
        });
        let work = async {
            let result = work.await;
            calm.store(true, Ordering::Relaxed);
            result
        };
        let ((), result) = tokio::join!(flood, work);
        assert_eq!(result, (true, true));
        drop(listener);
    });
}

#[test]
fn root_a_connection_is_refused_as_the_outside_refuses_it() {
    world(|world| async move {
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        let refusals = inside(&lease, || {
            [
                OUTSIDE,
                MACHINE,
                Ipv4Addr::new(169, 254, 169, 254),
                Ipv4Addr::new(198, 51, 100, 77),
            ]
            .map(|target| connect((target, 1)).expect_err("nobody is there").kind())
        })
        .await;
        // Nobody listens; the machine itself; a reserved range; an address that nobody has.
        let expected = [
            ErrorKind::ConnectionRefused,
            ErrorKind::HostUnreachable,
            ErrorKind::HostUnreachable,
            ErrorKind::HostUnreachable,
        ];
        assert_eq!(refusals, expected);
    });
}

#[test]
fn root_an_echo_comes_from_who_was_asked() {
    world(|world| async move {
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        let gateway = network.gateway();
        let echoes = inside(&lease, move || [OUTSIDE, gateway].map(echo)).await;
        assert!(echoes.iter().all(Result::is_ok), "{echoes:?}");
        let nobody = inside(&lease, || {
            [MACHINE, Ipv4Addr::new(169, 254, 1, 1)].map(echo)
        })
        .await;
        assert!(nobody.iter().all(Result::is_err), "{nobody:?}");
    });
}

/// What `ping` does, once.
fn echo(to: Ipv4Addr) -> std::io::Result<()> {
    let protocol = rustix::net::ipproto::ICMP;
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::RAW,
        Some(protocol),
    )?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    rustix::net::connect(&socket, &SocketAddrV4::new(to, 0))?;
    // Type 8, number 0x0102, sequence 1, no contents.
    socket.send(&[8, 0, 0xf6, 0xfc, 1, 2, 0, 1])?;
    let mut reply = [0; 100];
    let length = socket.recv(&mut reply)?;
    assert_eq!(
        reply.get(20..length),
        Some(&[0, 0, 0xfe, 0xfc, 1, 2, 0, 1][..])
    );
    assert_eq!(reply.get(12..16), Some(&to.octets()[..]));
    Ok(())
}
