//! The files of a commit as a tree of the store.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use futures::future::BoxFuture;
use graph::error::{Class, Error};
use store::{Draft, Snapshot};

use super::{
    command::{Failure, Git},
    mirror::{Mirror, Wanted},
    remote::{Access, Repository},
    submodules,
};
use crate::{
    Ctx,
    node::{KeyHasher, Node, Op, Output},
    progress::Step,
};

/// A tree to be made from a commit.
#[derive(Debug)]
pub struct Checkout {
    /// Where the commit is.
    pub repository: Repository,
    /// Its hash.
    pub commit: String,
    /// The reference it was found by.
    pub name: Option<String>,
    /// Commits of history in `.git`; 0 is all.
    pub depth: u32,
    /// Tags in `.git`: full name and object.
    pub tags: Vec<(String, String)>,
}

/// The tree of a commit, named by what is in it: the same commit from another repository is the same tree, unless it has a
/// `.git`, which tells of the repository. Who asks must be admitted before ([`Checkout::admit`]).
pub fn tree(plan: Checkout) -> Output {
    // Trees that older versions made may have the `.git` of another repository.
    let mut h = KeyHasher::new("git checkout 2");
    h.str(&plan.commit)
        .num(u64::from(plan.repository.keep_git_dir));
    if plan.repository.keep_git_dir {
        h.str(&plan.repository.address.without_query())
            .num(u64::from(plan.depth))
            .num(plan.tags.len() as u64);
        for (name, object) in &plan.tags {
            h.str(name).str(object);
        }
    }
    Output {
        node: Node::new(h.finish(), Op::Checkout(Box::new(plan)), vec![]),
        index: 0,
    }
}

/// Where a checkout goes, and what is known of it when it is there.
pub(super) struct Place<'a> {
    /// The directory.
    pub(super) dir: &'a Path,
    /// The step it is shown in.
    pub(super) step: &'a Step,
    /// How deep in other repositories it is.
    pub(super) level: usize,
}

impl Checkout {
    /// For people.
    pub fn shown(&self) -> String {
        format!("{}@{:.12}", self.repository.address, self.commit)
    }

    /// Fetches what is missing and makes the tree.
    ///
    /// # Errors
    /// What the network, the server or `git` said, and what is wrong with submodules.
    pub async fn snapshot(&self, ctx: &Ctx) -> Result<Snapshot, Error> {
        let step = ctx
            .session
            .progress
            .step(&format!("git checkout {}", self.shown()), ctx.span);
        let made = self.make(ctx, &step).await;
        match &made {
            Ok(_) => step.done(),
            Err(e) => step.failed(e),
        }
        made
    }

    async fn make(&self, ctx: &Ctx, step: &Step) -> Result<Snapshot, Error> {
        let store = ctx.engine.store.clone();
        let draft = ctx
            .engine
            .blocking(move || {
                store
                    .draft(None)
                    .map_err(|e| Error::from_chain(Class::Environment, &e))
            })
            .await?;
        let place = Place {
            dir: draft.upper(),
            step,
            level: 0,
        };
        let date = self.fill(ctx, &place).await?;
        ctx.engine.blocking(move || finish(draft, date)).await
    }

    /// Puts the files of the commit, and of its submodules, into a directory. Answers the commit's time. Boxed: a checkout
    /// within a checkout has no finite type.
    pub(super) fn fill<'a>(
        &'a self,
        ctx: &'a Ctx,
        place: &'a Place<'_>,
    ) -> BoxFuture<'a, Result<i64, Error>> {
        Box::pin(async move {
            let (date, inner) = self.fill_own(ctx, place).await?;
            // The mirror is free again: a submodule may come from the same repository.
            submodules::fill(ctx, self, place, inner).await?;
            Ok(date)
        })
    }

    /// What the mirror must have.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            commit: &self.commit,
            name: self.name.as_deref(),
            tags: if self.repository.keep_git_dir {
                &self.tags
            } else {
                &[]
            },
        }
    }

    /// How much of the history the mirror must have.
    pub(super) fn mirror_depth(&self) -> u32 {
        if self.repository.keep_git_dir {
            self.depth
        } else {
            1
        }
    }

    /// The mirror with the commit in it, for somebody whom the remote has answered; and the way that was taken, if any.
    pub(super) async fn fetched(
        &self,
        ctx: &Ctx,
        step: &Step,
    ) -> Result<(Mirror, Option<Access>), Error> {
        let repository = &self.repository;
        let wanted = self.wanted();
        let mirror = Mirror::open(ctx, repository, self.mirror_depth(), &self.commit).await?;
        if mirror.has(&wanted).await {
            repository.admit(ctx).await?;
            return Ok((mirror, None));
        }
        // With nothing here a fetch must ask the remote; else `git` may find by itself what it needs.
        let fresh = mirror.is_fresh();
        let mut way = Access::open(ctx, repository).await?;
        let url = repository.address.url();
        loop {
            match mirror.fetch(&way, &url, &wanted, step).await {
                Ok(()) => break,
                Err(e) if e.is_denied() && way.ask(ctx, repository).await => {}
                Err(e) => return Err(e.into_error(&repository.tried())),
            }
        }
        if fresh {
            repository.admitted(ctx, &way).await?;
        } else {
            repository.admit(ctx).await?;
        }
        Ok((mirror, Some(way)))
    }

    async fn fill_own(
        &self,
        ctx: &Ctx,
        place: &Place<'_>,
    ) -> Result<(i64, Vec<submodules::Submodule>), Error> {
        let repository = &self.repository;
        let keep = repository.keep_git_dir;
        let (mirror, mut access) = self.fetched(ctx, place.step).await?;
        let failed = |e: Failure| e.into_error(&format!("cannot check out {}", self.shown()));
        let (large, date, inner) = futures::try_join!(
            uses_large_files(&mirror, &self.commit),
            async { date_of(&mirror, &self.commit).await.map_err(failed) },
            submodules::of(&mirror, &self.commit),
        )?;
        if large && access.is_none() {
            access = Some(Access::open(ctx, repository).await?);
        }
        let with_large = |mut git: Git| {
            if large {
                for (name, value) in [
                    ("filter.lfs.process", "git-lfs filter-process"),
                    ("filter.lfs.smudge", "git-lfs smudge -- %f"),
                    ("filter.lfs.required", "true"),
                    ("remote.origin.url", &repository.address.url()),
                    ("lfs.storage", &mirror.dir.join("lfs").display().to_string()),
                ] {
                    git = git.setting(name, value);
                }
            }
            match &access {
                Some(access) if large => access.apply(git),
                _ => git,
            }
        };
        let read = ["read-tree", "--reset", "-u", &self.commit];
        if keep {
            let git_dir = place.dir.join(".git");
            self.make_git_dir(&mirror, place.dir)
                .await
                .map_err(failed)?;
            let own = |index: &Path, args: &[&str]| {
                Git::new(&mirror.home, args)
                    .env("GIT_DIR", &git_dir)
                    .env("GIT_WORK_TREE", place.dir)
                    .env("GIT_INDEX_FILE", index)
            };
            // An index that knows nothing of this machine's inodes and clocks is the same everywhere. It is made meanwhile, and
            // takes the place of the one that the checkout needed.
            let (index, plain) = (git_dir.join("index"), git_dir.join("index.plain"));
            let checkout = with_large(own(&index, &read)).run(Some(place.step));
            let plainly = own(&plain, &["read-tree", &self.commit]).run(None);
            futures::try_join!(checkout, plainly).map_err(failed)?;
            fs::rename(&plain, &index)
                .map_err(|e| Error::environment(format!("cannot write `.git/index`: {e}")))?;
            self.tidy_git_dir(&git_dir, &inner)
                .map_err(|e| Error::environment(format!("cannot write `.git`: {e}")))?;
        } else {
            let index = Index::new(ctx);
            let git = mirror
                .git(read)
                .env("GIT_WORK_TREE", place.dir)
                .env("GIT_INDEX_FILE", &index.0);
            with_large(git)
                .run(Some(place.step))
                .await
                .map_err(failed)?;
        }
        Ok((date, inner))
    }

    /// A repository with this commit's history, and nothing else, in `dir`.
    async fn make_git_dir(&self, mirror: &Mirror, dir: &Path) -> Result<(), Failure> {
        let format = if self.commit.len() == 64 {
            "sha256"
        } else {
            "sha1"
        };
        let init = [
            "init",
            "--quiet",
            "--template=",
            "--initial-branch=main",
            &format!("--object-format={format}"),
            "--",
            &dir.display().to_string(),
        ]
        .map(str::to_owned);
        Git::new(&mirror.home, init).run(None).await?;
        let git_dir = dir.join(".git");
        if let Some(files) = mirror.only(&self.commit) {
            link_all(&files, &git_dir.join("objects/pack")).map_err(Failure::Spawn)?;
            match fs::copy(mirror.dir.join("shallow"), git_dir.join("shallow")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Failure::Spawn(e)),
                _ => {}
            }
        } else {
            let mut args = vec![
                "fetch".to_owned(),
                "--no-tags".to_owned(),
                "--no-write-fetch-head".to_owned(),
                "--quiet".to_owned(),
            ];
            if mirror.depth > 0 {
                args.push(format!("--depth={}", mirror.depth));
            }
            args.extend(["--".to_owned(), format!("file://{}", mirror.dir.display())]);
            args.push(self.commit.clone());
            args.extend(self.tags.iter().map(|(_, object)| object.clone()));
            Git::new(&mirror.home, args)
                .env("GIT_DIR", &git_dir)
                .setting("protocol.file.allow", "always")
                .run(None)
                .await?;
        }
        for (name, object) in &self.tags {
            Git::new(&mirror.home, ["update-ref", "--", name, object])
                .env("GIT_DIR", &git_dir)
                .run(None)
                .await?;
        }
        fs::write(git_dir.join("HEAD"), format!("{}\n", self.commit)).map_err(Failure::Spawn)
    }

    /// Leaves in `.git` what every clone of this commit has.
    fn tidy_git_dir(&self, git_dir: &Path, inner: &[submodules::Submodule]) -> io::Result<()> {
        for name in ["FETCH_HEAD", "ORIG_HEAD", "description", "COMMIT_EDITMSG"] {
            gone(fs::remove_file(git_dir.join(name)))?;
        }
        for name in ["hooks", "logs", "branches", "info", "lfs"] {
            gone(fs::remove_dir_all(git_dir.join(name)))?;
        }
        let mut config = String::from("[core]\n");
        if self.commit.len() == 64 {
            config.push_str("\trepositoryformatversion = 1\n");
        } else {
            config.push_str("\trepositoryformatversion = 0\n");
        }
        config.push_str("\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n");
        if self.commit.len() == 64 {
            config.push_str("[extensions]\n\tobjectformat = sha256\n");
        }
        config.push_str(&format!(
            "[remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
            setting_value(&self.repository.address.without_query())
        ));
        for module in inner {
            config.push_str(&format!(
                "[submodule {}]\n\tactive = true\n\turl = {}\n",
                setting_value(&module.name),
                setting_value(&module.url)
            ));
        }
        fs::write(git_dir.join("config"), config)
    }
}

/// A value as a file of settings has it.
fn setting_value(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Files that never change again are shared, not copied, where the disk can.
fn link_all(files: &[PathBuf], to: &Path) -> io::Result<()> {
    for file in files {
        let Some(name) = file.file_name() else {
            continue;
        };
        let dest = to.join(name);
        if fs::hard_link(file, &dest).is_err() {
            fs::copy(file, &dest)?;
        }
    }
    Ok(())
}

/// An index for one run; removed when dropped.
struct Index(PathBuf);

impl Index {
    fn new(ctx: &Ctx) -> Self {
        let name = format!("git-index-{}", uuid::Uuid::new_v4().simple());
        Self(ctx.engine.run_dir.join(name))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // The scratch directory is emptied at the next start as well.
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_file(self.0.with_extension("lock"));
    }
}

/// Gives everything the time of the commit, and makes it a tree.
fn finish(draft: Draft, date: i64) -> Result<Snapshot, Error> {
    let environment =
        |e: &(dyn std::error::Error + 'static)| Error::from_chain(Class::Environment, e);
    {
        let tree = draft.tree().map_err(|e| environment(&e))?;
        tree.set_times("/", date).map_err(|e| environment(&e))?;
    }
    draft.commit().map_err(|e| environment(&e))
}

/// When the commit was made, in seconds since 1970.
async fn date_of(mirror: &Mirror, commit: &str) -> Result<i64, Failure> {
    let object = mirror.git(["cat-file", "commit", commit]).run(None).await?;
    let text = String::from_utf8_lossy(&object);
    let line = text.lines().find_map(|l| l.strip_prefix("committer "));
    let seconds = line.and_then(|l| l.rsplit(' ').nth(1)?.parse().ok());
    Ok(seconds.unwrap_or(0))
}

/// Are there files that are kept elsewhere, and is there a program that gets them? Without it, what the commit has instead of
/// the files is checked out.
async fn uses_large_files(mirror: &Mirror, commit: &str) -> Result<bool, Error> {
    let program = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("git-lfs").is_file()));
    if !program {
        return Ok(false);
    }
    let found = mirror
        .git([
            "grep",
            "--quiet",
            "--fixed-strings",
            "filter=lfs",
            commit,
            "--",
            ":(glob)**/.gitattributes",
        ])
        .run(None)
        .await;
    match found {
        Ok(_) => Ok(true),
        // Nothing found is a failure without words.
        Err(Failure::Failed(words)) if words.starts_with("exit status") => Ok(false),
        Err(e) => Err(e.into_error("cannot look for large files")),
    }
}
