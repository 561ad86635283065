//! A directory tree's entries, compactly.
//!
//! The encoding follows the walk: a directory, its children sorted by name, a mark that it is over. Names only, no paths, so
//! an entry costs some thirty bytes and the walk builds no strings. The first entry is the root, with an empty name. The
//! blake3 digest over all encoded entries names the listing: equal digests, equal trees as far as a walk can see.
//!
//! On the wire: frames of kind `Entries`, each with whole entries, then `Done` with the digest and the number of entries.

use crate::frame::{self, FrameError, Kind, take_bytes, take_u64, take_varint};

/// A payload is sent when it has grown beyond this.
pub const CHUNK: usize = 256 << 10;
/// Deepest tree.
pub const MAX_DEPTH: usize = 1024;
/// Most entries in a listing.
pub const MAX_ENTRIES: u64 = 20_000_000;

const LEAVE: u8 = 0;
const DIR: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;

/// What an entry is. Sockets, pipes and devices do not travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A directory; its children follow.
    Dir,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Changes when the content may have changed though size and time are the same: made of inode and change time, opaque.
        stamp: u64,
    },
    /// A symbolic link and where it leads.
    Symlink(&'a [u8]),
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name in its directory; empty for the root.
    pub name: &'a [u8],
    /// What it is.
    pub kind: EntryKind<'a>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Entry<'_> {
    /// Appends the encoded entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            EntryKind::Dir => DIR,
            EntryKind::File { .. } => FILE,
            EntryKind::Symlink(_) => SYMLINK,
        });
        frame::push_bytes(out, self.name);
        frame::push_varint(out, self.mode.into());
        out.extend_from_slice(&self.mtime_ns.to_le_bytes());
        frame::push_varint(out, self.uid.into());
        frame::push_varint(out, self.gid.into());
        match self.kind {
            EntryKind::Dir => {}
            EntryKind::File { size, stamp } => {
                frame::push_varint(out, size);
                out.extend_from_slice(&stamp.to_le_bytes());
            }
            EntryKind::Symlink(link) => frame::push_bytes(out, link),
        }
    }
}

/// Appends the mark that the current directory is over.
pub fn encode_leave(out: &mut Vec<u8>) {
    out.push(LEAVE);
}

/// The digest of encoded entries.
pub fn digest(encoded: &[u8]) -> [u8; 32] {
    *blake3::hash(encoded).as_bytes()
}

/// A digest of a listing sent in pieces.
#[derive(Debug, Default, Clone)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Takes more encoded entries.
    pub fn update(&mut self, encoded: &[u8]) {
        self.0.update(encoded);
    }

    /// The digest so far.
    pub fn digest(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// A digest as text.
pub fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

/// The payload of the `Done` frame.
pub fn done(digest: &[u8; 32], entries: u64) -> Vec<u8> {
    let mut out = digest.to_vec();
    frame::push_varint(&mut out, entries);
    out
}

/// Checks and decodes a listing, chunk by chunk.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The path of the open directory, relative to the root, and how long it was before each open directory.
    path: Vec<u8>,
    /// For each open directory: the length of its parent's path, and the last name seen in it.
    open: Vec<Open>,
    hasher: Hasher,
    entries: u64,
    ended: bool,
}

#[derive(Debug)]
struct Open {
    parent_len: usize,
    last: Vec<u8>,
}

impl Decoder {
    /// A decoder at the beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes one `Entries` payload. `each` gets every entry with its path relative to the root (empty for the root itself),
    /// parents before children.
    ///
    /// # Errors
    /// What a correct client does not send: names with slashes, unsorted names, unbalanced directories, cut entries.
    pub fn chunk(
        &mut self,
        payload: &[u8],
        mut each: impl FnMut(&[u8], &Entry<'_>),
    ) -> Result<(), FrameError> {
        self.hasher.update(payload);
        let mut rest = payload;
        while !rest.is_empty() {
            self.one(&mut rest, &mut each)
                .map_err(|why| FrameError::Malformed(Kind::Entries, why))?;
        }
        Ok(())
    }

    fn one(
        &mut self,
        rest: &mut &[u8],
        each: &mut impl FnMut(&[u8], &Entry<'_>),
    ) -> Result<(), &'static str> {
        if self.ended {
            return Err("an entry after the root's end");
        }
        if rest.first() == Some(&LEAVE) {
            *rest = rest.get(1..).unwrap_or_default();
            let closed = self.open.pop().ok_or("an end without a directory")?;
            self.path.truncate(closed.parent_len);
            self.ended = self.open.is_empty();
            return Ok(());
        }
        let entry = decode_entry(rest).ok_or("a cut entry")?;
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err("too many entries");
        }
        let before = self.path.len();
        match self.open.last_mut() {
            None if entry.name.is_empty() && entry.kind == EntryKind::Dir => {}
            None => return Err("the root is no directory"),
            Some(parent) => {
                check_name(entry.name)?;
                if parent.last.as_slice() >= entry.name {
                    return Err("unsorted names");
                }
                parent.last.clear();
                parent.last.extend_from_slice(entry.name);
                if before > 0 {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(entry.name);
            }
        }
        each(&self.path, &entry);
        if entry.kind == EntryKind::Dir {
            if self.open.len() >= MAX_DEPTH {
                return Err("too deep");
            }
            self.open.push(Open {
                parent_len: before,
                last: Vec::new(),
            });
        } else {
            self.path.truncate(before);
        }
        Ok(())
    }

    /// Ends with the `Done` payload: the listing's digest.
    ///
    /// # Errors
    /// A listing that is not whole.
    pub fn finish(self, done: &[u8]) -> Result<[u8; 32], FrameError> {
        let bad = |why| FrameError::Malformed(Kind::Done, why);
        let (digest, mut rest) = done.split_first_chunk::<32>().ok_or(bad("no digest"))?;
        let entries = take_varint(&mut rest).ok_or(bad("no number of entries"))?;
        if !self.ended {
            return Err(bad("the tree is not complete"));
        }
        if entries != self.entries || *digest != self.hasher.digest() {
            return Err(bad("the listing was damaged on its way"));
        }
        Ok(*digest)
    }
}

fn decode_entry<'a>(rest: &mut &'a [u8]) -> Option<Entry<'a>> {
    let (tag, after) = rest.split_first()?;
    *rest = after;
    let name = take_bytes(rest)?;
    let mode = u32::try_from(take_varint(rest)?).ok()? & 0o7777;
    let mtime_ns = take_u64(rest)?.cast_signed();
    let uid = u32::try_from(take_varint(rest)?).ok()?;
    let gid = u32::try_from(take_varint(rest)?).ok()?;
    let kind = match *tag {
        DIR => EntryKind::Dir,
        FILE => EntryKind::File {
            size: take_varint(rest)?,
            stamp: take_u64(rest)?,
        },
        SYMLINK => EntryKind::Symlink(
            take_bytes(rest).filter(|l| !l.is_empty() && l.len() < 4096 && !l.contains(&0))?,
        ),
        _ => return None,
    };
    Some(Entry {
        name,
        kind,
        mode,
        mtime_ns,
        uid,
        gid,
    })
}

/// A name that is safe to use as one path component.
pub(crate) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty()
        || name.len() > 255
        || name == b"."
        || name == b".."
        || name.contains(&b'/')
        || name.contains(&0)
    {
        return Err("a name that no file has");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> Entry<'_> {
        Entry {
            name: name.as_bytes(),
            kind: EntryKind::Dir,
            mode: 0o755,
            mtime_ns: -5,
            uid: 0,
            gid: 7,
        }
    }

    fn file(name: &str) -> Entry<'_> {
        Entry {
            kind: EntryKind::File {
                size: 1 << 40,
                stamp: 9,
            },
            ..dir(name)
        }
    }

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        dir("").encode(&mut out);
        dir("a").encode(&mut out);
        file("x").encode(&mut out);
        encode_leave(&mut out);
        Entry {
            kind: EntryKind::Symlink(b"a/x"),
            ..dir("b")
        }
        .encode(&mut out);
        file("c").encode(&mut out);
        encode_leave(&mut out);
        out
    }

    fn decode(encoded: &[u8]) -> Result<Vec<String>, String> {
        let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
        decoder
            .chunk(encoded, |path, e| {
                seen.push(format!(
                    "{} {:?} {:o}",
                    String::from_utf8_lossy(path),
                    e.kind,
                    e.mode
                ))
            })
            .map_err(|e| e.to_string())?;
        decoder
            .finish(&done(&digest(encoded), seen.len() as u64))
            .map_err(|e| e.to_string())?;
        Ok(seen)
    }

    #[test]
    fn a_tree_round_trips_with_paths() {
        assert_eq!(
            decode(&sample()).unwrap(),
            [
                " Dir 755",
                "a Dir 755",
                "a/x File { size: 1099511627776, stamp: 9 } 755",
                "b Symlink([97, 47, 120]) 755",
                "c File { size: 1099511627776, stamp: 9 } 755",
            ]
        );
    }

    #[test]
    fn hostile_listings_are_refused() {
        let build = |parts: &[Entry<'_>], leaves: usize| {
            let mut out = Vec::new();
            parts.iter().for_each(|p| p.encode(&mut out));
            (0..leaves).for_each(|_| encode_leave(&mut out));
            decode(&out)
        };
        assert!(
            build(&[dir(""), file("..")], 1)
                .unwrap_err()
                .contains("no file has")
        );
        assert!(
            build(&[dir(""), file("a/b")], 1)
                .unwrap_err()
                .contains("no file has")
        );
        assert!(
            build(&[dir(""), file("")], 1)
                .unwrap_err()
                .contains("no file has")
        );
        assert!(
            build(&[dir(""), file("b"), file("a")], 1)
                .unwrap_err()
                .contains("unsorted")
        );
        assert!(
            build(&[dir(""), file("a"), file("a")], 1)
                .unwrap_err()
                .contains("unsorted")
        );
        assert!(build(&[file("")], 0).unwrap_err().contains("no directory"));
        assert!(build(&[dir("")], 0).unwrap_err().contains("not complete"));
        assert!(build(&[dir("")], 2).unwrap_err().contains("after the root"));
        let deep: Vec<_> = std::iter::once(dir(""))
            .chain((0..MAX_DEPTH).map(|_| dir("d")))
            .collect();
        assert!(build(&deep, deep.len()).unwrap_err().contains("too deep"));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed_or_harmless() {
        let whole = sample();
        let trailer = done(&digest(&whole), 5);
        let check = |bytes: &[u8]| {
            let mut d = Decoder::new();
            d.chunk(bytes, |_, _| {}).and_then(|()| d.finish(&trailer))
        };
        check(&whole).unwrap();
        for cut in 0..whole.len() {
            assert!(check(&whole[..cut]).is_err());
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bytes).is_err());
        }
    }
}
