//! Writes what the engine exports onto this machine.
//!
//! Everything below the destination is reached by directory descriptors, one name at a time and never through a symbolic
//! link: neither a link that lay there nor one from the export leads a write elsewhere. New files appear whole or, on an
//! error, not at all.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};
use wire::{
    LinkError, LinkErrorKind, RawPath, Status,
    link::Exported,
    piece::{Meta, Piece},
};

use super::{Broken, reader::Pieces, status_line};

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const NEW: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Answers an `export_tree` request.
///
/// # Errors
/// A broken connection, or what could not be written; the engine is told.
pub fn tree(mut conn: File, dest: &Path, wipe: bool, gone: &[RawPath]) -> Result<(), Broken> {
    let root = match prepare(dest, wipe, gone) {
        Ok(fd) => fd,
        Err(e) => return super::whole::<()>(&mut conn, Err(e)),
    };
    conn.write_all(&status_line(&Status::Ok(()))?)?;
    let mut pieces = Pieces::new(conn);
    let written = Tree::new(dest, root).and_then(|mut t| t.write_all(&mut pieces));
    conclude(&mut pieces, written, dest)
}

/// Says how it ended.
pub(super) fn conclude(
    pieces: &mut Pieces,
    written: Result<(), Broken>,
    dest: &Path,
) -> Result<(), Broken> {
    let status = match written {
        Ok(()) => Status::Ok(Exported { path: dest.into() }),
        Err(Broken::Request(e)) => {
            pieces.discard();
            Status::Error(e)
        }
        Err(broken) => return Err(broken),
    };
    pieces.conn().write_all(&status_line(&status)?)?;
    match status {
        Status::Ok(_) => Ok(()),
        Status::Error(e) => Err(e.into()),
    }
}

/// The destination of a tree: made when missing, emptied when asked, without what is to be gone.
fn prepare(dest: &Path, wipe: bool, gone: &[RawPath]) -> Result<OwnedFd, LinkError> {
    make_dirs(dest)?;
    // The destination itself may be a link: the user named it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dest, flags, Mode::empty())
        .map_err(|e| LinkError::io("open", dest, &e.into()))?;
    if wipe {
        spared(&fd, dest)?;
        empty(&fd).map_err(|e| LinkError::io("remove the contents of", dest, &e.into()))?;
    }
    for path in gone {
        remove_path(&fd, &path.0)
            .map_err(|e| LinkError::io("remove", &dest.join(path.as_path()), &e.into()))?;
    }
    Ok(fd)
}

/// Refuses to empty what nobody means to: the root of the machine, the user's home, and what either is in.
fn spared(dir: &OwnedFd, dest: &Path) -> Result<(), LinkError> {
    let io = |e: io::Error| LinkError::io("look at", dest, &e);
    let is = dir.try_clone().and_then(|d| File::from(d).metadata());
    let is = is.map_err(io)?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.and_then(|h| h.canonicalize().ok());
    let mut spared = home.iter().flat_map(|h| h.ancestors());
    let same = |path: &Path| {
        path.metadata()
            .is_ok_and(|m| (m.dev(), m.ino()) == (is.dev(), is.ino()))
    };
    if same(Path::new("/")) || spared.any(same) {
        return Err(LinkError::new(
            LinkErrorKind::Invalid,
            format!(
                "{}: `wipe` would remove the user's home or the whole machine's files: export to a folder of its own",
                dest.display()
            ),
        ));
    }
    Ok(())
}

/// Removes a path below a directory, never through a link. What is not there, or only through a link, is fine.
fn remove_path(dir: &OwnedFd, path: &[u8]) -> Result<(), Errno> {
    let mut parts: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty())
        .collect();
    let Some(name) = parts.pop() else {
        return Ok(());
    };
    if parts
        .iter()
        .chain([&name])
        .any(|p| matches!(*p, b"." | b".."))
    {
        return Err(Errno::INVAL);
    }
    let mut at = dir.try_clone().map_err(|_| Errno::MFILE)?;
    for part in parts {
        at = match rustix::fs::openat(&at, part, DIR, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(e),
        };
    }
    remove(&at, name)
}

fn make_dirs(dir: &Path) -> Result<(), LinkError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            Err(LinkError::io("mkdir", dir, &Errno::NOTDIR.into()))
        }
        Err(e) => Err(LinkError::io("mkdir", dir, &e)),
    }
}

/// Removes everything in a directory, without following links.
fn empty(dir: impl AsFd) -> Result<(), Errno> {
    let mut listing = rustix::fs::Dir::read_from(dir.as_fd())?;
    while let Some(entry) = listing.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() != b"." && name.to_bytes() != b".." {
            remove(dir.as_fd(), name.to_bytes())?;
        }
    }
    Ok(())
}

/// Removes one name and all below it.
fn remove(dir: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR; POSIX allows EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let inner = rustix::fs::openat(dir.as_fd(), name, DIR, Mode::empty())?;
    empty(&inner)?;
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// An open directory of the export.
struct Level {
    name: Vec<u8>,
    fd: OwnedFd,
    /// Set when it is left: its children change its time, and a read-only one could not get any.
    finish: Option<Meta>,
}

/// Writes pieces below a directory.
struct Tree<'a> {
    dest: &'a Path,
    root: OwnedFd,
    levels: Vec<Level>,
    temp: u64,
}

/// The file being written.
struct Open {
    dir: usize,
    name: Vec<u8>,
    /// Its name until it is whole; none when the name was free.
    temp: Option<Vec<u8>>,
    file: File,
    meta: Meta,
    offset: u64,
}

impl<'a> Tree<'a> {
    fn new(dest: &'a Path, root: OwnedFd) -> Result<Self, Broken> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(io::Error::from)?;
        Ok(Self {
            dest,
            root,
            levels: Vec::new(),
            temp: u64::from_le_bytes(random),
        })
    }

    fn failed(&self, what: &str, path: &[u8], error: Errno) -> Broken {
        LinkError::io(
            what,
            &self.dest.join(std::ffi::OsStr::from_bytes(path)),
            &error.into(),
        )
        .into()
    }

    fn write_all(&mut self, pieces: &mut Pieces) -> Result<(), Broken> {
        let mut open: Option<Open> = None;
        let result = loop {
            let piece = match pieces.next() {
                Ok(p) => p,
                Err(e) => break Err(e),
            };
            match self.piece(&mut open, piece) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        if let Some(unfinished) = open {
            let name = unfinished.temp.as_deref().unwrap_or(&unfinished.name);
            // The first error is the one to tell.
            let _ = rustix::fs::unlinkat(self.dir(unfinished.dir), name, AtFlags::empty());
        }
        result?;
        self.leave_to(0)
    }

    /// Does one piece; whether more are to come.
    fn piece(&mut self, open: &mut Option<Open>, piece: Piece<'_>) -> Result<bool, Broken> {
        match (piece, open.take()) {
            (Piece::Data(bytes), Some(mut file)) => {
                let written = file.file.write_all_at(bytes, file.offset);
                let name = file.name.clone();
                file.offset += bytes.len() as u64;
                *open = Some(file);
                written.map_err(|e| {
                    LinkError::io(
                        "write",
                        &self.dest.join(std::ffi::OsStr::from_bytes(&name)),
                        &e,
                    )
                })?;
            }
            (Piece::Hole(len), Some(mut file)) => {
                file.offset = file.offset.saturating_add(len);
                *open = Some(file);
            }
            (Piece::End { .. }, Some(file)) => self.close(file)?,
            // The destination keeps its mode: it is the user's.
            (Piece::Dir { path: b"", .. }, None) => {}
            (Piece::Dir { path, meta }, None) => self.make_dir(path, meta)?,
            (Piece::File { path, meta }, None) => *open = Some(self.create(path, meta)?),
            (
                Piece::Symlink {
                    path,
                    target,
                    mtime_ns,
                },
                None,
            ) => self.symlink(path, target, mtime_ns)?,
            (Piece::HardLink { path, target }, None) => self.hard_link(path, target)?,
            (Piece::Done, None) => return Ok(false),
            (_, unfinished) => {
                *open = unfinished;
                return Err(LinkError::new(
                    LinkErrorKind::Invalid,
                    "the export came in an order that makes no sense",
                )
                .into());
            }
        }
        Ok(true)
    }

    fn dir(&self, depth: usize) -> &OwnedFd {
        depth
            .checked_sub(1)
            .and_then(|at| self.levels.get(at))
            .map_or(&self.root, |l| &l.fd)
    }

    /// Makes the directory of a path the innermost open one; the path's own name.
    fn enter<'p>(&mut self, path: &'p [u8]) -> Result<&'p [u8], Broken> {
        let mut names = path.split(|b| *b == b'/');
        let own = names.next_back().unwrap_or_default();
        let names: Vec<_> = names.collect();
        let common = self
            .levels
            .iter()
            .zip(&names)
            .take_while(|(level, name)| level.name == **name)
            .count();
        self.leave_to(common)?;
        for name in names.into_iter().skip(common) {
            let fd = self
                .sub_dir(name, 0o755)
                .map_err(|e| self.failed("mkdir", path, e))?;
            self.levels.push(Level {
                name: name.to_vec(),
                fd,
                finish: None,
            });
        }
        Ok(own)
    }

    /// Opens a directory in the innermost open one; whatever else has the name is replaced.
    fn sub_dir(&self, name: &[u8], mode: u32) -> Result<OwnedFd, Errno> {
        let parent = self.dir(self.levels.len());
        match rustix::fs::openat(parent, name, DIR, Mode::empty()) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?
            }
            Err(e) => return Err(e),
        }
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode | 0o700))?;
        rustix::fs::openat(parent, name, DIR, Mode::empty())
    }

    fn leave_to(&mut self, depth: usize) -> Result<(), Broken> {
        while self.levels.len() > depth {
            let Some(level) = self.levels.pop() else {
                break;
            };
            if let Some(meta) = level.finish {
                let set = rustix::fs::fchmod(&level.fd, Mode::from_raw_mode(meta.mode & 0o7777))
                    .and_then(|()| rustix::fs::futimens(&level.fd, &times(meta.mtime_ns)));
                set.map_err(|e| self.failed("chmod", &level.name, e))?;
            }
        }
        Ok(())
    }

    fn make_dir(&mut self, path: &[u8], meta: Meta) -> Result<(), Broken> {
        let name = self.enter(path)?;
        let fd = self
            .sub_dir(name, meta.mode)
            .map_err(|e| self.failed("mkdir", path, e))?;
        self.levels.push(Level {
            name: name.to_vec(),
            fd,
            finish: Some(meta),
        });
        Ok(())
    }

    fn create(&mut self, path: &[u8], meta: Meta) -> Result<Open, Broken> {
        let name = self.enter(path)?;
        let (dir, mode) = (self.levels.len(), Mode::from_raw_mode(0o600));
        let (fd, temp) = match rustix::fs::openat(self.dir(dir), name, NEW, mode) {
            Ok(fd) => (fd, None),
            Err(Errno::EXIST | Errno::LOOP) => {
                let temp = self.temp_name();
                let fd = rustix::fs::openat(self.dir(dir), &*temp, NEW, mode)
                    .map_err(|e| self.failed("open", path, e))?;
                (fd, Some(temp))
            }
            Err(e) => return Err(self.failed("open", path, e)),
        };
        Ok(Open {
            dir,
            name: name.to_vec(),
            temp,
            file: fd.into(),
            meta,
            offset: 0,
        })
    }

    fn temp_name(&mut self) -> Vec<u8> {
        self.temp = self.temp.wrapping_add(1);
        format!(".bodkin-{:016x}", self.temp).into_bytes()
    }

    /// The open file is whole: it gets its mode, its time and its name.
    fn close(&mut self, open: Open) -> Result<(), Broken> {
        let Open {
            dir,
            name,
            temp,
            file,
            meta,
            offset,
        } = open;
        let at = self.dir(dir);
        let finish = || -> Result<(), Errno> {
            // A hole at the end has not been written.
            if rustix::fs::fstat(&file)?.st_size.unsigned_abs() < offset {
                rustix::fs::ftruncate(&file, offset)?;
            }
            rustix::fs::fchmod(&file, file_mode(meta.mode))?;
            if meta.mtime_ns != i64::MIN {
                rustix::fs::futimens(&file, &times(meta.mtime_ns))?;
            }
            if let Some(temp) = &temp {
                rename_over(at, temp, &name)?;
            }
            Ok(())
        };
        finish().map_err(|e| {
            let _ = rustix::fs::unlinkat(at, temp.as_deref().unwrap_or(&name), AtFlags::empty());
            self.failed("write", &name, e)
        })
    }

    fn symlink(&mut self, path: &[u8], target: &[u8], mtime_ns: i64) -> Result<(), Broken> {
        let name = self.enter(path)?;
        let dir = self.dir(self.levels.len());
        let make = || match rustix::fs::symlinkat(target, dir, name) {
            Err(Errno::EXIST) => {
                remove(dir, name)?;
                rustix::fs::symlinkat(target, dir, name)
            }
            other => other,
        };
        let made = make().and_then(|()| {
            rustix::fs::utimensat(dir, name, &times(mtime_ns), AtFlags::SYMLINK_NOFOLLOW)
        });
        made.map_err(|e| self.failed("symlink", path, e))
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Broken> {
        let name = self.enter(path)?;
        let dir = self.dir(self.levels.len());
        let link = || -> Result<(), Errno> {
            let (from, from_name) = self.existing_dir(target)?;
            match rustix::fs::linkat(&from, from_name, dir, name, AtFlags::empty()) {
                Err(Errno::EXIST) => {
                    remove(dir, name)?;
                    rustix::fs::linkat(&from, from_name, dir, name, AtFlags::empty())
                }
                other => other,
            }
        };
        link().map_err(|e| self.failed("link", path, e))
    }

    /// The directory of a path that was exported before, and its own name.
    fn existing_dir<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let mut names = path.split(|b| *b == b'/');
        let own = names.next_back().unwrap_or_default();
        let mut fd = rustix::fs::openat(&self.root, c".", DIR, Mode::empty())?;
        for name in names {
            fd = rustix::fs::openat(&fd, name, DIR, Mode::empty())?;
        }
        Ok((fd, own))
    }
}

/// Renames a file over whatever has the name.
fn rename_over(dir: &OwnedFd, from: &[u8], to: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat(dir, from, dir, to) {
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
            remove(dir, to)?;
            rustix::fs::renameat(dir, from, dir, to)
        }
        other => other,
    }
}

/// A file's mode on this machine. A container's setuid program would run with the rights of whoever exports it.
fn file_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o1777)
}

fn times(mtime_ns: i64) -> Timestamps {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT,
    };
    let mtime = if mtime_ns == i64::MIN {
        now
    } else {
        let nanos = mtime_ns.rem_euclid(1_000_000_000);
        Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: nanos,
        }
    };
    Timestamps {
        last_access: now,
        last_modification: mtime,
    }
}

/// Where and how one file is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlan {
    /// The path the user named.
    pub dest: PathBuf,
    /// The file's own name.
    pub name: RawPath,
    /// The destination may be a directory.
    pub allow_parent_dir: bool,
    /// Mode of a new file.
    pub mode: u32,
    /// Its time.
    pub mtime_ns: Option<i64>,
}

/// Where a file goes.
enum Target {
    /// Into a new file that then takes the name; with the mode it gets.
    Rename { path: PathBuf, mode: Mode },
    /// Into what is there: a device, a pipe, or a file in a directory that takes no new ones.
    Into(PathBuf),
}

/// Answers an `export_file` request.
///
/// # Errors
/// A broken connection, or what could not be written; the engine is told.
pub fn file(mut conn: File, plan: FilePlan) -> Result<(), Broken> {
    let target = match target(&plan) {
        Ok(t) => t,
        Err(e) => return super::whole::<()>(&mut conn, Err(e)),
    };
    conn.write_all(&status_line(&Status::Ok(()))?)?;
    let mut pieces = Pieces::new(conn);
    let written = write_file(&mut pieces, &plan, target);
    conclude(&mut pieces, written, &plan.dest)
}

fn target(plan: &FilePlan) -> Result<Target, LinkError> {
    let mut path = plan.dest.clone();
    if path.is_dir() {
        if !plan.allow_parent_dir {
            let message = format!(
                "destination \"{}\" is a directory; must be a file path unless allowParentDirPath is set",
                path.display()
            );
            return Err(LinkError::new(LinkErrorKind::Invalid, message));
        }
        if !wire::piece::is_relative(&plan.name.0) || plan.name.0.contains(&b'/') {
            return Err(LinkError::new(
                LinkErrorKind::Invalid,
                "the exported file's name is no file name",
            ));
        }
        path.push(plan.name.as_path());
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent)?;
    }
    match path.metadata() {
        Ok(meta) if meta.is_dir() => Err(LinkError::io("open", &path, &Errno::ISDIR.into())),
        Ok(meta) if meta.is_file() => {
            let real = path
                .canonicalize()
                .map_err(|e| LinkError::io("open", &path, &e))?;
            Ok(Target::Rename {
                path: real,
                mode: Mode::from_raw_mode(meta.permissions().mode() & 0o7777),
            })
        }
        Ok(_) => Ok(Target::Into(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Target::Rename {
            path,
            mode: file_mode(plan.mode),
        }),
        Err(e) => Err(LinkError::io("stat", &path, &e)),
    }
}

fn write_file(pieces: &mut Pieces, plan: &FilePlan, target: Target) -> Result<(), Broken> {
    let (path, mode) = match target {
        Target::Into(path) => return write_into(pieces, &path),
        Target::Rename { path, mode } => (path, mode),
    };
    let failed = |e: io::Error| LinkError::io("write", &path, &e);
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(parent, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(io::Error::from)?;
    let temp = format!(".bodkin-{:016x}", u64::from_le_bytes(random));
    let file = match rustix::fs::openat(&dir, temp.as_str(), NEW, Mode::from_raw_mode(0o600)) {
        Ok(fd) => File::from(fd),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if path.exists() => {
            return write_into(pieces, &path);
        }
        Err(e) => return Err(failed(e.into()).into()),
    };
    let mut finish = || -> Result<(), Broken> {
        let size = copy(pieces, &file, &path)?;
        let set = || -> Result<(), Errno> {
            rustix::fs::ftruncate(&file, size)?;
            rustix::fs::fchmod(&file, mode)?;
            rustix::fs::futimens(&file, &times(plan.mtime_ns.unwrap_or(i64::MIN)))?;
            rustix::fs::renameat(&dir, temp.as_str(), &dir, name)
        };
        set().map_err(|e| failed(e.into()).into())
    };
    finish().inspect_err(|_| {
        let _ = rustix::fs::unlinkat(&dir, temp.as_str(), AtFlags::empty());
    })
}

/// Writes pieces to a file; how long it becomes.
fn copy(pieces: &mut Pieces, file: &File, path: &Path) -> Result<u64, Broken> {
    let mut offset = 0u64;
    loop {
        match pieces.next()? {
            Piece::Data(bytes) => {
                file.write_all_at(bytes, offset)
                    .map_err(|e| LinkError::io("write", path, &e))?;
                offset += bytes.len() as u64;
            }
            Piece::Hole(len) => offset = offset.saturating_add(len),
            Piece::End { .. } => {}
            Piece::Done => return Ok(offset),
            _ => {
                return Err(LinkError::new(
                    LinkErrorKind::Invalid,
                    "the export came in an order that makes no sense",
                )
                .into());
            }
        }
    }
}

/// Writes in order into something that cannot be replaced.
fn write_into(pieces: &mut Pieces, path: &Path) -> Result<(), Broken> {
    let failed = |e: io::Error| LinkError::io("write", path, &e);
    let mut to = File::options()
        .write(true)
        .truncate(true)
        .open(path)
        .map_err(failed)?;
    let zeros = [0u8; 4096];
    loop {
        match pieces.next()? {
            Piece::Data(bytes) => to.write_all(bytes).map_err(failed)?,
            Piece::Hole(mut len) => {
                while len > 0 {
                    let n = usize::try_from(len).unwrap_or(usize::MAX).min(zeros.len());
                    to.write_all(zeros.get(..n).unwrap_or_default())
                        .map_err(failed)?;
                    len -= n as u64;
                }
            }
            Piece::End { .. } => {}
            Piece::Done => return Ok(()),
            _ => {
                return Err(LinkError::new(
                    LinkErrorKind::Invalid,
                    "the export came in an order that makes no sense",
                )
                .into());
            }
        }
    }
}
