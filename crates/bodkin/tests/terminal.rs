//! Terminals of containers, directories, services and failed steps, on a terminal of the client that `script` makes.

use std::{
    fs,
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::json;

const BODKIN: &str = env!("CARGO_BIN_EXE_bodkin");
/// A shell that needs nothing else.
const SHELL: &str = "/bin/busybox";
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

fn possible() -> bool {
    let root =
        fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let script = Command::new("script").arg("--version").output().is_ok();
    let all = root && script && fs::exists(SHELL).unwrap_or(false);
    if !all {
        assert!(
            std::env::var_os("CI").is_none(),
            "these tests need root, `script` and {SHELL}"
        );
        eprintln!("skipped: needs root, `script` and {SHELL}");
    }
    all
}

/// An engine of its own, stopped in the end.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({ "network": { "disabled": true } });
        fs::write(dir.path().join("engine.json"), config.to_string()).unwrap();
        Self { dir }
    }

    fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("TERM", "vt220")
            .env("BODKIN_STATE_DIR", self.dir.path().join("state"))
            .env("BODKIN_CONFIG", self.dir.path().join("engine.json"))
            .current_dir(self.dir.path())
    }

    /// `dagger query` of `tail` of a container with a shell, on a terminal of 33 rows.
    fn on_terminal(&self, flags: &str, tail: &str) -> Screen {
        let document = "{ host { directory(path: \"/bin\", include: [\"busybox\"]) { id } } }";
        let out = self
            .environment(
                Command::new(BODKIN)
                    .arg("query")
                    .arg("--doc")
                    .arg(self.write(document)),
            )
            .output()
            .unwrap();
        let data: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let id = &data["host"]["directory"]["id"];
        let document = format!(
            "{{ container {{ withRootfs(directory: {id}) {{ withEnvVariable(name: \"PATH\", value: \"/\") {{ {tail} }} }} }} }}"
        );
        let line = format!(
            "stty rows 33 cols 99; exec {BODKIN} query {flags} --doc {}",
            self.write(&document)
        );
        let mut command = Command::new("script");
        self.environment(command.args(["-qec", &line, "/dev/null"]));
        Screen::new(command)
    }

    fn write(&self, document: &str) -> String {
        let path = self.dir.path().join("document");
        fs::write(&path, document).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Nothing to stop when it never ran.
        let _ = self
            .environment(Command::new(BODKIN).args(["engine", "stop"]))
            .output();
    }
}

/// What a user sees and types.
struct Screen {
    child: Child,
    keys: ChildStdin,
    pieces: mpsc::Receiver<Vec<u8>>,
    seen: String,
    from: usize,
}

impl Screen {
    fn new(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, pieces) = mpsc::channel();
        let mut out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut buf) {
                if tell.send(buf[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let keys = child.stdin.take().unwrap();
        Self {
            child,
            keys,
            pieces,
            seen: String::new(),
            from: 0,
        }
    }

    /// Waits until a text is shown that was not waited for before.
    fn wait_for(&mut self, text: &str) -> &mut Self {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.seen[self.from..].find(text) {
                self.from += at + text.len();
                return self;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("waited for {text:?}: {}", self.seen),
            }
        }
    }

    fn keys(&mut self, keys: &str) -> &mut Self {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
        self
    }

    /// The rest of what is shown, and whether the client succeeded.
    fn end(mut self) -> (String, bool) {
        while let Ok(piece) = self.pieces.recv_timeout(LIMIT) {
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        let ok = self.child.wait().unwrap().success();
        (self.seen[self.from..].to_owned(), ok)
    }
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    text.as_bytes()
        .chunks(3)
        .flat_map(|c| {
            let n = (u32::from(c[0]) << 16)
                | (u32::from(*c.get(1).unwrap_or(&0)) << 8)
                | u32::from(*c.get(2).unwrap_or(&0));
            let len = c.len();
            (0..4).map(move |i| {
                if i <= len {
                    DIGITS[(n >> (18 - 6 * i) & 63) as usize] as char
                } else {
                    '='
                }
            })
        })
        .collect()
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have ended; what it started ends with its terminal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn root_a_terminal_is_one() {
    if !possible() {
        return;
    }
    let world = World::new();
    let tail = "withDefaultTerminalCmd(args: [\"/busybox\", \"sh\"]) { terminal { withExec(args: [\"/busybox\", \"ls\", \"/\"]) { stdout } } }";
    let mut screen = world.on_terminal("", tail);
    screen
        .wait_for("$ ")
        .keys("busybox stty size; echo $TERM; busybox tty; echo x > /made\n");
    screen
        .wait_for("33 99")
        .wait_for("vt220")
        .wait_for("/dev/pts/0");
    screen
        .wait_for("$ ")
        .keys("busybox sh -c 'echo be\"g\"un; exec busybox sleep 1000'\n");
    screen.wait_for("begun").keys("\u{3}");
    screen.wait_for("$ ").keys("exit 7\n");
    let (rest, ok) = screen.end();
    // What the shell did to the container is gone, and its exit code is its own.
    assert!(
        ok && rest.contains("busybox") && !rest.contains("made"),
        "{rest}"
    );
}

#[test]
fn root_a_failed_step_can_be_looked_at() {
    if !possible() {
        return;
    }
    let world = World::new();
    let tail = "withMountedDirectory(path: \"/m\", source: \"ID\") { withExec(args: [\"/busybox\", \"sh\", \"-c\", \"echo 1 > /left; echo 2 > /m/left; exit 5\"]) { stdout } }";
    let out = world
        .environment(
            Command::new(BODKIN)
                .args(["query", "--doc"])
                .arg(world.write("{ directory { id } }")),
        )
        .output()
        .unwrap();
    let data: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let tail = tail.replace("ID", data["directory"]["id"].as_str().unwrap());
    let mut screen = world.on_terminal("-i --interactive-command '/busybox sh'", &tail);
    screen.wait_for("exit code: 5").wait_for("$ ");
    screen.keys("busybox cat /left /m/left; exit\n");
    screen.wait_for("1").wait_for("2");
    let (rest, ok) = screen.end();
    assert!(
        !ok && rest.contains("did not complete successfully"),
        "{rest}"
    );
}

#[test]
fn root_a_service_and_a_directory_have_terminals() {
    if !possible() {
        return;
    }
    let world = World::new();
    let mut command = Command::new("script");
    // Its input stays open for as long as `script` lives.
    let line = format!("tail --pid=$PPID -f /dev/null | {BODKIN} session --version v0.21.7");
    world.environment(command.args(["-qec", &line, "/dev/null"]));
    let mut screen = Screen::new(command);
    let line = screen.wait_for("{").wait_for("}").seen.clone();
    let begin = line.find('{').unwrap();
    let end = line[begin..].find('}').unwrap() + begin + 1;
    let session: serde_json::Value = serde_json::from_str(&line[begin..end]).unwrap();
    let port = u16::try_from(session["port"].as_u64().unwrap()).unwrap();
    let token = session["session_token"].as_str().unwrap().to_owned();
    let ask = move |document: String| {
        let body = json!({ "query": document }).to_string();
        let password = base64(&format!("{token}:"));
        let head = format!(
            "POST /query HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {password}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let json = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
        serde_json::from_str::<serde_json::Value>(json).unwrap()
    };
    let files =
        ask("{ host { directory(path: \"/bin\", include: [\"busybox\"]) { id } } }".to_owned());
    let id = &files["data"]["host"]["directory"]["id"];
    let document = format!(
        "{{ container {{ withRootfs(directory: {id}) {{ withEnvVariable(name: \"PATH\", value: \"/\") {{ asService(args: [\"/busybox\", \"sleep\", \"1000\"]) {{ terminal(cmd: [\"/busybox\", \"sh\"]) {{ id }} }} }} }} }} }}"
    );
    let answer = std::thread::spawn(move || ask(document));
    screen
        .wait_for("$ ")
        .keys("busybox ps | busybox grep 'sleep 100'0; exit\n");
    screen.wait_for("/busybox sleep 1000");
    let answer = answer.join().unwrap();
    assert!(answer.get("errors").is_none(), "{answer}");
    drop(screen);
    let tail = "directory(path: \"/\") { withNewFile(path: \"here\", contents: \"42\") { terminal(cmd: [\"/busybox\", \"sh\"]) { entries } } }";
    // A directory without a container is shown in an image, which this engine cannot pull.
    let (rest, ok) = world.on_terminal("", tail).end();
    assert!(!ok && rest.contains("alpine"), "{rest}");
}

#[test]
fn root_without_a_terminal_the_error_says_so() {
    if !possible() {
        return;
    }
    let world = World::new();
    let document = "{ container { terminal { id } } }";
    let mut command = Command::new("setsid");
    command.args([BODKIN, "query", "--doc", &world.write(document)]);
    let out = world.environment(&mut command).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("the client has no terminal"), "{said}");
}
