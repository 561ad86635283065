//! An engine in a temporary directory and a session with it, for tests of this crate.

use std::{path::PathBuf, sync::Arc};

use graph::{Request, resolve::View, solve::Solver};
use serde_json::Value as Json;
use wire::{ClientInfo, LinkError, LinkErrorKind, LinkRequest};

use crate::{
    Ctx, Engine,
    config::{self, Config},
    link::{ClientLink, Io, LinkFuture, Listener},
    nested::{ApiServer, Remote, Serving},
    progress::Progress,
    session::{Client, Session},
};

/// A machine nobody answers for.
struct NoLink;

impl ClientLink for NoLink {
    fn open(&self, _: LinkRequest) -> LinkFuture<'_, Result<Box<dyn Io>, LinkError>> {
        Box::pin(async { Err(nobody()) })
    }

    fn listen(
        &self,
        _: wire::link::Network,
        _: String,
    ) -> LinkFuture<'_, Result<Listener, LinkError>> {
        Box::pin(async { Err(nobody()) })
    }
}

fn nobody() -> LinkError {
    LinkError {
        kind: LinkErrorKind::NotFound,
        message: "there is no machine behind this client".to_owned(),
    }
}

/// Nothing is served in containers.
struct NoApi;

impl ApiServer for NoApi {
    fn serve(&self, _: tokio::net::TcpListener, _: Ctx) -> Serving {
        Serving::new(tokio::spawn(async {}).abort_handle())
    }

    fn remote(&self) -> Remote {
        let (_, wanted) = tokio::sync::oneshot::channel();
        let (agent, _) = tokio::sync::oneshot::channel();
        Remote {
            link: Arc::new(NoLink),
            wanted,
            agent,
        }
    }
}

/// An engine of its own, without network. Gone with its files when dropped.
pub(crate) struct Kit {
    pub(crate) engine: Arc<Engine>,
    dir: PathBuf,
}

impl Kit {
    /// Opens an engine in a new directory.
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        // Overlay mounts need a file system that is no overlay; the RAM disk is none, and fast.
        let shm = PathBuf::from("/dev/shm");
        let base = if shm.is_dir() {
            shm
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("bodkin-engine-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).expect("a new directory");
        let config = Config {
            network: config::Network {
                disabled: true,
                ..config.network
            },
            ..config
        };
        Self {
            engine: Engine::open(config, &dir, Arc::new(NoApi)).expect("an engine"),
            dir,
        }
    }

    /// A new session for a client of version `view`.
    pub(crate) fn session(&self, view: View) -> Asker {
        let info = ClientInfo {
            version: Some(view.to_string()),
            workdir: "/".to_owned(),
            ..ClientInfo::default()
        };
        let solver = Solver::new(self.engine.schema.clone());
        // Nobody watches.
        let (progress, _) = Progress::new();
        let session = Session::new(uuid::Uuid::new_v4().to_string(), solver, progress);
        let client = Client::new(info, Arc::new(NoLink));
        Asker(Ctx {
            engine: self.engine.clone(),
            session: Arc::new(session),
            client: Arc::new(client),
            span: 0,
        })
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        // What cannot be removed stays for a look.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A session to ask.
pub(crate) struct Asker(pub(crate) Ctx);

impl Asker {
    /// A program in a container of this session.
    pub(crate) fn nested(&self) -> Self {
        let info = self.0.client.info.clone();
        let client = Client::in_container(info, Arc::new(NoLink), &self.0.client);
        Self(Ctx {
            client: Arc::new(client),
            ..self.0.clone()
        })
    }

    /// The whole answer.
    pub(crate) async fn answer(&self, query: &str) -> Json {
        let request = Request {
            query: query.to_owned(),
            ..Request::default()
        };
        let response = self
            .0
            .session
            .solver
            .run(&self.0, self.0.client.view, request)
            .await;
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// The data of an answer without errors.
    pub(crate) async fn data(&self, query: &str) -> Json {
        let mut answer = self.answer(query).await;
        assert!(answer.get("errors").is_none(), "{query}: {answer}");
        answer["data"].take()
    }

    /// What is at the end of the only way into the data.
    pub(crate) async fn leaf(&self, query: &str) -> Json {
        let mut at = self.data(query).await;
        while let Json::Object(fields) = &mut at
            && fields.len() == 1
            && let Some(inner) = fields.values_mut().next()
        {
            at = inner.take();
        }
        at
    }

    /// A text at the end of the only way.
    pub(crate) async fn text(&self, query: &str) -> String {
        let leaf = self.leaf(query).await;
        leaf.as_str()
            .unwrap_or_else(|| panic!("{query}: {leaf}"))
            .to_owned()
    }

    /// The first error's message.
    pub(crate) async fn error(&self, query: &str) -> String {
        let answer = self.answer(query).await;
        answer["errors"][0]["message"]
            .as_str()
            .unwrap_or_else(|| panic!("{query}: {answer}"))
            .to_owned()
    }
}
