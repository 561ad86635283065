//! A path's facts.

use std::{io, path::Path};

use rustix::fs::{AtFlags, CWD, FileType, Stat};
use wire::{
    LinkError, RawPath,
    link::{PathKind, PathStat},
};

/// Looks at a path.
///
/// # Errors
/// What the machine says.
pub fn stat(path: &Path, follow: bool) -> Result<PathStat, LinkError> {
    let (what, flags) = if follow {
        ("stat", AtFlags::empty())
    } else {
        ("lstat", AtFlags::SYMLINK_NOFOLLOW)
    };
    let failed = |e: io::Error| LinkError::io(what, path, &e);
    let st = rustix::fs::statat(CWD, path, flags).map_err(|e| failed(e.into()))?;
    let kind = kind(&st);
    let link = match kind {
        PathKind::Symlink => Some(RawPath(
            rustix::fs::readlink(path, Vec::new())
                .map_err(|e| failed(e.into()))?
                .into_bytes(),
        )),
        _ => None,
    };
    let real = if follow {
        Some(RawPath::from(path.canonicalize().map_err(failed)?))
    } else {
        None
    };
    Ok(PathStat {
        kind,
        mode: st.st_mode & 0o7777,
        size: u64::try_from(st.st_size).unwrap_or_default(),
        mtime_ns: mtime_ns(&st),
        uid: st.st_uid,
        gid: st.st_gid,
        link,
        real,
    })
}

/// What it is.
pub(super) fn kind(st: &Stat) -> PathKind {
    match FileType::from_raw_mode(st.st_mode) {
        FileType::Directory => PathKind::Dir,
        FileType::RegularFile => PathKind::File,
        FileType::Symlink => PathKind::Symlink,
        FileType::Socket => PathKind::Socket,
        _ => PathKind::Other,
    }
}

/// Modification time in nanoseconds.
pub(super) fn mtime_ns(st: &Stat) -> i64 {
    nanos(st.st_mtime, st.st_mtime_nsec)
}

/// Status change time in nanoseconds.
pub(super) fn ctime_ns(st: &Stat) -> i64 {
    nanos(st.st_ctime, st.st_ctime_nsec)
}

fn nanos(secs: impl Into<i64>, nanos: impl TryInto<i64>) -> i64 {
    secs.into()
        .saturating_mul(1_000_000_000)
        .saturating_add(nanos.try_into().unwrap_or_default())
}

/// Files changed within so many nanoseconds may change again without their times telling: the kernel's clock ticks.
const TICK: i64 = 10_000_000;

/// What tells that a file may have other content though size and modification time are the same. A file that changed just
/// now gets a stamp of this moment, which never comes again.
pub(super) fn stamp(st: &Stat, now_ns: i64) -> u64 {
    let changed = ctime_ns(st);
    let moment = if changed > now_ns.saturating_sub(TICK) {
        !now_ns
    } else {
        changed
    };
    moment.cast_unsigned() ^ st.st_ino.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The time of day, as the kernel stamps files.
pub(super) fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    nanos(now.tv_sec, now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_seen_or_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("f"), dir.path().join("l"));
        std::fs::write(&file, "abc").unwrap();
        std::os::unix::fs::symlink("f", &link).unwrap();
        let seen = stat(&link, false).unwrap();
        assert_eq!(
            (seen.kind, seen.link),
            (PathKind::Symlink, Some("f".into()))
        );
        let through = stat(&link, true).unwrap();
        assert_eq!((through.kind, through.size), (PathKind::File, 3));
        assert_eq!(
            through.real.unwrap().as_path(),
            file.canonicalize().unwrap()
        );
    }

    #[test]
    fn a_missing_path_is_named() {
        let e = stat(Path::new("/nowhere/at/all"), false).unwrap_err();
        assert_eq!(
            e.message,
            "lstat /nowhere/at/all: no such file or directory"
        );
    }

    #[test]
    fn a_file_of_this_moment_has_a_stamp_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "abc").unwrap();
        let st = rustix::fs::stat(dir.path().join("f")).unwrap();
        let just_now = ctime_ns(&st) + 1;
        assert_ne!(stamp(&st, just_now), stamp(&st, just_now + 1));
        let later = ctime_ns(&st) + TICK;
        assert_eq!(stamp(&st, later), stamp(&st, later + 1));
    }
}
