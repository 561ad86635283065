//! Packing a layer: from the upper directory of an overlay to a blob, the same bytes for the same files everywhere.
//!
//! Names are sorted, owners are numbers, times are whole seconds, and the kernel's marks become the image format's: a
//! device 0:0 is a deletion (`.wh.name`), an opaque directory hides what is below (`.wh..wh..opq`).

pub(crate) mod header;
mod stargz;
mod stream;
mod walk;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
};

use sha2::Digest as _;

use self::{
    header::{BLOCK, Head, encode, padding},
    stream::{UNIT, Units},
};
use crate::{
    digest::Digest,
    layer::Compression,
    manifest::media_type::{
        DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, OCI_LAYER, OCI_LAYER_GZIP,
        OCI_LAYER_ZSTD,
    },
};

/// How a layer's blob is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// gzip, in members of one mebibyte.
    Gzip,
    /// zstd, in frames of four mebibytes.
    Zstd,
    /// A bare tar.
    Uncompressed,
    /// gzip whose files can be fetched one by one.
    Stargz,
}

impl Format {
    /// A short name, for keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Uncompressed => "tar",
            Self::Stargz => "estargz",
        }
    }

    /// Its media type, by Docker's or the OCI's naming.
    pub fn media_type(self, docker: bool) -> &'static str {
        match (self, docker) {
            (Self::Gzip | Self::Stargz, false) => OCI_LAYER_GZIP,
            (Self::Zstd, false) => OCI_LAYER_ZSTD,
            (Self::Uncompressed, false) => OCI_LAYER,
            (Self::Gzip | Self::Stargz, true) => DOCKER_LAYER_GZIP,
            (Self::Zstd, true) => DOCKER_LAYER_ZSTD,
            (Self::Uncompressed, true) => DOCKER_LAYER,
        }
    }

    /// How a blob of this media type is compressed; eStargz is gzip too. `None` for what is no layer.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Some(Self::Gzip),
            OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Some(Self::Zstd),
            OCI_LAYER | DOCKER_LAYER => Some(Self::Uncompressed),
            _ => None,
        }
    }
}

impl From<Compression> for Format {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Uncompressed,
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// What becomes of the times of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Times {
    /// Later times become this one. Seconds since 1970.
    pub latest: Option<i64>,
    /// Files changed at or after the first (nanoseconds) get the second (seconds): they were written by this engine, whose
    /// clock is no part of what was asked for.
    pub written: Option<(i64, i64)>,
}

impl Times {
    fn of(&self, mtime_ns: i64) -> i64 {
        let seconds = match self.written {
            Some((since, stamp)) if mtime_ns >= since => stamp,
            _ => mtime_ns.div_euclid(1_000_000_000),
        };
        self.latest.map_or(seconds, |latest| seconds.min(latest))
    }
}

/// A layer to be packed.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The directory with its changes.
    pub dir: &'a Path,
    /// The directory just below it in the stack, if there is one.
    pub below: Option<&'a Path>,
    /// Times of files.
    pub times: Times,
}

/// What a blob turned out to be. The digest of the blob itself is the writer's to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Bytes of the tar.
    pub size: u64,
    /// The latest time in it, in seconds since 1970.
    pub latest: Option<i64>,
    /// What its descriptor says besides.
    pub annotations: BTreeMap<String, String>,
}

/// Why a layer was not packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A call on one of its files failed.
    #[error("cannot {op} `{path}` of the layer")]
    Entry {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Deeper than anything real.
    #[error("`{path}` is more than {limit} directories deep")]
    TooDeep {
        /// Where.
        path: String,
        /// How deep it may be.
        limit: usize,
    },
    /// A file had another size than announced while it was read.
    #[error("`{path}` changed while it was read")]
    Changed {
        /// Which.
        path: String,
    },
    /// The blob could not be written, or the one to be converted not read.
    #[error("cannot write the layer's blob")]
    Io(#[from] io::Error),
}

/// Packs a layer into `out`.
///
/// # Errors
/// What could not be read, or written; `out` then holds an unusable part.
pub fn pack(source: &Source<'_>, format: Format, out: &mut dyn Write) -> Result<Packed, PackError> {
    let written = stream::run(format, out, |units| {
        let mut tar = Tar {
            units,
            table: (format == Format::Stargz).then(stargz::Table::default),
            latest: None,
            buffer: vec![0; 128 << 10],
        };
        walk::walk(source, &mut tar)?;
        let (table, latest) = (tar.table.take(), tar.latest);
        if table.is_none() {
            units.write_all(&[0; 2 * BLOCK])?;
        }
        Ok::<_, PackError>((table, latest))
    })?;
    let (table, latest) = written.value;
    let (mut hash, mut size) = (written.hash, written.size);
    let mut annotations = BTreeMap::new();
    if let Some(table) = table {
        let json = table.json(&written.offsets);
        annotations.insert(
            "containerd.io/snapshot/stargz/toc.digest".to_owned(),
            Digest::of(&json).to_string(),
        );
        let tail = stargz::tail(&json);
        hash.update(&tail);
        size += tail.len() as u64;
        out.write_all(&stream::compress(format, tail)?)?;
        out.write_all(&stargz::footer(written.written))?;
        annotations.insert(
            "io.containers.estargz.uncompressed-size".to_owned(),
            size.to_string(),
        );
    }
    Ok(Packed {
        diff_id: stream::digest(hash),
        size,
        latest,
        annotations,
    })
}

/// Writes a layer's blob anew with another compression. The tar inside stays as it is.
///
/// # Errors
/// The blob cannot be read or inflated, or the new one not written.
pub fn convert(
    blob: impl Read + Send,
    format: Format,
    out: &mut dyn Write,
) -> Result<Packed, PackError> {
    let written = stream::run(format, out, |units| {
        let mut tar = stream::inflate(BufReader::with_capacity(256 << 10, blob))?;
        io::copy(&mut tar, units)?;
        Ok::<_, PackError>(())
    })?;
    Ok(Packed {
        diff_id: stream::digest(written.hash),
        size: written.size,
        latest: None,
        annotations: BTreeMap::new(),
    })
}

/// The tar being written.
struct Tar<'a> {
    units: &'a mut Units,
    /// For eStargz.
    table: Option<stargz::Table>,
    latest: Option<i64>,
    buffer: Vec<u8>,
}

impl Tar<'_> {
    /// An entry without contents.
    fn entry(&mut self, head: &Head<'_>) -> Result<(), PackError> {
        self.units.write_all(&encode(head))?;
        self.latest = self.latest.max(Some(head.mtime));
        if let Some(table) = &mut self.table {
            table.entries.push(stargz::Entry::of(head));
        }
        Ok(())
    }

    /// A regular file with its contents.
    fn file(&mut self, head: &Head<'_>, mut file: File) -> Result<(), PackError> {
        if head.size == 0 {
            return self.entry(head);
        }
        let shown = || String::from_utf8_lossy(head.name).into_owned();
        self.units.write_all(&encode(head))?;
        self.latest = self.latest.max(Some(head.mtime));
        let mut whole = sha2::Sha256::new();
        let mut first = None;
        let mut done = 0;
        while done < head.size {
            let piece = (head.size - done).min(UNIT as u64);
            let unit = match self.table {
                Some(_) => Some(self.units.boundary()?),
                None => None,
            };
            let mut hash = sha2::Sha256::new();
            // Without a table there is nothing to hash for: the whole file is one piece.
            let piece = if unit.is_some() { piece } else { head.size };
            let mut left = piece;
            while left > 0 {
                let want = self
                    .buffer
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                let buffer = self.buffer.get_mut(..want).unwrap_or_default();
                let n = file.read(buffer).map_err(|source| PackError::Entry {
                    op: "read",
                    path: shown(),
                    source,
                })?;
                if n == 0 {
                    return Err(PackError::Changed { path: shown() });
                }
                let bytes = buffer.get(..n).unwrap_or_default();
                if unit.is_some() {
                    hash.update(bytes);
                    whole.update(bytes);
                }
                self.units.write_all(bytes)?;
                left -= n as u64;
            }
            if let Some(table) = &mut self.table {
                let mut entry = if done == 0 {
                    first = Some(table.entries.len());
                    stargz::Entry::of(head)
                } else {
                    stargz::Entry {
                        name: shown(),
                        kind: "chunk",
                        ..stargz::Entry::default()
                    }
                };
                entry.unit = unit;
                entry.chunk_offset = done;
                // The last piece's length follows from the file's.
                entry.chunk_size = if done + piece < head.size { piece } else { 0 };
                entry.chunk_digest = stream::digest(hash).to_string();
                table.entries.push(entry);
            }
            done += piece;
        }
        let digest = stream::digest(whole).to_string();
        if let Some(entry) = first.and_then(|at| self.table.as_mut()?.entries.get_mut(at)) {
            entry.digest = digest;
        }
        let fill = padding(head.size);
        self.units
            .write_all([0; BLOCK].get(..fill).unwrap_or_default())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
