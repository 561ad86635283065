//! Images out: to a registry, to a file on the client's machine, to a file in the API, to the client's container runtime.

mod build;
mod plan;

use std::sync::Arc;

use graph::{
    error::{Class, Error},
    resolve::{Invocation, Memo, View},
    value::Value,
};
use oci::{
    Reference,
    archive::Archive,
    assemble::{MediaTypes, index},
    blobs::Blobs,
    pack::Format,
    registry::{Progress, Push, PushBlob, PushError, RequestError},
};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::SyncIoBridge;
use wire::{
    LinkRequest,
    link::{Exported, read_status},
    piece::{DATA, Piece},
};

use self::build::{Built, Options, images};
use super::{Container, from::named, image as pulled};
use crate::{
    Ctx,
    directory::{File, Tree},
    dispatch::Binder,
    host::{client_path, link_error},
    link::Io,
    node::Node,
};

type Answer = Result<Value, Error>;

/// Binds all fields.
pub(super) fn bind(b: &mut Binder) {
    b.bind("Container.publish", Memo::Never, publish);
    b.bind("Container.export", Memo::Never, export);
    b.bind("Container.exportImage", Memo::Never, export_image);
    b.bind("Container.asTarball", Memo::Session, as_tarball);
}

fn options(inv: &Invocation<Ctx>) -> Options {
    Options {
        forced: match inv.args.opt_str("forcedCompression") {
            Some("Gzip") => Some(Format::Gzip),
            Some("Zstd") => Some(Format::Zstd),
            Some("EStarGZ") => Some(Format::Stargz),
            Some("Uncompressed") => Some(Format::Uncompressed),
            _ => None,
        },
        media_types: match inv.args.opt_str("mediaTypes") {
            Some("DockerMediaTypes") => MediaTypes::Docker,
            _ => MediaTypes::Oci,
        },
    }
}

/// The container and its variants.
async fn variants(inv: &Invocation<Ctx>) -> Result<Vec<Container>, Error> {
    let mut all = vec![inv.this::<Container>()?.clone()];
    for id in inv.args.ids("platformVariants") {
        all.push(inv.ctx.load(&id).await?);
    }
    Ok(all)
}

async fn publish(inv: Invocation<Ctx>) -> Answer {
    let ctx = &inv.ctx;
    let reference = named(inv.args.str("address"))?;
    if let Some(id) = inv.args.id("registryService") {
        pulled::served(ctx, &reference, &ctx.load(id).await?).await?;
    }
    let options = options(&inv);
    let built = images(ctx, &variants(&inv).await?, options).await?;
    let mut push = Push {
        reference: reference.clone(),
        blobs: Vec::new(),
        documents: Vec::new(),
    };
    let mut pictures = Vec::new();
    for Built { image, blobs } in built {
        push.blobs.extend(blobs);
        push.documents.push(image.manifest.clone());
        pictures.push(image);
    }
    if pictures.len() > 1 {
        push.documents.push(index(&pictures, options.media_types));
    }
    let facts = ctx.engine.store.facts();
    for blob in &mut push.blobs {
        let seen = facts.get(PUSHED, &pushed_key(&reference, blob));
        blob.seen = seen.and_then(|name| Reference::parse(std::str::from_utf8(&name).ok()?).ok());
    }
    let step = ctx
        .session
        .progress
        .step(&format!("push {reference}"), ctx.span);
    let origins = push.blobs.iter().filter_map(|b| b.origin.as_ref());
    let pushed = async {
        let way = pulled::way(ctx, origins.chain([&reference])).await?;
        way.push(&push, &pulled::blobs(ctx), &|_: Progress| {})
            .await
            .map_err(|e| Error::from_chain(class(&e), &e))
    };
    match pushed.await {
        Ok(digest) => {
            step.done();
            for blob in &push.blobs {
                facts.put(
                    PUSHED,
                    &pushed_key(&reference, blob),
                    reference.name().as_bytes(),
                );
            }
            let digest = digest.ok_or_else(|| Error::internal("an image without a manifest"))?;
            Ok(Value::string(reference.pinned(digest).to_string()))
        }
        Err(e) => {
            step.failed(&e);
            Err(e)
        }
    }
}

/// The space of facts that say in which repository of a registry a blob was put last.
const PUSHED: &str = "blob-pushed";

fn pushed_key(reference: &Reference, blob: &PushBlob) -> String {
    format!("{} {}", reference.domain(), blob.descriptor.digest)
}

/// Who can do something about it.
fn class(e: &PushError) -> Class {
    match e {
        PushError::Request {
            source: RequestError::Auth { .. },
            ..
        } => Class::User,
        _ => Class::Environment,
    }
}

/// The archive of the container and its variants, every blob at hand.
async fn archive(inv: &Invocation<Ctx>, name: Option<&Reference>) -> Result<Archive, Error> {
    let options = options(inv);
    let built = images(&inv.ctx, &variants(inv).await?, options).await?;
    for blob in built.iter().flat_map(|b| &b.blobs) {
        if let Some(origin) = &blob.origin {
            build::fetched(&inv.ctx, origin, std::slice::from_ref(&blob.descriptor)).await?;
        }
    }
    let pictures: Vec<_> = built.into_iter().map(|b| b.image).collect();
    Ok(Archive::new(&pictures, options.media_types, name))
}

async fn export(inv: Invocation<Ctx>) -> Answer {
    let container = inv.this::<Container>()?;
    let dest = client_path(&inv.ctx, &container.text_arg(&inv, "path")?)?;
    let archive = archive(&inv, None).await?;
    let request = LinkRequest::ExportFile {
        dest: dest.as_str().into(),
        name: "image.tar".into(),
        allow_parent_dir: false,
        mode: 0o600,
        mtime_ns: None,
    };
    send(&inv.ctx, request, archive, &format!("export to {dest}")).await?;
    if inv.view < View::new(0, 12, 0) {
        Ok(Value::Bool(true))
    } else {
        Ok(Value::string(dest))
    }
}

async fn export_image(inv: Invocation<Ctx>) -> Answer {
    let name = named(inv.args.str("name"))?.or_latest();
    let archive = archive(&inv, Some(&name)).await?;
    let request = LinkRequest::LoadImage {
        name: name.familiar(),
    };
    send(
        &inv.ctx,
        request,
        archive,
        &format!(
            "load {} into the client's container runtime",
            name.familiar()
        ),
    )
    .await?;
    Ok(Value::Null)
}

/// Sends an archive to the client.
async fn send(ctx: &Ctx, request: LinkRequest, archive: Archive, what: &str) -> Result<(), Error> {
    let step = ctx.session.progress.step(what, ctx.span);
    let sent = transfer(ctx, request, archive).await;
    match &sent {
        Ok(()) => step.done(),
        Err(e) => step.failed(e),
    }
    sent
}

async fn transfer(ctx: &Ctx, request: LinkRequest, archive: Archive) -> Result<(), Error> {
    let refused = |e: wire::LinkError| link_error(&e);
    let mut stream: Box<dyn Io> = ctx.client.link.open(request).await.map_err(refused)?;
    read_status::<()>(&mut stream).await.map_err(refused)?;
    let handle = tokio::runtime::Handle::current();
    let store = ctx.engine.store.clone();
    let mut stream = ctx
        .engine
        .blocking(move || {
            let mut out = Pieces {
                stream: SyncIoBridge::new_with_handle(stream, handle),
                frame: Vec::with_capacity(DATA + 16),
                client: None,
            };
            let written = archive.write(
                &store,
                &mut std::io::BufWriter::with_capacity(DATA, &mut out),
            );
            match (written, out.client.take()) {
                // The client has given up: its second status says why.
                (_, Some(e)) => {
                    tracing::debug!(error = %e, "the client reads no more of an archive")
                }
                (Err(e), None) => {
                    return Err(Error::environment(format!(
                        "cannot write the image archive: {e}"
                    )));
                }
                (Ok(()), None) => {
                    let mut last = Vec::new();
                    Piece::Done.encode(&mut last);
                    let _ = std::io::Write::write_all(&mut out.stream, &last);
                }
            }
            let _ = std::io::Write::flush(&mut out.stream);
            Ok(out.stream.into_inner())
        })
        .await?;
    let _ = stream.flush().await;
    let _: Exported = read_status(&mut stream).await.map_err(refused)?;
    Ok(())
}

/// Bytes as pieces of a file.
struct Pieces {
    stream: SyncIoBridge<Box<dyn Io>>,
    frame: Vec<u8>,
    /// Why the client takes no more.
    client: Option<std::io::Error>,
}

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let part = bytes.get(..bytes.len().min(DATA)).unwrap_or_default();
        self.frame.clear();
        Piece::Data(part).encode(&mut self.frame);
        if let Err(e) = self.stream.write_all(&self.frame) {
            let kind = e.kind();
            self.client = Some(e);
            return Err(kind.into());
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

async fn as_tarball(inv: Invocation<Ctx>) -> Answer {
    let archive = archive(&inv, None).await?;
    let name = format!("{}.tar", &archive.digest().hex()[..25]);
    let store = inv.ctx.engine.store.clone();
    let digest = archive.digest().to_string();
    let file = name.clone();
    let snapshot = inv
        .ctx
        .engine
        .blocking(move || {
            let failed =
                |e: &(dyn std::error::Error + 'static)| Error::from_chain(Class::Environment, e);
            let draft = store.draft(None).map_err(|e| failed(&e))?;
            let path = draft.upper().join(&file);
            let written = std::fs::File::create(&path).and_then(|out| {
                use std::os::unix::fs::PermissionsExt as _;
                out.set_permissions(std::fs::Permissions::from_mode(0o600))?;
                let mut out = std::io::BufWriter::with_capacity(1 << 20, out);
                archive.write(&store as &dyn Blobs, &mut out)?;
                std::io::Write::flush(&mut out)
            });
            written.map_err(|e| failed(&e))?;
            draft.commit().map_err(|e| failed(&e))
        })
        .await?;
    let output = Node::given(&format!("archive {digest}"), snapshot);
    Ok(inv.object(File {
        tree: Tree {
            output: Some(output),
            path: Arc::from(format!("/{name}")),
        },
    }))
}
