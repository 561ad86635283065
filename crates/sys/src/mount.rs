//! Detached mounts by file descriptor: made with `fsopen`/`fsmount` or `open_tree`, never by path string.

#![expect(unsafe_code, reason = "`mount_setattr` is not in rustix")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
        open_tree,
    },
};

/// Why a mount could not be made: the step and the kernel's own words where it gave some.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}{}", if kernel.is_empty() { String::new() } else { format!(" (kernel: {kernel})") })]
pub struct MountError {
    /// What was being done, e.g. `` set `lowerdir+` of overlay``.
    pub step: String,
    /// Messages read from the filesystem context, possibly empty.
    pub kernel: String,
    /// The errno.
    #[source]
    pub source: io::Error,
}

/// The layers of an overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only layers, uppermost first. At least one, at most 500 (kernel limit).
    pub lower: Vec<PathBuf>,
    /// Writable layer and its work directory, on the same non-overlay filesystem; `None` mounts read-only.
    pub upper: Option<(PathBuf, PathBuf)>,
}

/// How overlays are made, by what the kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// `mount(2)` with all layers in one page of text: before Linux 6.5.
    Text,
    /// One layer per call, named by path: from 6.5.
    Paths,
    /// One layer per call, as a descriptor: from 6.13.
    Descriptors,
}

impl Way {
    fn of(release: &str) -> Way {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map_while(|n| n.parse::<u32>().ok());
        match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
            version if version >= (6, 13) => Way::Descriptors,
            version if version >= (6, 5) => Way::Paths,
            _ => Way::Text,
        }
    }
}

/// Options of every overlay: a layer must mean the same wherever it is mounted.
const FEATURES: [(&str, &str); 4] = [
    ("xino", "off"),
    ("metacopy", "off"),
    ("index", "off"),
    ("redirect_dir", "off"),
];

/// Mounts an overlay and returns its detached root. Dropping the descriptor unmounts it.
///
/// The mount is `volatile` when writable: whoever commits the upper directory must sync it.
///
/// # Errors
/// The step that failed with the kernel's message.
pub fn overlay(spec: &Overlay) -> Result<OwnedFd, MountError> {
    let release = rustix::system::uname();
    overlay_by(spec, Way::of(&release.release().to_string_lossy()))
}

fn overlay_by(spec: &Overlay, way: Way) -> Result<OwnedFd, MountError> {
    match way {
        Way::Text => mount_text(spec),
        way => Layers::open(spec)?.mount(way),
    }
}

fn overlay_error(step: &str, fs: Option<BorrowedFd<'_>>, e: impl Into<io::Error>) -> MountError {
    MountError {
        step: format!("{step} of overlay"),
        kernel: fs.map(kernel_words).unwrap_or_default(),
        source: e.into(),
    }
}

/// The directories of an overlay, open.
struct Layers {
    lower: Vec<OwnedFd>,
    upper: Option<[(&'static str, OwnedFd); 2]>,
}

impl Layers {
    fn open(spec: &Overlay) -> Result<Layers, MountError> {
        let open = |what: &str, dir: &Path| {
            open_path(dir)
                .map_err(|e| overlay_error(&format!("open {what} `{}`", dir.display()), None, e))
        };
        let upper = match &spec.upper {
            None => None,
            Some((upper, work)) => Some([
                ("upperdir", open("upperdir", upper)?),
                ("workdir", open("workdir", work)?),
            ]),
        };
        Ok(Layers {
            lower: spec
                .lower
                .iter()
                .map(|dir| open("lower directory", dir))
                .collect::<Result<_, _>>()?,
            upper,
        })
    }

    fn mount(&self, way: Way) -> Result<OwnedFd, MountError> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| overlay_error("open the context", None, e))?;
        let fs = fs.as_fd();
        let set_dir = |key: &str, dir: &OwnedFd| {
            let set = match way {
                Way::Descriptors => fsconfig_set_fd(fs, key, dir.as_fd()),
                Way::Paths | Way::Text => fsconfig_set_string(fs, key, path_of(dir)),
            };
            set.map_err(|e| overlay_error(&format!("set `{key}`"), Some(fs), e))
        };
        for dir in &self.lower {
            set_dir("lowerdir+", dir)?;
        }
        let mut attrs = MountAttrFlags::empty();
        if let Some(upper) = &self.upper {
            for (key, dir) in upper {
                set_dir(key, dir)?;
            }
            fsconfig_set_flag(fs, "volatile")
                .map_err(|e| overlay_error("set `volatile`", Some(fs), e))?;
        } else {
            attrs |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        for (key, value) in FEATURES {
            fsconfig_set_string(fs, key, value)
                .map_err(|e| overlay_error(&format!("set `{key}`"), Some(fs), e))?;
        }
        fsconfig_create(fs).map_err(|e| overlay_error("create the superblock", Some(fs), e))?;
        fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)
            .map_err(|e| overlay_error("mount", Some(fs), e))
    }

    /// The options of the old interface, where it has room for them.
    fn text(&self) -> Result<String, MountError> {
        let lower: Vec<String> = self.lower.iter().map(path_of).collect();
        let mut options = vec![format!("lowerdir={}", lower.join(":"))];
        if let Some(upper) = &self.upper {
            options.extend(
                upper
                    .iter()
                    .map(|(key, dir)| format!("{key}={}", path_of(dir))),
            );
            options.push("volatile".into());
        }
        options.extend(FEATURES.iter().map(|(key, value)| format!("{key}={value}")));
        let text = options.join(",");
        if text.len() >= 4096 {
            let step = format!("name {} layers to a kernel before 6.5", lower.len());
            return Err(overlay_error(
                &step,
                None,
                io::Error::from_raw_os_error(libc::E2BIG),
            ));
        }
        Ok(text)
    }
}

/// By `mount(2)`, which needs a place: on a thread with a mount namespace of its own, so that none is seen.
fn mount_text(spec: &Overlay) -> Result<OwnedFd, MountError> {
    use rustix::mount::{MountFlags, MountPropagationFlags};
    let flags = if spec.upper.is_some() {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    let mount = || -> Result<OwnedFd, MountError> {
        crate::process::unshare_mounts()
            .map_err(|e| overlay_error("get a namespace for the mount", None, e))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)
            .map_err(|e| overlay_error("make the namespace private", None, e))?;
        // Opened here, as the kernel takes layers only from the namespace of the caller.
        let layers = Layers::open(spec)?;
        let text = layers.text()?;
        let text = std::ffi::CString::new(text)
            .map_err(|e| overlay_error("write the options", None, io::Error::other(e)))?;
        rustix::mount::mount("overlay", "/proc", "overlay", flags, text.as_c_str())
            .map_err(|e| overlay_error("mount", None, e))?;
        copy_of(rustix::fs::CWD, "/proc".as_ref())
            .map_err(|e| overlay_error("detach the mount", None, e))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("overlay".into())
            .spawn_scoped(scope, mount);
        let thread = thread.map_err(|e| overlay_error("start a thread for the mount", None, e))?;
        thread.join().unwrap_or_else(|_| {
            Err(overlay_error(
                "mount",
                None,
                io::Error::other("the thread panicked"),
            ))
        })
    })
}

/// A short path by which the kernel finds an open directory.
fn path_of(dir: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", dir.as_raw_fd())
}

/// Makes a new filesystem of type `fstype` with `key=value` options and returns its detached root.
///
/// # Errors
/// The step that failed with the kernel's message.
pub fn filesystem(
    fstype: &str,
    options: &[(&str, &str)],
    attrs: MountAttrFlags,
) -> Result<OwnedFd, MountError> {
    let err = |step: String, fs: Option<BorrowedFd<'_>>, e: rustix::io::Errno| MountError {
        step: format!("{step} of {fstype}"),
        kernel: fs.map(kernel_words).unwrap_or_default(),
        source: e.into(),
    };
    let fs = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| err("open the context".into(), None, e))?;
    for (key, value) in options {
        fsconfig_set_string(fs.as_fd(), *key, *value)
            .map_err(|e| err(format!("set `{key}={value}`"), Some(fs.as_fd()), e))?;
    }
    fsconfig_create(fs.as_fd())
        .map_err(|e| err("create the superblock".into(), Some(fs.as_fd()), e))?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)
        .map_err(|e| err("mount".into(), Some(fs.as_fd()), e))
}

/// A detached copy of the mount at `path` below `dir` (of `dir` itself when `path` is empty), with nothing that is mounted
/// further below it.
///
/// # Errors
/// The kernel's: the path does not exist, or the mount belongs to another mount namespace.
pub fn copy_of(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(dir, path, flags).map_err(Into::into)
}

/// Mounts a detached mount on the file or directory that `target` is open on.
///
/// # Errors
/// `EINVAL` when one is a directory and the other is not, or when `target` is not in this mount namespace.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).map_err(Into::into)
}

/// Sets attributes of the mount that `mount` is the root of, and makes it private: nothing that is mounted below its source
/// later propagates into it, nor the other way.
///
/// # Errors
/// The kernel's.
pub fn set_private(mount: impl AsFd, attrs: MountAttrFlags) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let attr = MountAttr {
        set: u64::from(attrs.bits()),
        clear: 0,
        propagation: libc::MS_PRIVATE,
        userns: 0,
    };
    // SAFETY: the path is a literal and the struct lives across the call; its size is passed along.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn open_path(dir: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Reads what the kernel wrote into a filesystem context about its last failure.
fn kernel_words(fs: BorrowedFd<'_>) -> String {
    let mut out = String::new();
    let mut buf = [0u8; 1024];
    for _ in 0..16 {
        match rustix::io::read(fs, &mut buf) {
            Ok(n) if n > 0 => {
                if !out.is_empty() {
                    out.push_str("; ");
                }
                out.push_str(String::from_utf8_lossy(&buf[..n]).trim());
            }
            _ => break,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_way_follows_the_kernels_version() {
        for (release, way) in [
            ("5.15.0-91-generic", Way::Text),
            ("6.1.0-18-amd64", Way::Text),
            ("6.5.0", Way::Paths),
            ("6.8.0-31-generic", Way::Paths),
            ("6.13-rc1", Way::Descriptors),
            ("7.0", Way::Descriptors),
            ("", Way::Text),
        ] {
            assert_eq!(Way::of(release), way, "{release}");
        }
    }

    #[test]
    fn root_overlays_are_the_same_on_older_kernels() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = PathBuf::from(format!("/dev/shm/sys-overlay-{}", std::process::id()));
        let newest = Way::of(&rustix::system::uname().release().to_string_lossy());
        for (way, name) in [
            (Way::Text, "text"),
            (Way::Paths, "paths"),
            (Way::Descriptors, "descriptors"),
        ] {
            if way > newest {
                continue;
            }
            let at = |sub: &str| dir.join(name).join(sub);
            for sub in ["a", "b", "upper", "work"] {
                fs::create_dir_all(at(sub)).unwrap();
            }
            fs::write(at("a/file"), "upper one").unwrap();
            fs::write(at("b/file"), "lower one").unwrap();
            fs::write(at("b/other"), "other").unwrap();
            let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let lower = vec![at("a"), at("b")];
            let writable = overlay_by(
                &Overlay {
                    lower: lower.clone(),
                    upper: Some((at("upper"), at("work"))),
                },
                way,
            )
            .unwrap();
            let inside = PathBuf::from(path_of(&writable));
            assert_eq!(
                fs::read_to_string(inside.join("file")).unwrap(),
                "upper one",
                "{way:?}"
            );
            fs::write(inside.join("new"), "x").unwrap();
            assert_eq!(fs::read(at("upper/new")).unwrap(), b"x");
            let readonly = overlay_by(&Overlay { lower, upper: None }, way).unwrap();
            assert_eq!(
                fs::write(PathBuf::from(path_of(&readonly)).join("new"), "x")
                    .unwrap_err()
                    .raw_os_error(),
                Some(libc::EROFS)
            );
            assert_eq!(
                fs::read_to_string("/proc/self/mountinfo").unwrap(),
                before,
                "nothing is seen on the host"
            );
        }
        fs::remove_dir_all(dir).unwrap();
        let many = Layers {
            lower: (0..300).map(|_| open_path("/".as_ref()).unwrap()).collect(),
            upper: None,
        };
        assert!(many.text().unwrap_err().to_string().contains("300 layers"));
    }
}
