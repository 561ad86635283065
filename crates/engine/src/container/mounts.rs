//! Fields of `Container` that mount things.

use std::sync::Arc;

use graph::{error::Error, resolve::Invocation, value::Value};

use super::{Container, Mount, MountSource, Special, owner, paths};
use crate::{
    Ctx,
    directory::{Directory, File, Tree, copy_dir, copy_file},
    host::Socket,
    node::exec::Sharing,
    secret::Secret,
    volume::CacheVolume,
};

type Answer = Result<Value, Error>;

impl Container {
    /// Adds a mount; older ones at or under its target are dropped.
    fn mounted(&self, target: String, source: MountSource) -> Self {
        let mut c = self.clone();
        let mounts = Arc::make_mut(&mut c.mounts);
        mounts.retain(|m| paths::below(&target, &m.target).is_none());
        mounts.push(Mount {
            target: target.into(),
            source,
        });
        c.image_ref = None;
        c
    }

    fn with_special(&self, special: Special) -> Self {
        let mut c = self.clone();
        let list = Arc::make_mut(&mut c.special);
        list.retain(|s| s.target() != special.target());
        list.push(special);
        c.image_ref = None;
        c
    }
}

impl Special {
    /// Where it is.
    pub fn target(&self) -> &str {
        match self {
            Self::Secret { target, .. } | Self::Socket { target, .. } => target,
        }
    }
}

fn required<'a>(inv: &'a Invocation<Ctx>, name: &str) -> Result<&'a Arc<graph::call::Call>, Error> {
    inv.args
        .id(name)
        .ok_or_else(|| Error::user(format!("`{name}` is missing")))
}

pub(super) async fn directory(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let target = c.path_arg(&inv, "path")?;
    let source: Directory = inv.ctx.load(required(&inv, "source")?).await?;
    let tree = match owner::resolve(&inv.ctx, c, inv.args.str("owner")).await? {
        Some(o) => copy_dir(
            &Tree::empty(),
            &source,
            "/".to_owned(),
            vec![],
            vec![],
            Some(o),
        ),
        None => source.tree,
    };
    Ok(inv.object(c.mounted(
        target,
        MountSource::Directory {
            tree,
            readonly: inv.args.bool("readOnly"),
        },
    )))
}

pub(super) async fn file(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let target = c.path_arg(&inv, "path")?;
    let source: File = inv.ctx.load(required(&inv, "source")?).await?;
    let tree = match owner::resolve(&inv.ctx, c, inv.args.str("owner")).await? {
        Some(o) => {
            let name = paths::join("/", paths::base_name(&source.tree.path));
            let copied = copy_file(&Tree::empty(), &source, name.clone(), None, Some(o));
            Tree {
                output: copied.output,
                path: name.into(),
            }
        }
        None => source.tree,
    };
    Ok(inv.object(c.mounted(target, MountSource::File(tree))))
}

pub(super) async fn cache(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let target = c.path_arg(&inv, "path")?;
    let volume: CacheVolume = inv.ctx.load(required(&inv, "cache")?).await?;
    let seed = match inv
        .args
        .id("source")
        .cloned()
        .or_else(|| volume.source.clone())
    {
        Some(id) => Some(inv.ctx.load::<Directory>(&id).await?.tree),
        None => None,
    };
    let owner_text = if inv.args.str("owner").is_empty() {
        volume.owner.to_string()
    } else {
        inv.args.str("owner").to_owned()
    };
    let owner = owner::resolve(&inv.ctx, c, &owner_text).await?;
    let sharing = match inv.args.str("sharing") {
        "PRIVATE" => Sharing::Private,
        "LOCKED" => Sharing::Locked,
        _ => Sharing::Shared,
    };
    Ok(inv.object(c.mounted(
        target,
        MountSource::Cache {
            key: volume.key,
            sharing,
            seed,
            owner,
        },
    )))
}

pub(super) async fn temp(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let target = c.path_arg(&inv, "path")?;
    let size = match inv.args.int("size") {
        None | Some(0) => None,
        Some(n) => Some(
            u64::try_from(n)
                .map_err(|_| Error::user(format!("size {n} of a temporary mount is negative")))?,
        ),
    };
    Ok(inv.object(c.mounted(target, MountSource::Temp { size })))
}

pub(super) async fn without(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let target = c.path_arg(&inv, "path")?;
    let mut c = c.clone();
    let mounts = Arc::make_mut(&mut c.mounts);
    if let Some(at) = mounts.iter().rposition(|m| *m.target == *target) {
        mounts.remove(at);
        c.image_ref = None;
    }
    Ok(inv.object(c))
}

pub(super) async fn list(inv: Invocation<Ctx>) -> Answer {
    Ok(Value::strings(
        inv.this::<Container>()?
            .mounts
            .iter()
            .map(|m| m.target.clone()),
    ))
}

pub(super) async fn secret(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let target = c.path_arg(&inv, "path")?.into();
    let secret: Secret = inv.ctx.load(required(&inv, "source")?).await?;
    let owner = owner::resolve(&inv.ctx, c, inv.args.str("owner"))
        .await?
        .unwrap_or((0, 0));
    let mode = inv.args.int("mode").map_or(0o400, |m| (m & 0o777) as u32);
    Ok(inv.object(c.with_special(Special::Secret {
        target,
        secret,
        mode,
        owner,
    })))
}

pub(super) async fn socket(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let target = c.path_arg(&inv, "path")?.into();
    let socket: Socket = inv.ctx.load(required(&inv, "source")?).await?;
    let owner = owner::resolve(&inv.ctx, c, inv.args.str("owner"))
        .await?
        .unwrap_or((0, 0));
    Ok(inv.object(c.with_special(Special::Socket {
        target,
        socket,
        owner,
    })))
}

pub(super) async fn without_socket(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let target = c.path_arg(&inv, "path")?;
    let mut c = c.clone();
    Arc::make_mut(&mut c.special)
        .retain(|s| !matches!(s, Special::Socket { target: t, .. } if **t == *target));
    Ok(inv.object(c))
}
