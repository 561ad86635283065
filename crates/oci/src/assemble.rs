//! From layers and a configuration to the documents of an image. Pure: the same parts give the same bytes.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::{
    config::{ImageConfig, RootFs, RunConfig},
    digest::Digest,
    manifest::{Descriptor, Index, Manifest, media_type as types},
    platform::{Platform, PlatformFields},
    time::rfc3339,
};

/// Whose names of media types to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaTypes {
    /// The OCI's.
    Oci,
    /// Docker's.
    Docker,
}

/// A layer that is ready to be named in a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Digest of the tar inside.
    pub diff_id: Digest,
}

/// All that an image for one platform is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What it is for.
    pub platform: Platform,
    /// How to run it.
    pub run: RunConfig,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// One entry per layer at least.
    pub history: Vec<Value>,
    /// Seconds since 1970.
    pub created: Option<i64>,
    /// Who made it.
    pub author: Option<Value>,
    /// For the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// A document and its descriptor.
pub type Document = (Descriptor, Vec<u8>);

/// An image for one platform.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// What it is for.
    pub platform: Platform,
    /// Its config.
    pub config: Document,
    /// Its manifest; the descriptor has platform and annotations, as an index wants them.
    pub manifest: Document,
    /// Its layers' blobs, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An entry of a history.
pub fn history(created: Option<i64>, by: &str) -> Value {
    let mut entry = serde_json::Map::new();
    if let Some(created) = created {
        entry.insert("created".into(), rfc3339(created).into());
    }
    entry.insert("created_by".into(), by.into());
    entry.insert("comment".into(), "bodkin".into());
    Value::Object(entry)
}

/// Makes the config and the manifest of an image.
pub fn image(parts: Parts, media_types: MediaTypes) -> Image {
    let docker = media_types == MediaTypes::Docker;
    let Platform {
        os,
        architecture,
        variant,
    } = parts.platform.clone();
    let mut extra = serde_json::Map::new();
    if let Some(author) = parts.author {
        extra.insert("author".to_owned(), author);
    }
    let config = ImageConfig {
        architecture,
        os,
        variant,
        created: parts.created.map(rfc3339),
        config: parts.run,
        rootfs: RootFs {
            diff_ids: parts.layers.iter().map(|layer| layer.diff_id).collect(),
            ..RootFs::default()
        },
        history: parts.history,
        extra,
    };
    let config = document(
        &config,
        if docker {
            types::DOCKER_CONFIG
        } else {
            types::OCI_CONFIG
        },
    );
    let media_type = if docker {
        types::DOCKER_MANIFEST
    } else {
        types::OCI_MANIFEST
    };
    let layers: Vec<Descriptor> = parts
        .layers
        .into_iter()
        .map(|layer| layer.descriptor)
        .collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type.to_owned(),
        config: config.0.clone(),
        layers: layers.clone(),
        annotations: parts.annotations.clone(),
    };
    let mut manifest = document(&manifest, media_type);
    manifest.0.platform = Some(PlatformFields::from(&parts.platform));
    manifest.0.annotations = parts.annotations;
    Image {
        platform: parts.platform,
        config,
        manifest,
        layers,
    }
}

/// Makes the index of several images.
pub fn index(images: &[Image], media_types: MediaTypes) -> Document {
    let media_type = match media_types {
        MediaTypes::Oci => types::OCI_INDEX,
        MediaTypes::Docker => types::DOCKER_LIST,
    };
    let index = Index {
        schema_version: 2,
        media_type: media_type.to_owned(),
        manifests: images
            .iter()
            .map(|image| image.manifest.0.clone())
            .collect(),
        annotations: BTreeMap::new(),
    };
    document(&index, media_type)
}

fn document(value: &impl Serialize, media_type: &str) -> Document {
    // Maps with text keys only: this cannot fail.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        platform: None,
        annotations: BTreeMap::new(),
    };
    (descriptor, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(architecture: &str) -> Parts {
        Parts {
            platform: Platform::normalised("linux", architecture, ""),
            run: RunConfig {
                env: vec!["A=1".into()],
                ..RunConfig::default()
            },
            layers: vec![Layer {
                descriptor: Descriptor {
                    media_type: types::OCI_LAYER_GZIP.into(),
                    digest: Digest::of(b"blob"),
                    size: 4,
                    platform: None,
                    annotations: BTreeMap::new(),
                },
                diff_id: Digest::of(b"tar"),
            }],
            history: vec![history(Some(0), "x")],
            created: Some(0),
            author: None,
            annotations: BTreeMap::from([("a".into(), "b".into())]),
        }
    }

    #[test]
    fn documents_name_each_other_and_read_back() {
        let image = image(parts("amd64"), MediaTypes::Oci);
        assert_eq!(image.manifest.0.digest, Digest::of(&image.manifest.1));
        let manifest: Manifest = serde_json::from_slice(&image.manifest.1).unwrap();
        assert_eq!(manifest.config.digest, Digest::of(&image.config.1));
        assert_eq!(manifest.annotations["a"], "b");
        let config = ImageConfig::parse_for(&image.config.1, &manifest).unwrap();
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(config.rootfs.diff_ids, [Digest::of(b"tar")]);
        let again = self::image(parts("amd64"), MediaTypes::Oci);
        assert_eq!(image, again);
        let list = index(
            &[image, self::image(parts("arm64"), MediaTypes::Oci)],
            MediaTypes::Docker,
        );
        assert_eq!(list.0.media_type, types::DOCKER_LIST);
        let list: Index = serde_json::from_slice(&list.1).unwrap();
        assert_eq!(list.manifests[0].annotations["a"], "b");
        assert_eq!(list.platforms().len(), 2);
    }
}
