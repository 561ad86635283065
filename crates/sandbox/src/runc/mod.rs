//! A runtime that lets the `runc` binary do the work: chosen by users who trust it more, and the oracle of our own tests.
//!
//! It takes tens of milliseconds per container. What differs: the program itself is the first process ([`Spec::init`] has no
//! effect), mount targets that lie inside other mounts stay behind where they had to be made, a bundle of certificate
//! authorities inside a mount stays as it is, and `runc` masks what is hidden without `nosuid,nodev,noexec`.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio as Standard},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::MountPropagationFlags,
    process::{Pid, PidfdFlags},
};

use crate::{
    Child, Runtime, StartError, ca, check,
    child::{Aftermath, Tidied},
    error::{Step as _, shown},
    parts::{self, Detached, Part},
    program, rooted,
    spec::{Net, Spec},
    stubs::{Layer, Stubs},
    user,
};

mod config;

/// A start that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// Containers made by the `runc` binary.
#[derive(Debug)]
pub struct Runc {
    binary: PathBuf,
    state: PathBuf,
}

/// Numbers containers across all runtimes of this process: control groups are named after them.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Runc {
    /// Uses this binary. `state` is a directory of the engine's own, for what a container needs while it runs.
    pub fn new(binary: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Runc {
        Runc {
            binary: binary.into(),
            state: state.into(),
        }
    }
}

/// A mount of a container, where the `runc` process finds it.
#[derive(Debug)]
struct Placed {
    /// Where it is attached, in the bundle.
    place: PathBuf,
    mount: Detached,
    target: Vec<u8>,
    /// What lies there for the container.
    source: PathBuf,
    readonly: bool,
    /// A small file that nothing is executed from.
    file: bool,
}

impl Runtime for Runc {
    fn start(&self, spec: Spec) -> Result<Child, StartError> {
        check::process(&spec.argv, &spec.env, &spec.cwd)?;
        let id = format!(
            "bodkin-runc-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let bundle = self.state.join(&id);
        fs::create_dir_all(&bundle).step(|| format!("make `{}`", bundle.display()))?;
        let mut after = After {
            binary: self.binary.clone(),
            root: self.state.join("runc"),
            id,
            bundle,
            stubs: Stubs::default(),
            started: false,
        };
        match self.run(spec, &mut after) {
            Ok(mut child) => {
                child.aftermath = Some(Box::new(after));
                Ok(child)
            }
            Err(e) => {
                Box::new(after).tidy();
                Err(e)
            }
        }
    }
}

impl Runc {
    fn run(&self, spec: Spec, after: &mut After) -> Result<Child, StartError> {
        let bundle = after.bundle.clone();
        let mut plan = config::Plan::of(&spec);
        let Spec {
            root,
            mounts,
            stdio,
            net,
            hosts,
            resolv_conf,
            argv,
            env,
            cwd,
            user,
            ca_bundle,
            ..
        } = spec;
        let root = parts::root(root)?;
        let identity = user::identify(root.mount.as_fd(), &user)?;
        program::working_directory(root.mount.as_fd(), &cwd, &identity, leads_into_system)?;
        if mounts.is_empty() {
            // A program in a mount is for runc to find.
            program::find(root.mount.as_fd(), &argv, &env, &cwd)?;
        }
        plan.identity = identity;

        let files = sys::mount::filesystem(
            "tmpfs",
            &[("mode", "700")],
            rustix::mount::MountAttrFlags::MOUNT_ATTR_NODEV,
        )?;
        let mut placed = Vec::new();
        // Before the mounts: one that covers `/etc` hides these too.
        for (target, contents) in [("/etc/hosts", hosts), ("/etc/resolv.conf", resolv_conf)] {
            if let Some(contents) = contents {
                let part = text(target, contents);
                placed.push(place(&bundle, &files, placed.len(), part)?);
            }
        }
        let covered: Vec<Vec<u8>> = mounts.iter().map(|m| m.target.clone()).collect();
        for mount in mounts {
            placed.push(place(&bundle, &files, placed.len(), parts::mount(mount)?)?);
        }
        if let Some(host) = ca_bundle.and_then(|path| ca::read_host(&path)) {
            for (path, contents) in ca::merged(root.mount.as_fd(), &host) {
                if !covered
                    .iter()
                    .any(|target| lies_in(path.as_bytes(), target))
                {
                    let part = text(path, contents);
                    placed.push(place(&bundle, &files, placed.len(), part)?);
                }
            }
        }
        self.targets(&root, &placed, &mut after.stubs)?;
        plan.mounts = placed
            .iter()
            .map(|p| config::Bind {
                target: p.target.clone(),
                source: p.source.clone(),
                readonly: p.readonly,
                file: p.file,
            })
            .collect();
        if let Net::Namespace(fd) = &net {
            plan.net = Some(format!(
                "/proc/{}/fd/{}",
                std::process::id(),
                fd.as_raw_fd()
            ));
        }
        let json = serde_json::to_vec(&plan.json())
            .map_err(io::Error::from)
            .step(|| "write the configuration".into())?;
        fs::write(bundle.join("config.json"), json).step(|| "write `config.json`".into())?;
        for name in ["rootfs", "files"] {
            fs::create_dir(bundle.join(name)).step(|| format!("make `{name}` in the bundle"))?;
        }

        let terminal = stdio
            .terminal
            .then(open_terminal)
            .transpose()
            .step(|| "open a terminal".into())?;
        let mut command = Command::new(&self.binary);
        command.args([
            "--root".as_ref(),
            after.root.as_os_str(),
            "--log".as_ref(),
            bundle.join("log").as_os_str(),
        ]);
        command
            .args(["--log-format", "json", "run", "--pid-file"])
            .arg(bundle.join("pid"))
            .arg("--bundle")
            .arg(&bundle);
        command
            .arg(&after.id)
            .env_clear()
            .env("PATH", crate::plan::DEFAULT_PATH)
            .current_dir("/");
        let stream = |fd: Option<OwnedFd>| -> io::Result<Standard> {
            // Without detaching, runc passes between this terminal and the container's own.
            let slave = terminal
                .as_ref()
                .map(|(_, slave)| slave.try_clone())
                .transpose()?;
            Ok(slave.or(fd).map_or_else(Standard::null, Standard::from))
        };
        let streams = || "set up the standard streams".to_owned();
        command
            .stdin(stream(stdio.stdin).step(streams)?)
            .stdout(stream(stdio.stdout).step(streams)?);
        command.stderr(stream(stdio.stderr).step(streams)?);
        let mut attached: Vec<(PathBuf, OwnedFd)> = vec![
            (bundle.join("rootfs"), root.mount),
            (bundle.join("files"), files),
        ];
        attached.extend(placed.into_iter().map(|p| (p.place, p.mount.mount)));
        attach_in_child(&mut command, attached, terminal.is_some());
        let process = command
            .spawn()
            .step(|| format!("run `{}`", self.binary.display()))?;
        after.started = true;
        drop(command);
        let runc = pidfd(process.id() as i32).step(|| "keep the runc process".into())?;
        let (pid, target) = self.started(&bundle, &runc, &argv)?;
        drop(net);
        Ok(Child {
            pid,
            pidfd: Arc::new(runc),
            target: Some(target),
            terminal: terminal.map(|(master, _)| master),
            aftermath: None,
            ended: None,
            joiner: None,
            agents: Arc::default(),
            reaped: None,
        })
    }

    /// Makes what `runc` would make for mounts, where it can be removed again.
    fn targets(
        &self,
        root: &Detached,
        placed: &[Placed],
        stubs: &mut Stubs,
    ) -> Result<(), StartError> {
        let fd = root.mount.as_fd();
        let upper = root
            .upper
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .step(|| "keep the upper directory".into())?;
        let mount = rooted::mount_id(fd).step(|| "look at the root".into())?;
        let layers = [Layer {
            mount,
            upper,
            prefix: Vec::new(),
        }];
        let system = ["/proc", "/sys", "/dev"].map(|p| (p.as_bytes().to_vec(), true));
        let wanted = placed.iter().map(|p| {
            (
                p.target.clone(),
                p.source.is_dir() || p.mount.is_dir && p.source == p.place,
            )
        });
        for (target, directory) in system.into_iter().chain(wanted) {
            let walk = rooted::walk(fd, &target)
                .step(|| format!("follow `{}` in the container", shown(&target)))?;
            stubs
                .target(&layers, walk, directory)
                .step(|| format!("make the mount target `{}`", shown(&target)))?;
        }
        stubs.seal().step(|| "look at the mount targets".into())
    }

    /// Waits until the program runs, which `runc` tells by writing its number.
    fn started(
        &self,
        bundle: &Path,
        runc: &OwnedFd,
        argv: &[Vec<u8>],
    ) -> Result<(i32, OwnedFd), StartError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let pid = fs::read_to_string(bundle.join("pid"))
                .ok()
                .and_then(|t| t.trim().parse::<i32>().ok());
            if let Some(pid) = pid
                && let Ok(target) = pidfd(pid)
            {
                return Ok((pid, target));
            }
            // Either the process ends, or a millisecond passes.
            let mut poll = [rustix::event::PollFd::new(
                runc,
                rustix::event::PollFlags::IN,
            )];
            let pause = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            let ended = rustix::event::poll(&mut poll, Some(&pause)).unwrap_or(0) > 0;
            if ended && let Some(message) = log_message(bundle) {
                let _ = sys::process::wait(runc);
                let name = argv.first().map(|n| shown(n)).unwrap_or_default();
                if message.contains("exec")
                    && (message.contains("no such file") || message.contains("not found in $PATH"))
                {
                    return Err(StartError::UnknownProgram {
                        name,
                        looked_in: message,
                    });
                }
                return Err(StartError::Delegate {
                    program: self.binary.display().to_string(),
                    message,
                });
            }
            if ended {
                // A program so short that its process was gone before it was looked at.
                return Ok((
                    pid.unwrap_or(0),
                    runc.try_clone().step(|| "keep the runc process".into())?,
                ));
            }
            if Instant::now() > deadline {
                let message = format!("not started within {} s", DEADLINE.as_secs());
                return Err(StartError::Delegate {
                    program: self.binary.display().to_string(),
                    message,
                });
            }
        }
    }
}

/// Gives one part a place in the bundle.
fn place(
    bundle: &Path,
    files: &OwnedFd,
    index: usize,
    prepared: parts::Prepared,
) -> Result<Placed, StartError> {
    let parts::Prepared {
        target,
        part,
        readonly,
    } = prepared;
    let what = || format!("prepare the mount for `{}`", shown(&target));
    let place = bundle.join(format!("mount-{index}"));
    let make_place = |directory: bool| {
        if directory {
            fs::create_dir(&place)
        } else {
            fs::write(&place, "")
        }
    };
    let (mount, source) = match part {
        Part::Whole(mount) => {
            make_place(mount.is_dir).step(what)?;
            (mount, place.clone())
        }
        Part::Below(mount, subpath) => {
            make_place(true).step(what)?;
            let walk = rooted::walk(mount.mount.as_fd(), &subpath).step(what)?;
            if !walk.missing.is_empty() {
                return Err(rustix::io::Errno::NOENT).step(what);
            }
            let mut source = place.clone();
            let names = walk
                .dirs
                .iter()
                .skip(1)
                .map(|s| &s.name)
                .chain(walk.file.as_ref().map(|(n, _)| n));
            source.extend(
                names
                    .map(|n| std::os::unix::ffi::OsStrExt::from_bytes(n))
                    .map(|n: &std::ffi::OsStr| n.to_owned()),
            );
            (mount, source)
        }
        Part::File {
            contents,
            mode,
            uid,
            gid,
        } => {
            let name = format!("file-{index}");
            parts::write_file(files.as_fd(), &name, &contents, mode, uid, gid).step(what)?;
            make_place(false).step(what)?;
            // Not attached by itself: it lies in the common directory of files.
            let mount = Detached {
                mount: files.try_clone().step(what)?,
                upper: None,
                is_dir: false,
            };
            return Ok(Placed {
                place: PathBuf::new(),
                mount,
                target,
                source: bundle.join("files").join(name),
                readonly,
                file: true,
            });
        }
    };
    Ok(Placed {
        place,
        mount,
        target,
        source,
        readonly,
        file: false,
    })
}

/// A small file that only root may change, and nobody in the container.
fn text(target: &str, contents: Vec<u8>) -> parts::Prepared {
    parts::Prepared {
        target: target.into(),
        part: Part::File {
            contents,
            mode: 0o644,
            uid: 0,
            gid: 0,
        },
        readonly: true,
    }
}

/// Whether a clean path is `dir` or below it.
fn lies_in(path: &[u8], dir: &[u8]) -> bool {
    let end = dir.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    path.strip_prefix(dir.get(..end).unwrap_or_default())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Makes the child attach mounts in a mount namespace of its own, before it becomes `runc`.
#[expect(unsafe_code, reason = "code between fork and exec")]
fn attach_in_child(command: &mut Command, mounts: Vec<(PathBuf, OwnedFd)>, terminal: bool) {
    let attach = move || {
        if terminal {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        sys::process::unshare_mounts()?;
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )?;
        for (place, mount) in mounts.iter().filter(|(p, _)| !p.as_os_str().is_empty()) {
            sys::mount::attach(
                mount,
                rustix::fs::openat(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
            )?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls on data made before the fork; it neither allocates nor takes locks: paths of a
    // bundle are shorter than rustix's buffer on the stack.
    unsafe { command.pre_exec(attach) };
}

/// Whether a path leads to where `runc` will mount a system directory.
fn leads_into_system(walk: &rooted::Walk) -> bool {
    let top = walk
        .dirs
        .get(1)
        .map(|d| d.name.as_slice())
        .or_else(|| walk.missing.first().map(Vec::as_slice));
    matches!(top, Some(b"proc" | b"sys" | b"dev"))
}

/// A terminal of the host: master and slave.
fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(Into::into)
}

/// The last error in runc's log.
fn log_message(bundle: &Path) -> Option<String> {
    let text = fs::read_to_string(bundle.join("log")).ok()?;
    let messages = text
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let mut errors = messages.filter(|m| m["level"] == "error" || m["level"] == "fatal");
    errors
        .next_back()
        .and_then(|m| Some(m["msg"].as_str()?.to_owned()))
}

/// What is tidied up after a container.
#[derive(Debug)]
struct After {
    binary: PathBuf,
    root: PathBuf,
    id: String,
    bundle: PathBuf,
    stubs: Stubs,
    started: bool,
}

impl Aftermath for After {
    fn tidy(self: Box<Self>) -> Tidied {
        if self.started {
            let mut delete = Command::new(&self.binary);
            delete
                .arg("--root")
                .arg(&self.root)
                .args(["delete", "--force"])
                .arg(&self.id);
            delete
                .stdin(Standard::null())
                .stdout(Standard::null())
                .stderr(Standard::null());
            if let Err(e) = delete.status() {
                tracing::warn!(id = self.id, error = %e, "cannot delete a container");
            }
        }
        self.stubs.remove();
        if let Err(e) = fs::remove_dir_all(&self.bundle) {
            tracing::debug!(bundle = %self.bundle.display(), error = %e, "a bundle stays");
        }
        Tidied::default()
    }
}
