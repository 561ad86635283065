//! Control groups: a device guard for ordinary containers, and whether one ran out of memory.
//!
//! The unified hierarchy is used wherever the kernel has it, mounted on the host or not: each container gets a group of its
//! own, below the engine's, and starts as its member (`CLONE_INTO_CGROUP`), which costs next to nothing. Where the memory
//! controller belongs to an old hierarchy, moving a process there would cost 12 ms, so instead the threads that start
//! containers live in a group below the engine's, which their children inherit. Privileged containers, which may make groups of
//! their own, are started by a thread that is in such a group of every old hierarchy: theirs are below it and go with it.
//! Without any, containers still run: device nodes are then held back by mount flags.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use crate::rooted;

/// Devices that an ordinary container may open: the standard ones, `/dev/console`, `/dev/ptmx` and terminals.
const ALLOWED: &[(u32, Option<u32>)] = &[
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];
const PREFIX: &str = "bodkin-";

/// The engine's groups.
#[derive(Debug)]
pub(super) struct Cgroups {
    unified: Option<Unified>,
    memory: Option<Legacy>,
    /// The other old hierarchies: controllers and the engine's own group.
    others: Vec<(Vec<String>, OwnedFd)>,
    /// Groups in them, made for the first privileged container.
    privileged: OnceLock<Vec<Legacy>>,
    name: String,
    next: AtomicU64,
}

#[derive(Debug)]
struct Unified {
    own: OwnedFd,
    name: String,
    confined: Arc<OwnedFd>,
    open: Arc<OwnedFd>,
    guarded: bool,
}

#[derive(Debug)]
struct Legacy {
    own: OwnedFd,
    name: String,
    group: Arc<OwnedFd>,
}

/// The group of one container.
#[derive(Debug)]
pub(super) struct Cgroup {
    unified: Option<(Arc<OwnedFd>, String, OwnedFd)>,
    memory: Option<(Arc<OwnedFd>, u64)>,
}

/// The hierarchies that a process of this engine is in, as `/proc/self/cgroup` tells.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Path in the unified hierarchy.
    pub(crate) unified: Option<String>,
    /// Controllers (or `name=…`) of each old hierarchy, with the path.
    pub(crate) legacy: Vec<(Vec<String>, String)>,
}

impl Membership {
    pub(crate) fn read() -> Membership {
        std::fs::read_to_string("/proc/self/cgroup")
            .map(|text| Membership::parse(&text))
            .unwrap_or_default()
    }

    fn parse(text: &str) -> Membership {
        let mut found = Membership::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(id), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if id == "0" && controllers.is_empty() {
                found.unified = Some(path.to_owned());
            } else {
                found.legacy.push((
                    controllers.split(',').map(str::to_owned).collect(),
                    path.to_owned(),
                ));
            }
        }
        found
    }

    /// Whether the unified hierarchy is the only one.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified.is_some() && self.legacy.is_empty()
    }
}

impl Cgroups {
    /// Makes the engine's groups, as far as they can be made, and removes those of engines that are gone.
    pub(super) fn new() -> Cgroups {
        static INSTANCES: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            INSTANCES.fetch_add(1, Ordering::Relaxed)
        );
        let membership = Membership::read();
        let unified = membership
            .unified
            .as_deref()
            .and_then(|path| noted("unified", Unified::new(path, &name)));
        let (mut memory, mut others) = (None, Vec::new());
        for (controllers, path) in membership.legacy {
            let Some(own) = noted("old hierarchy", Legacy::own(&controllers, &path)) else {
                continue;
            };
            sweep(own.as_fd());
            if controllers.iter().any(|c| c == "memory") {
                memory = noted("memory", Legacy::new(&controllers, own, &name));
            } else {
                others.push((controllers, own));
            }
        }
        Cgroups {
            unified,
            memory,
            others,
            privileged: OnceLock::new(),
            name,
            next: AtomicU64::new(0),
        }
    }

    /// No groups at all.
    pub(super) fn none() -> Cgroups {
        Cgroups {
            unified: None,
            memory: None,
            others: Vec::new(),
            privileged: OnceLock::new(),
            name: String::new(),
            next: AtomicU64::new(0),
        }
    }

    /// Whether privileged containers need a thread of their own to start from.
    pub(super) fn sets_privileged_apart(&self) -> bool {
        !self.others.is_empty()
    }

    /// Whether ordinary containers cannot use devices that they make.
    pub(super) fn guards_devices(&self) -> bool {
        self.unified.as_ref().is_some_and(|u| u.guarded)
    }

    /// Moves the calling thread to where containers inherit their group of old hierarchies from.
    pub(super) fn adopt_thread(&self, privileged: bool) {
        let others = privileged.then(|| {
            self.privileged.get_or_init(|| {
                let made = self.others.iter().filter_map(|(controllers, own)| {
                    let group = own
                        .try_clone()
                        .and_then(|own| Legacy::new(controllers, own, &self.name));
                    noted("old hierarchy", group)
                });
                made.collect()
            })
        });
        let thread = rustix::thread::gettid().to_string();
        for legacy in self.memory.iter().chain(others.into_iter().flatten()) {
            if let Err(e) = write(legacy.group.as_fd(), "tasks", &thread) {
                tracing::debug!(error = %e, "containers stay in the engine's group of an old hierarchy");
            }
        }
    }

    /// Makes the group of one container.
    pub(super) fn group(&self, privileged: bool) -> io::Result<Cgroup> {
        let unified = match &self.unified {
            None => None,
            Some(unified) => {
                let parent = if privileged {
                    &unified.open
                } else {
                    &unified.confined
                };
                let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
                let dir = make(parent.as_fd(), &name)?;
                Some((Arc::clone(parent), name, dir))
            }
        };
        let memory = self.memory.as_ref().map(|m| {
            (
                Arc::clone(&m.group),
                kills(m.group.as_fd(), "memory.oom_control"),
            )
        });
        Ok(Cgroup { unified, memory })
    }
}

/// How often the engine's own group is tried to be removed at the end.
const LAST_TRIES: usize = 100;
/// Between two tries.
const LAST_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Some(unified) = &self.unified {
            remove_tree(unified.own.as_fd(), &unified.name, 0);
        }
        let privileged = self.privileged.take().unwrap_or_default();
        for legacy in self.memory.iter().chain(&privileged) {
            // Privileged containers share the group and may have made groups below it. The threads that start containers
            // are in it, and one that is just ending keeps it busy for a moment.
            for _ in 0..LAST_TRIES {
                remove_tree(legacy.own.as_fd(), &legacy.name, 0);
                if open(legacy.own.as_fd(), &legacy.name).is_err() {
                    break;
                }
                std::thread::sleep(LAST_PAUSE);
            }
        }
    }
}

impl Cgroup {
    /// The directory in the unified hierarchy in which the container starts.
    pub(super) fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|(_, _, dir)| dir.as_fd())
    }

    /// Removes the group, after the container's end. Says whether the kernel killed a member for want of memory.
    pub(super) fn remove(self) -> bool {
        let mut out_of_memory = false;
        if let Some((parent, name, dir)) = self.unified {
            out_of_memory |= kills(dir.as_fd(), "memory.events") > 0;
            drop(dir);
            // With what a privileged container made below it.
            remove_tree(parent.as_fd(), &name, 0);
        }
        if let Some((group, before)) = self.memory {
            out_of_memory |= kills(group.as_fd(), "memory.oom_control") > before;
        }
        out_of_memory
    }
}

impl Unified {
    fn new(path: &str, name: &str) -> io::Result<Unified> {
        let own = Unified::own(path)?;
        sweep(own.as_fd());
        let base = make(own.as_fd(), name)?;
        let (confined, open) = (make(base.as_fd(), "confined")?, make(base.as_fd(), "open")?);
        let guarded = noted(
            "device guard",
            sys::devices::restrict(confined.as_fd(), ALLOWED),
        )
        .is_some();
        // Possible only where the engine's own group may have both processes and controllers below: at the root.
        for dir in [&own, &base, &confined, &open] {
            let _ = write(dir.as_fd(), "cgroup.subtree_control", "+memory");
        }
        Ok(Unified {
            own,
            name: name.into(),
            confined: Arc::new(confined),
            open: Arc::new(open),
            guarded,
        })
    }
}

impl Unified {
    /// The engine's own group: where the host has the hierarchy mounted, else in a mount of our own. Not always the latter, as
    /// another mount would reset the options of the host's.
    fn own(path: &str) -> io::Result<OwnedFd> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        if let Some((point, root)) = mounted(&mounts)
            && let Some(inside) = path.strip_prefix(root.trim_end_matches('/'))
        {
            let top = rustix::fs::open(
                point,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            return open(top.as_fd(), inside);
        }
        let mount = sys::mount::filesystem("cgroup2", &[], MountAttrFlags::empty());
        let mount = mount.map_err(|e| io::Error::new(e.source.kind(), e.to_string()))?;
        open(mount.as_fd(), path)
    }
}

/// Where the unified hierarchy is mounted writable, and which of its directories, as `/proc/self/mountinfo` tells.
fn mounted(mountinfo: &str) -> Option<(&str, &str)> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = filesystem.starts_with("cgroup2 ")
            && options.split(',').any(|o| o == "rw")
            && !point.contains('\\');
        fits.then_some((point, root))
    })
}

impl Legacy {
    /// The engine's own group of a hierarchy.
    fn own(controllers: &[String], path: &str) -> io::Result<OwnedFd> {
        let fs = rustix::mount::fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for controller in controllers {
            match controller.strip_prefix("name=") {
                Some(name) => {
                    rustix::mount::fsconfig_set_flag(&fs, "none")?;
                    rustix::mount::fsconfig_set_string(&fs, "name", name)?;
                }
                None => rustix::mount::fsconfig_set_flag(&fs, controller.as_str())?,
            }
        }
        rustix::mount::fsconfig_create(&fs)?;
        let mount =
            rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        open(mount.as_fd(), path)
    }

    /// A group for containers in the engine's own.
    fn new(controllers: &[String], own: OwnedFd, name: &str) -> io::Result<Legacy> {
        let group = Arc::new(make(own.as_fd(), name)?);
        if controllers.iter().any(|c| c == "cpuset") {
            // A new group has none, and takes no member until it has.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                write(group.as_fd(), file, &read(own.as_fd(), file)?)?;
            }
        }
        Ok(Legacy {
            own,
            name: name.into(),
            group,
        })
    }
}

fn noted<T>(what: &str, result: io::Result<T>) -> Option<T> {
    result
        .inspect_err(|e| tracing::debug!(what, error = %e, "control groups: not available"))
        .ok()
}

fn open(dir: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    rooted::open(
        dir,
        if path.is_empty() {
            b"."
        } else {
            path.as_bytes()
        },
        OFlags::RDONLY | OFlags::DIRECTORY,
    )
}

fn make(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
    open(dir, name)
}

fn write(dir: BorrowedFd<'_>, file: &str, text: &str) -> io::Result<()> {
    let fd = rustix::fs::openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(fd, text.as_bytes())
        .map(drop)
        .map_err(Into::into)
}

/// The first KiB of a file of a group.
fn read(dir: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let fd = rustix::fs::openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; 1024];
    let n = rustix::io::read(fd, &mut text)?;
    Ok(String::from_utf8_lossy(text.get(..n).unwrap_or_default()).into_owned())
}

/// The count of `oom_kill` in a file of a group; 0 when there is none.
fn kills(dir: BorrowedFd<'_>, file: &str) -> u64 {
    let text = read(dir, file).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("oom_kill "))
        .and_then(|n| n.trim().parse().ok())
        .unwrap_or(0)
}

/// Removes the groups of engines that are gone. Groups with living members stay, whoever's they are.
fn sweep(own: BorrowedFd<'_>) {
    let Ok(dir) = Dir::read_from(own) else { return };
    for entry in dir.flatten() {
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        let engine = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<i32>().ok());
        let Some(pid) = engine.and_then(rustix::process::Pid::from_raw) else {
            continue;
        };
        if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            remove_tree(own, name, 0);
        }
    }
}

fn remove_tree(parent: BorrowedFd<'_>, name: &str, depth: usize) {
    // Engine, confined or open, container, and what a privileged container made for itself.
    if depth > 8 {
        return;
    }
    if let Ok(dir) = open(parent, name)
        && let Ok(entries) = Dir::read_from(&dir)
    {
        for entry in entries.flatten() {
            if let Ok(child) = entry.file_name().to_str()
                && entry.file_type() == rustix::fs::FileType::Directory
                && !child.starts_with('.')
            {
                remove_tree(dir.as_fd(), child, depth + 1);
            }
        }
    }
    let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_mount_is_found() {
        let line = |root: &str, point: &str, options: &str, kind: &str| {
            format!("41 31 0:38 {root} {point} {options} shared:9 - {kind} x rw,nsdelegate\n")
        };
        let text = line("/", "/proc", "rw", "proc")
            + &line("/", "/ro", "ro,nosuid", "cgroup2")
            + &line("/pod", "/sys/fs/cgroup", "rw,relatime", "cgroup2");
        assert_eq!(mounted(&text), Some(("/sys/fs/cgroup", "/pod")));
        assert_eq!(
            mounted(&line("/", "/sys/fs/cgroup/cpu", "rw", "cgroup")),
            None
        );
    }

    #[test]
    fn pure_and_mixed_hierarchies_are_told_apart() {
        let pure = Membership::parse("0::/system.slice/bodkin.service\n");
        assert!(pure.is_unified());
        assert_eq!(
            pure.unified.as_deref(),
            Some("/system.slice/bodkin.service")
        );
        let hybrid =
            Membership::parse("9:name=systemd:/\n4:memory:/pod/x:y\n3:cpu,cpuacct:/\n0::/\n");
        assert!(!hybrid.is_unified());
        assert_eq!(
            hybrid.legacy[1],
            (vec!["memory".to_owned()], "/pod/x:y".to_owned())
        );
        assert_eq!(hybrid.legacy[2].0, ["cpu", "cpuacct"]);
        assert_eq!(Membership::parse(""), Membership::default());
    }
}
