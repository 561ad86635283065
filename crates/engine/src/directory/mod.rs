//! Directories: places in lazily made trees.

mod binary;
mod changes;
pub mod export;
mod fields;
mod lines;
pub(crate) mod merge;
pub(crate) mod patch;
pub(crate) mod replace;
pub(crate) mod search;
pub(crate) mod stat;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use graph::error::{Class, Error};
use store::Snapshot;

pub use fields::bind;
pub(crate) use fields::{
    Copy, copy_dir, copy_file, file_mode, file_target, removal, subdirectory, subfile,
};

use crate::{
    Ctx,
    container::paths,
    engine::Stop,
    node::{Edit, Node, Output},
};

/// A place in a tree that may not have been made yet. What stands there — directory or file — is the holder's business.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Who makes the tree; `None` is the empty tree.
    pub output: Option<Output>,
    /// Absolute, cleaned path in it.
    pub path: Arc<str>,
}

/// A directory.
#[derive(Debug, Clone)]
pub struct Directory {
    /// Where it is.
    pub tree: Tree,
}

/// A file.
#[derive(Debug, Clone)]
pub struct File {
    /// Where it is.
    pub tree: Tree,
}

/// Longest base name a filesystem takes.
pub const NAME_MAX: usize = 255;

impl Tree {
    /// The root of the empty tree.
    pub fn empty() -> Self {
        Self {
            output: None,
            path: "/".into(),
        }
    }

    /// The root of an output.
    pub fn root(output: Output) -> Self {
        Self {
            output: Some(output),
            path: "/".into(),
        }
    }

    /// A place below.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        Self {
            output: self.output.clone(),
            path: self.inner(path).into(),
        }
    }

    /// `path` below this place, as a path of the whole tree. `..` stops here only at the tree's root.
    pub fn inner(&self, path: &str) -> String {
        paths::join(&self.path, path.trim_start_matches('/'))
    }

    /// [`Tree::inner`] that never leaves this place.
    pub fn clamped(&self, path: &str) -> String {
        paths::join("/", &format!("{}{}", self.path, paths::join("/", path)))
    }

    /// This place after an edit of the whole tree.
    #[must_use]
    pub fn edited(&self, edit: Edit, sources: Vec<Output>) -> Self {
        self.edited_from(edit, sources.into_iter().map(Some).collect())
    }

    /// The same; an edit that takes several trees can take empty ones.
    #[must_use]
    pub fn edited_from(&self, edit: Edit, sources: Vec<Option<Output>>) -> Self {
        Self {
            output: Some(Node::edit(self.output.clone(), edit, sources)),
            path: self.path.clone(),
        }
    }

    /// Makes the tree.
    ///
    /// # Errors
    /// Whatever the work behind it answered.
    pub async fn snapshot(&self, ctx: &Ctx) -> Result<Snapshot, Error> {
        match &self.output {
            Some(o) => ctx.evaluate(o).await,
            None => ctx
                .engine
                .store
                .empty()
                .map_err(|e| Error::from_chain(Class::Environment, &e)),
        }
    }

    /// Makes the tree and runs `f` on it, on a thread that may block.
    ///
    /// # Errors
    /// Whatever the work behind it or `f` answered.
    pub async fn read<T, F>(&self, ctx: &Ctx, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&store::Tree, &str) -> Result<T, store::TreeError> + Send + 'static,
    {
        self.with(ctx, move |tree, path| {
            f(tree, path).map_err(|e| tree_error(&e))
        })
        .await
    }

    /// [`Tree::read`] for work that fails in other ways too.
    ///
    /// # Errors
    /// Whatever the work behind it or `f` answered.
    pub async fn with<T, F>(&self, ctx: &Ctx, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&store::Tree, &str) -> Result<T, Error> + Send + 'static,
    {
        self.with_stop(ctx, |tree, path, _| f(tree, path)).await
    }

    /// [`Tree::with`] for long work, which looks now and then whether somebody still waits for it.
    ///
    /// # Errors
    /// Whatever the work behind it or `f` answered.
    pub async fn with_stop<T, F>(&self, ctx: &Ctx, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&store::Tree, &str, &Stop) -> Result<T, Error> + Send + 'static,
    {
        let snapshot = self.snapshot(ctx).await?;
        let path = self.path.clone();
        ctx.engine
            .stoppable(move |stop| {
                let tree = snapshot
                    .tree()
                    .map_err(|e| Error::from_chain(Class::Environment, &e))?;
                f(&tree, &path, stop)
            })
            .await
    }

    /// Two places are the same when the same node makes them at the same path.
    pub fn output_key(&self, h: &mut crate::node::KeyHasher) {
        match &self.output {
            Some(o) => h.output(o),
            None => h.str("empty"),
        };
        h.str(&self.path);
    }
}

/// What a client is told of a failed look at a tree.
pub fn tree_error(e: &store::TreeError) -> Error {
    Error::from_chain(Class::User, e)
}

/// Refuses what no symbolic link can lead to.
///
/// # Errors
/// Nothing, or a text with a NUL byte.
pub fn check_target(target: &str) -> Result<(), Error> {
    match target {
        "" => Err(Error::user(
            "`target` of a symbolic link is empty: say where it leads",
        )),
        target if target.contains('\0') => Err(tree_error(&store::TreeError::Nul {
            path: target.to_owned(),
        })),
        _ => Ok(()),
    }
}

/// Refuses names no filesystem takes.
///
/// # Errors
/// The sentence clients know, behind the path.
pub fn check_name(path: &str) -> Result<(), Error> {
    let owned = || path.to_owned();
    if paths::base_name(path).len() > NAME_MAX {
        return Err(tree_error(&store::TreeError::NameTooLong { path: owned() }));
    }
    if path.contains('\0') {
        return Err(tree_error(&store::TreeError::Nul { path: owned() }));
    }
    Ok(())
}
