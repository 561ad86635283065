//! What `COPY`, `ADD` and `WORKDIR` do to a tree.

use std::{io::Read, sync::Arc};

use ::dockerfile::Copy;
use graph::error::{Class, Error};
use oci::layer::{Beneath, Expected, Limits, Target, UnpackError, unpack};
use store::{CopyOptions, Modes, Store, Top, Tree, TreeError};

use super::inside;
use crate::{
    container::paths,
    directory::{Tree as Place, tree_error},
    node::{Edit, KeyHasher, Node, Output, exec::Origin},
};

/// Largest `/etc/passwd` or `/etc/group` read.
const ACCOUNTS_MAX: u64 = 4 << 20;

/// A step and where it was asked for.
#[derive(Debug, Clone)]
pub struct FileStep {
    change: Change,
    origin: Arc<Origin>,
}

/// Equal when they do the same, wherever they were asked for.
impl PartialEq for FileStep {
    fn eq(&self, other: &Self) -> bool {
        self.change == other.change
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Change {
    Bring(Bring),
    MakeDir { path: String, owner: String },
}

/// Files brought from another tree, and from the Dockerfile itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bring {
    /// Where the source's root is in its tree.
    root: String,
    /// Paths or patterns there, as written.
    sources: Vec<String>,
    /// They are no patterns.
    literal: bool,
    /// Name and contents.
    inline: Vec<(String, Arc<[u8]>)>,
    /// Absolute.
    dest: String,
    /// It is a directory, whatever is there.
    into: bool,
    chown: Option<String>,
    modes: Option<Modes>,
    parents: bool,
    exclude: Vec<String>,
    unpack: bool,
}

impl Bring {
    /// What `copy` takes from the tree at `from`.
    ///
    /// # Errors
    /// A mode or pattern that means nothing.
    pub(super) fn new(copy: &Copy, from: &Place) -> Result<Self, Error> {
        Ok(Self {
            root: from.path.to_string(),
            sources: copy.sources.clone(),
            inline: copy
                .inline
                .iter()
                .map(|h| (h.name.clone(), h.body.as_bytes().into()))
                .collect(),
            unpack: copy.unpack,
            ..Self::empty(copy)?
        })
    }

    /// The one file at `path`, fetched for `copy`.
    ///
    /// # Errors
    /// A mode or pattern that means nothing.
    pub(super) fn fetched(copy: &Copy, path: &str) -> Result<Self, Error> {
        Ok(Self {
            sources: vec![path.to_owned()],
            literal: true,
            unpack: copy.unpack_urls,
            parents: false,
            ..Self::empty(copy)?
        })
    }

    /// What is in a folder of a repository, as `ADD` takes it.
    ///
    /// # Errors
    /// A mode or pattern that means nothing.
    pub(super) fn checked_out(copy: &Copy, folder: &str) -> Result<Self, Error> {
        Ok(Self {
            sources: vec![format!("/{folder}")],
            literal: true,
            parents: false,
            ..Self::empty(copy)?
        })
    }

    /// All of `copy` but what is copied.
    fn empty(copy: &Copy) -> Result<Self, Error> {
        let modes = match &copy.chmod {
            Some(text) => Some(Modes::parse(text).ok_or_else(|| {
                Error::user(format!("`{text}` is no mode, as in 0755 or u=rwX,go=rX"))
            })?),
            None => None,
        };
        patterns::Filter::new::<&str, _>(&[], &copy.exclude)
            .map_err(|e| Error::user(e.to_string()))?;
        let count = copy.sources.len() + copy.inline.len() + copy.urls.len();
        Ok(Self {
            root: "/".to_owned(),
            sources: Vec::new(),
            literal: false,
            inline: Vec::new(),
            dest: copy.dest.clone(),
            into: copy.dest.ends_with('/') || count > 1,
            chown: copy.chown.clone(),
            modes,
            parents: copy.parents,
            exclude: copy.exclude.clone(),
            unpack: false,
        })
    }

    /// The sources as paths of the tree, when none is a pattern.
    pub(super) fn plain_sources(&self) -> Option<Vec<String>> {
        let place = self.place();
        let plain = self.sources.iter().all(|s| !patterns::has_wildcards(s));
        (plain && !self.parents).then(|| self.sources.iter().map(|s| inside(&place, s)).collect())
    }

    fn place(&self) -> Place {
        Place {
            output: None,
            path: self.root.as_str().into(),
        }
    }

    fn add_to(&self, h: &mut KeyHasher) {
        h.str("bring").str(&self.root).list(&self.sources);
        h.num(self.inline.len() as u64);
        for (name, contents) in &self.inline {
            h.str(name).bytes(contents);
        }
        h.str(&self.dest)
            .str(self.chown.as_deref().unwrap_or(""))
            .str(&format!("{:?}", self.modes))
            .list(&self.exclude)
            .num(u64::from(self.parents) | u64::from(self.unpack) << 1 | u64::from(self.into) << 2);
    }
}

impl FileStep {
    pub(super) fn bring(bring: Bring, origin: Arc<Origin>) -> Self {
        Self {
            change: Change::Bring(bring),
            origin,
        }
    }

    pub(super) fn make_dir(path: String, owner: String, origin: Arc<Origin>) -> Self {
        Self {
            change: Change::MakeDir { path, owner },
            origin,
        }
    }

    /// Adds everything the result depends on, inputs aside.
    pub(crate) fn add_to(&self, h: &mut KeyHasher) {
        match &self.change {
            Change::Bring(bring) => bring.add_to(h),
            Change::MakeDir { path, owner } => {
                h.str("make-dir-for").str(path).str(owner);
            }
        }
    }

    /// The tree after this step, known by what it takes of its source instead of by the source as a whole.
    pub(super) fn keyed(self, base: Option<Output>, sources: Vec<Output>, seen: &str) -> Place {
        let mut h = KeyHasher::new("edit of seen");
        self.add_to(&mut h);
        h.str(seen);
        match &base {
            Some(o) => h.output(o),
            None => h.str("empty"),
        };
        let mut inputs = vec![base];
        inputs.extend(sources.into_iter().map(Some));
        let op = crate::node::Op::Edit(Edit::Instruction(Arc::new(self)));
        Place::root(Output {
            node: Node::new(h.finish(), op, inputs),
            index: 0,
        })
    }

    /// Does it.
    ///
    /// # Errors
    /// What is wrong, with the instruction's place.
    pub(crate) fn apply(
        &self,
        store: &Store,
        tree: &Tree,
        source: Option<&Tree>,
    ) -> Result<(), Error> {
        let done = match &self.change {
            Change::Bring(bring) => Bringing::new(bring, store, tree, source).and_then(|b| b.run()),
            Change::MakeDir { path, owner } => {
                let owner = match owner.as_str() {
                    "" => Ok(None),
                    owner => resolve(tree, owner).map(Some),
                };
                owner.and_then(|o| tree.make_dir(path, 0o755, o).map_err(|e| tree_error(&e)))
            }
        };
        done.map_err(|e| e.context(&self.origin))
    }
}

/// `user[:group]` with the names of the tree. Without a group it is the user's own.
fn resolve(tree: &Tree, owner: &str) -> Result<(u32, u32), Error> {
    let read = |path: &str| match tree.read_file(path, ACCOUNTS_MAX) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    };
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n < u32::MAX);
    let line = |accounts: &str, name: &str| -> Option<(u32, u32)> {
        accounts.lines().find_map(|line| {
            let mut parts = line.split(':');
            (parts.next() == Some(name)).then_some(())?;
            let first = parts.nth(1)?.parse().ok()?;
            let second = parts.next().and_then(|p| p.parse().ok()).unwrap_or(first);
            Some((first, second))
        })
    };
    let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
    let (uid, own) = match number(user) {
        Some(n) => (n, n),
        None if user.is_empty() => (0, 0),
        None => line(&read("/etc/passwd"), user).ok_or_else(|| {
            Error::user(format!(
                "no user `{user}` in the image's /etc/passwd; a number works, too"
            ))
        })?,
    };
    let gid = match (number(group), group) {
        (Some(n), _) => n,
        (None, "") => own,
        (None, name) => {
            line(&read("/etc/group"), name)
                .ok_or_else(|| {
                    Error::user(format!(
                        "no group `{name}` in the image's /etc/group; a number works, too"
                    ))
                })?
                .0
        }
    };
    Ok((uid, gid))
}

/// One `COPY` or `ADD` under way.
struct Bringing<'a> {
    bring: &'a Bring,
    store: &'a Store,
    tree: &'a Tree,
    source: Tree,
    place: Place,
    options: CopyOptions,
    /// The destination without its slash.
    dest: String,
    /// The destination is a directory whatever is there.
    into: bool,
}

impl<'a> Bringing<'a> {
    fn new(
        bring: &'a Bring,
        store: &'a Store,
        tree: &'a Tree,
        source: Option<&Tree>,
    ) -> Result<Self, Error> {
        let source = match source {
            Some(source) => source.clone(),
            None => store
                .empty()
                .map_err(environment)?
                .tree()
                .map_err(environment)?,
        };
        let owner = match &bring.chown {
            Some(owner) => Some(resolve(tree, owner)?),
            None => None,
        };
        let dest = bring.dest.trim_end_matches('/');
        Ok(Self {
            bring,
            store,
            tree,
            source,
            place: bring.place(),
            options: CopyOptions {
                owner,
                exclude: bring.exclude.clone(),
                modes: bring.modes.clone(),
                top: Top::Kept,
                ..CopyOptions::default()
            },
            dest: if dest.is_empty() {
                "/".to_owned()
            } else {
                dest.to_owned()
            },
            into: bring.into,
        })
    }

    fn run(&self) -> Result<(), Error> {
        if self.bring.parents {
            self.with_parents()?;
        } else {
            let mut found = 0usize;
            let mut all: Vec<(&str, Vec<String>)> = Vec::new();
            for source in &self.bring.sources {
                let paths = self.matching(source)?;
                found += paths.len();
                all.push((source, paths));
            }
            // Many matches of one pattern need a directory like many sources do.
            let into = self.into || found > 1;
            for (shown, paths) in all {
                for path in paths {
                    self.one(shown, &path, into)?;
                }
            }
        }
        for (name, contents) in &self.bring.inline {
            let to = self.target(&format!("/{name}"), self.into)?;
            let mode = self
                .bring
                .modes
                .as_ref()
                .map_or(0o644, |m| m.of(0o644, false));
            let parents = paths::join(&to, "..");
            self.make_parents(&parents)?;
            self.tree
                .write_file(&to, contents, mode, self.options.owner)
                .map_err(|e| tree_error(&e))?;
            if mode & 0o777 != mode || mode == 0 {
                self.tree.set_mode(&to, mode).map_err(|e| tree_error(&e))?;
            }
        }
        Ok(())
    }

    /// Directories that are made on the way belong to who the files belong to.
    fn make_parents(&self, path: &str) -> Result<(), Error> {
        self.tree
            .make_dir(path, 0o755, self.options.owner)
            .map_err(|e| tree_error(&e))
    }

    fn missing(&self, shown: &str) -> Error {
        Error::user(format!(
            "\"{}\": not found: there is no such file or directory in what is copied from",
            paths::join("/", shown)
        ))
    }

    /// The paths of the source's tree that a source names. A pattern may match none.
    fn matching(&self, source: &str) -> Result<Vec<String>, Error> {
        if self.bring.literal || !patterns::has_wildcards(source) {
            return Ok(vec![inside(&self.place, source)]);
        }
        let pattern = paths::join("/", source);
        let mut found = vec![String::new()];
        for part in pattern.split('/').filter(|p| !p.is_empty()) {
            let mut next = Vec::new();
            for dir in &found {
                let path = inside(&self.place, dir);
                if !patterns::has_wildcards(part) {
                    let name = format!("{dir}/{part}");
                    if self
                        .source
                        .lstat(inside(&self.place, &name))
                        .map_err(|e| tree_error(&e))?
                        .is_some()
                    {
                        next.push(name);
                    }
                    continue;
                }
                let entries = match self.source.entries(&path) {
                    Ok(entries) => entries,
                    Err(TreeError::NotDirectory { .. } | TreeError::NotFound { .. }) => continue,
                    Err(e) => return Err(tree_error(&e)),
                };
                for entry in entries {
                    if patterns::go_match(part, &entry.name)
                        .map_err(|e| Error::user(e.to_string()))?
                    {
                        let name = String::from_utf8(entry.name).map_err(|_| {
                            Error::user(format!(
                                "`{source}` matches a name that is not UTF-8; copy its directory"
                            ))
                        })?;
                        next.push(format!("{dir}/{name}"));
                    }
                }
            }
            found = next;
        }
        Ok(found.iter().map(|f| inside(&self.place, f)).collect())
    }

    /// Where a file goes.
    fn target(&self, path: &str, into: bool) -> Result<String, Error> {
        let there = self.tree.stat(&self.dest).map_err(|e| tree_error(&e))?;
        match there {
            Some(stat) if stat.is_dir() => {}
            Some(_) if into => {
                return Err(Error::user(format!(
                    "cannot copy into `{}`: it is not a directory",
                    self.dest
                )));
            }
            _ if !into => return Ok(self.dest.clone()),
            _ => {}
        }
        let to = paths::join(&self.dest, paths::base_name(path));
        if self
            .tree
            .lstat(&to)
            .map_err(|e| tree_error(&e))?
            .is_some_and(|s| s.is_dir())
        {
            return Err(Error::user(format!(
                "cannot copy a file over directory `{to}`"
            )));
        }
        Ok(to)
    }

    /// Is the destination there, and something else than a directory?
    fn dest_is_no_dir(&self) -> Result<bool, Error> {
        let there = self.tree.stat(&self.dest).map_err(|e| tree_error(&e))?;
        Ok(there.is_some_and(|s| !s.is_dir()))
    }

    fn one(&self, shown: &str, path: &str, into: bool) -> Result<(), Error> {
        let Some(stat) = self.source.stat(path).map_err(|e| tree_error(&e))? else {
            return Err(self.missing(shown));
        };
        if stat.is_dir() {
            if self.dest_is_no_dir()? {
                return Err(Error::user(format!(
                    "cannot copy a directory over `{}`, which is none",
                    self.dest
                )));
            }
            return self
                .tree
                .copy_dir(&self.source, path, &self.dest, &self.options)
                .map_err(|e| tree_error(&e));
        }
        if !self.bring.exclude.is_empty() {
            let filter = patterns::Filter::new::<&str, _>(&[], &self.bring.exclude)
                .map_err(|e| Error::user(e.to_string()))?;
            if filter.decide(paths::base_name(path), false) == patterns::Decision::Exclude {
                return Ok(());
            }
        }
        if self.bring.unpack && self.unpacked(path)? {
            return Ok(());
        }
        let to = self.target(path, into)?;
        self.tree
            .copy_file(&self.source, path, &to, &self.options)
            .map_err(|e| tree_error(&e))
    }

    /// `--parents`: paths are kept, from `/./` on if that is in them.
    fn with_parents(&self) -> Result<(), Error> {
        for source in &self.bring.sources {
            let (above, kept) = source.split_once("/./").unwrap_or(("", source));
            let kept = paths::join("/", kept);
            let kept = kept.trim_start_matches('/');
            for base in self.matching(if above.is_empty() { "/" } else { above })? {
                let whole = paths::join(&base, kept);
                if !patterns::has_wildcards(kept)
                    && self
                        .source
                        .lstat(&whole)
                        .map_err(|e| tree_error(&e))?
                        .is_none()
                {
                    return Err(self.missing(source));
                }
                let options = CopyOptions {
                    include: if kept.is_empty() {
                        Vec::new()
                    } else {
                        vec![kept.to_owned()]
                    },
                    ..self.options.clone()
                };
                self.tree
                    .copy_dir(&self.source, &base, &self.dest, &options)
                    .map_err(|e| tree_error(&e))?;
            }
        }
        Ok(())
    }

    /// Unpacks a file into the destination if it is an archive.
    fn unpacked(&self, path: &str) -> Result<bool, Error> {
        let file = self.source.open(path).map_err(|e| tree_error(&e))?;
        // Never straight into the image: links that are there must not lead what an archive brings elsewhere.
        let draft = self.store.draft(None).map_err(environment)?;
        let tree = draft.tree().map_err(environment)?;
        let target = Target {
            root: tree.root(),
            beneath: Beneath::Nothing,
        };
        let reader =
            decoded(file).map_err(|e| Error::environment(format!("cannot read `{path}`: {e}")))?;
        match unpack(reader, target, &Expected::default(), &Limits::default()) {
            Ok(unpacked) if unpacked.entries == 0 => return Ok(false),
            Ok(_) => {}
            // What does not begin as an archive is a file as any other.
            Err(UnpackError::Header { offset: 0, .. } | UnpackError::Read { offset: 0, .. }) => {
                return Ok(false);
            }
            Err(UnpackError::Truncated { entry, .. }) if entry.is_empty() => return Ok(false),
            Err(e) => {
                return Err(Error::from_chain(Class::User, &e)
                    .context(format!("cannot unpack `{}`", paths::base_name(path))));
            }
        }
        if self.dest_is_no_dir()? {
            return Err(Error::user(format!(
                "cannot unpack into `{}`: it is not a directory",
                self.dest
            )));
        }
        self.make_parents(&self.dest)?;
        let options = CopyOptions {
            exclude: Vec::new(),
            ..self.options.clone()
        };
        self.tree
            .copy_dir(&tree, "/", &self.dest, &options)
            .map_err(|e| tree_error(&e))?;
        Ok(true)
    }
}

/// Bytes of a file, inflated when they are of a kind that layers never are.
pub(super) fn decoded(file: std::fs::File) -> std::io::Result<Box<dyn Read + Send>> {
    use std::os::unix::fs::FileExt;
    let mut start = [0; 6];
    let n = file.read_at(&mut start, 0)?;
    Ok(match &start[..n] {
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new(file, true)),
        _ => Box::new(file),
    })
}

fn environment(e: impl std::error::Error + 'static) -> Error {
    Error::from_chain(Class::Environment, &e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_looked_up_in_the_tree() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("etc")).expect("etc");
        std::fs::write(
            dir.path().join("etc/passwd"),
            "root:x:0:0::/:\nweb:x:33:44::/:\n",
        )
        .expect("passwd");
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nstaff:x:50:\n").expect("group");
        let tree = Tree::open_dir(dir.path()).expect("a tree");
        for (owner, want) in [
            ("web", (33, 44)),
            ("web:staff", (33, 50)),
            ("7", (7, 7)),
            ("7:8", (7, 8)),
            (":staff", (0, 50)),
        ] {
            assert_eq!(resolve(&tree, owner).expect(owner), want, "{owner}");
        }
        for bad in ["nobody", "web:none", "4294967295"] {
            assert!(resolve(&tree, bad).is_err(), "{bad}");
        }
    }
}
