//! Running other programs: saying what they said when they fail, and ending those that outlive us.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::{files, workspace};

/// How long a process that was asked to end may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// cargo in the repository's root, without what the cargo that runs us has set for us alone: build scripts that watch such a
/// variable would run again each time.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// The command line as a person would type it, for messages.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    let mut line = words.join(" ");
    if let Some((cut, _)) = line.char_indices().nth(300) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

/// Runs to the end and returns standard output; a failing exit is an error with the end of standard error.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .with_context(|| format!("cannot run `{}`", line(command)))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&stderr);
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("`{}` failed ({status})\n{}", line(command), tail.join("\n"));
    }
    Ok(stdout)
}

/// As [`output`], for programs that answer in UTF-8.
pub(crate) fn output_text(command: &mut Command) -> Result<String> {
    let bytes = output(command)?;
    String::from_utf8(bytes).with_context(|| format!("output of `{}` is not UTF-8", line(command)))
}

/// Runs to the end and gives each line of standard output to `each`. After `limit` the program and all that it started are
/// killed, which is an error. Standard error goes where `command` says.
pub(crate) fn lines(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> Result<ExitStatus> {
    let name = line(command);
    let context = || format!("cannot run `{name}`");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(context)?;
    let stdout = child.stdout.take().with_context(context)?;
    let pid = Pid::from_child(&child);
    let handle = Handle::open(pid, &name)?;
    let ended = std::thread::scope(|scope| {
        let watch = scope.spawn(|| -> Result<bool> {
            let ended = handle.wait(limit)?;
            if !ended {
                for pid in family(pid) {
                    Handle::open(pid, "late program")
                        .and_then(|p| p.kill())
                        .ok();
                }
            }
            Ok(ended)
        });
        let mut reader = BufReader::new(stdout);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).with_context(context)? > 0 {
            each(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']));
            bytes.clear();
        }
        watch
            .join()
            .unwrap_or_else(|e| std::panic::resume_unwind(e))
    })?;
    let status = child.wait().with_context(context)?;
    if !ended {
        bail!("`{name}` did not end within {} s", limit.as_secs());
    }
    Ok(status)
}

/// `pid` and its descendants.
fn family(pid: Pid) -> Vec<Pid> {
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name before may hold spaces and brackets.
            let (_, rest) = stat.rsplit_once(')')?;
            Some((pid, rest.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect();
    descendants(pid.as_raw_nonzero().get(), &parents)
        .into_iter()
        .filter_map(Pid::from_raw)
        .collect()
}

/// `root` and all below it, by pairs of child and parent.
fn descendants(root: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents.iter().filter(|(_, p)| *p == parent);
        found.extend(children.map(|(child, _)| *child));
        next += 1;
    }
    found
}

/// A program that outlives us, known by its pid file. `mark` is a word of its command line: a pid that was given to some
/// other program since is not mistaken for it.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) pid_file: PathBuf,
    pub(crate) mark: String,
}

impl Service {
    pub(crate) fn record(&self, pid: u32) -> Result<()> {
        files::write(&self.pid_file, format!("{pid}\n").as_bytes())
    }

    /// The process, if it runs.
    pub(crate) fn running(&self) -> Result<Option<Pid>> {
        let Ok(text) = fs::read_to_string(&self.pid_file) else {
            return Ok(None);
        };
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid =
            pid.with_context(|| format!("`{}` holds no process number", self.pid_file.display()))?;
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        Ok(line
            .split(|b| *b == 0)
            .any(|word| word == self.mark.as_bytes())
            .then_some(pid))
    }

    /// Ends the process. True if there was one.
    pub(crate) fn stop(&self) -> Result<bool> {
        let running = self.running()?;
        if let Some(pid) = running {
            Handle::open(pid, self.name)?.end()?;
        }
        fs::remove_file(&self.pid_file).ok();
        Ok(running.is_some())
    }
}

/// A process that cannot be confused with a later one of the same number.
pub(crate) struct Handle {
    fd: OwnedFd,
    /// For messages.
    name: String,
}

impl Handle {
    pub(crate) fn open(pid: Pid, name: &str) -> Result<Self> {
        let name = format!("{name} (process {})", pid.as_raw_nonzero());
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        Ok(Handle {
            fd: fd.with_context(|| format!("cannot watch the {name}"))?,
            name,
        })
    }

    /// Waits at most this long for the end; true if it came.
    pub(crate) fn wait(&self, limit: Duration) -> Result<bool> {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let ready = rustix::event::poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&limit));
        Ok(ready.with_context(|| format!("cannot wait for the {}", self.name))? > 0)
    }

    /// Asks the process to end, and ends it by force if it does not.
    pub(crate) fn end(&self) -> Result<()> {
        for signal in [Signal::TERM, Signal::KILL] {
            self.signal(signal)?;
            if self.wait(PATIENCE)? {
                return Ok(());
            }
        }
        bail!("the {} did not end", self.name)
    }

    /// Ends the process by force, without waiting.
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("cannot stop the {}", self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_one_by_one_and_the_status_last() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo a; printf b; exit 3"]);
        let status = lines(&mut command, PATIENCE, |l| seen.push(l.to_owned())).unwrap();
        assert_eq!(
            (seen, status.code()),
            (vec!["a".into(), "b".into()], Some(3))
        );
    }

    #[test]
    fn a_late_program_goes_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000; true"]);
        let error = lines(&mut command, Duration::from_millis(50), |_| ()).unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
    }

    #[test]
    fn descendants_are_found_through_generations() {
        assert_eq!(
            descendants(1, &[(4, 3), (2, 1), (3, 2), (9, 8)]),
            [1, 2, 3, 4]
        );
    }
}
