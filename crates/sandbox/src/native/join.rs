//! Further processes in a running container: same namespaces, root, control group and restrictions.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
};

use rustix::fs::{CWD, OFlags};

use super::{Process, Program, Shared, Streams, clone, dev, enter::Op, spawner::Pool};
use crate::{
    Child, StartError,
    child::{Joiner, Reaped},
    error::{Step as _, shown},
    program, rooted,
    spec::ExecSpec,
    user,
};

/// The magic number of `devpts`.
const DEVPTS: i64 = 0x1cd1;

/// The way back to what started a container.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) pool: Weak<Pool>,
    pub(super) shared: Arc<Shared>,
    pub(super) cgroup: Option<OwnedFd>,
    pub(super) privileged: bool,
}

impl Joiner for Join {
    fn exec(&self, target: BorrowedFd<'_>, pid: i32, spec: ExecSpec) -> Result<Child, StartError> {
        super::check_no_nul(&spec.argv, &spec.env, &spec.cwd)?;
        if spec.privileged && !self.privileged {
            return Err(StartError::Spec("a process cannot have more privileges than its container".into()));
        }
        let pool = self.pool.upgrade().ok_or_else(|| StartError::Spec("the runtime of this container is gone".into()))?;
        let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, 0.into());
        let root = root.step(|| "open the root of the running container".into())?;
        let target = target.try_clone_to_owned().step(|| "keep the running container".into())?;
        // The number may have come to name another process; the descriptor cannot.
        sys::process::signal(target.as_fd(), 0).step(|| "reach the running container".into())?;
        let cgroup = self.cgroup.as_ref().map(OwnedFd::try_clone).transpose().step(|| "keep the control group".into())?;
        let (shared, privileged) = (Arc::clone(&self.shared), spec.privileged);
        let (pid, pidfd, terminal) = pool.run(move |spawner| {
            let identity = user::identify(root.as_fd(), &spec.user)?;
            let paths = program::find(root.as_fd(), &spec.argv, &spec.env, &spec.cwd)?;
            let terminal = if spec.stdio.terminal { Some(terminal(root.as_fd(), identity.uid)?) } else { None };
            let streams = Streams::new(spec.stdio, &shared.null, terminal.as_ref())?;
            let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP;
            let mut ops = vec![Op::Join { fd: target.as_raw_fd(), kinds: namespaces }];
            let name = spec.argv.first().map(|n| shown(n)).unwrap_or_default();
            let process = Process {
                streams: streams.numbers(),
                terminal: terminal.is_some(),
                status: None,
                rlimits: Vec::new(),
                cwd: spec.cwd,
                identity,
                privileged,
                program: Program::Itself { paths, argv: spec.argv },
                env: spec.env,
            };
            process.ops(&shared, &mut ops)?;
            spawner.join_pids(target.as_fd()).step(|| "join the container's processes".into())?;
            let _flight = shared.flights.depart();
            let (pid, pidfd) = clone(spawner, 0, cgroup.as_ref().map(AsFd::as_fd), ops, &name)?;
            Ok((pid, pidfd, terminal.map(|t| t.master)))
        })?;
        let pidfd = Arc::new(pidfd);
        // Unreaped, it would keep the container from ending.
        let reaped = Reaped::in_background(&pidfd).step(|| "start a thread".into())?;
        Ok(Child { pid, pidfd, target: None, terminal, aftermath: None, ended: None, joiner: None, reaped: Some(reaped) })
    }
}

fn terminal(root: BorrowedFd<'_>, uid: u32) -> Result<dev::Terminal, StartError> {
    let what = || "open a terminal in `/dev/pts`".to_owned();
    let pts = rooted::open(root, b"/dev/pts", OFlags::PATH | OFlags::DIRECTORY).step(what)?;
    if rustix::fs::fstatfs(&pts).step(what)?.f_type as i64 != DEVPTS {
        return Err(StartError::Spec("`/dev/pts` of the container holds no terminals".into()));
    }
    dev::open_terminal(pts.as_fd(), uid).step(what)
}
