//! Manifests and indexes (OCI and Docker schema 2), read strictly: a document that could be taken for two things is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    platform::{Platform, PlatformFields},
};

/// Media types this crate reads and writes.
pub mod media_type {
    #![expect(missing_docs, reason = "the names say it all")]
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    /// What a request for a manifest must accept: without all four, registries convert or deny.
    pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
         application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";
}

/// The most bytes a manifest, an index or a config may have.
pub const MAX_DOCUMENT: u64 = 8 << 20;
/// The most layers an image may have.
pub const MAX_LAYERS: usize = 1000;

/// A pointer to content: what, how big, and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// Which platform the content is for; only in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformFields>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document; Docker manifests always have it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The image's config.
    pub config: Descriptor,
    /// Layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// Several images under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The images, most wanted first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// What a manifest request answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// A list of images.
    Index(Index),
}

/// Why bytes are not a manifest or index this crate accepts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Not JSON, or fields missing, doubled or of the wrong kind.
    #[error("not a valid image manifest")]
    Json(#[source] serde_json::Error),
    /// Schema version 1, or one nobody knows.
    #[error("manifest schema version {0} is not supported (only 2)")]
    Schema(u64),
    /// Both `layers` and `manifests`, or neither.
    #[error("document is {0} an image manifest {1} an index")]
    Ambiguous(&'static str, &'static str),
    /// Its own media type is not the one it was announced as, or not what its fields say.
    #[error("document says it is `{says}`, expected `{expected}`")]
    MediaType {
        /// The document's media type.
        says: String,
        /// Announced by the descriptor or implied by the fields.
        expected: String,
    },
    /// Too many layers or images.
    #[error("{count} {what} are more than the limit of {limit}")]
    TooMany {
        /// `layers` or `images`.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
}

impl Document {
    /// Reads a manifest or index. `announced` is the media type of the descriptor that led here, if any.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe<'a> {
            #[serde(default)]
            schema_version: u64,
            #[serde(default)]
            media_type: Option<std::borrow::Cow<'a, str>>,
            #[serde(default, borrow)]
            layers: Option<&'a serde_json::value::RawValue>,
            #[serde(default, borrow)]
            config: Option<&'a serde_json::value::RawValue>,
            #[serde(default, borrow)]
            manifests: Option<&'a serde_json::value::RawValue>,
        }
        let probe: Probe<'_> = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        if probe.schema_version != 2 {
            return Err(DocumentError::Schema(probe.schema_version));
        }
        let image = probe.layers.is_some() || probe.config.is_some();
        let index = match (image, probe.manifests.is_some()) {
            (true, true) => return Err(DocumentError::Ambiguous("both", "and")),
            (false, false) => return Err(DocumentError::Ambiguous("neither", "nor")),
            (_, index) => index,
        };
        let own = probe.media_type.as_deref().filter(|own| !own.is_empty());
        if let Some(says) = own {
            let implied = if index {
                is_index(says)
            } else {
                is_manifest(says)
            };
            let announced =
                announced.filter(|announced| is_index(announced) || is_manifest(announced));
            let expected = match announced {
                Some(announced) if announced != says => announced,
                _ if implied => says,
                _ if index => media_type::OCI_INDEX,
                _ => media_type::OCI_MANIFEST,
            };
            if expected != says {
                return Err(DocumentError::MediaType {
                    says: says.to_owned(),
                    expected: expected.to_owned(),
                });
            }
        } else if let Some(announced) = announced
            && (if index {
                is_manifest(announced)
            } else {
                is_index(announced)
            })
        {
            let says = if index {
                media_type::OCI_INDEX
            } else {
                media_type::OCI_MANIFEST
            };
            return Err(DocumentError::MediaType {
                says: says.to_owned(),
                expected: announced.to_owned(),
            });
        }
        let limit = |what, count| {
            if count > MAX_LAYERS {
                Err(DocumentError::TooMany {
                    what,
                    count,
                    limit: MAX_LAYERS,
                })
            } else {
                Ok(())
            }
        };
        if index {
            let index: Index = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
            limit("images", index.manifests.len())?;
            Ok(Self::Index(index))
        } else {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
            limit("layers", manifest.layers.len())?;
            Ok(Self::Manifest(Box::new(manifest)))
        }
    }
}

impl Index {
    /// The entry that suits `platform` best, the first among equals. Entries without a platform suit nobody unless there
    /// is but one entry.
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        let scored = |entry: &Descriptor| platform.preference(&entry.platform.as_ref()?.platform());
        let best = self
            .manifests
            .iter()
            .filter_map(|entry| scored(entry).map(|score| (score, entry)))
            .min_by_key(|(score, _)| *score)
            .map(|(_, entry)| entry);
        match (best, self.manifests.as_slice()) {
            (None, [only]) if only.platform.is_none() => Some(only),
            (best, _) => best,
        }
    }

    /// The platforms on offer, in order, attestations left out.
    pub fn platforms(&self) -> Vec<Platform> {
        self.manifests
            .iter()
            .filter_map(|entry| entry.platform.as_ref().map(PlatformFields::platform))
            .filter(|platform| platform.os != "unknown")
            .collect()
    }
}

/// Whether the media type is that of an index.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, media_type::OCI_INDEX | media_type::DOCKER_LIST)
}

/// Whether the media type is that of an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST
    )
}

/// Docker writes `null` where it means nothing.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str, announced: Option<&str>) -> Result<Document, DocumentError> {
        Document::parse(
            text.replace('D', &format!(r#""digest":"{D}","size":3"#))
                .as_bytes(),
            announced,
        )
    }

    #[test]
    fn reads_manifest_and_index() {
        let manifest = parse(
            r#"{"schemaVersion":2,"config":{D},"layers":[{"mediaType":"x",D,"urls":["http://else"]}],"other":1}"#,
            None,
        );
        assert!(matches!(manifest, Ok(Document::Manifest(m)) if m.layers.len() == 1));
        let index = parse(
            r#"{"schemaVersion":2,"manifests":[{D,"platform":{"os":"unknown","architecture":"unknown"}},
               {D,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
               {D,"platform":{"os":"linux","architecture":"amd64"},"annotations":null}]}"#,
            Some(media_type::OCI_INDEX),
        );
        let Ok(Document::Index(index)) = index else {
            panic!("{index:?}")
        };
        let platform: Platform = "linux/arm64".parse().unwrap();
        assert_eq!(index.select(&platform), index.manifests.get(1));
        assert_eq!(index.select(&"linux/s390x".parse().unwrap()), None);
        assert_eq!(
            index
                .platforms()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["linux/arm64", "linux/amd64"]
        );
    }

    #[test]
    fn refuses_documents_with_two_faces() {
        let error = |text: &str, announced| parse(text, announced).unwrap_err().to_string();
        assert_eq!(
            error(r#"{"schemaVersion":1,"layers":[]}"#, None),
            "manifest schema version 1 is not supported (only 2)"
        );
        assert_eq!(
            error(
                r#"{"schemaVersion":2,"config":{D},"layers":[],"manifests":[]}"#,
                None
            ),
            "document is both an image manifest and an index"
        );
        assert_eq!(
            error(r#"{"schemaVersion":2}"#, None),
            "document is neither an image manifest nor an index"
        );
        let image = r#"{"schemaVersion":2,"config":{D},"layers":[]}"#;
        assert!(error(image, Some(media_type::OCI_INDEX)).starts_with("document says it is"));
        let docker = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{D}},"layers":[]}}"#,
            media_type::DOCKER_LIST
        );
        assert!(error(&docker, None).starts_with("document says it is"));
        assert_eq!(
            error(
                r#"{"schemaVersion":2,"layers":[],"layers":[],"config":{D}}"#,
                None
            ),
            "not a valid image manifest"
        );
        assert_eq!(
            error(
                r#"{"schemaVersion":2,"config":{"size":-1},"layers":[]}"#,
                None
            ),
            "not a valid image manifest"
        );
        let many = format!(
            r#"{{"schemaVersion":2,"config":{{D}},"layers":[{}]}}"#,
            vec!["{D}"; 1001].join(",")
        );
        assert_eq!(
            error(&many, None),
            "1001 layers are more than the limit of 1000"
        );
        assert_eq!(
            error(&"[".repeat(100_000), None),
            "not a valid image manifest"
        );
    }
}
