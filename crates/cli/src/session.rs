//! A session with the engine: the control connection and what happens on it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::{
    io::{BufReader, ReadHalf, WriteHalf},
    sync::watch,
    time::timeout,
};
use wire::{
    API_VERSION, ClientInfo, PROTOCOL, Preamble, ProgressEvent, ToClient, ToEngine, Welcome,
    hello::FORWARDED_ENV, line, line::LineError,
};

use crate::{
    connect::{Conn, Door},
    link::{Files, Server},
};

/// How long an engine may take to answer a new session.
const WELCOME: Duration = Duration::from_secs(60);
/// How long the engine may take to end a session.
const GOODBYE: Duration = Duration::from_secs(10);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The engine did not answer as expected.
    #[error("cannot open a session with the engine")]
    Line(#[source] LineError),
    /// The engine took too long.
    #[error("the engine did not open a session within {} s", WELCOME.as_secs())]
    Silent,
    /// The engine does not want to.
    #[error("{0}")]
    Refused(String),
}

impl OpenError {
    /// Did the engine end between taking the connection and answering? Another can be had then.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Line(LineError::Closed | LineError::Io(_)))
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It goes on.
    No,
    /// In order.
    Bye,
    /// The engine is gone.
    Lost,
}

/// Shows progress; called for every event, must not block.
pub type Show = Box<dyn FnMut(&ProgressEvent) + Send>;

/// An open session.
pub struct Session {
    /// Where further connections go.
    pub door: Door,
    /// Its name.
    pub id: String,
    /// The engine's version.
    pub engine_version: String,
    to_engine: WriteHalf<Conn>,
    over: watch::Receiver<Over>,
}

impl Session {
    /// Opens a session on a fresh connection.
    ///
    /// # Errors
    /// The engine is not what it should be, or refuses.
    pub async fn open(
        door: Door,
        conn: Conn,
        client: ClientInfo,
        show: Show,
    ) -> Result<Self, OpenError> {
        Self::open_with(door, conn, client, show, Files::Allowed).await
    }

    /// Opens a session on a fresh connection; the engine may or may not use this machine's files.
    ///
    /// # Errors
    /// The engine is not what it should be, or refuses.
    pub async fn open_with(
        door: Door,
        conn: Conn,
        client: ClientInfo,
        show: Show,
        files: Files,
    ) -> Result<Self, OpenError> {
        let (from_engine, mut to_engine) = tokio::io::split(conn);
        let mut from_engine = BufReader::with_capacity(64 << 10, from_engine);
        let preamble = Preamble::Control {
            version: PROTOCOL,
            session: None,
            client: Box::new(client),
        };
        line::write_async(&mut to_engine, &preamble)
            .await
            .map_err(OpenError::Line)?;
        let answer = timeout(
            WELCOME,
            line::read_async(&mut from_engine, line::MAX_PREAMBLE),
        )
        .await;
        let answer = answer
            .map_err(|_| OpenError::Silent)?
            .map_err(OpenError::Line)?;
        let (id, engine_version) = match answer.ok_or(OpenError::Line(LineError::Closed))? {
            Welcome::Ok {
                session,
                engine_version,
            } => (session, engine_version),
            Welcome::Error(why) => return Err(OpenError::Refused(why)),
        };
        let (tell, over) = watch::channel(Over::No);
        let server = Server::new(door.clone(), &id, files);
        tokio::spawn(listen(from_engine, server, show, tell));
        Ok(Self {
            door,
            id,
            engine_version,
            to_engine,
            over,
        })
    }

    /// Resolves when the session ends without [`Session::close`].
    pub async fn ended(&self) -> Over {
        let mut over = self.over.clone();
        match over.wait_for(|o| *o != Over::No).await {
            Ok(how) => *how,
            Err(_) => Over::Lost,
        }
    }

    /// Ends the session in order; how it ended. An engine that takes too long is left to itself.
    pub async fn close(mut self) -> Over {
        // A connection that cannot be written to is one whose end is about to be noticed.
        let _ = line::write_async(&mut self.to_engine, &ToEngine::Close).await;
        timeout(GOODBYE, self.ended()).await.unwrap_or(Over::Lost)
    }
}

/// Does what the engine says until the connection ends.
async fn listen(
    mut from: BufReader<ReadHalf<Conn>>,
    server: Server,
    mut show: Show,
    tell: watch::Sender<Over>,
) {
    let how = loop {
        match line::read_async(&mut from, line::MAX_LINE).await {
            Ok(Some(ToClient::Open { stream, request })) => {
                tokio::spawn(server.clone().answer(stream, request));
            }
            Ok(Some(ToClient::Progress { event })) => show(&event),
            Ok(Some(ToClient::Bye)) => break Over::Bye,
            // A line of a newer engine that this client does not understand.
            Ok(Some(ToClient::Unknown)) | Err(LineError::Json(_)) => {}
            Ok(None) | Err(_) => break Over::Lost,
        }
    };
    tell.send_replace(how);
}

/// What this client says of itself.
pub fn client_info(
    version: Option<String>,
    labels: BTreeMap<String, String>,
    workdir: &Path,
    token: String,
) -> ClientInfo {
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    ClientInfo {
        version,
        labels,
        workdir: workdir.to_string_lossy().into_owned(),
        token,
        hostname: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        stable_id: stable_id(),
        interactive: false,
        interactive_command: None,
        progress: true,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        home: var("HOME"),
        env: FORWARDED_ENV
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), var(name)?)))
            .collect(),
    }
}

/// The same for every run of this user on this machine; kept where Dagger keeps it. A home that cannot be written has none.
fn stable_id() -> String {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let fresh = || uuid::Uuid::new_v4().to_string();
    let state = var("XDG_STATE_HOME")
        .map(Into::into)
        .or_else(|| Some(Path::new(&var("HOME")?).join(".local/state")));
    let Some(dir) = state.map(|s: std::path::PathBuf| s.join("dagger")) else {
        return fresh();
    };
    let file = dir.join("stable_client_id");
    if let Ok(id) = std::fs::read_to_string(&file)
        && !id.trim().is_empty()
        && id.len() <= 64
    {
        return id.trim().to_owned();
    }
    let id = fresh();
    let _ = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, &id));
    id
}

/// The version this client speaks by itself.
pub const VERSION: &str = API_VERSION;
