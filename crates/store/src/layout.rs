//! Where things are in the state directory. Names on disk are ours, never a user's.

use std::path::{Path, PathBuf};

/// The paths below one state directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Layout {
        Layout { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directories that always exist.
    pub(crate) fn dirs(&self) -> [PathBuf; 8] {
        [
            "blobs",
            "blobs/sha256",
            "ingest",
            "layers",
            "drafts",
            "volumes",
            "tmp",
            "trash",
        ]
        .map(|name| self.root.join(name))
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// A file that is there only to be removed when the disk is full.
    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(crate) fn format(&self) -> PathBuf {
        self.root.join("format.json")
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.root.join("db")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, id: u64) -> PathBuf {
        self.root.join("layers").join(name(id))
    }

    pub(crate) fn drafts(&self) -> PathBuf {
        self.root.join("drafts")
    }

    pub(crate) fn draft(&self, id: u64) -> PathBuf {
        self.root.join("drafts").join(name(id))
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
}

/// The name of a numbered thing.
pub(crate) fn name(id: u64) -> String {
    format!("{id:x}")
}

/// The number of a name that [`name`] made.
pub(crate) fn id_of(name: &str) -> Option<u64> {
    let id = u64::from_str_radix(name, 16).ok()?;
    (self::name(id) == name).then_some(id)
}
