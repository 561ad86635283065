//! The runtime that this crate brings along: containers from bare Linux, a few milliseconds each.
//!
//! A start has three parts. `parts` turns what is named by host paths into descriptors, on the caller's thread. `stage`
//! puts the mount tree together on a spawner thread, in the mount namespace that the container will have. `enter` is the
//! child: prepared steps made of bare system calls, up to the program's execution. `stubs` and `cgroup` tidy up afterwards.

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags},
    mount::MountAttrFlags,
    pipe::PipeFlags,
    process::PidfdFlags,
};

use crate::{
    Child, Runtime, StartError, ca,
    caps::Sets,
    check::{self, Named},
    child::{Aftermath, Tidied},
    error::Step as _,
    init, parts, plan, seccomp,
    spec::{Net, Spec, Stdio},
    stubs,
};

pub(crate) mod cgroup;
mod dev;
mod enter;
mod flights;
mod join;
mod spawner;
mod stage;

use enter::{Op, Pointers, Target};
use stage::{Place, Stage};

/// Containers made by this very process.
#[derive(Debug)]
pub struct Native {
    pool: Arc<spawner::Pool>,
    /// Starts privileged containers; made for the first one.
    privileged: Mutex<Option<Arc<spawner::Pool>>>,
    shared: Arc<Shared>,
}

/// What a [`Native`] runtime uses of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Put containers into control groups where the machine has them. Without, device nodes that containers make are
    /// held back by mount flags, and running out of memory looks like any other kill.
    pub cgroups: bool,
    /// How long a container may take to get to its program. A process that joins a container can be stopped by it.
    pub start_limit: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cgroups: true,
            start_limit: Duration::from_secs(30),
        }
    }
}

/// What every start needs.
#[derive(Debug)]
struct Shared {
    /// The engine itself, for containers to die with.
    engine: OwnedFd,
    /// The host's `/dev/null`.
    null: OwnedFd,
    start_limit: Duration,
    flights: Arc<flights::Flights>,
    /// The host's `/dev`.
    dev: OwnedFd,
    cgroups: Arc<cgroup::Cgroups>,
    /// Controllers of the old hierarchies, when there are any.
    legacy: Vec<Vec<String>>,
    unified_only: bool,
    /// Whether the engine is spared when memory runs out, which its containers should not inherit.
    protected: bool,
    /// The init program; made when first needed.
    init: Mutex<Option<Arc<OwnedFd>>>,
    capabilities: u64,
    last_capability: u32,
}

impl Native {
    /// Prepares to start containers: a few threads and the descriptors they share.
    ///
    /// Makes this process impossible to trace and to dump: for the moment of a start its memory is shared with a process
    /// inside a container.
    ///
    /// # Errors
    /// When the process lacks the rights to make namespaces.
    pub fn new() -> Result<Native, StartError> {
        Native::with(Options::default())
    }

    /// [`Native::new`], but not with everything that the machine has.
    ///
    /// # Errors
    /// As for [`Native::new`].
    pub fn with(options: Options) -> Result<Native, StartError> {
        sys::process::forbid_dumping().step(|| "forbid dumping this process".into())?;
        let engine = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .step(|| "open this process".into())?;
        let dev = rustix::fs::open(
            "/dev",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let membership = cgroup::Membership::read();
        let cgroups = Arc::new(if options.cgroups {
            cgroup::Cgroups::new()
        } else {
            cgroup::Cgroups::none()
        });
        let shared = Shared {
            engine: high(engine)?,
            null: host_null()?,
            start_limit: options.start_limit,
            flights: Arc::default(),
            dev: dev.step(|| "open `/dev`".into())?,
            cgroups: Arc::clone(&cgroups),
            unified_only: membership.is_unified(),
            protected: std::fs::read_to_string("/proc/self/oom_score_adj")
                .is_ok_and(|t| t.starts_with('-')),
            legacy: membership
                .legacy
                .into_iter()
                .map(|(controllers, _)| controllers)
                .collect(),
            init: Mutex::new(None),
            capabilities: sys::process::bounding_set(),
            last_capability: sys::process::last_capability(),
        };
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
        Ok(Native {
            pool: Arc::new(spawner::Pool::new(
                threads,
                options.start_limit,
                &cgroups,
                false,
            )?),
            privileged: Mutex::default(),
            shared: Arc::new(shared),
        })
    }
}

impl Runtime for Native {
    fn start(&self, spec: Spec) -> Result<Child, StartError> {
        check::process(&spec.argv, &spec.env, &spec.cwd)?;
        let pool = if spec.privileged {
            self.privileged()?
        } else {
            Arc::clone(&self.pool)
        };
        let start = Start::prepare(Arc::clone(&self.shared), Arc::downgrade(&pool), spec)?;
        pool.run(move |spawner| start.run(spawner))
    }
}

impl Native {
    /// The thread that starts privileged containers, if they need another than the rest.
    fn privileged(&self) -> Result<Arc<spawner::Pool>, StartError> {
        let shared = &self.shared;
        if !shared.cgroups.sets_privileged_apart() {
            return Ok(Arc::clone(&self.pool));
        }
        let mut privileged = self
            .privileged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = &*privileged {
            return Ok(Arc::clone(pool));
        }
        let pool = spawner::Pool::new(1, shared.start_limit, &shared.cgroups, true)?;
        Ok(Arc::clone(privileged.insert(Arc::new(pool))))
    }
}

/// A start between its first and its second part.
struct Start {
    shared: Arc<Shared>,
    pool: Weak<spawner::Pool>,
    root: parts::Detached,
    mounts: Vec<parts::Prepared>,
    init: Option<Arc<OwnedFd>>,
    spec: Rest,
}

/// What remains of a specification without its root and mounts.
struct Rest {
    argv: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    cwd: Vec<u8>,
    user: crate::spec::UserSpec,
    hostname: String,
    stdio: Stdio,
    net: Net,
    hosts: Option<Vec<u8>>,
    resolv_conf: Option<Vec<u8>>,
    privileged: bool,
    rlimits: Vec<crate::spec::Rlimit>,
    authorities: Option<String>,
}

impl Start {
    fn prepare(
        shared: Arc<Shared>,
        pool: Weak<spawner::Pool>,
        spec: Spec,
    ) -> Result<Start, StartError> {
        let Spec {
            root,
            mounts,
            argv,
            env,
            cwd,
            user,
            hostname,
            stdio,
            net,
            hosts,
            resolv_conf,
            privileged,
            init,
            ca_bundle,
            rlimits,
        } = spec;
        let authorities = ca_bundle.and_then(|path| ca::read_host(&path));
        let init = if init { Some(shared.init()?) } else { None };
        let root = parts::root(root)?;
        let mounts = mounts
            .into_iter()
            .map(parts::mount)
            .collect::<Result<_, _>>()?;
        let spec = Rest {
            argv,
            env,
            cwd,
            user,
            hostname,
            stdio,
            net,
            hosts,
            resolv_conf,
            privileged,
            rlimits,
            authorities,
        };
        Ok(Start {
            shared,
            pool,
            root,
            mounts,
            init,
            spec,
        })
    }

    fn run(self, spawner: &mut spawner::Spawner) -> Result<Child, StartError> {
        let cgroup = self
            .shared
            .cgroups
            .group(self.spec.privileged)
            .step(|| "make the container's control group".into())?;
        let cgroup_dir = cgroup
            .directory()
            .map(|d| d.try_clone_to_owned())
            .transpose()
            .step(|| "keep the control group".into())?;
        let join = join::Join {
            pool: self.pool.clone(),
            shared: Arc::clone(&self.shared),
            cgroup: cgroup_dir,
            privileged: self.spec.privileged,
        };
        let mut after = After {
            stubs: stubs::Stubs::default(),
            cgroup,
            flights: Arc::clone(&self.shared.flights),
        };
        match self.spawn(spawner, &mut after) {
            Ok(mut child) => {
                child.joiner = Some(Arc::new(join));
                child.aftermath = Some(Box::new(after));
                Ok(child)
            }
            Err(e) => {
                // The layers are only free to be tidied when nothing keeps them mounted.
                spawner
                    .come_home()
                    .step(|| "leave the container's namespaces".into())?;
                Box::new(after).tidy();
                Err(e)
            }
        }
    }

    fn spawn(self, spawner: &mut spawner::Spawner, after: &mut After) -> Result<Child, StartError> {
        let Start {
            shared,
            pool: _,
            root,
            mounts,
            init,
            mut spec,
        } = self;
        let nodev = !spec.privileged && !shared.cgroups.guards_devices();
        let mut stage = Stage::new(spawner.fresh()?, root, nodev, &mut after.stubs)?;
        let dev = stage.system_mounts(spec.privileged.then(|| shared.dev.as_fd()))?;
        let groups = if spec.privileged && !shared.unified_only {
            legacy_groups(&shared.legacy)?
        } else {
            None
        };
        // Before the mounts: one that covers `/etc` hides these too.
        for (target, contents) in [
            ("/etc/hosts", spec.hosts.take()),
            ("/etc/resolv.conf", spec.resolv_conf.take()),
        ] {
            if let Some(contents) = contents {
                stage.mount_text(target, contents)?;
            }
        }
        for mount in mounts {
            stage.mount(mount)?;
        }
        if let Some(host) = spec.authorities.take() {
            for (path, bundle) in ca::merged(stage.root.as_fd(), &host) {
                stage.mount_text(path, bundle)?;
            }
        }
        let identity = stage.identity(&spec.user)?;
        set_home(&mut spec.env, &identity);
        stage.working_directory(&spec.cwd, &identity)?;
        let paths = stage.program(&spec.argv, &spec.env, &spec.cwd)?;
        stage.finish()?;
        let terminal = if spec.stdio.terminal {
            Some(dev.terminal(identity.uid)?)
        } else {
            None
        };
        let streams = Streams::new(spec.stdio, &shared.null, terminal.as_ref())?;
        let status = if init.is_some() {
            Some(StatusPipe::new()?)
        } else {
            None
        };

        let mut ops = Vec::with_capacity(48);
        let mut flags =
            libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;
        match &spec.net {
            Net::Host => {}
            Net::None => {
                flags |= libc::CLONE_NEWNET;
                ops.push(Op::Loopback);
            }
            Net::Namespace(fd) => ops.push(Op::Join {
                fd: fd.as_raw_fd(),
                kinds: libc::CLONE_NEWNET,
            }),
        }
        ops.push(Op::Hostname(spec.hostname.into_bytes()));
        system_ops(&mut ops, &stage, &dev, spec.privileged);
        group_ops(&mut ops, &shared, spec.privileged, groups.as_ref())?;
        if !spec.privileged {
            mask_ops(&mut ops, &stage, &dev);
        }
        if shared.protected {
            ops.push(Op::Expendable { slot: PROC });
        }
        ops.push(Op::Pivot {
            root: stage.root.as_raw_fd(),
        });
        let name = Named::of(&spec.argv, &spec.env);
        let program = match &init {
            Some(fd) => Program::Init {
                file: fd.as_raw_fd(),
                argv: [vec![init::NAME.to_bytes().to_vec()], spec.argv].concat(),
            },
            None => Program::Itself {
                paths,
                argv: spec.argv,
            },
        };
        let process = Process {
            streams: streams.numbers(),
            terminal: terminal.is_some(),
            status: status.as_ref().map(|s| s.theirs.as_raw_fd()),
            rlimits: spec.rlimits,
            cwd: spec.cwd,
            identity,
            privileged: spec.privileged,
            program,
            env: spec.env,
        };
        process.ops(&shared, &mut ops)?;

        // To the end of this function: the init reports when the engine's descriptors are closed for certain.
        let _flight = shared.flights.depart();
        let (pid, pidfd) = clone(spawner, flags, after.cgroup.directory(), ops, &name)?;
        drop(streams);
        let child = Child {
            pid,
            pidfd: Arc::new(pidfd),
            target: None,
            terminal: terminal.map(|t| t.master),
            aftermath: None,
            ended: None,
            joiner: None,
            agents: Arc::default(),
            reaped: None,
        };
        finish(child, status, shared.start_limit, &name)
    }
}

/// Gives the environment a `HOME` when it has none: the user's, or `/`.
fn set_home(env: &mut Vec<Vec<u8>>, identity: &crate::user::Identity) {
    if !env.iter().any(|pair| pair.starts_with(b"HOME=")) {
        let home = match &identity.home {
            Some(home) if !home.is_empty() => home.as_slice(),
            _ if identity.uid == 0 => b"/root",
            _ => b"/",
        };
        env.push([b"HOME=", home].concat());
    }
}

/// Starts the child and returns when it has executed its program, or reports the step at which it could not.
fn clone(
    spawner: &mut spawner::Spawner,
    flags: i32,
    cgroup: Option<BorrowedFd<'_>>,
    ops: Vec<Op>,
    program: &Named,
) -> Result<(i32, OwnedFd), StartError> {
    let child = enter::Child::new(ops);
    let argument = (&raw const child).cast_mut().cast();
    // SAFETY: `enter` upholds the rules of a vfork child, and `child` lives until after the call.
    #[expect(unsafe_code, reason = "the one place where a child is started")]
    let cloned = unsafe {
        sys::clone::vfork(
            flags as u64,
            cgroup,
            &mut spawner.stack,
            &spawner.watch,
            enter::enter,
            argument,
        )
    };
    let cloned = cloned.step(|| "start a process in new namespaces".into())?;
    if let Some((op, errno)) = child.failure() {
        let _ = sys::process::wait(&cloned.pidfd);
        return Err(failure(op, errno, program));
    }
    if !child.is_through() {
        let _ = sys::process::wait(&cloned.pidfd);
        return Err(StartError::Spec(format!(
            "`{}` was killed before it was executed",
            program.name
        )));
    }
    Ok((cloned.pid, cloned.pidfd))
}

/// Hears from the init whether the program runs.
fn finish(
    mut child: Child,
    status: Option<StatusPipe>,
    limit: Duration,
    program: &Named,
) -> Result<Child, StartError> {
    let failed = match status.map(|s| s.wait(limit)).transpose() {
        Ok(None | Some(None)) => return Ok(child),
        Ok(Some(Some(errno))) => program_failure(program, errno),
        Err(e) => e,
    };
    let _ = child.kill();
    let _ = child.wait_blocking();
    Err(failed)
}

/// The part of the child's steps that is the same for a container's first process and for a later one.
struct Process {
    streams: [i32; 3],
    terminal: bool,
    status: Option<i32>,
    rlimits: Vec<crate::spec::Rlimit>,
    cwd: Vec<u8>,
    identity: crate::user::Identity,
    privileged: bool,
    program: Program,
    env: Vec<Vec<u8>>,
}

/// What is executed.
enum Program {
    /// The init, which executes the program.
    Init { file: i32, argv: Vec<Vec<u8>> },
    /// The program.
    Itself {
        paths: Vec<Vec<u8>>,
        argv: Vec<Vec<u8>>,
    },
}

impl Process {
    fn ops(self, shared: &Shared, ops: &mut Vec<Op>) -> Result<(), StartError> {
        ops.push(Op::Stdio(self.streams));
        let leads = matches!(self.program, Program::Itself { .. });
        ops.push(Op::Session {
            terminal: self.terminal && leads,
        });
        ops.push(Op::Umask(0o022));
        ops.push(Op::Keyring);
        ops.push(Op::Directory(string(self.cwd)?));
        // After the last file is opened, which gets a number above all that the engine has open, and before the right to
        // raise a limit is given up.
        ops.extend(self.rlimits.into_iter().map(Op::Limit));
        // Only a process that may administer the system may install a filter without giving up set-user-id programs.
        if !self.privileged {
            ops.push(Op::Filter(seccomp::filter()));
        }
        ops.push(Op::Credentials {
            uid: self.identity.uid,
            gid: self.identity.gid,
            groups: self.identity.groups,
            caps: Sets::of(self.privileged, shared.capabilities),
            last_cap: shared.last_capability,
        });
        ops.push(Op::DieWithEngine {
            engine: shared.engine.as_raw_fd(),
        });
        ops.push(Op::Descriptors {
            status: self.status,
        });
        ops.push(Op::Signals);
        let (program, paths, argv) = match self.program {
            Program::Init { file, argv } => (Some(file), Vec::new(), argv),
            Program::Itself { paths, argv } => (None, strings(paths)?, argv),
        };
        let mut env = self.env;
        if plan::variable(&env, "HOME").is_none_or(<[u8]>::is_empty) {
            let home = self.identity.home.unwrap_or_else(|| b"/".to_vec());
            env.retain(|e| e != b"HOME=");
            env.push([b"HOME=", home.as_slice()].concat());
        }
        ops.push(Op::Exec {
            program,
            paths,
            argv: Pointers::new(strings(argv)?),
            envp: Pointers::new(strings(env)?),
        });
        Ok(())
    }
}

const PROC: usize = 0;
const SYS: usize = 1;
const GROUPS: usize = 2;
const OTHER: usize = 3;

/// The filesystems that only the child can make, in its new pid, network and ipc namespaces.
fn system_ops(ops: &mut Vec<Op>, stage: &Stage<'_>, dev: &dev::Dev, privileged: bool) {
    let safe = (libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC) as u32;
    let readonly = if privileged {
        0
    } else {
        libc::MOUNT_ATTR_RDONLY as u32
    };
    let at = |fd: BorrowedFd<'_>| Target::At(fd.as_raw_fd());
    let mount = |fstype, attrs, target, slot| Op::Mount {
        fstype,
        options: Vec::new(),
        attrs,
        target,
        slot,
    };
    ops.extend(
        stage
            .place(Place::Proc)
            .map(|fd| mount(c"proc", safe, at(fd), PROC)),
    );
    ops.extend(
        stage
            .place(Place::Sys)
            .map(|fd| mount(c"sysfs", safe | readonly, at(fd), SYS)),
    );
    ops.push(mount(c"mqueue", safe, at(dev.mqueue.as_fd()), OTHER));
}

/// The control groups below `/sys/fs/cgroup`, seen from the container's own on. Old hierarchies are only for privileged
/// containers, which may run an engine themselves.
fn group_ops(
    ops: &mut Vec<Op>,
    shared: &Shared,
    privileged: bool,
    places: Option<&OwnedFd>,
) -> Result<(), StartError> {
    let safe = (libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC) as u32;
    let readonly = if privileged {
        0
    } else {
        libc::MOUNT_ATTR_RDONLY as u32
    };
    let top = || Target::Below {
        slot: SYS,
        path: c"fs/cgroup".into(),
    };
    if shared.unified_only {
        ops.push(Op::Mount {
            fstype: c"cgroup2",
            options: Vec::new(),
            attrs: safe | readonly,
            target: top(),
            slot: GROUPS,
        });
    }
    let Some(places) = places else { return Ok(()) };
    ops.push(Op::Attach {
        mount: places.as_raw_fd(),
        target: top(),
        slot: GROUPS,
    });
    let below = |name: &str| {
        Ok::<_, StartError>(Target::Below {
            slot: GROUPS,
            path: string(name.into())?,
        })
    };
    for controllers in &shared.legacy {
        let mut options = Vec::new();
        for controller in controllers {
            match controller.strip_prefix("name=") {
                Some(name) => options.extend([
                    (c"none".to_owned(), None),
                    (c"name".to_owned(), Some(string(name.into())?)),
                ]),
                None => options.push((string(controller.as_str().into())?, None)),
            }
        }
        ops.push(Op::Mount {
            fstype: c"cgroup",
            options,
            attrs: safe,
            target: below(&place_of(controllers))?,
            slot: OTHER,
        });
    }
    ops.push(Op::Mount {
        fstype: c"cgroup2",
        options: Vec::new(),
        attrs: safe,
        target: below("unified")?,
        slot: OTHER,
    });
    Ok(())
}

/// A tmpfs with one directory per old hierarchy.
fn legacy_groups(hierarchies: &[Vec<String>]) -> Result<Option<OwnedFd>, StartError> {
    if hierarchies.is_empty() {
        return Ok(None);
    }
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let places = sys::mount::filesystem("tmpfs", &[("mode", "755"), ("size", "64k")], attrs)?;
    for name in hierarchies
        .iter()
        .map(|h| place_of(h))
        .chain(["unified".to_owned()])
    {
        rustix::fs::mkdirat(&places, &name, Mode::from_raw_mode(0o755))
            .step(|| format!("make a directory for control group `{name}`"))?;
    }
    Ok(Some(places))
}

fn place_of(controllers: &[String]) -> String {
    controllers
        .iter()
        .map(|c| c.strip_prefix("name=").unwrap_or(c))
        .collect::<Vec<_>>()
        .join(",")
        .replace('/', "_")
}

/// What an ordinary container must not see or change.
fn mask_ops(ops: &mut Vec<Op>, stage: &Stage<'_>, dev: &dev::Dev) {
    let (dir, file) = (stage.empty().as_raw_fd(), dev.null.as_raw_fd());
    let path = |p: &&str| CString::new(*p).ok();
    ops.extend(
        plan::MASKED_PROC
            .iter()
            .filter_map(path)
            .map(|path| Op::Mask {
                slot: PROC,
                path,
                dir,
                file,
            }),
    );
    ops.extend(
        plan::MASKED_SYS
            .iter()
            .filter_map(path)
            .map(|path| Op::Mask {
                slot: SYS,
                path,
                dir,
                file,
            }),
    );
    ops.extend(
        plan::READONLY_PROC
            .iter()
            .filter_map(path)
            .map(|path| Op::Readonly { slot: PROC, path }),
    );
}

/// What the runtime tidies up after a container.
struct After {
    stubs: stubs::Stubs,
    cgroup: cgroup::Cgroup,
    flights: Arc<flights::Flights>,
}

impl Aftermath for After {
    fn tidy(self: Box<Self>) -> Tidied {
        self.flights.let_land();
        self.stubs.remove();
        Tidied {
            out_of_memory: self.cgroup.remove(),
        }
    }
}

fn failure(op: &Op, errno: i32, program: &Named) -> StartError {
    match op {
        Op::Exec { .. } if errno == libc::E2BIG => program_failure(program, errno),
        Op::Exec { program: None, .. } => program_failure(program, errno),
        other => StartError::Step {
            step: other.describe(),
            source: std::io::Error::from_raw_os_error(errno),
        },
    }
}

fn program_failure(program: &Named, errno: i32) -> StartError {
    let too_long = || program.too_long();
    let program = &program.name;
    match errno {
        libc::E2BIG => too_long(),
        libc::ENOENT => StartError::UnknownProgram {
            name: program.into(),
            looked_in: "no such file, or its interpreter is missing".into(),
        },
        libc::EACCES => StartError::NotExecutable {
            name: program.into(),
            source: std::io::Error::from_raw_os_error(errno),
        },
        errno => StartError::Step {
            step: format!("execute `{program}`"),
            source: std::io::Error::from_raw_os_error(errno),
        },
    }
}

impl Shared {
    /// This very executable, so that nobody can change it: what runs as a container's first process can be reached through
    /// its `/proc/1/exe`. A read-only mount of its own does, which no container can make writable again; where the file is
    /// not to be mounted, a sealed copy in memory.
    fn init(&self) -> Result<Arc<OwnedFd>, StartError> {
        let mut init = self.init.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fd) = &*init {
            return Ok(Arc::clone(fd));
        }
        if !init::available() {
            return Err(StartError::Spec(
                "this executable does not call `sandbox::init::maybe_run` and cannot be an init"
                    .into(),
            ));
        }
        let fd = readonly_mount()
            .or_else(|_| sealed_copy())
            .step(|| "keep this executable for containers to start with".into())?;
        let fd = Arc::new(high(fd)?);
        *init = Some(Arc::clone(&fd));
        Ok(fd)
    }
}

fn readonly_mount() -> std::io::Result<OwnedFd> {
    let mount = sys::mount::copy_of(rustix::fs::CWD, "/proc/self/exe".as_ref())?;
    sys::mount::set_private(
        &mount,
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID,
    )?;
    Ok(mount)
}

fn sealed_copy() -> std::io::Result<OwnedFd> {
    let source = std::fs::File::open("/proc/self/exe")?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create(".init", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and all their memory files are executable.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(".init", flags)?,
        other => other?,
    };
    let mut memory = std::fs::File::from(memory);
    std::io::copy(&mut &source, &mut memory)?;
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(memory.into())
}

/// The host's null device, for streams that nobody wants.
fn host_null() -> Result<OwnedFd, StartError> {
    let fd = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .step(|| "open `/dev/null`".into())?;
    let stat = rustix::fs::fstat(&fd).step(|| "look at `/dev/null`".into())?;
    if stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(StartError::Spec(
            "the host's `/dev/null` is not the null device".into(),
        ));
    }
    high(fd)
}

/// The same descriptor with a number that the child's own placements (0 to 3) cannot hit.
fn high(fd: OwnedFd) -> Result<OwnedFd, StartError> {
    if fd.as_raw_fd() >= 10 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, 10).step(|| "move a descriptor".into())
}

/// The descriptors that become 0, 1 and 2.
struct Streams {
    fds: [OwnedFd; 3],
}

impl Streams {
    fn new(
        stdio: Stdio,
        null: &OwnedFd,
        terminal: Option<&dev::Terminal>,
    ) -> Result<Streams, StartError> {
        let pick = |given: Option<OwnedFd>| match (terminal, given) {
            (Some(terminal), _) => rustix::io::fcntl_dupfd_cloexec(&terminal.slave, 10)
                .step(|| "copy the terminal's descriptor".into()),
            (None, Some(fd)) => high(fd),
            (None, None) => rustix::io::fcntl_dupfd_cloexec(null.as_fd(), 10)
                .step(|| "copy the descriptor of `/dev/null`".into()),
        };
        Ok(Streams {
            fds: [pick(stdio.stdin)?, pick(stdio.stdout)?, pick(stdio.stderr)?],
        })
    }

    fn numbers(&self) -> [i32; 3] {
        self.fds.each_ref().map(AsRawFd::as_raw_fd)
    }
}

/// The pipe on which the init reports that it could not execute the program.
struct StatusPipe {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl StatusPipe {
    fn new() -> Result<StatusPipe, StartError> {
        let (ours, theirs) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step(|| "make a pipe".into())?;
        Ok(StatusPipe {
            ours,
            theirs: high(theirs)?,
        })
    }

    /// The errno of the failed execution; `None` when the program runs.
    fn wait(self, limit: Duration) -> Result<Option<i32>, StartError> {
        drop(self.theirs);
        let what = || "hear from the container's init".to_owned();
        let limit = rustix::event::Timespec {
            tv_sec: limit.as_secs().max(1).try_into().unwrap_or(i64::MAX),
            tv_nsec: 0,
        };
        let mut poll = [rustix::event::PollFd::new(
            &self.ours,
            rustix::event::PollFlags::IN,
        )];
        if rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&limit))).step(what)?
            == 0
        {
            return Err(rustix::io::Errno::TIMEDOUT).step(what);
        }
        let mut bytes = [0; 4];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.ours, &mut bytes)).step(what)? {
            4 => Ok(Some(i32::from_ne_bytes(bytes))),
            _ => Ok(None),
        }
    }
}

fn string(bytes: Vec<u8>) -> Result<CString, StartError> {
    // What it is may be a secret.
    CString::new(bytes).map_err(|_| {
        StartError::Spec("a text that the process is given contains a NUL byte".into())
    })
}

fn strings(all: Vec<Vec<u8>>) -> Result<Vec<CString>, StartError> {
    all.into_iter().map(string).collect()
}
