//! Both ends of the connections that are measured: `cargo xtask bench-peer`, also as a program in containers, where this
//! executable is mounted. What it measures it prints in microseconds.
//!
//! A server's client says with its first byte what it wants: `e` one byte back, `d` [`LARGE`] bytes.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// Bytes of the large transfer.
pub(super) const LARGE: u64 = 1 << 30;
/// Longest wait for one step.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs one end: `serve PORT`, or what stands between two: `relay PORT ADDRESS`,
/// else `listens PORT COMMAND…`, `echo|http|download ADDRESS TIMES`, `names NAME TIMES`.
pub(crate) fn command(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", port] => {
            let listener = TcpListener::bind(("0.0.0.0", port.parse()?))?;
            serve(&listener)
        }
        ["relay", port, to] => {
            let listener = TcpListener::bind(("127.0.0.1", port.parse()?))?;
            relay(&listener, to.parse()?)
        }
        ["listens", port, program @ ..] => {
            let mut child = Plain::start(program, port.parse()?)?;
            println!("{}", child.listened_after.as_micros());
            child.end();
            Ok(())
        }
        ["names", name, times] => {
            for took in names(name, times.parse()?)? {
                println!("{}", took.as_micros());
            }
            Ok(())
        }
        [what, address, times] => {
            let address = address.parse()?;
            for _ in 0..times.parse()? {
                println!("{}", connect(what, address)?.as_micros());
            }
            Ok(())
        }
        _ => bail!("unknown end of a connection: {words:?}"),
    }
}

/// A server that runs without any container around it.
pub(super) struct Plain {
    child: Child,
    /// How long it took from its start to its first connection.
    pub(super) listened_after: Duration,
}

impl Plain {
    /// Starts a program and waits until it listens.
    pub(super) fn start(program: &[&str], port: u16) -> Result<Self> {
        let (name, args) = program.split_first().context("no program")?;
        let start = Instant::now();
        let mut command = Command::new(name);
        command.args(args).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot run `{name}`"))?;
        let mut plain = Plain {
            child,
            listened_after: Duration::ZERO,
        };
        while let Err(e) = TcpStream::connect(("127.0.0.1", port)) {
            ensure!(e.kind() == ErrorKind::ConnectionRefused, e);
            ensure!(start.elapsed() < LIMIT, "`{name}` does not listen");
            thread::sleep(Duration::from_micros(200));
        }
        plain.listened_after = start.elapsed();
        Ok(plain)
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers, one client after another.
fn serve(listener: &TcpListener) -> Result<()> {
    let block = vec![7; 1 << 18];
    loop {
        let (mut conn, _) = listener.accept()?;
        conn.set_read_timeout(Some(LIMIT))?;
        let mut wanted = [0];
        // A client that goes away, as those who only look whether somebody listens, is no reason to end.
        if !matches!(conn.read(&mut wanted), Ok(1)) {
            continue;
        }
        if wanted == *b"e" {
            let _ = conn.write_all(b"e");
            continue;
        }
        let mut left = LARGE;
        while left > 0 && conn.write_all(&block).is_ok() {
            left = left.saturating_sub(block.len() as u64);
        }
    }
}

/// Carries connections to another address, one after another, with the fewest system calls there can be: for short ones the least
/// that any program costs that stands between two ends. The request is one piece, the answer all that comes.
fn relay(listener: &TcpListener, to: SocketAddr) -> Result<()> {
    let mut buffer = vec![0; 2 << 20];
    loop {
        let (mut near, _) = listener.accept()?;
        let mut far = TcpStream::connect(to)?;
        far.set_read_timeout(Some(LIMIT))?;
        // As above.
        let Ok(asked @ 1..) = near.read(&mut buffer) else {
            continue;
        };
        far.write_all(buffer.get(..asked).unwrap_or_default())?;
        while let Ok(n @ 1..) = far.read(&mut buffer)
            && near.write_all(buffer.get(..n).unwrap_or_default()).is_ok()
        {}
    }
}

/// One connection, from before it is made to the other side's end of it.
pub(super) fn connect(what: &str, address: SocketAddr) -> Result<Duration> {
    let (request, expected): (&[u8], _) = match what {
        "echo" => (b"e", 1),
        "http" => (b"GET /README HTTP/1.0\r\n\r\n", 100),
        "download" => (b"d", LARGE),
        other => bail!("unknown kind of connection: {other}"),
    };
    let mut buffer = vec![0; 1 << 18];
    let start = Instant::now();
    let mut conn = TcpStream::connect(address)?;
    conn.set_read_timeout(Some(LIMIT))?;
    conn.write_all(request)?;
    let mut got = 0;
    loop {
        match conn.read(&mut buffer)? {
            0 => break,
            n => got += n as u64,
        }
    }
    let took = start.elapsed();
    ensure!(
        got >= expected,
        "{address} answered {got} of {expected} bytes"
    );
    Ok(took)
}

/// How long the name server of this place takes for an address.
fn names(name: &str, times: usize) -> Result<Vec<Duration>> {
    let resolv = fs::read_to_string("/etc/resolv.conf")?;
    let server = resolv
        .lines()
        .find_map(|l| l.strip_prefix("nameserver "))
        .context("no name server")?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((server.trim(), 53))?;
    socket.set_read_timeout(Some(LIMIT))?;
    let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let once = |_| {
        let mut answer = [0; 512];
        let start = Instant::now();
        socket.send(&question)?;
        let n = socket.recv(&mut answer)?;
        let took = start.elapsed();
        ensure!(n > question.len() && answer[3] & 15 == 0, "no answer");
        Ok(took)
    };
    (0..times).map(once).collect()
}
