//! Reads directories, several at once when there are many.
//!
//! A directory is one task: read its names, sort them, ask the patterns, look at what is taken, encode it. Its own
//! directories become further tasks, last in, first out, so that few descriptors are open. Threads write into buffers of
//! their own; the tree's order is put together afterwards.

use std::{
    ffi::{CStr, OsStr},
    io,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use patterns::{Decision, DirState, Filter, Step};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat},
    io::Errno,
};
use wire::{
    LinkError, LinkErrorKind,
    listing::{CHUNK, Entry, EntryKind, MAX_DEPTH, MAX_ENTRIES},
};

use super::super::stat;

/// For the names of a directory at a time.
const DIR_BUFFER: usize = 64 << 10;
/// Most threads. More than a few fight for the kernel's locks.
const THREADS: usize = 4;
/// A tree is worth threads when so many entries were seen and it goes on.
const WORTH_THREADS: u64 = 1000;

/// A scanned tree, in pieces.
pub(super) struct Scan {
    /// The root directory itself.
    pub root: Stat,
    products: Vec<Product>,
    /// Where each directory's segments are.
    places: Vec<Option<Place>>,
}

#[derive(Clone)]
struct Place {
    product: usize,
    segments: Range<usize>,
}

/// What one thread wrote.
#[derive(Default)]
struct Product {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    done: Vec<(usize, Range<usize>)>,
}

/// Encoded entries of a directory, and the directory after them.
struct Segment {
    bytes: Range<usize>,
    entries: u64,
    sub: Option<Sub>,
}

struct Sub {
    entry: Range<usize>,
    id: usize,
    taken: bool,
}

/// A part of a directory: entries, then perhaps a directory.
pub(super) struct Part<'a> {
    /// Whole encoded entries, at most about [`CHUNK`] bytes.
    pub bytes: &'a [u8],
    /// How many.
    pub entries: u64,
    /// The directory that follows them.
    pub sub: Option<SubDir<'a>>,
}

/// A directory in a directory.
pub(super) struct SubDir<'a> {
    /// Its encoded entry.
    pub entry: &'a [u8],
    /// For [`Scan::parts`].
    pub id: usize,
    /// It matched; else it is there only when something in it is.
    pub taken: bool,
}

impl Scan {
    /// A directory's content, in order; the root's number is 0.
    pub(super) fn parts(&self, id: usize) -> impl Iterator<Item = Part<'_>> {
        let place = self.places.get(id).and_then(Option::as_ref);
        let found = place.and_then(|p| Some((self.products.get(p.product)?, p.segments.clone())));
        found.into_iter().flat_map(|(product, range)| {
            let bytes = |r: &Range<usize>| product.bytes.get(r.clone()).unwrap_or_default();
            product
                .segments
                .get(range)
                .unwrap_or_default()
                .iter()
                .map(move |s| Part {
                    bytes: bytes(&s.bytes),
                    entries: s.entries,
                    sub: s.sub.as_ref().map(|d| SubDir {
                        entry: bytes(&d.entry),
                        id: d.id,
                        taken: d.taken,
                    }),
                })
        })
    }
}

/// A directory to read.
struct Task {
    id: usize,
    parent: Arc<OwnedFd>,
    /// Relative to the root.
    path: Vec<u8>,
    /// How much of the path is its own name.
    name_len: usize,
    depth: usize,
    state: DirState,
}

/// What the threads share.
struct Shared<'a> {
    root: &'a Path,
    filter: Option<&'a Filter>,
    now_ns: i64,
    queue: Mutex<Queue>,
    changed: Condvar,
    entries: AtomicU64,
}

#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    next_id: usize,
    at_work: usize,
    failed: Option<LinkError>,
}

/// Reads a tree.
///
/// # Errors
/// A directory that cannot be read.
pub(super) fn scan(root: &Path, fd: OwnedFd, filter: Option<&Filter>) -> Result<Scan, LinkError> {
    let stat = rustix::fs::fstat(&fd).map_err(|e| LinkError::io("stat", root, &e.into()))?;
    let shared = Shared {
        root,
        filter,
        now_ns: stat::now_ns(),
        queue: Mutex::new(Queue {
            next_id: 1,
            at_work: 1,
            ..Queue::default()
        }),
        changed: Condvar::new(),
        entries: AtomicU64::new(0),
    };
    let products = thread::scope(|scope| {
        let mut main = Worker::new(&shared);
        main.directory(&Arc::new(fd), 0, &[], 0, &DirState::default());
        // Alone at first: most trees are small.
        while shared.entries.load(Ordering::Relaxed) < WORTH_THREADS {
            match shared.next(true) {
                Some(task) => main.task(task),
                None => return vec![main.product],
            }
        }
        let others = thread::available_parallelism().map_or(1, |n| n.get().min(THREADS)) - 1;
        let spawn = |_| {
            let run = || Worker::new(&shared).work(false);
            // Without a thread the others do its work.
            thread::Builder::new()
                .name("walk".into())
                .spawn_scoped(scope, run)
                .ok()
        };
        let helpers: Vec<_> = (0..others).filter_map(spawn).collect();
        let mut products = vec![main.work(true)];
        products.extend(helpers.into_iter().filter_map(|h| h.join().ok()));
        products
    });
    let queue = shared
        .queue
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = queue.failed {
        return Err(error);
    }
    let mut places = vec![None; queue.next_id];
    for (product, of) in products.iter().enumerate() {
        for (id, segments) in &of.done {
            if let Some(place) = places.get_mut(*id) {
                *place = Some(Place {
                    product,
                    segments: segments.clone(),
                });
            }
        }
    }
    Ok(Scan {
        root: stat,
        products,
        places,
    })
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; `None` when there will be none. `worked` says that the caller has just finished one.
    fn next(&self, worked: bool) -> Option<Task> {
        let mut queue = self.lock();
        if worked {
            queue.at_work -= 1;
        }
        loop {
            if queue.failed.is_some() {
                queue.tasks.clear();
            }
            if let Some(task) = queue.tasks.pop() {
                queue.at_work += 1;
                return Some(task);
            }
            if queue.at_work == 0 {
                self.changed.notify_all();
                return None;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fail(&self, error: LinkError) {
        self.lock().failed.get_or_insert(error);
    }
}

/// A name in the buffer of names, followed by a NUL.
#[derive(Clone, Copy)]
struct Name {
    start: usize,
    len: usize,
    is_dir: bool,
}

/// One thread's things.
struct Worker<'a> {
    shared: &'a Shared<'a>,
    product: Product,
    /// Where the open segment begins, and how many entries it has.
    segment: usize,
    entries: u64,
    path: Vec<u8>,
    names: Vec<u8>,
    order: Vec<Name>,
    raw: Vec<u8>,
    found: Vec<Task>,
}

/// Why a directory was not read to its end.
enum Failed {
    At(&'static str, Errno),
    TooMany,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>) -> Self {
        Self {
            shared,
            product: Product::default(),
            segment: 0,
            entries: 0,
            path: Vec::new(),
            names: Vec::new(),
            order: Vec::new(),
            raw: Vec::with_capacity(DIR_BUFFER),
            found: Vec::new(),
        }
    }

    /// Does tasks until there are none. `busy`: the caller has just done one.
    fn work(mut self, busy: bool) -> Product {
        let mut task = self.shared.next(busy);
        while let Some(t) = task {
            self.task(t);
            task = self.shared.next(true);
        }
        self.product
    }

    fn task(&mut self, task: Task) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = task
            .path
            .get(task.path.len() - task.name_len..)
            .unwrap_or_default();
        match rustix::fs::openat(&task.parent, name, flags, Mode::empty()) {
            Ok(fd) => self.directory(&Arc::new(fd), task.id, &task.path, task.depth, &task.state),
            // Replaced or removed meanwhile: an empty directory, as it was when it was listed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => self.shared.fail(self.told("open", &task.path, e)),
        }
    }

    fn told(&self, what: &str, path: &[u8], error: Errno) -> LinkError {
        LinkError::io(
            what,
            &self.shared.root.join(OsStr::from_bytes(path)),
            &io::Error::from(error),
        )
    }

    /// Reads a directory, and queues those in it.
    fn directory(
        &mut self,
        fd: &Arc<OwnedFd>,
        id: usize,
        path: &[u8],
        depth: usize,
        state: &DirState,
    ) {
        self.path.clear();
        self.path.extend_from_slice(path);
        let first = self.product.segments.len();
        let read = self
            .read_names(fd.as_fd())
            .and_then(|()| self.entries(fd, depth, state));
        self.end_segment(None);
        match read {
            Ok(()) => {}
            Err(Failed::At(what, e)) => self.shared.fail(self.told(what, &self.path, e)),
            Err(Failed::TooMany) => {
                let message = format!(
                    "{} holds more than {MAX_ENTRIES} entries",
                    self.shared.root.display()
                );
                self.shared
                    .fail(LinkError::new(LinkErrorKind::TooLarge, message));
            }
        }
        self.product
            .done
            .push((id, first..self.product.segments.len()));
        if !self.found.is_empty() {
            // The first one is done first.
            self.shared.lock().tasks.extend(self.found.drain(..).rev());
            self.shared.changed.notify_all();
        }
    }

    fn read_names(&mut self, dir: BorrowedFd<'_>) -> Result<(), Failed> {
        self.names.clear();
        self.order.clear();
        let mut entries = RawDir::new(dir, self.raw.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| Failed::At("readdir", e))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = entry.file_type();
            if matches!(
                kind,
                FileType::Socket
                    | FileType::Fifo
                    | FileType::CharacterDevice
                    | FileType::BlockDevice
            ) {
                continue;
            }
            self.order.push(Name {
                start: self.names.len(),
                len: name.len(),
                is_dir: kind == FileType::Directory,
            });
            self.names
                .extend_from_slice(entry.file_name().to_bytes_with_nul());
        }
        let names = &self.names;
        let text = |n: &Name| names.get(n.start..n.start + n.len).unwrap_or_default();
        self.order.sort_unstable_by(|a, b| text(a).cmp(text(b)));
        Ok(())
    }

    fn entries(&mut self, fd: &Arc<OwnedFd>, depth: usize, state: &DirState) -> Result<(), Failed> {
        let before = self.path.len();
        for at in 0..self.order.len() {
            let Some(name) = self.order.get(at).copied() else {
                break;
            };
            if before > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(
                self.names
                    .get(name.start..name.start + name.len)
                    .unwrap_or_default(),
            );
            self.entry(fd, name, depth, state)?;
            self.path.truncate(before);
        }
        let seen = self
            .shared
            .entries
            .fetch_add(self.order.len() as u64, Ordering::Relaxed);
        if seen > MAX_ENTRIES {
            Err(Failed::TooMany)
        } else {
            Ok(())
        }
    }

    /// What the patterns say of the current path.
    fn step(&self, state: &DirState, is_dir: bool) -> Step {
        match self.shared.filter {
            Some(filter) => filter.step(state, &self.path, is_dir),
            None => Step {
                decision: Decision::Include,
                descend: is_dir,
                state: DirState::default(),
            },
        }
    }

    fn entry(
        &mut self,
        fd: &Arc<OwnedFd>,
        name: Name,
        depth: usize,
        state: &DirState,
    ) -> Result<(), Failed> {
        let mut step = self.step(state, name.is_dir);
        if step.decision == Decision::Exclude && !step.descend && name.is_dir {
            return Ok(());
        }
        let bytes = self
            .names
            .get(name.start..=name.start + name.len)
            .unwrap_or_default();
        // The kernel ends names with the NUL that was kept.
        let Ok(c_name) = CStr::from_bytes_with_nul(bytes) else {
            return Ok(());
        };
        let stat = match rustix::fs::statat(fd, c_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(s) => s,
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Failed::At("lstat", e)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        if is_dir != name.is_dir {
            // Some file systems do not say in the directory what a name is, and it may be replaced meanwhile.
            step = self.step(state, is_dir);
        }
        let taken = step.decision == Decision::Include;
        match kind {
            FileType::Directory if taken || step.descend => {
                return self.sub_dir(fd, name, &stat, depth, step);
            }
            FileType::RegularFile if taken => {
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                let kind = EntryKind::File {
                    size,
                    stamp: stat::stamp(&stat, self.shared.now_ns),
                };
                encode(c_name.to_bytes(), kind, &stat, &mut self.product.bytes);
            }
            FileType::Symlink if taken => match rustix::fs::readlinkat(fd, c_name, Vec::new()) {
                Ok(to) => encode(
                    c_name.to_bytes(),
                    EntryKind::Symlink(to.as_bytes()),
                    &stat,
                    &mut self.product.bytes,
                ),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                Err(e) => return Err(Failed::At("readlink", e)),
            },
            _ => return Ok(()),
        }
        self.entries += 1;
        if self.product.bytes.len() - self.segment >= CHUNK {
            self.end_segment(None);
        }
        Ok(())
    }

    fn sub_dir(
        &mut self,
        fd: &Arc<OwnedFd>,
        name: Name,
        stat: &Stat,
        depth: usize,
        step: Step,
    ) -> Result<(), Failed> {
        if depth + 2 > MAX_DEPTH {
            return Err(Failed::At("open", Errno::NAMETOOLONG));
        }
        let (start, end) = (self.product.bytes.len(), name.start + name.len);
        let text = self.names.get(name.start..end).unwrap_or_default();
        encode(text, EntryKind::Dir, stat, &mut self.product.bytes);
        let mut id = 0;
        if step.descend {
            let mut queue = self.shared.lock();
            id = queue.next_id;
            queue.next_id += 1;
            drop(queue);
            let (parent, path) = (Arc::clone(fd), self.path.clone());
            self.found.push(Task {
                id,
                parent,
                path,
                name_len: name.len,
                depth: depth + 1,
                state: step.state,
            });
        }
        let entry = start..self.product.bytes.len();
        self.end_segment(Some(Sub {
            entry,
            id,
            taken: step.decision == Decision::Include,
        }));
        Ok(())
    }

    fn end_segment(&mut self, sub: Option<Sub>) {
        let end = sub
            .as_ref()
            .map_or(self.product.bytes.len(), |s| s.entry.start);
        if end > self.segment || sub.is_some() {
            self.product.segments.push(Segment {
                bytes: self.segment..end,
                entries: self.entries,
                sub,
            });
        }
        self.segment = self.product.bytes.len();
        self.entries = 0;
    }
}

/// Encodes an entry.
pub(super) fn encode(name: &[u8], kind: EntryKind<'_>, stat: &Stat, out: &mut Vec<u8>) {
    let mode = stat.st_mode & 0o7777;
    Entry {
        name,
        kind,
        mode,
        mtime_ns: stat::mtime_ns(stat),
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
    .encode(out);
}
