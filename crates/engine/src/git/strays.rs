//! Programs that outlived the engine that started them.
//!
//! A killed engine cannot end its `git`, nor the helpers of that. Each of them has the engine's own empty home directory in its
//! environment, by which the next engine on the same state directory knows them.

use std::{
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// The home directory of every `git`, in the engine's run directory.
pub(crate) const HOME: &str = "git-home";
/// How long killed ones may take to end.
const END: Duration = Duration::from_secs(5);

/// Kills all processes whose home this is, and waits for their end. To be called when no engine uses it.
pub(crate) fn end(home: &Path) {
    if !home.exists() {
        return;
    }
    let marker = [b"HOME=", home.as_os_str().as_bytes()].concat();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return;
    };
    let mut killed = Vec::new();
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        // Opened first: what is read afterwards is of this process and no later one of its number.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        if environment.split(|b| *b == 0).any(|v| v == marker)
            && pidfd_send_signal(&process, Signal::KILL).is_ok()
        {
            killed.push(process);
        }
    }
    if killed.is_empty() {
        return;
    }
    tracing::info!(
        "ended {} git processes of an engine that was killed",
        killed.len()
    );
    let deadline = Instant::now() + END;
    for process in &killed {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        // Whether it has ended in time changes nothing for the others.
        let _ = rustix::event::poll(&mut polled, Some(&left));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_processes_with_this_home_are_ended() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = dir.path().join("git-home");
        std::fs::create_dir(&home).expect("made");
        let start = |home: &Path| {
            let mut command = Command::new("sleep");
            command.arg("1000").env("HOME", home);
            command.spawn().expect("sleep")
        };
        let mut own = start(&home);
        let mut other = start(&home.join("below"));
        end(&home);
        let status = own.wait().expect("it ended");
        assert!(!status.success());
        assert!(other.try_wait().expect("a child").is_none());
        other.kill().expect("killed");
        other.wait().expect("it ended");
    }
}
