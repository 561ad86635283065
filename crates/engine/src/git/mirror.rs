//! What was fetched from a repository: bare, kept in the store, for one depth of history.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use graph::error::Error;
use store::Volume;

use super::{
    command::{Failure, Git},
    remote::{Access, Repository, home},
};
use crate::{Ctx, progress::Step};

/// With more packs than this they become one.
const PACKS_MAX: usize = 50;
/// Names the commit whose history is all that a mirror has.
const ONLY: &str = "bodkin-only";

/// A mirror, locked.
pub(super) struct Mirror {
    /// The bare repository.
    pub(super) dir: PathBuf,
    /// An empty directory.
    pub(super) home: PathBuf,
    /// Commits of history; 0 is all.
    pub(super) depth: u32,
    _volume: Volume,
    _lock: tokio::sync::OwnedMutexGuard<()>,
}

/// A commit to have.
pub(super) struct Wanted<'a> {
    /// Its hash.
    pub(super) commit: &'a str,
    /// A reference that leads to it, for servers that give nothing else.
    pub(super) name: Option<&'a str>,
    /// Tag objects to have too.
    pub(super) tags: &'a [(String, String)],
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |e| Error::environment(format!("cannot prepare `{path}`: {e}"))
}

impl Mirror {
    /// Waits for the mirror, makes it if need be, and sweeps what a killed fetch left.
    pub(super) async fn open(
        ctx: &Ctx,
        repository: &Repository,
        depth: u32,
        commit: &str,
    ) -> Result<Self, Error> {
        Self::open_beside(ctx, repository, None, depth, commit).await
    }

    /// The same for what comes from another repository too: what is in a mirror must have come from its own.
    pub(super) async fn open_beside(
        ctx: &Ctx,
        repository: &Repository,
        beside: Option<&Repository>,
        depth: u32,
        commit: &str,
    ) -> Result<Self, Error> {
        let lock: Arc<tokio::sync::Mutex<()>> = ctx.engine.volume_lock(&repository.volume_key());
        let lock = lock.lock_owned().await;
        let volume = repository.volume(ctx).await?;
        let format = if commit.len() == 64 { "sha256" } else { "sha1" };
        let dir = volume.path().join(match beside {
            None => format!("{format}-{depth}.git"),
            Some(other) => {
                let other = blake3::hash(other.volume_key().as_bytes()).to_hex();
                format!("beside-{format}-{depth}-{other:.32}.git")
            }
        });
        let mirror = Self {
            home: home(ctx)?,
            dir,
            depth,
            _volume: volume,
            _lock: lock,
        };
        let (dir, there) = (mirror.dir.clone(), mirror.dir.join("HEAD").exists());
        ctx.engine
            .blocking(move || sweep(&dir).map_err(disk(&dir)))
            .await?;
        if !there {
            mirror.make(format).await?;
        }
        Ok(mirror)
    }

    async fn make(&self, format: &str) -> Result<(), Error> {
        let new = self.dir.with_extension("new");
        let init = [
            "init",
            "--bare",
            "--quiet",
            "--template=",
            "--initial-branch=none",
            &format!("--object-format={format}"),
            "--",
            &new.display().to_string(),
        ]
        .map(str::to_owned);
        Git::new(&self.home, init).run(None).await?;
        // Of this machine, for a checkout that takes its history from here.
        let config = new.join("config");
        let mut text = fs::read_to_string(&config).map_err(disk(&config))?;
        text.push_str("[uploadpack]\n\tallowAnySHA1InWant = true\n");
        fs::write(&config, text).map_err(disk(&config))?;
        fs::rename(&new, &self.dir).map_err(disk(&self.dir))
    }

    /// A run of `git` on this mirror.
    pub(super) fn git<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Git {
        Git::new(&self.home, args.into_iter().map(|a| a.as_ref().to_owned()))
            .env("GIT_DIR", &self.dir)
    }

    /// Is the commit here, with all that belongs to it?
    pub(super) async fn has(&self, wanted: &Wanted<'_>) -> bool {
        // The reference is made by the fetch, after its objects.
        let mut objects = vec![format!("refs/bodkin/{}", wanted.commit)];
        objects.extend(wanted.tags.iter().map(|(_, object)| object.clone()));
        let asked = objects.join("\n") + "\n";
        let answer = self
            .git(["cat-file", "--batch-check=%(objectname)"])
            .input(asked.into_bytes())
            .run(None)
            .await;
        answer.is_ok_and(|a| {
            let text = String::from_utf8_lossy(&a).into_owned();
            !text.contains("missing") && text.lines().count() == objects.len()
        })
    }

    /// Fetches a commit; the smallest way that the server knows.
    pub(super) async fn fetch(
        &self,
        access: &Access,
        url: &str,
        wanted: &Wanted<'_>,
        step: &Step,
    ) -> Result<(), Failure> {
        let target = format!("refs/bodkin/{}", wanted.commit);
        let mut specs = vec![format!("+{}:{target}", wanted.commit)];
        specs.extend(
            wanted
                .tags
                .iter()
                .map(|(_, object)| format!("+{object}:refs/bodkin/tag-{object}")),
        );
        let fresh = self.is_fresh();
        // Whatever comes, the mirror is not what it was.
        let only = self.dir.join(ONLY);
        if only.exists() {
            fs::remove_file(&only).map_err(Failure::Spawn)?;
        }
        let by_hash = self
            .fetch_specs(access, url, self.depth, &specs, step)
            .await;
        match by_hash {
            Ok(()) => {}
            Err(e) if gives_no_hashes(&e) => {
                self.fetch_by_name(access, url, wanted, &target, step)
                    .await?;
            }
            Err(e) => return Err(e),
        }
        if fresh && wanted.tags.is_empty() && self.packs() == 1 {
            fs::write(&only, wanted.commit).map_err(Failure::Spawn)?;
        } else if self.packs() > PACKS_MAX {
            self.git(["repack", "-a", "-d", "--quiet"])
                .run(None)
                .await?;
        }
        Ok(())
    }

    async fn fetch_specs(
        &self,
        access: &Access,
        url: &str,
        depth: u32,
        specs: &[String],
        step: &Step,
    ) -> Result<(), Failure> {
        let depth = (depth > 0).then(|| format!("--depth={depth}"));
        let args = [
            "fetch",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--progress",
            "--force",
        ]
        .into_iter()
        .map(str::to_owned)
        .chain(depth)
        .chain(["--".to_owned(), url.to_owned()])
        .chain(specs.iter().cloned());
        access.apply(self.git(args)).run(Some(step)).await.map(drop)
    }

    /// Some servers give only what a reference names, some no part of a history.
    async fn fetch_by_name(
        &self,
        access: &Access,
        url: &str,
        wanted: &Wanted<'_>,
        target: &str,
        step: &Step,
    ) -> Result<(), Failure> {
        if let Some(name) = wanted.name.filter(|n| n.starts_with("refs/")) {
            let specs = [format!("+{name}:refs/bodkin-seen/{name}")];
            let done = self
                .fetch_specs(access, url, self.depth, &specs, step)
                .await;
            if done.is_ok() && self.point(wanted.commit, target).await.is_ok() {
                return Ok(());
            }
        }
        let specs = [
            "+refs/heads/*:refs/bodkin-seen/heads/*",
            "+refs/tags/*:refs/bodkin-seen/tags/*",
        ]
        .map(str::to_owned);
        // Part of the history may be here: the rest is wanted too.
        let all = if self.dir.join("shallow").exists() {
            i32::MAX as u32
        } else {
            0
        };
        self.fetch_specs(access, url, all, &specs, step).await?;
        self.point(wanted.commit, target).await
    }

    async fn point(&self, commit: &str, target: &str) -> Result<(), Failure> {
        let commit = format!("{commit}^{{commit}}");
        self.git([
            "rev-parse",
            "--quiet",
            "--verify",
            "--end-of-options",
            &commit,
        ])
        .run(None)
        .await
        .map_err(|_| {
            Failure::Failed(format!(
                "the repository has no commit {}",
                commit.trim_end_matches("^{commit}")
            ))
        })?;
        self.git(["update-ref", target, commit.trim_end_matches("^{commit}")])
            .run(None)
            .await
            .map(drop)
    }

    /// Is nothing in it?
    pub(super) fn is_fresh(&self) -> bool {
        self.packs() == 0
    }

    fn packs(&self) -> usize {
        packs(&self.dir).map_or(usize::MAX, |p| p.len())
    }

    /// The files of the one pack, when the mirror has nothing but this commit's history.
    pub(super) fn only(&self, commit: &str) -> Option<Vec<PathBuf>> {
        let only = fs::read_to_string(self.dir.join(ONLY)).ok()?;
        if only != commit || self.packs() != 1 {
            return None;
        }
        let entries = fs::read_dir(self.dir.join("objects/pack")).ok()?;
        entries.map(|e| e.ok().map(|e| e.path())).collect()
    }
}

/// Did the server refuse because of how it was asked?
fn gives_no_hashes(failure: &Failure) -> bool {
    let Failure::Failed(words) = failure else {
        return false;
    };
    [
        "not our ref",
        "unadvertised object",
        "dumb http transport does not support shallow",
        "does not support shallow",
        "no such remote ref",
        "couldn't find remote ref",
        "remote error: upload-pack",
    ]
    .iter()
    .any(|sign| words.contains(sign))
}

fn packs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.join("objects/pack"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "pack") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes what a killed `git` left: half a repository, locks, unfinished packs. Nobody else works here.
fn sweep(dir: &Path) -> io::Result<()> {
    let gone = |r: io::Result<()>| match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(fs::remove_dir_all(dir.with_extension("new")))?;
    if !dir.exists() {
        return Ok(());
    }
    for name in [
        "shallow.lock",
        "packed-refs.lock",
        "config.lock",
        "HEAD.lock",
    ] {
        gone(fs::remove_file(dir.join(name)))?;
    }
    let mut pending = vec![dir.join("refs")];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "lock") {
                gone(fs::remove_file(entry.path()))?;
            }
        }
    }
    for folder in ["objects", "objects/pack"] {
        for entry in fs::read_dir(dir.join(folder))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("tmp_") || name.starts_with(".tmp-") {
                if entry.file_type()?.is_dir() {
                    gone(fs::remove_dir_all(entry.path()))?;
                } else {
                    gone(fs::remove_file(entry.path()))?;
                }
            } else if name.starts_with("incoming-") || name.starts_with("tmp_objdir-") {
                gone(fs::remove_dir_all(entry.path()))?;
            }
        }
    }
    Ok(())
}
