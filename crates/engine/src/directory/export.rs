//! Writes directories and files to the client's machine.

use std::io::Write;

use graph::{
    error::Error,
    resolve::{Invocation, View},
    value::Value,
};
use tokio::io::AsyncWriteExt;
use tokio_util::io::SyncIoBridge;
use wire::{
    LinkRequest,
    link::{Exported, read_status},
    piece::{DATA, Meta, Piece},
};

use super::{Directory, File};
use crate::{Ctx, container::paths, host::client_path, link::Io};

type Answer = Result<Value, Error>;

/// Buffer for pieces, in bytes.
const BUFFER: usize = 1 << 20;
/// Small files are sent with room to spare for their frames.
const CHUNK: usize = DATA / 4;

/// What an export answers: the path, or `true` below 0.12.
fn answer(view: View, path: String) -> Value {
    if view < View::new(0, 12, 0) {
        Value::Bool(true)
    } else {
        Value::string(path)
    }
}

pub(crate) async fn directory(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let dest = client_path(&inv.ctx, inv.args.str("path"))?;
    dir.tree.snapshot(&inv.ctx).await?;
    let step = inv
        .ctx
        .session
        .progress
        .step(&format!("export to {dest}"), inv.ctx.span);
    let request = LinkRequest::ExportTree {
        dest: dest.as_str().into(),
        wipe: inv.args.bool("wipe"),
        remove: Vec::new(),
    };
    let exported = send(&inv.ctx, request, dir.tree.clone(), Shape::Tree).await;
    finish(inv.view, step, exported, dest)
}

/// Most bytes of paths to remove in one request.
const REMOVE_BYTES: usize = 1 << 20;

/// Removes paths from a directory of the client's machine and writes a tree into it.
pub(crate) async fn changes(
    inv: &Invocation<Ctx>,
    layer: super::Tree,
    removed: Vec<wire::RawPath>,
) -> Answer {
    let dest = client_path(&inv.ctx, inv.args.str("path"))?;
    layer.snapshot(&inv.ctx).await?;
    let step = inv
        .ctx
        .session
        .progress
        .step(&format!("export to {dest}"), inv.ctx.span);
    let mut batches: Vec<Vec<wire::RawPath>> = vec![Vec::new()];
    let mut bytes = 0;
    for path in removed {
        bytes += path.0.len() + 8;
        if bytes > REMOVE_BYTES {
            batches.push(Vec::new());
            bytes = path.0.len();
        }
        if let Some(last) = batches.last_mut() {
            last.push(path);
        }
    }
    let last = batches.pop().unwrap_or_default();
    let request = |remove| LinkRequest::ExportTree {
        dest: dest.as_str().into(),
        wipe: false,
        remove,
    };
    let mut exported = Ok(());
    for batch in batches {
        exported = send(&inv.ctx, request(batch), super::Tree::empty(), Shape::Tree).await;
        if exported.is_err() {
            break;
        }
    }
    if exported.is_ok() {
        exported = send(&inv.ctx, request(last), layer, Shape::Tree).await;
    }
    finish(inv.view, step, exported, dest)
}

pub(crate) async fn file(inv: Invocation<Ctx>) -> Answer {
    let file = inv.this::<File>()?;
    let dest = client_path(&inv.ctx, inv.args.str("path"))?;
    let stat = file
        .tree
        .read(&inv.ctx, |tree, path| tree.expect_file(path, path))
        .await?;
    let step = inv
        .ctx
        .session
        .progress
        .step(&format!("export to {dest}"), inv.ctx.span);
    let request = LinkRequest::ExportFile {
        dest: dest.as_str().into(),
        name: paths::base_name(&file.tree.path).into(),
        allow_parent_dir: inv.args.bool("allowParentDirPath"),
        mode: stat.mode & 0o777,
        mtime_ns: Some(stat.mtime_ns),
    };
    let exported = send(&inv.ctx, request, file.tree.clone(), Shape::File).await;
    finish(inv.view, step, exported, dest)
}

fn finish(
    view: View,
    step: crate::progress::Step,
    exported: Result<(), Error>,
    dest: String,
) -> Answer {
    match exported {
        Ok(()) => {
            step.done();
            Ok(answer(view, dest))
        }
        Err(e) => {
            step.failed(&e);
            Err(e)
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Tree,
    File,
}

async fn send(
    ctx: &Ctx,
    request: LinkRequest,
    what: super::Tree,
    shape: Shape,
) -> Result<(), Error> {
    let refused = |e: wire::LinkError| crate::host::link_error(&e);
    let mut stream: Box<dyn Io> = ctx.client.link.open(request).await.map_err(refused)?;
    read_status::<()>(&mut stream).await.map_err(refused)?;
    let handle = tokio::runtime::Handle::current();
    let mut stream = what
        .read(ctx, move |tree, path| {
            let mut out = std::io::BufWriter::with_capacity(
                BUFFER,
                SyncIoBridge::new_with_handle(stream, handle),
            );
            // A failed write means that the client has given up: its second status says why.
            let written = match shape {
                Shape::Tree => write_tree(tree, path, &mut out),
                Shape::File => write_contents(tree, path, &mut out),
            };
            match written {
                Ok(()) => {}
                Err(WriteError::Tree(e)) => return Err(e),
                Err(WriteError::Client(_)) => {}
            }
            let mut last = Vec::new();
            Piece::Done.encode(&mut last);
            let _ = out.write_all(&last).and_then(|()| out.flush());
            out.into_inner()
                .map(SyncIoBridge::into_inner)
                .map_err(|e| store::TreeError::io("send", path, e.into_error()))
        })
        .await?;
    let _ = stream.flush().await;
    let _: Exported = read_status(&mut stream).await.map_err(refused)?;
    Ok(())
}

enum WriteError {
    Tree(store::TreeError),
    Client(std::io::Error),
}

impl From<store::TreeError> for WriteError {
    fn from(e: store::TreeError) -> Self {
        Self::Tree(e)
    }
}

impl From<std::io::Error> for WriteError {
    fn from(e: std::io::Error) -> Self {
        Self::Client(e)
    }
}

fn write_tree(tree: &store::Tree, root: &str, out: &mut impl Write) -> Result<(), WriteError> {
    let mut buf = Vec::with_capacity(CHUNK);
    let mut linked: std::collections::HashMap<(u64, u64), Vec<u8>> =
        std::collections::HashMap::new();
    let mut failed = None;
    tree.walk(root, &mut |entry| {
        if failed.is_some() {
            return Ok(());
        }
        buf.clear();
        let meta = Meta {
            mode: entry.stat.mode & 0o7777,
            mtime_ns: entry.stat.mtime_ns,
        };
        let path = entry.path;
        let result: Result<(), WriteError> = match entry.stat.kind {
            store::Kind::Dir => {
                Piece::Dir { path, meta }.encode(&mut buf);
                out.write_all(&buf).map_err(Into::into)
            }
            store::Kind::Symlink => {
                let target = tree.read_link_at(entry)?;
                Piece::Symlink {
                    path,
                    target: &target,
                    mtime_ns: meta.mtime_ns,
                }
                .encode(&mut buf);
                out.write_all(&buf).map_err(Into::into)
            }
            store::Kind::File => {
                let key = (entry.stat.dev, entry.stat.ino);
                if let Some(first) = linked.get(&key).filter(|_| entry.stat.nlink > 1) {
                    Piece::HardLink {
                        path,
                        target: first,
                    }
                    .encode(&mut buf);
                    out.write_all(&buf).map_err(Into::into)
                } else {
                    if entry.stat.nlink > 1 {
                        linked.insert(key, path.to_vec());
                    }
                    Piece::File { path, meta }.encode(&mut buf);
                    let mut file = tree.open_at(entry)?;
                    copy_pieces(&mut file, &mut buf, out).map_err(Into::into)
                }
            }
            // Sockets, pipes and devices stay behind.
            _ => Ok(()),
        };
        match result {
            Ok(()) => Ok(()),
            Err(WriteError::Tree(e)) => Err(e),
            Err(WriteError::Client(e)) => {
                failed = Some(e);
                Ok(())
            }
        }
    })?;
    failed.map_or(Ok(()), |e| Err(WriteError::Client(e)))
}

/// Sends a file's bytes as `Data` pieces and `End`.
fn copy_pieces(
    from: &mut std::fs::File,
    buf: &mut Vec<u8>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    use std::io::Read;
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = from.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        Piece::Data(&chunk[..n]).encode(buf);
        out.write_all(buf)?;
        buf.clear();
    }
    Piece::End { changed: false }.encode(buf);
    out.write_all(buf)
}

fn write_contents(tree: &store::Tree, path: &str, out: &mut impl Write) -> Result<(), WriteError> {
    use std::io::Read;
    let mut file = tree.open(path)?;
    let mut chunk = vec![0; CHUNK];
    let mut buf = Vec::with_capacity(CHUNK + 16);
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            return Ok(());
        }
        buf.clear();
        Piece::Data(&chunk[..n]).encode(&mut buf);
        out.write_all(&buf)?;
    }
}
