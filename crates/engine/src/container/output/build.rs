//! Makes images of containers: evaluates them, packs what is new, keeps the rest as it was.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use graph::error::{Class, Error};
use oci::{
    Digest, Platform, Reference,
    assemble::{self, Image, Layer, MediaTypes, Parts},
    blobs::Blobs,
    config::RunConfig,
    manifest::Descriptor,
    pack::{self, Format, Packed, Source, Times},
    registry::PushBlob,
    stored::chain_of,
    time::parse_rfc3339,
};
use serde::{Deserialize, Serialize};
use store::{Snapshot, Store};

use super::plan::{self, Piece};
use crate::{
    Ctx,
    container::{Config, Container, config, image as pulled, image::ImagePin},
    node::{Edit, Node, Op, made::Made},
};

/// How images are to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Options {
    /// Every layer this way; else as it was, and new ones with gzip.
    pub(super) forced: Option<Format>,
    /// Whose names.
    pub(super) media_types: MediaTypes,
}

/// An image and where its blobs may be found.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) image: Image,
    pub(super) blobs: Vec<PushBlob>,
}

/// The space of facts about packed layers.
const PACKED: &str = "layer-packed";

/// A blob that was packed or converted.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Blob {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    latest: Option<i64>,
    annotations: BTreeMap<String, String>,
}

fn environment(e: &(dyn std::error::Error + 'static)) -> Error {
    Error::from_chain(Class::Environment, e)
}

/// The images of a container and its variants for other platforms.
///
/// # Errors
/// `no containers to export`, a platform twice, or whatever making their files answered.
pub(super) async fn images(
    ctx: &Ctx,
    variants: &[Container],
    options: Options,
) -> Result<Vec<Built>, Error> {
    let mut seen = std::collections::HashSet::new();
    let variants: Vec<&Container> = variants
        .iter()
        .filter(|c| c.rootfs.output.is_some())
        .collect();
    if variants.is_empty() {
        return Err(Error::user("no containers to export"));
    }
    for variant in &variants {
        if !seen.insert(&variant.platform) {
            return Err(Error::user(format!(
                "duplicate platform {:?}",
                &*variant.platform
            )));
        }
    }
    futures::future::try_join_all(variants.into_iter().map(|c| image(ctx, c, options))).await
}

/// The image a tree of files began with.
fn base_of(container: &Container) -> Option<ImagePin> {
    let mut at: Arc<Node> = container.rootfs.output.as_ref()?.node.clone();
    loop {
        match &at.op {
            Op::Image(pin) => return Some(pin.clone()),
            Op::Given(_) | Op::Failed(_) | Op::Checkout(_) | Op::Edit(Edit::Diff { .. }) => {
                return None;
            }
            Op::Edit(_) | Op::Exec(_) => {}
        }
        let below = at.inputs.first()?.as_ref()?.node.clone();
        at = below;
    }
}

async fn image(ctx: &Ctx, container: &Container, options: Options) -> Result<Built, Error> {
    let platform: Platform = container
        .platform
        .parse()
        .map_err(|e| Error::from_chain(Class::User, &e))?;
    let snapshot = root(ctx, container).await?;
    let epoch = config::get(&container.config.env, "SOURCE_DATE_EPOCH")
        .map(|v| v.to_string())
        .or_else(|| ctx.client.user().info.env.get("SOURCE_DATE_EPOCH").cloned())
        .and_then(|text| plan::epoch(&text));
    let base = base_of(container);
    let base_created = base
        .as_ref()
        .and_then(|b| parse_rfc3339(b.config.created.as_deref()?));
    let mut stack = snapshot.layers();
    stack.reverse();
    let store = &ctx.engine.store;
    // eStargz holds a table of the files: what was made without one is packed anew.
    let pieces = match (&base, options.forced) {
        (Some(pin), None | Some(Format::Gzip | Format::Zstd | Format::Uncompressed)) => {
            let chains: Vec<Option<Digest>> = (1..=stack.len())
                .map(|n| {
                    let top_first: Vec<PathBuf> = stack.iter().take(n).rev().cloned().collect();
                    chain_of(store, &top_first)
                })
                .collect();
            plan::pieces(&chains, &pin.stack.diff_ids)
        }
        _ => plan::pieces(&vec![None; stack.len()], &[]),
    };
    let kept = pieces
        .iter()
        .filter(|p| matches!(p, Piece::Base(_)))
        .count();
    let mut history: Vec<serde_json::Value> = match &base {
        Some(pin) if kept == pin.stack.layers.len() => {
            plan::kept_history(&pin.config.history, kept).map_or_else(
                || vec![assemble::history(base_created, "base image"); kept],
                <[_]>::to_vec,
            )
        }
        _ => vec![assemble::history(base_created, "base image"); kept],
    };
    let (mut layers, mut blobs, mut latest) = (Vec::new(), Vec::new(), None);
    for piece in &pieces {
        let (layer, origin) = match *piece {
            Piece::Base(at) => base_layer(ctx, base.as_ref(), at, options).await?,
            Piece::Own(at) => {
                let made = stack.get(at).and_then(|dir| Made::of(store, dir));
                let begun = made.as_ref().and_then(|m| m.begun);
                let times = plan::times(epoch, base_created, begun);
                let blob = own_layer(ctx, &snapshot, &stack, at, times, options).await?;
                latest = latest.max(blob.latest);
                let by = made.map_or_else(|| "files".to_owned(), |m| m.by);
                history.push(assemble::history(epoch.or(blob.latest), &by));
                (blob.layer(options), None)
            }
        };
        blobs.push(PushBlob {
            descriptor: layer.descriptor.clone(),
            origin,
            seen: None,
        });
        layers.push(layer);
    }
    let image = assemble::image(
        Parts {
            platform,
            run: run_config(&container.config, container)?,
            layers,
            history,
            created: epoch.or(latest.max(base_created)),
            author: match &container.config.author {
                Some(author) => Some(author.to_string().into()),
                None => base
                    .as_ref()
                    .and_then(|b| b.config.extra.get("author").cloned()),
            },
            annotations: container
                .annotations
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        },
        options.media_types,
    );
    let config = image.config.clone();
    keep(ctx, &config.1, config.0.digest).await?;
    blobs.push(PushBlob {
        descriptor: config.0,
        origin: None,
        seen: None,
    });
    Ok(Built { image, blobs })
}

/// The container's files as the root of a tree.
async fn root(ctx: &Ctx, container: &Container) -> Result<Snapshot, Error> {
    let tree = &container.rootfs;
    if &*tree.path == "/" {
        return tree.snapshot(ctx).await;
    }
    // A folder of another tree became the root: what is in it is copied out.
    let Some(output) = tree.output.clone() else {
        return tree.snapshot(ctx).await;
    };
    let edit = Edit::Copy {
        kind: crate::node::CopyKind::Dir,
        from: tree.path.to_string(),
        to: "/".to_owned(),
        include: Vec::new(),
        exclude: Vec::new(),
        git_ignore: false,
        owner: None,
        mode: None,
    };
    ctx.evaluate(&Node::edit(None, edit, vec![Some(output)]))
        .await
}

fn run_config(config: &Config, container: &Container) -> Result<RunConfig, Error> {
    let ports: Vec<(u16, bool)> = container.ports.iter().map(|p| (p.port, p.udp)).collect();
    serde_json::from_value(serde_json::Value::Object(config.to_oci(&ports)))
        .map_err(|e| Error::internal(format!("cannot write an image's configuration: {e}")))
}

impl Blob {
    fn layer(&self, options: Options) -> Layer {
        let format = options.forced.unwrap_or(Format::Gzip);
        let docker = options.media_types == MediaTypes::Docker;
        Layer {
            descriptor: Descriptor {
                media_type: format.media_type(docker).to_owned(),
                digest: self.digest,
                size: self.size,
                platform: None,
                annotations: self.annotations.clone(),
            },
            diff_id: self.diff_id,
        }
    }
}

/// A layer of the base image: as it is, or its blob written anew when another compression is asked for.
async fn base_layer(
    ctx: &Ctx,
    base: Option<&ImagePin>,
    at: usize,
    options: Options,
) -> Result<(Layer, Option<Reference>), Error> {
    let stack = &base
        .ok_or_else(|| Error::internal("a layer of a base image without one"))?
        .stack;
    let (Some(layer), Some(diff_id)) = (stack.layers.get(at), stack.diff_ids.get(at)) else {
        return Err(Error::internal("a layer that the base image does not have"));
    };
    let docker = options.media_types == MediaTypes::Docker;
    let format = Format::of_media_type(&layer.media_type);
    let wanted = options.forced.or(format).unwrap_or(Format::Gzip);
    if options.forced.is_none() || format == options.forced {
        let mut descriptor = layer.clone();
        if format.is_some() {
            descriptor.media_type = wanted.media_type(docker).to_owned();
        }
        let layer = Layer {
            descriptor,
            diff_id: *diff_id,
        };
        return Ok((layer, Some(stack.reference.clone())));
    }
    let key = format!("{}-{}", layer.digest, wanted.name());
    if let Some(blob) = known(&ctx.engine.store, &key) {
        return Ok((blob.layer(options), None));
    }
    let blobs = pulled::blobs(ctx);
    fetched(ctx, &stack.reference, std::slice::from_ref(layer)).await?;
    let (digest, expected) = (layer.digest, *diff_id);
    let store = ctx.engine.store.clone();
    let blob = ctx
        .engine
        .blocking(move || {
            let source = blobs
                .open(&digest)
                .map_err(|e| environment(&e))?
                .ok_or_else(|| {
                    Error::environment(format!("layer {digest} is not here any more"))
                })?;
            let blob = write(&store, &key, |out| pack::convert(source, wanted, out))?;
            if blob.diff_id != expected {
                return Err(Error::environment(format!(
                    "layer {digest} holds {} instead of {expected}",
                    blob.diff_id
                )));
            }
            Ok(blob)
        })
        .await?;
    Ok((blob.layer(options), None))
}

/// Makes sure that blobs of an image are in the store.
pub(super) async fn fetched(
    ctx: &Ctx,
    reference: &Reference,
    layers: &[Descriptor],
) -> Result<(), Error> {
    pulled::way(ctx, [reference])
        .await?
        .fetch(reference, layers, &pulled::blobs(ctx), &|_| {}, |_| {})
        .await
        .map_err(|e| environment(&e))
}

/// A directory of the store as a blob: packed once.
async fn own_layer(
    ctx: &Ctx,
    snapshot: &Snapshot,
    stack: &[PathBuf],
    at: usize,
    times: Times,
    options: Options,
) -> Result<Blob, Error> {
    let format = options.forced.unwrap_or(Format::Gzip);
    let dir = stack
        .get(at)
        .cloned()
        .ok_or_else(|| Error::internal("a layer that the tree does not have"))?;
    let below = at.checked_sub(1).and_then(|at| stack.get(at)).cloned();
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let key = format!(
        "{name}-{}-{:?}-{:?}-{}",
        format.name(),
        times.latest,
        times.written,
        below.is_some()
    );
    if let Some(blob) = known(&ctx.engine.store, &key) {
        return Ok(blob);
    }
    // Held while it is read: the layers stay as long as the tree does.
    let (held, store) = (snapshot.clone(), ctx.engine.store.clone());
    ctx.engine
        .blocking(move || {
            let source = Source {
                dir: &dir,
                below: below.as_deref(),
                times,
            };
            let blob = write(&store, &key, |out| pack::pack(&source, format, out));
            drop(held);
            blob
        })
        .await
}

/// What a layer was packed to, if that is still there.
fn known(store: &Store, key: &str) -> Option<Blob> {
    let blob: Blob = serde_json::from_slice(&store.facts().get(PACKED, key)?).ok()?;
    store.blobs().path(&blob.digest.to_string())?;
    Some(blob)
}

fn write(
    store: &Store,
    key: &str,
    pack: impl FnOnce(&mut dyn std::io::Write) -> Result<Packed, pack::PackError>,
) -> Result<Blob, Error> {
    let fresh = store.blobs().fresh().map_err(|e| environment(&e))?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, fresh);
    let packed = pack(&mut out).map_err(|e| environment(&e))?;
    let fresh = out
        .into_inner()
        .map_err(|e| Error::environment(format!("cannot write a layer: {}", e.error())))?;
    let (digest, size) = fresh.commit().map_err(|e| environment(&e))?;
    let digest = digest
        .parse()
        .map_err(|e: oci::digest::DigestError| environment(&e))?;
    let blob = Blob {
        digest,
        size,
        diff_id: packed.diff_id,
        latest: packed.latest,
        annotations: packed.annotations,
    };
    if let Ok(value) = serde_json::to_vec(&blob) {
        store.facts().put(PACKED, key, &value);
    }
    Ok(blob)
}

/// Keeps a document as a blob.
async fn keep(ctx: &Ctx, bytes: &[u8], digest: Digest) -> Result<(), Error> {
    let (store, bytes) = (ctx.engine.store.clone(), bytes.to_vec());
    ctx.engine
        .blocking(move || {
            if Blobs::open(&store, &digest)
                .map_err(|e| environment(&e))?
                .is_some()
            {
                return Ok(());
            }
            let mut fresh = store.blobs().fresh().map_err(|e| environment(&e))?;
            std::io::Write::write_all(&mut fresh, &bytes).map_err(|e| environment(&e))?;
            fresh.commit().map_err(|e| environment(&e))?;
            Ok(())
        })
        .await
}
