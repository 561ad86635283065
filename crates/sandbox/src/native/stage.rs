//! Second part of a start, on a spawner thread and in the mount namespace that will be the container's: the mount tree is
//! put together, the user, working directory and program are looked up, and the child's steps are written down.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::OFlags,
    mount::{MountAttrFlags, UnmountFlags},
};

use super::{
    dev::{self, Dev},
    spawner::Workshop,
};
use crate::{
    StartError,
    error::{Step as _, shown},
    parts::{self, Detached, Part, Prepared},
    program,
    rooted::{self, Walk},
    stubs::{Layer, Stubs},
    user::{self, Identity},
};

/// A mount tree under construction.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    workshop: Workshop,
    pub(super) root: OwnedFd,
    layers: Vec<Layer>,
    stubs: &'a mut Stubs,
    /// Mounts to make read-only once everything is in place.
    readonly: Vec<OwnedFd>,
    files: Option<OwnedFd>,
    file_count: u32,
    /// Where filesystems go that only the child can make.
    later: Vec<(Place, OwnedFd)>,
    nodev: MountAttrFlags,
}

/// Directories whose filesystem the child mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Proc,
    Sys,
    Mqueue,
}

impl<'a> Stage<'a> {
    /// Attaches the root. `nodev` forbids the use of device nodes that the container makes. What is made to be mounted on is
    /// noted in `stubs`, to be removed when this stage and the container are gone.
    pub(super) fn new(
        workshop: Workshop,
        root: Detached,
        nodev: bool,
        stubs: &'a mut Stubs,
    ) -> Result<Stage<'a>, StartError> {
        let nodev = if nodev {
            MountAttrFlags::MOUNT_ATTR_NODEV
        } else {
            MountAttrFlags::empty()
        };
        sys::mount::set_private(&root.mount, nodev).step(|| "make the root private".into())?;
        sys::mount::attach(&root.mount, &workshop.root).step(|| "attach the root".into())?;
        let mount = rooted::mount_id(&root.mount).step(|| "look at the root".into())?;
        let layers = vec![Layer {
            mount,
            upper: root.upper,
            prefix: Vec::new(),
        }];
        Ok(Stage {
            workshop,
            root: root.mount,
            layers,
            stubs,
            readonly: Vec::new(),
            files: None,
            file_count: 0,
            later: Vec::new(),
            nodev,
        })
    }

    /// The directory that covers masked ones.
    pub(super) fn empty(&self) -> BorrowedFd<'_> {
        self.workshop.empty.as_fd()
    }

    /// Where the child is to mount a filesystem.
    pub(super) fn place(&self, place: Place) -> Option<BorrowedFd<'_>> {
        self.later
            .iter()
            .find(|(p, _)| *p == place)
            .map(|(_, fd)| fd.as_fd())
    }

    /// `/proc`, `/sys` and `/dev`, the last with the host's devices if its `/dev` is given. They must not be links in the
    /// image: what is masked must be what is looked at.
    pub(super) fn system_mounts(
        &mut self,
        host_dev: Option<BorrowedFd<'_>>,
    ) -> Result<Dev, StartError> {
        for (place, path) in [(Place::Proc, "proc"), (Place::Sys, "sys")] {
            let target = self.plain_directory(path)?;
            self.later.push((place, target));
        }
        let target = self.plain_directory("dev")?;
        let nodes = (!self.nodev.is_empty()).then(|| self.workshop.nodes.as_fd());
        let dev = dev::mount(target.as_fd(), nodes)?;
        if let Some(host) = host_dev {
            dev::add_host_devices(dev.root.as_fd(), host)
                .step(|| "make the host's devices in `/dev`".into())?;
        }
        let mqueue = dev
            .mqueue
            .try_clone()
            .step(|| "keep `/dev/mqueue`".into())?;
        self.later.push((Place::Mqueue, mqueue));
        Ok(dev)
    }

    fn plain_directory(&mut self, name: &str) -> Result<OwnedFd, StartError> {
        match rooted::child(
            self.root.as_fd(),
            name.as_bytes(),
            OFlags::PATH | OFlags::DIRECTORY,
        ) {
            Ok(fd) => Ok(fd),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                let walk = self.walk(format!("/{name}").as_bytes())?;
                self.stubs
                    .target(&self.layers, walk, true)
                    .step(|| format!("make `/{name}` in the container"))
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => Err(
                StartError::Spec(format!("`/{name}` of the image is not a directory")),
            ),
            Err(e) => Err(e).step(|| format!("open `/{name}` of the container")),
        }
    }

    fn walk(&self, path: &[u8]) -> Result<Walk, StartError> {
        rooted::walk(self.root.as_fd(), path)
            .step(|| format!("follow `{}` in the container", shown(path)))
    }

    /// Whether a path leads into a filesystem that is not there yet.
    fn leads_into_system(&self, walk: &Walk) -> bool {
        let same =
            |a: BorrowedFd<'_>, b: &OwnedFd| match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
                (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
                _ => false,
            };
        walk.dirs
            .iter()
            .any(|d| self.later.iter().any(|(_, fd)| same(d.fd.as_fd(), fd)))
    }

    /// Mounts one part of the container.
    pub(super) fn mount(&mut self, prepared: Prepared) -> Result<(), StartError> {
        let Prepared {
            target,
            part,
            readonly,
        } = prepared;
        let (mount, upper, prefix) = match part {
            Part::Whole(Detached { mount, upper, .. }) => (mount, upper, Vec::new()),
            Part::Below(whole, subpath) => {
                let (part, prefix) = self.below(&whole, &subpath)?;
                (part, whole.upper, prefix)
            }
            Part::File {
                contents,
                mode,
                uid,
                gid,
            } => (
                self.file(&contents, mode, uid, gid)
                    .step(|| format!("write the file for `{}`", shown(&target)))?,
                None,
                Vec::new(),
            ),
        };
        self.attach(&target, mount, upper, prefix, readonly)
    }

    fn attach(
        &mut self,
        target: &[u8],
        mount: OwnedFd,
        upper: Option<OwnedFd>,
        prefix: Vec<Vec<u8>>,
        readonly: bool,
    ) -> Result<(), StartError> {
        let on = || format!("mount on `{}`", shown(target));
        let walk = self.walk(target)?;
        if walk.dirs.len() == 1 && walk.missing.is_empty() && walk.file.is_none() {
            return Err(StartError::Spec(format!(
                "`{}` is the container's root: nothing can be mounted there",
                shown(target)
            )));
        }
        if self.leads_into_system(&walk) {
            return Err(StartError::Spec(format!(
                "`{}` leads into a system directory: nothing can be mounted there",
                shown(target)
            )));
        }
        sys::mount::set_private(&mount, self.nodev).step(on)?;
        let directory = rooted::is_dir(&mount).step(on)?;
        let place = self
            .stubs
            .target(&self.layers, walk, directory)
            .step(|| format!("make the mount target `{}`", shown(target)))?;
        if rooted::is_dir(&place).step(on)? != directory {
            let (here, there) = if directory {
                ("a directory", "a file")
            } else {
                ("a file", "a directory")
            };
            return Err(StartError::Spec(format!(
                "cannot mount {here} on `{}`, which is {there}",
                shown(target)
            )));
        }
        sys::mount::attach(&mount, &place).step(on)?;
        if directory {
            self.layers.push(Layer {
                mount: rooted::mount_id(&mount).step(on)?,
                upper,
                prefix,
            });
        }
        if readonly {
            self.readonly.push(mount);
        }
        Ok(())
    }

    /// Takes the part at `subpath` out of an overlay; its path, with links followed, comes along.
    fn below(
        &self,
        whole: &Detached,
        subpath: &[u8],
    ) -> Result<(OwnedFd, Vec<Vec<u8>>), StartError> {
        let what = || format!("find `{}` in what is to be mounted", shown(subpath));
        // A part can only be copied out of a mount that is attached in this namespace.
        sys::mount::attach(&whole.mount, &self.workshop.scratch).step(what)?;
        let walk = rooted::walk(whole.mount.as_fd(), subpath).step(what)?;
        if !walk.missing.is_empty() {
            return Err(rustix::io::Errno::NOENT).step(what);
        }
        let prefix = walk.dirs.iter().skip(1).map(|s| s.name.clone()).collect();
        let part = match (&walk.file, walk.last()) {
            (Some((_, fd)), _) => sys::mount::copy_of(fd, "".as_ref()),
            (None, Some(dir)) => sys::mount::copy_of(&dir.fd, "".as_ref()),
            (None, None) => Err(rustix::io::Errno::NOENT.into()),
        };
        let part = part.step(what)?;
        drop(walk);
        rustix::mount::unmount("scratch", UnmountFlags::DETACH).step(what)?;
        Ok((part, prefix))
    }

    /// A file in memory, as a mount.
    fn file(&mut self, contents: &[u8], mode: u32, uid: u32, gid: u32) -> std::io::Result<OwnedFd> {
        let files = match self.files.take() {
            Some(files) => files,
            None => {
                let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let files = sys::mount::filesystem("tmpfs", &[("mode", "700")], attrs)
                    .map_err(|e| std::io::Error::other(e.to_string()))?;
                sys::mount::attach(&files, &self.workshop.files)?;
                files
            }
        };
        let name = self.file_count.to_string();
        self.file_count += 1;
        parts::write_file(files.as_fd(), &name, contents, mode, uid, gid)?;
        let mount = sys::mount::copy_of(&files, name.as_ref())?;
        self.files = Some(files);
        Ok(mount)
    }

    /// Mounts a small file that only root may change, and nobody in the container.
    pub(super) fn mount_text(&mut self, target: &str, contents: Vec<u8>) -> Result<(), StartError> {
        let part = Part::File {
            contents,
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        self.mount(Prepared {
            target: target.into(),
            part,
            readonly: true,
        })
    }

    /// Makes read-only what is to be; called after the last change, because targets are made inside other mounts.
    pub(super) fn finish(&mut self) -> Result<(), StartError> {
        for mount in self.readonly.drain(..) {
            sys::mount::set_private(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY)
                .step(|| "make a mount read-only".into())?;
        }
        self.stubs
            .seal()
            .step(|| "look at the mount targets".into())
    }

    /// Who runs the program.
    pub(super) fn identity(&self, user: &crate::spec::UserSpec) -> Result<Identity, StartError> {
        user::identify(self.root.as_fd(), user)
    }

    /// Makes the working directory, owned by the user, if it does not exist.
    pub(super) fn working_directory(
        &self,
        cwd: &[u8],
        identity: &Identity,
    ) -> Result<(), StartError> {
        program::working_directory(self.root.as_fd(), cwd, identity, |walk| {
            self.leads_into_system(walk)
        })
    }

    /// The paths at which the program can be executed.
    pub(super) fn program(
        &self,
        argv: &[Vec<u8>],
        env: &[Vec<u8>],
        cwd: &[u8],
    ) -> Result<Vec<Vec<u8>>, StartError> {
        program::find(self.root.as_fd(), argv, env, cwd)
    }
}
