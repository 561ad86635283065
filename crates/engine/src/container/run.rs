//! Runs a planned exec: drafts, secrets, volumes and network in; snapshots and output out.

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};

use graph::error::{Class, Error};
use sandbox::spec::{self, Spec, UserSpec};
use store::{Draft, Snapshot};
use tokio::io::AsyncReadExt;

use super::paths;
use crate::{
    Ctx,
    host::SocketProxy,
    node::exec::{ExecPlan, ExecResult, PlannedSource, Sharing},
    progress::{Step, Stream},
    scrub::Scrubber,
};

/// Most bytes of one stream that are kept for `stdout` and `stderr`.
const OUTPUT_MAX: usize = 256 << 20;
/// Most bytes of one stream that an error carries; what is longer keeps its end.
const ERROR_OUTPUT_MAX: usize = 100 * 1024;
/// Where programs are looked for when the container has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The hostname of every exec: constant, so that it cannot break caching.
const HOSTNAME: &str = "bodkin";
/// The exit code of an init that cannot run its program.
const UNKNOWN_PROGRAM: i32 = 2;
/// Largest piece read at once.
const READ_CHUNK: usize = 64 << 10;

/// What is held while the process runs and released after.
struct Held {
    /// Output trees: the root first, then one per tree mount.
    drafts: Vec<OutputTree>,
    /// Sockets forwarded to the client.
    _sockets: Vec<SocketProxy>,
    /// Locks of cache volumes.
    _locks: Vec<tokio::sync::OwnedMutexGuard<()>>,
    /// Private copies of cache volumes.
    _private: Vec<crate::engine::PrivateVolume>,
}

/// One output: a draft, or the unchanged input of a read-only mount.
enum OutputTree {
    Draft(Draft),
    Unchanged(Snapshot),
}

/// Runs `plan` over `inputs` (the root filesystem first) and returns the output trees and what the process said.
///
/// # Errors
/// An `EXEC_ERROR` when the process could not be started or did not end as expected; what is missing otherwise.
pub async fn run(ctx: &Ctx, plan: &ExecPlan, inputs: &[Snapshot]) -> Result<(Vec<Snapshot>, ExecResult), Error> {
    let step = ctx.session.progress.step(&plan.label(), ctx.span);
    let outcome = run_step(ctx, plan, inputs, &step).await;
    match &outcome {
        Ok(_) => step.done(),
        Err(e) => step.failed(e),
    }
    outcome
}

async fn run_step(ctx: &Ctx, plan: &ExecPlan, inputs: &[Snapshot], step: &Step) -> Result<(Vec<Snapshot>, ExecResult), Error> {
    let _slot = ctx.engine.exec_slots.acquire().await.map_err(|_| Error::new(Class::Cancelled, "the engine is stopping"))?;
    let secrets = secret_values(ctx, plan)?;
    let scrub_values: Vec<Vec<u8>> = secrets.iter().map(|s| s.reveal().to_vec()).collect();
    let scrubber = || Scrubber::new(scrub_values.iter().map(Vec::as_slice));
    let fail = |message: String| exec_error(plan, message, -1, b"", b"", &mut scrubber());

    let mut env: Vec<Vec<u8>> = Vec::with_capacity(plan.env.len() + 4);
    if !plan.env.iter().any(|(k, _)| k == "PATH") {
        env.push(format!("PATH={DEFAULT_PATH}").into_bytes());
    }
    for (k, v) in &plan.env {
        env.push(format!("{k}={v}").into_bytes());
    }
    for (k, s) in &plan.secret_env {
        let mut pair = format!("{k}=").into_bytes();
        pair.extend_from_slice(s.value(ctx)?.reveal());
        env.push(pair);
    }
    for (k, v) in &ctx.engine.proxy_env {
        if !plan.env.iter().any(|(name, _)| name == k) {
            env.push(format!("{k}={v}").into_bytes());
        }
    }

    let mut held = Held { drafts: Vec::new(), _sockets: Vec::new(), _locks: Vec::new(), _private: Vec::new() };
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    let root_draft = draft(ctx, &inputs[0]).await?;
    let root = spec::Root::Overlay(root_draft.overlay());
    held.drafts.push(OutputTree::Draft(root_draft));
    for m in &plan.mounts {
        let (source, readonly) = match &m.source {
            PlannedSource::Tree { input, path, readonly, .. } => {
                let snapshot = match input {
                    Some(i) => inputs[*i].clone(),
                    None => ctx.engine.store.empty().map_err(|e| Error::from_chain(Class::Environment, &e))?,
                };
                let overlay = if *readonly {
                    let overlay = snapshot.overlay();
                    held.drafts.push(OutputTree::Unchanged(snapshot));
                    overlay
                } else {
                    let d = draft(ctx, &snapshot).await?;
                    let overlay = d.overlay();
                    held.drafts.push(OutputTree::Draft(d));
                    overlay
                };
                (spec::Source::Overlay { overlay, subpath: path.trim_start_matches('/').as_bytes().to_vec() }, *readonly)
            }
            PlannedSource::Cache { key, sharing, seed, owner } => {
                let dir = cache_dir(ctx, key, *sharing, seed.as_ref().map(|(i, p)| (&inputs[*i], p.as_str())), *owner, &mut held).await?;
                (spec::Source::Bind(dir), false)
            }
            PlannedSource::Temp { size } => (spec::Source::Tmpfs { size: *size }, false),
            PlannedSource::Secret { secret, mode, owner } => {
                let contents = secret.value(ctx)?.reveal().to_vec();
                (spec::Source::File { contents, mode: *mode, uid: owner.0, gid: owner.1 }, true)
            }
            PlannedSource::Socket { socket, owner } => {
                let proxy = SocketProxy::listen(ctx, socket, *owner).await?;
                let path = proxy.path().to_owned();
                held._sockets.push(proxy);
                (spec::Source::Bind(path), false)
            }
        };
        mounts.push(spec::Mount { target: m.target.clone().into_bytes(), source, readonly });
    }

    let redirects = [("stdout", &plan.redirect_stdout), ("stderr", &plan.redirect_stderr)];
    for (name, path) in redirects {
        if let Some(path) = path {
            write_redirect(ctx, plan, &held, path, b"").await.map_err(|e| fail(format!("open redirect {name} file: {e}")))?;
        }
    }

    let network = ctx.engine.networking.take(&ctx.session).await?;
    let (stdout_read, stdout_write) = pipe()?;
    let (stderr_read, stderr_write) = pipe()?;
    let (stdin_read, stdin_write) = match &plan.stdin {
        Some(_) => {
            let (r, w) = pipe()?;
            (Some(r), Some(w))
        }
        None => (None, None),
    };
    let spec = Spec {
        root,
        mounts,
        argv: plan.argv.iter().map(|a| a.clone().into_bytes()).collect(),
        env,
        cwd: plan.cwd.clone().into_bytes(),
        user: UserSpec { name: plan.user.clone() },
        hostname: HOSTNAME.to_owned(),
        stdio: spec::Stdio { stdin: stdin_read, stdout: Some(stdout_write), stderr: Some(stderr_write), terminal: false },
        net: network.spec()?,
        hosts: Some(network.hosts(HOSTNAME)),
        resolv_conf: Some(network.resolv_conf()),
        privileged: plan.privileged,
        init: plan.init,
        ca_bundle: ctx.engine.ca_bundle.clone(),
        rlimits: Vec::new(),
    };
    if plan.privileged && !ctx.engine.config.security.insecure_root_capabilities {
        return Err(fail("insecureRootCapabilities is not allowed by this engine's configuration".to_owned()));
    }
    let runtime = ctx.engine.runtime.clone();
    let started = ctx.engine.blocking(move || Ok(runtime.start(spec))).await?;
    let mut child = match started {
        Ok(child) => child,
        Err(e) => {
            // What the init of other engines says of a program it cannot run: clients see these words and this code.
            let said = match &e {
                sandbox::StartError::UnknownProgram { name, .. } if plan.init => format!("[dumb-init] {name}: No such file or directory"),
                sandbox::StartError::NotExecutable { name, .. } if plan.init => format!("[dumb-init] {name}: Permission denied"),
                _ => return Err(fail(graph::error::chain(&e))),
            };
            if plan.expect.accepts(UNKNOWN_PROGRAM) {
                let outputs = commit(ctx, std::mem::take(&mut held.drafts)).await?;
                let result = ExecResult { exit_code: UNKNOWN_PROGRAM, stdout: [].into(), stderr: format!("{said}\n").into_bytes().into() };
                return Ok((outputs, result));
            }
            return Err(exec_error(plan, unsuccessful(plan, UNKNOWN_PROGRAM), UNKNOWN_PROGRAM, b"", said.as_bytes(), &mut scrubber()));
        }
    };

    let feed = feed_stdin(stdin_write, plan.stdin.clone());
    let out = pump(stdout_read, scrubber(), step, Stream::Stdout);
    let err = pump(stderr_read, scrubber(), step, Stream::Stderr);
    let (exit, _, stdout, stderr) = tokio::join!(child.wait(), feed, out, err);
    let (stdout, stderr) = (stdout?, stderr?);
    let exit = exit.map_err(|e| fail(format!("cannot wait for the process: {}", graph::error::chain(&e))))?;
    let code = exit.code();
    drop(child);
    drop(network);
    for (name, path, bytes) in [("stdout", &plan.redirect_stdout, &stdout), ("stderr", &plan.redirect_stderr, &stderr)] {
        if let Some(path) = path {
            write_redirect(ctx, plan, &held, path, bytes).await.map_err(|e| fail(format!("write redirect {name} file: {e}")))?;
        }
    }
    if !plan.expect.accepts(code) {
        return Err(exec_error(plan, unsuccessful(plan, code), code, &stdout, &stderr, &mut scrubber()));
    }
    let outputs = commit(ctx, std::mem::take(&mut held.drafts)).await?;
    Ok((outputs, ExecResult { exit_code: code, stdout: stdout.into(), stderr: stderr.into() }))
}

/// The sentence clients know.
fn unsuccessful(plan: &ExecPlan, code: i32) -> String {
    format!("process {} did not complete successfully: exit code: {code}", quoted(&plan.argv.join(" ")))
}

async fn commit(ctx: &Ctx, drafts: Vec<OutputTree>) -> Result<Vec<Snapshot>, Error> {
    ctx.engine
        .blocking(move || {
            drafts
                .into_iter()
                .map(|d| match d {
                    OutputTree::Draft(d) => d.commit().map_err(|e| Error::from_chain(Class::Environment, &e)),
                    OutputTree::Unchanged(s) => Ok(s),
                })
                .collect()
        })
        .await
}

async fn draft(ctx: &Ctx, parent: &Snapshot) -> Result<Draft, Error> {
    let (store, parent) = (ctx.engine.store.clone(), parent.clone());
    ctx.engine.blocking(move || store.draft(Some(&parent)).map_err(|e| Error::from_chain(Class::Environment, &e))).await
}

/// All secret values the process will see, for masking.
fn secret_values(ctx: &Ctx, plan: &ExecPlan) -> Result<Vec<crate::secret::Plaintext>, Error> {
    let mounted = plan.mounts.iter().filter_map(|m| match &m.source {
        PlannedSource::Secret { secret, .. } => Some(secret),
        _ => None,
    });
    plan.secret_env.iter().map(|(_, s)| s).chain(mounted).map(|s| s.value(ctx)).collect()
}

/// The directory of a cache volume, filled at first use, locked or copied as its sharing asks.
async fn cache_dir(
    ctx: &Ctx,
    key: &str,
    sharing: Sharing,
    seed: Option<(&Snapshot, &str)>,
    owner: Option<(u32, u32)>,
    held: &mut Held,
) -> Result<PathBuf, Error> {
    if sharing == Sharing::Locked {
        held._locks.push(ctx.engine.volume_lock(key).lock_owned().await);
    }
    let (store, key2) = (ctx.engine.store.clone(), key.to_owned());
    let seed = seed.map(|(s, p)| (s.clone(), p.to_owned()));
    let volume = ctx
        .engine
        .blocking(move || {
            let environment = |e: &(dyn std::error::Error + 'static)| Error::from_chain(Class::Environment, e);
            let volume = store.volume(&key2).map_err(|e| environment(&e))?;
            volume
                .prepare(|tree| {
                    let options = store::CopyOptions { owner, ..store::CopyOptions::default() };
                    match &seed {
                        Some((snapshot, path)) => tree.copy_dir(&snapshot.tree()?, path, "/", &options)?,
                        None => {}
                    }
                    if let Some((uid, gid)) = owner {
                        tree.set_owner("/", uid, gid)?;
                    }
                    Ok(())
                })
                .map_err(|e| environment(&e))?;
            Ok(volume)
        })
        .await?;
    if sharing == Sharing::Private {
        let private = ctx.engine.private_volume(key, &volume).await?;
        let path = private.path().to_owned();
        held._private.push(private);
        return Ok(path);
    }
    Ok(volume.path().to_owned())
}

/// Writes a redirect's file, in the root or in the tree mount it lies in, owned by the process's user.
async fn write_redirect(ctx: &Ctx, plan: &ExecPlan, held: &Held, path: &str, bytes: &[u8]) -> Result<(), String> {
    let mut draft = match held.drafts.first() {
        Some(OutputTree::Draft(d)) => (d, paths::join(&plan.root_path, path.trim_start_matches('/'))),
        _ => return Err("no root filesystem".to_owned()),
    };
    let inside = plan.mounts.iter().filter_map(|m| paths::below(&m.target, path).map(|rest| (m, rest)));
    if let Some((mount, rest)) = inside.max_by_key(|(m, _)| m.target.len()) {
        match &mount.source {
            PlannedSource::Tree { path: inner, output, .. } => match held.drafts.get(*output as usize) {
                Some(OutputTree::Draft(d)) => draft = (d, paths::join(inner, rest)),
                _ => return Err(format!("{path}: read-only file system")),
            },
            _ => return Err(format!("{path}: no such file or directory")),
        }
    }
    let tree = draft.0.tree().map_err(|e| graph::error::chain(&e))?;
    let (to, bytes, user) = (draft.1, bytes.to_vec(), plan.user.clone());
    let root_tree = match held.drafts.first() {
        Some(OutputTree::Draft(d)) => d.tree().map_err(|e| graph::error::chain(&e))?,
        _ => return Err("no root filesystem".to_owned()),
    };
    ctx.engine
        .blocking(move || {
            let owner = super::owner::of_user(&root_tree, &user)?;
            tree.overwrite_file(&to, &bytes, 0o600, Some(owner)).map_err(|e| Error::from_chain(Class::User, &e))
        })
        .await
        .map_err(|e| e.message().to_owned())
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Error::environment(format!("cannot make a pipe for the process: {e}")))
}

async fn feed_stdin(write: Option<OwnedFd>, bytes: Option<Arc<[u8]>>) {
    let (Some(write), Some(bytes)) = (write, bytes) else { return };
    if let Ok(mut sender) = tokio::net::unix::pipe::Sender::from_owned_fd(write) {
        // A process that does not read its input is no error.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes).await;
    }
}

/// Reads a stream to its end, masks secrets, shows it as it comes.
async fn pump(read: OwnedFd, mut scrubber: Scrubber, step: &Step, stream: Stream) -> Result<Vec<u8>, Error> {
    let environment = |e: std::io::Error| Error::environment(format!("cannot read the process's output: {e}"));
    let mut receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(read).map_err(environment)?;
    let mut all = Vec::new();
    let mut buf = vec![0; READ_CHUNK];
    loop {
        let n = receiver.read(&mut buf).await.map_err(environment)?;
        let shown = if n == 0 { scrubber.finish() } else { scrubber.push(&buf[..n]) };
        step.output(stream, &shown);
        let room = OUTPUT_MAX.saturating_sub(all.len());
        all.extend_from_slice(&shown[..shown.len().min(room)]);
        if n == 0 {
            return Ok(all);
        }
    }
}

/// The error of an exec, with the extensions clients read.
fn exec_error(plan: &ExecPlan, message: String, code: i32, stdout: &[u8], stderr: &[u8], scrubber: &mut Scrubber) -> Error {
    let mut ext = serde_json::Map::new();
    ext.insert("_type".into(), "EXEC_ERROR".into());
    ext.insert("cmd".into(), plan.argv.iter().map(|a| scrubber.text(a)).collect::<Vec<_>>().into());
    ext.insert("exitCode".into(), code.into());
    ext.insert("stdout".into(), error_output(stdout).into());
    ext.insert("stderr".into(), error_output(stderr).into());
    Error::user(scrubber.text(&message)).with_extensions(ext)
}

/// A text in double quotes, with the escapes clients know from Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The trimmed end of an output, at most [`ERROR_OUTPUT_MAX`] bytes; a note overwrites its beginning when something is left out.
fn error_output(bytes: &[u8]) -> String {
    let trimmed = bytes.trim_ascii();
    if trimmed.len() <= ERROR_OUTPUT_MAX {
        return String::from_utf8_lossy(trimmed).into_owned();
    }
    let mut tail = trimmed[trimmed.len() - ERROR_OUTPUT_MAX..].to_vec();
    let note = format!("[omitting {} bytes]...", trimmed.len() - ERROR_OUTPUT_MAX);
    tail[..note.len()].copy_from_slice(note.as_bytes());
    String::from_utf8_lossy(&tail).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_in_errors_keeps_its_end_and_says_so() {
        let long = vec![b'x'; ERROR_OUTPUT_MAX + 5];
        let text = error_output(&long);
        assert_eq!(text.len(), ERROR_OUTPUT_MAX);
        assert!(text.starts_with("[omitting 5 bytes]...xxx"));
        assert_eq!(error_output(b"\n out \n"), "out");
    }
}
