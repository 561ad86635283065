//! From a plan to a process: drafts, secrets, volumes and streams, put together for the sandbox. Execs and services begin
//! here alike.

use std::{net::Ipv4Addr, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use graph::error::{Class, Error};
use sandbox::{
    Child, StartError,
    spec::{self, Spec, UserSpec},
};
use store::{Draft, Snapshot};
use tokio::io::AsyncReadExt;

use crate::{
    Ctx,
    host::SocketProxy,
    nested::Nesting,
    network::ExecNetwork,
    node::exec::{ExecPlan, PlannedSource, Sharing},
    scrub::Scrubber,
    secret::Plaintext,
};

/// Where programs are looked for when the container has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Largest piece read at once.
const READ_CHUNK: usize = 64 << 10;

/// What is held while the process runs and released after.
#[derive(Default)]
pub(crate) struct Held {
    /// Output trees: the root first, then one per tree mount.
    pub(super) drafts: Vec<OutputTree>,
    /// Sockets forwarded to the client.
    sockets: Vec<SocketProxy>,
    /// Locks of cache volumes.
    locks: Vec<tokio::sync::OwnedMutexGuard<()>>,
    /// Private copies of cache volumes.
    private: Vec<crate::engine::PrivateVolume>,
}

/// One output: a draft, or the unchanged input of a read-only mount.
pub(super) enum OutputTree {
    Draft(Draft),
    Unchanged(Snapshot),
}

/// Secret values of one process, for masking what it says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Masked(Arc<Vec<Plaintext>>);

impl Masked {
    /// A fresh masker for one stream.
    pub(crate) fn scrubber(&self) -> Scrubber {
        Scrubber::new(self.0.iter().map(Plaintext::reveal))
    }

    /// A masker for what is said of the process.
    pub(crate) fn texts(&self) -> Scrubber {
        Scrubber::for_texts(self.0.iter().map(Plaintext::reveal))
    }
}

/// The names a process has and knows, and its way to others.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// Its namespace.
    pub(crate) network: &'a ExecNetwork,
    /// Its session, when it has one.
    pub(crate) nesting: Option<&'a Nesting>,
    /// Its own name, as `hostname` says.
    pub(crate) hostname: &'a str,
    /// Further names for its own address.
    pub(crate) own_names: &'a [String],
    /// Names for the addresses of others.
    pub(crate) aliases: &'a [(Ipv4Addr, String)],
}

/// A process ready to be started, and our ends of its streams.
pub(crate) struct Prepared {
    pub(crate) spec: Spec,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// How an exec is shown and recorded: `withExec go test`, shortened, or as where it comes from says.
pub(crate) fn label(ctx: &Ctx, plan: &ExecPlan) -> String {
    match &plan.origin {
        Some(origin) => shown(ctx, plan).text(&origin.text),
        None => format!("withExec {}", command(ctx, plan)),
    }
}

/// Program and arguments on one line, shortened, without secrets.
pub(crate) fn command(ctx: &Ctx, plan: &ExecPlan) -> String {
    let mut scrubber = shown(ctx, plan);
    plan.command(|argument| scrubber.text(argument))
}

/// Masks the session's values of an exec's secrets. One that the session does not have is no reason to show nothing.
pub(crate) fn shown(ctx: &Ctx, plan: &ExecPlan) -> Scrubber {
    let values: Vec<Plaintext> = secrets(plan).filter_map(|s| s.value(ctx).ok()).collect();
    Scrubber::for_texts(values.iter().map(Plaintext::reveal))
}

/// All secrets the process will see.
fn secrets(plan: &ExecPlan) -> impl Iterator<Item = &crate::secret::Secret> {
    let mounted = plan.mounts.iter().filter_map(|m| match &m.source {
        PlannedSource::Secret { secret, .. } => Some(secret),
        _ => None,
    });
    plan.secret_env.iter().map(|(_, s)| s).chain(mounted)
}

/// All secret values the process will see; those kept elsewhere are got now.
///
/// # Errors
/// A secret without a value in this session.
pub(crate) async fn masked(ctx: &Ctx, plan: &ExecPlan) -> Result<Masked, Error> {
    let values = futures::future::try_join_all(secrets(plan).map(|s| s.fetch(ctx))).await?;
    Ok(Masked(Arc::new(values)))
}

/// The environment, as `NAME=value`.
fn environment(
    ctx: &Ctx,
    plan: &ExecPlan,
    nesting: Option<&Nesting>,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut env: Vec<Vec<u8>> = Vec::with_capacity(plan.env.len() + 4);
    if !plan.env.iter().any(|(k, _)| k == "PATH") {
        env.push(format!("PATH={DEFAULT_PATH}").into_bytes());
    }
    for (k, v) in &plan.env {
        env.push(format!("{k}={v}").into_bytes());
    }
    for (k, v) in &plan.volatile_env {
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
    for (name, value) in nesting.into_iter().flat_map(Nesting::env) {
        // The container's own session, whatever its configuration says.
        env.retain(|e| {
            e.strip_prefix(name.as_bytes())
                .is_none_or(|rest| !rest.starts_with(b"="))
        });
        env.push(format!("{name}={value}").into_bytes());
    }
    Ok(env)
}

/// Drafts, volumes and secrets for the plan's mounts; the root's overlay first.
///
/// # Errors
/// What the store said, or a secret or socket that is not there.
pub(crate) async fn mounts(
    ctx: &Ctx,
    plan: &ExecPlan,
    inputs: &[Snapshot],
    held: &mut Held,
) -> Result<(spec::Root, Vec<spec::Mount>), Error> {
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    let base = inputs
        .first()
        .ok_or_else(|| Error::internal("an exec without a root filesystem"))?;
    let root_draft = draft(ctx, base).await?;
    let root = spec::Root::Overlay(root_draft.overlay());
    held.drafts.push(OutputTree::Draft(root_draft));
    for m in &plan.mounts {
        let (source, readonly) = match &m.source {
            PlannedSource::Tree {
                input,
                path,
                readonly,
                ..
            } => {
                let snapshot = match input {
                    Some(i) => inputs[*i].clone(),
                    None => ctx
                        .engine
                        .store
                        .empty()
                        .map_err(|e| Error::from_chain(Class::Environment, &e))?,
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
                (
                    spec::Source::Overlay {
                        overlay,
                        subpath: path.trim_start_matches('/').as_bytes().to_vec(),
                    },
                    *readonly,
                )
            }
            PlannedSource::Cache {
                key,
                sharing,
                seed,
                owner,
                mode,
                readonly,
            } => {
                let seed = seed.as_ref().map(|(i, p)| (&inputs[*i], p.as_str()));
                (
                    spec::Source::Bind(
                        cache_dir(ctx, key, *sharing, seed, (*owner, *mode), held).await?,
                    ),
                    *readonly,
                )
            }
            PlannedSource::Temp { size } => (spec::Source::Tmpfs { size: *size }, false),
            PlannedSource::Secret {
                secret,
                mode,
                owner,
            } => {
                let contents = secret.value(ctx)?.reveal().to_vec();
                (
                    spec::Source::File {
                        contents,
                        mode: *mode,
                        uid: owner.0,
                        gid: owner.1,
                    },
                    true,
                )
            }
            PlannedSource::Socket { socket, owner } => {
                let proxy = SocketProxy::listen(ctx, socket, *owner).await?;
                let path = proxy.path().to_owned();
                held.sockets.push(proxy);
                (spec::Source::Bind(path), false)
            }
        };
        mounts.push(spec::Mount {
            target: m.target.clone().into_bytes(),
            source,
            readonly,
        });
    }
    Ok((root, mounts))
}

/// Puts it all together.
///
/// # Errors
/// A secret without a value, privileges the engine does not give, or no descriptors left.
pub(crate) fn assemble(
    ctx: &Ctx,
    plan: &ExecPlan,
    (root, mounts): (spec::Root, Vec<spec::Mount>),
    place: &Place<'_>,
) -> Result<Prepared, Error> {
    let allowed = &ctx.engine.config.security;
    if plan.privileged && !allowed.insecure_root_capabilities {
        return Err(Error::user(
            "insecureRootCapabilities is not allowed by this engine's configuration",
        ));
    }
    if plan.privileged && plan.origin.is_some() && !allowed.insecure_dockerfiles {
        return Err(Error::user(
            "RUN --security=insecure is not allowed: the Dockerfile would have the engine's own rights over its machine. Run the \
             command by `withExec(insecureRootCapabilities: true)`, or, where every Dockerfile is trusted, set \
             `\"security\": {\"insecureDockerfiles\": true}` in engine.json",
        ));
    }
    let (stdout_read, stdout_write) = pipe()?;
    let (stderr_read, stderr_write) = pipe()?;
    let (stdin_read, stdin_write) = match plan.stdin.is_some() || plan.redirect_stdin.is_some() {
        true => {
            let (r, w) = pipe()?;
            (Some(r), Some(w))
        }
        false => (None, None),
    };
    let spec = Spec {
        root,
        mounts,
        argv: plan.argv.iter().map(|a| a.clone().into_bytes()).collect(),
        env: environment(ctx, plan, place.nesting)?,
        cwd: plan.cwd.clone().into_bytes(),
        user: UserSpec {
            name: plan.user.clone(),
        },
        hostname: place.hostname.to_owned(),
        stdio: spec::Stdio {
            stdin: stdin_read,
            stdout: Some(stdout_write),
            stderr: Some(stderr_write),
            terminal: false,
        },
        net: place.network.spec()?,
        hosts: Some(
            place
                .network
                .hosts(place.hostname, place.own_names, place.aliases),
        ),
        resolv_conf: Some(place.network.resolv_conf()),
        privileged: plan.privileged,
        init: plan.init,
        ca_bundle: ctx.engine.ca_bundle.clone(),
        rlimits: Vec::new(),
    };
    Ok(Prepared {
        spec,
        stdin: stdin_write,
        stdout: stdout_read,
        stderr: stderr_read,
    })
}

/// Starts the process; returns when its program runs, or why it does not.
///
/// # Errors
/// The engine is stopping.
pub(crate) async fn start(ctx: &Ctx, spec: Spec) -> Result<Result<Child, StartError>, Error> {
    let runtime = ctx.engine.runtime.clone();
    ctx.engine.blocking(move || Ok(runtime.start(spec))).await
}

/// What clients are told of a program that could not be started under an init: its words, as of other engines, and its exit
/// code. `None` when the start failed otherwise.
pub(crate) fn unknown_program(plan: &ExecPlan, e: &StartError) -> Option<(String, i32)> {
    let said = match e {
        StartError::UnknownProgram { name, .. } if plan.init => {
            format!("[dumb-init] {name}: No such file or directory")
        }
        StartError::NotExecutable { name, source } if plan.init => {
            let why = match source.kind() {
                std::io::ErrorKind::IsADirectory => "Is a directory",
                std::io::ErrorKind::NotADirectory => "Not a directory",
                _ => "Permission denied",
            };
            format!("[dumb-init] {name}: {why}")
        }
        _ => return None,
    };
    Some((said, UNKNOWN_PROGRAM))
}

/// Why a process did not start, and what to do when its program is for another kind of machine.
pub(crate) fn not_started(plan: &ExecPlan, e: &StartError) -> String {
    let why = graph::error::chain(e);
    let native = crate::platform::native();
    if e.errno() != Some(rustix::io::Errno::NOEXEC.raw_os_error()) || plan.platform == native {
        return why;
    }
    let architecture = plan.platform.split('/').nth(1).unwrap_or_default();
    let emulator = match architecture {
        "arm64" => "aarch64",
        "amd64" => "x86_64",
        "386" => "i386",
        other => other,
    };
    format!(
        "{why}: the container is for {}, this machine is {native} and its kernel has no emulator registered for such programs; \
         install one with `apt-get install qemu-user-static binfmt-support`, so that /proc/sys/fs/binfmt_misc/qemu-{emulator} exists \
         with the flag F",
        plan.platform
    )
}

/// The exit code of an init that cannot run its program.
const UNKNOWN_PROGRAM: i32 = 2;

/// Writes the plan's stdin, if it has one.
pub(crate) async fn feed_stdin(write: Option<OwnedFd>, bytes: Option<Arc<[u8]>>) {
    let (Some(write), Some(bytes)) = (write, bytes) else {
        return;
    };
    if let Ok(mut sender) = tokio::net::unix::pipe::Sender::from_owned_fd(write) {
        // A process that does not read its input is no error.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes).await;
    }
}

/// Reads a stream to its end, masks secrets, shows it as it comes.
///
/// # Errors
/// The stream cannot be read.
pub(crate) async fn drain(
    read: OwnedFd,
    mut scrubber: Scrubber,
    mut show: impl FnMut(&[u8]),
) -> Result<(), Error> {
    let environment =
        |e: std::io::Error| Error::environment(format!("cannot read the process's output: {e}"));
    let mut receiver =
        tokio::net::unix::pipe::Receiver::from_owned_fd(read).map_err(environment)?;
    let mut buf = vec![0; READ_CHUNK];
    loop {
        let n = receiver.read(&mut buf).await.map_err(environment)?;
        let shown = if n == 0 {
            scrubber.finish()
        } else {
            scrubber.push(&buf[..n])
        };
        show(&shown);
        if n == 0 {
            return Ok(());
        }
    }
}

async fn draft(ctx: &Ctx, parent: &Snapshot) -> Result<Draft, Error> {
    let (store, parent) = (ctx.engine.store.clone(), parent.clone());
    ctx.engine
        .blocking(move || {
            store
                .draft(Some(&parent))
                .map_err(|e| Error::from_chain(Class::Environment, &e))
        })
        .await
}

/// The directory of a cache volume, filled at first use, locked or copied as its sharing asks.
async fn cache_dir(
    ctx: &Ctx,
    key: &str,
    sharing: Sharing,
    seed: Option<(&Snapshot, &str)>,
    (owner, mode): (Option<(u32, u32)>, Option<u32>),
    held: &mut Held,
) -> Result<PathBuf, Error> {
    if sharing == Sharing::Locked {
        held.locks
            .push(ctx.engine.volume_lock(key).lock_owned().await);
    }
    let (store, key2) = (ctx.engine.store.clone(), key.to_owned());
    let seed = seed.map(|(s, p)| (s.clone(), p.to_owned()));
    let volume = ctx
        .engine
        .blocking(move || {
            let environment =
                |e: &(dyn std::error::Error + 'static)| Error::from_chain(Class::Environment, e);
            let volume = store.volume(&key2).map_err(|e| environment(&e))?;
            volume
                .prepare(|tree| {
                    let options = store::CopyOptions {
                        owner,
                        ..store::CopyOptions::default()
                    };
                    if let Some((snapshot, path)) = &seed {
                        tree.copy_dir(&snapshot.tree()?, path, "/", &options)?;
                    }
                    if let Some((uid, gid)) = owner {
                        tree.set_owner("/", uid, gid)?;
                    }
                    if let Some(mode) = mode {
                        tree.set_mode("/", mode)?;
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
        held.private.push(private);
        return Ok(path);
    }
    Ok(volume.path().to_owned())
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Error::environment(format!("cannot make a pipe for the process: {e}")))
}
