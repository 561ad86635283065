//! Lists a directory tree, as fast as the kernel gives it.
//!
//! One system call per file; directory descriptors instead of paths; names in one growing buffer instead of strings; patterns
//! decide before a directory is opened. The listing is named by its digest, so an unchanged tree is answered in one line.

use std::{
    ffi::CStr,
    io::{self, Write},
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use patterns::{Decision, DirState, Filter, Step};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat},
    io::Errno,
};
use wire::{
    LinkError, LinkErrorKind, Status,
    frame::{self, Kind},
    link::ListAnswer,
    listing::{self, CHUNK, Entry, EntryKind, Hasher, MAX_DEPTH},
    piece::Piece,
};

use super::{Broken, stat, status_line};

/// Up to here a listing is kept until its digest is known and may be answered with `same`.
const KEEP: usize = 64 << 20;
/// For the names of a directory at a time.
const DIR_BUFFER: usize = 64 << 10;

/// A digest from its text.
pub fn digest_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// Answers a `list` request.
///
/// # Errors
/// A broken connection; what stopped the walk after the answer had begun.
pub fn list(to: &mut impl Write, root: &Path, filter: Option<&Filter>, known: Option<[u8; 32]>) -> Result<(), Broken> {
    let fd = match open_root(root) {
        Ok(fd) => fd,
        Err(e) => return super::whole::<()>(to, Err(e)),
    };
    let mut walk = Walk::new(Out::new(to, known), root, filter);
    match walk.root(&fd) {
        Ok(()) => walk.out.finish(),
        Err(Broken::Request(e)) => walk.out.give_up(e),
        Err(e) => Err(e),
    }
}

fn open_root(root: &Path) -> Result<OwnedFd, LinkError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOTDIR => LinkError::new(LinkErrorKind::Invalid, format!("path {} is a file, not a directory", root.display())),
        Errno::NOENT => LinkError::io("lstat", root, &e.into()),
        other => LinkError::io("open", root, &other.into()),
    })
}

/// Encoded entries on their way out.
struct Out<'w, W> {
    to: &'w mut W,
    known: Option<[u8; 32]>,
    buffer: Vec<u8>,
    /// Ends of whole entries, about [`CHUNK`] apart.
    marks: Vec<usize>,
    hasher: Hasher,
    entries: u64,
    begun: bool,
}

impl<'w, W: Write> Out<'w, W> {
    fn new(to: &'w mut W, known: Option<[u8; 32]>) -> Self {
        Self { to, known, buffer: Vec::with_capacity(CHUNK), marks: Vec::new(), hasher: Hasher::default(), entries: 0, begun: false }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Broken> {
        entry.encode(&mut self.buffer);
        self.entries += 1;
        self.written()
    }

    fn leave(&mut self) -> Result<(), Broken> {
        listing::encode_leave(&mut self.buffer);
        self.written()
    }

    /// After each whole entry.
    fn written(&mut self) -> Result<(), Broken> {
        let since = self.buffer.len() - self.marks.last().copied().unwrap_or_default();
        if since < CHUNK {
            return Ok(());
        }
        self.marks.push(self.buffer.len());
        if self.known.is_none() || self.begun || self.buffer.len() > KEEP { self.send() } else { Ok(()) }
    }

    /// Sends what there is.
    fn send(&mut self) -> Result<(), Broken> {
        if !self.begun {
            self.begun = true;
            self.to.write_all(&status_line(&Status::Ok(ListAnswer::Entries))?)?;
        }
        if self.marks.last() != Some(&self.buffer.len()) {
            self.marks.push(self.buffer.len());
        }
        let mut start = 0;
        for end in self.marks.drain(..) {
            let chunk = self.buffer.get(start..end).unwrap_or_default();
            if !chunk.is_empty() {
                self.hasher.update(chunk);
                frame::write(self.to, Kind::Entries, chunk)?;
            }
            start = end;
        }
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), Broken> {
        if !self.begun && self.known.is_some_and(|k| k == listing::digest(&self.buffer)) {
            self.to.write_all(&status_line(&Status::Ok(ListAnswer::Same))?)?;
            return Ok(());
        }
        self.send()?;
        frame::write(self.to, Kind::Done, &listing::done(&self.hasher.digest(), self.entries))?;
        Ok(())
    }

    fn give_up(self, error: LinkError) -> Result<(), Broken> {
        if !self.begun {
            return super::whole::<()>(self.to, Err(error));
        }
        let mut fail = Vec::new();
        Piece::Fail(error.clone()).encode(&mut fail);
        self.to.write_all(&fail)?;
        Err(error.into())
    }
}

/// A directory that the walk is in.
struct Level {
    /// Where its name is in the path.
    name: Range<usize>,
    stat: Stat,
    /// It has been sent: it matched, or something in it did.
    sent: bool,
    /// What the patterns know of it.
    state: DirState,
}

/// A name in the buffer of names, followed by a NUL.
#[derive(Clone, Copy)]
struct Name {
    start: usize,
    len: usize,
    is_dir: bool,
}

struct Walk<'a, W> {
    out: Out<'a, W>,
    root: &'a Path,
    filter: Option<&'a Filter>,
    path: Vec<u8>,
    levels: Vec<Level>,
    names: Vec<u8>,
    order: Vec<Name>,
    raw: Vec<u8>,
    now_ns: i64,
}

impl<'a, W: Write> Walk<'a, W> {
    fn new(out: Out<'a, W>, root: &'a Path, filter: Option<&'a Filter>) -> Self {
        Self {
            out,
            root,
            filter,
            path: Vec::new(),
            levels: Vec::new(),
            names: Vec::new(),
            order: Vec::new(),
            raw: Vec::with_capacity(DIR_BUFFER),
            now_ns: stat::now_ns(),
        }
    }

    fn failed(&self, what: &str, error: Errno) -> Broken {
        use std::os::unix::ffi::OsStrExt;
        let path = self.root.join(std::ffi::OsStr::from_bytes(&self.path));
        LinkError::io(what, &path, &io::Error::from(error)).into()
    }

    fn root(&mut self, fd: &OwnedFd) -> Result<(), Broken> {
        let stat = rustix::fs::fstat(fd).map_err(|e| self.failed("stat", e))?;
        self.levels.push(Level { name: 0..0, stat, sent: false, state: DirState::default() });
        self.send_levels()?;
        self.children(fd.as_fd())?;
        self.leave()
    }

    /// Sends the open directories that have not been sent.
    fn send_levels(&mut self) -> Result<(), Broken> {
        let first = self.levels.iter().rposition(|l| l.sent).map_or(0, |at| at + 1);
        for at in first..self.levels.len() {
            let Some(level) = self.levels.get_mut(at) else { break };
            level.sent = true;
            let name = self.path.get(level.name.clone()).unwrap_or_default();
            self.out.entry(&entry(name, EntryKind::Dir, &level.stat))?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Broken> {
        match self.levels.pop() {
            Some(level) if level.sent => self.out.leave(),
            _ => Ok(()),
        }
    }

    fn children(&mut self, dir: BorrowedFd<'_>) -> Result<(), Broken> {
        let (names_before, order_before) = (self.names.len(), self.order.len());
        self.read_names(dir)?;
        let names = &self.names;
        let text = |n: &Name| names.get(n.start..n.start + n.len).unwrap_or_default();
        if let Some(mine) = self.order.get_mut(order_before..) {
            mine.sort_unstable_by(|a, b| text(a).cmp(text(b)));
        }
        let path_before = self.path.len();
        for at in order_before..self.order.len() {
            let Some(name) = self.order.get(at).copied() else { break };
            if path_before > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(self.names.get(name.start..name.start + name.len).unwrap_or_default());
            self.child(dir, name)?;
            self.path.truncate(path_before);
        }
        self.names.truncate(names_before);
        self.order.truncate(order_before);
        Ok(())
    }

    /// Appends the names of a directory to the buffer.
    fn read_names(&mut self, dir: BorrowedFd<'_>) -> Result<(), Broken> {
        let mut raw = std::mem::take(&mut self.raw);
        let mut entries = RawDir::new(dir, raw.spare_capacity_mut());
        let mut result = Ok(());
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(e) => e,
                Err(e) => {
                    result = Err(self.failed("readdir", e));
                    break;
                }
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = entry.file_type();
            if matches!(kind, FileType::Socket | FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) {
                continue;
            }
            self.order.push(Name { start: self.names.len(), len: name.len(), is_dir: kind == FileType::Directory });
            self.names.extend_from_slice(entry.file_name().to_bytes_with_nul());
        }
        self.raw = raw;
        result
    }

    /// What the patterns say of the current path.
    fn step(&self, is_dir: bool) -> Step {
        match (self.filter, self.levels.last()) {
            (Some(filter), Some(parent)) => filter.step(&parent.state, &self.path, is_dir),
            _ => Step { decision: Decision::Include, descend: is_dir, state: DirState::default() },
        }
    }

    fn child(&mut self, dir: BorrowedFd<'_>, name: Name) -> Result<(), Broken> {
        let step = self.step(name.is_dir);
        if name.is_dir && step.decision == Decision::Exclude && !step.descend {
            return Ok(());
        }
        let bytes = self.names.get(name.start..=name.start + name.len).unwrap_or_default();
        // The kernel ends names with the NUL that was kept.
        let Ok(c_name) = CStr::from_bytes_with_nul(bytes) else { return Ok(()) };
        let stat = match rustix::fs::statat(dir, c_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(s) => s,
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(self.failed("lstat", e)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        // Some file systems do not say in the directory what a name is, and it may be replaced meanwhile.
        let step = if is_dir == name.is_dir { step } else { self.step(is_dir) };
        let take = step.decision == Decision::Include;
        match kind {
            FileType::Directory if take || step.descend => self.directory(dir, name, stat, step),
            FileType::RegularFile if take => {
                self.send_levels()?;
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                let text = self.names.get(name.start..name.start + name.len).unwrap_or_default();
                let kind = EntryKind::File { size, stamp: stat::stamp(&stat, self.now_ns) };
                self.out.entry(&entry(text, kind, &stat))
            }
            FileType::Symlink if take => {
                let link = match rustix::fs::readlinkat(dir, c_name, Vec::new()) {
                    Ok(l) => l,
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(e) => return Err(self.failed("readlink", e)),
                };
                self.send_levels()?;
                let text = self.names.get(name.start..name.start + name.len).unwrap_or_default();
                self.out.entry(&entry(text, EntryKind::Symlink(link.as_bytes()), &stat))
            }
            _ => Ok(()),
        }
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, name: Name, stat: Stat, step: Step) -> Result<(), Broken> {
        if self.levels.len() >= MAX_DEPTH {
            return Err(self.failed("open", Errno::NAMETOOLONG));
        }
        self.levels.push(Level { name: self.path.len() - name.len..self.path.len(), stat, sent: false, state: step.state });
        if step.decision == Decision::Include {
            self.send_levels()?;
        }
        if step.descend {
            let bytes = self.names.get(name.start..=name.start + name.len).unwrap_or_default();
            let Ok(c_name) = CStr::from_bytes_with_nul(bytes) else { return Ok(()) };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(dir, c_name, flags, Mode::empty()) {
                Ok(fd) => self.children(fd.as_fd())?,
                // Replaced or removed meanwhile: an empty directory, as it was when it was listed.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(self.failed("open", e)),
            }
        }
        self.leave()
    }
}

fn entry<'n>(name: &'n [u8], kind: EntryKind<'n>, stat: &Stat) -> Entry<'n> {
    Entry { name, kind, mode: stat.st_mode & 0o7777, mtime_ns: stat::mtime_ns(stat), uid: stat.st_uid, gid: stat.st_gid }
}
