//! Registry credentials as `docker login` left them: the configuration file and its helper programs.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose};
use serde::Deserialize;
use wire::{LinkError, LinkErrorKind, link::Credentials};

/// How long a helper may think. Some ask the user.
const HELPER: Duration = Duration::from_secs(60);
/// Largest answer of a helper.
const ANSWER: u64 = 256 << 10;
/// What Docker calls Docker Hub in its configuration.
const HUB: &str = "https://index.docker.io/v1/";
/// Names of Docker Hub elsewhere.
const HUB_NAMES: &[&str] = &["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Where the configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The configuration file, if this user can have one.
    pub config: Option<PathBuf>,
    /// A configuration in the environment (`DOCKER_AUTH_CONFIG`), asked after the file.
    pub inline: Option<String>,
}

impl Place {
    /// As this process's environment says.
    pub fn of_process() -> Self {
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let config = match (var("DOCKER_CONFIG"), var("HOME")) {
            (Some(dir), _) => Some(Path::new(&dir).join("config.json")),
            (None, Some(home)) => Some(Path::new(&home).join(".docker/config.json")),
            (None, None) => None,
        };
        Self {
            config,
            inline: var("DOCKER_AUTH_CONFIG"),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(rename = "credHelpers")]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(…)")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The credentials for a registry host; none when there are none.
///
/// # Errors
/// An unreadable configuration, a helper that fails.
pub fn credentials(place: &Place, host: &str) -> Result<Option<Credentials>, LinkError> {
    if let Some(path) = &place.config {
        match std::fs::read(path) {
            Ok(text) => {
                if let Some(found) = in_config(&parse(&text, &path.display().to_string())?, host)? {
                    return Ok(Some(found));
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(e) => return Err(LinkError::io("open", path, &e)),
        }
    }
    match &place.inline {
        Some(text) => in_config(&parse(text.as_bytes(), "DOCKER_AUTH_CONFIG")?, host),
        None => Ok(None),
    }
}

fn parse(text: &[u8], name: &str) -> Result<Config, LinkError> {
    // The parser's own message may quote the file, which holds passwords: only the place is told.
    serde_json::from_slice(text).map_err(|e| {
        let message = format!(
            "cannot understand the docker configuration `{name}` at line {} column {}",
            e.line(),
            e.column()
        );
        LinkError::new(LinkErrorKind::Invalid, message)
    })
}

/// The names under which a host may be configured, as Docker writes them.
fn keys(host: &str) -> Vec<String> {
    if HUB_NAMES.contains(&host) {
        let mut keys = vec![HUB.to_owned()];
        keys.extend(HUB_NAMES.iter().map(|n| (*n).to_owned()));
        return keys;
    }
    vec![host.to_owned()]
}

/// `https://host/v2/` → `host`: old versions of Docker and other tools write addresses.
fn bare(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    key.split('/').next().unwrap_or_default()
}

fn in_config(config: &Config, host: &str) -> Result<Option<Credentials>, LinkError> {
    let keys = keys(host);
    let helper = keys
        .iter()
        .find_map(|k| config.cred_helpers.get(k))
        .or(config.creds_store.as_ref());
    if let Some(helper) = helper.filter(|h| !h.is_empty())
        && let Some(key) = keys.first()
        && let Some(found) = ask(helper, key, HELPER)?
    {
        return Ok(Some(found));
    }
    let exact = keys.iter().find_map(|k| config.auths.get(k));
    let auth = exact.or_else(|| {
        config
            .auths
            .iter()
            .find(|(k, _)| keys.iter().any(|h| h == bare(k)))
            .map(|(_, a)| a)
    });
    Ok(auth.and_then(stored))
}

/// What the file itself holds for a host.
fn stored(auth: &Auth) -> Option<Credentials> {
    let given = |v: &Option<String>| v.clone().filter(|v| !v.is_empty());
    if let Some(secret) = given(&auth.identity_token) {
        return Some(Credentials {
            username: "<token>".into(),
            secret,
        });
    }
    if let Some(encoded) = given(&auth.auth) {
        let encoded = encoded.trim_end_matches('=');
        let decoded = general_purpose::STANDARD_NO_PAD.decode(encoded).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, secret) = text.split_once(':')?;
        return Some(Credentials {
            username: username.into(),
            secret: secret.trim_end_matches('\0').into(),
        });
    }
    Some(Credentials {
        username: given(&auth.username)?,
        secret: given(&auth.password)?,
    })
}

/// Asks `docker-credential-<helper>`.
fn ask(helper: &str, key: &str, limit: Duration) -> Result<Option<Credentials>, LinkError> {
    if helper.contains('/') {
        let message = format!("the docker credential helper `{helper}` is no program name");
        return Err(LinkError::new(LinkErrorKind::Invalid, message));
    }
    let program = format!("docker-credential-{helper}");
    let failed = |why: &str| {
        LinkError::new(
            LinkErrorKind::Io,
            format!("cannot ask `{program}` for `{key}`: {why}"),
        )
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(&e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its question answers without it.
        let _ = stdin.write_all(key.as_bytes());
    }
    let (output, ok) = finish(child, limit).map_err(|e| failed(&e.to_string()))?;
    if !ok {
        let text = String::from_utf8_lossy(&output).to_lowercase();
        if text.contains("not found") || text.contains("no credentials") {
            return Ok(None);
        }
        // What it said may name the secret's place, not the secret: helpers print errors on standard output.
        return Err(failed(text.lines().next().unwrap_or("it failed").trim()));
    }
    let answer: HelperAnswer = serde_json::from_slice(&output)
        .map_err(|_| failed("its answer is not what helpers answer"))?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(Credentials {
        username: answer.username,
        secret: answer.secret,
    }))
}

/// Waits for a child and its output, not longer than `limit`.
pub(super) fn finish(child: Child, limit: Duration) -> io::Result<(Vec<u8>, bool)> {
    finish_most(child, limit, ANSWER).map(|(output, status)| (output, status.success()))
}

/// Waits for a child and the first `most` bytes of its output, not longer than `limit`.
pub(super) fn finish_most(
    mut child: Child,
    limit: Duration,
    most: u64,
) -> io::Result<(Vec<u8>, ExitStatus)> {
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut out = Vec::new();
        if let Some(stdout) = stdout {
            // A cut answer is not understood, which is told.
            let _ = stdout.take(most).read_to_end(&mut out);
        }
        out
    });
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            let output = reader.join().unwrap_or_default();
            return Ok((output, status));
        }
        if Instant::now() > end {
            // It may have ended by itself just now.
            let _ = child.kill();
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn lookup(config: &str, host: &str) -> Result<Option<(String, String)>, String> {
        let place = Place {
            config: None,
            inline: Some(config.into()),
        };
        credentials(&place, host)
            .map(|c| c.map(|c| (c.username, c.secret)))
            .map_err(|e| e.message)
    }

    fn pair(a: &str, b: &str) -> Option<(String, String)> {
        Some((a.into(), b.into()))
    }

    #[test]
    fn logins_in_the_file_are_found_under_every_spelling() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnBhc3M6d2l0aDpjb2xvbnM="},
            "localhost:5000": {"username": "u", "password": "p"},
            "https://old.example/v2/": {"auth": "YTpi"},
            "gcr.io": {"identitytoken": "tok", "auth": "eDp5"},
            "empty.example": {}
        }}"#;
        assert_eq!(
            lookup(config, "docker.io").unwrap(),
            pair("hub", "pass:with:colons")
        );
        assert_eq!(
            lookup(config, "registry-1.docker.io").unwrap(),
            pair("hub", "pass:with:colons")
        );
        assert_eq!(lookup(config, "localhost:5000").unwrap(), pair("u", "p"));
        assert_eq!(lookup(config, "old.example").unwrap(), pair("a", "b"));
        assert_eq!(lookup(config, "gcr.io").unwrap(), pair("<token>", "tok"));
        assert_eq!(lookup(config, "empty.example").unwrap(), None);
        assert_eq!(lookup(config, "other.example").unwrap(), None);
    }

    #[test]
    fn a_broken_file_is_told_without_its_text() {
        let e = lookup(r#"{"auths": {"x": {"auth": hunter2}}}"#, "x").unwrap_err();
        assert!(
            e.contains("DOCKER_AUTH_CONFIG") && e.contains("line 1") && !e.contains("hunter2"),
            "{e}"
        );
    }

    #[test]
    fn no_file_is_no_login() {
        let place = Place {
            config: Some("/nowhere/config.json".into()),
            inline: None,
        };
        assert_eq!(credentials(&place, "docker.io").unwrap(), None);
    }

    /// A helper as a script; its name is its absolute path, which only this test may use.
    fn helper(body: &str, limit: Duration) -> Result<(Vec<u8>, bool), io::Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("helper");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let child = Command::new("/bin/sh")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        finish(child, limit)
    }

    #[test]
    fn a_helper_that_hangs_is_ended() {
        let e = helper("exec sleep 60", Duration::from_millis(50)).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        assert_eq!(helper("echo hi", HELPER).unwrap(), (b"hi\n".to_vec(), true));
        assert!(!helper("exit 1", HELPER).unwrap().1);
    }

    #[test]
    fn a_helper_is_a_program_name() {
        assert!(
            lookup(r#"{"credsStore": "../../tmp/x"}"#, "a")
                .unwrap_err()
                .contains("no program name")
        );
        let e = lookup(r#"{"credHelpers": {"a": "surely-not-installed"}}"#, "a").unwrap_err();
        assert!(e.contains("docker-credential-surely-not-installed"), "{e}");
    }
}
