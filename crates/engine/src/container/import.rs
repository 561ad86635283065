//! `Container.import`: an image from an archive.

use std::sync::Arc;

use graph::{
    error::{Class, Error},
    resolve::Invocation,
    value::Value,
};
use oci::{
    Platform, Reference,
    archive::{ArchiveError, read},
    blobs::Blobs,
    image::Stack,
};

use super::{Config, Container, image::ImagePin};
use crate::{
    Ctx,
    directory::{File, Tree, tree_error},
    node::Node,
};

/// What stands for an archive where a registry's image has its name.
const NAME: &str = "archive.invalid/imported";

pub(super) async fn import(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let c = inv.this::<Container>()?;
    let source = inv
        .args
        .id("source")
        .ok_or_else(|| Error::user("`source` is missing"))?;
    let file: File = inv.ctx.load(source).await?;
    let platform: Platform = c
        .platform
        .parse()
        .map_err(|e| Error::from_chain(Class::User, &e))?;
    let tag = inv.args.str("tag").to_owned();
    let store = inv.ctx.engine.store.clone();
    let found = file
        .tree
        .with(&inv.ctx, move |tree, path| {
            tree.expect_file(path, path).map_err(|e| tree_error(&e))?;
            let archive = tree.open(path).map_err(|e| tree_error(&e))?;
            let contents = read(archive, &store).map_err(|e| refused(&e))?;
            let blobs: Arc<dyn Blobs> = Arc::new(store);
            contents
                .find(&blobs, &platform, &tag)
                .map_err(|e| refused(&e))
        })
        .await?;
    let reference = Reference::parse(NAME)
        .map_err(|e| Error::from_chain(Class::User, &e))?
        .pinned(found.digest);
    let platform = found.config.platform();
    let run = serde_json::to_value(&found.config.config)
        .map_err(|e| Error::internal(format!("cannot read an image's configuration: {e}")))?;
    let pin = ImagePin {
        manifest_digest: found.digest.to_string(),
        stack: Stack {
            reference,
            layers: found.manifest.layers,
            diff_ids: found.config.rootfs.diff_ids.clone(),
        },
        config: Arc::new(found.config),
    };
    let output = Node::image(pin);
    // Unpacked at once, while its blobs are surely there.
    inv.ctx.evaluate(&output).await?;
    let mut after = c.with_rootfs(Tree::root(output));
    after.platform = platform.to_string().into();
    after.config = Arc::new(run.as_object().map(Config::from_oci).unwrap_or_default());
    after.ports = Arc::default();
    after.last_exec = None;
    Ok(inv.object(after))
}

fn refused(e: &ArchiveError) -> Error {
    let class = match e {
        ArchiveError::Store { .. } => Class::Environment,
        _ => Class::User,
    };
    Error::from_chain(class, e)
}
