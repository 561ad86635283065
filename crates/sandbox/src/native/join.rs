//! Further processes in a running container: same namespaces, root, control group and restrictions.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
};

use rustix::fs::{CWD, OFlags};

use super::{Process, Program, Shared, Streams, clone, dev, enter::Op, spawner::Pool};
use crate::{
    Child, StartError,
    agent::{self, Agent},
    check::{self, Named},
    child::{Joiner, Reaped},
    error::Step as _,
    program, rooted,
    spec::{AgentSpec, ExecSpec, Stdio},
    user,
};

/// The magic number of `devpts`.
const DEVPTS: i64 = 0x1cd1;

/// The namespaces that a later process shares with the container in any case.
const SHARED: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// The way back to what started a container.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) pool: Weak<Pool>,
    pub(super) shared: Arc<Shared>,
    pub(super) cgroup: Option<OwnedFd>,
    pub(super) privileged: bool,
}

/// What it takes to get into a running container.
struct Way {
    pool: Arc<Pool>,
    root: OwnedFd,
    target: OwnedFd,
    cgroup: Option<OwnedFd>,
}

impl Join {
    fn way(&self, target: BorrowedFd<'_>, pid: i32, privileged: bool) -> Result<Way, StartError> {
        if privileged && !self.privileged {
            return Err(StartError::Spec(
                "a process cannot have more privileges than its container".into(),
            ));
        }
        let pool = self
            .pool
            .upgrade()
            .ok_or_else(|| StartError::Spec("the runtime of this container is gone".into()))?;
        let root = rustix::fs::openat(
            CWD,
            format!("/proc/{pid}/root"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            0.into(),
        );
        let root = root.step(|| "open the root of the running container".into())?;
        let target = target
            .try_clone_to_owned()
            .step(|| "keep the running container".into())?;
        // The number may have come to name another process; the descriptor cannot.
        sys::process::signal(target.as_fd(), 0).step(|| "reach the running container".into())?;
        let cgroup = self
            .cgroup
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .step(|| "keep the control group".into())?;
        Ok(Way {
            pool,
            root,
            target,
            cgroup,
        })
    }
}

impl Joiner for Join {
    fn exec(&self, target: BorrowedFd<'_>, pid: i32, spec: ExecSpec) -> Result<Child, StartError> {
        check::process(&spec.argv, &spec.env, &spec.cwd)?;
        let Way {
            pool,
            root,
            target,
            cgroup,
        } = self.way(target, pid, spec.privileged)?;
        let (shared, privileged) = (Arc::clone(&self.shared), spec.privileged);
        let (pid, pidfd, terminal) = pool.run(move |spawner| {
            let identity = user::identify(root.as_fd(), &spec.user)?;
            let paths = program::find(root.as_fd(), &spec.argv, &spec.env, &spec.cwd)?;
            let terminal = if spec.stdio.terminal {
                Some(terminal(root.as_fd(), identity.uid)?)
            } else {
                None
            };
            let streams = Streams::new(spec.stdio, &shared.null, terminal.as_ref())?;
            let mut ops = vec![Op::Join {
                fd: target.as_raw_fd(),
                kinds: SHARED,
            }];
            let name = Named::of(&spec.argv, &spec.env);
            let process = Process {
                streams: streams.numbers(),
                terminal: terminal.is_some(),
                status: None,
                rlimits: Vec::new(),
                cwd: spec.cwd,
                identity,
                privileged,
                program: Program::Itself {
                    paths,
                    argv: spec.argv,
                },
                env: spec.env,
            };
            process.ops(&shared, &mut ops)?;
            spawner
                .join_pids(target.as_fd())
                .step(|| "join the container's processes".into())?;
            let _flight = shared.flights.depart();
            let (pid, pidfd) = clone(spawner, 0, cgroup.as_ref().map(AsFd::as_fd), ops, &name)?;
            Ok((pid, pidfd, terminal.map(|t| t.master)))
        })?;
        let pidfd = Arc::new(pidfd);
        // Unreaped, it would keep the container from ending.
        let reaped = Reaped::in_background(&pidfd).step(|| "start a thread".into())?;
        Ok(Child {
            pid,
            pidfd,
            target: None,
            terminal,
            aftermath: None,
            ended: None,
            joiner: None,
            agents: Arc::default(),
            reaped: Some(reaped),
        })
    }

    fn agent(
        &self,
        target: BorrowedFd<'_>,
        pid: i32,
        spec: AgentSpec,
    ) -> Result<Agent, StartError> {
        let Way {
            pool,
            root,
            target,
            cgroup,
        } = self.way(target, pid, spec.privileged)?;
        let (shared, init) = (Arc::clone(&self.shared), self.shared.init()?);
        let pidfd = pool.run(move |spawner| {
            let identity = user::identify(root.as_fd(), &spec.user)?;
            let stdio = Stdio {
                stdin: Some(spec.channel),
                stdout: None,
                stderr: None,
                terminal: false,
            };
            let streams = Streams::new(stdio, &shared.null, None)?;
            let mut ops = vec![Op::Join {
                fd: target.as_raw_fd(),
                kinds: SHARED,
            }];
            let name = agent::NAME.to_bytes().to_vec();
            let process = Process {
                streams: streams.numbers(),
                terminal: false,
                status: None,
                rlimits: Vec::new(),
                cwd: b"/".to_vec(),
                identity,
                privileged: spec.privileged,
                program: Program::Init {
                    file: init.as_raw_fd(),
                    argv: vec![name],
                },
                env: Vec::new(),
            };
            process.ops(&shared, &mut ops)?;
            let _flight = shared.flights.depart();
            // Numbers of its own: nobody in the container can name it, and it can name nobody at all.
            let (_, pidfd) = clone(
                spawner,
                libc::CLONE_NEWPID,
                cgroup.as_ref().map(AsFd::as_fd),
                ops,
                &Named::plain("the agent"),
            )?;
            Ok(pidfd)
        })?;
        Ok(Agent(pidfd))
    }
}

fn terminal(root: BorrowedFd<'_>, uid: u32) -> Result<dev::Terminal, StartError> {
    let what = || "open a terminal in `/dev/pts`".to_owned();
    let pts = rooted::open(root, b"/dev/pts", OFlags::PATH | OFlags::DIRECTORY).step(what)?;
    if rustix::fs::fstatfs(&pts).step(what)?.f_type as i64 != DEVPTS {
        return Err(StartError::Spec(
            "`/dev/pts` of the container holds no terminals".into(),
        ));
    }
    dev::open_terminal(pts.as_fd(), uid).step(what)
}
