//! Small images made in memory.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use super::layer::{LayerBuilder, compress};
use crate::{digest::Digest, layer::Compression, manifest::media_type, platform::Platform};

/// An image: layers and a config.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<(Vec<u8>, Compression, Digest)>,
    config: Value,
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

/// Programs of busybox that [`Image::busybox`] links.
const APPLETS: &[&str] = &[
    "ash",
    "awk",
    "base64",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gzip",
    "head",
    "hostname",
    "httpd",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mknod",
    "mktemp",
    "mount",
    "mv",
    "nc",
    "nslookup",
    "ping",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "su",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "umount",
    "uname",
    "uniq",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "yes",
];

impl Image {
    /// An image for this machine without layers, with the usual `PATH`.
    pub fn new() -> Self {
        let config = json!({
            "architecture": Platform::host().architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        Self {
            layers: Vec::new(),
            config,
        }
    }

    /// An image with the machine's static busybox, a root user and `/tmp`; `None` where there is no `/usr/bin/busybox`.
    pub fn busybox() -> Option<Self> {
        let program = fs::read("/usr/bin/busybox").ok()?;
        let mut layer = LayerBuilder::new()
            .dir("bin")
            .file_mode("bin/busybox", program, 0o755)
            .dir("etc")
            .file(
                "etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
            )
            .file("etc/group", "root:x:0:\nnogroup:x:65534:\n")
            .dir_mode("root", 0o700)
            .dir_mode("tmp", 0o1777)
            .dir("usr")
            .symlink("usr/bin", "../bin");
        for applet in APPLETS {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        Some(
            Self::new()
                .layer(layer, Compression::Gzip)
                .with("Cmd", json!(["sh"])),
        )
    }

    /// Adds a layer.
    #[must_use]
    pub fn layer(self, layer: LayerBuilder, compression: Compression) -> Self {
        let tar = layer.tar();
        let diff = Digest::of(&tar);
        self.layer_bytes(compress(&tar, compression), compression, diff)
    }

    /// Adds a layer as bytes, with any diff ID.
    #[must_use]
    pub fn layer_bytes(mut self, blob: Vec<u8>, compression: Compression, diff: Digest) -> Self {
        self.layers.push((blob, compression, diff));
        self
    }

    /// Sets a field of the config's `config`.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config["config"][field] = value;
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn platform(mut self, platform: &Platform) -> Self {
        self.config["os"] = json!(platform.os);
        self.config["architecture"] = json!(platform.architecture);
        if !platform.variant.is_empty() {
            self.config["variant"] = json!(platform.variant);
        }
        self
    }

    /// The digests of the compressed layers.
    pub fn layer_digests(&self) -> Vec<Digest> {
        self.layers
            .iter()
            .map(|(blob, ..)| Digest::of(blob))
            .collect()
    }

    /// The manifest, and all blobs by digest.
    pub fn build(&self) -> (Vec<u8>, BTreeMap<Digest, Vec<u8>>) {
        let mut config = self.config.clone();
        config["rootfs"]["diff_ids"] = self.layers.iter().map(|(_, _, diff)| json!(diff)).collect();
        let config = config.to_string().into_bytes();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(blob, compression, _)| {
                let media_type = match compression {
                    Compression::None => media_type::OCI_LAYER,
                    Compression::Gzip => media_type::OCI_LAYER_GZIP,
                    Compression::Zstd => media_type::OCI_LAYER_ZSTD,
                };
                json!({"mediaType": media_type, "digest": Digest::of(blob), "size": blob.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": {"mediaType": media_type::OCI_CONFIG, "digest": Digest::of(&config), "size": config.len()},
            "layers": layers,
        });
        let mut blobs: BTreeMap<Digest, Vec<u8>> = self
            .layers
            .iter()
            .map(|(blob, ..)| (Digest::of(blob), blob.clone()))
            .collect();
        blobs.insert(Digest::of(&config), config);
        (manifest.to_string().into_bytes(), blobs)
    }
}

/// An index over manifests.
pub(super) fn index(entries: &[(&Platform, &[u8])]) -> Vec<u8> {
    let manifests: Vec<Value> = entries
        .iter()
        .map(|(platform, manifest)| {
            json!({
                "mediaType": media_type::OCI_MANIFEST,
                "digest": Digest::of(manifest),
                "size": manifest.len(),
                "platform": crate::platform::PlatformFields::from(*platform),
            })
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests})
        .to_string()
        .into_bytes()
}
