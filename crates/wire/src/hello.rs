//! How a connection begins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The first line of every connection: what the connection is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Preamble {
    /// Opens a session. The engine answers with a [`Welcome`] line; [`ToClient`](crate::ToClient) and
    /// [`ToEngine`](crate::ToEngine) lines follow.
    Control {
        /// [`PROTOCOL`](crate::PROTOCOL).
        version: u32,
        /// A wished session name; `None` lets the engine choose.
        #[serde(default)]
        session: Option<String>,
        /// Who asks.
        client: Box<ClientInfo>,
    },
    /// HTTP/1.1 for a session's API from here on.
    Http {
        /// Which session.
        session: String,
    },
    /// The client's answer to [`ToClient::Open`](crate::ToClient::Open).
    Stream {
        /// Which session.
        session: String,
        /// The number given in `open`.
        stream: u64,
    },
    /// A connection that a listener (see [`LinkRequest::Listen`](crate::LinkRequest::Listen)) accepted; raw bytes from here on.
    Accepted {
        /// Which session.
        session: String,
        /// The listener's stream.
        stream: u64,
        /// Who connected, `host:port`.
        peer: String,
    },
    /// A question to the engine itself; one [`Status`](crate::Status) line answers it.
    Admin {
        /// What is asked.
        request: AdminRequest,
    },
}

/// The answer to a control preamble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Welcome {
    /// The session is open.
    Ok {
        /// Its name, for the other connections.
        session: String,
        /// The engine's version, such as `v0.14.0`.
        engine_version: String,
    },
    /// It is not, and why.
    Error(String),
}

/// What a client says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    /// The `--version` flag as it was given; the engine normalises it.
    pub version: Option<String>,
    /// The `--label` flags: name to value.
    pub labels: BTreeMap<String, String>,
    /// Where relative paths of the client begin: absolute.
    pub workdir: String,
    /// What HTTP requests of this session authenticate with.
    pub token: String,
    /// The client machine's name.
    pub hostname: String,
    /// The same for every run of this user on this machine.
    pub stable_id: String,
    /// A terminal can be opened.
    pub interactive: bool,
    /// When a step fails, a terminal with this command is to be opened in what it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interactive_command: Option<String>,
    /// [`ToClient::Progress`](crate::ToClient::Progress) is wanted.
    pub progress: bool,
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The client's home, where `~` leads.
    pub home: Option<String>,
    /// Settings from the client's environment that an engine may honour: only names listed in [`FORWARDED_ENV`].
    pub env: BTreeMap<String, String>,
}

/// Environment variables of the client that travel in [`ClientInfo::env`].
pub const FORWARDED_ENV: &[&str] = &[
    "BAGGAGE",
    "SOURCE_DATE_EPOCH",
    "TRACEPARENT",
    "TRACESTATE",
    "SSH_AUTH_SOCK",
    "_EXPERIMENTAL_DAGGER_CACHE_CONFIG",
    "_EXPERIMENTAL_DAGGER_CACHE_EXPORT_CONFIG",
    "_EXPERIMENTAL_DAGGER_CACHE_IMPORT_CONFIG",
];

/// What can be asked of the engine itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminRequest {
    /// How it is: answered by [`AdminStatus`].
    Status,
    /// End every session and exit. Answered by [`AdminStatus`] of the moment; the connection closes when all is gone.
    Stop,
}

/// How the engine is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminStatus {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Open sessions.
    pub sessions: usize,
    /// Seconds since it started.
    pub uptime_secs: u64,
    /// Its state directory.
    pub state_dir: String,
    /// Where it listens: `unix:///…`, `tcp://…`.
    pub listening: Vec<String>,
}
