//! Mount targets that the image lacks: made before the start, removed after the end, leaving no trace in the layer.
//!
//! Removal goes only through descriptors opened when the stub was made, and only removes what is still the same inode.
//! For an overlay they are opened in its upper layer, so that directories which were copied up just to hold a stub go too.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};

use crate::rooted::{self, Walk};

/// A mount in which stubs may be made.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Its id, by which a walk recognises it.
    pub(crate) mount: u64,
    /// The upper layer's directory, when the mount is a writable overlay.
    pub(crate) upper: Option<OwnedFd>,
    /// Where in the overlay the mount's root lies.
    pub(crate) prefix: Vec<Vec<u8>>,
}

/// Something to remove again.
#[derive(Debug)]
struct Made {
    parent: OwnedFd,
    name: Vec<u8>,
    found: Stat,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The mount target.
    Stub,
    /// A directory made above it.
    Parent,
    /// A directory that existed in a lower layer and was copied up to hold the stub.
    CopiedUp,
}

/// Targets on layers that other containers may have too, by device and inode, with how many containers use them. Removing one
/// that another container has mounted something on would unmount it there.
static SHARED: Mutex<BTreeMap<(u64, u64), Shared>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct Shared {
    users: usize,
    /// Whether it was made as a target, and goes with its last user.
    made: bool,
}

/// The use of a target on a layer that is not this container's alone.
#[derive(Debug)]
struct Use {
    parent: OwnedFd,
    name: Vec<u8>,
    key: (u64, u64),
}

/// Everything that was made for one container, in the order it was made.
#[derive(Debug, Default)]
pub(crate) struct Stubs {
    made: Vec<Made>,
    uses: Vec<Use>,
}

impl Stubs {
    /// Opens the target of a mount, making it and its parents (0755) if they do not exist.
    pub(crate) fn target(
        &mut self,
        layers: &[Layer],
        walk: Walk,
        directory: bool,
    ) -> io::Result<OwnedFd> {
        let Walk {
            dirs,
            file,
            missing,
        } = walk;
        let Some(here) = dirs.last() else {
            return Err(rustix::io::Errno::NOENT.into());
        };
        let alone = |mount: u64| layers.iter().any(|l| l.mount == mount && l.upper.is_some());
        if let Some((name, fd)) = file {
            if !alone(here.mount) {
                self.share(here.fd.as_fd(), &name, &fd, false)?;
            }
            return Ok(fd);
        }
        if missing.is_empty() {
            if let [.., parent, _] = dirs.as_slice()
                && parent.mount == here.mount
                && !alone(here.mount)
            {
                self.share(parent.fd.as_fd(), &here.name, &here.fd, false)?;
            }
            return here.fd.try_clone();
        }
        // The names from the root of the mount that the stub will be on.
        let on_mount = dirs
            .iter()
            .rposition(|s| s.mount != here.mount)
            .map_or(0, |i| i + 1);
        let inside: Vec<Vec<u8>> = dirs
            .iter()
            .skip(on_mount + 1)
            .map(|s| s.name.clone())
            .collect();
        let layer = layers.iter().find(|l| l.mount == here.mount);
        let upper =
            layer.and_then(|l| Some((l.upper.as_ref()?, [l.prefix.clone(), inside].concat())));
        let existed = match &upper {
            Some((upper, names)) => depth_in(upper.as_fd(), names)?,
            None => 0,
        };

        let times = times_of(&rustix::fs::fstat(&here.fd)?);
        let (fd, made) = make(here.fd.as_fd(), &missing, directory)?;
        // Making an entry changed the directory's times; only the program may do that.
        rustix::fs::utimensat(&here.fd, ".", &times, AtFlags::empty())?;

        match upper {
            None => {
                let (stub, parents): (Vec<Made>, Vec<Made>) =
                    made.into_iter().partition(|m| m.kind == Kind::Stub);
                self.made.extend(parents);
                for stub in stub {
                    self.share(stub.parent.as_fd(), &stub.name, &fd, true)?;
                }
            }
            Some((upper, names)) => {
                self.record_in_upper(upper.as_fd(), &names, existed, &missing)?
            }
        }
        Ok(fd)
    }

    /// Notes the use of a target on a layer that other containers may have too.
    fn share(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        target: &OwnedFd,
        made: bool,
    ) -> io::Result<()> {
        let stat = rustix::fs::fstat(target)?;
        let key = (stat.st_dev, stat.st_ino);
        let parent = rustix::io::fcntl_dupfd_cloexec(parent, 3)?;
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = shared.entry(key).or_default();
        entry.users += 1;
        entry.made |= made;
        self.uses.push(Use {
            parent,
            name: name.to_vec(),
            key,
        });
        Ok(())
    }

    /// Records what a stub left in the upper layer of an overlay: copied-up directories, made directories, the stub.
    fn record_in_upper(
        &mut self,
        upper: BorrowedFd<'_>,
        names: &[Vec<u8>],
        existed: usize,
        missing: &[Vec<u8>],
    ) -> io::Result<()> {
        let mut parent = rustix::io::fcntl_dupfd_cloexec(upper, 3)?;
        let count = names.len() + missing.len();
        for (i, name) in names.iter().chain(missing).enumerate() {
            let kind = match i {
                i if i + 1 == count => Kind::Stub,
                i if i >= names.len() => Kind::Parent,
                _ => Kind::CopiedUp,
            };
            let fd = rooted::child(parent.as_fd(), name, OFlags::PATH)?;
            let found = rustix::fs::fstat(&fd)?;
            if i >= existed {
                self.made.push(Made {
                    parent,
                    name: name.clone(),
                    found,
                    kind,
                });
            }
            parent = fd;
        }
        Ok(())
    }

    /// Notes how everything looks before the program starts, so that later changes are told from the runtime's own.
    pub(crate) fn seal(&mut self) -> io::Result<()> {
        // Only these are looked at for changes; and names outside upper layers are covered by mounts now.
        for made in self.made.iter_mut().filter(|m| m.kind == Kind::CopiedUp) {
            made.found = look(made)?;
        }
        Ok(())
    }

    /// Removes everything again, as far as nobody else has come to use it.
    pub(crate) fn remove(self) {
        // All are looked at before the first is removed: a removal touches the directory above.
        for shared in self.uses.into_iter().rev() {
            release(&shared);
        }
        let untouched: Vec<Made> = self.made.into_iter().filter(is_untouched).collect();
        for made in untouched.into_iter().rev() {
            if let Err(e) = remove(&made) {
                tracing::debug!(name = %crate::error::shown(&made.name), error = %e, "a mount target stays in the layer");
            }
        }
    }
}

/// Ends the use of a shared target, and removes it after the last use if it was made as one.
fn release(target: &Use) {
    // Held to the end: nobody can come to use the target between the decision and the removal.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(entry) = shared.get_mut(&target.key) else {
        return;
    };
    entry.users = entry.users.saturating_sub(1);
    if entry.users > 0 {
        return;
    }
    let made = entry.made;
    shared.remove(&target.key);
    let Ok(now) = rustix::fs::statat(
        &target.parent,
        target.name.as_slice(),
        AtFlags::SYMLINK_NOFOLLOW,
    ) else {
        return;
    };
    if made && (now.st_dev, now.st_ino) == target.key {
        let removed = unlink(
            target.parent.as_fd(),
            &target.name,
            FileType::from_raw_mode(now.st_mode) == FileType::Directory,
        );
        if let Err(e) = removed {
            tracing::debug!(name = %crate::error::shown(&target.name), error = %e, "a mount target stays in the layer");
        }
    }
}

/// How many of these names exist below `dir`, as directories reached without links.
fn depth_in(dir: BorrowedFd<'_>, names: &[Vec<u8>]) -> io::Result<usize> {
    let mut here = rustix::io::fcntl_dupfd_cloexec(dir, 3)?;
    for (i, name) in names.iter().enumerate() {
        here = match rooted::child(here.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(_) => return Ok(i),
        };
    }
    Ok(names.len())
}

/// Makes the missing names below `dir`: directories, and at the end a directory or an empty file.
fn make(
    dir: BorrowedFd<'_>,
    missing: &[Vec<u8>],
    directory: bool,
) -> io::Result<(OwnedFd, Vec<Made>)> {
    let mut parent = rustix::io::fcntl_dupfd_cloexec(dir, 3)?;
    let mut made = Vec::new();
    for (i, name) in missing.iter().enumerate() {
        let last = i + 1 == missing.len();
        if directory || !last {
            rustix::fs::mkdirat(&parent, name.as_slice(), Mode::from_raw_mode(0o755))?;
        } else {
            rustix::fs::mknodat(
                &parent,
                name.as_slice(),
                FileType::RegularFile,
                Mode::from_raw_mode(0o644),
                0,
            )?;
        }
        let fd = rooted::child(parent.as_fd(), name, OFlags::PATH)?;
        let kind = if last { Kind::Stub } else { Kind::Parent };
        made.push(Made {
            parent,
            name: name.clone(),
            found: rustix::fs::fstat(&fd)?,
            kind,
        });
        parent = fd;
    }
    Ok((parent, made))
}

fn look(made: &Made) -> rustix::io::Result<Stat> {
    rustix::fs::statat(
        &made.parent,
        made.name.as_slice(),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// Whether the name still leads to what was made, and for a copied-up directory whether nobody changed it since.
fn is_untouched(made: &Made) -> bool {
    let Ok(now) = look(made) else { return false };
    let identity = |s: &Stat| (s.st_dev, s.st_ino);
    let change = |s: &Stat| (s.st_ctime, s.st_ctime_nsec);
    identity(&now) == identity(&made.found)
        && (made.kind != Kind::CopiedUp || change(&now) == change(&made.found))
}

fn remove(made: &Made) -> rustix::io::Result<()> {
    unlink(
        made.parent.as_fd(),
        &made.name,
        FileType::from_raw_mode(made.found.st_mode) == FileType::Directory,
    )
}

/// Removes a name, and leaves the directory's times as they were.
fn unlink(parent: BorrowedFd<'_>, name: &[u8], directory: bool) -> rustix::io::Result<()> {
    let before = rustix::fs::fstat(parent)?;
    rustix::fs::unlinkat(
        parent,
        name,
        if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        },
    )?;
    rustix::fs::utimensat(parent, ".", &times_of(&before), AtFlags::empty())
}

fn times_of(stat: &Stat) -> Timestamps {
    let at = |tv_sec: i64, tv_nsec: u64| Timespec {
        tv_sec,
        tv_nsec: tv_nsec as _,
    };
    Timestamps {
        last_access: at(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: at(stat.st_mtime as _, stat.st_mtime_nsec as _),
    }
}
