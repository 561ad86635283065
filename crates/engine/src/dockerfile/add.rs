//! What `ADD` takes from elsewhere: files by HTTP and repositories by git.

use std::sync::Arc;

use ::dockerfile::Copy as CopyOp;
use graph::error::{Class, Error};

use super::{FileStep, Request, files::Bring};
use crate::{
    Ctx,
    directory::Tree,
    git::{self, GitRef, Repository},
    http,
    node::{Edit, Node, exec::Origin},
    secret::Plaintext,
};

/// Does the address mean a repository: by its scheme, or over HTTP by a path that ends with `.git`?
fn is_repository(url: &str) -> bool {
    let place = url.split(['#', '?']).next().unwrap_or_default();
    let web = ["http://", "https://"].iter().any(|s| url.starts_with(s));
    !web || place.ends_with(".git")
}

/// The tree after an address was added to it. What cannot be had is told when it is needed.
///
/// # Errors
/// An address, mode or checksum that means nothing; the caller gave up.
pub(super) async fn added(
    ctx: &Ctx,
    request: &Request,
    copy: &CopyOp,
    url: &str,
    base: &Tree,
    origin: &Arc<Origin>,
) -> Result<Tree, Error> {
    let (found, bring) = if is_repository(url) {
        let wanted = Added::parse(ctx, request, copy, url)?;
        let bring = Bring::checked_out(copy, &wanted.folder)?;
        (wanted.tree(ctx).await, bring)
    } else {
        let checksum = copy
            .checksum
            .as_deref()
            .map(http::Checksum::parse)
            .transpose()?;
        let wanted = http::Wanted {
            url: url.to_owned(),
            name: None,
            mode: http::MODE,
            checksum,
            authorization: None,
            service: None,
        };
        let file = http::fetch(ctx, wanted).await.map(|f| f.file.tree);
        let path = file
            .as_ref()
            .map_or_else(|_| "/download".into(), |f| f.path.clone());
        (file, Bring::fetched(copy, &path)?)
    };
    let output = match found {
        Ok(tree) => tree.output,
        Err(e) if e.class() == Class::Cancelled => return Err(e),
        Err(e) => Some(Node::failed(e.context(origin))),
    };
    let step = FileStep::bring(bring, origin.clone());
    Ok(base.edited(
        Edit::Instruction(Arc::new(step)),
        output.into_iter().collect(),
    ))
}

/// A commit of a repository, and the folder of it that is added.
struct Added {
    commit: GitRef,
    folder: String,
    /// The commit it must be, or how that begins.
    checksum: Option<String>,
}

/// `ref:folder`, each of them may be missing.
fn fragment(text: &str) -> (&str, &str) {
    text.split_once(':').unwrap_or((text, ""))
}

impl Added {
    fn parse(ctx: &Ctx, request: &Request, copy: &CopyOp, url: &str) -> Result<Self, Error> {
        let parsed = git::address::parse(url).map_err(|e| Error::from_chain(Class::User, &e))?;
        let (name, folder) = fragment(parsed.fragment.as_deref().unwrap_or_default());
        let checksum = copy.checksum.clone();
        if let Some(sum) = &checksum
            && !(sum.len() >= 7 && sum.len() <= 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(Error::user(format!(
                "the checksum `{sum}` of the repository {} is no commit: give 7 digits of its hash at least",
                parsed.address
            )));
        }
        let login = parsed
            .login
            .map(|(user, password)| (user, Plaintext::new(password.into_bytes())));
        let repository = Repository {
            address: parsed.address,
            keep_git_dir: copy.keep_git_dir,
            known_hosts: "".into(),
            socket: request.ssh.clone(),
            username: "".into(),
            token: None,
            header: None,
            login,
            service: None,
            client: ctx.client.clone(),
        };
        Ok(Self {
            commit: GitRef::named(repository, name),
            folder: folder.to_owned(),
            checksum,
        })
    }

    async fn tree(&self, ctx: &Ctx) -> Result<Tree, Error> {
        if let Some(sum) = &self.checksum {
            let commit = self.commit.resolve(ctx).await?.commit;
            if !commit.starts_with(&sum.to_ascii_lowercase()) {
                return Err(Error::user(format!(
                    "{} is at commit {commit}, and its checksum says {sum}",
                    self.commit.repository.address
                )));
            }
        }
        self.commit.tree(ctx, 1, false).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_known_by_scheme_or_name() {
        for url in [
            "git@h:a/b",
            "git://h/a",
            "ssh://git@h/a",
            "https://h/a.git",
            "https://h/a.git#v1:docs",
        ] {
            assert!(is_repository(url), "{url}");
        }
        for url in [
            "https://h/a.tar.gz",
            "http://h/a.git/file",
            "https://h/a#x.git",
            "https://h/a?x=.git",
        ] {
            assert!(!is_repository(url), "{url}");
        }
    }

    #[test]
    fn fragments_name_a_reference_and_a_folder() {
        assert_eq!(fragment(""), ("", ""));
        assert_eq!(fragment("v1"), ("v1", ""));
        assert_eq!(fragment("v1:a/b"), ("v1", "a/b"));
        assert_eq!(fragment(":a"), ("", "a"));
    }
}
