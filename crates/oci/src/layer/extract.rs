//! Making the entries of a layer, below one directory and nowhere else.
//!
//! A parent directory is resolved by the kernel with `RESOLVE_IN_ROOT` and kept as a descriptor; the last component is
//! created with `O_EXCL`/`mkdirat`/… relative to it and never followed. Directory times are set last.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::CStr,
    hash::{BuildHasher, RandomState},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid,
        XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr, ftruncate, futimens, linkat,
        makedev, mkdirat, mknodat, openat, openat2, readlinkat, setxattr, statat, symlinkat,
        unlinkat, utimensat,
    },
    io::{Errno, pwrite},
};

use super::{
    Beneath, Refusal, Target, UnpackError, shown,
    tarball::{Contents, Entry, Kind, Reader},
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of aufs, the first file system Docker had; means nothing today.
const AUFS: &[u8] = b".wh..wh.";
const MAX_PATH: usize = 4095;
const MAX_DEPTH: usize = 256;
const MAX_LINKS: usize = 40;
const CACHED_DIRS: usize = 256;

/// Makes entries below a root.
pub(super) struct Extractor<'a> {
    root: BorrowedFd<'a>,
    beneath: Beneath,
    dirs: HashMap<Vec<u8>, Rc<OwnedFd>>,
    times: Vec<(Vec<u8>, (i64, u32))>,
    /// Hashes of the paths this layer made, parents included; kept only if there is something beneath.
    made: HashSet<u64>,
    hasher: RandomState,
}

/// What went wrong with one entry, before its name is added.
enum Fail {
    Refused(Refusal),
    Io(&'static str, io::Error),
    Unpack(UnpackError),
}

impl From<Refusal> for Fail {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<UnpackError> for Fail {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}

fn io(op: &'static str) -> impl Fn(Errno) -> Fail {
    move |errno| Fail::Io(op, errno.into())
}

impl<'a> Extractor<'a> {
    pub(super) fn new(target: Target<'a>) -> Self {
        Self {
            root: target.root,
            beneath: target.beneath,
            dirs: HashMap::new(),
            times: Vec::new(),
            made: HashSet::new(),
            hasher: RandomState::new(),
        }
    }

    /// Makes one entry, taking its contents from `tar`.
    pub(super) fn entry(&mut self, entry: &Entry, tar: &mut Reader<'_>) -> Result<(), UnpackError> {
        self.make(entry, tar).map_err(|fail| match fail {
            Fail::Refused(source) => UnpackError::Refused {
                entry: shown(&entry.name),
                source,
            },
            Fail::Io(op, source) => UnpackError::Io {
                op,
                entry: shown(&entry.name),
                source,
            },
            Fail::Unpack(error) => error,
        })
    }

    /// Sets the times of directories, which making their contents had changed.
    pub(super) fn finish(mut self) -> Result<(), UnpackError> {
        for (path, time) in std::mem::take(&mut self.times) {
            let (parent, base) = split(&path);
            let set = |parent: BorrowedFd<'_>, base: &[u8]| {
                utimensat(parent, base, &stamps(time), AtFlags::SYMLINK_NOFOLLOW)
            };
            let result = match self.existing(parent) {
                Ok(parent) if base.is_empty() => set(parent.as_fd(), b"."),
                Ok(parent) => set(parent.as_fd(), base),
                Err(errno) => Err(errno),
            };
            match result {
                // A later entry replaced it or one of its parents.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => {
                    return Err(UnpackError::Io {
                        op: "set times of",
                        entry: shown(&path),
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn make(&mut self, entry: &Entry, tar: &mut Reader<'_>) -> Result<(), Fail> {
        let path = normal(&entry.name)?;
        let (parent, base) = split(&path);
        if parent
            .split(|b| *b == b'/')
            .any(|part| part.starts_with(WHITEOUT))
        {
            let aufs = parent
                .split(|b| *b == b'/')
                .any(|part| part.starts_with(AUFS));
            return if aufs {
                Ok(())
            } else {
                Err(Refusal::Whiteout.into())
            };
        }
        if let Some(hidden) = base.strip_prefix(WHITEOUT) {
            return self.whiteout(parent, base, hidden);
        }
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(Refusal::Root.into());
            }
            let fd = openat(
                self.root,
                c".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(io("open"))?;
            self.times.push((path, entry.mtime));
            return attributes(fd.as_fd(), entry, owner(entry)?);
        }
        let dir = self.parent(parent)?;
        let dir = dir.as_fd();
        match entry.kind {
            Kind::File => self.file(dir, base, entry, tar)?,
            Kind::Directory => {
                self.directory(dir, base, entry)?;
                self.times.push((path.clone(), entry.mtime));
            }
            Kind::Symlink => self.symlink(dir, base, entry)?,
            Kind::HardLink => self.hard_link(dir, &path, base, entry)?,
            Kind::Character | Kind::Block | Kind::Fifo => self.node(dir, base, entry)?,
        }
        self.remember(&path);
        Ok(())
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        base: &[u8],
        entry: &Entry,
        tar: &mut Reader<'_>,
    ) -> Result<(), Fail> {
        let owner = owner(entry)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.fresh(dir, base, "create", || {
            openat(dir, base, flags, Mode::from_raw_mode(0o600))
        })?;
        if let Contents::Sparse { length, .. } = &entry.contents {
            ftruncate(&fd, *length).map_err(io("set the length of"))?;
        }
        let name = &entry.name;
        tar.contents(&entry.contents, |offset, bytes| {
            write_at(&fd, bytes, offset).map_err(|errno| UnpackError::Io {
                op: "write",
                entry: shown(name),
                source: errno.into(),
            })
        })?;
        attributes(fd.as_fd(), entry, owner)?;
        futimens(&fd, &stamps(entry.mtime)).map_err(io("set times of"))
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, base: &[u8], entry: &Entry) -> Result<(), Fail> {
        let owner = owner(entry)?;
        let make = || mkdirat(dir, base, Mode::from_raw_mode(0o700));
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = statat(dir, base, AtFlags::SYMLINK_NOFOLLOW).map_err(io("look at"))?;
                if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                    self.remove(dir, base)?;
                    make().map_err(io("create"))?;
                }
            }
            Err(errno) => return Err(io("create")(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, base, flags, Mode::empty()).map_err(io("open"))?;
        attributes(fd.as_fd(), entry, owner)
    }

    fn symlink(&mut self, dir: BorrowedFd<'_>, base: &[u8], entry: &Entry) -> Result<(), Fail> {
        let (uid, gid) = owner(entry)?;
        if entry.link.contains(&0) {
            return Err(Refusal::Nul.into());
        }
        if entry.link.is_empty() || entry.link.len() > MAX_PATH {
            return Err(Refusal::Length(entry.link.len()).into());
        }
        self.fresh(dir, base, "create", || {
            symlinkat(entry.link.as_slice(), dir, base)
        })?;
        chownat(dir, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io("set the owner of"))?;
        utimensat(dir, base, &stamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io("set times of"))
    }

    fn hard_link(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        base: &[u8],
        entry: &Entry,
    ) -> Result<(), Fail> {
        let target = normal(&entry.link)?;
        let missing = || Refusal::LinkTarget(shown(&entry.link));
        let (target_parent, target_base) = split(&target);
        if target_base.is_empty()
            || target
                .split(|b| *b == b'/')
                .any(|part| part.starts_with(WHITEOUT))
        {
            return Err(missing().into());
        }
        let source = match self.existing(target_parent) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing().into()),
            Err(errno) => return Err(io("link")(errno)),
        };
        let stat = match statat(&source, target_base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(missing().into()),
            Err(errno) => return Err(io("link")(errno)),
        };
        if let Ok(own) = statat(dir, base, AtFlags::SYMLINK_NOFOLLOW)
            && (target == path || (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino))
        {
            return Ok(());
        }
        self.fresh(dir, base, "link", || {
            linkat(&source, target_base, dir, base, AtFlags::empty())
        })
    }

    fn node(&mut self, dir: BorrowedFd<'_>, base: &[u8], entry: &Entry) -> Result<(), Fail> {
        let owner = owner(entry)?;
        let (kind, device) = match entry.kind {
            Kind::Character if entry.device == (0, 0) => return Err(Refusal::WhiteoutDevice.into()),
            Kind::Character => (
                FileType::CharacterDevice,
                makedev(entry.device.0, entry.device.1),
            ),
            Kind::Block => (
                FileType::BlockDevice,
                makedev(entry.device.0, entry.device.1),
            ),
            _ => (FileType::Fifo, 0),
        };
        self.fresh(dir, base, "create", || {
            mknodat(dir, base, kind, Mode::from_raw_mode(0o600), device)
        })?;
        // A device must not be opened, only held; attributes go through the link the kernel keeps for the descriptor.
        let fd = openat(
            dir,
            base,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(io("open"))?;
        held_attributes(fd.as_fd(), entry, owner)?;
        utimensat(dir, base, &stamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io("set times of"))
    }

    /// Runs `create`; if something stands in the way, removes it and tries once more.
    fn fresh<T>(
        &mut self,
        dir: BorrowedFd<'_>,
        base: &[u8],
        op: &'static str,
        create: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Fail> {
        match create() {
            Err(Errno::EXIST) => {
                self.remove(dir, base)?;
                create().map_err(io(op))
            }
            result => result.map_err(io(op)),
        }
    }

    /// A deletion: of one name, or of everything a directory had.
    fn whiteout(&mut self, parent: &[u8], base: &[u8], hidden: &[u8]) -> Result<(), Fail> {
        let path = if base == OPAQUE {
            parent.to_vec()
        } else if base.starts_with(AUFS) {
            return Ok(());
        } else if matches!(hidden, b"" | b"." | b"..") {
            return Err(Refusal::Whiteout.into());
        } else {
            join(parent, hidden)
        };
        if self.beneath == Beneath::Nothing {
            return Ok(());
        }
        let (parent, base) = split(&path);
        let dir = match self.existing(parent) {
            Ok(dir) => dir,
            // Nothing there, nothing to delete.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(io("look for")(errno)),
        };
        if base.is_empty() {
            self.hide_contents(dir.as_fd(), b".", &path, 0)
        } else {
            self.hide(dir.as_fd(), base, &path, 0)
        }
    }

    /// Removes `base` unless this layer made it; of a directory it made, removes what lower layers had in it.
    fn hide(
        &mut self,
        dir: BorrowedFd<'_>,
        base: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), Fail> {
        if !self.made.contains(&self.hasher.hash_one(path)) {
            return self.remove(dir, base);
        }
        match statat(dir, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                self.hide_contents(dir, base, path, depth)
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(io("look at")(errno)),
        }
    }

    fn hide_contents(
        &mut self,
        dir: BorrowedFd<'_>,
        base: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), Fail> {
        if depth > MAX_DEPTH {
            return Err(Refusal::Depth.into());
        }
        let (fd, names) = listing(dir, base)?;
        for name in names {
            self.hide(fd.as_fd(), &name, &join(path, &name), depth + 1)?;
        }
        Ok(())
    }

    fn remove(&mut self, dir: BorrowedFd<'_>, base: &[u8]) -> Result<(), Fail> {
        match unlinkat(dir, base, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(dir, base, 0)?,
            Err(errno) => return Err(io("replace")(errno)),
        }
        // A cached descriptor may belong to what is gone, or to a path that now leads elsewhere.
        self.dirs.clear();
        Ok(())
    }

    fn remember(&mut self, path: &[u8]) {
        if self.beneath == Beneath::Nothing {
            return;
        }
        let mut path = path;
        while !path.is_empty() && self.made.insert(self.hasher.hash_one(path)) {
            path = split(path).0;
        }
    }

    /// The directory at `path`, made if it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Fail> {
        match self.existing(path) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT) => {
                let fd = Rc::new(self.make_path(path)?);
                self.dirs.insert(path.to_vec(), Rc::clone(&fd));
                Ok(fd)
            }
            Err(errno) => Err(io("find the parent directory of")(errno)),
        }
    }

    /// The directory at `path` if there is one, links followed inside the root.
    fn existing(&mut self, path: &[u8]) -> rustix::io::Result<Rc<OwnedFd>> {
        if let Some(fd) = self.dirs.get(path) {
            return Ok(Rc::clone(fd));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let name = if path.is_empty() { b"." } else { path };
        let mut tries = 0;
        let fd = loop {
            match openat2(self.root, name, flags, Mode::empty(), resolve) {
                // A rename anywhere on the machine while `..` in a link was being resolved.
                Err(Errno::AGAIN) if tries < 100 => tries += 1,
                result => break Rc::new(result?),
            }
        };
        if self.dirs.len() >= CACHED_DIRS {
            self.dirs.clear();
        }
        self.dirs.insert(path.to_vec(), Rc::clone(&fd));
        Ok(fd)
    }

    /// Walks down `path` one component at a time, making what is missing, also behind links that lead nowhere yet.
    fn make_path(&self, path: &[u8]) -> Result<OwnedFd, Fail> {
        let op = "create the parent directory of";
        let open = |dir: BorrowedFd<'_>, name: &[u8]| {
            openat(
                dir,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let mut stack = vec![open(self.root, b".").map_err(io(op))?];
        let mut queue: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = queue.pop_front() {
            let Some(top) = stack.last() else { break };
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let fd = match open(top.as_fd(), &name) {
                Err(Errno::NOENT) => {
                    mkdirat(top, name.as_slice(), Mode::from_raw_mode(0o755)).map_err(io(op))?;
                    open(top.as_fd(), &name)
                }
                result => result,
            }
            .map_err(io(op))?;
            let stat = rustix::fs::fstat(&fd).map_err(io(op))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if stack.len() >= MAX_DEPTH => {
                    return Err(Refusal::Depth.into());
                }
                FileType::Directory => stack.push(fd),
                FileType::Symlink if links >= MAX_LINKS => return Err(io(op)(Errno::LOOP)),
                FileType::Symlink => {
                    links += 1;
                    let link = readlinkat(&fd, c"", Vec::new())
                        .map_err(io(op))?
                        .into_bytes();
                    if link.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    for part in components(&link).collect::<Vec<_>>().into_iter().rev() {
                        queue.push_front(part.to_vec());
                    }
                }
                _ => return Err(io(op)(Errno::NOTDIR)),
            }
        }
        stack.pop().ok_or_else(|| io(op)(Errno::NOENT))
    }
}

/// Owner, mode and extended attributes, in the order in which one does not undo another.
fn attributes(fd: BorrowedFd<'_>, entry: &Entry, (uid, gid): (Uid, Gid)) -> Result<(), Fail> {
    fchown(fd, Some(uid), Some(gid)).map_err(io("set the owner of"))?;
    fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(io("set the mode of"))?;
    xattrs(entry, |name, value| {
        fsetxattr(fd, name, value, XattrFlags::empty())
    })
}

/// The same for a descriptor that only holds its file (`O_PATH`).
fn held_attributes(fd: BorrowedFd<'_>, entry: &Entry, (uid, gid): (Uid, Gid)) -> Result<(), Fail> {
    use std::os::fd::AsRawFd as _;
    chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(io("set the owner of"))?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    chmodat(
        rustix::fs::CWD,
        path.as_str(),
        Mode::from_raw_mode(entry.mode),
        AtFlags::empty(),
    )
    .map_err(io("set the mode of"))?;
    xattrs(entry, |name, value| {
        setxattr(path.as_str(), name, value, XattrFlags::empty())
    })
}

fn xattrs(entry: &Entry, set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>) -> Result<(), Fail> {
    for (name, value) in &entry.xattrs {
        // What overlayfs would obey is ours to write, not a layer's.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        match set(name, value) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(Errno::PERM | Errno::INVAL) if name != b"security.capability" => {}
            Err(errno) => return Err(io("set extended attributes of")(errno)),
        }
    }
    Ok(())
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), Refusal> {
    // All ones would mean "leave unchanged".
    let id = |id: u64| {
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or(Refusal::Owner(id))
    };
    Ok((Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?)))
}

fn stamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(fd, bytes, offset) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// An opened directory and its names.
fn listing(dir: BorrowedFd<'_>, base: &[u8]) -> Result<(OwnedFd, Vec<Vec<u8>>), Fail> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(dir, base, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(errno) => return Err(io("list")(errno)),
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(&fd).map_err(io("list"))? {
        let entry = entry.map_err(io("list"))?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_bytes().to_vec());
        }
    }
    Ok((fd, names))
}

fn remove_tree(dir: BorrowedFd<'_>, base: &[u8], depth: usize) -> Result<(), Fail> {
    if depth > MAX_DEPTH {
        return Err(Refusal::Depth.into());
    }
    let (fd, names) = listing(dir, base)?;
    for name in names {
        match unlinkat(&fd, name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(fd.as_fd(), &name, depth + 1)?,
            Err(errno) => return Err(io("replace")(errno)),
        }
    }
    match unlinkat(dir, base, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(io("replace")(errno)),
    }
}

/// The path relative to the root, without empty and `.` components.
fn normal(name: &[u8]) -> Result<Vec<u8>, Refusal> {
    if name.contains(&0) {
        return Err(Refusal::Nul);
    }
    if name.is_empty() || name.len() > MAX_PATH {
        return Err(Refusal::Length(name.len()));
    }
    let mut path = Vec::with_capacity(name.len());
    for part in components(name) {
        if part == b".." {
            return Err(Refusal::DotDot);
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    Ok(path)
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
}

/// Parent and last component of a normal path; the parent of one component, and the last of the root, are empty.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
        None => (b"", path),
    }
}

fn join(parent: &[u8], base: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        base.to_vec()
    } else {
        [parent, b"/", base].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_relative() {
        let check = |name: &[u8], expected: &[u8]| assert_eq!(normal(name).unwrap(), expected);
        check(b"./a//b/./c/", b"a/b/c");
        check(b"/etc/passwd", b"etc/passwd");
        check(b"./", b"");
        check(b"/", b"");
        check(b"\xff\xfe", b"\xff\xfe");
        assert_eq!(normal(b"a/../b"), Err(Refusal::DotDot));
        assert_eq!(normal(b".."), Err(Refusal::DotDot));
        assert_eq!(normal(b"a\0b"), Err(Refusal::Nul));
        assert_eq!(normal(b""), Err(Refusal::Length(0)));
        assert_eq!(normal(&[b'a'; 4096]), Err(Refusal::Length(4096)));
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
