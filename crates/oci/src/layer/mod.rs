//! Unpacking a layer: one thread reads and inflates, this one hashes and extracts.
//!
//! A layer is a tar made by a stranger. Every path is resolved by the kernel inside the target (`openat2` with
//! `RESOLVE_IN_ROOT`), nothing is followed on the last step, and all attributes are set through descriptors. On an error the
//! target holds half a layer: the caller throws it away.

mod extract;
mod pax;
mod source;
mod tarball;

use std::{io::Read, os::fd::BorrowedFd};

pub use self::source::Compression;
use crate::digest::Digest;

/// Where a layer goes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Root of the tree. With [`Beneath::Layers`] it must be the *merged* view (a writable overlay mount).
    pub root: BorrowedFd<'a>,
    /// What the layer lies on.
    pub beneath: Beneath,
}

/// What a layer lies on: decides what its deletions mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beneath {
    /// The lowest layer: there is nothing to delete.
    Nothing,
    /// Lower layers are visible through the target; a deletion removes what they brought, and the kernel writes the
    /// whiteout. Paths go through links that lower layers made, as in every other engine.
    Layers,
}

/// What the layer must be. `None` is not checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Digest of the blob as stored.
    pub digest: Option<Digest>,
    /// Digest of the tar inside.
    pub diff_id: Option<Digest>,
}

/// The most a layer may contain.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the tar.
    pub bytes: u64,
    /// Entries of the tar.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            entries: 4_000_000,
        }
    }
}

impl Limits {
    /// Counts one more entry.
    fn count(&self, entries: &mut u64) -> Result<(), UnpackError> {
        *entries += 1;
        if *entries > self.entries {
            return Err(UnpackError::Limit {
                what: "entries",
                limit: self.entries,
            });
        }
        Ok(())
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Bytes of the tar.
    pub size: u64,
    /// Entries of the tar, deletions included.
    pub entries: u64,
    /// How the blob was compressed.
    pub compression: Compression,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The blob cannot be read or inflated.
    #[error("cannot read the layer after {offset} bytes")]
    Read {
        /// Bytes of the tar already seen.
        offset: u64,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// The tar ends inside an entry.
    #[error("layer is cut off after {offset} bytes, in entry `{entry}`")]
    Truncated {
        /// Bytes of the tar already seen.
        offset: u64,
        /// The last entry seen.
        entry: String,
    },
    /// A header that makes no sense, or could be read in two ways.
    #[error("layer has a bad header at byte {offset}, near entry `{near}`")]
    Header {
        /// Where the header begins.
        offset: u64,
        /// The last entry seen, possibly itself.
        near: String,
        /// What is wrong.
        #[source]
        source: HeaderError,
    },
    /// An entry this engine refuses.
    #[error("layer entry `{entry}` is refused")]
    Refused {
        /// Name of the entry.
        entry: String,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The file system refused.
    #[error("cannot {op} layer entry `{entry}`")]
    Io {
        /// What was being done.
        op: &'static str,
        /// Name of the entry.
        entry: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// More than the limits allow.
    #[error("layer has more than {limit} {what}")]
    Limit {
        /// `bytes` or `entries`.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The blob is not the one that was asked for.
    #[error("layer blob has digest {found}, expected {expected}")]
    Digest {
        /// As announced.
        expected: Digest,
        /// As read.
        found: Digest,
    },
    /// The tar is not the one the image config lists.
    #[error("layer contents have digest {found}, the image config says {expected}")]
    DiffId {
        /// As listed.
        expected: Digest,
        /// As read.
        found: Digest,
    },
}

/// What is wrong with a tar header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The checksum does not fit.
    #[error("checksum does not match")]
    Checksum,
    /// A number that is not one, or does not fit.
    #[error("field `{0}` is not a valid number")]
    Number(&'static str),
    /// A record of an extended header that cannot be read.
    #[error("malformed extended header")]
    Pax,
    /// An extended header larger than allowed.
    #[error("extended header of {0} bytes is too large")]
    PaxSize(u64),
    /// Two sources for the same value, or an extended header without its entry.
    #[error("ambiguous: {0}")]
    Ambiguous(&'static str),
    /// A sparse map that contradicts itself.
    #[error("invalid sparse file map")]
    Sparse,
    /// A kind of entry that has no place in a layer.
    #[error("unsupported entry type `{0}`")]
    Kind(char),
    /// A directory, link or device with contents.
    #[error("an entry without contents claims {0} bytes")]
    Size(u64),
}

/// Why an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// `..` in its name or in the target of a hard link.
    #[error("path contains `..`")]
    DotDot,
    /// A NUL byte in a name.
    #[error("path contains a NUL byte")]
    Nul,
    /// Longer than the kernel can take, or nothing at all.
    #[error("path has {0} bytes")]
    Length(usize),
    /// Something other than a directory named as the root.
    #[error("the root of a layer can only be a directory")]
    Root,
    /// `.wh.` followed by nothing, `.` or `..`, or used as a directory.
    #[error("invalid deletion mark")]
    Whiteout,
    /// A device overlayfs would take for a deletion.
    #[error("character device 0:0 is reserved for deletions")]
    WhiteoutDevice,
    /// A user or group ID that means "unchanged" to the kernel.
    #[error("owner ID {0} is not usable")]
    Owner(u64),
    /// The target of a hard link is not there (inside the layer's tree).
    #[error("hard link to `{0}`, which does not exist")]
    LinkTarget(String),
    /// A tree deeper than this engine handles.
    #[error("directories are nested too deeply")]
    Depth,
}

/// Unpacks one layer and checks it.
///
/// `blob` is read to its end by another thread. Compression is told by the first bytes, whatever the media type says.
///
/// # Errors
/// The entry and the reason; the target then holds an unusable half.
pub fn unpack<R: Read + Send>(
    blob: R,
    target: Target<'_>,
    expected: &Expected,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    source::with_stream(blob, expected.digest.is_some(), limits.bytes, |stream| {
        let mut extractor = extract::Extractor::new(target);
        let mut tar = tarball::Reader::new(stream);
        let mut entries = 0;
        while let Some(entry) = tar.next_entry()? {
            limits.count(&mut entries)?;
            extractor.entry(&entry, &mut tar)?;
        }
        extractor.finish()?;
        Ok(entries)
    })
    .and_then(|(entries, read)| {
        match expected.diff_id {
            Some(expected) if expected != read.diff_id => {
                return Err(UnpackError::DiffId {
                    expected,
                    found: read.diff_id,
                });
            }
            _ => {}
        }
        match (expected.digest, read.digest) {
            (Some(expected), Some(found)) if expected != found => {
                return Err(UnpackError::Digest { expected, found });
            }
            _ => {}
        }
        Ok(Unpacked {
            diff_id: read.diff_id,
            size: read.size,
            entries,
            compression: read.compression,
        })
    })
}

/// A regular file or link of a tar.
pub(crate) struct FileEntry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) size: u64,
    /// Where a link leads, and whether it is a symbolic one.
    pub(crate) link: Option<(&'a [u8], bool)>,
}

/// Gives the contents of an entry, piece by piece.
type Data<'a> =
    dyn FnMut(&mut dyn FnMut(&[u8]) -> Result<(), UnpackError>) -> Result<(), UnpackError> + 'a;

/// Visits the regular files and links of a tar, compressed or not, without writing anything.
pub(crate) fn files<R: Read + Send>(
    archive: R,
    limits: &Limits,
    visit: &mut dyn FnMut(&FileEntry<'_>, &mut Data<'_>) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    source::with_stream(archive, false, limits.bytes, |stream| {
        let mut tar = tarball::Reader::new(stream);
        let mut entries = 0;
        while let Some(entry) = tar.next_entry()? {
            limits.count(&mut entries)?;
            let link = match entry.kind {
                tarball::Kind::File => None,
                tarball::Kind::HardLink => Some((entry.link.as_slice(), false)),
                tarball::Kind::Symlink => Some((entry.link.as_slice(), true)),
                _ => continue,
            };
            let tarball::Contents::Whole(size) = entry.contents else {
                continue;
            };
            let seen = FileEntry {
                name: &entry.name,
                size,
                link,
            };
            visit(&seen, &mut |sink| {
                tar.contents(&entry.contents, |_, bytes| sink(bytes))
            })?;
        }
        Ok(())
    })
    .map(|_| ())
}

/// A name for messages: lossy and shortened.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name.get(..200).unwrap_or(name)).into_owned();
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
