//! The smallest client: `dagger session` and queries over HTTP.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::env::{self, Shell};

/// Longest time for one query.
const QUERY: Duration = Duration::from_secs(300);

/// Where the bench runs.
pub(super) struct Bench {
    /// What a client needs to find the engine.
    pub(super) shell: Shell,
    /// Where the engine is.
    pub(super) dir: PathBuf,
    /// Where trees are made.
    pub(super) scratch: Scratch,
}

impl Bench {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.shell.dagger);
        command.args(args);
        command.envs(
            self.shell
                .variables
                .iter()
                .map(|(name, value)| (*name, value)),
        );
        command
    }

    /// What the engine holds in memory, in KiB.
    pub(super) fn engine_memory(&self) -> Result<u64> {
        let pid = fs::read_to_string(env::state_dir(&self.dir).join("lock"))
            .context("the engine does not run")?;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let number = line.and_then(|l| l.split_whitespace().next());
        number.context("no VmRSS")?.parse().context("no number")
    }

    pub(super) fn session(&self) -> Result<Session> {
        self.session_of("v0.14.0")
    }

    /// A session of a client of that version.
    pub(super) fn session_of(&self, version: &str) -> Result<Session> {
        Session::open(self, version)
    }
}

/// An open session.
pub(super) struct Session {
    child: Child,
    port: u16,
    auth: String,
}

impl Session {
    fn open(bench: &Bench, version: &str) -> Result<Self> {
        let mut child = bench
            .command(&[
                "session",
                "--label",
                "dagger.io/sdk.name:go",
                "--version",
                version,
            ])
            .current_dir(bench.scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start `dagger session`")?;
        let out = child.stdout.take().context("no stdout")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let hello: Value =
            serde_json::from_str(&line).context("`dagger session` did not say hello")?;
        let port = hello["port"]
            .as_u64()
            .and_then(|p| u16::try_from(p).ok())
            .context("no port")?;
        let token = hello["session_token"].as_str().context("no token")?;
        let auth = base64(format!("{token}:").as_bytes());
        Ok(Session { child, port, auth })
    }

    /// Asks and times; an answer with errors is an error.
    pub(super) fn ask(&self, query: &str) -> Result<(Duration, Value)> {
        let body = json!({ "query": query }).to_string();
        let start = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(QUERY))?;
        stream.set_nodelay(true)?;
        write!(
            stream,
            "POST /query HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.auth,
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let took = start.elapsed();
        let at = answer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .context("no HTTP answer")?;
        let head = String::from_utf8_lossy(&answer[..at]).into_owned();
        ensure!(
            head.starts_with("HTTP/1.1 200"),
            "the engine answered {head}"
        );
        let text = &answer[at + 4..];
        // Chains are deeper than a JSON reader goes; errors are not.
        if let Some(at) = text.windows(9).position(|w| w == b"\"errors\":") {
            bail!(
                "the engine answered {}",
                String::from_utf8_lossy(&text[at..text.len().min(at + 400)])
            );
        }
        Ok((took, serde_json::from_slice(text).unwrap_or(Value::Null)))
    }

    pub(super) fn close(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "`dagger session` ended with {status}");
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Already ended when it was closed in order.
        let _ = self.child.wait();
    }
}

/// Standard base64.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            if i <= chunk.len() {
                out.push(LETTERS[(n >> (18 - 6 * i) & 63) as usize] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// A folder that goes away, in memory where there is such a place.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let path = base.join(format!("bodkin-bench-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in memory does no harm beyond its size.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads() {
        assert_eq!(base64(b"a:"), "YTo=");
        assert_eq!(base64(b"abc"), "YWJj");
        assert_eq!(base64(b"a"), "YQ==");
    }
}
