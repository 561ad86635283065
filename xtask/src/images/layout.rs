//! The OCI layout that images are written to, and what we remember about it from one run to the next.
//!
//! Beside the layout's own files the folder holds `images.json`, the list for tests, and `state.json`, which is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::layer::Stored;
use super::recipe::Image;
use super::system::Accounts;
use crate::files::{self, hex};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const CREATED: &str = "2025-01-01T00:00:00Z";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A line of `images.json`: the manifest's digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) digest: String,
    pub(crate) size: u64,
}

/// What the last runs made.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// Key of everything that the groups below were made from.
    pub(crate) key: String,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) layers: BTreeMap<String, Made>,
    pub(crate) images: BTreeMap<String, Listed>,
}

/// A layer with what a layer above it needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) key: String,
    pub(crate) stored: Stored,
    /// Stanzas for the dpkg status file.
    pub(crate) status: String,
    pub(crate) accounts: Option<Accounts>,
}

/// An image by its recipe's name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Key of the recipe and its files, without the packages' versions.
    pub(crate) recipe: String,
    pub(crate) names: BTreeMap<String, Manifest>,
}

/// The folder of an OCI layout.
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        files::make_dir(&dir.join("blobs/sha256"))?;
        files::write(
            &dir.join("oci-layout"),
            b"{\"imageLayoutVersion\":\"1.0.0\"}\n",
        )?;
        Ok(Layout {
            dir: dir.to_owned(),
        })
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    pub(crate) fn list(&self) -> PathBuf {
        self.dir.join("images.json")
    }

    /// What earlier runs left; nothing if that cannot be read any more.
    pub(crate) fn state(&self) -> State {
        let text = fs::read(self.dir.join("state.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(crate) fn has(&self, digest: &str) -> bool {
        blob_path(&self.blobs(), digest).is_file()
    }

    fn put(&self, bytes: &[u8]) -> Result<Manifest> {
        let digest = hex(&Sha256::digest(bytes));
        let path = self.blobs().join(&digest);
        if !path.is_file() {
            files::write(&path, bytes)?;
        }
        Ok(Manifest {
            digest: format!("sha256:{digest}"),
            size: bytes.len() as u64,
        })
    }

    /// Writes configuration and manifest of an image with these layers, lowest first.
    pub(crate) fn put_image(
        &self,
        image: &Image,
        layers: &[(String, Stored)],
        architecture: &str,
    ) -> Result<Manifest> {
        let mut env = image.env.clone();
        if !env.iter().any(|e| e.starts_with("PATH=")) {
            env.insert(0, PATH.to_owned());
        }
        let mut config = json!({ "Env": env });
        let set = |all: &[String]| -> serde_json::Value {
            all.iter().map(|k| (k.clone(), json!({}))).collect()
        };
        let fields = [
            (
                "Entrypoint",
                (!image.entrypoint.is_empty()).then(|| json!(image.entrypoint)),
            ),
            ("Cmd", (!image.cmd.is_empty()).then(|| json!(image.cmd))),
            (
                "ExposedPorts",
                (!image.ports.is_empty()).then(|| set(&image.ports)),
            ),
            (
                "Volumes",
                (!image.volumes.is_empty()).then(|| set(&image.volumes)),
            ),
            ("WorkingDir", image.workdir.as_ref().map(|w| json!(w))),
            ("StopSignal", image.stop_signal.as_ref().map(|s| json!(s))),
            (
                "Labels",
                (!image.labels.is_empty()).then(|| json!(image.labels)),
            ),
        ];
        for (key, value) in fields {
            if let Some(value) = value {
                config[key] = value;
            }
        }
        let history = |(name, _): &(String, Stored)| json!({ "created": CREATED, "created_by": format!("cargo xtask images: {name}") });
        let config = json!({
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|(_, l)| &l.diff_id).collect::<Vec<_>>() },
            "history": layers.iter().map(history).collect::<Vec<_>>(),
        });
        let config = self.put(&serde_json::to_vec(&config)?)?;
        let descriptor =
            |l: &Stored| json!({ "mediaType": l.media_type, "digest": l.digest, "size": l.size });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config.digest, "size": config.size },
            "layers": layers.iter().map(|(_, l)| descriptor(l)).collect::<Vec<_>>(),
        });
        self.put(&serde_json::to_vec(&manifest)?)
    }

    /// Writes index, list and state, and removes blobs that nothing names any more.
    pub(crate) fn commit(&self, state: &State, architecture: &str) -> Result<()> {
        let names: BTreeMap<&String, &Manifest> =
            state.images.values().flat_map(|i| &i.names).collect();
        let entry = |(name, manifest): (&&String, &&Manifest)| {
            json!({
                "mediaType": MANIFEST,
                "digest": manifest.digest,
                "size": manifest.size,
                "platform": { "architecture": architecture, "os": "linux" },
                "annotations": { "org.opencontainers.image.ref.name": name },
            })
        };
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": names.iter().map(entry).collect::<Vec<_>>(),
        });
        files::write(
            &self.dir.join("index.json"),
            &serde_json::to_vec_pretty(&index)?,
        )?;
        files::write(&self.list(), &serde_json::to_vec_pretty(&names)?)?;
        files::write(&self.dir.join("state.json"), &serde_json::to_vec(state)?)?;
        self.sweep(state)
    }

    fn sweep(&self, state: &State) -> Result<()> {
        let mut live: BTreeSet<String> = state
            .layers
            .values()
            .map(|l| l.stored.digest.clone())
            .collect();
        for manifest in state.images.values().flat_map(|i| i.names.values()) {
            if live.insert(manifest.digest.clone()) {
                live.extend(referenced(&self.blobs(), &manifest.digest)?);
            }
        }
        for path in files::list(&self.blobs())? {
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if !live.contains(&format!("sha256:{name}")) {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove `{}`", path.display()))?;
            }
        }
        Ok(())
    }
}

/// The names and manifests that a layout's `images.json` lists.
pub(crate) fn read_list(path: &Path) -> Result<BTreeMap<String, Manifest>> {
    serde_json::from_slice(&files::read(path)?)
        .with_context(|| format!("cannot read `{}`", path.display()))
}

/// The file of a blob in `blobs`.
pub(crate) fn blob_path(blobs: &Path, digest: &str) -> PathBuf {
    blobs.join(digest.strip_prefix("sha256:").unwrap_or(digest))
}

/// The digests of configuration and layers that the manifest with this digest names.
pub(crate) fn referenced(blobs: &Path, manifest: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Parts {
        config: Part,
        layers: Vec<Part>,
    }
    #[derive(Deserialize)]
    struct Part {
        digest: String,
    }
    let path = blob_path(blobs, manifest);
    let parts: Parts = serde_json::from_slice(&files::read(&path)?)
        .with_context(|| format!("`{}` is not an image manifest", path.display()))?;
    Ok(std::iter::once(parts.config)
        .chain(parts.layers)
        .map(|p| p.digest)
        .collect())
}
