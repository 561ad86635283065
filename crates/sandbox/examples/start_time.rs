//! How long a container takes from the call to the end of `/bin/true`, beside a bare fork and exec of the same program.
//!
//! `cargo run --release -p sandbox --example start_time [rounds]`, as root, with a static busybox installed.

use std::{
    fs,
    os::unix::fs::symlink,
    process::Command,
    time::{Duration, Instant},
};

use sandbox::{
    Native, Options, Runtime,
    spec::{Net, Root, Spec, Stdio, UserSpec},
};

const BUSYBOX: &str = "/usr/bin/busybox";

fn main() {
    sandbox::init::maybe_run();
    let rounds: usize = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(200);
    let dir = tempfile::Builder::new()
        .prefix("start-time-")
        .tempdir_in("/dev/shm")
        .expect("a directory in memory");
    let lower = dir.path().join("lower");
    for name in ["bin", "etc", "proc", "sys", "dev"] {
        fs::create_dir_all(lower.join(name)).expect("make the image");
    }
    fs::copy(BUSYBOX, lower.join("bin/busybox")).expect("copy busybox");
    symlink("busybox", lower.join("bin/true")).expect("link true");

    let program = lower.join("bin/true");
    report("fork and exec", rounds, |_| {
        assert!(Command::new(&program).status().expect("run").success())
    });
    let native = Native::new().expect("a runtime");
    let mut bare = Options::default();
    bare.cgroups = false;
    let bare = Native::with(bare).expect("a runtime");
    let cases: [(&str, &Native, bool, bool, bool); 5] = [
        ("host network", &native, false, false, false),
        ("own network", &native, true, false, false),
        ("own network, init", &native, true, true, false),
        ("the same, hosts and resolv.conf", &native, true, true, true),
        ("the same without control groups", &bare, true, true, true),
    ];
    for (name, runtime, net, init, files) in cases {
        report(name, rounds, |round| {
            let upper = dir.path().join(format!("{name}-{round}"));
            let (upper, work) = (upper.join("upper"), upper.join("work"));
            fs::create_dir_all(&upper).expect("make the upper layer");
            fs::create_dir_all(&work).expect("make the work directory");
            let spec = Spec {
                root: Root::Overlay(sys::mount::Overlay {
                    lower: vec![lower.clone()],
                    upper: Some((upper, work)),
                }),
                mounts: Vec::new(),
                argv: vec![b"/bin/true".to_vec()],
                env: vec![b"PATH=/bin".to_vec()],
                cwd: b"/".to_vec(),
                user: UserSpec::default(),
                hostname: "box".into(),
                stdio: Stdio {
                    stdin: None,
                    stdout: None,
                    stderr: None,
                    terminal: false,
                },
                net: if net { Net::None } else { Net::Host },
                hosts: files.then(|| b"127.0.0.1 localhost\n".to_vec()),
                resolv_conf: files.then(|| b"nameserver 127.0.0.1\n".to_vec()),
                privileged: false,
                init,
                ca_bundle: None,
                rlimits: Vec::new(),
            };
            let mut child = runtime.start(spec).expect("start");
            assert_eq!(child.wait_blocking().expect("wait").code(), 0);
        });
    }
}

fn report(name: &str, rounds: usize, mut run: impl FnMut(usize)) {
    run(usize::MAX);
    let mut times: Vec<Duration> = (0..rounds)
        .map(|round| {
            let start = Instant::now();
            run(round);
            start.elapsed()
        })
        .collect();
    times.sort();
    let at = |percent: usize| {
        times
            .get(times.len() * percent / 100)
            .copied()
            .unwrap_or_default()
            .as_secs_f64()
            * 1e3
    };
    println!(
        "{name:34} least {:6.2} ms  p50 {:6.2} ms  p95 {:6.2} ms  p99 {:6.2} ms",
        at(0),
        at(50),
        at(95),
        at(99)
    );
}
