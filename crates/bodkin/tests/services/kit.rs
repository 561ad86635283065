//! An engine of a test's own, sessions with it as clients have them, and a look at what is left on the machine.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Where the images are: `cargo xtask env` puts a registry there.
pub(crate) const REGISTRY: &str = "127.0.0.1:5055";
/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// An engine with a store of its own, started by the first session.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// `None` where such tests cannot run: without root, or without the images.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: containers need root here");
            return None;
        }
        if TcpStream::connect(REGISTRY).is_err() {
            eprintln!("skipped: no images at {REGISTRY}; `cargo xtask env` puts them there");
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let config = json!({ "registries": { "docker.io": { "mirrors": [REGISTRY] }, REGISTRY: { "http": true } } });
        std::fs::write(dir.path().join("engine.json"), config.to_string())
            .expect("a configuration");
        Some(Self { dir })
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bodkin"));
        let at = |name: &str| self.dir.path().join(name);
        command
            .args(args)
            .env("BODKIN_STATE_DIR", at("state"))
            .env("BODKIN_SOCKET", at("sock"))
            .env("BODKIN_CONFIG", at("engine.json"));
        command
            .env_remove("DAGGER_SESSION_PORT")
            .current_dir(self.dir.path());
        command
    }

    pub(crate) fn session(&self) -> Session {
        self.session_of("v0.14.0")
    }

    /// A session of a client of that version.
    pub(crate) fn session_of(&self, version: &str) -> Session {
        self.session_with(version, &[])
    }

    /// A session of a client with further variables in its environment.
    pub(crate) fn session_with(&self, version: &str, env: &[(&str, &str)]) -> Session {
        let mut command = self.command(&["session", "--version", version]);
        command.envs(env.iter().copied());
        let log = std::fs::File::create(self.dir.path().join("session.log")).expect("a log");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("a session");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let hello: Value =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}: {}", self.log()));
        let port = hello["port"]
            .as_u64()
            .and_then(|p| u16::try_from(p).ok())
            .expect("a port");
        let token = hello["session_token"].as_str().expect("a token").to_owned();
        Session {
            stdin: child.stdin.take(),
            child,
            port,
            token,
        }
    }

    /// An engine of this place that clients reach over TCP only.
    pub(crate) fn elsewhere(&self) -> Elsewhere {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = free.local_addr().expect("an address");
        drop(free);
        let address = format!("tcp://{at}");
        let log = std::fs::File::create(self.dir.path().join("elsewhere.log")).expect("a log");
        let engine = self
            .command(&["engine", "--addr", &address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("an engine");
        let elsewhere = Elsewhere { engine, address };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(at).is_err() {
            assert!(Instant::now() < end, "no engine at {at}");
            std::thread::yield_now();
        }
        elsewhere
    }

    /// What the last session and the engine said.
    pub(crate) fn log(&self) -> String {
        let read =
            |name: &str| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        read("session.log") + &read("state/engine.log")
    }

    /// The engine's process.
    pub(crate) fn engine(&self) -> Option<i32> {
        let wanted = self.dir.path().join("state");
        processes()
            .into_iter()
            .find(|p| {
                p.env
                    .contains(&format!("BODKIN_STATE_DIR={}", wanted.display()))
                    && p.cmdline.contains("engine")
            })
            .map(|p| p.pid)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self
            .command(&["engine", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// An engine that is reached over TCP. It ends with this value.
pub(crate) struct Elsewhere {
    engine: Child,
    address: String,
}

impl Elsewhere {
    /// A session with it.
    pub(crate) fn session(&self, lab: &Lab) -> Session {
        lab.session_with(
            "v0.14.0",
            &[("_EXPERIMENTAL_DAGGER_RUNNER_HOST", &self.address)],
        )
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.engine.kill();
        let _ = self.engine.wait();
    }
}

/// A session as a client library has it.
pub(crate) struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    port: u16,
    token: String,
}

impl Session {
    /// Where its API is, and the header that opens it.
    pub(crate) fn api(&self) -> (u16, String) {
        let auth = base64(format!("{}:", self.token).as_bytes());
        (self.port, format!("Basic {auth}"))
    }

    /// The whole answer.
    pub(crate) fn ask(&self, query: &str) -> Value {
        let body = json!({ "query": closed(query) }).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the session listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let auth = base64(format!("{}:", self.token).as_bytes());
        write!(
            stream,
            "POST /query HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {auth}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .expect("the session reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .unwrap_or_else(|e| panic!("no answer to {query}: {e}"));
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no HTTP: {answer}"));
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"))
    }

    /// The only leaf of an answer that must be without errors.
    pub(crate) fn get(&self, query: &str) -> Value {
        let answer = self.ask(query);
        assert!(answer["errors"].is_null(), "{query}\n{answer:#}");
        leaf(answer["data"].clone())
    }

    /// The same as text.
    pub(crate) fn text(&self, query: &str) -> String {
        self.get(query)
            .as_str()
            .unwrap_or_else(|| panic!("no text: {query}"))
            .to_owned()
    }

    /// The first error's message of an answer that must have one.
    pub(crate) fn error(&self, query: &str) -> String {
        let answer = self.ask(query);
        answer["errors"][0]["message"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {query}\n{answer:#}"))
            .to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends in order, as a client library does.
    pub(crate) fn close(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().expect("the session ends");
        assert!(status.success(), "{status}");
    }

    /// As when its machine fails.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// A query with the closing braces that it lacks.
fn closed(query: &str) -> String {
    let (mut open, mut text, mut escaped) = (0_usize, false, false);
    for c in query.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if text => escaped = true,
            '"' => text = !text,
            '{' if !text => open += 1,
            '}' if !text => open -= 1,
            _ => {}
        }
    }
    query.to_owned() + &"}".repeat(open)
}

fn leaf(mut value: Value) -> Value {
    while let Value::Object(map) = &value {
        if map.len() != 1 {
            break;
        }
        value = map.values().next().cloned().unwrap_or_default();
    }
    value
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |b, c| b << 8 | u32::from(*c)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            out.push(if i <= chunk.len() {
                char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63])
            } else {
                '='
            });
        }
    }
    out
}

/// A process of the machine.
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) cmdline: String,
    pub(crate) env: String,
}

/// All processes that can be looked at.
pub(crate) fn processes() -> Vec<Process> {
    let read = |pid: i32, what: &str| {
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default())
            .replace('\0', " ")
    };
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.map(|pid| Process {
        pid,
        cmdline: read(pid, "cmdline"),
        env: read(pid, "environ"),
    })
    .collect()
}

/// A word for command lines that no other run of these tests uses at the same time.
pub(crate) fn mark(name: &str) -> String {
    format!("mark-{name}-of-{}", std::process::id())
}

/// Containers whose command line holds this, by their inits: programs fork.
pub(crate) fn inits(mark: &str) -> Vec<i32> {
    let inits = processes()
        .into_iter()
        .filter(|p| p.cmdline.starts_with("/.init"));
    inits
        .filter(|p| p.cmdline.contains(mark))
        .map(|p| p.pid)
        .collect()
}

/// How many containers are running whose command line holds this.
pub(crate) fn running(mark: &str) -> usize {
    inits(mark).len()
}

/// Waits until it is so; how long it took.
pub(crate) fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

/// An HTTP/1.0 request, read to the end of the connection.
pub(crate) fn fetch(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let _ = stream.shutdown(Shutdown::Both);
    Ok(answer
        .split_once("\r\n\r\n")
        .map_or(String::new(), |(_, body)| body.to_owned()))
}

/// A text of GraphQL.
pub(crate) fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// The arguments of a command as GraphQL has them.
pub(crate) fn args(command: &[&str]) -> String {
    format!(
        "[{}]",
        command
            .iter()
            .map(|a| quoted(a))
            .collect::<Vec<_>>()
            .join(",")
    )
}

/// What an engine holds of the kernel and of the machine, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Open descriptors.
    pub(crate) descriptors: usize,
    /// Processes below it.
    pub(crate) processes: usize,
    /// Lines of its table of mounts.
    pub(crate) mounts: usize,
    /// Network namespaces it has open.
    pub(crate) namespaces: usize,
    /// Devices in these.
    pub(crate) devices: usize,
    /// Sockets that are bound in these.
    pub(crate) ports: usize,
    /// Addresses that its packet filter knows.
    pub(crate) addresses: usize,
}

impl Lab {
    /// Counts what the engine holds.
    pub(crate) fn holdings(&self) -> Holdings {
        let engine = self.engine().expect("an engine");
        let fds = std::fs::read_dir(format!("/proc/{engine}/fd")).expect("an engine");
        let links: Vec<_> = fds
            .flatten()
            .filter_map(|e| Some((e.path(), std::fs::read_link(e.path()).ok()?)))
            .collect();
        let mut spaces = std::collections::BTreeMap::new();
        for (path, link) in &links {
            if link.to_string_lossy().starts_with("net:[") {
                spaces.insert(link.clone(), path.clone());
            }
        }
        let (mut devices, mut ports, mut addresses) = (0, 0, 0);
        for path in spaces.values() {
            // A namespace that has just been closed holds nothing.
            let Ok(space) = std::fs::File::open(path) else {
                continue;
            };
            let (d, p, a) = std::thread::spawn(move || in_namespace(&space))
                .join()
                .expect("counted");
            devices += d;
            ports += p;
            addresses += a;
        }
        let mounts =
            std::fs::read_to_string(format!("/proc/{engine}/mountinfo")).unwrap_or_default();
        Holdings {
            descriptors: links.len(),
            processes: below(engine),
            mounts: mounts.lines().count(),
            namespaces: spaces.len(),
            devices,
            ports,
            addresses,
        }
    }

    /// The engine's memory that no other process shares, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let engine = self.engine().expect("an engine");
        let rollup =
            std::fs::read_to_string(format!("/proc/{engine}/smaps_rollup")).expect("readable");
        let private = rollup.lines().filter(|l| l.starts_with("Private_"));
        private
            .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum()
    }
}

/// Devices, bound sockets and filtered addresses of a network namespace.
fn in_namespace(space: &std::fs::File) -> (usize, usize, usize) {
    use std::os::fd::AsFd;
    let net = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(space.as_fd(), net).expect("allowed");
    let lines = |table: &str| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))
            .unwrap_or_default()
            .lines()
            .count()
            .saturating_sub(1)
    };
    let rules = Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let addresses = rules
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .filter(|w| w.parse::<std::net::Ipv4Addr>().is_ok())
        .count();
    let listening = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    let listening = listening.lines().filter(|l| l.contains(" 0A ")).count();
    (lines("dev"), listening + lines("udp"), addresses)
}

/// How many processes descend from this one.
fn below(root: i32) -> usize {
    let mut parents = std::collections::HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| {
            let mut words = rest.split(' ');
            words.nth(1)?.parse::<i32>().ok()
        });
        parents.insert(pid, parent.unwrap_or(0));
    }
    let descends = |mut pid: i32| {
        while let Some(parent) = parents.get(&pid).copied().filter(|p| *p > 1) {
            if parent == root {
                return true;
            }
            pid = parent;
        }
        false
    };
    parents.keys().filter(|p| descends(**p)).count()
}
