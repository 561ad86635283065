//! Unpacked layers as plain directories, for tests that need no store: every chain is a whole copy.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use crate::{
    digest::Digest,
    image::{AddError, BoxError, Layers},
    layer::{Beneath, Target, UnpackError, Unpacked},
};

/// One directory per chain.
#[derive(Debug, Clone)]
pub struct DirLayers {
    dir: Arc<PathBuf>,
}

impl DirLayers {
    /// Directories in this existing directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: Arc::new(dir.into()),
        }
    }

    /// The chains that are there.
    pub fn count(&self) -> usize {
        fs::read_dir(&*self.dir)
            .expect("the directory exists")
            .count()
    }
}

impl Layers for DirLayers {
    type Snapshot = PathBuf;

    fn empty(&self) -> Result<PathBuf, BoxError> {
        let dir = self.dir.join("empty");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn find(&self, chain: &Digest) -> Result<Option<PathBuf>, BoxError> {
        Ok(Some(self.dir.join(chain.hex())).filter(|dir| dir.exists()))
    }

    fn add(
        &self,
        chain: &Digest,
        parent: Option<&PathBuf>,
        fill: &mut dyn FnMut(Target<'_>) -> Result<Unpacked, UnpackError>,
    ) -> Result<PathBuf, AddError> {
        let failed = |error: std::io::Error| AddError::Store(error.into());
        let (draft, done) = (self.dir.join("draft"), self.dir.join(chain.hex()));
        let beneath = match parent {
            None => fs::create_dir(&draft).map(|()| Beneath::Nothing),
            Some(parent) => copy(parent, &draft).map(|()| Beneath::Layers),
        }
        .map_err(failed)?;
        let root = fs::File::open(&draft).map_err(failed)?;
        if let Err(error) = fill(Target {
            root: root.as_fd(),
            beneath,
        }) {
            fs::remove_dir_all(&draft).map_err(failed)?;
            return Err(AddError::Unpack(error));
        }
        fs::rename(&draft, &done).map_err(failed)?;
        Ok(done)
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other("cp failed"))
    }
}
