//! Copying between trees: contents of directories are merged, everything else replaces what has its name.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use patterns::{Decision, DirState, Filter};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, SeekFrom},
    io::Errno,
};

use super::{
    Kind, Stat, Tree, TreeError, diff, fstat, lstat,
    meta::{
        Owner, copy_named_xattrs, own_and_mode, set_metadata, set_named_metadata, set_own_metadata,
    },
    modes::Modes,
    names_of, on, open_child_dir,
    path::{Parents, open_in, parts, relative},
    remove::remove_any,
    walk::DEPTH_MAX,
    write::create,
};

/// Files up to this size are read in one piece.
const SMALL: usize = 64 << 10;
/// Buffer where the kernel cannot copy by itself.
const BUFFER: usize = 256 << 10;

/// How to copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Patterns, relative to the source directory, of what to copy; none means all.
    pub include: Vec<String>,
    /// Patterns of what to leave out.
    pub exclude: Vec<String>,
    /// Owner of everything that is copied or made on the way. Without it, files keep theirs, and the top directory of
    /// [`Tree::copy_dir`] and directories on the way to it are 0:0.
    pub owner: Option<(u32, u32)>,
    /// Permission bits of the file, or of the top directory. Without it the source's.
    pub mode: Option<u32>,
    /// A change of the permission bits of all files and directories that are copied, as `chmod` makes it.
    pub modes: Option<Modes>,
    /// Leaves out, too, what `.gitignore` files of the source name.
    pub git_ignore: bool,
    /// What becomes of the top directory of [`Tree::copy_dir`].
    pub top: Top,
}

/// What becomes of the directory that is copied into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Top {
    /// It gets the source's mode and times, and 0:0 or the owner that was asked for.
    #[default]
    Replaced,
    /// One that was there stays as it is; a new one looks like the source.
    Kept,
}

impl CopyOptions {
    fn filter(&self, source: &Tree, from: &[u8]) -> Result<Filter, TreeError> {
        if !self.git_ignore {
            return Ok(Filter::new(&self.include, &self.exclude)?);
        }
        let mut exclude = self.exclude.clone();
        exclude.extend(source.git_ignored(from)?);
        Ok(Filter::new(&self.include, &exclude)?)
    }
}

impl Tree {
    /// Copies what is in directory `from` of another tree into `to`: directories are merged and look like the source's
    /// afterwards, anything else replaces what has its name. The top directory gets the source's mode; a file in its place
    /// is replaced.
    ///
    /// Times, extended attributes, hard links, sparse files and links are kept as they are.
    ///
    /// # Errors
    /// When `from` is not a directory, a pattern is malformed, or a call fails.
    pub fn copy_dir(
        &self,
        source: &Tree,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
        options: &CopyOptions,
    ) -> Result<(), TreeError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let copier = Copier::new(options.filter(source, from)?, options.owner)
            .changing(options.modes.clone());
        let from_dir = source.open_source_dir(from)?;
        let kept = options.top == Top::Kept && self.stat(to)?.is_some_and(|s| s.is_dir());
        let top = self.make_top(to, options.owner)?;
        if kept {
            return copier.run(from_dir.as_fd(), top.as_fd(), None);
        }
        copy_top(copier, from_dir.as_fd(), top.as_fd(), to, options)
    }

    /// [`Tree::copy_dir`] into the bare upper directory of a draft whose tree is `below` so far. Files are not copied but get
    /// a second name, so neither side may be written to again. Answers `false`, having made nothing that matters, when `to`
    /// leads through a link, which only a mount can follow.
    pub(crate) fn share_dir(
        &self,
        below: &Tree,
        source: &Tree,
        from: &[u8],
        to: &[u8],
        options: &CopyOptions,
    ) -> Result<bool, TreeError> {
        let copier = Copier::new(options.filter(source, from)?, options.owner).sharing();
        let from_dir = source.open_source_dir(from)?;
        match self.cover(below, to, options.owner)? {
            Some(top) => {
                copy_top(copier, from_dir.as_fd(), top.as_fd(), to, options).map(|()| true)
            }
            None => Ok(false),
        }
    }

    /// Makes `path` in a bare upper directory, with directories above it that look like those they cover.
    fn cover(
        &self,
        below: &Tree,
        path: &[u8],
        owner: Option<(u32, u32)>,
    ) -> Result<Option<OwnedFd>, TreeError> {
        let own = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|e| TreeError::io("open", path, e))
        };
        let (mut made, mut covered) = (own(self.root())?, Some(own(below.root())?));
        let parts = parts(path);
        for (at, part) in parts.iter().enumerate() {
            if part.len() > 255 {
                return Err(TreeError::NameTooLong {
                    path: String::from_utf8_lossy(path).into_owned(),
                });
            }
            let there = match &covered {
                Some(dir) => lstat(dir.as_fd(), part).map_err(on("look at", path))?,
                None => None,
            };
            covered = match (there, covered) {
                (Some(stat), Some(dir)) if stat.is_dir() => {
                    Some(open_child_dir(dir.as_fd(), part).map_err(on("open", path))?)
                }
                (Some(stat), _) if stat.kind == Kind::Symlink => return Ok(None),
                // A file in the place of the directory is replaced; one above it is an error.
                (Some(_), _) if at + 1 < parts.len() => {
                    return Err(on("open", path)(Errno::NOTDIR));
                }
                _ => None,
            };
            rustix::fs::mkdirat(&made, *part, Mode::from_raw_mode(0o755))
                .map_err(on("create", path))?;
            made = open_child_dir(made.as_fd(), part).map_err(on("open", path))?;
            match &covered {
                Some(dir) => {
                    let stat = fstat(dir.as_fd()).map_err(on("look at", path))?;
                    set_own_metadata(dir.as_fd(), made.as_fd(), &stat)
                }
                None => own_and_mode(made.as_fd(), Owner::of(owner), 0o755),
            }
            .map_err(on("set the mode of", path))?;
        }
        Ok(Some(made))
    }

    /// Copies file `from` of another tree to exactly the name `to`, replacing whatever has it, even a directory.
    ///
    /// # Errors
    /// When `from` is not a file, or a call fails.
    pub fn copy_file(
        &self,
        source: &Tree,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
        options: &CopyOptions,
    ) -> Result<(), TreeError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (file, stat) = source.open_regular(from)?;
        let parents = Parents {
            mode: 0o755,
            owner: Owner::of(options.owner),
        };
        let spot = self
            .spot(to, parents)?
            .ok_or(TreeError::Root { action: "replace" })?;
        let mut made = match create(spot.dir.as_fd(), &spot.name) {
            Err(Errno::EXIST) => {
                remove_any(spot.dir.as_fd(), &spot.name).map_err(on("replace", to))?;
                create(spot.dir.as_fd(), &spot.name)
            }
            other => other,
        }
        .map_err(on("create", to))?;
        copy_contents(&file, &mut made, &stat).map_err(|e| TreeError::io("copy", to, e))?;
        let owner = options.owner.map_or(
            Owner {
                uid: stat.uid,
                gid: stat.gid,
            },
            |(uid, gid)| Owner { uid, gid },
        );
        let mode = options.mode.map_or(stat.mode, |mode| mode & 0o777);
        let mode = options.modes.as_ref().map_or(mode, |m| m.of(mode, false));
        set_metadata(file.as_fd(), made.as_fd(), &stat, owner, mode)
            .map_err(on("set the mode of", to))
    }

    /// Opens a directory to copy from.
    pub(super) fn open_source_dir(&self, path: &[u8]) -> Result<OwnedFd, TreeError> {
        self.open_at_path(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| match e {
                TreeError::NotDirectory { path } => TreeError::FileNotDirectory { path },
                e => e,
            })
    }

    /// Opens the directory to copy into; makes it, replacing what else has its name.
    pub(super) fn make_top(
        &self,
        path: &[u8],
        owner: Option<(u32, u32)>,
    ) -> Result<OwnedFd, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if let Ok(dir) = open_in(self.root(), &relative(&parts(path)), flags) {
            return Ok(dir);
        }
        let parents = Parents {
            mode: 0o755,
            owner: Owner::of(owner),
        };
        match self.spot(path, parents)? {
            Some(spot) => {
                remove_any(spot.dir.as_fd(), &spot.name).map_err(on("replace", path))?;
                rustix::fs::mkdirat(&spot.dir, spot.name.as_slice(), Mode::from_raw_mode(0o700))
                    .map_err(on("create", path))?;
                open_child_dir(spot.dir.as_fd(), &spot.name).map_err(on("open", path))
            }
            None => self.open_at_path(path, flags),
        }
    }
}

/// Copies what is in a directory, and how the directory looks.
fn copy_top(
    copier: Copier,
    from: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    shown: &[u8],
    options: &CopyOptions,
) -> Result<(), TreeError> {
    let stat = fstat(from).map_err(on("look at", shown))?;
    copier.run(from, top, None)?;
    let mode = options.mode.map_or(stat.mode, |mode| mode & 0o777);
    let mode = options.modes.as_ref().map_or(mode, |m| m.of(mode, true));
    let owner = match options.top {
        Top::Kept => options.owner.or(Some((stat.uid, stat.gid))),
        Top::Replaced => options.owner,
    };
    set_metadata(from, top, &stat, Owner::of(owner), mode).map_err(on("set the mode of", shown))
}

/// A copy under way. It keeps its own stack: the depth of a tree is not ours to trust.
pub(super) struct Copier {
    filter: Filter,
    owner: Option<(u32, u32)>,
    modes: Option<Modes>,
    path: Vec<u8>,
    levels: Vec<Level>,
    /// Where files with several names were copied to first, relative to the top.
    linked: HashMap<(u64, u64), Vec<u8>>,
    share: bool,
}

/// A directory of the source that is being visited.
struct Level {
    source: OwnedFd,
    names: std::vec::IntoIter<(Vec<u8>, FileType)>,
    /// How much of the path is this directory's.
    path_len: usize,
    name: Vec<u8>,
    stat: Stat,
    state: DirState,
    /// The directory it becomes, made when the first thing in it is.
    made: Option<Made>,
    /// Copy only what this directory does not have equally.
    lower: Option<OwnedFd>,
}

struct Made {
    dir: OwnedFd,
    /// Nothing can be in its way.
    fresh: bool,
}

impl Copier {
    pub(super) fn new(filter: Filter, owner: Option<(u32, u32)>) -> Copier {
        Copier {
            filter,
            owner,
            modes: None,
            path: Vec::new(),
            levels: Vec::new(),
            linked: HashMap::new(),
            share: false,
        }
    }

    /// Changes the permission bits of what is copied.
    fn changing(mut self, modes: Option<Modes>) -> Copier {
        self.modes = modes;
        self
    }

    fn mode_of(&self, stat: &Stat) -> u32 {
        self.modes
            .as_ref()
            .map_or(stat.mode, |m| m.of(stat.mode, stat.is_dir()))
    }

    /// Gives files that change nothing a second name instead of copying them. For targets that are never written to again.
    pub(super) fn sharing(mut self) -> Copier {
        self.share = true;
        self
    }

    /// Copies what is in `source` into `top`; with `lower`, only what that does not have equally.
    pub(super) fn run(
        mut self,
        source: BorrowedFd<'_>,
        top: BorrowedFd<'_>,
        lower: Option<BorrowedFd<'_>>,
    ) -> Result<(), TreeError> {
        let own = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|e| TreeError::io("open", "", e))
        };
        let stat = fstat(source).map_err(on("look at", ""))?;
        let made = Some(Made {
            dir: own(top)?,
            fresh: false,
        });
        self.enter(
            own(source)?,
            Vec::new(),
            stat,
            DirState::default(),
            made,
            lower.map(own).transpose()?,
            true,
        )?;
        while self.next()? {}
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a level")]
    fn enter(
        &mut self,
        source: OwnedFd,
        name: Vec<u8>,
        stat: Stat,
        state: DirState,
        made: Option<Made>,
        lower: Option<OwnedFd>,
        descend: bool,
    ) -> Result<(), TreeError> {
        if self.levels.len() > DEPTH_MAX {
            return Err(TreeError::TooDeep {
                path: String::from_utf8_lossy(&self.path).into_owned(),
                limit: DEPTH_MAX,
            });
        }
        let names = if descend {
            names_of(source.as_fd()).map_err(on("list", &self.path))?
        } else {
            Vec::new()
        };
        let path_len = self.path.len();
        self.levels.push(Level {
            source,
            names: names.into_iter(),
            path_len,
            name,
            stat,
            state,
            made,
            lower,
        });
        Ok(())
    }

    /// Goes on by one entry. Answers whether there was one.
    fn next(&mut self) -> Result<bool, TreeError> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(false);
        };
        self.path.truncate(level.path_len);
        let Some((name, kind)) = level.names.next() else {
            self.leave()?;
            return Ok(true);
        };
        if level.path_len > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        let step = if self.filter.is_empty() {
            None
        } else {
            let is_dir = matches!(kind, FileType::Directory | FileType::Unknown);
            let step = self.filter.step(&level.state, &self.path, is_dir);
            if step.decision == Decision::Exclude && !step.descend {
                return Ok(true);
            }
            Some(step)
        };
        let stat = match lstat(level.source.as_fd(), &name).map_err(on("look at", &self.path))? {
            Some(stat) if !stat.is_whiteout() => stat,
            _ => return Ok(true),
        };
        let mut include = step
            .as_ref()
            .is_none_or(|step| step.decision == Decision::Include);
        if let (true, Some(lower)) = (include, &level.lower) {
            include = !diff::same(lower.as_fd(), (level.source.as_fd(), &name), &stat)
                .map_err(on("compare", &self.path))?;
        }
        if stat.is_dir() {
            let lower = match level
                .lower
                .as_ref()
                .map(|lower| open_child_dir(lower.as_fd(), &name))
            {
                Some(Ok(dir)) => Some(dir),
                None | Some(Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => None,
                Some(Err(e)) => return Err(on("open", &self.path)(e)),
            };
            let (state, descend) = step.map_or((DirState::default(), true), |step| {
                (step.state, step.descend)
            });
            let source =
                open_child_dir(level.source.as_fd(), &name).map_err(on("open", &self.path))?;
            self.enter(source, name, stat, state, None, lower, descend)?;
            if include {
                self.make_levels()?;
            }
        } else if include {
            self.file(&name, &stat)?;
        }
        Ok(true)
    }

    /// Finishes a directory: its time last, because copying into it changed that. The top is the caller's.
    fn leave(&mut self) -> Result<(), TreeError> {
        let Some(level) = self.levels.pop() else {
            return Ok(());
        };
        match level.made {
            Some(made) if !self.levels.is_empty() => {
                let owner = self.owner_of(&level.stat);
                set_metadata(
                    level.source.as_fd(),
                    made.dir.as_fd(),
                    &level.stat,
                    owner,
                    self.mode_of(&level.stat),
                )
                .map_err(on("set the mode of", &self.path))
            }
            _ => Ok(()),
        }
    }

    fn owner_of(&self, stat: &Stat) -> Owner {
        self.owner.map_or(
            Owner {
                uid: stat.uid,
                gid: stat.gid,
            },
            |(uid, gid)| Owner { uid, gid },
        )
    }

    /// Makes the directories that are being visited and do not exist yet.
    fn make_levels(&mut self) -> Result<(), TreeError> {
        let first = self
            .levels
            .iter()
            .rposition(|level| level.made.is_some())
            .map_or(0, |at| at + 1);
        for at in first..self.levels.len() {
            let (above, rest) = self.levels.split_at_mut(at);
            let parent = above.last().and_then(|level| level.made.as_ref());
            let (Some(parent), Some(level)) = (parent, rest.first_mut()) else {
                break;
            };
            level.made = Some(
                make_level(parent.dir.as_fd(), &level.name).map_err(on("create", &self.path))?,
            );
        }
        Ok(())
    }

    fn file(&mut self, name: &[u8], stat: &Stat) -> Result<(), TreeError> {
        self.make_levels()?;
        let (Some(top), Some(level)) = (self.levels.first(), self.levels.last()) else {
            return Ok(());
        };
        let (Some(top), Some(made)) = (&top.made, &level.made) else {
            return Ok(());
        };
        let (source, dir) = (level.source.as_fd(), made.dir.as_fd());
        let owner = self.owner_of(stat);
        if self.share
            && stat.kind == Kind::File
            && owner
                == (Owner {
                    uid: stat.uid,
                    gid: stat.gid,
                })
        {
            clear(dir, name, made.fresh).map_err(on("replace", &self.path))?;
            match rustix::fs::linkat(source, name, dir, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // Too many names for one file, or a file system that has no second ones.
                Err(Errno::MLINK | Errno::XDEV | Errno::PERM) => {}
                Err(e) => return Err(on("link", &self.path)(e)),
            }
        }
        let several = stat.kind == Kind::File && stat.nlink > 1;
        let key = (stat.dev, stat.ino);
        if let (true, Some(first)) = (several, self.linked.get(&key)) {
            clear(dir, name, made.fresh).map_err(on("replace", &self.path))?;
            match rustix::fs::linkat(&top.dir, first.as_slice(), dir, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // Too many names for one file: another copy.
                Err(Errno::MLINK) => {}
                Err(e) => return Err(on("link", &self.path)(e)),
            }
        }
        if stat.kind == Kind::File {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let from: File = rustix::fs::openat(source, name, flags, Mode::empty())
                .map_err(on("open", &self.path))?
                .into();
            let mut to = match create(dir, name) {
                Err(Errno::EXIST) => {
                    remove_any(dir, name).map_err(on("replace", &self.path))?;
                    create(dir, name)
                }
                other => other,
            }
            .map_err(on("create", &self.path))?;
            copy_contents(&from, &mut to, stat)
                .map_err(|e| TreeError::io("copy", &self.path, e))?;
            set_metadata(from.as_fd(), to.as_fd(), stat, owner, self.mode_of(stat))
                .map_err(on("set the mode of", &self.path))?;
        } else {
            clear(dir, name, made.fresh).map_err(on("replace", &self.path))?;
            copy_special((source, name), (dir, name), stat, owner)
                .map_err(on("create", &self.path))?;
        }
        if several {
            self.linked.insert(key, self.path.clone());
        }
        Ok(())
    }
}

fn clear(dir: BorrowedFd<'_>, name: &[u8], fresh: bool) -> rustix::io::Result<()> {
    if fresh { Ok(()) } else { remove_any(dir, name) }
}

fn make_level(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Made> {
    let make = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
    let fresh = match make() {
        Ok(()) => true,
        Err(Errno::EXIST) => match lstat(parent, name)? {
            Some(stat) if stat.is_dir() => false,
            _ => {
                remove_any(parent, name)?;
                make()?;
                true
            }
        },
        Err(e) => return Err(e),
    };
    Ok(Made {
        dir: open_child_dir(parent, name)?,
        fresh,
    })
}

/// Links, pipes, sockets and devices.
fn copy_special(
    from: (BorrowedFd<'_>, &[u8]),
    to: (BorrowedFd<'_>, &[u8]),
    stat: &Stat,
    owner: Owner,
) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(stat.mode);
    match stat.kind {
        Kind::Symlink => {
            let target = rustix::fs::readlinkat(from.0, from.1, Vec::new())?;
            rustix::fs::symlinkat(target, to.0, to.1)?;
        }
        Kind::Fifo => rustix::fs::mknodat(to.0, to.1, FileType::Fifo, mode, 0)?,
        Kind::Socket => rustix::fs::mknodat(to.0, to.1, FileType::Socket, mode, 0)?,
        Kind::CharDevice => {
            rustix::fs::mknodat(to.0, to.1, FileType::CharacterDevice, mode, stat.rdev)?
        }
        Kind::BlockDevice => {
            rustix::fs::mknodat(to.0, to.1, FileType::BlockDevice, mode, stat.rdev)?
        }
        Kind::File | Kind::Dir => {}
    }
    set_named_metadata(to.0, to.1, stat, owner)?;
    copy_named_xattrs(from, to)?;
    Ok(())
}

/// Copies a file's bytes, sharing them where the file system can; holes stay holes.
pub(super) fn copy_contents(from: &File, to: &mut File, stat: &Stat) -> io::Result<()> {
    if stat.size == 0 {
        return Ok(());
    }
    if stat.blocks.saturating_mul(512) < stat.size && stat.size > SMALL as u64 {
        return copy_sparse(from, to, stat.size);
    }
    if stat.size > SMALL as u64 && copy_in_kernel(from, to, stat.size)? {
        return Ok(());
    }
    copy_by_hand(from, to, stat.size)
}

/// Whether the kernel could do it. Positions advance on both sides.
fn copy_in_kernel(from: &File, to: &File, size: u64) -> io::Result<bool> {
    let mut left = size;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, None, to, None, piece) {
            Ok(0) => break,
            Ok(n) => left = left.saturating_sub(n as u64),
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::BADF)
                if left == size =>
            {
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

/// Copies `size` bytes, or up to the end if that comes first.
fn copy_by_hand(mut from: &File, to: &mut File, size: u64) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(BUFFER).min(BUFFER)];
    let mut left = size;
    while left > 0 {
        let want = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = match from.read(buffer.get_mut(..want).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(buffer.get(..n).unwrap_or_default())?;
        left = left.saturating_sub(n as u64);
    }
    Ok(())
}

fn copy_sparse(from: &File, to: &mut File, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e.into()),
        };
        let hole = match rustix::fs::seek(from, SeekFrom::Hole(data)) {
            Ok(hole) => hole,
            Err(Errno::INVAL | Errno::NXIO) => size,
            Err(e) => return Err(e.into()),
        };
        let len = hole.min(size).saturating_sub(data);
        rustix::fs::seek(from, SeekFrom::Start(data))?;
        rustix::fs::seek(&*to, SeekFrom::Start(data))?;
        if !copy_in_kernel(from, to, len)? {
            copy_by_hand(from, to, len)?;
        }
        at = hole.max(data + 1);
    }
    to.set_len(size)
}
