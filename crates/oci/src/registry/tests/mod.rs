//! The client against a registry that misbehaves.

mod access;
mod fetching;
mod outage;
mod pulling;
mod pushing;
mod resolving;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::json;

use super::*;
use crate::{
    blobs::Blobs,
    image,
    layer::Compression,
    manifest::media_type,
    platform::Platform,
    reference::Reference,
    testkit::{Auth, DirBlobs, DirLayers, Fault, Image, LayerBuilder, Registry},
};

/// Credentials that write down who was asked for.
#[derive(Default)]
struct Purse {
    login: Option<Login>,
    asked: Mutex<Vec<String>>,
}

impl Credentials for Purse {
    fn login<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Option<Login>> {
        self.asked.lock().unwrap().push(host.to_owned());
        Box::pin(async { self.login.clone() })
    }
}

struct World {
    access: Access,
    dir: tempfile::TempDir,
    blobs: Arc<dyn Blobs>,
}

impl World {
    fn new(configure: impl FnOnce(&mut Config)) -> Self {
        Self::with(configure, Arc::new(Anonymous))
    }

    fn with(configure: impl FnOnce(&mut Config), credentials: Arc<dyn Credentials>) -> Self {
        let mut config = Config {
            patience: Patience {
                silence: Duration::from_millis(300),
                connect: Duration::from_millis(300),
                backoff: Duration::from_millis(1),
                longest_wait: Duration::from_millis(20),
                tries: 3,
                ..Patience::default()
            },
            ..Config::default()
        };
        configure(&mut config);
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(DirBlobs::new(dir.path()));
        Self {
            access: Client::new(config).access(credentials),
            dir,
            blobs,
        }
    }

    fn user(name: &str, secret: &str) -> Arc<Purse> {
        let login = Login {
            username: name.to_owned(),
            secret: secret.to_owned(),
        };
        Arc::new(Purse {
            login: Some(login),
            asked: Mutex::default(),
        })
    }

    async fn resolve(&self, address: &str) -> Result<Resolved, ResolveError> {
        let reference = Reference::parse(address).unwrap();
        self.access
            .resolve(&reference, &"linux/amd64".parse().unwrap(), &self.blobs)
            .await
    }

    async fn pull(&self, address: &str) -> Result<Resolved, String> {
        let resolved = self.resolve(address).await.map_err(|e| chain(&e))?;
        self.access
            .fetch(
                &resolved.reference,
                &resolved.manifest.layers,
                &self.blobs,
                &|_| {},
                |_| {},
            )
            .await
            .map_err(|e| chain(&e))?;
        Ok(resolved)
    }

    async fn failure(&self, registry: &Registry, address: &str) -> String {
        self.pull(address)
            .await
            .unwrap_err()
            .replace(&registry.address(), "HOST")
    }

    fn parts(&self) -> usize {
        DirBlobs::new(self.dir.path())
            .names()
            .iter()
            .filter(|name| name.ends_with(".part"))
            .count()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn image() -> Image {
    // Not compressible, so that the blob is as large as it looks.
    let noise: Vec<u8> = (0..200_000u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11).to_le_bytes())
        .collect();
    Image::new()
        .layer(LayerBuilder::new().file("a", noise), Compression::None)
        .layer(LayerBuilder::new().file("b", "b"), Compression::Gzip)
        .platform(&"linux/amd64".parse().unwrap())
}

fn big(image: &Image) -> Digest {
    image.layer_digests()[0]
}
