//! Waits until a service is ready: from inside its network namespace, by the engine itself, often at first and then less.

use std::{future::Future, io, time::Duration};

use sandbox::Child;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Door,
    output::Log,
    ready::{Check, Http, Line, Plan, shown},
};

/// Longest wait for one connection.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest wait for one HTTP answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Most of an HTTP answer that is looked at.
const STATUS_LINE: usize = 64;
/// Shortest and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));
/// A pause is this part of the time waited so far, so that a start is seen soon, and a long one is not asked often.
const PAUSE_PART: u32 = 64;
/// How long a UDP port may stay unbound: nothing can be asked of it, and a wrong guess must not stop the pipeline.
const UDP_PATIENCE: Duration = Duration::from_secs(1);

/// A command to be started in the container.
pub(super) struct Probe {
    pub(super) argv: Vec<String>,
    /// With a terminal of this kind.
    pub(super) terminal: Option<String>,
    pub(super) started: oneshot::Sender<Result<Child, String>>,
}

/// What is asked.
pub(super) struct Target<'a> {
    pub(super) hostname: &'a str,
    pub(super) pid: i32,
    /// The way to it; `None` without network.
    pub(super) door: Option<&'a Door>,
    pub(super) probes: mpsc::Sender<Probe>,
}

/// Lines that are waited for, watched from before the first one is said.
pub(super) fn watch_lines(plan: &Plan, log: &Log) -> Vec<watch::Receiver<bool>> {
    let lines = plan.checks.iter().filter_map(|c| {
        if let Check::Log(Line { text, count }) = c {
            Some(log.lines(text, *count))
        } else {
            None
        }
    });
    lines.collect()
}

/// Waits for all of the plan, one after another.
///
/// # Errors
/// What was waited for too long, and what the last try said.
pub(super) async fn ready(
    plan: &Plan,
    target: &Target<'_>,
    lines: Vec<watch::Receiver<bool>>,
) -> Result<(), String> {
    let started = Instant::now();
    let deadline = started + plan.timeout;
    let mut lines = lines.into_iter();
    for check in &plan.checks {
        let mut last = String::new();
        let waiting = async {
            match check {
                Check::Log(_) => {
                    if let Some(mut line) = lines.next()
                        && line.wait_for(|seen| *seen).await.is_err()
                    {
                        std::future::pending::<()>().await;
                    }
                }
                Check::Port { udp: true, port } => udp(target.pid, *port, started).await,
                Check::Port { port, .. } => {
                    tries(started, &mut last, || port_open(target, *port)).await
                }
                Check::Http(http) => tries(started, &mut last, || http_answers(target, http)).await,
                Check::Command { argv, timeout } => {
                    tries(started, &mut last, || {
                        command_succeeds(target, argv, *timeout)
                    })
                    .await
                }
            }
        };
        if timeout_at(deadline, waiting).await.is_err() {
            let why = if last.is_empty() {
                String::new()
            } else {
                format!(": {last}")
            };
            return Err(format!(
                "health check errored: checking for {check}: not ready after {}{why}",
                shown(plan.timeout)
            ));
        }
    }
    Ok(())
}

/// Tries until it works.
async fn tries<F: Future<Output = Result<(), String>>>(
    started: Instant,
    last: &mut String,
    attempt: impl Fn() -> F,
) {
    while let Err(e) = attempt().await {
        *last = e;
        sleep((started.elapsed() / PAUSE_PART).clamp(PAUSE.0, PAUSE.1)).await;
    }
}

async fn connect(target: &Target<'_>, port: u16) -> io::Result<Option<TcpStream>> {
    // Without network there is nothing to be reached, and nothing to wait for.
    let Some(door) = target.door else {
        return Ok(None);
    };
    timeout(CONNECT, door.connect(port))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map(Some)
}

fn dial_error(target: &Target<'_>, port: u16, e: &io::Error) -> String {
    let text = match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => e.to_string(),
    };
    format!("dial tcp {}:{port}: {text}", target.hostname)
}

async fn port_open(target: &Target<'_>, port: u16) -> Result<(), String> {
    connect(target, port)
        .await
        .map(drop)
        .map_err(|e| dial_error(target, port, &e))
}

async fn http_answers(target: &Target<'_>, http: &Http) -> Result<(), String> {
    let Some(mut stream) = connect(target, http.port)
        .await
        .map_err(|e| dial_error(target, http.port, &e))?
    else {
        return Ok(());
    };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: bodkin\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        http.path, target.hostname, http.port
    );
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        (&mut stream)
            .take(STATUS_LINE as u64)
            .read_to_end(&mut head)
            .await?;
        Ok::<_, io::Error>(head)
    };
    let head = match timeout(ANSWER, asked).await {
        Ok(Ok(head)) => head,
        Ok(Err(e)) => return Err(format!("GET {}: {e}", http.path)),
        Err(_) => {
            return Err(format!(
                "GET {}: no answer within {}",
                http.path,
                shown(ANSWER)
            ));
        }
    };
    let status =
        status(&head).ok_or_else(|| format!("GET {}: the answer is not HTTP", http.path))?;
    let wanted = http
        .status
        .map_or((200..400).contains(&status), |s| s == status);
    if wanted {
        Ok(())
    } else {
        Err(format!("GET {}: status {status}", http.path))
    }
}

/// The status of an answer that begins like this.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\r' || *b == b'\n').next()?;
    let mut words = std::str::from_utf8(line.get(..line.len().min(16))?)
        .ok()?
        .split(' ');
    words.next()?.strip_prefix("HTTP/")?;
    words.next()?.parse().ok()
}

async fn command_succeeds(
    target: &Target<'_>,
    argv: &[String],
    limit: Duration,
) -> Result<(), String> {
    let (started, answer) = oneshot::channel();
    let gone = || "the container is gone".to_owned();
    target
        .probes
        .send(Probe {
            argv: argv.to_vec(),
            terminal: None,
            started,
        })
        .await
        .map_err(|_| gone())?;
    let mut child = answer.await.map_err(|_| gone())??;
    match timeout(limit, child.wait()).await {
        Ok(Ok(exit)) if exit.code() == 0 => Ok(()),
        Ok(Ok(exit)) => Err(format!("exit code: {}", exit.code())),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no end within {}", shown(limit))),
    }
}

/// Waits for a moment until somebody holds the port.
async fn udp(pid: i32, port: u16, started: Instant) {
    let bound = || {
        ["udp", "udp6"].iter().any(|table| {
            udp_bound(
                &std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default(),
                port,
            )
        })
    };
    let waiting = tries_quietly(started, bound);
    // Too long is as good as bound: see [`UDP_PATIENCE`].
    let _ = timeout(UDP_PATIENCE, waiting).await;
}

async fn tries_quietly(started: Instant, done: impl Fn() -> bool) {
    while !done() {
        sleep((started.elapsed() / PAUSE_PART).clamp(PAUSE.0, PAUSE.1)).await;
    }
}

/// Is the port in the kernel's table of sockets?
fn udp_bound(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        line.split_whitespace()
            .nth(1)
            .is_some_and(|local| local.ends_with(&suffix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read() {
        assert_eq!(
            status(b"HTTP/1.1 204 No Content\r\nServer: x\r\n"),
            Some(204)
        );
        assert_eq!(status(b"HTTP/1.0 200\n\nhi"), Some(200));
        for no in [
            &b""[..],
            b"SSH-2.0-x",
            b"HTTP/1.1",
            b"HTTP/1.1 ok",
            b"\xff\xfe",
        ] {
            assert_eq!(status(no), None);
        }
    }

    #[test]
    fn bound_udp_ports_are_found_in_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue\n  \
                     423: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0\n";
        assert!(udp_bound(table, 53));
        assert!(!udp_bound(table, 5353) && !udp_bound("", 53));
    }
}
