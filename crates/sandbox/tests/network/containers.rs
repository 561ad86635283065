//! Containers and their sessions.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
};

use sandbox::network::{bind_udp_in, dial_in, listen_in};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{connect, inside, ip_says, read_all, world};

#[test]
fn root_a_session_reaches_itself_and_no_other() {
    world(|world| async move {
        let network = world.network().await;
        let (ours, theirs) = (network.open_session(), network.open_session());
        let (a, b, stranger) = (
            network.take(ours).await.expect("a"),
            network.take(ours).await.expect("b"),
            network.take(theirs).await.expect("c"),
        );
        let listener = inside(&a, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).expect("a listener")
        })
        .await;
        let to = SocketAddrV4::new(a.address, 8080);

        let from = b.address;
        let client = inside(&b, move || connect(to).expect("a connection"));
        let accepted = tokio::task::spawn_blocking(move || {
            (listener.accept().expect("a connection"), listener)
        });
        let (mut client, accepted) = tokio::join!(client, accepted);
        let ((server, peer), _listener) = accepted.expect("no panic");
        assert_eq!(peer.ip(), from);
        client.write_all(b"hello").expect("sent");
        drop(client);
        assert_eq!(read_all(server).expect("received"), b"hello");

        let refused = inside(&stranger, move || connect(to).expect_err("no connection")).await;
        assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable);
        let (target, own) = (a.address, stranger.address);
        let pretended = inside(&stranger, move || {
            ip_says("addr add 10.87.0.99/32 dev eth0");
            let socket = UdpSocket::bind((Ipv4Addr::new(10, 87, 0, 99), 9)).expect("bound");
            socket
                .set_read_timeout(Some(std::time::Duration::from_millis(200)))
                .expect("a timeout");
            socket
                .send_to(b"x", (own, 9))
                .and(socket.send_to(b"x", (target, 9)))
                .and_then(|_| socket.recv(&mut [0; 9]))
        })
        .await;
        assert!(pretended.is_err());
    });
}

#[test]
fn root_a_container_finds_its_link_ready() {
    world(|world| async move {
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        assert_eq!(lease.address, Ipv4Addr::new(10, 87, 0, 2));
        let (addresses, routes) =
            inside(&lease, || (ip_says("-br -4 addr"), ip_says("route"))).await;
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            words(&addresses),
            "lo UNKNOWN 127.0.0.1/8 eth0@if100 UP 10.87.0.2/16"
        );
        assert!(
            words(&routes).starts_with("default via 10.87.0.1 dev eth0"),
            "{routes}"
        );
    });
}

#[test]
fn root_the_engine_reaches_into_namespaces() {
    world(|world| async move {
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80));
        let listener = listen_in(&lease.namespace, any).await.expect("a listener");
        let served = tokio::spawn(async move {
            let mut peers = Vec::new();
            for _ in 0..2 {
                let (mut stream, peer) = listener.accept().await.expect("a connection");
                stream.write_all(b"hi").await.expect("sent");
                peers.push(peer.ip());
            }
            peers
        });
        let to = SocketAddrV4::new(lease.address, 80);
        let streams = [
            network.dial(to).await.expect("dialled"),
            dial_in(&lease.namespace, to.into()).await.expect("dialled"),
        ];
        for mut stream in streams {
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("received");
            assert_eq!(text, "hi");
        }
        assert_eq!(
            served.await.expect("served"),
            [network.gateway(), lease.address]
        );
        assert!(
            network
                .dial(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80))
                .await
                .is_err()
        );
        bind_udp_in(&lease.namespace, SocketAddr::from((lease.address, 99)))
            .await
            .expect("bound");
    });
}

#[test]
fn root_two_hundred_containers_at_once() {
    world(|world| async move {
        let network = world.network().await;
        let session = network.open_session();
        let leases = futures::future::join_all((0..200).map(|_| network.take(session))).await;
        let leases: Vec<_> = leases
            .into_iter()
            .map(|lease| lease.expect("a lease"))
            .collect();
        let addresses: std::collections::BTreeSet<_> =
            leases.iter().map(|lease| lease.address).collect();
        assert_eq!(addresses.len(), 200);
        let (first, last) = (leases.first().expect("one"), leases.last().expect("one"));
        let listener = inside(last, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 1)).expect("a listener")
        })
        .await;
        let to = SocketAddrV4::new(last.address, 1);
        inside(first, move || connect(to).expect("a connection")).await;
        drop(listener);
    });
}
