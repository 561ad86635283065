//! What lives how long, and what is left.

use std::{
    fs,
    io::Read,
    net::SocketAddr,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use rustix::thread::{CapabilitySet, CapabilitySets};
use sandbox::network::{Config, Network, StartError, TakeError, listen_in};
use tokio::io::AsyncWriteExt;

use crate::kit::{DEADLINE, OUTSIDE, connect, inside, ip_says, world};

/// The number of a namespace.
fn number(namespace: impl AsFd) -> u64 {
    rustix::fs::fstat(namespace).expect("a number").st_ino
}

/// Who still holds the namespace: threads in it and descriptors of it, of all processes.
fn holders(namespace: u64) -> Vec<String> {
    let mut found = Vec::new();
    let entries = |path: &str| {
        fs::read_dir(path)
            .map(|entries| entries.flatten().map(|e| e.path()).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    for process in entries("/proc") {
        let process = process.to_string_lossy().into_owned();
        if !process.ends_with(|last: char| last.is_ascii_digit()) {
            continue;
        }
        for thread in entries(&format!("{process}/task")) {
            found.push(thread.join("ns/net"));
        }
        found.extend(entries(&format!("{process}/fd")));
    }
    let held = |path: &std::path::PathBuf| {
        let link = fs::read_link(path).unwrap_or_default();
        link.to_string_lossy() == format!("net:[{namespace}]")
            && fs::metadata(path).is_ok_and(|meta| meta.ino() == namespace)
    };
    found
        .into_iter()
        .filter(held)
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn root_nothing_is_left_and_the_machine_is_untouched() {
    world(|world| async move {
        let look = || ["link", "addr", "route show table all", "rule"].map(ip_says);
        let forwarding = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("readable");
        let before = (look(), forwarding());
        let network = world.network().await;
        let lease = network.take(network.open_session()).await.expect("a lease");
        assert_eq!((look(), forwarding()), before);
        let number = number(&lease.namespace);
        assert!(!holders(number).is_empty());
        drop(lease);
        let deadline = std::time::Instant::now() + DEADLINE;
        // A child of another test's may hold all descriptors between fork and exec.
        while let Some(holder) = holders(number).pop() {
            assert!(std::time::Instant::now() < deadline, "{holder}");
        }
        drop(network);
        assert_eq!((look(), forwarding()), before);
        assert!(
            !fs::exists("/run/netns").unwrap_or(false)
                || fs::read_dir("/run/netns").is_ok_and(|mut names| names.next().is_none())
        );
    });
}

#[test]
fn root_a_session_that_ends_takes_its_connections_along() {
    world(|world| async move {
        let network = world.network().await;
        let session = network.open_session();
        let lease = network.take(session).await.expect("a lease");
        let listener = listen_in(&world.outside, SocketAddr::from((OUTSIDE, 7)))
            .await
            .expect("a listener");
        let stream = inside(&lease, || connect((OUTSIDE, 7)).expect("a connection"));
        let (mut stream, accepted) = tokio::join!(stream, listener.accept());
        let (mut server, _) = accepted.expect("a connection");
        server.write_all(b"x").await.expect("sent");
        network.close_session(session);
        let ended = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            drop(stream.read_to_end(&mut bytes));
            bytes.len()
        });
        assert!(ended.await.expect("no panic") <= 1);
        assert!(matches!(
            network.take(session).await,
            Err(TakeError::Closed)
        ));
    });
}

#[test]
fn root_a_full_subnet_is_an_error_and_room_returns() {
    world(|world| async move {
        let config = Config {
            subnet: "10.99.0.0/29".parse().expect("a subnet"),
            ready: 1,
            ..world.config()
        };
        let network = Network::start(config).await.expect("a network");
        let session = network.open_session();
        let mut leases = Vec::new();
        for _ in 0..5 {
            leases.push(network.take(session).await.expect("a lease"));
        }
        let error = network.take(session).await.expect_err("no room");
        let TakeError::Make(problem) = &error else {
            panic!("{error}")
        };
        assert_eq!(
            format!("{error}: {problem}"),
            "cannot make a container's network: cannot find a free address in `10.99.0.0/29`"
        );
        drop(leases);
        let again = async {
            loop {
                if let Ok(lease) = network.take(session).await {
                    return lease.address;
                }
            }
        };
        assert_eq!(again.await.to_string(), "10.99.0.2");
    });
}

#[test]
fn root_without_rights_there_is_no_network() {
    world(|_| async move {
        let without = std::thread::spawn(|| {
            let sets = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, sets).expect("dropped");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime
                .block_on(Network::start(Config::default()))
                .map(drop)
        });
        let error = without.join().expect("no panic").expect_err("no network");
        assert!(matches!(error, StartError::NotPermitted(_)), "{error:?}");
        assert_eq!(
            error.to_string(),
            "no right to make a network: cannot make a network namespace"
        );
    });
}
