//! One time for everything below a directory, set by several threads.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rustix::{
    fs::{AtFlags, FileType, Timestamps},
    io::Errno,
};

use super::{TreeError, lstat, names_of, on, open_child_dir, walk::DEPTH_MAX};

/// Threads at most.
const THREADS_MAX: usize = 4;
/// With fewer directories at hand the work is not worth a thread.
const WORTH_A_THREAD: usize = 16;

/// A directory whose turn is yet to come. Its descriptor is opened then: those that wait cost none.
struct Pending {
    above: Arc<OwnedFd>,
    /// From where the work began.
    path: Vec<u8>,
    /// How much of the path is the directories above.
    name_at: usize,
    depth: usize,
}

/// Sets the times of `dir` and of all that is below it. Not for a mount with lower layers: there, setting a time makes files in
/// directories that another thread may just have dated.
///
/// # Errors
/// When a directory cannot be read, a time cannot be set, or the tree is too deep.
pub(super) fn date_all(dir: OwnedFd, times: &Timestamps) -> Result<(), TreeError> {
    let mut pending = Vec::new();
    date(&Arc::new(dir), &[], 0, times, &mut pending)?;
    while pending.len() < WORTH_A_THREAD {
        let Some(next) = pending.pop() else {
            return Ok(());
        };
        enter(next, times, &mut pending)?;
    }
    let threads = thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    let pending = Mutex::new(pending);
    let work = || -> Result<(), TreeError> {
        let mut own = Vec::new();
        loop {
            let next = own.pop().or_else(|| {
                let mut shared = pending.lock().unwrap_or_else(PoisonError::into_inner);
                shared.pop()
            });
            let Some(next) = next else {
                return Ok(());
            };
            enter(next, times, &mut own)?;
        }
    };
    thread::scope(|scope| {
        let spawn = |_| {
            thread::Builder::new()
                .name("dates".into())
                .spawn_scoped(scope, work)
        };
        // Without threads this one does it all.
        let others: Vec<_> = (1..threads).filter_map(|n| spawn(n).ok()).collect();
        let mut done = work();
        for other in others {
            let result = other.join();
            done = done.and(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    })
}

fn enter(next: Pending, times: &Timestamps, pending: &mut Vec<Pending>) -> Result<(), TreeError> {
    let Pending {
        above,
        path,
        name_at,
        depth,
    } = next;
    let name = path.get(name_at..).unwrap_or_default();
    match open_child_dir(above.as_fd(), name) {
        Ok(dir) => date(&Arc::new(dir), &path, depth, times, pending),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(on("open", &path)(e)),
    }
}

/// Dates a directory and what is in it but directories, which it adds to `pending`.
fn date(
    dir: &Arc<OwnedFd>,
    path: &[u8],
    depth: usize,
    times: &Timestamps,
    pending: &mut Vec<Pending>,
) -> Result<(), TreeError> {
    if depth > DEPTH_MAX {
        return Err(TreeError::TooDeep {
            path: String::from_utf8_lossy(path).into_owned(),
            limit: DEPTH_MAX,
        });
    }
    let mut below = path.to_vec();
    if !below.is_empty() {
        below.push(b'/');
    }
    let name_at = below.len();
    for (name, kind) in names_of(dir.as_fd()).map_err(on("list", path))? {
        below.truncate(name_at);
        below.extend_from_slice(&name);
        if is_dir(dir.as_fd(), &name, kind).map_err(on("look at", &below))? {
            pending.push(Pending {
                above: Arc::clone(dir),
                path: below.clone(),
                name_at,
                depth: depth + 1,
            });
            continue;
        }
        match rustix::fs::utimensat(dir, name.as_slice(), times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(on("date", &below)(e)),
        }
    }
    rustix::fs::futimens(dir, times).map_err(on("date", path))
}

/// Some file systems do not tell in a listing.
fn is_dir(dir: BorrowedFd<'_>, name: &[u8], listed: FileType) -> rustix::io::Result<bool> {
    match listed {
        FileType::Directory => Ok(true),
        FileType::Unknown => Ok(lstat(dir, name)?.is_some_and(|stat| stat.is_dir())),
        _ => Ok(false),
    }
}
