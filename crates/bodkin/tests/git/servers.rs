//! Repositories to serve and the programs that serve them.

use std::{
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::kit::PATIENCE;

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A server, ended with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    fn start(mut command: Command, port: u16) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // `git daemon` is a program that starts another.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                child.try_wait().expect("a child").is_none(),
                "{command:?} ended"
            );
            assert!(Instant::now() < end, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, port }
    }

    /// `git daemon` over what is in the folder.
    pub(crate) fn daemon(root: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new("git");
        command
            .args([
                "daemon",
                "--export-all",
                "--reuseaddr",
                "--listen=127.0.0.1",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", root.display()))
            .arg(root);
        Self::start(command, port)
    }

    /// `git http-backend` behind a web server that wants one of these passwords.
    pub(crate) fn web(root: &Path, users: &[(&str, &str)]) -> Self {
        let port = free_port();
        let passwords: String = users.iter().map(|(u, p)| format!("{u}:{p}\n")).collect();
        std::fs::write(root.join("passwords"), passwords).expect("written");
        let backend = "/usr/lib/git-core/git-http-backend";
        let config = format!(
            r#"
server.modules = ("mod_alias", "mod_setenv", "mod_auth", "mod_authn_file", "mod_cgi")
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {port}
alias.url = ("/git" => "{backend}")
auth.backend = "plain"
auth.backend.plain.userfile = "{root}/passwords"
auth.require = ("/git" => ("method" => "basic", "realm" => "git", "require" => "valid-user"))
$HTTP["url"] =~ "^/git" {{
    cgi.assign = ("" => "")
    setenv.set-environment = ("GIT_PROJECT_ROOT" => "{root}", "GIT_HTTP_EXPORT_ALL" => "1", "PATH" => "/usr/bin:/bin")
}}
"#,
            root = root.display()
        );
        std::fs::write(root.join("web.conf"), config).expect("written");
        let mut command = Command::new("/usr/sbin/lighttpd");
        command.arg("-D").arg("-f").arg(root.join("web.conf"));
        Self::start(command, port)
    }

    /// `sshd` that lets this key in.
    pub(crate) fn ssh(dir: &Path, key: &Path) -> Self {
        let port = free_port();
        std::fs::create_dir_all("/run/sshd").expect("the folder that sshd insists on");
        keygen(&dir.join("host"));
        std::fs::copy(key.with_extension("pub"), dir.join("authorized")).expect("copied");
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized\nStrictModes no\n\
             UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n",
            dir = dir.display()
        );
        std::fs::write(dir.join("sshd.conf"), config).expect("written");
        let mut command = Command::new("/usr/sbin/sshd");
        command
            .arg("-D")
            .arg("-e")
            .arg("-f")
            .arg(dir.join("sshd.conf"));
        Self::start(command, port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // They may have ended.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A new key without a password.
pub(crate) fn keygen(path: &Path) {
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path));
}

/// An SSH agent with one key.
pub(crate) struct Agent {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    pub(crate) fn with(dir: &Path, key: &Path) -> Self {
        let socket = dir.join("agent");
        let child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("an agent");
        let end = Instant::now() + PATIENCE;
        while !socket.exists() {
            assert!(Instant::now() < end, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        run(Command::new("ssh-add")
            .arg("-q")
            .arg(key)
            .env("SSH_AUTH_SOCK", &socket));
        Self { child, socket }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that must succeed; its output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `git` on a working tree, as a developer without any configuration.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(dir)
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "a")
            .env(format!("GIT_{role}_EMAIL"), "a@b")
            .env(format!("GIT_{role}_DATE"), "2024-01-01T00:00:00Z");
    }
    run(&mut command)
}

/// A repository with one file `f`, a link and a folder.
pub(crate) fn repository(root: &Path, name: &str) -> PathBuf {
    let dir = root.join(name);
    std::fs::create_dir_all(dir.join("sub")).expect("folders");
    git(&dir, &["init", "-q", "-b", "main"]);
    std::fs::write(dir.join("f"), "one\n").expect("written");
    std::fs::write(dir.join("sub/g"), "s\n").expect("written");
    std::os::unix::fs::symlink("f", dir.join("link")).expect("a link");
    git(&dir, &["add", "-A"]);
    git(&dir, &["commit", "-qm", "one"]);
    dir
}
