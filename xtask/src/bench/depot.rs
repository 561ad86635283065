//! Servers of the rows: a registry and a git daemon whose data is in the scratch folder and goes with them.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Longest wait until one listens.
const LIMIT: Duration = Duration::from_secs(15);

/// A server, ended and with its data removed when dropped.
pub(super) struct Depot {
    child: Child,
    port: u16,
    /// What is removed.
    dir: Option<PathBuf>,
}

impl Depot {
    /// A `docker-registry` that holds nothing.
    pub(super) fn registry(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let port = free_port()?;
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.join("data").display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config);
        Self::start(command, port, Some(dir.to_owned()))
    }

    /// `git daemon` over the repositories below a folder, which stay.
    pub(super) fn git(root: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("git");
        command.args(["daemon", "--export-all", "--reuseaddr"]);
        command.arg("--listen=127.0.0.1");
        command.arg(format!("--port={port}"));
        command.arg(format!("--base-path={}", root.display()));
        command.arg(root);
        Self::start(command, port, None)
    }

    fn start(mut command: Command, port: u16, dir: Option<PathBuf>) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let mut depot = Depot { child, port, dir };
        let end = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = depot.child.try_wait()? {
                bail!("{command:?} ended with {status}");
            }
            if Instant::now() > end {
                bail!("{command:?} does not listen");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(depot)
    }

    /// `host:port`.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        // Already ended when it failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(dir) = &self.dir {
            // The scratch folder goes as a whole in the end.
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
