//! A small world for a test: one namespace stands for the machine, another for the outside, with a wire between them.

use std::{
    fs::File,
    future::Future,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use sandbox::network::{Config, Lease, Network, run_in};

/// The machine's address towards the outside.
pub(crate) const MACHINE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The outside's address.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The outside's second address.
pub(crate) const OUTSIDE_TOO: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// Nothing takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) outside: Arc<OwnedFd>,
    pub(crate) machine: Arc<OwnedFd>,
    pub(crate) resolv_conf: PathBuf,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn config(&self) -> Config {
        Config {
            ready: 2,
            resolv_conf: self.resolv_conf.clone(),
            ..Config::default()
        }
    }

    pub(crate) async fn network(&self) -> Network {
        Network::start(self.config()).await.expect("a network")
    }
}

/// Runs the test on a thread in a machine of its own. Without the rights for that it says so and passes.
pub(crate) fn world<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let Some(world) = build() else { return };
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                tokio::time::timeout(DEADLINE * 3, test(world))
                    .await
                    .expect("the test ends in time")
            });
        });
    });
}

fn build() -> Option<World> {
    if sys::netns::unshare().is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "the tests of the network need root"
        );
        eprintln!("skipped: needs root");
        return None;
    }
    let outside = std::thread::spawn(|| {
        sys::netns::unshare().expect("a namespace");
        sys::netns::current().expect("a descriptor")
    });
    let outside = outside.join().expect("a namespace");
    let machine = sys::netns::current().expect("a descriptor");
    ip("link set lo up");
    ip("link add wire type veth peer name wire0");
    // A child sees the descriptor under the parent's process.
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&outside)
    );
    ip(&format!("link set wire0 netns {path}"));
    // Its state would change by itself while tests compare.
    ip("link set wire addrgenmode none");
    ip(&format!("addr add {MACHINE}/24 dev wire"));
    ip("link set wire up");
    ip("route add default via 198.51.100.2");
    run_in(&outside, || {
        ip("link set lo up");
        ip(&format!("addr add {OUTSIDE}/24 dev wire0"));
        ip(&format!("addr add {OUTSIDE_TOO}/24 dev wire0"));
        ip("link set wire0 up");
    })
    .expect("a configured outside");
    let start = std::time::Instant::now();
    while !ip_says("link show wire").contains("state UP") {
        assert!(start.elapsed() < DEADLINE, "the wire does not come up");
        std::thread::yield_now();
    }
    let dir = tempfile::tempdir().expect("a directory");
    let resolv_conf = dir.path().join("resolv.conf");
    File::create(&resolv_conf)
        .and_then(|mut file| writeln!(file, "nameserver {OUTSIDE}"))
        .expect("a file");
    Some(World {
        outside: outside.into(),
        machine: machine.into(),
        resolv_conf,
        _dir: dir,
    })
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("`ip` (package iproute2)");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What `ip` prints in the calling thread's namespace.
pub(crate) fn ip_says(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("`ip` (package iproute2)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs blocking code in a container's place.
pub(crate) async fn inside<T: Send + 'static>(
    lease: &Lease,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let namespace = lease.namespace.try_clone().expect("a descriptor");
    tokio::task::spawn_blocking(move || run_in(&namespace, work).expect("the namespace"))
        .await
        .expect("no panic")
}

/// Connects, with a deadline on everything.
pub(crate) fn connect(to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.into(), DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Everything the other side sends until it ends; an error counts as nothing.
pub(crate) fn read_all(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}
