//! Runs `git` so that neither this machine's configuration nor a repository's contents decide what happens.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    path::Path,
    process::Stdio,
    time::Duration,
};

use graph::error::{Class, Error};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::Instant,
};

use crate::{progress::Step, scrub::Scrubber, service::Door};

/// Most bytes of an answer: a listing of very many references.
const ANSWER: usize = 256 << 20;
/// Last words of a program that failed.
const WORDS: usize = 8 << 10;
/// A program that says nothing for so long is given up. Transfers tell of their progress.
const SILENCE: Duration = Duration::from_secs(120);
/// Settings of every run.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.askPass", ""),
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.logAllRefUpdates", "false"),
    ("core.compression", "1"),
    ("protocol.allow", "never"),
    ("protocol.https.allow", "always"),
    ("protocol.http.allow", "always"),
    ("protocol.ssh.allow", "always"),
    ("protocol.git.allow", "always"),
    ("credential.helper", ""),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("fetch.unpackLimit", "1"),
    ("fetch.writeCommitGraph", "false"),
    ("transfer.bundleURI", "false"),
    ("gc.auto", "0"),
    ("gc.autoDetach", "false"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
    ("http.lowSpeedLimit", "256"),
    ("http.lowSpeedTime", "60"),
];
/// Variables of the engine that `git` may see.
const PASSED: &[&str] = &[
    "PATH",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// One run of `git`.
pub(super) struct Git {
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    settings: Vec<(String, String)>,
    /// Masked in all it says.
    secrets: Vec<Vec<u8>>,
    door: Option<Door>,
    input: Option<Vec<u8>>,
    silence: Duration,
}

/// How a run ended.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such program.
    Missing,
    /// It could not be run.
    Spawn(std::io::Error),
    /// It said nothing for too long.
    Silent(Duration),
    /// It said too much.
    TooLong,
    /// It failed, with these last words.
    Failed(String),
}

impl Failure {
    /// Did the server want other credentials?
    pub(super) fn is_denied(&self) -> bool {
        let Self::Failed(words) = self else {
            return false;
        };
        [
            "Authentication failed",
            "could not read Username",
            "could not read Password",
            "terminal prompts disabled",
            "The requested URL returned error: 401",
            "The requested URL returned error: 403",
            "HTTP Basic: Access denied",
        ]
        .iter()
        .any(|sign| words.contains(sign))
    }

    /// As an error that begins with what was tried.
    pub(super) fn into_error(self, tried: &str) -> Error {
        let message = match &self {
            Self::Missing => format!(
                "{tried}: git error: the engine's machine has no `git`; install it (Debian and Ubuntu: `apt-get install git \
                 openssh-client`)"
            ),
            Self::Spawn(e) => format!("{tried}: git error: cannot run `git`: {e}"),
            Self::Silent(waited) => format!(
                "{tried}: git error: the server has sent nothing for {} s",
                waited.as_secs_f32()
            ),
            Self::TooLong => {
                format!("{tried}: git error: the answer is longer than {ANSWER} bytes")
            }
            Self::Failed(words) => format!("{tried}: git error: {words}{}", advice(words)),
        };
        Error::new(Class::Environment, message)
    }
}

/// What can be done about it.
fn advice(words: &str) -> &'static str {
    let has = |text: &str| words.contains(text);
    if has("Permission denied (publickey") {
        "\nLoad a key into the SSH agent of the client's machine, or give a socket as `sshAuthSocket`."
    } else if has("Host key verification failed") {
        "\nThe server's key is none of those in `sshKnownHosts`, or it has changed since it was first seen."
    } else if has("could not read Username") || has("Authentication failed") {
        "\nSet up a credential helper for `git` on the client's machine, or give a token as `httpAuthToken`."
    } else if has("cannot run ssh") || has("ssh: not found") {
        "\nInstall an SSH client on the engine's machine (Debian and Ubuntu: `apt-get install openssh-client`)."
    } else {
        ""
    }
}

/// Kills the whole group when dropped: `git` has helpers.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Git {
    /// `git` with these arguments. `home` is an empty directory.
    pub(super) fn new<S: AsRef<OsStr>>(home: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let mut git = Self {
            args: args.into_iter().map(|a| a.as_ref().to_owned()).collect(),
            env: Vec::new(),
            settings: Vec::new(),
            secrets: Vec::new(),
            door: None,
            input: None,
            silence: SILENCE,
        };
        for name in PASSED {
            if let Some(value) = std::env::var_os(name) {
                git.env.push((name.into(), value));
            }
        }
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_PROTOCOL_FROM_USER", "0"),
            ("GIT_ADVICE", "0"),
            ("GIT_SSH_VARIANT", "ssh"),
            ("LC_ALL", "C"),
        ] {
            git.env.push((name.into(), value.into()));
        }
        git.env.push(("HOME".into(), home.into()));
        git.env.push(("XDG_CONFIG_HOME".into(), home.into()));
        git
    }

    /// With a variable.
    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// With a setting; it travels in the environment, not in the arguments.
    pub(super) fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With something that must not be repeated.
    pub(super) fn secret(mut self, value: &[u8]) -> Self {
        self.secrets.push(value.to_vec());
        self
    }

    /// In the network of a service.
    pub(super) fn within(mut self, door: Option<Door>) -> Self {
        self.door = door;
        self
    }

    /// With this on its standard input.
    pub(super) fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(bytes);
        self
    }

    /// Given up after such a silence.
    #[cfg(test)]
    pub(super) fn silence(mut self, limit: Duration) -> Self {
        self.silence = limit;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command
            .env_clear()
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .args(&self.args)
            .current_dir("/")
            .stdin(if self.input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let fixed = SETTINGS
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let all: Vec<(String, String)> = fixed.chain(self.settings.iter().cloned()).collect();
        command.env("GIT_CONFIG_COUNT", all.len().to_string());
        for (n, (key, value)) in all.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{n}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        command
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = self.command();
        let Some(door) = &self.door else {
            return command.spawn();
        };
        let runtime = tokio::runtime::Handle::current();
        door.run(move || {
            let _inside = runtime.enter();
            command.spawn()
        })?
    }

    /// Runs it and gives what it wrote to standard output. Dropping the future ends the program. What it says on standard
    /// error goes to `step`.
    pub(super) async fn run(self, step: Option<&Step>) -> Result<Vec<u8>, Failure> {
        let mut child = self.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Failure::Missing,
            _ => Failure::Spawn(e),
        })?;
        let group = child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id as i32));
        let _group = Group(group);
        let feeding = child
            .stdin
            .take()
            .zip(self.input)
            .map(|(mut stdin, bytes)| {
                tokio::spawn(async move {
                    use tokio::io::AsyncWriteExt;
                    // A program that does not want it fails by itself.
                    let _ = stdin.write_all(&bytes).await;
                })
            });
        let mut stdout = child.stdout.take();
        let mut stderr = child.stderr.take();
        let mut scrubber = Scrubber::new(self.secrets.iter().map(Vec::as_slice));
        let mut answer = Vec::new();
        let mut words = VecDeque::new();
        let (mut out, mut err) = (vec![0; 64 << 10], vec![0; 4 << 10]);
        let mut deadline = Instant::now() + self.silence;
        while stdout.is_some() || stderr.is_some() {
            tokio::select! {
                n = read(&mut stdout, &mut out), if stdout.is_some() => {
                    answer.extend_from_slice(out.get(..n).unwrap_or_default());
                    if answer.len() > ANSWER {
                        return Err(Failure::TooLong);
                    }
                }
                n = read(&mut stderr, &mut err), if stderr.is_some() => {
                    let clean = if n == 0 {
                        scrubber.finish()
                    } else {
                        scrubber.push(err.get(..n).unwrap_or_default())
                    };
                    if let Some(step) = step {
                        step.output(crate::progress::Stream::Stderr, &clean);
                    }
                    words.extend(clean);
                    let surplus = words.len().saturating_sub(WORDS);
                    words.drain(..surplus);
                }
                () = tokio::time::sleep_until(deadline) => return Err(Failure::Silent(self.silence)),
            }
            deadline = Instant::now() + self.silence;
        }
        let status = tokio::time::timeout(self.silence, child.wait())
            .await
            .map_err(|_| Failure::Silent(self.silence))?
            .map_err(Failure::Spawn)?;
        if let Some(feeding) = feeding {
            feeding.abort();
        }
        if status.success() {
            return Ok(answer);
        }
        let words: Vec<u8> = words.into();
        let words = last_words(&String::from_utf8_lossy(&words));
        Err(Failure::Failed(if words.is_empty() {
            status.to_string()
        } else {
            words
        }))
    }
}

/// Reads a piece; at its end the stream is let go.
async fn read<R: AsyncRead + Unpin>(from: &mut Option<R>, buffer: &mut [u8]) -> usize {
    let Some(stream) = from else { return 0 };
    // A pipe that fails has ended.
    let n = stream.read(buffer).await.unwrap_or(0);
    if n == 0 {
        *from = None;
    }
    n
}

/// The lines that tell why, without progress and decoration.
fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text
        .split(['\n', '\r'])
        .map(str::trim_end)
        .filter(|line| !line.trim().is_empty())
        .collect();
    let telling: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| {
            let line = line.strip_prefix("remote: ").unwrap_or(line);
            ![
                "Enumerating",
                "Counting",
                "Compressing",
                "Receiving",
                "Resolving",
                "Updating",
                "Total",
                "hint:",
            ]
            .iter()
            .any(|p| line.starts_with(p))
        })
        .collect();
    let from = telling.len().saturating_sub(12);
    telling.get(from..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_that_tell_why() {
        let text = "Receiving objects:  10%\rReceiving objects: 20%\nremote: Counting objects: 3\nfatal: no\n\n";
        assert_eq!(last_words(text), "fatal: no");
    }

    #[tokio::test]
    async fn a_silent_program_is_ended_with_its_children() {
        let dir = tempfile();
        let run = Git::new(&dir, ["-c", "alias.x=!sleep 600; true", "x"])
            .silence(Duration::from_millis(100))
            .run(None);
        assert!(matches!(run.await, Err(Failure::Silent(_))));
    }

    #[tokio::test]
    async fn secrets_are_masked_and_settings_are_no_arguments() {
        let dir = tempfile();
        let git = Git::new(
            &dir,
            [
                "-c",
                "alias.x=!echo \"$(git config a.token)\" >&2; false",
                "x",
            ],
        )
        .setting("a.token", "s3cret-token")
        .secret(b"s3cret-token");
        assert!(
            !git.args
                .iter()
                .any(|a| a.to_string_lossy().contains("s3cret"))
        );
        let Err(Failure::Failed(words)) = git.run(None).await else {
            panic!("it fails");
        };
        assert_eq!(words, "***");
    }

    #[test]
    fn denials_are_told_from_other_failures() {
        let failed = |words: &str| Failure::Failed(words.to_owned());
        assert!(failed("fatal: Authentication failed for 'https://h/'").is_denied());
        assert!(
            failed("fatal: could not read Username for 'https://h': terminal prompts disabled")
                .is_denied()
        );
        assert!(!failed("fatal: unable to access: Connection refused").is_denied());
        assert!(!Failure::Missing.is_denied());
    }

    fn tempfile() -> std::path::PathBuf {
        std::env::temp_dir()
    }
}
