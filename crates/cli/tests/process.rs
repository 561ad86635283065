//! The command line as a process, against an engine that does nothing.

mod fake;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fake::{Engine, LIMIT};
use wire::{LinkErrorKind, LinkRequest, ProgressEvent, link::PathStat};

/// The client: built by cargo beside this test.
fn client() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/client");
    assert!(
        found.exists(),
        "{} is not built: run all tests of the package, or `cargo build --example client`",
        found.display()
    );
    found
}

/// A folder with an engine's socket, and commands that find it.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("k")
    }

    fn engine(&self) -> Engine {
        Engine::at(&self.socket())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(client());
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("BODKIN_SOCKET", self.socket())
            .env("BODKIN_STATE_DIR", self.dir.path().join("state"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str], stdin: &str) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // A client that fails before it reads closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        Ran::of(child)
    }
}

#[derive(Debug)]
struct Ran {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(child: Child) -> Self {
        let output: Output = within(|| child.wait_with_output().unwrap());
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Self {
            exit: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Runs something that must end in time.
fn within<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        scope.spawn(move || tell.send(work()));
        match told.recv_timeout(LIMIT) {
            Ok(value) => value,
            Err(_) => {
                eprintln!("a process did not end in time");
                std::process::abort();
            }
        }
    })
}

/// A started `session`.
struct Started {
    child: Child,
    port: u16,
    token: String,
}

impl Started {
    fn new(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let line = within(move || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            line
        });
        let handshake: serde_json::Value = serde_json::from_str(&line).expect(&line);
        assert_eq!(
            handshake.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["port", "session_token"]
        );
        let port = handshake["port"].as_u64().unwrap().try_into().unwrap();
        Self {
            child,
            port,
            token: handshake["session_token"].as_str().unwrap().to_owned(),
        }
    }

    fn dial(&self) -> TcpStream {
        let conn = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        conn.set_read_timeout(Some(LIMIT)).unwrap();
        conn
    }

    fn head(&self, length: usize, token: &str) -> String {
        let auth = STANDARD.encode(format!("{token}:"));
        format!(
            "POST /query HTTP/1.1\r\nHost: dagger\r\nAuthorization: Basic {auth}\r\nContent-Length: {length}\r\n\r\n"
        )
    }

    /// One request on a connection of its own that is half-closed after it.
    fn post(&self, body: &str, token: &str) -> String {
        let mut conn = self.dial();
        conn.write_all((self.head(body.len(), token) + body).as_bytes())
            .unwrap();
        conn.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        conn.read_to_string(&mut answer).unwrap();
        answer
    }

    fn exit(mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        within(|| self.child.wait().unwrap().code())
    }
}

#[test]
fn a_session_serves_its_port_until_stdin_ends() {
    let world = World::new();
    let engine = world.engine();
    let flags = [
        "session",
        "--label",
        "dagger.io/sdk.name:go",
        "--label",
        "dagger.io/sdk.version:n/a",
        "--version",
        "v0.9.0",
        "--project",
        ".",
    ];
    let session = Started::new(world.command(&flags));
    let client = engine.client();
    assert_eq!(client.version.as_deref(), Some("v0.9.0"));
    assert_eq!(
        client
            .labels
            .get("dagger.io/sdk.version")
            .map(String::as_str),
        Some("n/a")
    );
    assert_eq!(
        client.workdir,
        world.dir.path().canonicalize().unwrap().to_str().unwrap()
    );
    assert_eq!(client.token, session.token);
    assert!(
        session
            .post("{}", &session.token)
            .ends_with(r#"{"data":{"defaultPlatform":"linux/amd64"}}"#)
    );
    assert!(session.post("{}", "wrong").starts_with("HTTP/1.1 401"));
    let long = format!("echo{}", "x".repeat(3 << 20));
    assert!(session.post(&long, &session.token).ends_with(&long));
    assert_eq!(session.exit(), Some(0));
    engine.wait_idle();
}

#[test]
fn signals_end_a_session_in_order_too() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let world = World::new();
        let engine = world.engine();
        let mut session = Started::new(world.command(&["session"]));
        let pid = rustix::process::Pid::from_child(&session.child);
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(within(|| session.child.wait().unwrap().code()), Some(0));
        engine.wait_idle();
    }
}

#[test]
fn a_dead_client_is_a_closed_connection() {
    let world = World::new();
    let engine = world.engine();
    let mut session = Started::new(world.command(&["session"]));
    session.child.kill().unwrap();
    engine.wait_idle();
    within(|| session.child.wait().unwrap());
}

#[test]
fn nobody_reading_stderr_stops_nothing() {
    let world = World::new();
    let engine = world.engine();
    let session = Started::new(world.command(&["session"]));
    engine.progress(ProgressEvent::StepStarted {
        id: 1,
        parent: 0,
        name: "talk".into(),
    });
    for _ in 0..50 {
        engine.progress(ProgressEvent::StepOutput {
            id: 1,
            stderr: false,
            text: format!("{}\n", "y".repeat(3000)).repeat(100),
        });
    }
    assert!(session.post("{}", &session.token).contains("linux/amd64"));
    let began = Instant::now();
    assert_eq!(session.exit(), Some(0));
    assert!(began.elapsed() < LIMIT);
}

#[test]
fn a_lost_engine_ends_the_session_with_an_error() {
    let world = World::new();
    let engine = world.engine();
    let mut session = Started::new(world.command(&["session"]));
    // Waiting closes standard input, which would end the session in order.
    let _stdin = session.child.stdin.take();
    engine.die();
    let status = within(|| session.child.wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let mut stderr = String::new();
    session
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    let log = world.dir.path().join("state/engine.log");
    assert_eq!(
        stderr,
        format!(
            "Error: lost the engine\nhint: its log is `{}`\n",
            log.display()
        )
    );
}

#[test]
fn a_refused_session_says_why_and_prints_nothing_else() {
    let world = World::new();
    let _engine = world.engine();
    let mut child = world
        .command(&["session", "--label", "refuse:me"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let _stdin = child.stdin.take();
    let ran = Ran::of(child);
    assert_eq!(
        (ran.exit, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(1), "", "Error: no more sessions\n")
    );
}

#[test]
fn a_query_prints_its_data_and_only_that() {
    let world = World::new();
    let engine = world.engine();
    let ran = world.run(&["query", "--progress", "plain"], "{defaultPlatform}");
    assert_eq!(
        ran.stdout,
        "{\n    \"defaultPlatform\": \"linux/amd64\"\n}\n"
    );
    assert_eq!(ran.exit, Some(0));
    engine.wait_idle();
    std::fs::write(world.dir.path().join("q.graphql"), "{defaultPlatform}").unwrap();
    assert_eq!(
        world.run(&["query", "--doc", "q.graphql"], "").exit,
        Some(0)
    );
}

#[test]
fn a_query_s_mistakes_are_told_on_stderr() {
    let world = World::new();
    let _engine = world.engine();
    let check = |args: &[&str], stdin: &str, says: &str| {
        let ran = world.run(args, stdin);
        assert_eq!(
            (ran.exit, ran.stdout.as_str()),
            (Some(1), ""),
            "{args:?}: {ran:?}"
        );
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    };
    check(
        &["query"],
        "{nope}",
        "Error: input: nope resolve: no field nope",
    );
    check(
        &["query", "--doc", "gone.graphql"],
        "",
        "Error: open gone.graphql: no such file or directory",
    );
    check(&["query", "--nope"], "", "Error: unknown flag: --nope");
    check(
        &["query", "--workdir", "gone"],
        "{}",
        "cannot use the workdir `gone`",
    );
    check(
        &["query", "--progress", "tty"],
        "{}",
        "no tty available for progress \"tty\"",
    );
    check(&["call", "x"], "", "no dagger.json found");
    check(&["shell"], "", "`shell` is not available");
}

#[test]
fn an_interrupted_query_exits_with_2() {
    let world = World::new();
    let engine = world.engine();
    let mut child = world
        .command(&["query"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{hang}").unwrap();
    engine.client();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let ran = Ran::of(child);
    assert_eq!(
        (ran.exit, ran.stderr.as_str()),
        (Some(2), "Error: query canceled\n")
    );
    engine.wait_idle();
}

#[test]
fn a_command_runs_in_a_session_and_keeps_its_status() {
    let world = World::new();
    let engine = world.engine();
    let run = |args: &[&str]| world.run(&[&["run"], args].concat(), "");
    let ran = run(&[
        "sh",
        "-c",
        "test -n \"$DAGGER_SESSION_TOKEN\" && echo $DAGGER_SESSION_PORT; exit 7",
    ]);
    assert_eq!(ran.exit, Some(7));
    assert!(ran.stdout.trim().parse::<u16>().is_ok(), "{ran:?}");
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).exit, Some(137));
    let missing = run(&["no-such-program-here"]);
    assert_eq!(missing.exit, Some(1));
    assert_eq!(
        missing.stderr,
        "Error: exec: \"no-such-program-here\": executable file not found in $PATH\n"
    );
    // A query inside uses the session of the outside.
    let inner = run(&[
        "--silent",
        client().to_str().unwrap(),
        "query",
        "--doc",
        "/dev/stdin",
    ]);
    assert!(
        inner.exit == Some(0) && inner.stdout.contains("linux/amd64"),
        "{inner:?}"
    );
    engine.wait_idle();
}

#[test]
fn an_interrupted_run_ends_its_command() {
    let world = World::new();
    let engine = world.engine();
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = world
        .command(&["run", "--cleanup-timeout", "10s", "sh", "-c", script])
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let ran = Ran::of(child);
    out.read_line(&mut line).unwrap();
    assert_eq!(
        (ran.exit, line.as_str(), ran.stderr.as_str()),
        (Some(2), "ready\nbye\n", "Error: run canceled\n")
    );
    engine.wait_idle();
}

#[test]
fn an_engine_is_started_once_for_many_and_stopped() {
    let world = World::new();
    let children: Vec<_> = (0..6)
        .map(|_| {
            world
                .command(&["query", "--doc", "/dev/stdin"])
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let ran = Ran::of(child);
        assert_eq!(ran.exit, Some(0), "{ran:?}");
    }
    assert!(world.dir.path().join("state/engine.log").exists());
    let status = world.run(&["engine", "status"], "");
    assert!(
        status.stdout.starts_with("Engine:    v0.14.0"),
        "{status:?}"
    );
    let end = Instant::now() + LIMIT;
    while world.socket().exists() {
        assert!(world.run(&["engine", "stop"], "").exit == Some(0) && Instant::now() < end);
    }
    assert_eq!(
        world.run(&["engine", "stop"], "").stdout,
        "No engine is running.\n"
    );
}

#[test]
fn an_engine_that_cannot_start_is_explained_with_its_log() {
    let world = World::new();
    let ran = Ran::of(
        world
            .command(&["query", "--doc", "/dev/null"])
            .env("BODKIN_CONFIG", "/broken.json")
            .spawn()
            .unwrap(),
    );
    assert_eq!(ran.exit, Some(1));
    let log = world.dir.path().join("state/engine.log");
    assert!(
        ran.stderr.contains("the engine ended with exit status: 1"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains(log.to_str().unwrap())
            && ran.stderr.contains("| cannot understand the configuration"),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_engine_elsewhere_is_never_started() {
    let world = World::new();
    let ask = |host: &str| {
        Ran::of(
            world
                .command(&["query", "--doc", "/dev/null"])
                .env("_EXPERIMENTAL_DAGGER_RUNNER_HOST", host)
                .spawn()
                .unwrap(),
        )
    };
    let missing = ask("unix:///nowhere/k");
    assert_eq!(missing.exit, Some(1));
    assert!(
        missing
            .stderr
            .contains("cannot reach the engine at `unix:///nowhere/k`"),
        "{}",
        missing.stderr
    );
    assert!(
        ask("docker-image://x")
            .stderr
            .contains("expected unix:///path or tcp://host:port")
    );
    let _engine = world.engine();
    assert_eq!(
        ask(&format!("unix://{}", world.socket().display())).exit,
        Some(0)
    );
    assert!(!world.dir.path().join("state").exists());
}

#[test]
fn the_version_is_dagger_s() {
    let ran = World::new().run(&["version"], "");
    assert!(
        ran.stdout.starts_with("dagger v0.14.0 (bodkin v") && ran.exit == Some(0),
        "{ran:?}"
    );
}

/// One request without keep-alive; the whole answer.
fn ask(address: &str, head: &str) -> String {
    let mut conn = TcpStream::connect(address).unwrap();
    conn.set_read_timeout(Some(LIMIT)).unwrap();
    let body = r#"{"query":"{defaultPlatform}"}"#;
    let length = body.len();
    write!(
        conn,
        "POST /query HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{head}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    conn.read_to_string(&mut answer).unwrap();
    answer
}

fn listening(world: &World, token: Option<&str>, flags: &[&str]) -> (Child, String) {
    let mut line = vec!["listen", "--listen", "127.0.0.1:0"];
    line.extend(flags);
    let mut command = world.command(&line);
    if let Some(token) = token {
        command.env("DAGGER_SESSION_TOKEN", token);
    }
    let mut child = command.spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let line = within(move || {
        let mut line = String::new();
        err.read_line(&mut line).unwrap();
        line
    });
    let address = line
        .strip_prefix("==> server listening on http://")
        .and_then(|l| l.strip_suffix("/query\n"))
        .unwrap_or_else(|| panic!("{line}"));
    (child, address.to_owned())
}

fn interrupted(mut child: Child) -> Option<i32> {
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    within(|| child.wait().unwrap()).code()
}

#[test]
fn listen_serves_everybody_but_web_pages() {
    let world = World::new();
    let engine = world.engine();
    let (child, address) = listening(&world, None, &[]);
    let answer = ask(&address, "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with(r#"{"data":{"defaultPlatform":"linux/amd64"}}"#));
    let answer = ask(&address, "Origin: http://evil\r\n");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(interrupted(child), Some(0));
    engine.wait_idle();
}

#[test]
fn listen_wants_the_token_of_the_environment() {
    let world = World::new();
    let _engine = world.engine();
    let (child, address) = listening(&world, Some("mine"), &["--allow-cors"]);
    assert!(ask(&address, "").starts_with("HTTP/1.1 401"));
    let auth = STANDARD.encode("mine:");
    let answer = ask(
        &address,
        &format!("Authorization: Basic {auth}\r\nOrigin: http://page\r\n"),
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("access-control-allow-origin: *"),
        "{answer}"
    );
    assert_eq!(interrupted(child), Some(0));
}

#[test]
fn listen_keeps_files_to_itself_when_told() {
    let world = World::new();
    let engine = world.engine();
    let stat = || LinkRequest::Stat {
        path: "/".into(),
        follow: true,
    };
    for (flags, allowed) in [(&[][..], true), (&["--disable-host-read-write"], false)] {
        let (child, _) = listening(&world, None, flags);
        let (answer, _) = engine.ask::<PathStat>(stat());
        match answer {
            Ok(_) => assert!(allowed),
            Err(e) => assert_eq!((allowed, e.kind), (false, LinkErrorKind::Permission)),
        }
        assert_eq!(interrupted(child), Some(0));
        engine.wait_idle();
    }
}

#[test]
fn modules_are_made_shown_and_depended_on_without_an_engine() {
    let world = World::new();
    let dir = world.dir.path();
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    std::fs::create_dir_all(dir.join(".git")).unwrap();
    let ran = world.run(&["init", "--name", "top", "--source", "./src"], "");
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    let top =
        "{\n  \"name\": \"top\",\n  \"engineVersion\": \"v0.14.0\",\n  \"source\": \"src\"\n}\n";
    assert_eq!(read("dagger.json"), top);
    let ran = world.run(&["init"], "");
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(world.run(&["init", "lib"], "").exit, Some(0));
    assert!(read("lib/dagger.json").contains("\"name\": \"lib\""));

    let ran = world.run(&["install", "./lib"], "");
    assert!(ran.stderr.contains("module \"lib\" has no sdk"), "{ran:?}");
    assert_eq!(read("dagger.json"), top);
    std::fs::write(dir.join("lib/dagger.json"), r#"{"name":"lib","sdk":"go"}"#).unwrap();
    let ran = world.run(&["install", "lib", "--name", "mine"], "");
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    assert!(read("dagger.json").contains("\"source\": \"lib\",\n      \"pin\": \"\""));
    let ran = world.run(&["config", "-m", "mine", "--json"], "");
    assert_eq!(ran.stdout, r#"{"name":"lib","sdk":"go"}"#);
    let ran = world.run(&["config"], "");
    let shown = dir.display();
    assert_eq!(
        ran.stdout,
        format!(
            "Name:               top\nSDK:\nRoot Directory:     {shown}\nSource Directory:   {shown}/src\n"
        )
    );
}

#[test]
fn an_engine_that_ends_as_it_is_asked_is_followed_by_the_next() {
    let world = World::new();
    let ending = std::os::unix::net::UnixListener::bind(world.socket()).unwrap();
    let asking = {
        let mut command = world.command(&["query"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"{a}").unwrap();
        child
    };
    // Taken and closed without a word, and nobody there any more.
    let (conn, _) = within(|| ending.accept().unwrap());
    drop(ending);
    std::fs::remove_file(world.socket()).unwrap();
    let engine = world.engine();
    drop(conn);
    let ran = Ran::of(asking);
    assert!(!ran.stderr.contains("cannot open a session"), "{ran:?}");
    assert!(ran.exit.is_some(), "{ran:?}");
    engine.wait_idle();
}
