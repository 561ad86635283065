//! The commands, and what they share.

pub mod arguments;
pub mod config;
pub mod core;
pub mod engine;
pub mod init;
pub mod install;
pub mod later;
pub mod listen;
pub mod query;
pub mod run;
pub mod session;
pub mod version;

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use wire::{ClientInfo, ProgressEvent, paths::Place};

use crate::{
    Outcome,
    args::{Global, ProgressFlag},
    connect::Door,
    error::Failure,
    link::Files,
    nested::Nested,
    output::{self, Stderr},
    progress::{Detail, Plain},
    proxy::Upstream,
    session::{Session, client_info},
};

/// Threads for file work.
const FILE_THREADS: usize = 16;
/// How long the last progress lines may take to be read. An SDK that does not read them at all waits as long.
const LAST_LINES: Duration = Duration::from_millis(250);

/// How long an engine that ended as it was asked is looked for anew.
const LOST: Duration = Duration::from_secs(5);
/// Between two looks.
const LOST_PAUSE: Duration = Duration::from_millis(20);

/// What most commands begin with.
pub struct Setup {
    /// Where relative paths begin: absolute. The process is there.
    pub workdir: PathBuf,
    /// How much progress is shown.
    pub detail: Detail,
    /// With colours.
    pub colour: bool,
    /// What of this machine sessions may use.
    pub files: Files,
    /// A session that is there already.
    pub nested: Option<Nested>,
    /// Where progress goes.
    pub stderr: Stderr,
    /// The command of the terminal that is opened when a step fails.
    pub interactive: Option<String>,
}

/// A variable of the environment; empty counts as unset.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// Where this user's engine is.
fn place() -> Place<'static> {
    Place {
        root: rustix::process::geteuid().is_root(),
        env: &env,
    }
}

impl Setup {
    /// Changes to the working directory and reads the global flags.
    ///
    /// # Errors
    /// No such directory, no terminal where one is asked for, a broken nested session.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let tty = match (global.progress, env("DAGGER_PROGRESS").as_deref()) {
            (Some(ProgressFlag::Tty), _) | (None, Some("tty")) => {
                if !output::any_terminal() {
                    return Err(Failure::new("no tty available for progress \"tty\""));
                }
                true
            }
            (Some(ProgressFlag::Plain), _) | (None, Some("plain")) => false,
            _ => output::stderr_is_terminal(),
        };
        let wanted = global
            .workdir
            .clone()
            .or_else(|| env("DAGGER_WORKDIR").map(Into::into))
            .filter(|w| !w.as_os_str().is_empty());
        if let Some(dir) = wanted {
            std::env::set_current_dir(&dir).map_err(|e| {
                Failure::new(format!("cannot use the workdir `{}`: {e}", dir.display()))
            })?;
        }
        let workdir = std::env::current_dir()
            .map_err(|e| Failure::new(format!("cannot tell the working directory: {e}")))?;
        Ok(Self {
            workdir,
            detail: detail(global, env("DAGGER_QUIET").as_deref()),
            colour: tty && env("NO_COLOR").is_none(),
            files: Files::Allowed,
            nested: Nested::find(&env)?,
            stderr: Stderr::new(),
            interactive: global
                .interactive
                .then(|| global.interactive_command.clone()),
        })
    }

    fn client_info(
        &self,
        version: Option<String>,
        labels: BTreeMap<String, String>,
        token: &str,
    ) -> ClientInfo {
        let mut info = client_info(version, labels, &self.workdir, token.to_owned());
        info.progress = self.detail != Detail::Silent;
        info.interactive = self.interactive.is_some();
        info.interactive_command.clone_from(&self.interactive);
        info
    }

    /// Finds or starts the engine and opens a session.
    ///
    /// # Errors
    /// No engine, or it refuses.
    pub async fn open(
        &self,
        version: Option<String>,
        labels: BTreeMap<String, String>,
        token: &str,
    ) -> Result<Session, Failure> {
        let info = self.client_info(version, labels, token);
        let begun = Instant::now();
        loop {
            let (door, conn) = Door::find(&place())
                .await
                .map_err(|e| Failure::from_error(&e))?;
            let mut plain = Plain::new(self.detail, self.colour);
            let stderr = self.stderr.clone();
            let show = Box::new(move |event: &ProgressEvent| {
                plain.lines(event).iter().for_each(|l| stderr.line(l))
            });
            match Session::open_with(door, conn, info.clone(), show, self.files).await {
                // It was about to end, idle or killed: the next one is found or started.
                Err(e) if e.is_lost() && begun.elapsed() < LOST => {
                    tokio::time::sleep(LOST_PAUSE).await;
                }
                opened => return opened.map_err(|e| Failure::from_error(&e)),
            }
        }
    }
}

/// A session of one's own, or the one that is there already.
pub enum Opened {
    /// Opened here, to be closed here.
    Own(Box<Session>),
    /// There already.
    Nested,
}

impl Opened {
    /// Opens or joins a session; where its API is, and its token.
    ///
    /// # Errors
    /// No engine, or it refuses.
    pub async fn open(setup: &Setup) -> Result<(Self, Upstream, String), Failure> {
        if let Some(nested) = &setup.nested {
            return Ok((
                Self::Nested,
                Upstream::Nested(nested.clone()),
                nested.token.clone(),
            ));
        }
        let token = uuid::Uuid::new_v4().to_string();
        let session = setup.open(None, BTreeMap::new(), &token).await?;
        let upstream = upstream(&session);
        Ok((Self::Own(Box::new(session)), upstream, token))
    }

    /// Resolves when the engine is lost.
    pub async fn lost(&self) {
        match self {
            Self::Own(session) => {
                session.ended().await;
            }
            Self::Nested => std::future::pending().await,
        }
    }

    /// Ends the session if it was opened here.
    pub async fn close(self) {
        if let Self::Own(session) = self {
            session.close().await;
        }
    }
}

/// Where a session's API is.
fn upstream(session: &Session) -> Upstream {
    Upstream::Session {
        door: session.door.clone(),
        id: Arc::from(session.id.as_str()),
    }
}

fn detail(global: &Global, quiet_env: Option<&str>) -> Detail {
    let quiet = u32::from(global.quiet) + quiet_env.map_or(0, |q| q.parse().unwrap_or(1));
    if global.silent || quiet > 1 {
        Detail::Silent
    } else if quiet == 1 {
        Detail::Failures
    } else if global.verbose > 0 || global.debug {
        Detail::Everything
    } else {
        Detail::Steps
    }
}

/// Runs async work to its end on this thread; work left over is dropped, not waited for.
fn block_on<T>(
    stderr: &Stderr,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .build();
    let runtime = runtime.map_err(|e| Failure::new(format!("cannot start: {e}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    stderr.flush(LAST_LINES);
    result
}

/// Resolves at the first signal that asks to end.
///
/// # Errors
/// Signals cannot be watched.
fn ending() -> Result<impl Future<Output = i32>, Failure> {
    let watch = |kind| signal(kind).map_err(|e| Failure::new(format!("cannot watch signals: {e}")));
    let (mut int, mut term) = (
        watch(SignalKind::interrupt())?,
        watch(SignalKind::terminate())?,
    );
    let mut hup = watch(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = int.recv() => SignalKind::interrupt().as_raw_value(),
            _ = term.recv() => SignalKind::terminate().as_raw_value(),
            _ = hup.recv() => SignalKind::hangup().as_raw_value(),
        }
    })
}

/// The engine went away in the middle of a session.
fn lost() -> Failure {
    if env(wire::paths::RUNNER_HOST).is_some() {
        return Failure::new("lost the engine");
    }
    Failure::new(format!(
        "lost the engine\nhint: its log is `{}`",
        place().log_file().display()
    ))
}

/// The outcome of a command that did what it should.
fn done() -> Outcome {
    Outcome::Exit(0)
}
