//! Blobs by digest. A file in `blobs/` is whole and has been verified; partial ones live in `ingest/` until resumed.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use sha2::{Digest, Sha256};

use crate::{
    DiskError, Inner, clock,
    db::{BlobRow, Write},
    disk::{self, on},
};

/// What a digest begins with.
const ALGORITHM: &str = "sha256:";

/// The blobs of a store.
pub struct Blobs {
    state: Mutex<State>,
    pub(crate) store: Weak<Inner>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, BlobRow>,
    /// Digests being taken in.
    active: HashSet<String>,
}

/// Why a blob was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Not `sha256:` and 64 hexadecimal digits.
    #[error("`{digest}` is not a sha256 digest")]
    NotADigest {
        /// The text.
        digest: String,
    },
    /// Somebody else is taking it in.
    #[error("blob {digest} is being fetched already")]
    Busy {
        /// Which.
        digest: String,
    },
    /// The bytes are not what the digest says.
    #[error("blob {expected} is something else: its content has {actual}")]
    Mismatch {
        /// What was promised.
        expected: String,
        /// What came.
        actual: String,
    },
    /// More or fewer bytes than promised.
    #[error("blob {digest} has {actual} bytes instead of {expected}")]
    Size {
        /// Which.
        digest: String,
        /// What was promised.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// A failed call on the file.
    #[error("cannot take in a blob")]
    Disk(#[from] DiskError),
}

impl IngestError {
    /// Whether what came is not what was promised, as opposed to a trouble of the disk.
    pub fn is_mismatch(&self) -> bool {
        matches!(
            self,
            IngestError::Mismatch { .. } | IngestError::Size { .. }
        )
    }
}

impl Blobs {
    pub(crate) fn new(rows: Vec<BlobRow>, store: Weak<Inner>) -> Blobs {
        let blobs = rows
            .into_iter()
            .map(|row| (row.digest.clone(), row))
            .collect();
        Blobs {
            state: Mutex::new(State {
                blobs,
                active: HashSet::new(),
            }),
            store,
        }
    }

    /// Where a blob is, if the store has it.
    pub fn path(&self, digest: &str) -> Option<PathBuf> {
        let hex = hex_of(digest)?;
        let store = self.store.upgrade()?;
        self.lock().blobs.get_mut(digest)?.last_used = clock::now_ns();
        Some(blob_path(&store.layout.blobs(), hex))
    }

    /// Removes what was taken in partly and nobody is at. Answers how many bytes that gave back.
    pub(crate) fn drop_partial(&self) -> u64 {
        let Some(store) = self.store.upgrade() else {
            return 0;
        };
        let dir = store.layout.ingest();
        // Locked throughout: nobody resumes one meanwhile.
        let state = self.lock();
        let mut freed = 0;
        for name in disk::names(&dir).unwrap_or_default() {
            if state.active.contains(&name) {
                continue;
            }
            let path = dir.join(name);
            let size = fs::symlink_metadata(&path).map_or(0, |m| m.len());
            match fs::remove_file(&path) {
                Ok(()) => freed += size,
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "cannot remove a partial blob");
                }
            }
        }
        freed
    }

    /// Begins, or resumes, taking in a blob.
    ///
    /// # Errors
    /// When the digest is none, somebody else is at it, or the file cannot be opened.
    pub fn ingest(&self, digest: &str, size: Option<u64>) -> Result<Ingest, IngestError> {
        let hex = hex_of(digest)
            .ok_or_else(|| IngestError::NotADigest {
                digest: digest.to_owned(),
            })?
            .to_owned();
        let store = self.store.upgrade().ok_or(IngestError::Closed)?;
        if !self.lock().active.insert(hex.clone()) {
            return Err(IngestError::Busy {
                digest: digest.to_owned(),
            });
        }
        let claim = Claim {
            store: store.clone(),
            hex,
        };
        let path = store.layout.ingest().join(&claim.hex);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(on("open", &path))?;
        let mut ingest = Ingest {
            claim,
            digest: digest.to_owned(),
            path,
            file,
            size,
            offset: 0,
            hash: Sha256::new(),
        };
        ingest.catch_up()?;
        Ok(ingest)
    }

    /// Enters a verified blob, which `put` moves to its place. Gives its digest.
    pub(crate) fn place(
        &self,
        hex: &str,
        size: u64,
        put: impl FnOnce(&Path) -> Result<(), IngestError>,
    ) -> Result<String, IngestError> {
        let store = self.store.upgrade().ok_or(IngestError::Closed)?;
        let to = blob_path(&store.layout.blobs(), hex);
        if let Some(dir) = to.parent() {
            disk::ensure_dir(dir, 0o755)?;
        }
        put(&to)?;
        let now = clock::now_ns();
        let digest = format!("{ALGORITHM}{hex}");
        let row = BlobRow {
            digest: digest.clone(),
            seq: store.writer.next_seq(),
            size,
            created: now,
            last_used: now,
        };
        let mut state = self.lock();
        store.writer.write(Write::Blob(row.clone()));
        state.blobs.insert(digest.clone(), row);
        Ok(digest)
    }

    /// Forgets and deletes a blob, if it has not been used since.
    pub(crate) fn remove_idle(&self, digest: &str, last_used: i64) -> bool {
        let (Some(store), Some(hex)) = (self.store.upgrade(), hex_of(digest)) else {
            return false;
        };
        {
            let mut state = self.lock();
            match state.blobs.get(digest) {
                Some(row) if row.last_used == last_used => {}
                _ => return false,
            }
            state.blobs.remove(digest);
            store.writer.write(Write::RemoveBlob(digest.to_owned()));
        }
        store
            .trash
            .take_or_warn(&blob_path(&store.layout.blobs(), hex));
        true
    }

    pub(crate) fn rows(&self) -> Vec<BlobRow> {
        self.lock().blobs.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob being taken in. Dropping it keeps what has come so far, to be resumed.
pub struct Ingest {
    claim: Claim,
    digest: String,
    path: PathBuf,
    file: File,
    size: Option<u64>,
    offset: u64,
    hash: Sha256,
}

impl Ingest {
    /// How many bytes are there already: what to write comes after them.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When they are more than promised, or cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), IngestError> {
        let end = self.offset.saturating_add(bytes.len() as u64);
        if let Some(expected) = self.size.filter(|size| end > *size) {
            self.discard();
            return Err(IngestError::Size {
                digest: self.digest.clone(),
                expected,
                actual: end,
            });
        }
        if let Err(error) = self.file.write_all(bytes) {
            if error.kind() == io::ErrorKind::StorageFull {
                // Room is worth more now than what has come.
                self.discard();
            }
            return Err(DiskError::new("write", &self.path, error).into());
        }
        self.hash.update(bytes);
        self.offset = end;
        Ok(())
    }

    /// Verifies what came and makes it a blob. What is wrong is thrown away, so that the next try begins anew.
    ///
    /// # Errors
    /// [`IngestError::Mismatch`], [`IngestError::Size`], or a failed call.
    pub fn commit(mut self) -> Result<(), IngestError> {
        if let Some(expected) = self.size.filter(|size| self.offset != *size) {
            let error = IngestError::Size {
                digest: self.digest.clone(),
                expected,
                actual: self.offset,
            };
            if self.offset > expected {
                self.discard();
            }
            return Err(error);
        }
        let actual = format!("{ALGORITHM}{}", to_hex(&self.hash.finalize_reset()));
        if actual != self.digest {
            self.discard();
            return Err(IngestError::Mismatch {
                expected: self.digest.clone(),
                actual,
            });
        }
        let store = &self.claim.store;
        store.blobs.place(&self.claim.hex, self.offset, |to| {
            disk::rename(&self.path, to)?;
            Ok(())
        })?;
        Ok(())
    }

    /// Hashes what an earlier try left.
    fn catch_up(&mut self) -> Result<(), IngestError> {
        let len = self
            .file
            .metadata()
            .map_err(on("look at", &self.path))?
            .len();
        if self.size.is_some_and(|size| len > size) {
            self.file.set_len(0).map_err(on("truncate", &self.path))?;
            return Ok(());
        }
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = self
                .file
                .read(&mut buffer)
                .map_err(on("read", &self.path))?;
            if n == 0 {
                return Ok(());
            }
            self.hash.update(buffer.get(..n).unwrap_or_default());
            self.offset += n as u64;
        }
    }

    fn discard(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove a partial blob");
        }
    }
}

impl io::Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ingest::write(self, bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ingest({} at {})", self.digest, self.offset)
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blobs({})", self.lock().blobs.len())
    }
}

/// The right to write one partial blob.
struct Claim {
    store: Arc<Inner>,
    hex: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.store.blobs.lock().active.remove(&self.hex);
    }
}

/// The digits of a digest.
fn hex_of(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix(ALGORITHM)?;
    is_hex(hex).then_some(hex)
}

fn is_hex(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn blob_path(blobs: &Path, hex: &str) -> PathBuf {
    blobs.join(hex.get(..2).unwrap_or_default()).join(hex)
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The digests and sizes of all blob files.
pub(crate) fn on_disk(blobs: &Path) -> Result<HashMap<String, u64>, DiskError> {
    let mut found = HashMap::new();
    for prefix in disk::names(blobs)? {
        let dir = blobs.join(prefix);
        for hex in disk::names(&dir)? {
            let path = dir.join(&hex);
            if is_hex(&hex) && path == blob_path(blobs, &hex) {
                let size = fs::symlink_metadata(&path)
                    .map_err(on("look at", &path))?
                    .len();
                found.insert(format!("{ALGORITHM}{hex}"), size);
            }
        }
    }
    Ok(found)
}

/// Whether a blob file is what its name says.
pub(crate) fn verify(blobs: &Path, digest: &str) -> Result<bool, DiskError> {
    let Some(hex) = hex_of(digest) else {
        return Ok(false);
    };
    let path = blob_path(blobs, hex);
    let mut file = File::open(&path).map_err(on("open", &path))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut HashWriter(&mut hash)).map_err(on("read", &path))?;
    Ok(to_hex(&hash.finalize()) == hex)
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file of a blob, for the sweep at start.
pub(crate) fn file_of(blobs: &Path, digest: &str) -> Option<PathBuf> {
    hex_of(digest).map(|hex| blob_path(blobs, hex))
}
