//! The way to the engine: its socket, an engine elsewhere, or one that is started here.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};
use wire::paths::{self, Address, Place};

use crate::{
    broker::Broker,
    resolve::{self, Names},
};

/// How long a started engine may take until it answers.
const START: Duration = Duration::from_secs(20);
/// How long an engine that holds the store gets to answer before another one is started: it may be about to end.
const AGAIN: Duration = Duration::from_millis(250);
/// Between two attempts to connect to an engine that is starting.
const RETRY: Duration = Duration::from_millis(1);
/// How long an engine elsewhere may take to accept.
const CONNECT: Duration = Duration::from_secs(15);
/// A log beyond this is set aside when an engine is started.
const LOG_LIMIT: u64 = 16 << 20;
/// Bytes of the log that a failure shows.
const LOG_BYTES: usize = 4096;
/// Lines of the log that a failure shows.
const LOG_TAIL: usize = 8;

/// Variables of the environment that a started engine inherits, and prefixes of such. Others stay here: the engine outlives
/// this command and serves all of the user's programs, and an environment often holds secrets.
const INHERITED: &[&str] = &[
    "HOME",
    "LANG",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "ALL_PROXY",
    "FTP_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];
const INHERITED_PREFIXES: &[&str] = &[
    "BODKIN_",
    "_DAGGER_ENGINE_SYSTEMENV_",
    "_EXPERIMENTAL_DAGGER_GPU",
];

/// Where connections go.
#[derive(Debug, Clone)]
pub enum Door {
    /// To an engine that listens.
    At(Address),
    /// To the engine that started this process in a container.
    Broker(Arc<Broker>),
}

/// Why there is no engine to talk to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address in the environment is none.
    #[error("cannot use `{}`", paths::RUNNER_HOST)]
    RunnerHost(#[source] paths::AddressError),
    /// The engine elsewhere does not answer.
    #[error("cannot reach the engine at `{address}`")]
    Reach {
        /// Where.
        address: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whoever serves the socket could read and forge everything.
    #[error("cannot trust the engine at `{address}`: it runs as user {uid}, neither you nor root")]
    Foreign {
        /// Where.
        address: Address,
        /// Whose it is.
        uid: u32,
    },
    /// The state directory cannot be used.
    #[error("cannot prepare `{path}` for the engine")]
    State {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The engine could not even be started.
    #[error("cannot start the engine")]
    Spawn(#[source] io::Error),
    /// The engine ended at once.
    #[error(
        "the engine ended with {status} before it answered at `{address}`\nhint: its log is `{log}`{tail}"
    )]
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// Where it should have answered.
        address: Address,
        /// Its log.
        log: String,
        /// The end of the log.
        tail: String,
    },
    /// The engine does not answer.
    #[error("the engine did not answer at `{address}` within {} s\nhint: its log is `{log}`{tail}", START.as_secs())]
    Silent {
        /// Where it should have answered.
        address: Address,
        /// Its log.
        log: String,
        /// The end of the log.
        tail: String,
        /// The last refusal.
        #[source]
        source: io::Error,
    },
}

/// A connection to an engine.
#[derive(Debug)]
pub enum Conn {
    /// On this machine.
    Unix(UnixStream),
    /// Elsewhere, or a session's port.
    Tcp(TcpStream),
}

impl Door {
    /// One connection.
    ///
    /// # Errors
    /// Nobody there.
    pub async fn connect(&self) -> io::Result<Conn> {
        match self {
            Self::At(address) => Conn::to(address).await,
            Self::Broker(broker) => Ok(Conn::Unix(broker.connect().await?)),
        }
    }

    /// The engine to use: the one named in the environment, else this user's, started when it does not run.
    ///
    /// # Errors
    /// No engine, and what was tried.
    pub async fn find(place: &Place<'_>) -> Result<(Self, Conn), ConnectError> {
        if let Some(host) = (place.env)(paths::RUNNER_HOST).filter(|h| !h.is_empty()) {
            let address: Address = host.parse().map_err(ConnectError::RunnerHost)?;
            return reach(address).await;
        }
        let address = Address::Unix(place.socket());
        match Conn::to(&address).await {
            Ok(conn) => {
                check_owner(&address, &conn)?;
                Ok((Self::At(address), conn))
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                let conn = start(&address, place).await?;
                Ok((Self::At(address), conn))
            }
            Err(source) => Err(ConnectError::Reach { address, source }),
        }
    }

    /// A running engine only.
    ///
    /// # Errors
    /// None runs.
    pub async fn find_running(place: &Place<'_>) -> Result<(Self, Conn), ConnectError> {
        let address = match (place.env)(paths::RUNNER_HOST).filter(|h| !h.is_empty()) {
            Some(host) => host.parse().map_err(ConnectError::RunnerHost)?,
            None => Address::Unix(place.socket()),
        };
        reach(address).await
    }
}

async fn reach(address: Address) -> Result<(Door, Conn), ConnectError> {
    match Conn::to(&address).await {
        Ok(conn) => Ok((Door::At(address), conn)),
        Err(source) => Err(ConnectError::Reach { address, source }),
    }
}

/// Refuses an engine of another user: the default socket may be in a directory where others can make one.
fn check_owner(address: &Address, conn: &Conn) -> Result<(), ConnectError> {
    let Conn::Unix(stream) = conn else {
        return Ok(());
    };
    let uid = stream
        .peer_cred()
        .map_err(|source| ConnectError::Reach {
            address: address.clone(),
            source,
        })?
        .uid();
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(ConnectError::Foreign {
        address: address.clone(),
        uid,
    })
}

/// Starts this user's engine and waits until it accepts. Many may do so at once: the engines settle by their lock who stays,
/// and everyone connects to that one.
async fn start(address: &Address, place: &Place<'_>) -> Result<Conn, ConnectError> {
    let log = place.log_file();
    let (mut child, mut begin) = spawn(place, &log)?;
    let end = Instant::now() + START;
    let mut another_runs: Option<Instant> = None;
    loop {
        let refusal = match Conn::to(address).await {
            Ok(conn) => return Ok(conn),
            Err(e) => e,
        };
        match another_runs {
            None => {
                if let Ok(Some(status)) = child.try_wait() {
                    if status.code() != Some(paths::EXIT_ANOTHER_RUNS.into()) {
                        let (address, tail) = (address.clone(), tail(&log, begin));
                        return Err(ConnectError::Ended {
                            status,
                            address,
                            log: log.display().to_string(),
                            tail,
                        });
                    }
                    another_runs = Some(Instant::now());
                }
            }
            Some(since) if since.elapsed() > AGAIN => {
                (child, begin) = spawn(place, &log)?;
                another_runs = None;
            }
            Some(_) => {}
        }
        if Instant::now() > end {
            let (address, tail) = (address.clone(), tail(&log, begin));
            return Err(ConnectError::Silent {
                address,
                log: log.display().to_string(),
                tail,
                source: refusal,
            });
        }
        sleep(RETRY).await;
    }
}

/// Starts `engine` from this very executable, apart from this terminal and its environment. Also tells how long its log is
/// already: what stands there is about earlier engines.
fn spawn(place: &Place<'_>, log: &Path) -> Result<(Child, u64), ConnectError> {
    let state = place.state_dir();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ConnectError::State { path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(failed(&state))?;
    if log.metadata().is_ok_and(|m| m.len() > LOG_LIMIT) {
        match std::fs::rename(log, log.with_extension("log.1")) {
            // Another command was quicker.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(failed(log))?,
        }
    }
    let out = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(failed(log))?;
    let err = out.try_clone().map_err(failed(log))?;
    let begin = out.metadata().map_err(failed(log))?.len();
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["engine", "--detached"])
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(inherited)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    let child = command.spawn().map_err(ConnectError::Spawn)?;
    Ok((child, begin))
}

fn inherited(name: &str) -> bool {
    INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// The last lines of what a log says from `begin` on, each on a line of its own.
fn tail(log: &Path, begin: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    // Behind its end it has been set aside, and what is there is new.
    let begin = usize::try_from(begin).unwrap_or(0);
    let new = text.get(begin..).unwrap_or(&text);
    let text = String::from_utf8_lossy(
        new.get(new.len().saturating_sub(LOG_BYTES)..)
            .unwrap_or_default(),
    )
    .into_owned();
    let lines: Vec<_> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = lines
        .get(lines.len().saturating_sub(LOG_TAIL)..)
        .unwrap_or_default();
    last.iter().map(|l| format!("\n  | {l}")).collect()
}

impl Conn {
    /// A connection to an engine that listens.
    ///
    /// # Errors
    /// Nobody there.
    pub async fn to(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            Address::Tcp(host) => {
                let stream = timeout(CONNECT, resolve::connect_tcp(host, Names::Machine))
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                stream.set_nodelay(true)?;
                // An engine that vanished without a word is noticed.
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(30))?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    /// The same connection for blocking use.
    ///
    /// # Errors
    /// The descriptor's mode cannot be changed.
    pub fn into_blocking(self) -> io::Result<std::fs::File> {
        let fd = match self {
            Self::Unix(s) => {
                let s = s.into_std()?;
                s.set_nonblocking(false)?;
                std::os::fd::OwnedFd::from(s)
            }
            Self::Tcp(s) => {
                let s = s.into_std()?;
                s.set_nonblocking(false)?;
                std::os::fd::OwnedFd::from(s)
            }
        };
        Ok(fd.into())
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_log_of_its_own_attempt_only() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "ready\nasked to stop\ncannot start\n").unwrap();
        let begin = "ready\nasked to stop\n".len() as u64;
        assert_eq!(tail(&log, begin), "\n  | cannot start");
        assert_eq!(
            tail(&log, 1 << 20),
            "\n  | ready\n  | asked to stop\n  | cannot start"
        );
        assert_eq!(tail(&dir.path().join("none"), 0), "");
    }

    #[test]
    fn secrets_of_the_environment_stay_out_of_the_engine() {
        assert!(inherited("PATH") && inherited("BODKIN_STATE_DIR") && inherited("https_proxy"));
        assert!(
            !inherited("AWS_SECRET_ACCESS_KEY")
                && !inherited("DAGGER_SESSION_TOKEN")
                && !inherited("GITHUB_TOKEN")
        );
    }
}
