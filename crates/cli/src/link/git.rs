//! Credentials for Git repositories, from the helpers that the user's `git` is configured with.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
    time::Duration,
};

use wire::{LinkError, LinkErrorKind, link::Credentials};

use super::docker::finish;

/// How long the helpers may think.
const HELPERS: Duration = Duration::from_secs(30);

/// The credentials for a repository; none when no helper has any.
///
/// # Errors
/// A request that is none, no `git` on this machine, helpers that hang.
pub fn credentials(
    protocol: &str,
    host: &str,
    path: &str,
) -> Result<Option<Credentials>, LinkError> {
    fill(
        Command::new("git"),
        &question(protocol, host, path)?,
        HELPERS,
    )
}

/// What helpers are asked.
fn question(protocol: &str, host: &str, path: &str) -> Result<String, LinkError> {
    let parts = [protocol, host, path];
    // A line break would be another question.
    let sound = matches!(protocol, "http" | "https")
        && !host.is_empty()
        && parts.iter().all(|p| !p.contains(['\n', '\r', '\0']));
    if !sound {
        return Err(LinkError::new(
            LinkErrorKind::Invalid,
            "not a repository that git helpers have credentials for",
        ));
    }
    let mut question = format!("protocol={protocol}\nhost={host}\n");
    if !path.is_empty() {
        question.push_str(&format!("path={path}\n"));
    }
    question.push('\n');
    Ok(question)
}

fn fill(
    mut git: Command,
    question: &str,
    limit: Duration,
) -> Result<Option<Credentials>, LinkError> {
    let failed = |why: String| {
        LinkError::new(
            LinkErrorKind::Io,
            format!("cannot ask `git credential fill`: {why}"),
        )
    };
    let mut child = git
        .args(["credential", "fill"])
        // Nobody sits at a terminal for this.
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "echo")
        .env("SSH_ASKPASS", "echo")
        .env("GCM_INTERACTIVE", "never")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => LinkError::new(
                LinkErrorKind::NotFound,
                "there is no `git` on the client's machine to ask for credentials",
            ),
            _ => failed(e.to_string()),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its question fails by itself.
        let _ = stdin.write_all(question.as_bytes());
    }
    let (output, ok) = finish(child, limit).map_err(|e| match e.kind() {
        io::ErrorKind::TimedOut => failed(format!("no answer within {} s", limit.as_secs())),
        _ => failed(e.to_string()),
    })?;
    Ok(if ok { answer(&output) } else { None })
}

/// Reads `key=value` lines; none without a password.
fn answer(output: &[u8]) -> Option<Credentials> {
    let text = std::str::from_utf8(output).ok()?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    // `echo` stands in for a person and answers with the question: that is no password.
    let secret = value("password").filter(|p| !p.is_empty() && !p.starts_with("Password for "))?;
    Some(Credentials {
        username: value("username").unwrap_or_default().to_owned(),
        secret: secret.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `git` whose only helper is this.
    fn git(helper: &str) -> Command {
        let mut git = Command::new("git");
        git.env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["-c", &format!("credential.helper={helper}")]);
        git
    }

    fn ask(helper: &str, limit: Duration) -> Result<Option<(String, String)>, LinkError> {
        let question = question("https", "h.example:8443", "a/b.git").expect("a question");
        fill(git(helper), &question, limit).map(|c| c.map(|c| (c.username, c.secret)))
    }

    #[test]
    fn helpers_are_asked_and_hear_the_host() {
        let helper = "!f() { while read l; do case $l in host=*) h=${l#host=};; esac; done; \
                      echo username=me; echo password=for-$h; }; f";
        assert_eq!(
            ask(helper, HELPERS).expect("an answer"),
            Some(("me".into(), "for-h.example:8443".into()))
        );
    }

    #[test]
    fn without_a_helper_there_is_nothing_and_nobody_is_asked() {
        assert_eq!(ask("", HELPERS).expect("an answer"), None);
    }

    #[test]
    fn a_helper_that_hangs_is_given_up() {
        let e = ask("!sleep 60 #", Duration::from_millis(100)).expect_err("too long");
        assert!(e.message.contains("no answer within"), "{}", e.message);
    }

    #[test]
    fn questions_have_no_further_lines() {
        for (protocol, host, path) in [
            ("https", "h\nhost=evil", ""),
            ("https", "h", "p\npassword=x"),
            ("ssh", "h", ""),
            ("https", "", ""),
        ] {
            assert!(question(protocol, host, path).is_err(), "{host}{path}");
        }
    }
}
