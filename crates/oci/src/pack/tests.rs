//! Layers packed and unpacked again, by this crate and by GNU tar.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;

fn sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("d/e")).unwrap();
    fs::write(at("d/e/f"), "contents").unwrap();
    fs::write(at("big"), vec![7; 9 << 20]).unwrap();
    fs::hard_link(at("big"), at("d/big2")).unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at(&"n".repeat(200)), "long").unwrap();
    fs::write(at("umlaut-ü"), "x").unwrap();
    std::os::unix::fs::symlink("d/e/f", at("link")).unwrap();
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o4755)).unwrap();
    dir
}

fn packed(dir: &Path, format: Format, times: Times) -> (Packed, Vec<u8>) {
    let mut out = Vec::new();
    let source = Source {
        dir,
        below: None,
        times,
    };
    (pack(&source, format, &mut out).unwrap(), out)
}

fn at(seconds: i64) -> Times {
    Times {
        latest: Some(seconds),
        written: None,
    }
}

#[test]
fn the_same_files_give_the_same_bytes_in_every_format() {
    let (one, two) = (sample(), sample());
    for format in [
        Format::Gzip,
        Format::Zstd,
        Format::Uncompressed,
        Format::Stargz,
    ] {
        let (a, b) = (
            packed(one.path(), format, at(1000)),
            packed(two.path(), format, at(1000)),
        );
        assert_eq!(a, b, "{format:?}");
        let mut tar = Vec::new();
        stream::inflate(a.1.as_slice())
            .unwrap()
            .read_to_end(&mut tar)
            .unwrap();
        assert_eq!(Digest::of(&tar), a.0.diff_id, "{format:?}");
        assert_eq!(tar.len() as u64, a.0.size);
        assert_eq!(a.0.latest, Some(1000));
    }
}

#[test]
fn other_programs_read_it() {
    let dir = sample();
    for (format, flag) in [
        (Format::Gzip, "-z"),
        (Format::Stargz, "-z"),
        (Format::Uncompressed, "--no-auto-compress"),
    ] {
        let (_, blob) = packed(dir.path(), format, Times::default());
        let to = tempfile::tempdir().unwrap();
        let file = to.path().join("layer");
        fs::write(&file, blob).unwrap();
        let out = to.path().join("out");
        fs::create_dir(&out).unwrap();
        let done = std::process::Command::new("tar")
            .args([flag, "-xpf"])
            .arg(&file)
            .arg("-C")
            .arg(&out)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{format:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        if format == Format::Stargz {
            fs::remove_file(out.join("stargz.index.json")).unwrap();
        }
        let same = std::process::Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([dir.path(), &out])
            .output()
            .unwrap();
        assert!(
            same.status.success(),
            "{format:?}: {}",
            String::from_utf8_lossy(&same.stdout)
        );
        let mode = fs::metadata(out.join("empty"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o4755);
    }
}

#[test]
fn a_converted_blob_has_the_same_contents() {
    let dir = sample();
    let (plain, tar) = packed(dir.path(), Format::Uncompressed, at(0));
    let (_, gzip) = packed(dir.path(), Format::Gzip, at(0));
    for format in [Format::Gzip, Format::Zstd, Format::Uncompressed] {
        let mut out = Vec::new();
        let converted = convert(gzip.as_slice(), format, &mut out).unwrap();
        assert_eq!(converted.diff_id, plain.diff_id);
        let mut back = Vec::new();
        convert(out.as_slice(), Format::Uncompressed, &mut back).unwrap();
        assert!(back == tar, "{format:?}");
    }
}

#[test]
fn what_the_engine_wrote_has_no_time_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("old"), "").unwrap();
    fs::write(dir.path().join("new"), "").unwrap();
    let old = fs::File::options()
        .write(true)
        .open(dir.path().join("old"))
        .unwrap();
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(500))
        .unwrap();
    let times = Times {
        latest: None,
        written: Some((600_000_000_000, 42)),
    };
    let (_, tar) = packed(dir.path(), Format::Uncompressed, times);
    let time = |at: usize| {
        i64::from_str_radix(std::str::from_utf8(&tar[at + 136..at + 147]).unwrap(), 8).unwrap()
    };
    assert_eq!((&tar[..3], time(0)), (&b"new"[..], 42));
    assert_eq!((&tar[512..515], time(512)), (&b"old"[..], 500));
}

#[test]
fn a_full_disk_is_told() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let n = bytes.len().min(self.0);
            self.0 -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = sample();
    let source = Source {
        dir: dir.path(),
        below: None,
        times: Times::default(),
    };
    for format in [Format::Gzip, Format::Uncompressed] {
        let error = pack(&source, format, &mut Full(100)).unwrap_err();
        assert!(matches!(error, PackError::Io(e) if e.kind() == io::ErrorKind::StorageFull));
    }
}
