//! A running container, as its starter holds it.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use rustix::event::{PollFd, PollFlags};
use sys::process::Ended;
use tokio::{io::unix::AsyncFd, sync::Notify};

use crate::agent::Agent;

/// How a container's program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code. Under `/.init` a program killed by signal N is reported as code 128+N, as shells do.
    Code(i32),
    /// The first process itself was killed by this signal.
    Signal(i32),
    /// The kernel killed it for want of memory in the container's cgroup.
    OutOfMemory,
}

impl Exit {
    /// The code a shell would show.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
            Exit::OutOfMemory => 137,
        }
    }
}

/// What is to be tidied up once all processes of a container are gone. Consumed exactly once.
pub(crate) trait Aftermath: Send + Sync {
    /// Removes what the runtime left in layers and cgroups, and says whether the kernel ran the container out of memory.
    fn tidy(self: Box<Self>) -> Tidied;
}

/// What the tidying found.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tidied {
    pub(crate) out_of_memory: bool,
}

/// A started process. Dropping it kills it, and with a container's first process everything in the container.
pub struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: Arc<OwnedFd>,
    /// Who hears signals, when it is not the process that is waited for.
    pub(crate) target: Option<OwnedFd>,
    /// The master side of the terminal, when one was asked for.
    pub terminal: Option<OwnedFd>,
    pub(crate) aftermath: Option<Box<dyn Aftermath>>,
    pub(crate) ended: Option<Exit>,
    pub(crate) joiner: Option<Arc<dyn Joiner>>,
    /// Gone before the aftermath: they keep the container's mounts.
    pub(crate) agents: Arc<Agents>,
    /// Present when a thread of its own reaps the process.
    pub(crate) reaped: Option<Arc<Reaped>>,
}

/// The end of a process that is reaped at once, by a thread of its own, whether or not anybody waits for it.
#[derive(Debug, Default)]
pub(crate) struct Reaped {
    ended: Mutex<Option<io::Result<Ended>>>,
    blocking: Condvar,
    waiting: Notify,
}

impl Reaped {
    pub(crate) fn in_background(pidfd: &Arc<OwnedFd>) -> io::Result<Arc<Reaped>> {
        let (reaped, pidfd) = (Arc::new(Reaped::default()), Arc::clone(pidfd));
        let ours = Arc::clone(&reaped);
        let reap = move || {
            let ended = sys::process::wait(&*pidfd);
            *ours.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
            ours.blocking.notify_all();
            ours.waiting.notify_waiters();
        };
        thread::Builder::new()
            .name("bodkin-reap".into())
            .spawn(reap)?;
        Ok(reaped)
    }

    fn get(ended: &Option<io::Result<Ended>>) -> Option<io::Result<Ended>> {
        ended.as_ref().map(|r| {
            r.as_ref()
                .map(|e| *e)
                .map_err(|e| io::Error::new(e.kind(), e.to_string()))
        })
    }

    async fn wait(&self) -> io::Result<Ended> {
        loop {
            let woken = self.waiting.notified();
            if let Some(ended) =
                Reaped::get(&self.ended.lock().unwrap_or_else(PoisonError::into_inner))
            {
                return ended;
            }
            woken.await;
        }
    }

    fn wait_blocking(&self) -> io::Result<Ended> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(ended) = Reaped::get(&ended) {
                return ended;
            }
            ended = self
                .blocking
                .wait(ended)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts further processes in a running container.
pub(crate) trait Joiner: Send + Sync {
    fn exec(
        &self,
        target: BorrowedFd<'_>,
        pid: i32,
        spec: crate::spec::ExecSpec,
    ) -> Result<Child, crate::StartError>;
    fn agent(
        &self,
        target: BorrowedFd<'_>,
        pid: i32,
        spec: crate::spec::AgentSpec,
    ) -> Result<Agent, crate::StartError>;
}

/// The agents in a container.
#[derive(Debug)]
pub(crate) struct Agents(Mutex<Option<Vec<Agent>>>);

impl Default for Agents {
    fn default() -> Agents {
        Agents(Mutex::new(Some(Vec::new())))
    }
}

impl Agents {
    /// Ends all, and lets no more be started.
    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Starts agents of the engine in a container, see [`Child::agency`].
#[derive(Clone)]
pub struct Agency {
    joiner: Arc<dyn Joiner>,
    pidfd: Arc<OwnedFd>,
    pid: i32,
    agents: Arc<Agents>,
}

impl fmt::Debug for Agency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agency")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Agency {
    /// Starts an agent, which ends with the container. Blocks for a moment.
    ///
    /// # Errors
    /// As for starting a container; when the container has ended.
    pub fn start(&self, spec: crate::spec::AgentSpec) -> Result<(), crate::StartError> {
        // Held to the end: the container must not be tidied while an agent is on its way there.
        let mut agents = self.agents.0.lock().unwrap_or_else(PoisonError::into_inner);
        let agents = agents
            .as_mut()
            .ok_or_else(|| crate::StartError::Spec("the container has ended".into()))?;
        agents.push(self.joiner.agent(self.pidfd.as_fd(), self.pid, spec)?);
        Ok(())
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("pid", &self.pid)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Child {
    /// The process id in the engine's pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The process as a descriptor; it becomes readable when the process ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for the end of the process, without blocking a thread, and tidies up. May be dropped and called again.
    ///
    /// # Errors
    /// When no reactor is running or the process was reaped by somebody else.
    pub async fn wait(&mut self) -> io::Result<Exit> {
        if let Some(exit) = self.ended {
            return Ok(exit);
        }
        if let Some(reaped) = self.reaped.clone() {
            let ended = reaped.wait().await?;
            return Ok(self.finish(ended));
        }
        #[expect(
            unsafe_code,
            reason = "the reactor asks for a promise about the descriptor's life"
        )]
        // SAFETY: the registration holds a share of the descriptor, which is never closed or replaced while shared.
        let poll = unsafe {
            AsyncFd::register_with_interest(Arc::clone(&self.pidfd), tokio::io::Interest::READABLE)
        };
        let poll = poll.map_err(|e| e.into_parts().1)?;
        loop {
            let mut ready = poll.readable().await?;
            if let Some(ended) = sys::process::try_wait(&*self.pidfd)? {
                drop(ready);
                drop(poll);
                return Ok(self.finish(ended));
            }
            ready.clear_ready();
        }
    }

    /// [`Child::wait`] that blocks the calling thread.
    ///
    /// # Errors
    /// When the process was reaped by somebody else.
    pub fn wait_blocking(&mut self) -> io::Result<Exit> {
        if let Some(exit) = self.ended {
            return Ok(exit);
        }
        let ended = match &self.reaped {
            Some(reaped) => reaped.wait_blocking()?,
            None => sys::process::wait(&*self.pidfd)?,
        };
        Ok(self.finish(ended))
    }

    fn finish(&mut self, ended: Ended) -> Exit {
        self.agents.close();
        let tidied = self
            .aftermath
            .take()
            .map(Aftermath::tidy)
            .unwrap_or_default();
        let exit = match ended {
            Ended::Exited(code) => Exit::Code(code),
            Ended::Signaled(signal) => Exit::Signal(signal),
        };
        let exit = if tidied.out_of_memory && exit.code() == 137 {
            Exit::OutOfMemory
        } else {
            exit
        };
        self.ended = Some(exit);
        exit
    }

    /// Sends a signal. Under `/.init` it reaches the program's process group; else the first process itself.
    ///
    /// # Errors
    /// `ESRCH` when the process has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::process::signal(self.target.as_ref().unwrap_or(&self.pidfd).as_fd(), signal)
    }

    /// Kills the process, and with a container's first process everything in the container. The end is still to be waited
    /// for. Not an error when it has ended already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> io::Result<()> {
        match self.signal(libc::SIGKILL) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// When there is none.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let Some(terminal) = &self.terminal else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(terminal, size).map_err(Into::into)
    }

    /// Starts another process in this running container: same namespaces, root and restrictions.
    ///
    /// # Errors
    /// As for starting a container.
    pub fn exec(&self, spec: crate::spec::ExecSpec) -> Result<Child, crate::StartError> {
        match &self.joiner {
            Some(joiner) => joiner.exec(self.pidfd.as_fd(), self.pid, spec),
            None => Err(crate::StartError::Spec(
                "this runtime cannot execute in a running container".into(),
            )),
        }
    }

    /// What starts agents of the engine in this container.
    ///
    /// # Errors
    /// When the runtime has no agents.
    pub fn agency(&self) -> Result<Agency, crate::StartError> {
        let joiner = self.joiner.clone();
        let joiner = joiner.ok_or_else(|| {
            crate::StartError::Spec(
                "this runtime cannot have an agent in a running container".into(),
            )
        })?;
        Ok(Agency {
            joiner,
            pidfd: Arc::clone(&self.pidfd),
            pid: self.pid,
            agents: Arc::clone(&self.agents),
        })
    }

    /// The network namespace of the process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn net_namespace(&self) -> io::Result<OwnedFd> {
        let fd = rustix::fs::open(
            format!("/proc/{}/ns/net", self.pid),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        // The number is only ours for as long as the process has not been reaped: look again after opening.
        self.signal(0)?;
        Ok(fd)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // It may be uninterruptible for a while: reap it, and tidy up, on a thread of its own.
        let _ = self.kill();
        if self.reaped.is_some() {
            return;
        }
        if let Ok(Some(_)) = sys::process::try_wait(&*self.pidfd) {
            self.agents.close();
            self.aftermath.take().map(Aftermath::tidy);
            return;
        }
        let (pidfd, aftermath, agents) = (
            Arc::clone(&self.pidfd),
            self.aftermath.take(),
            Arc::clone(&self.agents),
        );
        let reap = move || {
            agents.close();
            let _ = rustix::event::poll(&mut [PollFd::new(&*pidfd, PollFlags::IN)], None);
            let _ = sys::process::wait(&*pidfd);
            aftermath.map(Aftermath::tidy);
        };
        if let Err(e) = thread::Builder::new()
            .name("bodkin-reap".into())
            .spawn(reap)
        {
            tracing::warn!(pid = self.pid, error = %e, "no thread to wait for a killed container");
        }
    }
}
