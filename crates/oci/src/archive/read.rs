//! Reading archives. Like everything a stranger made: every blob is checked against its name, names that lead out are refused,
//! and nothing counts before all of it has been seen.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::Arc,
};

use serde::Deserialize;

use super::{BLOBS, DOCKER, INDEX, NAME, TAG};
use crate::{
    blobs::{Blobs, CommitError},
    config::{ConfigError, ImageConfig},
    digest::Digest,
    layer::{Compression, FileEntry, Limits, UnpackError, files},
    manifest::{Descriptor, Document, DocumentError, MAX_DOCUMENT, Manifest, media_type},
    pack::Format,
    platform::Platform,
};

/// Most bytes of all documents that are kept in memory.
const DOCUMENTS_MAX: u64 = 64 << 20;
/// Most names in an archive.
const NAMES_MAX: u64 = 200_000;
/// How often a name may lead to another.
const LINKS_MAX: usize = 8;
/// How deep indexes may be nested.
const NESTING_MAX: usize = 4;

/// Why an archive holds no usable image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is no tar, or a broken one.
    #[error("cannot read the image archive")]
    Read(#[source] UnpackError),
    /// A name that leads out of it.
    #[error("image archive names `{0}`, which is refused")]
    Name(String),
    /// Documents too large to be any.
    #[error("`{name}` of the image archive has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Which.
        name: String,
        /// How many bytes.
        size: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// A blob is not what its name says.
    #[error("`{name}` of the image archive is not what its name says")]
    Blob {
        /// Which.
        name: String,
        /// What is wrong.
        #[source]
        source: CommitError,
    },
    /// A blob cannot be kept.
    #[error("cannot keep `{name}` of the image archive")]
    Store {
        /// Which.
        name: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// Neither an OCI layout nor what `docker save` writes.
    #[error("the file is no image archive: it has neither `index.json` nor `manifest.json`")]
    NoImage,
    /// A document cannot be read.
    #[error("`{name}` of the image archive is unusable")]
    Document {
        /// Which.
        name: String,
        /// What is wrong.
        #[source]
        source: DocumentError,
    },
    /// Docker's manifest cannot be read.
    #[error("`manifest.json` of the image archive is unusable")]
    Docker(#[source] serde_json::Error),
    /// A config cannot be read.
    #[error("config `{name}` of the image archive is unusable")]
    Config {
        /// Which.
        name: String,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// Something that is named is not there.
    #[error("the image archive lacks `{0}`")]
    Missing(String),
    /// A layer of another size than the manifest says.
    #[error("layer {digest} of the image archive has {found} bytes instead of {expected}")]
    Size {
        /// Which.
        digest: Digest,
        /// As announced.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// None of its images is the one asked for.
    #[error("no manifest for platform {platform}{}", tagged(tag))]
    NoMatch {
        /// The platform asked for.
        platform: Platform,
        /// The tag asked for; may be empty.
        tag: String,
    },
}

fn tagged(tag: &str) -> String {
    if tag.is_empty() {
        String::new()
    } else {
        format!(" and tag {tag}")
    }
}

/// What an archive holds; its blobs are kept already.
#[derive(Debug, Default)]
pub struct Contents {
    documents: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
}

/// An image of an archive.
#[derive(Debug, Clone)]
pub struct Found {
    /// Digest of its manifest; made up for archives of `docker save`.
    pub digest: Digest,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its config.
    pub config: ImageConfig,
}

/// Reads an archive, compressed or not, and keeps its blobs.
///
/// # Errors
/// What is wrong with the archive, or the store's.
pub fn read(archive: impl Read + Send, blobs: &dyn Blobs) -> Result<Contents, ArchiveError> {
    let mut contents = Contents::default();
    let mut documents = 0;
    let limits = Limits {
        entries: NAMES_MAX,
        ..Limits::default()
    };
    let mut failed = None;
    let done = files(archive, &limits, &mut |entry, data| {
        let result = contents.take(entry, data, blobs, &mut documents);
        result.map_err(|e| match e {
            Stop::Unpack(e) => e,
            Stop::Archive(e) => {
                failed = Some(e);
                UnpackError::Read {
                    offset: 0,
                    source: io::ErrorKind::Other.into(),
                }
            }
        })
    });
    match (failed, done) {
        (Some(e), _) => Err(e),
        (None, Err(e)) => Err(ArchiveError::Read(e)),
        (None, Ok(())) => Ok(contents),
    }
}

enum Stop {
    Unpack(UnpackError),
    Archive(ArchiveError),
}

impl From<ArchiveError> for Stop {
    fn from(e: ArchiveError) -> Self {
        Self::Archive(e)
    }
}

type Data<'a> =
    &'a mut dyn FnMut(&mut dyn FnMut(&[u8]) -> Result<(), UnpackError>) -> Result<(), UnpackError>;

impl Contents {
    fn take(
        &mut self,
        entry: &FileEntry<'_>,
        data: Data<'_>,
        blobs: &dyn Blobs,
        documents: &mut u64,
    ) -> Result<(), Stop> {
        let name = clean("", &String::from_utf8_lossy(entry.name))?;
        if let Some((link, symbolic)) = entry.link {
            let dir = if symbolic { parent(&name) } else { "" };
            // A link that leads out matters only to whoever follows it.
            if let Ok(target) = clean(dir, &String::from_utf8_lossy(link)) {
                self.links.insert(name, target);
            }
            return Ok(());
        }
        let keep = |source| ArchiveError::Store {
            name: name.clone(),
            source,
        };
        let hex = name.strip_prefix(BLOBS).map(|hex| format!("sha256:{hex}"));
        if let Some(digest) = hex.and_then(|d| d.parse::<Digest>().ok()) {
            if blobs.open(&digest).map_err(keep)?.is_none() {
                let mut ingest = blobs.ingest(&digest, entry.size).map_err(keep)?;
                let mut skip = ingest.offset();
                let mut trouble = None;
                data(&mut |bytes| {
                    let from = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                    skip -= from as u64;
                    ingest
                        .write(bytes.get(from..).unwrap_or_default())
                        .map_err(|e| {
                            trouble = Some(e);
                            stopped()
                        })
                })
                .map_err(|e| trouble.map_or(Stop::Unpack(e), |e| keep(e).into()))?;
                ingest.commit().map_err(|source| ArchiveError::Blob {
                    name: name.clone(),
                    source,
                })?;
            }
            self.blobs.insert(name, (digest, entry.size));
            return Ok(());
        }
        let base = name.rsplit('/').next().unwrap_or_default();
        if base.ends_with(".json") || base == "oci-layout" {
            if entry.size > MAX_DOCUMENT || *documents + entry.size > DOCUMENTS_MAX {
                return Err(ArchiveError::TooLarge {
                    name,
                    size: entry.size,
                    limit: MAX_DOCUMENT,
                }
                .into());
            }
            *documents += entry.size;
            let mut bytes = Vec::new();
            data(&mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })
            .map_err(Stop::Unpack)?;
            self.documents.insert(name, bytes);
        } else if base.contains(".tar") {
            // A layer of `docker save`, which no name says the digest of.
            let mut fresh = blobs.fresh().map_err(keep)?;
            let mut trouble = None;
            data(&mut |bytes| {
                fresh.write_all(bytes).map_err(|e| {
                    trouble = Some(e);
                    stopped()
                })
            })
            .map_err(|e| trouble.map_or(Stop::Unpack(e), |e| keep(e).into()))?;
            let blob = fresh.commit().map_err(keep)?;
            self.blobs.insert(name, blob);
        }
        Ok(())
    }

    /// The image for a platform; with a tag, the one that has it.
    ///
    /// # Errors
    /// There is none, or it is incomplete.
    pub fn find(
        &self,
        blobs: &Arc<dyn Blobs>,
        platform: &Platform,
        tag: &str,
    ) -> Result<Found, ArchiveError> {
        let index = self.documents.get(INDEX);
        let docker = self.documents.get(DOCKER);
        if index.is_none() && docker.is_none() {
            return Err(ArchiveError::NoImage);
        }
        if let Some(index) = index
            && let Some(found) = self.in_index(blobs, index, platform, tag)?
        {
            return Ok(found);
        }
        if let Some(docker) = docker
            && let Some(found) = self.in_docker(blobs, docker, platform, tag)?
        {
            return Ok(found);
        }
        Err(ArchiveError::NoMatch {
            platform: platform.clone(),
            tag: tag.to_owned(),
        })
    }

    fn in_index(
        &self,
        blobs: &Arc<dyn Blobs>,
        bytes: &[u8],
        platform: &Platform,
        tag: &str,
    ) -> Result<Option<Found>, ArchiveError> {
        let unusable = |name: &str| {
            let name = name.to_owned();
            move |source| ArchiveError::Document { name, source }
        };
        let Document::Index(index) =
            Document::parse(bytes, Some(media_type::OCI_INDEX)).map_err(unusable(INDEX))?
        else {
            return Err(ArchiveError::NoImage);
        };
        let mut pending: Vec<(Descriptor, usize)> = index
            .manifests
            .into_iter()
            .filter(|entry| tag.is_empty() || has_tag(entry, tag))
            .map(|entry| (entry, 0))
            .rev()
            .collect();
        let mut best: Option<(u32, Found)> = None;
        while let Some((entry, depth)) = pending.pop() {
            if let Some(fields) = &entry.platform
                && platform.preference(&fields.platform()).is_none()
            {
                continue;
            }
            let name = entry.digest.to_string();
            let bytes = self.document(blobs, &entry)?;
            match Document::parse(&bytes, Some(&entry.media_type)).map_err(unusable(&name))? {
                Document::Index(inner) if depth < NESTING_MAX => {
                    pending.extend(inner.manifests.into_iter().rev().map(|m| (m, depth + 1)));
                }
                Document::Index(_) => {}
                Document::Manifest(manifest) => {
                    let config = self.document(blobs, &manifest.config)?;
                    let config = ImageConfig::parse_for(&config, &manifest).map_err(|source| {
                        ArchiveError::Config {
                            name: manifest.config.digest.to_string(),
                            source,
                        }
                    })?;
                    let Some(score) = platform.preference(&config.platform()) else {
                        continue;
                    };
                    if best.as_ref().is_none_or(|(other, _)| score < *other) {
                        let found = Found {
                            digest: entry.digest,
                            manifest: *manifest,
                            config,
                        };
                        best = Some((score, found));
                    }
                }
            }
        }
        let Some((_, found)) = best else {
            return Ok(None);
        };
        for layer in &found.manifest.layers {
            let (_, size) = self.blob(&format!("{BLOBS}{}", layer.digest.hex()))?;
            if size != layer.size {
                return Err(ArchiveError::Size {
                    digest: layer.digest,
                    expected: layer.size,
                    found: size,
                });
            }
        }
        Ok(Some(found))
    }

    fn in_docker(
        &self,
        blobs: &Arc<dyn Blobs>,
        bytes: &[u8],
        platform: &Platform,
        tag: &str,
    ) -> Result<Option<Found>, ArchiveError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry {
            config: String,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
            #[serde(default)]
            layers: Option<Vec<String>>,
        }
        let entries: Vec<Entry> = serde_json::from_slice(bytes).map_err(ArchiveError::Docker)?;
        for entry in entries {
            let tags = entry.repo_tags.unwrap_or_default();
            let wanted = |name: &String| name == tag || name.rsplit(':').next() == Some(tag);
            if !tag.is_empty() && !tags.iter().any(wanted) {
                continue;
            }
            let name = clean("", &entry.config)?;
            let config_bytes = match self.documents.get(&self.followed(&name)) {
                Some(bytes) => bytes.clone(),
                None => {
                    let (digest, _) = self.blob(&name)?;
                    self.stored(blobs, &name, digest)?
                }
            };
            let mut layers = Vec::new();
            for layer in entry.layers.unwrap_or_default() {
                let name = clean("", &layer)?;
                let (digest, size) = self.blob(&name)?;
                let format = self.format(blobs, &name, digest)?;
                layers.push(descriptor(format.media_type(true), digest, size));
            }
            let config = descriptor(
                media_type::DOCKER_CONFIG,
                Digest::of(&config_bytes),
                config_bytes.len() as u64,
            );
            let manifest = Manifest {
                schema_version: 2,
                media_type: media_type::DOCKER_MANIFEST.to_owned(),
                config,
                layers,
                annotations: Default::default(),
            };
            let config = ImageConfig::parse_for(&config_bytes, &manifest)
                .map_err(|source| ArchiveError::Config { name, source })?;
            if platform.preference(&config.platform()).is_none() {
                continue;
            }
            let bytes = serde_json::to_vec(&manifest).unwrap_or_default();
            return Ok(Some(Found {
                digest: Digest::of(&bytes),
                manifest,
                config,
            }));
        }
        Ok(None)
    }

    /// A blob by its name in the archive.
    fn blob(&self, name: &str) -> Result<(Digest, u64), ArchiveError> {
        self.blobs
            .get(&self.followed(name))
            .copied()
            .ok_or_else(|| ArchiveError::Missing(name.to_owned()))
    }

    fn followed(&self, name: &str) -> String {
        let mut at = name;
        for _ in 0..LINKS_MAX {
            match self.links.get(at) {
                Some(next) => at = next,
                None => break,
            }
        }
        at.to_owned()
    }

    fn document(
        &self,
        blobs: &Arc<dyn Blobs>,
        entry: &Descriptor,
    ) -> Result<Vec<u8>, ArchiveError> {
        let name = format!("{BLOBS}{}", entry.digest.hex());
        let (digest, _) = self.blob(&name)?;
        self.stored(blobs, &name, digest)
    }

    fn stored(
        &self,
        blobs: &Arc<dyn Blobs>,
        name: &str,
        digest: Digest,
    ) -> Result<Vec<u8>, ArchiveError> {
        blobs
            .read(&digest, MAX_DOCUMENT)
            .map_err(|source| ArchiveError::Store {
                name: name.to_owned(),
                source,
            })?
            .ok_or_else(|| ArchiveError::Missing(name.to_owned()))
    }

    fn format(
        &self,
        blobs: &Arc<dyn Blobs>,
        name: &str,
        digest: Digest,
    ) -> Result<Format, ArchiveError> {
        let start = || {
            let mut start = [0; 4];
            if let Some(mut blob) = blobs.open(&digest)? {
                let _ = blob.read(&mut start)?;
            }
            Ok(start)
        };
        let start = start().map_err(|source| ArchiveError::Store {
            name: name.to_owned(),
            source,
        })?;
        Ok(Compression::detect(&start).into())
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: Default::default(),
    }
}

fn has_tag(entry: &Descriptor, tag: &str) -> bool {
    let note = |key| entry.annotations.get(key).map(String::as_str);
    note(TAG) == Some(tag)
        || note(NAME).is_some_and(|name| name == tag || name.rsplit(':').next() == Some(tag))
}

/// An error that ends the reading; the real one is kept beside.
fn stopped() -> UnpackError {
    UnpackError::Read {
        offset: 0,
        source: io::ErrorKind::Other.into(),
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// `name`, seen from `dir`, without `.` and `..`; refused when it leads out.
fn clean(dir: &str, name: &str) -> Result<String, ArchiveError> {
    let mut parts: Vec<&str> = if name.starts_with('/') {
        Vec::new()
    } else {
        dir.split('/').filter(|p| !p.is_empty()).collect()
    };
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return Err(ArchiveError::Name(name.chars().take(200).collect()));
                }
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}
