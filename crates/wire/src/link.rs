//! What the engine asks of a client's machine.
//!
//! The engine decides which paths are allowed; the client does as told with its user's rights.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// A request. The answer is a stream connection that begins with a [`Status`] line; what follows it is said at each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum LinkRequest {
    /// One path's facts: `Status<PathStat>`.
    Stat {
        /// Absolute.
        path: RawPath,
        /// Look at what a final symbolic link leads to.
        #[serde(default)]
        follow: bool,
    },
    /// A tree's entries: `Status<ListAnswer>`; unless it is [`ListAnswer::Same`], frames of kind `Entries` follow, then `Done`
    /// (see [`listing`](crate::listing)) or `Fail`.
    List {
        /// Absolute; a final symbolic link is followed. Must be a directory.
        path: RawPath,
        /// Patterns of what to take; none takes all.
        #[serde(default)]
        include: Vec<String>,
        /// Patterns of what to leave.
        #[serde(default)]
        exclude: Vec<String>,
        /// Leave out, too, what `.gitignore` files in it name.
        #[serde(default)]
        git_ignore: bool,
        /// The digest of the listing that the engine already has, in hex.
        #[serde(default)]
        known: Option<String>,
    },
    /// Contents of regular files: `Status<()>`, then [pieces](crate::piece): for each path, in order, `Begin … End` or `Missing`;
    /// at last `Done` or `Fail`. At most [`MAX_READ_PATHS`] paths.
    Read {
        /// Absolute.
        root: RawPath,
        /// Relative to the root, as listed.
        paths: Vec<RawPath>,
    },
    /// One small file: `Status<FileBytes>`, then exactly that many raw bytes. Longer files are an error of kind `TooLarge`.
    ReadFile {
        /// Absolute.
        path: RawPath,
        /// Most bytes.
        max: u64,
    },
    /// Write a tree. `Status<()>` when the destination is ready; then the engine sends [pieces](crate::piece) (`Dir`, `File … End`,
    /// `Symlink`, `HardLink`; parents before children) and `Done`; a second `Status<Exported>` ends it. After an error the
    /// client discards what still comes, so the engine need not watch for the second status while it writes.
    ExportTree {
        /// Absolute. Made with its parents when missing.
        dest: RawPath,
        /// Remove first what is in the destination.
        #[serde(default)]
        wipe: bool,
        /// Remove these first, relative to the destination; what is not there is fine. Never through a link.
        #[serde(default)]
        remove: Vec<RawPath>,
    },
    /// Write one file: as [`LinkRequest::ExportTree`], with just `Data` and `Hole` pieces, then `Done`.
    ExportFile {
        /// Absolute.
        dest: RawPath,
        /// The file's own name, used when the destination is a directory and that is allowed.
        name: RawPath,
        /// A directory as destination is allowed.
        #[serde(default)]
        allow_parent_dir: bool,
        /// Permission bits of a new file; an overwritten one keeps its own.
        mode: u32,
        /// Its modification time.
        #[serde(default)]
        mtime_ns: Option<i64>,
    },
    /// Load an image archive into the container runtime of the client's machine (docker, podman or nerdctl): as
    /// [`LinkRequest::ExportFile`]. The archive names the image.
    LoadImage {
        /// The image's name, for messages.
        name: String,
    },
    /// Connect from the client's machine: `Status<()>`, then raw bytes both ways with half-close; for `udp` frames of kind
    /// `Data`, one datagram each.
    Dial {
        /// How.
        network: Network,
        /// `host:port`, or an absolute path for `unix`.
        addr: String,
        /// For `tcp`: the socket itself is wanted, if the client can [pass](crate::pass) it; then nothing follows.
        #[serde(default)]
        pass: bool,
    },
    /// Listen on the client's machine: `Status<Listening>`. The stream stays open as long as the listener; the engine ends it by
    /// closing. Every accepted connection arrives as a [`Preamble::Accepted`](crate::Preamble::Accepted); for `udp` every peer
    /// does, its datagrams as [frames](crate::datagrams).
    Listen {
        /// `host:port`; port 0 lets the kernel choose.
        addr: String,
        /// How; `unix` is refused.
        network: Network,
        /// The socket itself is wanted, if the client can [pass](crate::pass) it; then the client accepts nothing.
        #[serde(default)]
        pass: bool,
    },
    /// The value of a variable of the client's environment: as [`LinkRequest::ReadFile`].
    SecretVariable {
        /// Its name.
        name: String,
    },
    /// The content of a file that is a secret: as [`LinkRequest::ReadFile`].
    SecretFile {
        /// Absolute, or below the user's home when it begins with `~/`.
        path: RawPath,
    },
    /// What a command of the client's machine writes to its output, without a last line end: as [`LinkRequest::ReadFile`].
    SecretCommand {
        /// For the shell.
        command: String,
        /// Where it runs.
        workdir: RawPath,
    },
    /// Lend the user's terminal: `Status<TerminalFacts>`, then frames: `Data` both ways, and `Resize` from the client. `Done`, or
    /// the end of the stream, gives it back.
    Terminal {},
    /// Credentials for a registry from the user's docker configuration: `Status<Option<Credentials>>`.
    DockerAuth {
        /// As in an image reference: `docker.io`, `localhost:5000`.
        host: String,
    },
    /// Credentials for a Git repository, from the helpers that the user's `git` is configured with:
    /// `Status<Option<Credentials>>`. The user is not asked.
    GitCredential {
        /// `https` or `http`.
        protocol: String,
        /// With the port when it is not the usual one.
        host: String,
        /// Of the repository, without a slash at its beginning.
        path: String,
    },
    /// From a newer engine; answered with an error of kind `Invalid`.
    #[serde(other)]
    Unknown,
}

/// Most paths in one [`LinkRequest::Read`]; the line's length (see [`line::MAX_LINE`](crate::line::MAX_LINE)) bounds it too.
pub const MAX_READ_PATHS: usize = 10_000;

/// How to connect or listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// A unix stream socket.
    Unix,
}

/// The first line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status<T> {
    /// It works; this is the answer, or its beginning.
    Ok(T),
    /// It does not.
    Error(LinkError),
}

impl<T> Status<T> {
    /// As a result.
    ///
    /// # Errors
    /// The error in it.
    pub fn into_result(self) -> Result<T, LinkError> {
        match self {
            Self::Ok(v) => Ok(v),
            Self::Error(e) => Err(e),
        }
    }
}

/// Why a request failed, as the other side says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct LinkError {
    /// For decisions.
    pub kind: LinkErrorKind,
    /// For people; names the path or address.
    pub message: String,
}

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkErrorKind {
    /// No such file or directory.
    NotFound,
    /// Not allowed.
    Permission,
    /// The request makes no sense there: a file where a directory was expected, a bad pattern.
    Invalid,
    /// Larger than asked for.
    TooLarge,
    /// Anything else the machine said.
    #[serde(other)]
    Io,
}

impl LinkError {
    /// An error.
    pub fn new(kind: LinkErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What the machine said when `what` was tried, worded as Go programs do: `lstat /x: no such file or directory`.
    pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match error.kind() {
            K::NotFound => LinkErrorKind::NotFound,
            K::PermissionDenied => LinkErrorKind::Permission,
            K::NotADirectory | K::IsADirectory | K::InvalidInput | K::InvalidFilename => {
                LinkErrorKind::Invalid
            }
            _ => LinkErrorKind::Io,
        };
        // `No such file or directory (os error 2)` → `no such file or directory`.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut chars = text.chars();
        let text: String = chars
            .next()
            .map(|c| c.to_ascii_lowercase())
            .into_iter()
            .chain(chars)
            .collect();
        Self::new(kind, format!("{what} {}: {text}", path.display()))
    }
}

/// What something in a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A unix socket.
    Socket,
    /// A device, a pipe, or something unheard of.
    Other,
}

/// A path's facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathStat {
    /// What it is.
    pub kind: PathKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<RawPath>,
    /// The path with every symbolic link followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<RawPath>,
}

/// The answer to [`LinkRequest::List`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListAnswer {
    /// The listing is the one known; nothing follows.
    Same,
    /// The entries follow.
    Entries,
}

/// The answer to [`LinkRequest::ReadFile`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileBytes {
    /// How many bytes follow.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// The last answer to an export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exported {
    /// What was written: the destination.
    pub path: RawPath,
}

/// The answer to [`LinkRequest::Terminal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalFacts {
    /// How many rows it has.
    pub rows: u16,
    /// How many columns it has.
    pub columns: u16,
    /// What kind it is, as `TERM` says.
    pub term: String,
}

/// The answer to [`LinkRequest::Listen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listening {
    /// The bound address, `host:port`.
    pub addr: String,
}

/// A user and a password. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user; `<token>` when the secret is an identity token.
    pub username: String,
    /// The password or token.
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("secret", &"…")
            .finish()
    }
}

/// A path as the kernel has it: any bytes. In JSON a string when it is UTF-8, else a list of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RawPath(pub Vec<u8>);

impl RawPath {
    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// As an owned path.
    pub fn into_path_buf(self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0))
    }
}

impl From<&Path> for RawPath {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<PathBuf> for RawPath {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string().into_vec())
    }
}

impl From<&str> for RawPath {
    fn from(path: &str) -> Self {
        Self(path.as_bytes().to_vec())
    }
}

impl Serialize for RawPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => s.serialize_str(text),
            Err(_) => self.0.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(match Either::deserialize(d)? {
            Either::Text(t) => Self(t.into_bytes()),
            Either::Bytes(b) => Self(b),
        })
    }
}

/// Reads a status line.
///
/// # Errors
/// A broken connection as [`LinkErrorKind::Io`], or the error in the status.
pub async fn read_status<T: DeserializeOwned>(
    from: &mut (impl tokio::io::AsyncBufRead + Unpin),
) -> Result<T, LinkError> {
    let line = crate::line::read_async::<Status<T>>(from, crate::line::MAX_LINE).await;
    let lost = |why: String| LinkError::new(LinkErrorKind::Io, format!("lost the client: {why}"));
    match line {
        Ok(Some(status)) => status.into_result(),
        Ok(None) => Err(lost("it closed the connection".into())),
        Err(e) => Err(lost(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn statuses_are_ok_or_error() {
        assert_eq!(json(&Status::Ok(ListAnswer::Same)), r#"{"ok":"same"}"#);
        assert_eq!(json(&Status::Ok(())), r#"{"ok":null}"#);
        let error = Status::<()>::Error(LinkError::new(LinkErrorKind::NotFound, "x"));
        assert_eq!(
            json(&error),
            r#"{"error":{"kind":"not_found","message":"x"}}"#
        );
        assert_eq!(
            serde_json::from_str::<Status<()>>(&json(&error)).unwrap(),
            error
        );
        assert_eq!(
            serde_json::from_str::<Status<()>>(r#"{"ok":null}"#).unwrap(),
            Status::Ok(())
        );
        let newer = r#"{"error":{"kind":"quota","message":"x"}}"#;
        assert_eq!(
            serde_json::from_str::<Status<()>>(newer)
                .unwrap()
                .into_result()
                .unwrap_err()
                .kind,
            LinkErrorKind::Io
        );
    }

    #[test]
    fn a_request_of_a_newer_engine_is_understood_as_unknown() {
        let r: LinkRequest = serde_json::from_str(r#"{"op":"teleport","to":"x"}"#).unwrap();
        assert_eq!(r, LinkRequest::Unknown);
    }

    #[test]
    fn paths_of_any_bytes_survive() {
        for path in [&b"a/b"[..], b"\xff\xfe", "ä".as_bytes()] {
            let path = RawPath(path.to_vec());
            assert_eq!(serde_json::from_str::<RawPath>(&json(&path)).unwrap(), path);
        }
    }

    #[test]
    fn machine_errors_read_like_go() {
        let e = std::io::Error::from_raw_os_error(2);
        assert_eq!(
            LinkError::io("lstat", Path::new("/x"), &e).message,
            "lstat /x: no such file or directory"
        );
    }
}
