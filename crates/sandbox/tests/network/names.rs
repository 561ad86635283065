//! Names as containers see them.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::Duration,
};

use sandbox::network::{bind_udp_in, listen_in};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{OUTSIDE, OUTSIDE_TOO, World, connect, inside, world};

/// A question for an address.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], b"\x01\0\0\x01\0\0\0\0\0\0"].concat();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.extend(b"\0\0\x01\0\x01");
    bytes
}

/// The answer of a server that gives everything one address.
fn answer(question: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut bytes = question.to_vec();
    bytes[2] = 0x81;
    bytes[3] = 0x80;
    bytes[7] = 1;
    bytes.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04");
    bytes.extend(address.octets());
    bytes
}

/// Asks over UDP: the answer's flags and its last four bytes, which are the address if there is one.
fn ask(name: &str) -> (u8, u8, [u8; 4]) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
    socket
        .set_read_timeout(Some(Duration::from_secs(15)))
        .expect("a timeout");
    socket
        .connect((Ipv4Addr::new(10, 87, 0, 1), 53))
        .expect("connected");
    socket.send(&question(77, name)).expect("sent");
    let mut buffer = [0; 600];
    let length = socket.recv(&mut buffer).expect("an answer");
    assert_eq!(buffer[..2], 77_u16.to_be_bytes());
    (
        buffer[2],
        buffer[3],
        buffer[length - 4..length].try_into().expect("four bytes"),
    )
}

/// A name server outside; it notes what it was asked. Names that begin with `big` do not fit a datagram.
async fn upstream(world: &World, on: Ipv4Addr) -> Arc<Mutex<Vec<u8>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let udp = bind_udp_in(&world.outside, SocketAddr::from((on, 53)))
        .await
        .expect("bound");
    let tcp = listen_in(&world.outside, SocketAddr::from((on, 53)))
        .await
        .expect("a listener");
    let note = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 600];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            let question = &buffer[..length];
            note.lock().expect("no panic").extend(question);
            let mut reply = answer(question, on);
            if question[13..].starts_with(b"big") {
                reply.truncate(length);
                (reply[2], reply[7]) = (0x83, 0);
            }
            // A forger's answer comes first: another number.
            let mut forged = answer(question, Ipv4Addr::BROADCAST);
            forged[0] ^= 1;
            udp.send_to(&forged, from).await.expect("sent");
            udp.send_to(&reply, from).await.expect("sent");
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.expect("a length");
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await.expect("a question");
            let reply = answer(&question, Ipv4Addr::new(9, 9, 9, 9));
            stream
                .write_u16(u16::try_from(reply.len()).expect("short"))
                .await
                .expect("sent");
            stream.write_all(&reply).await.expect("sent");
        }
    });
    asked
}

#[test]
fn root_own_names_are_answered_and_others_forwarded() {
    world(|world| async move {
        let asked = upstream(&world, OUTSIDE).await;
        let network = world.network().await;
        let (ours, theirs) = (network.open_session(), network.open_session());
        let (lease, stranger) = (
            network.take(ours).await.expect("a"),
            network.take(theirs).await.expect("b"),
        );
        network.dns().update(|zone| {
            let names = zone.names_mut(ours);
            names
                .domains
                .insert("s1.dagger.local".parse().expect("a name"));
            names.hosts.insert(
                "db.s1.dagger.local".parse().expect("a name"),
                vec![Ipv4Addr::new(10, 87, 7, 7)],
            );
        });
        let answers = inside(&lease, || {
            ["db.s1.dagger.local", "web.s1.dagger.local", "example.org"].map(ask)
        })
        .await;
        assert_eq!(answers[0], (0x85, 0x80, [10, 87, 7, 7]));
        assert_eq!((answers[1].0, answers[1].1), (0x85, 0x83));
        assert_eq!(answers[2], (0x81, 0x80, OUTSIDE.octets()));
        let seen = String::from_utf8_lossy(&asked.lock().expect("no panic")).into_owned();
        assert!(
            seen.contains("example") && !seen.contains("dagger"),
            "{seen:?}"
        );
        // For another session the name is one like any other.
        assert_eq!(
            inside(&stranger, || ask("db.s1.dagger.local")).await.2,
            OUTSIDE.octets()
        );

        network.close_session(ours);
        assert!(network.dns().zone().names(ours).is_none());
    });
}

#[test]
fn root_what_does_not_fit_a_datagram_comes_over_tcp() {
    world(|world| async move {
        upstream(&world, OUTSIDE).await;
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        let (flags, _, _) = inside(&lease, || ask("big.example.org")).await;
        assert_eq!(flags & 2, 2, "the client is told that it is not all");
        let whole = inside(&lease, || {
            use std::io::{Read, Write};
            let mut stream = connect((Ipv4Addr::new(10, 87, 0, 1), 53)).expect("a connection");
            let mut answers = Vec::new();
            for name in ["big.example.org", "small.example.org"] {
                let question = question(5, name);
                stream
                    .write_all(&[0, u8::try_from(question.len()).expect("short")])
                    .expect("sent");
                stream.write_all(&question).expect("sent");
                let mut length = [0; 2];
                stream.read_exact(&mut length).expect("a length");
                let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut reply).expect("an answer");
                answers.push(reply[reply.len() - 4..].to_vec());
            }
            answers
        })
        .await;
        assert_eq!(whole, [[9, 9, 9, 9], OUTSIDE.octets()]);
    });
}

#[test]
fn root_the_second_server_is_asked_when_the_first_is_dead_and_changes_are_seen() {
    world(|world| async move {
        upstream(&world, OUTSIDE_TOO).await;
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        // Nobody listens at the only server.
        let (_, code, _) = inside(&lease, || ask("example.org")).await;
        assert_eq!(code & 15, 2);
        std::fs::write(
            &world.resolv_conf,
            format!("nameserver {OUTSIDE}\nnameserver {OUTSIDE_TOO}\n"),
        )
        .expect("written");
        assert_eq!(
            inside(&lease, || ask("example.org")).await.2,
            OUTSIDE_TOO.octets()
        );
    });
}

#[test]
fn root_a_flood_of_questions_does_not_starve_others() {
    world(|world| async move {
        upstream(&world, OUTSIDE_TOO).await;
        // A server that takes questions and never answers, for the flooder's; another for the rest.
        let silent = bind_udp_in(&world.outside, SocketAddr::from((OUTSIDE, 53)))
            .await
            .expect("bound");
        std::fs::write(
            &world.resolv_conf,
            format!("nameserver {OUTSIDE}\nnameserver {OUTSIDE_TOO}\n"),
        )
        .expect("written");
        let network = world.network().await;
        let session = network.open_session();
        let (flooder, other) = (
            network.take(session).await.expect("a"),
            network.take(session).await.expect("b"),
        );
        inside(&flooder, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
            for id in 0..5000 {
                drop(socket.send_to(
                    &question(id, "flood.example.org"),
                    (Ipv4Addr::new(10, 87, 0, 1), 53),
                ));
            }
        })
        .await;
        assert_eq!(
            inside(&other, || ask("example.org")).await.2,
            OUTSIDE_TOO.octets()
        );
        drop(silent);
    });
}
