//! Secrets kept on this machine: variables, files and what commands print.

use std::{
    os::unix::{
        ffi::OsStrExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use wire::{LinkError, LinkErrorKind, link::FileBytes};

use super::{docker, read::small_file};

/// Most bytes of a secret.
const MAX: u64 = 512_000;
/// How long a command may take: it may ask its user something.
const LIMIT: Duration = Duration::from_secs(120);

/// An answer: what is told of the value, and the value.
type Answer = Result<(FileBytes, Vec<u8>), LinkError>;

fn whole(bytes: Vec<u8>) -> (FileBytes, Vec<u8>) {
    let about = FileBytes {
        size: bytes.len() as u64,
        mode: 0o600,
        mtime_ns: 0,
    };
    (about, bytes)
}

/// The value of a variable.
///
/// # Errors
/// When it is not set.
pub fn variable(name: &str) -> Answer {
    match std::env::var_os(name) {
        Some(value) => Ok(whole(value.as_bytes().to_vec())),
        None => Err(LinkError::new(
            LinkErrorKind::NotFound,
            format!("the variable {name} is not set on the client's machine"),
        )),
    }
}

/// A file's content.
///
/// # Errors
/// When it cannot be read.
pub fn file(path: &Path) -> Answer {
    let path = match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_owned(),
    };
    small_file(&path, MAX)
}

/// What a command prints, without its last line end.
///
/// # Errors
/// When it cannot be started, takes too long or fails. What it prints is never told.
pub fn command(command: &str, workdir: &Path, limit: Option<Duration>) -> Answer {
    let failed = |why: &str| {
        LinkError::new(
            LinkErrorKind::Io,
            format!("the command of the secret {why}"),
        )
    };
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .current_dir(workdir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| failed(&format!("cannot be started: {e}")))?;
    let (mut output, status) = docker::finish_most(child, limit.unwrap_or(LIMIT), MAX + 1)
        .map_err(|e| failed(&format!("did not end: {e}")))?;
    // First: a command whose output is not read any more fails because of that.
    if output.len() as u64 > MAX {
        return Err(failed(&format!("prints more than the {MAX} bytes allowed")));
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => {}
        (Some(code), _) => return Err(failed(&format!("failed with exit code {code}"))),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            return Err(failed(&format!("was ended by signal {signal}")));
        }
    }
    if output.ends_with(b"\n") {
        output.pop();
        if output.ends_with(b"\r") {
            output.pop();
        }
    }
    Ok(whole(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_print_secrets_and_failures_say_nothing_of_them() {
        let run = |text: &str| {
            command(text, Path::new("/"), Some(Duration::from_secs(5)))
                .map(|(_, b)| String::from_utf8_lossy(&b).into_owned())
                .map_err(|e| e.message)
        };
        assert_eq!(run("printf 'a\\nb\\n'").as_deref(), Ok("a\nb"));
        let error = run("echo secret; exit 3").expect_err("it failed");
        assert!(
            error.contains("failed with exit code 3") && !error.contains("secret;"),
            "{error}"
        );
        let error = run("yes").expect_err("it is endless");
        assert!(error.contains("more than the 512000 bytes"), "{error}");
        let error = run("kill -9 $$").expect_err("it was killed");
        assert!(error.contains("signal 9"), "{error}");
        let slow = command("sleep 60", Path::new("/"), Some(Duration::from_millis(20)));
        assert!(slow.expect_err("slow").message.contains("did not end"));
        assert!(
            variable("SURELY_NOT_SET_HERE")
                .expect_err("unset")
                .message
                .contains("is not set")
        );
    }
}
