//! Sessions and the clients in them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use graph::{call::Digest, error::Error, resolve::View};
use oci::registry::Access;
use wire::ClientInfo;

use crate::{
    Ctx,
    container::shell::Shells,
    link::ClientLink,
    lock,
    network::SessionNetwork,
    node::Key,
    progress::Progress,
    scrub::Veil,
    secret::{Plaintext, Source},
    service::{Service, Services},
};

/// One user's connection: what it remembers and holds until it ends.
pub struct Session {
    /// Its name on the wire.
    pub id: String,
    /// The memo of its calls.
    pub solver: Arc<graph::solve::Solver<Ctx>>,
    /// What its user sees.
    pub progress: Progress,
    /// Its place in the network.
    pub network: SessionNetwork,
    /// What runs for it.
    pub services: Services,
    /// What it knows of Git repositories.
    pub repositories: crate::git::Known,
    /// What it has fetched over HTTP.
    pub fetched: crate::http::Seen,
    /// Containers that somebody may open a shell in.
    pub shells: Shells,
    veil: Arc<Mutex<Veil>>,
    /// Where values that were not needed yet are kept.
    secret_sources: Mutex<HashMap<Digest, Source>>,
    /// Registry credentials given by `withRegistryAuth`: host to user and password.
    registry_auth: Mutex<HashMap<String, (String, Plaintext)>>,
    registry_access: Mutex<Option<Arc<Access>>>,
    /// Registries that are services of the session, by `host:port` as image names have it.
    registry_services: Mutex<HashMap<String, Service>>,
    /// Execs that failed in this session: they are not run again in it.
    failures: Mutex<HashMap<Key, Error>>,
    /// Execs that were shown to the user, as run or as cached.
    shown: Mutex<HashSet<Key>>,
}

/// One caller in a session.
pub struct Client {
    /// Unique in the engine.
    pub key: u64,
    /// What it said of itself.
    pub info: ClientInfo,
    /// The schema version it sees.
    pub view: View,
    /// Its machine.
    pub link: Arc<dyn ClientLink>,
    /// For a process in a container: the client that asked for it.
    patron: Option<Arc<Client>>,
}

/// Most steps that are shown as cached per session; more are not news.
const MAX_SHOWN: usize = 20_000;
/// Most bytes of a message at each end of what is left out.
const MESSAGE_END: usize = 16 << 10;

/// The beginning and the end of a text that is too long to be read; `None` for others.
pub(crate) fn shortened(text: &str) -> Option<String> {
    let between = text
        .len()
        .checked_sub(2 * MESSAGE_END)
        .filter(|n| *n > 64)?;
    let (first, last) = (
        text.floor_char_boundary(MESSAGE_END),
        text.ceil_char_boundary(text.len() - MESSAGE_END),
    );
    Some(format!(
        "{} [… {between} bytes …] {}",
        text.get(..first)?,
        text.get(last..)?
    ))
}

/// Most failures remembered per session.
const MAX_FAILURES: usize = 10_000;

impl Session {
    /// A session without clients.
    pub fn new(id: String, solver: Arc<graph::solve::Solver<Ctx>>, progress: Progress) -> Self {
        let veil = Arc::<Mutex<Veil>>::default();
        progress.veil(veil.clone());
        Self {
            id,
            solver,
            progress,
            network: SessionNetwork::default(),
            services: Services::default(),
            repositories: crate::git::Known::default(),
            fetched: crate::http::Seen::default(),
            shells: Shells::default(),
            veil,
            secret_sources: Mutex::default(),
            registry_auth: Mutex::default(),
            registry_access: Mutex::default(),
            registry_services: Mutex::default(),
            failures: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// A secret's value.
    pub fn secret(&self, id: Digest) -> Option<Plaintext> {
        lock(&self.veil).get(id)
    }

    /// Sets a secret's value; the same name again overwrites.
    pub fn set_secret(&self, id: Digest, value: Plaintext) {
        lock(&self.veil).set(id, value);
    }

    /// What a client is told of an error: without the values of the session's secrets, and of bearable length.
    pub fn told(&self, error: Error) -> Error {
        let mut veil = lock(&self.veil);
        let masked = veil.text(error.message());
        let command = error.extensions().and_then(|e| e.get("cmd"));
        let command: Option<Vec<serde_json::Value>> =
            command.and_then(|c| c.as_array()).map(|args| {
                let mask = |a: &serde_json::Value| {
                    let masked = a.as_str().and_then(|a| veil.text(a));
                    masked.map_or_else(|| a.clone(), Into::into)
                };
                args.iter().map(mask).collect()
            });
        drop(veil);
        let whole = masked.as_deref().unwrap_or(error.message());
        let error = match (masked.is_some(), shortened(whole)) {
            (false, None) => error.clone(),
            (_, Some(short)) => error.with_message(short),
            (true, None) => error.with_message(whole),
        };
        let extensions = error.extensions().cloned();
        match (command, extensions) {
            (Some(command), Some(mut extensions)) => {
                extensions.insert("cmd".into(), command.into());
                error.with_extensions(extensions)
            }
            _ => error,
        }
    }

    /// Where a secret's value can be got.
    pub fn secret_source(&self, id: Digest) -> Option<Source> {
        lock(&self.secret_sources).get(&id).cloned()
    }

    /// Says where a secret's value can be got. Who said so first is asked.
    pub fn set_secret_source(&self, id: Digest, source: Source) {
        lock(&self.secret_sources).entry(id).or_insert(source);
    }

    /// Credentials for a registry host.
    pub fn registry_auth(&self, host: &str) -> Option<(String, Plaintext)> {
        lock(&self.registry_auth).get(host).cloned()
    }

    /// The session's way into registries: made once, and anew when credentials have changed.
    pub fn registry_access(&self, make: impl FnOnce() -> Access) -> Arc<Access> {
        lock(&self.registry_access)
            .get_or_insert_with(|| Arc::new(make()))
            .clone()
    }

    /// The service that is a registry.
    pub fn registry_service(&self, domain: &str) -> Option<Service> {
        lock(&self.registry_services).get(domain).cloned()
    }

    /// From now on the session reaches that registry through a service.
    pub fn set_registry_service(&self, domain: &str, service: Service) {
        lock(&self.registry_services).insert(domain.to_owned(), service);
    }

    /// Sets or removes credentials for a registry host.
    pub fn set_registry_auth(&self, host: &str, auth: Option<(String, Plaintext)>) {
        match auth {
            Some(a) => lock(&self.registry_auth).insert(host.to_owned(), a),
            None => lock(&self.registry_auth).remove(host),
        };
        // Tokens were given for the old credentials.
        *lock(&self.registry_access) = None;
    }

    /// Ends what the session still holds in the engine.
    pub async fn close(&self, engine: &crate::Engine) {
        self.services.close().await;
        // What it remembers keeps trees in use.
        self.solver.forget();
        self.fetched.forget();
        self.repositories.forget();
        engine.networking.close_session(&self.network);
        lock(&self.veil).clear();
        lock(&self.secret_sources).clear();
        lock(&self.registry_auth).clear();
        lock(&self.registry_services).clear();
    }

    /// Whether an exec has to be shown: true once, and never after very many.
    pub fn first_shown(&self, key: Key) -> bool {
        let mut shown = lock(&self.shown);
        shown.len() < MAX_SHOWN && shown.insert(key)
    }

    /// How an exec failed earlier in this session.
    pub fn failure(&self, key: &Key) -> Option<Error> {
        lock(&self.failures).get(key).cloned()
    }

    /// Remembers a failed exec.
    pub fn remember_failure(&self, key: Key, error: Error) {
        let mut failures = lock(&self.failures);
        if failures.len() < MAX_FAILURES {
            failures.insert(key, error);
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.key)
    }
}

impl Client {
    /// A client that sees the schema as its version asks.
    pub fn new(info: ClientInfo, link: Arc<dyn ClientLink>) -> Self {
        let view = view_of(&info);
        Self {
            key: next_key(),
            info,
            view,
            link,
            patron: None,
        }
    }

    /// A process in a container that was asked for by `patron`: its machine is the container.
    pub fn in_container(info: ClientInfo, link: Arc<dyn ClientLink>, patron: &Arc<Client>) -> Self {
        let view = view_of(&info);
        Self {
            key: next_key(),
            info,
            view,
            link,
            patron: Some(patron.clone()),
        }
    }

    /// Is it a process in a container?
    pub fn is_nested(&self) -> bool {
        self.patron.is_some()
    }

    /// The client at the beginning: the user's own, whose credentials count.
    pub fn user(self: &Arc<Self>) -> Arc<Self> {
        let mut client = self;
        while let Some(patron) = &client.patron {
            client = patron;
        }
        client.clone()
    }
}

fn next_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The schema view a client gets: `--version`, else the SDK's label, else ours. What is no version counts as the oldest that
/// was never checked.
fn view_of(info: &ClientInfo) -> View {
    let named = [
        info.version.as_deref(),
        info.labels.get("dagger.io/sdk.version").map(String::as_str),
    ];
    let named = named
        .into_iter()
        .flatten()
        .find(|v| !v.is_empty() && *v != "n/a");
    named.map_or(View::DEFAULT, |v| {
        View::parse(v).unwrap_or(View::new(0, 11, 9))
    })
}
