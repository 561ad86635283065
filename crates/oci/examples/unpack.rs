//! How fast a layer is unpacked, beside inflating alone: `unpack LAYER TARGET-DIRECTORY [ROUNDS]`. With `OVERLAY` set it goes
//! into an overlay mount, as every layer but the lowest does.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use oci::layer::{Beneath, Compression, Expected, Limits, Target, unpack};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(layer), Some(target)) = (
        arguments.next().map(PathBuf::from),
        arguments.next().map(PathBuf::from),
    ) else {
        return Err("usage: unpack LAYER TARGET-DIRECTORY [ROUNDS]".into());
    };
    let rounds = arguments
        .next()
        .and_then(|n| n.to_str()?.parse().ok())
        .unwrap_or(5);
    let blob = fs::read(&layer)?;
    let (mut inflate, mut whole, mut size) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        let start = Instant::now();
        match Compression::detect(&blob) {
            Compression::None => io::copy(&mut blob.as_slice(), &mut io::sink())?,
            Compression::Gzip => io::copy(
                &mut flate2::bufread::MultiGzDecoder::new(blob.as_slice()),
                &mut io::sink(),
            )?,
            Compression::Zstd => io::copy(
                &mut zstd::stream::read::Decoder::with_buffer(blob.as_slice())?,
                &mut io::sink(),
            )?,
        };
        inflate.push(start.elapsed());
        let dir = target.join("unpacked");
        fs::create_dir(&dir)?;
        let (root, beneath): (OwnedFd, _) = if std::env::var_os("OVERLAY").is_some() {
            let path = |name: &str| dir.join(name);
            for name in ["lower", "upper", "work"] {
                fs::create_dir(path(name))?;
            }
            let spec = sys::mount::Overlay {
                lower: vec![path("lower")],
                upper: Some((path("upper"), path("work"))),
            };
            (sys::mount::overlay(&spec)?, Beneath::Layers)
        } else {
            (fs::File::open(&dir)?.into(), Beneath::Nothing)
        };
        let start = Instant::now();
        let done = unpack(
            fs::File::open(&layer)?,
            Target {
                root: root.as_fd(),
                beneath,
            },
            &Expected::default(),
            &Limits::default(),
        )?;
        whole.push(start.elapsed());
        size = done.size;
        drop(root);
        fs::remove_dir_all(&dir)?;
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (inflate, whole) = (median(&mut inflate), median(&mut whole));
    let rate = |time: Duration| size as f64 / 1e6 / time.as_secs_f64();
    println!(
        "{:.1} MB: inflate {:.0} MB/s, unpack {:.0} MB/s, ratio {:.2}",
        size as f64 / 1e6,
        rate(inflate),
        rate(whole),
        inflate.as_secs_f64() / whole.as_secs_f64()
    );
    Ok(())
}
