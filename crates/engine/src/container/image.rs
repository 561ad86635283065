//! Images: pulled when something needs their files, unpacked layer by layer, shared by all images with the same layers.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::Arc,
};

use graph::error::{Class, Error};
use oci::{
    Digest, Reference,
    blobs::{Blobs, CommitError, Ingest},
    layer,
    manifest::Descriptor,
    registry::{Access, Client, Config as ClientConfig, Credentials, Host, Login, Progress},
};
use store::{Snapshot, Store};

use crate::{Ctx, config::Config, node::KeyHasher, session::Session};

/// An image, by everything needed to have its files.
#[derive(Debug, Clone)]
pub struct ImagePin {
    /// Its name, with digest.
    pub reference: Reference,
    /// Digest of the manifest, as text.
    pub manifest_digest: String,
    /// Layers, the lowest first.
    pub layers: Arc<[Descriptor]>,
    /// The digests of the layers' tars.
    pub diff_ids: Arc<[Digest]>,
}

/// The registry client for a configuration.
///
/// # Errors
/// None today; the signature leaves room for unreadable certificates.
pub fn client(config: &Config) -> Result<Client, io::Error> {
    let registries = config
        .registries
        .iter()
        .map(|(host, r)| {
            let ca = r.ca.iter().map(PathBuf::from).collect();
            (host.clone(), Host { mirrors: r.mirrors.clone(), http: r.http, insecure: r.insecure, ca })
        })
        .collect();
    Ok(Client::new(ClientConfig { registries, ..ClientConfig::default() }))
}

/// The store as a place for blobs.
pub struct StoreBlobs(pub Store);

impl Blobs for StoreBlobs {
    fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = self.0.blobs().path(&digest.to_string()) else { return Ok(None) };
        if std::fs::metadata(&path)?.len() > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("blob {digest} has more than {limit} bytes")));
        }
        std::fs::read(path).map(Some)
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        self.0.blobs().path(&digest.to_string()).map(File::open).transpose()
    }

    fn ingest(&self, digest: &Digest, size: u64) -> io::Result<Box<dyn Ingest>> {
        let inner = self.0.blobs().ingest(&digest.to_string(), Some(size)).map_err(|e| io::Error::other(graph::error::chain(&e)))?;
        Ok(Box::new(StoreIngest { inner, digest: *digest }))
    }
}

struct StoreIngest {
    inner: store::Ingest,
    digest: Digest,
}

impl Ingest for StoreIngest {
    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write(bytes).map_err(|e| io::Error::other(graph::error::chain(&e)))
    }

    fn commit(self: Box<Self>) -> Result<(), CommitError> {
        let digest = self.digest;
        match self.inner.commit() {
            Ok(_) => Ok(()),
            Err(e) if e.is_mismatch() => Err(CommitError::Digest { expected: digest }),
            Err(e) => Err(CommitError::Io { digest, source: io::Error::other(graph::error::chain(&e)) }),
        }
    }
}

/// Credentials of a session: what `withRegistryAuth` gave, else what the client's docker configuration knows.
struct SessionCredentials {
    session: Arc<Session>,
    client: Arc<crate::session::Client>,
}

impl Credentials for SessionCredentials {
    fn login<'a>(&'a self, host: &'a str) -> futures::future::BoxFuture<'a, Option<Login>> {
        Box::pin(async move {
            if let Some((username, secret)) = self.session.registry_auth(host) {
                let secret = String::from_utf8_lossy(secret.reveal()).into_owned();
                return Some(Login { username, secret });
            }
            let request = wire::LinkRequest::DockerAuth { host: host.to_owned() };
            let mut stream = self.client.link.open(request).await.ok()?;
            let found = wire::link::read_status::<Option<wire::link::Credentials>>(&mut stream).await;
            match found {
                Ok(c) => c.map(|c| Login { username: c.username, secret: c.secret }),
                Err(e) => {
                    self.session.progress.note(&format!("cannot ask for the credentials of {host}: {e}"));
                    None
                }
            }
        })
    }
}

/// This session's way into registries.
pub fn access(ctx: &Ctx) -> Access {
    ctx.engine.registry.access(Arc::new(SessionCredentials { session: ctx.session.clone(), client: ctx.client.clone() }))
}

/// The unpacked root filesystem of an image.
///
/// # Errors
/// Layers that cannot be had, or are not what the image says.
pub async fn unpacked(ctx: &Ctx, pin: &ImagePin) -> Result<Snapshot, Error> {
    if pin.layers.len() != pin.diff_ids.len() {
        return Err(Error::user(format!(
            "image {} has {} layers but its configuration names {}",
            pin.reference,
            pin.layers.len(),
            pin.diff_ids.len()
        )));
    }
    let store = ctx.engine.store.clone();
    // From the top down: the highest chain of layers that is there already.
    let chains: Vec<[u8; 32]> = (1..=pin.layers.len()).map(|n| chain_key(&pin.diff_ids[..n])).collect();
    let mut done = pin.layers.len();
    let mut top = None;
    while done > 0 {
        if let Some(s) = store.results().get(&chains[done - 1]).and_then(|r| r.outputs.into_iter().next()) {
            top = Some(s);
            break;
        }
        done -= 1;
    }
    if done < pin.layers.len() {
        let step = ctx.session.progress.step(&format!("pull {}", pin.reference), ctx.span);
        match pull(ctx, pin, &chains, done, top).await {
            Ok(s) => {
                step.done();
                return Ok(s);
            }
            Err(e) => {
                step.failed(&e);
                return Err(e);
            }
        }
    }
    match top {
        Some(s) => Ok(s),
        None => store.empty().map_err(|e| Error::from_chain(Class::Environment, &e)),
    }
}

fn chain_key(diff_ids: &[Digest]) -> [u8; 32] {
    let mut h = KeyHasher::new("layers");
    for d in diff_ids {
        h.str(&d.to_string());
    }
    h.finish().0
}

/// Fetches the missing layers, all at once, and unpacks each as soon as it and those below it are there.
async fn pull(ctx: &Ctx, pin: &ImagePin, chains: &[[u8; 32]], done: usize, mut top: Option<Snapshot>) -> Result<Snapshot, Error> {
    let blobs: Arc<dyn Blobs> = Arc::new(StoreBlobs(ctx.engine.store.clone()));
    let access = access(ctx);
    let missing = &pin.layers[done..];
    let arrived = tokio::sync::Notify::new();
    let there = std::sync::Mutex::new(std::collections::HashSet::new());
    let ready = |digest: Digest| {
        there.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(digest);
        arrived.notify_one();
    };
    let watch = |_: Progress| {};
    let fetching = async {
        access
            .fetch(&pin.reference, missing, &blobs, &watch, ready)
            .await
            .map_err(|e| Error::from_chain(Class::Environment, &e))
    };
    let unpacking = async {
        for (n, descriptor) in missing.iter().enumerate() {
            while !there.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&descriptor.digest) {
                arrived.notified().await;
            }
            let snapshot = unpack_layer(ctx, &blobs, descriptor.digest, pin.diff_ids[done + n], top.take()).await?;
            let title = format!("layer {} of {}", done + n + 1, pin.reference);
            ctx.engine.store.results().put(&chains[done + n], std::slice::from_ref(&snapshot), &[], &title);
            top = Some(snapshot);
        }
        Ok(top)
    };
    let ((), top) = tokio::try_join!(fetching, unpacking)?;
    top.ok_or_else(|| Error::internal("an image without layers was pulled"))
}

async fn unpack_layer(
    ctx: &Ctx,
    blobs: &Arc<dyn Blobs>,
    digest: Digest,
    diff_id: Digest,
    below: Option<Snapshot>,
) -> Result<Snapshot, Error> {
    let (store, blobs) = (ctx.engine.store.clone(), blobs.clone());
    ctx.engine
        .blocking(move || {
            let environment = |e: &(dyn std::error::Error + 'static)| Error::from_chain(Class::Environment, e);
            let file = blobs
                .open(&digest)
                .map_err(|e| environment(&e))?
                .ok_or_else(|| Error::environment(format!("layer {digest} vanished from the store while it was needed")))?;
            let draft = store.draft(below.as_ref()).map_err(|e| environment(&e))?;
            {
                let tree = draft.tree().map_err(|e| environment(&e))?;
                let beneath = if below.is_some() { layer::Beneath::Layers } else { layer::Beneath::Nothing };
                let target = layer::Target { root: tree.root(), beneath };
                let expected = layer::Expected { digest: None, diff_id: Some(diff_id) };
                layer::unpack(file, target, &expected, &layer::Limits::default())
                    .map_err(|e| Error::from_chain(Class::User, &e).context(format!("cannot unpack layer {digest}")))?;
            }
            draft.commit().map_err(|e| environment(&e))
        })
        .await
}
