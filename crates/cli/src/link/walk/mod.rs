//! Lists a directory tree, as fast as the kernel gives it.
//!
//! One system call per file; directory descriptors instead of paths; names in one growing buffer instead of strings; patterns
//! decide before a directory is opened; several directories at once in a large tree (see `scan`). The listing is named by
//! its digest, so an unchanged tree is answered in one line.

mod scan;

use std::{io::Write, os::fd::OwnedFd, path::Path};

use patterns::Filter;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use wire::{
    LinkError, LinkErrorKind, Status,
    frame::{self, Kind},
    link::ListAnswer,
    listing::{self, CHUNK, EntryKind, Hasher},
};

use super::{Broken, status_line};
use scan::{Scan, SubDir};

/// A digest from its text.
pub fn digest_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// Answers a `list` request.
///
/// # Errors
/// A broken connection.
pub fn list(
    to: &mut impl Write,
    root: &Path,
    filter: Option<&Filter>,
    known: Option<[u8; 32]>,
) -> Result<(), Broken> {
    let scanned = open_root(root).and_then(|fd| scan::scan(root, fd, filter));
    let (encoded, entries) = match scanned {
        Ok(scan) => assemble(&scan),
        Err(e) => return super::whole::<()>(to, Err(e)),
    };
    let mut hasher = Hasher::default();
    encoded.iter().for_each(|chunk| hasher.update(chunk));
    let digest = hasher.digest();
    if known == Some(digest) {
        return super::whole(to, Ok(ListAnswer::Same));
    }
    to.write_all(&status_line(&Status::Ok(ListAnswer::Entries))?)?;
    for chunk in &encoded {
        frame::write(to, Kind::Entries, chunk)?;
    }
    frame::write(to, Kind::Done, &listing::done(&digest, entries))?;
    Ok(())
}

fn open_root(root: &Path) -> Result<OwnedFd, LinkError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOTDIR => LinkError::new(
            LinkErrorKind::Invalid,
            format!("path {} is a file, not a directory", root.display()),
        ),
        Errno::NOENT => LinkError::io("lstat", root, &e.into()),
        other => LinkError::io("open", root, &other.into()),
    })
}

/// The chunks of a listing in the order of the tree, and the number of entries.
fn assemble(scan: &Scan) -> (Vec<Vec<u8>>, u64) {
    let mut out = Assembly {
        scan,
        chunks: Vec::new(),
        chunk: Vec::with_capacity(CHUNK),
        entries: 0,
        waiting: Vec::new(),
    };
    let mut root = Vec::new();
    scan::encode(b"", EntryKind::Dir, &scan.root, &mut root);
    out.put(&root, 1);
    out.children(0);
    out.leave();
    out.chunks.push(out.chunk);
    (out.chunks, out.entries)
}

struct Assembly<'a> {
    scan: &'a Scan,
    chunks: Vec<Vec<u8>>,
    chunk: Vec<u8>,
    entries: u64,
    /// Open directories that are sent when something in them is.
    waiting: Vec<&'a [u8]>,
}

impl<'a> Assembly<'a> {
    fn put(&mut self, bytes: &[u8], entries: u64) {
        // Segments are at most a chunk and an entry, so chunks stay well below a frame's limit.
        if self.chunk.len() >= CHUNK {
            self.chunks.push(std::mem::replace(
                &mut self.chunk,
                Vec::with_capacity(CHUNK),
            ));
        }
        self.chunk.extend_from_slice(bytes);
        self.entries += entries;
    }

    fn leave(&mut self) {
        listing::encode_leave(&mut self.chunk);
    }

    fn put_waiting(&mut self) {
        for dir in std::mem::take(&mut self.waiting) {
            self.put(dir, 1);
        }
    }

    fn children(&mut self, id: usize) {
        for part in self.scan.parts(id) {
            if !part.bytes.is_empty() {
                self.put_waiting();
                self.put(part.bytes, part.entries);
            }
            if let Some(sub) = part.sub {
                self.directory(&sub);
            }
        }
    }

    fn directory(&mut self, sub: &SubDir<'a>) {
        let before = self.waiting.len();
        self.waiting.push(sub.entry);
        if sub.taken {
            self.put_waiting();
        }
        // The root's number stands for a directory that was not looked into.
        if sub.id != 0 {
            self.children(sub.id);
        }
        if self.waiting.len() > before {
            self.waiting.truncate(before);
        } else {
            self.leave();
        }
    }
}
