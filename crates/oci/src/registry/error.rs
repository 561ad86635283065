//! What can go wrong between this program and a registry.

use std::{fmt, io, path::PathBuf, time::Duration};

use reqwest::StatusCode;

use super::config::Endpoint;
use crate::{
    blobs::CommitError,
    config::ConfigError,
    digest::{Digest, DigestError},
    manifest::DocumentError,
};

/// Why one registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The HTTP client cannot be made.
    #[error("cannot set up an HTTP client")]
    Setup(#[source] reqwest::Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// A configured file of certificates is unusable.
    #[error("cannot read certificates from `{}`", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// No connection.
    #[error("cannot reach `{host}`: {problem}")]
    Connect {
        /// Who was asked.
        host: String,
        /// What failed.
        problem: String,
        /// It is there, and is not whom it should be.
        untrusted: bool,
    },
    /// A connection, and no answer over it.
    #[error("`{host}` did not answer: {problem}")]
    Send {
        /// Who was asked.
        host: String,
        /// What failed.
        problem: String,
    },
    /// The name of the machine to ask leads nowhere.
    #[error("cannot reach `{host}`: no host `{name}` is found{}", detail(problem))]
    Name {
        /// Who was asked.
        host: String,
        /// The name that was looked up.
        name: String,
        /// What went wrong, when it was not that nobody knows the name.
        problem: String,
    },
    /// The answer broke off.
    #[error("answer of `{host}` broke off")]
    Body {
        /// Who answered.
        host: String,
        /// What failed.
        #[source]
        source: reqwest::Error,
    },
    /// No answer, or no more of it, in time.
    #[error("`{host}` was silent for {waited:?}")]
    Silence {
        /// Who was asked.
        host: String,
        /// How long.
        waited: Duration,
    },
    /// So little comes that it would never end.
    #[error("`{host}` sent only {bytes} bytes in {waited:?}")]
    Slow {
        /// Who was asked.
        host: String,
        /// Bytes in that time.
        bytes: u64,
        /// The time.
        waited: Duration,
    },
    /// An answer that says no.
    #[error("`{host}` answered {status}{}", detail(message))]
    Status {
        /// Who answered.
        host: String,
        /// The status.
        status: StatusCode,
        /// What the registry wrote, shortened.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The image is not there.
    #[error("`{host}` has no such image{}", detail(message))]
    NotFound {
        /// Who answered.
        host: String,
        /// What the registry wrote, shortened.
        message: String,
    },
    /// Proving who asks did not work.
    #[error("not allowed by `{host}`")]
    Auth {
        /// Who was asked.
        host: String,
        /// Why.
        #[source]
        source: AuthError,
    },
    /// A redirect that is not followed.
    #[error("`{host}` redirects to {to}, which is refused")]
    Redirect {
        /// Who answered.
        host: String,
        /// Where to, without the query.
        to: String,
    },
    /// More bytes than announced or allowed.
    #[error("`{host}` sends more than {limit} bytes")]
    TooLarge {
        /// Who answered.
        host: String,
        /// The limit.
        limit: u64,
    },
    /// Another part of the blob than asked for.
    #[error("`{host}` answered with another range than asked for")]
    Range {
        /// Who answered.
        host: String,
    },
    /// Less than announced, also after trying again.
    #[error("`{host}` sent {got} of {size} bytes")]
    Short {
        /// Who answered.
        host: String,
        /// Bytes received.
        got: u64,
        /// Bytes announced.
        size: u64,
    },
    /// Other content than the digest says.
    #[error("`{host}` sent content that does not match {expected}")]
    Digest {
        /// Who answered.
        host: String,
        /// The digest asked for.
        expected: Digest,
    },
    /// A blob arrived as something else, says the registry.
    #[error("`{host}` did not accept {digest}{}", detail(message))]
    Refused {
        /// Who answered.
        host: String,
        /// The blob.
        digest: Digest,
        /// What the registry wrote, shortened.
        message: String,
    },
    /// A digest in an answer that is none.
    #[error("`{host}` names an unusable digest")]
    BadDigest {
        /// Who answered.
        host: String,
        /// What is wrong.
        #[source]
        source: DigestError,
    },
    /// The content was fetched and cannot be kept.
    #[error("cannot keep what was fetched")]
    Store(#[source] io::Error),
}

/// Why a registry does not let this user in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The registry asks for a kind of proof nobody knows.
    #[error("it asks for authentication this client does not know")]
    Challenge,
    /// It sends the client to a place credentials must not go.
    #[error("it sends clients to `{0}` for a token, which is refused")]
    Realm(String),
    /// No credentials, and anonymous is not enough.
    #[error("authentication is required and there are no credentials for it")]
    Missing,
    /// The credentials are not accepted.
    #[error("the credentials for user `{0}` are not accepted")]
    Rejected(String),
    /// The credentials are fine but not for this.
    #[error("access denied{}", detail(.0))]
    Denied(String),
    /// The token server did something else.
    #[error("cannot get a token from `{server}`: {problem}")]
    Token {
        /// The token server.
        server: String,
        /// What happened.
        problem: String,
    },
}

/// What all places that were asked had to say.
#[derive(Debug, Default)]
pub struct Attempts(pub Vec<Attempt>);

/// One place that was asked.
#[derive(Debug)]
pub struct Attempt {
    /// Its name.
    pub endpoint: String,
    /// Whether it is a mirror.
    pub mirror: bool,
    /// Addresses of it that are not its name.
    pub addresses: Vec<String>,
    /// Whether it had said what the tag means before it failed.
    pub said: bool,
    /// Why it did not help.
    pub error: RequestError,
}

/// What can be done about a place whose certificate is not accepted.
const TRUST: &str = "the authority that signs its certificates can be named as `ca` in `registries` of the engine's configuration";
/// What can be done about a place that is not reached.
const ADVICE: &str = "check the network; a mirror can be named in `registries` of the engine's configuration, a proxy in \
                      HTTPS_PROXY";

impl Attempts {
    pub(super) fn add(&mut self, place: &Endpoint, error: RequestError) {
        self.add_after(place, error, false);
    }

    pub(super) fn add_after(&mut self, place: &Endpoint, error: RequestError, said: bool) {
        let host = |origin: &str| origin.split_once("://").map(|(_, host)| host.to_owned());
        let mut addresses: Vec<String> = place.origins.iter().filter_map(|o| host(o)).collect();
        addresses.dedup();
        addresses.retain(|address| *address != place.name);
        self.0.push(Attempt {
            endpoint: place.name.clone(),
            mirror: place.mirror,
            addresses,
            said,
            error,
        });
    }

    /// Whether nobody has said anything about the image: the registry did not answer, and mirrors did not or do not have it.
    pub fn unanswered(&self) -> bool {
        self.0.iter().any(|attempt| !attempt.mirror)
            && self.0.iter().all(|attempt| {
                let lacks =
                    attempt.mirror && matches!(attempt.error, RequestError::NotFound { .. });
                !attempt.said && (lacks || attempt.error.is_outage())
            })
    }

    /// Whether the registry itself said that there is no such image, or none for this user.
    pub fn refused(&self) -> bool {
        self.0.iter().any(|attempt| {
            let denied = |source: &AuthError| {
                matches!(
                    source,
                    AuthError::Missing | AuthError::Rejected(_) | AuthError::Denied(_)
                )
            };
            !attempt.mirror
                && match &attempt.error {
                    RequestError::NotFound { .. } => true,
                    RequestError::Auth { source, .. } => denied(source),
                    _ => false,
                }
        })
    }

    /// Whether everybody who could be asked said that there is no such image.
    pub fn not_found(&self) -> bool {
        !self.0.is_empty()
            && self
                .0
                .iter()
                .all(|attempt| matches!(attempt.error, RequestError::NotFound { .. }))
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told())?;
        match self.0.last() {
            Some(Attempt {
                error:
                    RequestError::Connect {
                        untrusted: true, ..
                    },
                ..
            }) => write!(f, "; {TRUST}"),
            Some(last) if last.error.unreachable() => write!(f, "; {ADVICE}"),
            _ => Ok(()),
        }
    }
}

impl Attempts {
    /// What was tried, without what can be done about it.
    pub(super) fn told(&self) -> String {
        let place = |attempt: &Attempt| {
            if let (true, RequestError::NotFound { host, message }) =
                (attempt.mirror, &attempt.error)
            {
                return format!("mirror `{host}` does not have it{}", detail(message));
            }
            let role = if attempt.mirror { "mirror" } else { "registry" };
            let at = match attempt.addresses.as_slice() {
                [] => String::new(),
                addresses => format!(" at {}", addresses.join(" or ")),
            };
            let mut text = format!("{role} `{}`{at}: {}", attempt.endpoint, attempt.error);
            let mut cause = std::error::Error::source(&attempt.error);
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            text
        };
        self.0.iter().map(place).collect::<Vec<_>>().join("; ")
    }
}

impl std::error::Error for Attempts {}

/// Why a document came but is of no use, or nothing came at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// Nobody gave it.
    #[error(transparent)]
    Attempts(Attempts),
    /// A manifest or index is wrong.
    #[error("manifest {digest} is unusable")]
    Document {
        /// Which.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: DocumentError,
    },
    /// The config is wrong.
    #[error("config {digest} is unusable")]
    Config {
        /// Which.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
}

impl RequestError {
    /// Whether another try may help.
    pub(super) fn transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Send { .. }
            | Self::Name { .. }
            | Self::Body { .. }
            | Self::Silence { .. }
            | Self::Slow { .. }
            | Self::Short { .. } => true,
            Self::Status { status, .. } => {
                *status == StatusCode::TOO_MANY_REQUESTS
                    || (status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED)
            }
            _ => false,
        }
    }

    /// Whether the trouble is this machine's: another registry would not help.
    pub(super) fn local(&self) -> bool {
        matches!(self, Self::Store(_))
    }

    /// Whether the other side could not even be talked to.
    pub(super) fn unreachable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Name { .. })
    }

    /// Whether this is for want of an answer: no connection, no word in time, or that the other side is out of order.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Connect { untrusted, .. } => !untrusted,
            Self::Status { status, .. } => status.is_server_error() && self.transient(),
            Self::Send { .. }
            | Self::Name { .. }
            | Self::Body { .. }
            | Self::Silence { .. }
            | Self::Slow { .. }
            | Self::Short { .. } => true,
            _ => false,
        }
    }

    /// A request to `url`, shown as `host`, that got no answer.
    pub(super) fn unanswered(host: String, url: &reqwest::Url, error: reqwest::Error) -> Self {
        let connect = error.is_connect();
        let error = error.without_url();
        let name = url.host_str().unwrap_or_default().to_owned();
        let mut causes = Vec::new();
        let mut untrusted = false;
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            untrusted |= of_tls(cause);
            causes.push(cause.to_string());
            next = cause.source();
        }
        match name_problem(&causes) {
            Some(problem) => Self::Name {
                host,
                name,
                problem,
            },
            None => {
                let last = causes.last().cloned().unwrap_or_else(|| error.to_string());
                let problem = line(&last);
                if connect {
                    Self::Connect {
                        host,
                        problem,
                        untrusted,
                    }
                } else {
                    Self::Send { host, problem }
                }
            }
        }
    }

    pub(super) fn commit(host: &str, error: CommitError) -> Self {
        match error {
            CommitError::Digest { expected } => Self::Digest {
                host: host.to_owned(),
                expected,
            },
            CommitError::Io { source, .. } => Self::Store(source),
        }
    }
}

/// What went wrong with a look-up of a name, of the causes of a failed request from the outermost on: empty when nobody knows
/// the name; `None` when the failure was another.
fn name_problem(causes: &[String]) -> Option<String> {
    let at = causes.iter().position(|c| c == "dns error")?;
    let last = causes.get(at + 1..)?.last().map_or("", String::as_str);
    if last.contains("no record") || last.contains("NXDomain") {
        return Some(String::new());
    }
    Some(line(last))
}

/// Whether an error is of TLS, however often it is wrapped.
fn of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut at = error;
    loop {
        let inner = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match inner {
            Some(inner) => at = inner,
            None => return at.is::<rustls::Error>(),
        }
    }
}

fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn detail(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(" ({message})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_that_fail_are_told_without_the_resolvers_insides() {
        let causes = |list: &[&str]| list.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let nobody =
            "no records found for Query { name: Name(\"a.\"), query_type: AAAA, query_class: IN }";
        let chain = [
            "client error (Connect)",
            "dns error",
            "error resolving DNS",
            nobody,
        ];
        assert_eq!(name_problem(&causes(&chain)).as_deref(), Some(""));
        let slow = ["client error (Connect)", "dns error", "request timed out"];
        assert_eq!(
            name_problem(&causes(&slow)).as_deref(),
            Some("request timed out")
        );
        assert_eq!(
            name_problem(&causes(&["client error (Connect)", "tcp connect error"])),
            None
        );
        let error = RequestError::Name {
            host: "docker.io".into(),
            name: "registry-1.docker.io".into(),
            problem: String::new(),
        };
        assert_eq!(
            error.to_string(),
            "cannot reach `docker.io`: no host `registry-1.docker.io` is found"
        );
    }
}
