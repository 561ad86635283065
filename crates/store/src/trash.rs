//! Deleting in the background: things are renamed away at once and deleted by one thread, because deleting is slow.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, CWD, RenameFlags},
    io::Errno,
};

use crate::{
    DiskError, disk,
    tree::{names_of, open_child_dir},
};

/// How many directories deep one deletion goes.
const DEPTH: usize = 64;

/// The deleting thread's mail box. Its queue is what is in the directory, so it needs no memory and survives crashes.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Something was thrown in since the last look.
    work: bool,
    busy: bool,
    stop: bool,
}

impl Trash {
    /// Starts the thread. It ends with [`Trash::stop`] or when the process does.
    pub(crate) fn start(dir: PathBuf) -> io::Result<Arc<Trash>> {
        let state = State {
            work: true,
            ..State::default()
        };
        let trash = Arc::new(Trash {
            dir,
            next: AtomicU64::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let worker = trash.clone();
        std::thread::Builder::new()
            .name("store-trash".into())
            .spawn(move || worker.run())?;
        Ok(trash)
    }

    /// Throws a file or directory away.
    pub(crate) fn take(&self, path: &Path) -> Result<(), DiskError> {
        // Names of an earlier process may still be there; a directory cannot replace a filled one, so take the next.
        for _ in 0..1_000_000 {
            let to = self
                .dir
                .join(format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed)));
            match rustix::fs::renameat_with(CWD, path, CWD, &to, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.lock().work = true;
                    self.changed.notify_all();
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(e) => return Err(DiskError::new("throw away", path, e)),
            }
        }
        Err(DiskError::new(
            "throw away",
            path,
            io::Error::from(io::ErrorKind::AlreadyExists),
        ))
    }

    /// Throws away what only costs space if it stays.
    pub(crate) fn take_or_warn(&self, path: &Path) {
        if let Err(error) = self.take(path) {
            tracing::warn!(path = %path.display(), %error, "cannot delete; the next start will");
        }
    }

    /// Waits until everything is gone.
    pub(crate) fn wait(&self) {
        let mut state = self.lock();
        while (state.work || state.busy) && !state.stop {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the thread after what it is deleting now.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            {
                let mut state = self.lock();
                state.busy = false;
                self.changed.notify_all();
                while !state.work && !state.stop {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                if state.stop {
                    return;
                }
                state.work = false;
                state.busy = true;
            }
            let Ok(names) = disk::names(&self.dir) else {
                continue;
            };
            let dir = match disk::open_dir(&self.dir) {
                Ok(dir) => dir,
                Err(error) => {
                    tracing::warn!(%error, "cannot empty the trash");
                    continue;
                }
            };
            for name in names {
                match self.delete(dir.as_fd(), dir.as_fd(), name.as_bytes(), 0) {
                    Ok(()) => {}
                    Err(Errno::CANCELED) => return,
                    Err(error) => {
                        tracing::warn!(path = %self.dir.join(name).display(), %error, "cannot delete")
                    }
                }
            }
        }
    }

    /// Deletes what has a name. Programs can make trees of any depth: what lies deep is first moved to the top.
    fn delete(
        &self,
        top: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &[u8],
        depth: usize,
    ) -> rustix::io::Result<()> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
        if depth >= DEPTH {
            loop {
                let to = format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed));
                match rustix::fs::renameat_with(dir, name, top, to, RenameFlags::NOREPLACE) {
                    Ok(()) => {
                        self.lock().work = true;
                        return Ok(());
                    }
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        if self.lock().stop {
            return Err(Errno::CANCELED);
        }
        let inner = open_child_dir(dir, name)?;
        for (child, _) in names_of(inner.as_fd())? {
            self.delete(top, inner.as_fd(), &child, depth + 1)?;
        }
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
    }
}
