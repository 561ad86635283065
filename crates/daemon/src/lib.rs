//! The engine as a process: listens, opens sessions, serves their API, ends.

#![forbid(unsafe_code)]

mod conn;
mod http;
mod link;
mod listen;
mod nested;
mod passing;
mod session;
mod shell;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use engine::Engine;
use tokio_util::sync::CancellationToken;
use wire::paths::Address;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the store is.
    pub state_dir: PathBuf,
    /// Where to listen.
    pub listen: Vec<Address>,
    /// `engine.json`.
    pub config: PathBuf,
    /// Exit after this long without a session; `None` stays.
    pub idle_timeout: Option<Duration>,
}

/// Why the engine could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] engine::config::ConfigError),
    /// The engine.
    #[error(transparent)]
    Open(#[from] engine::engine::OpenError),
    /// The runtime.
    #[error("cannot start threads")]
    Threads(#[source] std::io::Error),
    /// A socket.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Signals.
    #[error("cannot watch for signals")]
    Signals(#[source] std::io::Error),
}

/// Longest time open sessions get to end at shutdown.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// Threads of the pool for blocking work.
const BLOCKING_THREADS: usize = 72;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) sessions: session::Sessions,
    pub(crate) stop: CancellationToken,
    pub(crate) started: Instant,
    pub(crate) options: Options,
    pub(crate) connections: AtomicUsize,
    pub(crate) activity: tokio::sync::Notify,
}

/// Runs the engine until it is told to stop. Errors go to stderr, one line.
pub fn run(options: Options) -> ExitCode {
    let read = engine::config::Config::read(&options.config);
    let level = read.as_ref().ok().and_then(|(c, _)| c.log_filter());
    let filter = tracing_subscriber::EnvFilter::try_from_env("BODKIN_LOG")
        .unwrap_or_else(|_| level.unwrap_or("info").into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match read.map_err(RunError::from).and_then(|(config, passed)| {
        for key in passed {
            tracing::warn!("`{key}` of engine.toml has no meaning for this engine");
        }
        try_run(config, options)
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Open(engine::engine::OpenError::Store {
            source: source @ store::OpenError::InUse { .. },
            ..
        })) => {
            tracing::info!("{}", graph::error::chain(&source));
            ExitCode::from(wire::paths::EXIT_ANOTHER_RUNS)
        }
        Err(e) => {
            tracing::error!("{}", graph::error::chain(&e));
            ExitCode::FAILURE
        }
    }
}

fn try_run(config: engine::config::Config, options: Options) -> Result<(), RunError> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(RunError::Threads)?;
    let result = runtime.block_on(async move {
        // The store's lock decides who is the engine; only then are sockets touched.
        let engine = Engine::open(config, &options.state_dir, Arc::new(nested::Api))?;
        raise_file_limit();
        // Ready before the first exec asks for it.
        let network = engine.networking.clone();
        tokio::spawn(async move { network.get().await });
        let listeners = listen::bind_all(&options.listen).await?;
        let shared = Arc::new(Shared {
            engine,
            sessions: session::Sessions::default(),
            stop: CancellationToken::new(),
            started,
            options,
            connections: AtomicUsize::new(0),
            activity: tokio::sync::Notify::new(),
        });
        tracing::info!(millis = started.elapsed().as_millis() as u64, "ready");
        serve(&shared, listeners).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn serve(shared: &Arc<Shared>, listeners: Vec<listen::Listener>) -> Result<(), RunError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    for listener in listeners {
        let shared = shared.clone();
        tokio::spawn(async move { listener.accept_loop(shared).await });
    }
    tokio::select! {
        _ = term.recv() => tracing::info!("told to stop"),
        _ = int.recv() => tracing::info!("interrupted"),
        () = shared.stop.cancelled() => tracing::info!("asked to stop"),
        () = idle(shared) => tracing::info!("idle"),
    }
    shared.stop.cancel();
    shared.sessions.end_all(SHUTDOWN).await;
    listen::remove_sockets(&shared.options.listen);
    shared.engine.close().await;
    Ok(())
}

/// Many containers need many descriptors: takes what the machine allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // As good as it was when it fails.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

/// Ends when nothing has been connected for the idle time.
async fn idle(shared: &Shared) {
    let Some(limit) = shared.options.idle_timeout else {
        return std::future::pending().await;
    };
    loop {
        let changed = shared.activity.notified();
        if shared.connections.load(Ordering::Acquire) > 0 {
            changed.await;
        } else if tokio::time::timeout(limit, changed).await.is_err()
            && shared.connections.load(Ordering::Acquire) == 0
        {
            return;
        }
    }
}
