//! Running other programs: saying what they said when they fail, and ending those that outlive us.

use std::fs;
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

    /// Asks the process to end and waits; ends it by force if it does not within ten seconds. True if there was one.
    pub(crate) fn stop(&self) -> Result<bool> {
        let Some(pid) = self.running()? else {
            fs::remove_file(&self.pid_file).ok();
            return Ok(false);
        };
        let context = || {
            format!(
                "cannot stop the {} (process {})",
                self.name,
                pid.as_raw_nonzero()
            )
        };
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).with_context(context)?;
        for signal in [Signal::TERM, Signal::KILL] {
            match rustix::process::pidfd_send_signal(&handle, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => return Err(e).with_context(context),
            }
            let limit = Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            if rustix::event::poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))
                .with_context(context)?
                > 0
            {
                fs::remove_file(&self.pid_file).ok();
                return Ok(true);
            }
        }
        bail!(
            "the {} (process {}) did not end",
            self.name,
            pid.as_raw_nonzero()
        )
    }
}
