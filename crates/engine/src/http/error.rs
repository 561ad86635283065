//! Why a file could not be fetched.

use std::time::Duration;

use graph::error::{Class, Error};

/// Why a file could not be fetched. Addresses are shown without credentials and queries.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No address at all.
    #[error("the address `{url}` is no URL; write it as `https://host/path`")]
    NoUrl {
        /// What it was, masked.
        url: String,
        /// Why.
        #[source]
        source: url::ParseError,
    },
    /// Something else than HTTP.
    #[error("unsupported protocol scheme `{scheme}`: only `http` and `https` are fetched")]
    Scheme {
        /// What it was.
        scheme: String,
    },
    /// A name that is none.
    #[error("`{name}` cannot be the name of a file")]
    Name {
        /// What it was.
        name: String,
    },
    /// A checksum that is none.
    #[error("`{text}` is no checksum; write it as `sha256:` and 64 hexadecimal digits")]
    BadChecksum {
        /// What it was.
        text: String,
    },
    /// A secret that cannot be sent.
    #[error("the secret for the `Authorization` header has characters that no header may have")]
    Header,
    /// The service cannot be talked to.
    #[error("the service `{hostname}` has no address")]
    NoAddress {
        /// Which.
        hostname: String,
    },
    /// TLS cannot be set up.
    #[error("cannot prepare the connection")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody is there.
    #[error("cannot fetch {url}: {why}")]
    Connect {
        /// From where.
        url: String,
        /// What the machine said.
        why: String,
    },
    /// The answer is no file.
    #[error("cannot fetch {url}: invalid response status {status}{hint}")]
    Status {
        /// From where.
        url: String,
        /// What it said.
        status: reqwest::StatusCode,
        /// What to do.
        hint: &'static str,
    },
    /// A redirect that does not say where.
    #[error("cannot fetch {url}: the server answered {status} and does not say where to")]
    NoRedirect {
        /// From where.
        url: String,
        /// What it said.
        status: reqwest::StatusCode,
    },
    /// A redirect to nowhere.
    #[error("cannot fetch {url}: it is redirected to what is no URL")]
    BadRedirect {
        /// From where.
        url: String,
        /// Why.
        #[source]
        source: url::ParseError,
    },
    /// A redirect from the network into the engine's machine.
    #[error(
        "cannot fetch {url}: it is redirected to `{to}`, which only the engine's machine can reach; if that is meant, ask for \
         that address itself"
    )]
    Inward {
        /// From where.
        url: String,
        /// Where to.
        to: String,
    },
    /// A part of the file where the whole was asked for.
    #[error(
        "cannot fetch {url}: the server sent a part of the file (206 Partial Content), and the whole was asked for"
    )]
    Partial {
        /// From where.
        url: String,
    },
    /// A redirect to something else than HTTP.
    #[error(
        "cannot fetch {url}: it is redirected to the unsupported protocol scheme `{scheme}`: only `http` and `https` are fetched"
    )]
    RedirectScheme {
        /// From where.
        url: String,
        /// What it was.
        scheme: String,
    },
    /// A redirect without an end.
    #[error("cannot fetch {url}: stopped after {limit} redirects")]
    Redirects {
        /// From where.
        url: String,
        /// How many are followed.
        limit: usize,
    },
    /// Nothing came for too long.
    #[error("cannot fetch {url}: the server has sent nothing for {} s", .waited.as_secs_f32())]
    Silent {
        /// From where.
        url: String,
        /// How long.
        waited: Duration,
    },
    /// Too little came for too long.
    #[error("cannot fetch {url}: the server sends too slowly ({bytes} bytes in {} s)", .waited.as_secs())]
    Slow {
        /// From where.
        url: String,
        /// How much.
        bytes: u64,
        /// In which time.
        waited: Duration,
    },
    /// The connection broke.
    #[error("cannot fetch {url}: the connection broke after {bytes} bytes: {why}")]
    Broken {
        /// From where.
        url: String,
        /// How much had come.
        bytes: u64,
        /// What the machine said.
        why: String,
    },
    /// More than can be meant.
    #[error("cannot fetch {url}: it is larger than {limit} bytes")]
    TooLarge {
        /// From where.
        url: String,
        /// Most bytes.
        limit: u64,
    },
    /// Not what was asked for.
    #[error("{url} has the digest {found}, not {wanted}: it is not the file that was asked for")]
    Checksum {
        /// From where.
        url: String,
        /// What came.
        found: String,
        /// What should have come.
        wanted: String,
    },
    /// It cannot be stored.
    #[error("cannot store {url}")]
    Disk {
        /// From where.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl FetchError {
    /// Whether the same question may soon be answered.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Broken { .. } => true,
            _ => false,
        }
    }
}

impl From<FetchError> for Error {
    fn from(e: FetchError) -> Self {
        let class = match &e {
            FetchError::Setup(_)
            | FetchError::Connect { .. }
            | FetchError::Silent { .. }
            | FetchError::Slow { .. }
            | FetchError::Broken { .. }
            | FetchError::Disk { .. } => Class::Environment,
            FetchError::Status { status, .. } if status.is_server_error() => Class::Environment,
            _ => Class::User,
        };
        Self::from_chain(class, &e)
    }
}

/// What can be done about a status.
pub(super) fn hint(status: reqwest::StatusCode) -> &'static str {
    match status.as_u16() {
        401 => ": it wants credentials, which `authHeader` can give",
        403 => ": the server refuses; credentials can be given by `authHeader`",
        407 => ": the proxy wants credentials, which can stand in HTTPS_PROXY",
        404 | 410 => ": there is no such file; check the address",
        429 => ": too many requests; try again later",
        500..=599 => ": the server has a problem; try again later",
        _ => "",
    }
}

/// The last cause in a chain, worded as programs in Go do: `connection refused`.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    let text = last.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}
