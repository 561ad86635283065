//! The store as the place for blobs and unpacked layers.

use std::{
    error::Error,
    fs::{self, File},
    io,
    path::PathBuf,
};

use store::{IngestError, Snapshot, Store};

use crate::{
    blobs::{Blobs, CommitError, Fresh, Ingest},
    digest::Digest,
    image::{AddError, BoxError, Layers},
    layer::{Beneath, Target, UnpackError, Unpacked},
};

impl Blobs for Store {
    fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = self.blobs().path(&digest.to_string()) else {
            return Ok(None);
        };
        if fs::metadata(&path)?.len() > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        fs::read(path).map(Some)
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        self.blobs()
            .path(&digest.to_string())
            .map(File::open)
            .transpose()
    }

    fn ingest(&self, digest: &Digest, size: u64) -> io::Result<Box<dyn Ingest>> {
        let ingest = self
            .blobs()
            .ingest(&digest.to_string(), Some(size))
            .map_err(io::Error::other)?;
        Ok(Box::new(Stored {
            ingest,
            digest: *digest,
        }))
    }

    fn fresh(&self) -> io::Result<Box<dyn Fresh>> {
        let fresh = self.blobs().fresh().map_err(io::Error::other)?;
        Ok(Box::new(New(fresh)))
    }
}

struct New(store::Fresh);

impl io::Write for New {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Fresh for New {
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)> {
        let (digest, size) = self.0.commit().map_err(io::Error::other)?;
        let digest = digest.parse().map_err(io::Error::other)?;
        Ok((digest, size))
    }
}

struct Stored {
    ingest: store::Ingest,
    digest: Digest,
}

impl Ingest for Stored {
    fn offset(&self) -> u64 {
        self.ingest.offset()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.ingest.write(bytes).map_err(io::Error::other)
    }

    fn commit(self: Box<Self>) -> Result<(), CommitError> {
        let digest = self.digest;
        self.ingest.commit().map_err(|error: IngestError| {
            if error.is_mismatch() {
                CommitError::Digest { expected: digest }
            } else {
                CommitError::Io {
                    digest,
                    source: io::Error::other(error),
                }
            }
        })
    }
}

impl Layers for Store {
    type Snapshot = Snapshot;

    fn empty(&self) -> Result<Snapshot, BoxError> {
        Ok(Store::empty(self)?)
    }

    fn find(&self, chain: &Digest) -> Result<Option<Snapshot>, BoxError> {
        Ok(self
            .results()
            .get(&key(chain))
            .and_then(|record| record.outputs.into_iter().next()))
    }

    fn add(
        &self,
        chain: &Digest,
        parent: Option<&Snapshot>,
        fill: &mut dyn FnMut(Target<'_>) -> Result<Unpacked, UnpackError>,
    ) -> Result<Snapshot, AddError> {
        let draft = self.draft(parent).map_err(failed)?;
        {
            let tree = draft.tree().map_err(failed)?;
            let beneath = if parent.is_some() {
                Beneath::Layers
            } else {
                Beneath::Nothing
            };
            fill(Target {
                root: tree.root(),
                beneath,
            })
            .map_err(AddError::Unpack)?;
        }
        let snapshot = draft.commit().map_err(failed)?;
        let outputs = std::slice::from_ref(&snapshot);
        self.results()
            .put(&key(chain), outputs, &[], &format!("image layers {chain}"));
        // A layer in which nothing changed leaves the stack as it was, which is another chain's.
        if parent != Some(&snapshot) {
            self.facts().put(
                CHAINS,
                &stack_name(&snapshot.layers()),
                chain.to_string().as_bytes(),
            );
        }
        Ok(snapshot)
    }
}

/// The space of facts that say which chain of an image's layers a stack of directories is.
const CHAINS: &str = "image-chain";

/// A name for a stack of layer directories, uppermost first. The numbers of layers are never used twice.
fn stack_name(layers: &[PathBuf]) -> String {
    let names: Vec<_> = layers
        .iter()
        .filter_map(|dir| dir.file_name()?.to_str())
        .collect();
    Digest::of(names.join("/").as_bytes()).hex()
}

/// The chain of image layers that a stack of directories (uppermost first) was unpacked from, if it was.
pub fn chain_of(store: &Store, layers: &[PathBuf]) -> Option<Digest> {
    let fact = store.facts().get(CHAINS, &stack_name(layers))?;
    std::str::from_utf8(&fact).ok()?.parse().ok()
}

fn failed(error: impl Error + Send + Sync + 'static) -> AddError {
    AddError::Store(error.into())
}

/// The key of an unpacked chain among the store's results.
fn key(chain: &Digest) -> [u8; 32] {
    *Digest::of(format!("image layers {chain}").as_bytes()).as_bytes()
}
