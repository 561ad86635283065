//! Threads that start containers. Each lives in a tiny mount namespace of its own, from which every container's is copied:
//! so a start does not slow down with the number of the host's mounts, and nothing it mounts shows up on the host.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use sys::clone::{Stack, Watch};

use super::{cgroup::Cgroups, dev};
use crate::{StartError, error::Step as _};

/// Where the parts of a container are put together, below the tiny namespace's root.
const ROOT: &str = "root";
const SCRATCH: &str = "scratch";
const FILES: &str = "files";
const EMPTY: &str = "empty";
const NODES: &str = "nodes";

/// What a thread is asked to do: one start. It leaves the delivery of the answer, for when the thread is home again.
type Job = Box<dyn FnOnce(&mut Spawner) -> Delivery + Send>;
type Delivery = Box<dyn FnOnce() + Send>;

/// A handful of spawner threads.
#[derive(Debug)]
pub(super) struct Pool {
    /// Present until the pool is dropped.
    jobs: Option<Mutex<mpsc::Sender<Job>>>,
    limit: Duration,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Pool {
    /// Starts `threads` threads, for privileged containers or for all.
    pub(super) fn new(
        threads: usize,
        limit: Duration,
        cgroups: &Arc<Cgroups>,
        privileged: bool,
    ) -> Result<Pool, StartError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Pool {
            jobs: Some(Mutex::new(jobs)),
            limit,
            threads: Vec::new(),
        };
        for i in 0..threads.max(1) {
            let (queue, cgroups) = (Arc::clone(&queue), Arc::clone(cgroups));
            let (ready, started) = mpsc::channel();
            let handle = thread::Builder::new()
                .name(format!("bodkin-start-{i}"))
                .spawn(move || {
                    cgroups.adopt_thread(privileged);
                    match Spawner::new() {
                        Ok(spawner) => {
                            let _ = ready.send(Ok(()));
                            serve(spawner, &queue);
                        }
                        Err(e) => {
                            let _ = ready.send(Err(e));
                        }
                    }
                })
                .step(|| "start a thread".into())?;
            started.recv().unwrap_or_else(|_| Err(gone()))?;
            pool.threads.push(handle);
        }
        Ok(pool)
    }

    /// Runs `job` on one of the threads and waits for its answer. A child that takes too long from its clone to its
    /// program is killed. The job must not start threads: they would share the
    /// spawner's root, and keep it from changing namespaces.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Spawner) -> Result<T, StartError> + Send + 'static,
    ) -> Result<T, StartError> {
        let (answer, answered) = mpsc::sync_channel(1);
        let watch = Arc::new(Watch::default());
        let theirs = Arc::clone(&watch);
        let job: Job = Box::new(move |spawner| {
            spawner.watch = theirs;
            let result = job(spawner);
            Box::new(move || drop(answer.send(result)))
        });
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(job)
            .map_err(|_| gone())?;
        loop {
            match answered.recv_timeout(self.limit) {
                Ok(answer) => return answer,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if watch.kill() {
                        tracing::warn!(
                            "a container did not get to executing its program and was killed"
                        );
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        }
    }
}

fn gone() -> StartError {
    StartError::Step {
        step: "start a container: its thread is gone".into(),
        source: io::ErrorKind::BrokenPipe.into(),
    }
}

fn serve(mut spawner: Spawner, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // The lock is held while waiting: the others wait for the lock instead of for the queue.
        let Ok(job) = queue.lock().unwrap_or_else(PoisonError::into_inner).recv() else {
            return;
        };
        // A panic answers its caller by dropping the channel.
        let delivery = catch_unwind(AssertUnwindSafe(|| job(&mut spawner)));
        // Home first: until then this thread keeps the container's mounts alive.
        if let Err(e) = spawner.come_home() {
            tracing::error!(error = %e, "a thread that starts containers cannot leave a container's namespaces and ends");
            return;
        }
        if let Ok(deliver) = delivery {
            deliver();
        }
    }
}

/// The state of one spawner thread. Used only on that thread.
#[derive(Debug)]
pub(super) struct Spawner {
    home: OwnedFd,
    pids: OwnedFd,
    pub(super) stack: Stack,
    /// Of the start at hand.
    pub(super) watch: Arc<Watch>,
}

/// Places of the namespace under construction.
#[derive(Debug)]
pub(super) struct Workshop {
    /// The container's root is attached here.
    pub(super) root: OwnedFd,
    /// Overlays of which only a part is wanted are attached here for a moment.
    pub(super) scratch: OwnedFd,
    /// Small files are written here.
    pub(super) files: OwnedFd,
    /// An empty, read-only directory to cover others with.
    pub(super) empty: OwnedFd,
    /// Device nodes to bind.
    pub(super) nodes: OwnedFd,
}

impl Spawner {
    fn new() -> Result<Spawner, StartError> {
        let proc = open("/proc/thread-self/ns", OFlags::PATH)
            .step(|| "open `/proc/thread-self/ns`".into())?;
        sys::process::unshare_mounts().step(|| "get an own mount namespace".into())?;
        // Modes are what they say; the child sets the usual mask.
        rustix::process::umask(Mode::empty());
        build_home().step(|| "build the namespace that containers start from".into())?;
        let ns = |name: &str| {
            rustix::fs::openat(&proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .step(|| format!("open the {name} namespace"))
        };
        let spawner = Spawner {
            home: ns("mnt")?,
            pids: ns("pid")?,
            stack: Stack::new().step(|| "map a stack".into())?,
            watch: Arc::default(),
        };
        Ok(spawner)
    }

    /// Enters a fresh copy of the tiny namespace, which becomes the next container's.
    pub(super) fn fresh(&self) -> Result<Workshop, StartError> {
        sys::process::unshare_mounts().step(|| "get an own mount namespace".into())?;
        let dir = |name: &str| {
            open(name, OFlags::PATH | OFlags::DIRECTORY).step(|| format!("open `{name}`"))
        };
        Ok(Workshop {
            root: dir(ROOT)?,
            scratch: dir(SCRATCH)?,
            files: dir(FILES)?,
            empty: dir(EMPTY)?,
            nodes: dir(NODES)?,
        })
    }

    /// Makes the next child a member of the pid namespace of this process.
    pub(super) fn join_pids(&self, pidfd: BorrowedFd<'_>) -> io::Result<()> {
        rustix::thread::move_into_thread_name_spaces(
            pidfd,
            rustix::thread::ThreadNameSpaceType::PROCESS_ID,
        )
        .map_err(Into::into)
    }

    /// Leaves whatever namespaces a start has entered.
    pub(super) fn come_home(&mut self) -> io::Result<()> {
        move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Mount))?;
        move_into_link_name_space(self.pids.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        Ok(())
    }
}

/// Replaces this thread's root by a small tmpfs that holds nothing but places to mount on.
fn build_home() -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tmpfs = |options: &[(&str, &str)], attrs| {
        sys::mount::filesystem("tmpfs", options, attrs).map_err(|e| io::Error::other(e.to_string()))
    };
    let home = tmpfs(&[("mode", "700"), ("size", "64k")], attrs)?;
    for name in [ROOT, SCRATCH, FILES, EMPTY, NODES] {
        rustix::fs::mkdirat(&home, name, Mode::from_raw_mode(0o755))?;
    }
    // Any directory does: nothing of the old namespace stays.
    sys::mount::attach(&home, open("/proc", OFlags::PATH | OFlags::DIRECTORY)?)?;
    rustix::process::fchdir(&home)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    dev::make_nodes(open(NODES, OFlags::PATH | OFlags::DIRECTORY)?.as_fd())?;
    let empty = tmpfs(
        &[("mode", "755"), ("size", "4k"), ("nr_inodes", "2")],
        attrs | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    sys::mount::attach(&empty, open(EMPTY, OFlags::PATH | OFlags::DIRECTORY)?)
}

fn open(path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(Into::into)
}
