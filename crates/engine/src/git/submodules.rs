//! Submodules, fetched one by one like any repository. `git` itself is never told to: what `.gitmodules` says is data.

use std::collections::HashMap;

use graph::error::{Class, Error};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{
    checkout::{Checkout, Place},
    command::Failure,
    mirror::Mirror,
};
use crate::{Ctx, secret::Plaintext};

/// How deep repositories may be in each other.
const DEPTH_MAX: usize = 32;
/// Submodules of one repository.
const COUNT_MAX: usize = 1000;

/// One of a commit's submodules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Submodule {
    /// What `.gitmodules` calls it.
    pub(super) name: String,
    /// Where it stands in the tree.
    pub(super) path: String,
    /// Its address, as written.
    pub(super) url: String,
    /// Its commit.
    pub(super) commit: String,
}

/// The submodules of a commit: places for repositories that `.gitmodules` has an address for.
pub(super) async fn of(mirror: &Mirror, commit: &str) -> Result<Vec<Submodule>, Error> {
    let failed = |e: Failure| e.into_error("cannot read the submodules");
    let entry = mirror
        .git(["ls-tree", "-z", commit, "--", ".gitmodules"])
        .run(None)
        .await
        .map_err(failed)?;
    // A link or a folder of that name is none of ours.
    if !entry.starts_with(b"100644 ") && !entry.starts_with(b"100755 ") {
        return Ok(Vec::new());
    }
    let blob = format!("{commit}:.gitmodules");
    let settings = mirror
        .git(["config", "-z", "--no-includes", "--blob", &blob, "--list"])
        .run(None)
        .await
        .map_err(failed)?;
    let tree = mirror
        .git(["ls-tree", "-r", "-z", commit])
        .run(None)
        .await
        .map_err(failed)?;
    let found = join(&parse(&settings), &links(&tree));
    if found.len() > COUNT_MAX {
        return Err(Error::user(format!(
            "the commit {commit} has {} submodules; at most {COUNT_MAX} are fetched",
            found.len()
        )));
    }
    Ok(found)
}

/// Name to path and address.
fn parse(settings: &[u8]) -> HashMap<String, (String, String)> {
    let mut found: HashMap<String, (String, String)> = HashMap::new();
    for item in settings.split(|b| *b == 0) {
        let item = String::from_utf8_lossy(item);
        let Some((key, value)) = item.split_once('\n') else {
            continue;
        };
        let Some((name, variable)) = key
            .strip_prefix("submodule.")
            .and_then(|k| k.rsplit_once('.'))
        else {
            continue;
        };
        let entry = found.entry(name.to_owned()).or_default();
        match variable {
            "path" => entry.0 = value.trim_end_matches('/').to_owned(),
            "url" => entry.1 = value.to_owned(),
            _ => {}
        }
    }
    found
}

/// Path to commit, of the places for repositories.
fn links(tree: &[u8]) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for item in tree.split(|b| *b == 0) {
        let Some(rest) = item.strip_prefix(b"160000 commit ") else {
            continue;
        };
        let text = String::from_utf8_lossy(rest);
        if let Some((commit, path)) = text.split_once('\t') {
            found.insert(path.to_owned(), commit.to_owned());
        }
    }
    found
}

fn join(
    settings: &HashMap<String, (String, String)>,
    links: &HashMap<String, String>,
) -> Vec<Submodule> {
    let mut found: Vec<Submodule> = settings
        .iter()
        .filter_map(|(name, (path, url))| {
            Some(Submodule {
                name: name.clone(),
                path: path.clone(),
                url: url.clone(),
                commit: links.get(path)?.clone(),
            })
        })
        .filter(|module| !module.url.is_empty())
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    found
}

/// What is to be checked out for one of them.
pub(super) fn checkout(parent: &Checkout, module: &Submodule) -> Result<Checkout, Error> {
    let parsed = parent
        .repository
        .address
        .submodule(&module.url)
        .map_err(|e| {
            Error::from_chain(Class::User, &e).context(format_args!("submodule `{}`", module.path))
        })?;
    let login = parsed
        .login
        .map(|(user, password)| (user, Plaintext::new(password.into_bytes())));
    Ok(Checkout {
        repository: parent.repository.submodule(parsed.address, login),
        commit: module.commit.clone(),
        name: None,
        depth: parent.depth,
        tags: Vec::new(),
    })
}

/// Fetches all of them into their places.
pub(super) async fn fill(
    ctx: &Ctx,
    parent: &Checkout,
    place: &Place<'_>,
    inner: Vec<Submodule>,
) -> Result<(), Error> {
    for module in inner {
        let told = |e: Error| e.context(format_args!("submodule `{}`", module.path));
        let checkout = checkout(parent, &module)?;
        let dir = place.dir.join(&module.path);
        empty_place(place, &module.path).map_err(told)?;
        if place.level + 1 > DEPTH_MAX {
            return Err(told(Error::user(format!(
                "repositories are more than {DEPTH_MAX} deep in each other"
            ))));
        }
        let below = Place {
            dir: &dir,
            step: place.step,
            level: place.level + 1,
        };
        checkout.fill(ctx, &below).await.map_err(told)?;
    }
    Ok(())
}

/// The place of a submodule is an empty folder that the checkout of its parent made, not behind any link.
fn empty_place(place: &Place<'_>, path: &str) -> Result<(), Error> {
    let refused = |why: &str| Error::user(format!("its place cannot be used: {why}"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(place.dir, flags, Mode::empty())
        .map_err(|e| refused(&std::io::Error::from(e).to_string()))?;
    let fd = rustix::fs::openat2(
        &top,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
    .map_err(|e| refused(&std::io::Error::from(e).to_string()))?;
    let entries = rustix::fs::Dir::read_from(&fd)
        .map_err(|e| refused(&std::io::Error::from(e).to_string()))?;
    let occupied = entries
        .flatten()
        .any(|e| !matches!(e.file_name().to_bytes(), b"." | b".."));
    if occupied {
        Err(refused("it is not empty"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_that_the_commit_has_are_filled() {
        let settings = parse(b"submodule.a.b.path\nlib/a\0submodule.a.b.url\n../a.git\0submodule.x.path\n../../etc\0submodule.x.url\nh:x\0core.bare\ntrue\0submodule.y.path\nlib/y\0");
        let links = links(
            b"100644 blob 1111\tf\x00160000 commit 2222\tlib/a\x00160000 commit 3333\tlib/y\0",
        );
        let found = join(&settings, &links);
        assert_eq!(
            found,
            [Submodule {
                name: "a.b".into(),
                path: "lib/a".into(),
                url: "../a.git".into(),
                commit: "2222".into()
            }]
        );
    }
}
