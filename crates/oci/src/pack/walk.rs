//! The files of a layer in the order they are packed.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{Head, PackError, Source, Tar};

/// A walk holds a descriptor for each level.
const DEPTH_MAX: usize = 256;
/// Largest value of an extended attribute.
const XATTR_MAX: usize = 64 << 10;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A directory being visited.
struct Level {
    dir: OwnedFd,
    names: std::vec::IntoIter<Vec<u8>>,
    path_len: usize,
}

fn on(op: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> PackError {
    let path = String::from_utf8_lossy(path).into_owned();
    move |errno| PackError::Entry {
        op,
        path,
        source: errno.into(),
    }
}

/// Writes every entry of a layer.
pub(super) fn walk(source: &Source<'_>, tar: &mut Tar<'_>) -> Result<(), PackError> {
    let open = |dir: &Path| {
        rustix::fs::open(dir, DIRECTORY, Mode::empty())
            .map_err(on("open", dir.as_os_str().as_encoded_bytes()))
    };
    let root = open(source.dir)?;
    let below = source.below.map(open).transpose()?;
    top(source, &root, below.as_ref(), tar)?;
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut path: Vec<u8> = Vec::new();
    let mut levels = vec![Level {
        names: names(&root, &path)?.into_iter(),
        dir: root,
        path_len: 0,
    }];
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_len);
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        if level.path_len > 0 {
            path.push(b'/');
        }
        let parent_len = path.len();
        path.extend_from_slice(&name);
        let dir = level.dir.as_fd();
        let stat = rustix::fs::statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(on("look at", &path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            if source.below.is_some() {
                path.splice(parent_len..parent_len, *b".wh.");
                deletion(&path, tar)?;
            }
            continue;
        }
        let xattrs = xattrs(dir, &name).map_err(on("read the attributes of", &path))?;
        if kind == FileType::Directory {
            let inner = rustix::fs::openat(dir, name.as_slice(), DIRECTORY, Mode::empty())
                .map_err(on("open", &path))?;
            if levels.len() >= DEPTH_MAX {
                return Err(PackError::TooDeep {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    limit: DEPTH_MAX,
                });
            }
            let shown = [path.as_slice(), b"/"].concat();
            tar.entry(&head(source, &shown, b'5', &stat, &xattrs.0))?;
            if xattrs.1 && source.below.is_some() {
                deletion(&[path.as_slice(), b"/.wh..wh..opq"].concat(), tar)?;
            }
            levels.push(Level {
                names: names(&inner, &path)?.into_iter(),
                dir: inner,
                path_len: path.len(),
            });
            continue;
        }
        let id = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = links.get(&id)
        {
            let mut head = head(source, &path, b'1', &stat, &[]);
            head.link = first;
            tar.entry(&head)?;
            continue;
        }
        if stat.st_nlink > 1 && kind != FileType::Socket {
            links.insert(id, path.clone());
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(dir, name.as_slice(), flags, Mode::empty())
                    .map_err(on("open", &path))?;
                let mut head = head(source, &path, b'0', &stat, &xattrs.0);
                head.size = u64::try_from(stat.st_size).unwrap_or(0);
                tar.file(&head, File::from(file))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name.as_slice(), Vec::new())
                    .map_err(on("read the link", &path))?
                    .into_bytes();
                let mut head = head(source, &path, b'2', &stat, &xattrs.0);
                (head.link, head.mode) = (&target, 0o777);
                tar.entry(&head)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let flag = if kind == FileType::BlockDevice {
                    b'4'
                } else {
                    b'3'
                };
                let mut head = head(source, &path, flag, &stat, &xattrs.0);
                head.device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                tar.entry(&head)?;
            }
            FileType::Fifo => tar.entry(&head(source, &path, b'6', &stat, &xattrs.0))?,
            // A socket is nothing without the process that made it.
            _ => {}
        }
    }
    Ok(())
}

/// The root itself, when the layer changes how it looks.
fn top(
    source: &Source<'_>,
    root: &OwnedFd,
    below: Option<&OwnedFd>,
    tar: &mut Tar<'_>,
) -> Result<(), PackError> {
    let looks = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).map_err(on("look at", b"/"))?;
        let xattrs = xattrs(fd.as_fd(), b".").map_err(on("read the attributes of", b"/"))?;
        Ok::<_, PackError>((stat, xattrs))
    };
    let (stat, (xattrs, opaque)) = looks(root)?;
    let seen = |stat: &Stat| (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
    let same = match below {
        Some(below) => {
            let (before, (attributes, _)) = looks(below)?;
            seen(&stat) == seen(&before) && xattrs == attributes
        }
        None => seen(&stat) == (0o755, 0, 0) && xattrs.is_empty(),
    };
    if !same {
        tar.entry(&head(source, b"./", b'5', &stat, &xattrs))?;
    }
    if opaque && below.is_some() {
        deletion(b".wh..wh..opq", tar)?;
    }
    Ok(())
}

fn deletion(name: &[u8], tar: &mut Tar<'_>) -> Result<(), PackError> {
    tar.entry(&Head {
        name,
        kind: b'0',
        ..Head::default()
    })
}

fn head<'a>(
    source: &Source<'_>,
    name: &'a [u8],
    kind: u8,
    stat: &Stat,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
) -> Head<'a> {
    let mtime_ns = stat
        .st_mtime
        .saturating_mul(1_000_000_000)
        .saturating_add(stat.st_mtime_nsec as i64);
    Head {
        name,
        link: b"",
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        size: 0,
        mtime: source.times.of(mtime_ns),
        device: (0, 0),
        xattrs,
    }
}

/// The names in a directory, sorted by their bytes.
fn names(dir: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>, PackError> {
    let list = || {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        Ok(names)
    };
    list().map_err(on("list", path))
}

/// The extended attributes that belong into an image, sorted, and whether overlayfs calls it opaque.
fn xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<(Xattrs, bool)> {
    // The calls on attributes take paths only; this one is of a descriptor.
    let path = [
        format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(),
        name,
    ]
    .concat();
    let mut list = vec![0_u8; 1 << 10];
    let length = loop {
        match rustix::fs::llistxattr(path.as_slice(), list.as_mut_slice()) {
            Err(Errno::RANGE) if list.len() < XATTR_MAX => list.resize(XATTR_MAX, 0),
            Err(Errno::NOTSUP) => return Ok((Vec::new(), false)),
            length => break length?,
        }
    };
    let mut found = Vec::new();
    let mut opaque = false;
    let names = list.get(..length).unwrap_or_default();
    for attribute in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mark = attribute == b"trusted.overlay.opaque";
        if !mark && !belongs(attribute) {
            continue;
        }
        let mut value = vec![0_u8; XATTR_MAX];
        match rustix::fs::lgetxattr(path.as_slice(), attribute, value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(e) => return Err(e),
        }
        if mark {
            opaque = value == b"y";
        } else {
            found.push((attribute.to_vec(), value));
        }
    }
    found.sort();
    Ok((found, opaque))
}

/// Labels of this machine's security modules and marks of its overlays mean nothing elsewhere.
fn belongs(attribute: &[u8]) -> bool {
    attribute == b"security.capability"
        || attribute.starts_with(b"user.")
        || attribute.starts_with(b"system.posix_acl_")
        || (attribute.starts_with(b"trusted.") && !attribute.starts_with(b"trusted.overlay."))
}

/// What a failed call on a name is told as.
impl From<Errno> for PackError {
    fn from(errno: Errno) -> Self {
        Self::Io(io::Error::from(errno))
    }
}
