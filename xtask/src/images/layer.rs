//! Writing one layer: a tar with every path once, compressed and hashed in the same pass, byte for byte the same each time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::{Compression as Level, GzBuilder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::recipe::Compression;
use crate::files::hex;

/// The modification time of files that are ours: 2025-01-01.
const TIME: u64 = 1_735_689_600;

/// A finished layer, stored as a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) diff_id: String,
    /// Folders that this layer makes, so that a layer above need not.
    pub(crate) dirs: BTreeSet<String>,
}

/// Mode, owners and time of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
}

impl Attributes {
    /// Those of what is ours: root's, with the time that we give everything.
    pub(crate) fn ours(mode: u32) -> Self {
        Attributes {
            mode,
            uid: 0,
            gid: 0,
            mtime: TIME,
        }
    }
}

/// What is at a path.
pub(crate) enum Kind<'a> {
    File { size: u64, data: &'a mut dyn Read },
    Dir,
    Symlink(&'a str),
    HardLink(&'a str),
}

/// A layer being written. The first entry for a path wins: two in one layer make Docker refuse it.
pub(crate) struct Layer {
    tar: Builder<Raw>,
    temporary: PathBuf,
    blobs: PathBuf,
    media_type: &'static str,
    /// Paths in this layer; true for folders.
    written: BTreeMap<String, bool>,
    /// Folders of the layers below.
    below: BTreeSet<String>,
}

impl Layer {
    /// Starts a layer that will become a blob in the folder `blobs`. `name` tells layers apart that are made at once.
    pub(crate) fn create(
        blobs: &Path,
        name: &str,
        compression: Compression,
        below: BTreeSet<String>,
    ) -> Result<Self> {
        let temporary = blobs.join(format!(
            ".layer-{}-{}",
            std::process::id(),
            name.replace('/', "_")
        ));
        let file = File::create(&temporary)
            .with_context(|| format!("cannot create `{}`", temporary.display()))?;
        let packed = Packed {
            file: BufWriter::with_capacity(1 << 18, file),
            hash: Sha256::new(),
            size: 0,
        };
        let (coder, media_type) = match compression {
            Compression::Gzip => {
                let gzip = GzBuilder::new()
                    .mtime(0)
                    .operating_system(255)
                    .write(packed, Level::new(2));
                (
                    Coder::Gzip(gzip),
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                )
            }
            Compression::Zstd => {
                let zstd =
                    zstd::Encoder::new(packed, 3).context("cannot start the zstd encoder")?;
                (
                    Coder::Zstd(zstd),
                    "application/vnd.oci.image.layer.v1.tar+zstd",
                )
            }
            Compression::None => (
                Coder::None(packed),
                "application/vnd.oci.image.layer.v1.tar",
            ),
        };
        let tar = Builder::new(Raw {
            coder,
            hash: Sha256::new(),
        });
        Ok(Layer {
            tar,
            temporary,
            blobs: blobs.to_owned(),
            media_type,
            written: BTreeMap::new(),
            below,
        })
    }

    /// Adds an entry unless its path is there already. `path` is relative, without `./` and without a slash at the end.
    pub(crate) fn add(&mut self, path: &str, kind: Kind<'_>, attributes: Attributes) -> Result<()> {
        let is_dir = matches!(kind, Kind::Dir);
        if self.written.contains_key(path) || (is_dir && self.below.contains(path)) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            match self.written.get(parent) {
                Some(true) => {}
                Some(false) => bail!("`{path}` would lie below `{parent}`, which is not a folder"),
                None => self.dir(parent, 0o755, 0)?,
            }
        }
        if let Kind::HardLink(target) = kind
            && !self.written.contains_key(target)
        {
            bail!("`{path}` is a hard link to `{target}`, which is not in the layer");
        }
        self.write_entry(path, kind, attributes)
            .with_context(|| format!("cannot write `{path}` to the layer"))?;
        self.written.insert(path.to_owned(), is_dir);
        Ok(())
    }

    fn write_entry(
        &mut self,
        path: &str,
        kind: Kind<'_>,
        attributes: Attributes,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(attributes.mode & 0o7777);
        header.set_uid(attributes.uid);
        header.set_gid(attributes.gid);
        header.set_mtime(attributes.mtime);
        header.set_size(0);
        match kind {
            Kind::File { size, data } => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                self.tar.append_data(&mut header, path, data.take(size))
            }
            Kind::Dir => {
                header.set_entry_type(EntryType::Directory);
                self.tar
                    .append_data(&mut header, format!("{path}/"), io::empty())
            }
            Kind::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                self.tar.append_link(&mut header, path, target)
            }
            Kind::HardLink(target) => {
                header.set_entry_type(EntryType::Link);
                self.tar.append_link(&mut header, path, target)
            }
        }
    }

    /// A file of ours, owned by root.
    pub(crate) fn file(&mut self, path: &str, contents: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        self.owned_file(path, contents, mode, 0)
    }

    /// A file of ours that belongs to root and a group.
    pub(crate) fn owned_file(
        &mut self,
        path: &str,
        contents: impl AsRef<[u8]>,
        mode: u32,
        gid: u64,
    ) -> Result<()> {
        let mut contents = contents.as_ref();
        let kind = Kind::File {
            size: contents.len() as u64,
            data: &mut contents,
        };
        self.add(
            path,
            kind,
            Attributes {
                gid,
                ..Attributes::ours(mode)
            },
        )
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, Kind::Symlink(target), Attributes::ours(0o777))
    }

    /// A folder of ours with this owner and group. A layer below may have it with other owners, so it is written anyway.
    pub(crate) fn dir(&mut self, path: &str, mode: u32, owner: u64) -> Result<()> {
        let inherited = self.below.remove(path) && mode == 0o755 && owner == 0;
        if inherited {
            self.below.insert(path.to_owned());
            return Ok(());
        }
        self.add(
            path,
            Kind::Dir,
            Attributes {
                uid: owner,
                gid: owner,
                ..Attributes::ours(mode)
            },
        )
    }

    /// Ends the layer and names its blob by its digest.
    pub(crate) fn finish(self) -> Result<Stored> {
        let Layer {
            tar,
            temporary,
            blobs,
            media_type,
            written,
            ..
        } = self;
        let store = || -> io::Result<Stored> {
            let Raw { coder, hash } = tar.into_inner()?;
            let packed = match coder {
                Coder::Gzip(gzip) => gzip.finish()?,
                Coder::Zstd(zstd) => zstd.finish()?,
                Coder::None(packed) => packed,
            };
            let digest = hex(&packed.hash.finalize());
            packed
                .file
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            fs::rename(&temporary, blobs.join(&digest))?;
            Ok(Stored {
                media_type: media_type.to_owned(),
                digest: format!("sha256:{digest}"),
                size: packed.size,
                diff_id: format!("sha256:{}", hex(&hash.finalize())),
                dirs: written
                    .into_iter()
                    .filter_map(|(path, is_dir)| is_dir.then_some(path))
                    .collect(),
            })
        };
        store().with_context(|| format!("cannot store the layer `{}`", temporary.display()))
    }
}

/// Takes the tar: hashes it and passes it to the coder.
struct Raw {
    coder: Coder,
    hash: Sha256,
}

enum Coder {
    Gzip(GzEncoder<Packed>),
    Zstd(zstd::Encoder<'static, Packed>),
    None(Packed),
}

impl Write for Raw {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = match &mut self.coder {
            Coder::Gzip(gzip) => gzip.write(data)?,
            Coder::Zstd(zstd) => zstd.write(data)?,
            Coder::None(packed) => packed.write(data)?,
        };
        self.hash.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the compressed bytes: hashes, counts and writes them.
struct Packed {
    file: BufWriter<File>,
    hash: Sha256,
    size: u64,
}

impl Write for Packed {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write_all(data)?;
        self.hash.update(data);
        self.size += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("xtask-layer-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn names(path: &Path) -> Vec<String> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let entries = archive.entries().unwrap();
        entries
            .map(|e| String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap())
            .collect()
    }

    #[test]
    fn the_first_entry_of_a_path_wins_and_parents_come_first() {
        let dir = scratch("first");
        let mut layer = Layer::create(
            &dir,
            "t",
            Compression::None,
            BTreeSet::from(["etc".to_owned()]),
        )
        .unwrap();
        layer.file("usr/bin/x", "one", 0o755).unwrap();
        layer.file("usr/bin/x", "other", 0o755).unwrap();
        layer.file("etc/y", "", 0o644).unwrap();
        let stored = layer.finish().unwrap();
        let names = names(&dir.join(&stored.digest[7..]));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(names, ["usr/", "usr/bin/", "usr/bin/x", "etc/y"]);
        assert_eq!(
            stored.dirs.into_iter().collect::<Vec<_>>(),
            ["usr", "usr/bin"]
        );
        assert_eq!(stored.digest, stored.diff_id);
    }

    #[test]
    fn the_same_contents_give_the_same_digest() {
        let dir = scratch("same");
        let build = |compression| {
            let mut layer = Layer::create(&dir, "t", compression, BTreeSet::new()).unwrap();
            layer.file("a", vec![7; 100_000], 0o600).unwrap();
            layer.finish().unwrap()
        };
        for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
            assert_eq!(build(compression).digest, build(compression).digest);
        }
        assert_eq!(
            build(Compression::Gzip).diff_id,
            build(Compression::None).diff_id
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn nothing_is_written_below_a_link() {
        let dir = scratch("below");
        let mut layer = Layer::create(&dir, "t", Compression::None, BTreeSet::new()).unwrap();
        layer.link("lib", "usr/lib").unwrap();
        let error = layer.file("lib/x", "", 0o644).unwrap_err();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            error.to_string(),
            "`lib/x` would lie below `lib`, which is not a folder"
        );
    }
}
