//! `run`: a command with a session in its environment.

use std::{ffi::OsString, io, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{Opened, Setup, block_on, ending, lost};
use crate::{Outcome, args, error::Failure, proxy};

/// Runs the command.
///
/// # Errors
/// No engine, no such program, an interrupt.
pub fn run(setup: Setup, run: args::Run) -> Result<Outcome, Failure> {
    let stderr = setup.stderr.clone();
    block_on(&stderr, async move {
        let mut signal = Box::pin(ending()?);
        let interrupted = || Failure::cancelled("run canceled");
        let (listener, port) = proxy::bind()
            .await
            .map_err(|e| Failure::new(format!("cannot listen on the loopback: {e}")))?;
        let (opened, upstream, token) = tokio::select! {
            opened = Opened::open(&setup) => opened?,
            _ = &mut signal => return Err(interrupted()),
        };
        // Inside a session the child gets that one; its port works as well as one of our own.
        let port = setup.nested.as_ref().map_or(port, |n| n.port);
        let mut child = spawn(&run.command, port, &token)?;
        let ended = tokio::select! {
            status = child.wait() => Ok(status),
            by = &mut signal => {
                end(&mut child, by, run.cleanup_timeout).await;
                Err(interrupted())
            }
            () = opened.lost() => {
                end(&mut child, Signal::TERM.as_raw(), run.cleanup_timeout).await;
                Err(lost())
            }
            () = proxy::serve(listener, upstream) => Err(Failure::new("the session's port closed")),
        };
        opened.close().await;
        let status =
            ended?.map_err(|e| Failure::new(format!("cannot wait for the command: {e}")))?;
        Ok(Outcome::Exit(exit_code(status)))
    })
}

fn spawn(command: &[OsString], port: u16, token: &str) -> Result<Child, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::new("no command to run"));
    };
    let spawned = Command::new(program)
        .args(arguments)
        .env("DAGGER_SESSION_PORT", port.to_string())
        .env("DAGGER_SESSION_TOKEN", token)
        .kill_on_drop(true)
        .spawn();
    spawned.map_err(|e| {
        let name = program.to_string_lossy();
        Failure::new(match e.kind() {
            io::ErrorKind::NotFound if name.contains('/') => {
                format!("exec: \"{name}\": no such file or directory")
            }
            io::ErrorKind::NotFound => {
                format!("exec: \"{name}\": executable file not found in $PATH")
            }
            _ => format!("exec: \"{name}\": {e}"),
        })
    })
}

/// Passes a signal on, and ends a child that does not end by it. An interrupt from the terminal has reached it already; a
/// second one is harmless to nobody who handles the first.
async fn end(child: &mut Child, signal: i32, limit: std::time::Duration) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // It may have ended just now.
        let _ = kill_process(pid, signal);
    }
    if timeout(limit, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// The child's own status; `128 + n` when signal `n` ended it, as shells say it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_s_status_is_kept() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
