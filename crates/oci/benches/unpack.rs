//! How fast a layer is unpacked, beside inflating it alone with the same library and beside `tar`.
//!
//! `cargo bench -p oci`: the layer is this machine's own `/usr/lib` and `/usr/share`, up to 300 MB of it, in memory. Turns
//! alternate; medians and ratios of one run.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot run says where it stands and ends"
)]

use std::{
    fs,
    io::{self, BufReader},
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use oci::layer::{Beneath, Expected, Limits, Target, unpack};

const TURNS: usize = 9;
const LARGEST: u64 = 300 << 20;

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn median(runs: &mut [Duration]) -> Duration {
    runs.sort();
    runs[runs.len() / 2]
}

/// Folders of the machine until they are large enough, as a tar.
fn layer(dir: &Path) -> Vec<u8> {
    let mut names = Vec::new();
    let mut total = 0;
    for top in ["/usr/lib", "/usr/share"] {
        for entry in fs::read_dir(top).unwrap().flatten() {
            let path = entry.path();
            if !path.is_dir() || path.is_symlink() {
                continue;
            }
            let size = Command::new("du").arg("-sb").arg(&path).output().unwrap();
            let size = String::from_utf8_lossy(&size.stdout);
            let size: u64 = size
                .split_whitespace()
                .next()
                .unwrap_or("0")
                .parse()
                .unwrap();
            if total + size <= LARGEST {
                total += size;
                names.push(path);
            }
        }
    }
    let blob = dir.join("layer.tar.gz");
    let made = Command::new("tar")
        .args(["--numeric-owner", "-C", "/", "-czf"])
        .arg(&blob)
        .args(names)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success(), "{made}");
    fs::read(blob).unwrap()
}

fn main() {
    // `cargo test --benches` only wants to see it built.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let blob = layer(dir.path());
    let (mut inflated, mut unpacked, mut tarred) = (Vec::new(), Vec::new(), Vec::new());
    let mut size = 0;
    for _ in 0..TURNS {
        inflated.push(timed(|| {
            let mut decoder = flate2::bufread::MultiGzDecoder::new(blob.as_slice());
            let mut reader = BufReader::with_capacity(1 << 20, &mut decoder);
            size = io::copy(&mut reader, &mut io::sink()).unwrap();
        }));
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        unpacked.push(timed(|| {
            let root = fs::File::open(&root).unwrap();
            let target = Target {
                root: root.as_fd(),
                beneath: Beneath::Nothing,
            };
            let expected = Expected::default();
            unpack(blob.as_slice(), target, &expected, &Limits::default()).unwrap();
        }));
        fs::remove_dir_all(&root).unwrap();
        fs::create_dir(&root).unwrap();
        tarred.push(timed(|| {
            let done = Command::new("tar")
                .args(["--numeric-owner", "-C"])
                .arg(&root)
                .arg("-xzf")
                .arg(dir.path().join("layer.tar.gz"))
                .status()
                .unwrap();
            assert!(done.success());
        }));
        fs::remove_dir_all(&root).unwrap();
    }
    let alone = median(&mut inflated);
    println!(
        "a layer of {} MB, {} MB compressed; medians of {TURNS} turns",
        size >> 20,
        blob.len() >> 20
    );
    for (what, runs) in [
        ("inflate alone", &mut inflated),
        ("unpack, verified", &mut unpacked),
        ("tar -xzf", &mut tarred),
    ] {
        let took = median(runs);
        println!(
            "{what:20} {:8.1} ms  {:7.0} MB/s  ratio {:.2}",
            took.as_secs_f64() * 1e3,
            size as f64 / took.as_secs_f64() / 1e6,
            took.as_secs_f64() / alone.as_secs_f64()
        );
    }
}
