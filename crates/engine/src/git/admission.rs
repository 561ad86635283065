//! Who may use what was fetched before. A mirror answers without its remote, so it answers only those whom the remote has
//! answered: beside it are keyed hashes of the credentials (none counts as one) with which a listing or a fetch succeeded.

use std::{fs, io, path::Path};

use futures::future::BoxFuture;
use graph::error::Error;

use super::{
    checkout::Checkout,
    mirror::Mirror,
    remote::{Access, Repository},
    submodules,
};
use crate::Ctx;

/// The hashes, one a line.
const FILE: &str = "admitted";
/// What they are keyed with: random, and of this mirror alone.
const KEY: &str = "admitted.key";
/// Hashes that are kept; the oldest go.
const MOST: usize = 256;
/// Where it is kept whether a commit has submodules.
const SPACE: &str = "git submodules";

fn disk(dir: &Path) -> impl Fn(io::Error) -> Error {
    let dir = dir.display().to_string();
    move |e| Error::environment(format!("cannot read or write `{dir}/{FILE}`: {e}"))
}

/// A file that appears whole.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.{}", uuid::Uuid::new_v4().simple()));
    let done = fs::write(&new, bytes).and_then(|()| fs::rename(&new, dir.join(name)));
    if done.is_err() {
        // It may not be there.
        let _ = fs::remove_file(&new);
    }
    done
}

/// The hashes of those who are admitted, oldest first.
fn admitted(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_to_string(dir.join(FILE)) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The hash of credentials under the key of this folder, which is made when it is not there: without it no hash fits.
fn hash(dir: &Path, credentials: &[u8]) -> io::Result<String> {
    let path = dir.join(KEY);
    let key = match fs::read(&path) {
        Ok(key) if key.len() == 32 => key,
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {
            let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
            let key: Vec<u8> = halves.iter().flat_map(|u| *u.as_bytes()).collect();
            write(dir, KEY, &key)?;
            key
        }
    };
    let mut sized = [0; 32];
    sized.copy_from_slice(&key);
    let hash = blake3::keyed_hash(&sized, credentials);
    Ok(hash.to_hex().to_string())
}

fn remember(dir: &Path, credentials: &[u8]) -> io::Result<()> {
    let own = hash(dir, credentials)?;
    let mut all = admitted(dir)?;
    if all.contains(&own) {
        return Ok(());
    }
    all.push(own);
    let surplus = all.len().saturating_sub(MOST);
    all.drain(..surplus);
    write(dir, FILE, (all.join("\n") + "\n").as_bytes())
}

impl Repository {
    /// Keeps that the remote has answered these credentials.
    ///
    /// # Errors
    /// What the disk said.
    pub(super) async fn admitted(&self, ctx: &Ctx, access: &Access) -> Result<(), Error> {
        let volume = self.volume(ctx).await?;
        let credentials = access.credentials.clone();
        ctx.engine
            .blocking(move || remember(volume.path(), &credentials).map_err(disk(volume.path())))
            .await
    }

    /// Makes sure that the remote has answered this session's credentials: now, or before.
    ///
    /// # Errors
    /// What the remote said.
    pub(super) async fn admit(&self, ctx: &Ctx) -> Result<(), Error> {
        let volume = self.volume(ctx).await?;
        let known = admitted(volume.path()).map_err(disk(volume.path()))?;
        if !known.is_empty() {
            let is_known = |access: &Access| {
                hash(volume.path(), &access.credentials)
                    .map(|own| known.contains(&own))
                    .map_err(disk(volume.path()))
            };
            // Who serves it does not matter for who asks.
            let unserved = Self {
                service: None,
                ..self.clone()
            };
            let mut access = Access::open(ctx, &unserved).await?;
            if is_known(&access)? {
                return Ok(());
            }
            // What the user's helpers know may have been good before; no network is needed to ask them.
            if access.ask(ctx, &unserved).await && is_known(&access)? {
                return Ok(());
            }
        }
        self.refs(ctx).await.map(drop)
    }
}

impl Checkout {
    /// Makes sure that this session may have the commit, and its submodules, and that they come from their own remotes: the
    /// tree of a commit is the same wherever it is from, and so is all that was ever made of it.
    ///
    /// # Errors
    /// What the network, the server or `git` said.
    pub fn admit<'a>(&'a self, ctx: &'a Ctx) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut mirror = None;
            if self.is_mirrored(ctx).await? {
                self.repository.admit(ctx).await?;
            } else {
                mirror = Some(self.fetched_in_step(ctx).await?);
            }
            let facts = ctx.engine.store.facts();
            if facts.get(SPACE, &self.commit).as_deref() == Some(b"none") {
                return Ok(());
            }
            let mirror = match mirror {
                Some(mirror) => mirror,
                None => {
                    let depth = self.mirror_depth();
                    let mirror = Mirror::open(ctx, &self.repository, depth, &self.commit).await?;
                    if mirror.has(&self.wanted()).await {
                        mirror
                    } else {
                        // It is in one with more, or less, of the history; this one's lock is ours.
                        drop(mirror);
                        self.fetched_in_step(ctx).await?
                    }
                }
            };
            let inner = submodules::of(&mirror, &self.commit).await?;
            drop(mirror);
            if inner.is_empty() {
                facts.put(SPACE, &self.commit, b"none");
            }
            for module in &inner {
                let checkout = submodules::checkout(self, module)?;
                checkout
                    .admit(ctx)
                    .await
                    .map_err(|e| e.context(format_args!("submodule `{}`", module.path)))?;
            }
            Ok(())
        })
    }

    async fn fetched_in_step(&self, ctx: &Ctx) -> Result<Mirror, Error> {
        let step = ctx
            .session
            .progress
            .step(&format!("git fetch {}", self.shown()), ctx.span);
        let fetched = self.fetched(ctx, &step).await;
        match &fetched {
            Ok(_) => step.done(),
            Err(e) => step.failed(e),
        }
        Ok(fetched?.0)
    }

    /// Has the remote given this commit before?
    async fn is_mirrored(&self, ctx: &Ctx) -> Result<bool, Error> {
        let volume = self.repository.volume(ctx).await?;
        let file = format!("refs/bodkin/{}", self.commit);
        ctx.engine
            .blocking(move || {
                let entries = fs::read_dir(volume.path()).map_err(disk(volume.path()))?;
                Ok(entries.flatten().any(|e| {
                    let name = e.file_name();
                    let name = name.to_string_lossy();
                    // Not those that are made for two remotes, nor half a one.
                    name.starts_with("sha")
                        && name.ends_with(".git")
                        && e.path().join(&file).exists()
                }))
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_credentials_that_were_good_are_known_and_none_is_written() {
        let dir = std::env::temp_dir().join(format!("bodkin-admitted-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let known = |c: &[u8]| {
            admitted(&dir)
                .expect("read")
                .contains(&hash(&dir, c).expect("a hash"))
        };
        assert!(!known(b"login\0me\0s3cret"));
        remember(&dir, b"login\0me\0s3cret").expect("written");
        assert!(known(b"login\0me\0s3cret") && !known(b"none") && !known(b"login\0me\0other"));
        let text = fs::read_to_string(dir.join(FILE)).expect("read");
        assert!(!text.contains("s3cret") && text.lines().count() == 1);
        for n in 0..MOST {
            remember(&dir, n.to_string().as_bytes()).expect("written");
        }
        assert_eq!(admitted(&dir).expect("read").len(), MOST);
        assert!(!known(b"login\0me\0s3cret") && known(b"255"));
        // Another key, and nobody is known.
        fs::remove_file(dir.join(KEY)).expect("removed");
        assert!(!known(b"255"));
        fs::remove_dir_all(&dir).expect("removed");
    }
}
