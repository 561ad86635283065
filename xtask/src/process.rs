//! Running other programs: saying what they said when they fail, and ending those that outlive us.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::files;

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

    /// Waits ten seconds for the end; true if it came.
    pub(crate) fn wait(&self) -> Result<bool> {
        let limit = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let ready = rustix::event::poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&limit));
        Ok(ready.with_context(|| format!("cannot wait for the {}", self.name))? > 0)
    }

    /// Asks the process to end, and ends it by force if it does not.
    pub(crate) fn end(&self) -> Result<()> {
        for signal in [Signal::TERM, Signal::KILL] {
            match rustix::process::pidfd_send_signal(&self.fd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => return Err(e).with_context(|| format!("cannot stop the {}", self.name)),
            }
            if self.wait()? {
                return Ok(());
            }
        }
        bail!("the {} did not end", self.name)
    }
}
