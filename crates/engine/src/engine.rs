//! The machine: store, sandbox, network and registries, opened once and shared by all sessions.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use graph::{
    error::{Class, Error},
    schema::Schema,
};
use store::{Store, Volume};

use crate::{
    Ctx,
    config::Config,
    container::tags::TagMemory,
    flight::Flights,
    gc::{Collector, GcError, Settings},
    git::strays,
    nested::ApiServer,
    network::Networking,
    node::{Key, Outcome},
};

/// Everything the engine owns.
pub struct Engine {
    /// What `engine.json` said.
    pub config: Config,
    /// Blobs, snapshots, volumes, results.
    pub store: Store,
    /// Starts containers.
    pub runtime: Arc<dyn sandbox::Runtime>,
    /// Talks to registries.
    pub registry: oci::registry::Client,
    /// What tags of images meant when they were last looked up.
    pub tags: Arc<TagMemory>,
    /// The whole schema, bound.
    pub schema: Schema<Ctx>,
    /// Node work in progress.
    pub flights: Flights<Key, Outcome>,
    /// Bounds how many execs run at once.
    pub exec_slots: tokio::sync::Semaphore,
    /// Proxy variables of the engine, given to every exec that does not set them.
    pub proxy_env: Vec<(String, String)>,
    /// The host's CA bundle, if there is one.
    pub ca_bundle: Option<PathBuf>,
    /// Scratch space for sockets: a directory that is emptied at start.
    pub run_dir: PathBuf,
    /// Removes what is too much.
    pub gc: Collector,
    /// The network of execs.
    pub networking: Networking,
    /// Serves the API inside containers.
    pub api: Arc<dyn ApiServer>,
    blocking_slots: Arc<tokio::sync::Semaphore>,
    volume_locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store.
    #[error("cannot open the store in `{dir}`")]
    Store {
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: store::OpenError,
    },
    /// This process may not make containers.
    #[error(
        "an engine needs root's rights to make containers (CAP_SYS_ADMIN), and this process has them not ({}): use it as root, \
         or name an engine that runs elsewhere in {}",
        graph::error::chain(.0),
        wire::paths::RUNNER_HOST
    )]
    Rights(sandbox::StartError),
    /// The sandbox.
    #[error("cannot prepare the sandbox")]
    Sandbox(#[source] sandbox::StartError),
    /// The schema: a bug of ours.
    #[error("cannot build the schema")]
    Schema(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The scratch directory.
    #[error("cannot prepare `{path}`")]
    Scratch {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The registry client.
    #[error("cannot prepare the registry client")]
    Registry(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What the configuration says of collecting garbage.
    #[error("cannot understand the configuration")]
    Gc(#[source] GcError),
}

/// Tells work on a thread of its own that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Has everybody left?
    pub fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails when everybody has left.
    ///
    /// # Errors
    /// That one, which nobody reads.
    pub fn check(&self) -> Result<(), Error> {
        if self.stopped() {
            return Err(Error::new(
                Class::Cancelled,
                "stopped: nobody waits for it any more",
            ));
        }
        Ok(())
    }
}

/// Stops the work of one who leaves.
struct StopWhenDropped(Stop);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Threads that may block at once.
const BLOCKING_MAX: usize = 64;
/// Proxy variables passed on to execs, in both cases.
const PROXY_VARIABLES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];
/// Where CA bundles are found.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Engine {
    /// Builds the world, top to bottom. `api` serves the API inside containers.
    ///
    /// # Errors
    /// The part that could not be had.
    pub fn open(
        config: Config,
        state_dir: &Path,
        api: Arc<dyn ApiServer>,
    ) -> Result<Arc<Self>, OpenError> {
        let gc = Collector::new(Settings::read(&config.gc).map_err(OpenError::Gc)?);
        let store = Store::open(state_dir, store::Options::default()).map_err(|source| {
            OpenError::Store {
                dir: state_dir.to_owned(),
                source,
            }
        })?;
        let run_dir = state_dir.join("run");
        let scratch = |source| OpenError::Scratch {
            path: run_dir.clone(),
            source,
        };
        strays::end(&run_dir.join(strays::HOME));
        match std::fs::remove_dir_all(&run_dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(scratch(e)),
            _ => {}
        }
        std::fs::create_dir_all(&run_dir).map_err(scratch)?;
        let runtime = open_runtime(&config, &run_dir)?;
        let registry =
            crate::container::image::client(&config).map_err(|e| OpenError::Registry(e.into()))?;
        let schema = crate::schema::build().map_err(OpenError::Schema)?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let slots = if config.max_parallelism == 0 {
            cores * 4
        } else {
            config.max_parallelism
        };
        let networking = Networking::new(&config.network);
        Ok(Arc::new(Self {
            tags: Arc::new(TagMemory::new(store.clone())),
            store,
            runtime,
            registry,
            schema,
            flights: Flights::default(),
            exec_slots: tokio::sync::Semaphore::new(slots),
            proxy_env: proxy_env(|name| std::env::var(name).ok()),
            ca_bundle: CA_BUNDLES.iter().map(PathBuf::from).find(|p| p.is_file()),
            run_dir,
            gc,
            networking,
            api,
            blocking_slots: Arc::new(tokio::sync::Semaphore::new(BLOCKING_MAX)),
            volume_locks: Mutex::default(),
            config,
        }))
    }

    /// Runs `f` on a thread that may block; at most [`BLOCKING_MAX`] at once.
    ///
    /// # Errors
    /// What `f` answered, or that it panicked.
    pub async fn blocking<T, F>(&self, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Error> + Send + 'static,
    {
        self.stoppable(|_| f()).await
    }

    /// [`Engine::blocking`] for long work, which looks now and then whether somebody still waits for it.
    ///
    /// # Errors
    /// What `f` answered, or that it panicked.
    pub async fn stoppable<T, F>(&self, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Stop) -> Result<T, Error> + Send + 'static,
    {
        let slot = self
            .blocking_slots
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::new(Class::Cancelled, "the engine is stopping"))?;
        let stop = Stop::default();
        let _left = StopWhenDropped(stop.clone());
        // The thread keeps its place until it ends, also when nobody waits for it.
        let run = move || {
            let _slot = slot;
            f(&stop)
        };
        tokio::task::spawn_blocking(run).await.map_err(|e| {
            Error::internal(format!(
                "a step of the engine failed unexpectedly ({e}); please report this"
            ))
        })?
    }

    /// The lock of a cache volume.
    pub fn volume_lock(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = crate::lock(&self.volume_locks);
        locks.retain(|_, l| l.strong_count() > 0);
        if let Some(l) = locks.get(key).and_then(Weak::upgrade) {
            return l;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// A directory of a volume that no other exec uses: the volume's own, or a further one while that is taken.
    ///
    /// # Errors
    /// The store's.
    pub async fn private_volume(&self, key: &str, volume: &Volume) -> Result<PrivateVolume, Error> {
        for n in 0.. {
            let name = if n == 0 {
                format!("{key}\0private")
            } else {
                format!("{key}\0private{n}")
            };
            if let Ok(guard) = self.volume_lock(&name).try_lock_owned() {
                if n == 0 {
                    return Ok(PrivateVolume {
                        path: volume.path().to_owned(),
                        _guard: guard,
                    });
                }
                let store = self.store.clone();
                let copy = self
                    .blocking(move || {
                        store
                            .volume(&name)
                            .map_err(|e| Error::from_chain(Class::Environment, &e))
                    })
                    .await?;
                return Ok(PrivateVolume {
                    path: copy.path().to_owned(),
                    _guard: guard,
                });
            }
        }
        Err(Error::internal("no private volume"))
    }

    /// Ends the engine's own work; sessions are closed before.
    pub async fn close(&self) {
        let store = self.store.clone();
        if let Err(e) = self
            .blocking(move || {
                store
                    .close()
                    .map_err(|e| Error::from_chain(Class::Environment, &e))
            })
            .await
        {
            tracing::warn!("cannot close the store: {e}");
        }
    }
}

/// A volume's directory, used by one exec alone.
#[derive(Debug)]
pub struct PrivateVolume {
    path: PathBuf,
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl PrivateVolume {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The engine's own runtime, or the OCI runtime that the configuration names.
fn open_runtime(config: &Config, run_dir: &Path) -> Result<Arc<dyn sandbox::Runtime>, OpenError> {
    match config.runtime.as_deref() {
        None | Some(crate::config::NATIVE) => {
            Ok(Arc::new(sandbox::Native::new().map_err(|e| match &e {
                sandbox::StartError::Step { source, .. }
                    if source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    OpenError::Rights(e)
                }
                _ => OpenError::Sandbox(e),
            })?))
        }
        Some(program) => Ok(Arc::new(sandbox::Runc::new(program, run_dir))),
    }
}

/// The proxy variables that are set, each in both cases.
fn proxy_env(get: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for name in PROXY_VARIABLES {
        let lower = name.to_ascii_lowercase();
        if let Some(value) = get(name).or_else(|| get(&lower)).filter(|v| !v.is_empty()) {
            out.push((name.to_owned(), value.clone()));
            out.push((lower, value));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_given_in_both_cases() {
        let env = proxy_env(|n| (n == "https_proxy").then(|| "http://p:1".to_owned()));
        assert_eq!(
            env,
            [
                ("HTTPS_PROXY".to_owned(), "http://p:1".to_owned()),
                ("https_proxy".to_owned(), "http://p:1".to_owned())
            ]
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn root_work_that_nobody_waits_for_stops() {
        let kit = crate::testkit::Kit::new();
        let (began, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel();
        let work = kit.engine.stoppable(move |stop| {
            began.send(()).expect("somebody listens");
            while stop.check().is_ok() {
                std::thread::yield_now();
            }
            end.send(()).expect("somebody listens");
            Ok(())
        });
        let left = tokio::time::timeout(std::time::Duration::from_millis(50), work).await;
        assert!(left.is_err(), "it does not end by itself");
        let limit = std::time::Duration::from_secs(20);
        begun.recv_timeout(limit).expect("it began");
        ended.recv_timeout(limit).expect("it stopped");
    }
}
