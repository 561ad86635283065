//! The fields of `GitRepository` and `GitRef`.

use std::sync::Arc;

use graph::{
    error::{Class, Error},
    resolve::{Invocation, Memo, View},
    value::Value,
};

use super::{
    address,
    checkout::{Checkout, tree},
    mirror::{Mirror, Wanted},
    refs::{Kind, Resolved, is_hash},
    remote::{Access, Repository},
};
use crate::{
    Ctx,
    directory::{Directory, Tree},
    dispatch::Binder,
    host::Socket,
    node::Node,
    secret::{Plaintext, Secret},
    service::Service,
};

type Answer = Result<Value, Error>;

/// From here on a branch is a branch and a tag is a tag; before, all fields take any name.
const STRICT: View = View::new(0, 19, 0);

/// A commit of a repository, by whatever names it.
#[derive(Debug, Clone)]
pub struct GitRef {
    /// Where.
    pub repository: Repository,
    /// Its name, or hash; empty for the default branch.
    pub name: Arc<str>,
    /// What the name may mean.
    kind: Kind,
}

impl GitRef {
    /// Anything that names a commit of a repository; an empty name is its default branch.
    pub fn named(repository: Repository, name: &str) -> Self {
        Self {
            repository,
            name: name.into(),
            kind: Kind::Any,
        }
    }

    /// Which commit it is. A hash is its own answer; names are asked for once per session.
    ///
    /// # Errors
    /// `repository does not contain ref …`, or what came of asking.
    pub async fn resolve(&self, ctx: &Ctx) -> Result<Resolved, Error> {
        if is_hash(&self.name) && matches!(self.kind, Kind::Any | Kind::Commit) {
            let commit = self.name.to_ascii_lowercase();
            return Ok(Resolved {
                name: commit.clone(),
                commit,
            });
        }
        let missing = || {
            let name = if self.name.is_empty() {
                "HEAD"
            } else {
                &*self.name
            };
            Error::user(format!(
                "repository does not contain ref {name} ({})",
                self.repository.address
            ))
        };
        if self.kind == Kind::Commit {
            return Err(missing());
        }
        let refs = self.repository.refs(ctx).await?;
        let found = if self.name.is_empty() {
            refs.head()
        } else {
            refs.find(&self.name, self.kind)
        };
        found.ok_or_else(missing)
    }

    /// Its files, to be checked out when they are needed. They are fetched now if this repository has not given the commit
    /// before.
    ///
    /// # Errors
    /// As [`GitRef::resolve`].
    pub async fn tree(&self, ctx: &Ctx, depth: u32, include_tags: bool) -> Result<Tree, Error> {
        let resolved = self.resolve(ctx).await?;
        let tags = if include_tags {
            self.repository.refs(ctx).await?.tags_of(&resolved.commit)
        } else {
            Vec::new()
        };
        let checkout = Checkout {
            repository: self.repository.clone(),
            name: resolved.name.starts_with("refs/").then_some(resolved.name),
            commit: resolved.commit,
            depth,
            tags,
        };
        checkout.admit(ctx).await?;
        Ok(Tree::root(tree(checkout)))
    }
}

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.bind("Query.git", Memo::Client, git);
    b.bind("GitRepository.head", Memo::Session, |inv| async move {
        named(&inv, "", Kind::Any)
    });
    b.bind("GitRepository.ref", Memo::Session, |inv| async move {
        named(&inv, inv.args.str("name"), Kind::Any)
    });
    b.by_view("GitRepository.branch", Memo::Session, |inv| async move {
        named(&inv, inv.args.str("name"), strict(inv.view, Kind::Branch))
    });
    b.by_view("GitRepository.tag", Memo::Session, |inv| async move {
        named(&inv, inv.args.str("name"), strict(inv.view, Kind::Tag))
    });
    b.by_view("GitRepository.commit", Memo::Session, |inv| async move {
        named(&inv, inv.args.str("id"), strict(inv.view, Kind::Commit))
    });
    b.bind("GitRepository.tags", Memo::Never, |inv| async move {
        names(&inv, "refs/tags/").await
    });
    b.bind("GitRepository.branches", Memo::Never, |inv| async move {
        names(&inv, "refs/heads/").await
    });
    b.bind("GitRepository.latestVersion", Memo::Never, latest_version);
    b.bind("GitRepository.url", Memo::Session, |inv| async move {
        Ok(Value::string(inv.this::<Repository>()?.address.url()))
    });
    b.bind(
        "GitRepository.withAuthToken",
        Memo::Session,
        with_auth_token,
    );
    b.bind(
        "GitRepository.withAuthHeader",
        Memo::Session,
        with_auth_header,
    );
    b.bind("GitRef.commit", Memo::Never, |inv| async move {
        Ok(Value::string(
            inv.this::<GitRef>()?.resolve(&inv.ctx).await?.commit,
        ))
    });
    b.bind("GitRef.ref", Memo::Never, |inv| async move {
        Ok(Value::string(
            inv.this::<GitRef>()?.resolve(&inv.ctx).await?.name,
        ))
    });
    b.bind("GitRef.tree", Memo::Never, ref_tree);
    b.bind("GitRef.commonAncestor", Memo::Never, common_ancestor);
}

fn strict(view: View, kind: Kind) -> Kind {
    if view < STRICT { Kind::Any } else { kind }
}

fn named(inv: &Invocation<Ctx>, name: &str, kind: Kind) -> Answer {
    Ok(inv.object(GitRef {
        repository: inv.this::<Repository>()?.clone(),
        name: name.into(),
        kind,
    }))
}

async fn secret(inv: &Invocation<Ctx>, name: &str) -> Result<Option<Secret>, Error> {
    match inv.args.id(name) {
        Some(id) => Ok(Some(inv.ctx.load::<Secret>(id).await?)),
        None => Ok(None),
    }
}

async fn socket(inv: &Invocation<Ctx>, name: &str) -> Result<Option<Socket>, Error> {
    match inv.args.id(name) {
        Some(id) => Ok(Some(inv.ctx.load::<Socket>(id).await?)),
        None => Ok(None),
    }
}

async fn git(inv: Invocation<Ctx>) -> Answer {
    let parsed =
        address::parse(inv.args.str("url")).map_err(|e| Error::from_chain(Class::User, &e))?;
    let service = match inv.args.id("experimentalServiceHost") {
        Some(id) => Some(inv.ctx.load::<Service>(id).await?),
        None => None,
    };
    let login = parsed
        .login
        .map(|(user, password)| (user, Plaintext::new(password.into_bytes())));
    Ok(inv.object(Repository {
        address: parsed.address,
        keep_git_dir: inv.args.bool("keepGitDir"),
        known_hosts: inv.args.str("sshKnownHosts").into(),
        socket: socket(&inv, "sshAuthSocket").await?,
        username: inv.args.str("httpAuthUsername").into(),
        token: secret(&inv, "httpAuthToken").await?,
        header: secret(&inv, "httpAuthHeader").await?,
        login,
        service,
        client: inv.ctx.client.clone(),
    }))
}

async fn with_auth_token(inv: Invocation<Ctx>) -> Answer {
    Ok(inv.object(Repository {
        token: secret(&inv, "token").await?,
        ..inv.this::<Repository>()?.clone()
    }))
}

async fn with_auth_header(inv: Invocation<Ctx>) -> Answer {
    Ok(inv.object(Repository {
        header: secret(&inv, "header").await?,
        ..inv.this::<Repository>()?.clone()
    }))
}

async fn names(inv: &Invocation<Ctx>, folder: &str) -> Answer {
    let refs = inv.this::<Repository>()?.refs(&inv.ctx).await?;
    Ok(Value::strings(
        refs.names(folder, &inv.args.strings("patterns")),
    ))
}

async fn latest_version(inv: Invocation<Ctx>) -> Answer {
    let repository = inv.this::<Repository>()?;
    let latest = repository.refs(&inv.ctx).await?.latest_version();
    let latest = latest.ok_or_else(|| {
        Error::user(format!(
            "{} has no tag that is a version such as `v1.2.3`",
            repository.address
        ))
    })?;
    Ok(inv.object(GitRef {
        repository: repository.clone(),
        name: latest.name.into(),
        kind: Kind::Any,
    }))
}

async fn ref_tree(inv: Invocation<Ctx>) -> Answer {
    let mut wanted = inv.this::<GitRef>()?.clone();
    let repository = &mut wanted.repository;
    if inv.args.bool("discardGitDir") {
        repository.keep_git_dir = false;
    }
    if let Some(hosts) = inv.args.opt_str("sshKnownHosts").filter(|h| !h.is_empty()) {
        repository.known_hosts = hosts.into();
    }
    if let Some(given) = socket(&inv, "sshAuthSocket").await? {
        repository.socket = Some(given);
    }
    let depth = match inv.args.int("depth") {
        None => 1,
        Some(n) => u32::try_from(n)
            .map_err(|_| Error::user(format!("depth {n} is negative; 0 is all of the history")))?,
    };
    let tree = match wanted
        .tree(&inv.ctx, depth, inv.args.bool("includeTags"))
        .await
    {
        Ok(tree) => tree,
        Err(e) if e.class() == Class::Cancelled => return Err(e),
        // Told to those who want the files.
        Err(e) => Tree::root(Node::failed(e)),
    };
    Ok(inv.object(Directory { tree }))
}

async fn common_ancestor(inv: Invocation<Ctx>) -> Answer {
    let ours = inv.this::<GitRef>()?;
    let id = inv
        .args
        .id("other")
        .ok_or_else(|| Error::user("`other` is missing"))?;
    let theirs = inv.ctx.load::<GitRef>(id).await?;
    let (one, other) = (
        ours.resolve(&inv.ctx).await?,
        theirs.resolve(&inv.ctx).await?,
    );
    let repository = &ours.repository;
    let other_one =
        (theirs.repository.volume_key() != repository.volume_key()).then_some(&theirs.repository);
    let mirror = Mirror::open_beside(&inv.ctx, repository, other_one, 0, &one.commit).await?;
    for (from, resolved) in [(repository, &one), (&theirs.repository, &other)] {
        let wanted = Wanted {
            commit: &resolved.commit,
            name: Some(&resolved.name),
            tags: &[],
        };
        from.admit(&inv.ctx).await?;
        if mirror.has(&wanted).await {
            continue;
        }
        let step = inv
            .ctx
            .session
            .progress
            .step(&format!("git fetch {}", from.address), inv.ctx.span);
        let mut access = Access::open(&inv.ctx, from).await?;
        let fetched = loop {
            match mirror
                .fetch(&access, &from.address.url(), &wanted, &step)
                .await
            {
                Ok(()) => break Ok(()),
                Err(e) if e.is_denied() && access.ask(&inv.ctx, from).await => {}
                Err(e) => break Err(e.into_error(&from.tried())),
            }
        };
        match &fetched {
            Ok(()) => step.done(),
            Err(e) => step.failed(e),
        }
        fetched?;
    }
    let base = mirror
        .git(["merge-base", "--end-of-options", &one.commit, &other.commit])
        .run(None)
        .await
        .map_err(|_| {
            Error::user(format!(
                "{} and {} have no common ancestor",
                one.name, other.name
            ))
        })?;
    let commit = String::from_utf8_lossy(&base).trim().to_owned();
    Ok(inv.object(GitRef::named(repository.clone(), &commit)))
}
