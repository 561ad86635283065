//! The config of an image: how to run it, and the digests of its layers uncompressed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    digest::Digest,
    manifest::{Manifest, null_is_default},
    platform::Platform,
};

/// An image config. Fields nobody here uses are kept, so that it can be written out again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Architecture, as the image spells it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// Operating system, as the image spells it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// Variant of the architecture.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How to run it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    /// Its layers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
    /// How it was made; entries are kept as they are.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How to run an image. Nothing here is trusted: whoever uses a field checks it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `80/tcp` and the like.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `NAME=value`, in order.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// The entrypoint.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// The default arguments.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// Paths meant to be volumes.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub volumes: BTreeMap<String, Value>,
    /// The working directory.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the program to end.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    /// Everything else (`Healthcheck`, `Shell`, `OnBuild`, …).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

/// Why bytes are not a usable image config.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or fields of the wrong kind.
    #[error("not a valid image config")]
    Json(#[source] serde_json::Error),
    /// The manifest lists other layers than the config.
    #[error("image config lists {config} layers but its manifest {manifest}")]
    Layers {
        /// Layers in the config.
        config: usize,
        /// Layers in the manifest.
        manifest: usize,
    },
}

impl ImageConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        serde_json::from_slice(bytes).map_err(ConfigError::Json)
    }

    /// Reads the config of `manifest` and checks that both speak of the same number of layers.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_for(bytes: &[u8], manifest: &Manifest) -> Result<Self, ConfigError> {
        let config = Self::parse(bytes)?;
        let (layers, diffs) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diffs {
            return Err(ConfigError::Layers {
                config: diffs,
                manifest: layers,
            });
        }
        Ok(config)
    }

    /// The platform in canonical spelling; `linux` and the host's architecture where the config is silent.
    pub fn platform(&self) -> Platform {
        let host = Platform::host();
        let or = |text: &str, default: String| {
            if text.is_empty() {
                default
            } else {
                text.to_owned()
            }
        };
        Platform::normalised(
            &or(&self.os, host.os),
            &or(&self.architecture, host.architecture),
            &self.variant,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_does_not_know_and_forgives_null() {
        let text = r#"{"architecture":"arm64","os":"linux","variant":"v8","author":"a","config":{"Env":["A=1"],"Cmd":null,
            "Labels":null,"Healthcheck":{"Test":["NONE"]},"ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":null},
            "history":[{"created_by":"x"}]}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.platform().to_string(), "linux/arm64");
        assert_eq!(config.config.env, ["A=1"]);
        assert!(config.config.cmd.is_empty());
        let back: Value = serde_json::to_value(&config).unwrap();
        assert_eq!(back["author"], "a");
        assert_eq!(back["config"]["Healthcheck"]["Test"][0], "NONE");
        assert_eq!(back["config"].get("Cmd"), None);
        assert_eq!(back["variant"], "v8");
    }

    #[test]
    fn counts_layers() {
        let manifest = Manifest {
            schema_version: 2,
            media_type: String::new(),
            config: crate::manifest::Descriptor {
                media_type: String::new(),
                digest: Digest::of(b""),
                size: 0,
                platform: None,
                annotations: BTreeMap::new(),
            },
            layers: Vec::new(),
            annotations: BTreeMap::new(),
        };
        let text = format!(r#"{{"rootfs":{{"diff_ids":["{}"]}}}}"#, Digest::of(b""));
        let error = ImageConfig::parse_for(text.as_bytes(), &manifest).unwrap_err();
        assert_eq!(
            error.to_string(),
            "image config lists 1 layers but its manifest 0"
        );
    }
}
