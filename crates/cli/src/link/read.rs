//! Sends the contents of files.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat},
    io::Errno,
};
use wire::{
    LinkError, LinkErrorKind, RawPath, Status,
    frame::{self, HEADER, Kind},
    link::{FileBytes, MAX_READ_PATHS},
    piece::{self, Piece},
};

use super::{Broken, stat, status_line};

/// Collected before a write to the connection.
const BATCH: usize = 256 << 10;

/// Most that is read of a file that says it has no size.
const UNSIZED_MAX: u64 = 64 << 20;
/// Read of such a file at once.
const UNSIZED_PIECE: usize = 4 << 10;

/// Answers a `read` request.
///
/// # Errors
/// A broken connection.
pub fn read(to: &mut impl Write, root: &Path, paths: &[RawPath]) -> Result<(), Broken> {
    if paths.len() > MAX_READ_PATHS {
        let error = LinkError::new(
            LinkErrorKind::Invalid,
            format!("{} paths in one request are too many", paths.len()),
        );
        return super::whole::<()>(to, Err(error));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(root, flags, Mode::empty()) {
        Ok(d) => d,
        Err(e) => return super::whole::<()>(to, Err(LinkError::io("open", root, &e.into()))),
    };
    let mut out = Batch {
        to,
        buffer: status_line(&Status::Ok(()))?,
    };
    for (index, path) in (0u64..).zip(paths) {
        match open_beneath(&dir, path) {
            Ok((file, before)) => contents(&mut out, index, &file, &before)?,
            Err(e) => {
                let error = LinkError::io("open", &root.join(path.as_path()), &e.into());
                out.piece(&Piece::Missing { index, error })?;
            }
        }
    }
    out.piece(&Piece::Done)?;
    out.flush()
}

/// Frames on their way.
struct Batch<'w, W> {
    to: &'w mut W,
    buffer: Vec<u8>,
}

impl<W: Write> Batch<'_, W> {
    fn piece(&mut self, piece: &Piece<'_>) -> Result<(), Broken> {
        piece.encode(&mut self.buffer);
        if self.buffer.len() >= BATCH {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        self.to.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// A `Data` frame of at most `max` bytes, filled from a file at an offset; how many came.
    fn data(&mut self, file: &File, offset: u64, max: usize) -> Result<usize, Broken> {
        let start = self.buffer.len();
        self.buffer.resize(start + HEADER + max, 0);
        let mut filled = 0;
        while let Some(place) = self
            .buffer
            .get_mut(start + HEADER + filled..)
            .filter(|p| !p.is_empty())
        {
            match file.read_at(place, offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A file that cannot be read any more ends here, and counts as changed.
                Err(_) => break,
            }
        }
        self.buffer.truncate(if filled == 0 {
            start
        } else {
            start + HEADER + filled
        });
        if filled > 0
            && let Some(place) = self.buffer.get_mut(start..start + HEADER)
        {
            place.copy_from_slice(&frame::header(Kind::Data, filled));
        }
        if self.buffer.len() >= BATCH {
            self.flush()?;
        }
        Ok(filled)
    }
}

/// Opens a regular file below a directory, following no symbolic link on the way.
fn open_beneath(dir: &OwnedFd, path: &RawPath) -> Result<(File, Stat), Errno> {
    if !piece::is_relative(&path.0) {
        return Err(Errno::INVAL);
    }
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = match rustix::fs::openat2(dir, path.as_path(), flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or filtered: the engine asked for what was listed, links on the way came with the race only.
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::openat(dir, path.as_path(), flags, Mode::empty())
        }
        other => other,
    };
    let file = File::from(opened?);
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, stat)),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::INVAL),
    }
}

fn contents<W: Write>(
    out: &mut Batch<'_, W>,
    index: u64,
    file: &File,
    before: &Stat,
) -> Result<(), Broken> {
    let now = stat::now_ns();
    let size = u64::try_from(before.st_size).unwrap_or_default();
    let (mode, mtime_ns, stamp) = (
        before.st_mode & 0o7777,
        stat::mtime_ns(before),
        stat::stamp(before, now),
    );
    out.piece(&Piece::Begin {
        index,
        size,
        mode,
        mtime_ns,
        stamp,
    })?;
    if size == 0 {
        return unsized_contents(out, file);
    }
    let sparse = u64::try_from(before.st_blocks)
        .unwrap_or_default()
        .saturating_mul(512)
        < size
        && size > BATCH as u64;
    let mut at = 0;
    while at < size {
        let (data_from, data_to) = if sparse {
            next_data(file, at, size)
        } else {
            (at, size)
        };
        if data_from > at {
            out.piece(&Piece::Hole(data_from - at))?;
            at = data_from;
        }
        let end = at.max(data_to.min(size));
        while at < end {
            let max = usize::try_from(end - at).unwrap_or(usize::MAX).min(BATCH);
            let got = out.data(file, at, max)?;
            at += got as u64;
            if got < max {
                return out.piece(&Piece::End { changed: true });
            }
        }
    }
    let after = rustix::fs::fstat(file).ok();
    let same = after.is_some_and(|a| {
        a.st_size == before.st_size
            && stat::mtime_ns(&a) == mtime_ns
            && stat::ctime_ns(&a) == stat::ctime_ns(before)
    });
    out.piece(&Piece::End { changed: !same })
}

/// A file of no size: empty, or one the kernel makes up while it is read, as in `/proc`.
fn unsized_contents<W: Write>(out: &mut Batch<'_, W>, file: &File) -> Result<(), Broken> {
    let mut at = 0;
    while at < UNSIZED_MAX {
        match out.data(file, at, UNSIZED_PIECE)? {
            0 => break,
            got => at += got as u64,
        }
    }
    out.piece(&Piece::End { changed: false })
}

/// The next range with data at or after an offset; file systems that do not know say that all is data.
fn next_data(file: &File, at: u64, size: u64) -> (u64, u64) {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => {
            let start = start.min(size);
            let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(size);
            (start, end.max(start + 1))
        }
        Err(Errno::NXIO) => (size, size),
        Err(_) => (at, size),
    }
}

/// Answers a `read_file` request. Symbolic links are followed: the user named this file.
///
/// # Errors
/// A broken connection.
pub fn read_file(to: &mut impl Write, path: &Path, max: u64) -> Result<(), Broken> {
    answer(to, small_file(path, max))
}

/// Answers with what is told of some bytes, and the bytes.
///
/// # Errors
/// A broken connection.
pub(super) fn answer(
    to: &mut impl Write,
    answer: Result<(FileBytes, Vec<u8>), LinkError>,
) -> Result<(), Broken> {
    match answer {
        Err(e) => super::whole::<()>(to, Err(e)),
        Ok((answer, bytes)) => {
            let mut out = status_line(&Status::Ok(answer))?;
            out.extend_from_slice(&bytes);
            to.write_all(&out)?;
            Ok(())
        }
    }
}

pub(super) fn small_file(path: &Path, max: u64) -> Result<(FileBytes, Vec<u8>), LinkError> {
    let failed = |e: io::Error| LinkError::io("open", path, &e);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let stat = rustix::fs::fstat(fd.as_fd()).map_err(|e| failed(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(LinkError::io("read", path, &Errno::ISDIR.into()));
    }
    let mut bytes = Vec::new();
    File::from(fd)
        .take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > max {
        let message = format!("{} is larger than {max} bytes", path.display());
        return Err(LinkError::new(LinkErrorKind::TooLarge, message));
    }
    let answer = FileBytes {
        size: bytes.len() as u64,
        mode: stat.st_mode & 0o7777,
        mtime_ns: stat::mtime_ns(&stat),
    };
    Ok((answer, bytes))
}
