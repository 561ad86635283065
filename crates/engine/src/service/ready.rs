//! When a service counts as started: decided here from its ports, its labels, its health check and what the API was told.
//! Pure; `health` does it.
//!
//! Labels of the container, so that clients of any version can say it:
//!
//! | label | means |
//! |---|---|
//! | `bodkin.ready.http=8080/health` | GET answers with a status from 200 to 399; `8080/health 204` wants that one |
//! | `bodkin.ready.log=ready for connections` | a line of output contains this |
//! | `bodkin.ready.log.count=2` | … so many of them |
//! | `bodkin.ready.exec=pg_isready -U postgres` | this command of a shell succeeds in the container; a JSON list runs as it is |
//! | `bodkin.ready.timeout=90s` | all of it within this time, instead of 15 minutes |

use std::{fmt, sync::Arc, time::Duration};

use super::healthcheck::Healthcheck;
use crate::container::{Port, config};

/// Longest start when nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Longest run of a command that asks.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// What is asked for beside ports and health check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To be answered over HTTP.
    pub http: Vec<Http>,
    /// To be seen in the output.
    pub log: Vec<Line>,
    /// To succeed.
    pub exec: Vec<Vec<String>>,
    /// Within this time.
    pub timeout: Option<Duration>,
}

/// A request that is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Which port.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// The status; any from 200 to 399 when not said.
    pub status: Option<u16>,
}

/// Lines that are to be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What they contain.
    pub text: String,
    /// How many.
    pub count: u32,
}

/// One thing to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    Port {
        port: u16,
        udp: bool,
    },
    Http(Http),
    Log(Line),
    Command {
        argv: Vec<String>,
        timeout: Duration,
    },
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { port, udp } => {
                write!(f, "port {port}/{}", if *udp { "udp" } else { "tcp" })
            }
            Self::Http(h) => write!(f, "http {}{}", h.port, h.path),
            Self::Log(l) if l.count == 1 => write!(f, "a line with `{}`", l.text),
            Self::Log(l) => write!(f, "{} lines with `{}`", l.count, l.text),
            Self::Command { argv, .. } => write!(f, "the command `{}`", argv.join(" ")),
        }
    }
}

/// What to wait for, in order, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) checks: Vec<Check>,
    pub(super) timeout: Duration,
}

/// Decides. A health check stands for the ports.
pub(super) fn plan(ports: &[Port], healthcheck: Option<&Healthcheck>, wanted: &[&Wanted]) -> Plan {
    let mut checks = Vec::new();
    let mut timeout = TIMEOUT;
    match healthcheck {
        Some(h) => {
            checks.push(Check::Command {
                argv: h.command(),
                timeout: h.timeout,
            });
            timeout = timeout.min(h.start_period + h.interval.saturating_mul(h.retries));
        }
        None => {
            let waited = ports.iter().filter(|p| !p.skip_healthcheck);
            checks.extend(waited.map(|p| Check::Port {
                port: p.port,
                udp: p.udp,
            }));
        }
    }
    for w in wanted {
        checks.extend(w.http.iter().cloned().map(Check::Http));
        checks.extend(w.log.iter().cloned().map(Check::Log));
        checks.extend(w.exec.iter().map(|argv| Check::Command {
            argv: argv.clone(),
            timeout: COMMAND_TIMEOUT,
        }));
        timeout = w.timeout.unwrap_or(timeout);
    }
    Plan { checks, timeout }
}

/// Why a label is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot understand the label `{label}={value}`: {why}")]
pub struct LabelError {
    label: &'static str,
    value: String,
    why: &'static str,
}

/// Reads a container's labels.
pub(super) fn from_labels(labels: &[(Arc<str>, Arc<str>)]) -> Result<Wanted, LabelError> {
    let mut wanted = Wanted::default();
    let get = |name: &str| {
        config::get(labels, name)
            .map(|v| v.trim().to_owned())
            .filter(|v| !v.is_empty())
    };
    let bad = |label, value: &str, why| LabelError {
        label,
        value: value.to_owned(),
        why,
    };
    if let Some(v) = get("bodkin.ready.http") {
        wanted.http.push(http(&v).ok_or_else(|| {
            bad(
                "bodkin.ready.http",
                &v,
                "expected something like `8080/health`",
            )
        })?);
    }
    if let Some(text) = get("bodkin.ready.log") {
        let count = match get("bodkin.ready.log.count") {
            None => 1,
            Some(n) => n
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| bad("bodkin.ready.log.count", &n, "expected a number"))?,
        };
        wanted.log.push(Line { text, count });
    }
    if let Some(v) = get("bodkin.ready.exec") {
        wanted.exec.push(command(&v).ok_or_else(|| {
            bad(
                "bodkin.ready.exec",
                &v,
                "expected a command, or a JSON list of texts",
            )
        })?);
    }
    if let Some(v) = get("bodkin.ready.timeout") {
        wanted.timeout = Some(
            duration(&v)
                .ok_or_else(|| bad("bodkin.ready.timeout", &v, "expected a time such as `90s`"))?,
        );
    }
    Ok(wanted)
}

/// `8080/health 204`
pub(super) fn http(text: &str) -> Option<Http> {
    let (target, status) = match text.split_once(char::is_whitespace) {
        Some((t, s)) => (
            t,
            Some(s.trim().parse().ok().filter(|s| (100..600).contains(s))?),
        ),
        None => (text, None),
    };
    let (port, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    let path = if path.is_empty() { "/" } else { path };
    // It becomes part of a request line.
    let clean = path.bytes().all(|b| b.is_ascii_graphic());
    let port = port.parse().ok().filter(|p| *p > 0)?;
    clean.then(|| Http {
        port,
        path: path.to_owned(),
        status,
    })
}

/// A shell's command, or a JSON list that runs as it is.
fn command(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') {
        return serde_json::from_str::<Vec<String>>(text)
            .ok()
            .filter(|a| !a.is_empty());
    }
    Some(vec!["/bin/sh".into(), "-c".into(), text.into()])
}

/// `1h2m3.5s`, `500ms`, or a number of seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match rest.get(..letters)? {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = rest.get(letters..)?;
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
    }
    Some(total)
}

/// A duration as Go prints it: `1m30s`, `500ms`.
pub(super) fn shown(d: Duration) -> String {
    if d < Duration::from_secs(1) {
        return if d.is_zero() {
            "0s".to_owned()
        } else {
            format!("{}ms", d.as_secs_f64() * 1e3)
        };
    }
    let (minutes, seconds) = (
        d.as_secs() / 60,
        d.as_secs_f64() - (d.as_secs() / 60 * 60) as f64,
    );
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(Arc<str>, Arc<str>)> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect()
    }

    #[test]
    fn labels_say_when_a_service_is_ready() {
        let wanted = from_labels(&labels(&[
            ("bodkin.ready.http", "8080/health?full 204"),
            ("bodkin.ready.log", "ready for connections"),
            ("bodkin.ready.log.count", "2"),
            ("bodkin.ready.exec", "pg_isready -U postgres"),
            ("bodkin.ready.timeout", "1m30s"),
            ("other", "x"),
        ]));
        let expected = Wanted {
            http: vec![Http {
                port: 8080,
                path: "/health?full".into(),
                status: Some(204),
            }],
            log: vec![Line {
                text: "ready for connections".into(),
                count: 2,
            }],
            exec: vec![vec![
                "/bin/sh".into(),
                "-c".into(),
                "pg_isready -U postgres".into(),
            ]],
            timeout: Some(Duration::from_secs(90)),
        };
        assert_eq!(wanted, Ok(expected));
        assert_eq!(from_labels(&labels(&[("a", "b")])), Ok(Wanted::default()));
    }

    #[test]
    fn labels_that_say_nothing_sensible_are_refused() {
        for (label, value) in [
            ("bodkin.ready.http", "health"),
            ("bodkin.ready.http", "0/x"),
            ("bodkin.ready.http", "80/a\u{7f}b"),
            ("bodkin.ready.http", "80/ 99"),
            ("bodkin.ready.exec", "[1]"),
            ("bodkin.ready.timeout", "soon"),
        ] {
            let e = from_labels(&labels(&[(label, value)])).expect_err(value);
            assert!(
                e.to_string().starts_with(&format!(
                    "cannot understand the label `{label}={value}`: expected"
                )),
                "{e}"
            );
        }
    }

    #[test]
    fn durations_are_read_and_shown_as_go_does() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("30", 30_000),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "x", "1x", "-1s", "1s2"] {
            assert_eq!(duration(text), None, "{text}");
        }
        for (seconds, text) in [
            (0.0, "0s"),
            (0.5, "500ms"),
            (30.0, "30s"),
            (90.0, "1m30s"),
            (3600.0, "1h0m0s"),
        ] {
            assert_eq!(shown(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn ports_are_waited_for_unless_told_otherwise_or_a_health_check_decides() {
        let port = |port, skip_healthcheck| Port {
            port,
            udp: false,
            description: None,
            skip_healthcheck,
        };
        let ports = [port(80, false), port(81, true)];
        let p = plan(&ports, None, &[]);
        assert_eq!(
            p,
            Plan {
                checks: vec![Check::Port {
                    port: 80,
                    udp: false
                }],
                timeout: TIMEOUT
            }
        );
        let check = Healthcheck {
            args: vec!["ok".into()],
            ..Healthcheck::default()
        };
        let p = plan(
            &ports,
            Some(&check),
            &[&Wanted {
                timeout: Some(Duration::from_secs(5)),
                ..Wanted::default()
            }],
        );
        assert_eq!(p.checks.len(), 1);
        assert!(matches!(&p.checks[0], Check::Command { argv, .. } if argv == &["ok"]));
        assert_eq!(p.timeout, Duration::from_secs(5));
    }
}
