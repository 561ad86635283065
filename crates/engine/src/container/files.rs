//! Fields of `Container` that look at or change its files. What lies inside a mount is looked at or changed there.

use std::sync::Arc;

use graph::{error::Error, resolve::Invocation, value::Value};

use super::{Container, Mount, MountSource, owner, paths};
use crate::{
    Ctx,
    directory::{self, Directory, File, Tree, check_name, check_target, stat},
    node::Edit,
};

type Answer = Result<Value, Error>;

/// Where a path of the container really is.
enum Place {
    /// In the root filesystem.
    Root,
    /// In this directory mount, at this path below it.
    Mount(usize, String),
}

impl Container {
    /// Expands (if asked) and makes absolute a path argument.
    pub(super) fn path_arg(&self, inv: &Invocation<Ctx>, name: &str) -> Result<String, Error> {
        Ok(self.absolute(&self.text_arg(inv, name)?))
    }

    /// Expands (if asked) an argument.
    pub(super) fn text_arg(&self, inv: &Invocation<Ctx>, name: &str) -> Result<String, Error> {
        let text = inv.args.str(name);
        if inv.args.bool("expand") {
            self.expand(text)
        } else {
            Ok(text.to_owned())
        }
    }

    /// Replaces `$NAME` by the container's environment.
    pub(super) fn expand(&self, text: &str) -> Result<String, Error> {
        paths::expand(text, |name| {
            if self.secret_env.iter().any(|(n, _)| **n == *name) {
                return Err(Error::user(format!(
                    "expand cannot be used with secret env variable {name:?}"
                )));
            }
            Ok(super::config::get(&self.config.env, name)
                .map(|v| v.to_string())
                .unwrap_or_default())
        })
    }

    fn place(&self, path: &str) -> Result<Place, Error> {
        let found = self
            .mounts
            .iter()
            .enumerate()
            .rev()
            .find_map(|(i, m)| paths::below(&m.target, path).map(|rest| (i, m, rest)));
        let Some((i, mount, rest)) = found else {
            return Ok(Place::Root);
        };
        match &mount.source {
            MountSource::Directory { .. } => Ok(Place::Mount(i, rest.to_owned())),
            MountSource::File(_) => Ok(Place::Mount(i, rest.to_owned())),
            MountSource::Cache { .. } => Err(Error::user(format!(
                "{path}: cannot retrieve path from cache"
            ))),
            MountSource::Temp { .. } => Err(Error::user(format!(
                "{path}: cannot retrieve path from tmpfs"
            ))),
        }
    }

    /// Changes the tree that `path` lies in; `change` gets that tree and the path in it.
    pub(super) fn edit_at(
        &self,
        path: &str,
        change: impl FnOnce(&Tree, &str) -> Tree,
    ) -> Result<Self, Error> {
        match self.place(path)? {
            Place::Root => Ok(self.with_rootfs(change(&self.rootfs, path))),
            Place::Mount(i, rest) => {
                let mut c = self.clone();
                let mounts = Arc::make_mut(&mut c.mounts);
                let Some(Mount { source, target }) = mounts.get_mut(i) else {
                    return Ok(c);
                };
                match source {
                    MountSource::Directory { tree, .. } => *tree = change(tree, &rest),
                    _ => {
                        return Err(Error::user(format!(
                            "{path}: cannot change `{target}`, which is a mounted file"
                        )));
                    }
                }
                c.image_ref = None;
                Ok(c)
            }
        }
    }

    /// A directory of the container.
    pub(super) async fn directory_at(&self, ctx: &Ctx, path: &str) -> Result<Directory, Error> {
        match self.place(path)? {
            Place::Root => directory::subdirectory(ctx, &self.rootfs, path).await,
            Place::Mount(i, rest) => match self.mounts.get(i).map(|m| &m.source) {
                Some(MountSource::Directory { tree, .. }) => {
                    directory::subdirectory(ctx, tree, &rest).await
                }
                _ => Err(Error::user(format!(
                    "path {path} is a file, not a directory"
                ))),
            },
        }
    }

    /// A file of the container.
    pub(super) async fn file_at(&self, ctx: &Ctx, path: &str) -> Result<File, Error> {
        match self.place(path)? {
            Place::Root => directory::subfile(ctx, &self.rootfs, path).await,
            Place::Mount(i, rest) => match self.mounts.get(i).map(|m| &m.source) {
                Some(MountSource::Directory { tree, .. }) => {
                    directory::subfile(ctx, tree, &rest).await
                }
                Some(MountSource::File(tree)) if rest.is_empty() => Ok(File { tree: tree.clone() }),
                _ => Err(Error::user(format!("{path}: no such file or directory"))),
            },
        }
    }
}

pub(super) async fn directory(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let path = c.path_arg(&inv, "path")?;
    Ok(inv.object(c.directory_at(&inv.ctx, &path).await?))
}

pub(super) async fn file(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    check_name(inv.args.str("path"))?;
    let path = c.path_arg(&inv, "path")?;
    Ok(inv.object(c.file_at(&inv.ctx, &path).await?))
}

impl Container {
    /// What is at a path; mounted directories and files are looked into.
    async fn look(&self, inv: &Invocation<Ctx>) -> Result<Option<stat::Stat>, Error> {
        let path = self.path_arg(inv, "path")?;
        let follow = stat::follow(&inv.args);
        match self.place(&path)? {
            Place::Root => stat::look(&inv.ctx, &self.rootfs, &path, follow).await,
            Place::Mount(i, rest) => match self.mounts.get(i).map(|m| &m.source) {
                Some(MountSource::Directory { tree, .. }) => {
                    stat::look(&inv.ctx, tree, &rest, follow).await
                }
                Some(MountSource::File(tree)) if rest.is_empty() => {
                    stat::look(&inv.ctx, tree, "", true).await
                }
                _ => Ok(None),
            },
        }
    }
}

pub(super) async fn exists(inv: Invocation<Ctx>) -> Answer {
    let found = inv.this::<Container>()?.look(&inv).await?;
    Ok(stat::exists(found, &inv.args))
}

pub(super) async fn stat(inv: Invocation<Ctx>) -> Answer {
    let found = inv.this::<Container>()?.look(&inv).await?;
    stat::answer(&inv, found, inv.args.str("path"))
}

pub(super) async fn with_symlink(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    check_name(inv.args.str("linkName"))?;
    let target = c.text_arg(&inv, "target")?;
    check_target(&target)?;
    let link = c.path_arg(&inv, "linkName")?;
    let edited = c.edit_at(&link, |tree, path| {
        let edit = Edit::Symlink {
            target,
            path: tree.clamped(path),
        };
        tree.edited(edit, vec![])
    })?;
    Ok(inv.object(edited))
}

pub(super) async fn rootfs(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.root()))
}

pub(super) async fn with_rootfs(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let dir: Directory = inv
        .ctx
        .load(
            inv.args
                .id("directory")
                .ok_or_else(|| Error::user("`directory` is missing"))?,
        )
        .await?;
    Ok(inv.object(c.with_rootfs(dir.tree)))
}

pub(super) async fn with_new_file(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    check_name(inv.args.str("path"))?;
    let path = c.path_arg(&inv, "path")?;
    let owner = owner::resolve(&inv.ctx, c, inv.args.str("owner")).await?;
    let contents: Arc<[u8]> = inv.args.str("contents").as_bytes().into();
    let mode = directory::file_mode(inv.args.int("permissions"));
    let edited = c.edit_at(&path, |tree, path| {
        tree.edited(
            Edit::WriteFile {
                path: tree.clamped(path),
                contents,
                mode,
                owner,
            },
            vec![],
        )
    })?;
    Ok(inv.object(edited))
}

pub(super) async fn with_file(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    check_name(inv.args.str("path"))?;
    let path = c.absolute(&directory::file_target(&c.text_arg(&inv, "path")?));
    let source: File = inv
        .ctx
        .load(
            inv.args
                .id("source")
                .ok_or_else(|| Error::user("`source` is missing"))?,
        )
        .await?;
    let owner = owner::resolve(&inv.ctx, c, inv.args.str("owner")).await?;
    let mode = inv.args.int("permissions");
    let edited = c.edit_at(&path, |tree, path| {
        directory::copy_file(tree, &source, tree.clamped(path), mode, owner)
    })?;
    Ok(inv.object(edited))
}

pub(super) async fn with_files(inv: Invocation<Ctx>) -> Answer {
    let this = inv.this::<Container>()?;
    let dir = this.path_arg(&inv, "path")?;
    let owner = owner::resolve(&inv.ctx, this, inv.args.str("owner")).await?;
    let mode = inv.args.int("permissions");
    let mut c = this.clone();
    for id in inv.args.ids("sources") {
        let source: File = inv.ctx.load(&id).await?;
        let path = paths::join(&dir, paths::base_name(&source.tree.path));
        c = c.edit_at(&path, |tree, path| {
            directory::copy_file(tree, &source, tree.clamped(path), mode, owner)
        })?;
    }
    Ok(inv.object(c))
}

pub(super) async fn with_directory(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let path = c.path_arg(&inv, "path")?;
    let id = inv.args.id("directory").or_else(|| inv.args.id("source"));
    let source: Directory = inv
        .ctx
        .load(id.ok_or_else(|| Error::user("`directory` is missing"))?)
        .await?;
    let owner = owner::resolve(&inv.ctx, c, inv.args.str("owner")).await?;
    let (include, exclude) = (inv.args.strings("include"), inv.args.strings("exclude"));
    let git_ignore = inv.args.bool("gitignore");
    let mode = inv.args.int("permissions");
    let edited = c.edit_at(&path, |tree, path| {
        let to = tree.clamped(path);
        directory::Copy {
            source: &source,
            include,
            exclude,
            git_ignore,
            owner,
            mode,
        }
        .into(tree, to)
    })?;
    Ok(inv.object(edited))
}

pub(super) async fn without_path(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let path = c.path_arg(&inv, "path")?;
    Ok(inv.object(c.without(&path)?))
}

pub(super) async fn without_files(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    for path in inv.args.strings("paths") {
        let text = if inv.args.bool("expand") {
            c.expand(&path)?
        } else {
            path.to_string()
        };
        c = c.without(&c.absolute(&text))?;
    }
    Ok(inv.object(c))
}

impl Container {
    fn without(&self, path: &str) -> Result<Self, Error> {
        self.edit_at(path, |tree, path| {
            tree.edited(directory::removal(tree, [Arc::from(path)]), vec![])
        })
    }
}
