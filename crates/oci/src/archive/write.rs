//! Writing archives: the same images give the same bytes.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write},
};

use serde_json::json;

use super::{BLOBS, DOCKER, INDEX, LAYOUT, NAME, TAG};
use crate::{
    assemble::{Document, Image, MediaTypes, index},
    blobs::Blobs,
    digest::Digest,
    manifest::{Descriptor, Index, media_type},
    pack::header::{BLOCK, Head, encode, padding},
    reference::Reference,
};

/// An archive to be written.
#[derive(Debug, Clone)]
pub struct Archive {
    /// What is written besides blobs, by name.
    files: Vec<(&'static str, Vec<u8>)>,
    documents: BTreeMap<Digest, Vec<u8>>,
    blobs: BTreeMap<Digest, u64>,
    /// Digest of what the index names.
    root: Digest,
}

impl Archive {
    /// An archive of one image, or of several for different platforms. With a name, whoever loads it gives it that name.
    pub fn new(images: &[Image], media_types: MediaTypes, name: Option<&Reference>) -> Self {
        let mut documents = BTreeMap::new();
        let mut blobs = BTreeMap::new();
        let mut keep = |(descriptor, bytes): &Document| {
            documents.insert(descriptor.digest, bytes.clone());
        };
        for image in images {
            keep(&image.config);
            keep(&image.manifest);
            blobs.extend(image.layers.iter().map(|layer| (layer.digest, layer.size)));
        }
        let (mut root, docker) = match images {
            [only] => {
                let path = |digest: &Digest| format!("{BLOBS}{}", digest.hex());
                let docker = json!([{
                    "Config": path(&only.config.0.digest),
                    "RepoTags": name.map(|name| vec![name.clone().or_latest().familiar()]),
                    "Layers": only.layers.iter().map(|l| path(&l.digest)).collect::<Vec<_>>(),
                }]);
                (
                    only.manifest.0.clone(),
                    Some(docker.to_string().into_bytes()),
                )
            }
            several => {
                let list = index(several, media_types);
                keep(&list);
                (list.0, None)
            }
        };
        if let Some(name) = name {
            let name = name.clone().or_latest();
            let tag = name.tag().unwrap_or("latest").to_owned();
            root.annotations.insert(NAME.to_owned(), name.to_string());
            root.annotations.insert(TAG.to_owned(), tag);
        }
        let digest = root.digest;
        let mut files = vec![(LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
        files.push((INDEX, index_json(root)));
        files.extend(docker.map(|docker| (DOCKER, docker)));
        Self {
            files,
            documents,
            blobs,
            root: digest,
        }
    }

    /// Digest of the image's manifest or index.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// A digest of everything in it.
    pub fn digest(&self) -> Digest {
        let named: Vec<String> = self
            .files
            .iter()
            .map(|(_, b)| Digest::of(b).hex())
            .collect();
        Digest::of(format!("{} {}", self.root, named.join(" ")).as_bytes())
    }

    /// Writes it. Layers come from `blobs`.
    ///
    /// # Errors
    /// A blob that is not there or cannot be read, or a failed write.
    pub fn write(&self, blobs: &dyn Blobs, out: &mut dyn Write) -> io::Result<()> {
        for dir in ["blobs/", BLOBS] {
            out.write_all(&encode(&Head {
                name: dir.as_bytes(),
                kind: b'5',
                mode: 0o755,
                ..Head::default()
            }))?;
        }
        let mut names: Vec<(&Digest, Option<&Vec<u8>>, u64)> = self
            .documents
            .iter()
            .map(|(digest, bytes)| (digest, Some(bytes), bytes.len() as u64))
            .chain(
                self.blobs
                    .iter()
                    .map(|(digest, size)| (digest, None, *size)),
            )
            .collect();
        names.sort_by_key(|(digest, ..)| **digest);
        for (digest, bytes, size) in names {
            begin(out, &format!("{BLOBS}{}", digest.hex()), size)?;
            match bytes {
                Some(bytes) => out.write_all(bytes)?,
                None => {
                    let blob = blobs.open(digest)?.ok_or_else(|| {
                        io::Error::new(
                            io::ErrorKind::NotFound,
                            format!("layer {digest} is not here any more"),
                        )
                    })?;
                    let copied = io::copy(&mut blob.take(size), out)?;
                    if copied != size {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            format!("layer {digest} has {copied} bytes instead of {size}"),
                        ));
                    }
                }
            }
            end(out, size)?;
        }
        for (name, bytes) in &self.files {
            begin(out, name, bytes.len() as u64)?;
            out.write_all(bytes)?;
            end(out, bytes.len() as u64)?;
        }
        out.write_all(&[0; 2 * BLOCK])
    }
}

fn begin(out: &mut dyn Write, name: &str, size: u64) -> io::Result<()> {
    out.write_all(&encode(&Head {
        name: name.as_bytes(),
        kind: b'0',
        mode: 0o644,
        size,
        ..Head::default()
    }))
}

fn end(out: &mut dyn Write, size: u64) -> io::Result<()> {
    out.write_all([0; BLOCK].get(..padding(size)).unwrap_or_default())
}

fn index_json(root: Descriptor) -> Vec<u8> {
    let index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        manifests: vec![root],
        annotations: BTreeMap::new(),
    };
    serde_json::to_vec(&index).unwrap_or_default()
}
