//! Brings a directory of the client's machine into the store. Only files that changed since the last time travel.

use std::{
    io::{BufReader, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use graph::error::{Class, Error};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use store::{Draft, Snapshot, Store};
use tokio_util::io::SyncIoBridge;
use wire::{
    LinkRequest, RawPath,
    frame::{self, Kind as FrameKind},
    link::{ListAnswer, MAX_READ_PATHS, read_status},
    listing::{Decoder, EntryKind},
    piece::Piece,
};

use super::index::{Index, Item, Kind, plan};
use crate::{
    Ctx,
    node::{Node, Output},
};

/// Where the index of the last upload is kept.
const SPACE: &str = "host-directory";
/// Buffer for frames, in bytes.
const BUFFER: usize = 1 << 20;
/// Longest list of paths in one read request, in bytes.
const REQUEST_BYTES: usize = 2 << 20;
/// How often a file that changes while it is read is asked for again.
const RETRIES: usize = 3;

/// What to bring.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Absolute path on the client's machine.
    pub(super) path: String,
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    /// Leave out, too, what `.gitignore` files name.
    pub(super) git_ignore: bool,
}

/// An uploaded tree and the digest of its content.
#[derive(Debug)]
pub(super) struct Uploaded {
    pub(super) output: Output,
    pub(super) digest: String,
}

/// Uploads a directory.
///
/// # Errors
/// A path that is not there or no directory, a file that keeps changing, a client that is gone.
pub(super) async fn upload(ctx: &Ctx, wanted: &Wanted) -> Result<Uploaded, Error> {
    ctx.with_room(|| transfer(ctx, wanted)).await
}

async fn transfer(ctx: &Ctx, wanted: &Wanted) -> Result<Uploaded, Error> {
    // A machine without a name, such as a container, is never met again.
    let lasting = !ctx.client.info.stable_id.is_empty();
    let fact = serde_json::to_string(&(
        &ctx.client.info.stable_id,
        &wanted.path,
        &wanted.include,
        &wanted.exclude,
        wanted.git_ignore,
    ))
    .map_err(|e| Error::internal(format!("cannot name an upload: {e}")))?;
    let store = ctx.engine.store.clone();
    let old = lasting
        .then(|| store.facts().get(SPACE, &fact))
        .flatten()
        .and_then(|b| Index::decode(&b));
    // The index is worth something only while its tree is there.
    let old = old.and_then(|index| {
        let snapshot = known(&store, &index.content_digest())?;
        Some((index, snapshot))
    });
    let request = LinkRequest::List {
        path: wanted.path.as_str().into(),
        include: wanted.include.clone(),
        exclude: wanted.exclude.clone(),
        git_ignore: wanted.git_ignore,
        known: old.as_ref().map(|(i, _)| wire::listing::hex(&i.listing)),
    };
    let mut stream = ctx
        .client
        .link
        .open(request)
        .await
        .map_err(|e| link_error(&e))?;
    let answer: ListAnswer = read_status(&mut stream).await.map_err(|e| link_error(&e))?;
    if let (ListAnswer::Same, Some((index, snapshot))) = (answer, &old) {
        let digest = index.content_digest();
        return Ok(Uploaded {
            output: Node::given(&digest, snapshot.clone()),
            digest,
        });
    }
    let handle = tokio::runtime::Handle::current();
    let bridge = SyncIoBridge::new_with_handle(stream, handle);
    let mut index = ctx.engine.blocking(move || read_listing(bridge)).await?;

    let steps = plan(&index.items, old.as_ref().map(|(i, _)| i));
    let fetch: Vec<usize> = steps
        .iter()
        .filter(|(_, same)| same.is_none())
        .map(|(n, _)| *n)
        .collect();
    let step = (!fetch.is_empty()).then(|| {
        ctx.session
            .progress
            .step(&format!("upload {}", wanted.path), ctx.span)
    });
    let (mut draft, items) = {
        let (store, items) = (store.clone(), index.items);
        let kept: Vec<_> = steps
            .iter()
            .filter_map(|(n, same)| Some((*n, (*same)?)))
            .collect();
        let from = old.as_ref().map(|(i, s)| (i.clone(), s.clone()));
        ctx.engine
            .blocking(move || prepare(&store, items, &kept, from.as_ref()))
            .await?
    };
    index.items = items;
    let mut missing = fetch;
    for _ in 0..RETRIES {
        if missing.is_empty() {
            break;
        }
        let mut changed = Vec::new();
        for batch in batches(&index.items, &missing) {
            let request = LinkRequest::Read {
                root: wanted.path.as_str().into(),
                paths: batch
                    .iter()
                    .map(|n| RawPath(index.items[*n].path.clone()))
                    .collect(),
            };
            let mut stream = ctx
                .client
                .link
                .open(request)
                .await
                .map_err(|e| link_error(&e))?;
            read_status::<()>(&mut stream)
                .await
                .map_err(|e| link_error(&e))?;
            let bridge = SyncIoBridge::new_with_handle(stream, tokio::runtime::Handle::current());
            let items = std::mem::take(&mut index.items);
            let (back, items, again) = ctx
                .engine
                .blocking(move || receive(bridge, draft, items, &batch))
                .await?;
            draft = back;
            index.items = items;
            changed.extend(again);
        }
        missing = changed;
    }
    if let Some(n) = missing.first() {
        let path = String::from_utf8_lossy(&index.items[*n].path).into_owned();
        return Err(Error::user(format!(
            "upload {}: `{path}` keeps changing while it is read",
            wanted.path
        )));
    }
    let digest = index.content_digest();
    let digest2 = digest.clone();
    let snapshot = ctx
        .engine
        .blocking(move || {
            finish_directories(&draft, &index.items)?;
            let snapshot = match known(&store, &digest2) {
                Some(s) => s,
                None => {
                    let s = draft
                        .commit()
                        .map_err(|e| Error::from_chain(Class::Environment, &e))?;
                    store.results().put(
                        &Node::given(&digest2, s.clone()).node.key.0,
                        std::slice::from_ref(&s),
                        &[],
                        "host directory",
                    );
                    s
                }
            };
            if lasting {
                store.facts().put(SPACE, &fact, &index.encode());
            }
            Ok(snapshot)
        })
        .await?;
    if let Some(step) = step {
        step.done();
    }
    Ok(Uploaded {
        output: Node::given(&digest, snapshot),
        digest,
    })
}

/// The tree with this content, if the store has it.
pub(crate) fn known(store: &Store, digest: &str) -> Option<Snapshot> {
    let key = crate::node::KeyHasher::new("given").str(digest).finish();
    store.results().get(&key.0)?.outputs.into_iter().next()
}

pub(crate) fn link_error(e: &wire::LinkError) -> Error {
    use wire::LinkErrorKind as K;
    match e.kind {
        K::NotFound | K::Invalid | K::TooLarge | K::Permission => Error::user(e.message.clone()),
        K::Io => Error::environment(e.message.clone()),
    }
}

fn broken(e: impl std::fmt::Display) -> Error {
    Error::environment(format!("cannot read from the client: {e}"))
}

fn read_listing(from: impl Read) -> Result<Index, Error> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let mut decoder = Decoder::new();
    let mut items = Vec::new();
    let mut payload = Vec::new();
    loop {
        match frame::read(&mut from, &mut payload).map_err(|e| broken(graph::error::chain(&e)))? {
            FrameKind::Entries => decoder
                .chunk(&payload, |path, entry| {
                    items.push(Item {
                        path: path.to_vec(),
                        kind: match entry.kind {
                            EntryKind::Dir => Kind::Dir,
                            EntryKind::File { size, stamp } => Kind::File {
                                size,
                                stamp,
                                hash: [0; 32],
                            },
                            EntryKind::Symlink(target) => Kind::Symlink(target.to_vec()),
                        },
                        mode: entry.mode & 0o7777,
                        mtime_ns: entry.mtime_ns,
                    });
                })
                .map_err(|e| broken(graph::error::chain(&e)))?,
            FrameKind::Done => {
                let listing = decoder
                    .finish(&payload)
                    .map_err(|e| broken(graph::error::chain(&e)))?;
                return Ok(Index { listing, items });
            }
            FrameKind::Fail => {
                let e: wire::LinkError = serde_json::from_slice(&payload).map_err(broken)?;
                return Err(link_error(&e));
            }
            other => return Err(broken(format!("an unexpected frame {other:?}"))),
        }
    }
}

/// Splits what to fetch into requests of bounded length.
fn batches(items: &[Item], wanted: &[usize]) -> Vec<Vec<usize>> {
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for n in wanted {
        let len = items[*n].path.len() + 4;
        match out.last_mut() {
            Some(last) if last.len() < MAX_READ_PATHS && bytes + len < REQUEST_BYTES => {
                last.push(*n);
                bytes += len;
            }
            _ => {
                out.push(vec![*n]);
                bytes = len;
            }
        }
    }
    out
}

fn local(what: &str, path: &[u8], e: impl std::fmt::Display) -> Error {
    Error::environment(format!(
        "cannot {what} `{}` in the store: {e}",
        String::from_utf8_lossy(path)
    ))
}

/// Makes directories, links and unchanged files; what must be fetched comes after.
fn prepare(
    store: &Store,
    mut items: Vec<Item>,
    kept: &[(usize, usize)],
    from: Option<&(Index, Snapshot)>,
) -> Result<(Draft, Vec<Item>), Error> {
    let draft = store
        .draft(None)
        .map_err(|e| Error::from_chain(Class::Environment, &e))?;
    let root = open_dir(draft.upper())?;
    for item in &items {
        match &item.kind {
            Kind::Dir if item.path.is_empty() => {}
            Kind::Dir => {
                rustix::fs::mkdirat(&root, item.path.as_slice(), Mode::from_raw_mode(0o700))
                    .map_err(|e| local("make", &item.path, e))?;
            }
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), &root, item.path.as_slice())
                    .map_err(|e| local("make", &item.path, e))?;
                let times = times_of(item.mtime_ns);
                rustix::fs::utimensat(
                    &root,
                    item.path.as_slice(),
                    &times,
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .map_err(|e| local("date", &item.path, e))?;
            }
            Kind::File { .. } => {}
        }
    }
    if let Some((old, snapshot)) = from {
        let tree = snapshot
            .tree()
            .map_err(|e| Error::from_chain(Class::Environment, &e))?;
        for (n, o) in kept {
            let (
                Some(item),
                Some(Item {
                    kind: Kind::File { hash: known, .. },
                    ..
                }),
            ) = (items.get_mut(*n), old.items.get(*o))
            else {
                continue;
            };
            rustix::fs::linkat(
                tree.root(),
                item.path.as_slice(),
                &root,
                item.path.as_slice(),
                AtFlags::empty(),
            )
            .map_err(|e| local("link", &item.path, e))?;
            if let Kind::File { hash, .. } = &mut item.kind {
                *hash = *known;
            }
        }
    }
    Ok((draft, items))
}

/// Writes the fetched files; answers which of them changed while they were read.
fn receive(
    from: impl Read,
    draft: Draft,
    mut items: Vec<Item>,
    batch: &[usize],
) -> Result<(Draft, Vec<Item>, Vec<usize>), Error> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let root = open_dir(draft.upper())?;
    let mut payload = Vec::new();
    let mut changed = Vec::new();
    let mut open: Option<(usize, std::fs::File, blake3::Hasher, u64)> = None;
    let mut dir = DirCache {
        root: root.as_fd(),
        path: None,
        fd: None,
    };
    loop {
        let kind =
            frame::read(&mut from, &mut payload).map_err(|e| broken(graph::error::chain(&e)))?;
        let piece = Piece::decode(kind, &payload).map_err(|e| broken(graph::error::chain(&e)))?;
        match (piece, open.as_mut()) {
            (
                Piece::Begin {
                    index,
                    size,
                    mode,
                    mtime_ns,
                    stamp,
                },
                None,
            ) => {
                let n = *usize::try_from(index)
                    .ok()
                    .and_then(|i| batch.get(i))
                    .ok_or_else(|| broken("a file nobody asked for"))?;
                let item = &mut items[n];
                item.mode = mode & 0o7777;
                item.mtime_ns = mtime_ns;
                item.kind = Kind::File {
                    size,
                    stamp,
                    hash: [0; 32],
                };
                let file = dir.create(&item.path)?;
                open = Some((n, file, blake3::Hasher::new(), 0));
            }
            (Piece::Data(bytes), Some((n, file, hasher, len))) => {
                file.write_all(bytes)
                    .map_err(|e| local("write", &items[*n].path, e))?;
                hasher.update(bytes);
                *len += bytes.len() as u64;
            }
            (Piece::Hole(zeros), Some((n, file, hasher, len))) => {
                use std::io::Seek;
                *len = len
                    .checked_add(zeros)
                    .ok_or_else(|| broken("a file larger than any disk"))?;
                // A hole counts as what it is: hashing its zeros would take as long as having them.
                hasher.update(b"\0hole");
                hasher.update(&zeros.to_le_bytes());
                file.set_len(*len)
                    .and_then(|()| file.seek(std::io::SeekFrom::End(0)))
                    .map_err(|e| local("write", &items[*n].path, e))?;
            }
            (Piece::End { changed: again }, Some(_)) => {
                let Some((n, file, hasher, len)) = open.take() else {
                    continue;
                };
                let item = &mut items[n];
                if let Kind::File { size, hash, .. } = &mut item.kind {
                    *size = len;
                    *hash = *hasher.finalize().as_bytes();
                }
                let mode = Mode::from_raw_mode(item.mode & 0o777);
                rustix::fs::fchmod(&file, mode)
                    .map_err(|e| local("set the mode of", &item.path, e))?;
                rustix::fs::futimens(&file, &times_of(item.mtime_ns))
                    .map_err(|e| local("date", &item.path, e))?;
                if again {
                    changed.push(n);
                }
            }
            (Piece::Missing { index, error }, None) => {
                let n = usize::try_from(index)
                    .ok()
                    .and_then(|i| batch.get(i))
                    .ok_or_else(|| broken("a file nobody asked for"))?;
                if error.kind == wire::LinkErrorKind::Permission {
                    return Err(link_error(&error).context("cannot upload"));
                }
                let path = String::from_utf8_lossy(&items[*n].path).into_owned();
                return Err(Error::user(format!(
                    "`{path}` changed while it was uploaded: {}",
                    error.message
                )));
            }
            (Piece::Done, None) => return Ok((draft, items, changed)),
            (Piece::Fail(e), _) => return Err(link_error(&e)),
            (other, _) => return Err(broken(format!("an unexpected piece {other:?}"))),
        }
    }
}

/// The directory of the last file: files come directory by directory.
struct DirCache<'a> {
    root: std::os::fd::BorrowedFd<'a>,
    path: Option<Vec<u8>>,
    fd: Option<OwnedFd>,
}

impl DirCache<'_> {
    /// Creates a file, replacing one of an earlier try.
    fn create(&mut self, path: &[u8]) -> Result<std::fs::File, Error> {
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&[][..], path),
        };
        if self.path.as_deref() != Some(parent) {
            let at = if parent.is_empty() {
                b".".as_slice()
            } else {
                parent
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat2(
                self.root,
                at,
                flags,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            )
            .map_err(|e| local("open", parent, e))?;
            self.fd = Some(fd);
            self.path = Some(parent.to_vec());
        }
        let dir = self.fd.as_ref().map_or(self.root, |f| f.as_fd());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| local("create", path, e))?;
        Ok(fd.into())
    }
}

/// Modes and times of directories, children first: writing into them would change them.
fn finish_directories(draft: &Draft, items: &[Item]) -> Result<(), Error> {
    let root = open_dir(draft.upper())?;
    for item in items.iter().rev().filter(|i| i.kind == Kind::Dir) {
        let path = if item.path.is_empty() {
            b".".as_slice()
        } else {
            &item.path
        };
        let mode = Mode::from_raw_mode(item.mode & 0o777);
        rustix::fs::chmodat(&root, path, mode, AtFlags::empty())
            .map_err(|e| local("set the mode of", &item.path, e))?;
        rustix::fs::utimensat(
            &root,
            path,
            &times_of(item.mtime_ns),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|e| local("date", &item.path, e))?;
    }
    Ok(())
}

fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| local("open", path.as_os_str().as_encoded_bytes(), e))
}

fn times_of(mtime_ns: i64) -> Timestamps {
    let at = Timespec {
        tv_sec: mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: mtime_ns.rem_euclid(1_000_000_000) as _,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}
