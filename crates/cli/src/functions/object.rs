//! Objects that a flag's text stands for: the queries that make them.

use std::path::Path;

use super::{model::ObjectKind, value::quoted};

/// How an object is had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// By this selection of the root, which ends in its ID.
    Query(String),
    /// A secret, kept here.
    Secret(SecretPlace),
}

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// A variable of the client's environment.
    Env(String),
    /// A file.
    File(String),
    /// What a command writes.
    Command(String),
}

/// What relative paths and `~` mean.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// Absolute.
    pub workdir: &'a Path,
    /// The user's.
    pub home: Option<&'a Path>,
}

impl Here<'_> {
    /// A path as the user means it.
    pub fn path(&self, text: &str) -> String {
        let text = text.strip_prefix("file://").unwrap_or(text);
        let path = match (text.strip_prefix('~'), self.home) {
            (Some(""), Some(home)) => home.to_path_buf(),
            (Some(rest), Some(home)) if rest.starts_with('/') => {
                home.join(rest.trim_start_matches('/'))
            }
            _ => self.workdir.join(text),
        };
        path.to_string_lossy().into_owned()
    }
}

/// How the object of a kind that a text stands for is had.
///
/// # Errors
/// The text stands for none.
pub fn source(kind: ObjectKind, text: &str, here: &Here<'_>) -> Result<Source, String> {
    let query = match kind {
        ObjectKind::Container => {
            if text.is_empty() {
                return Err("address of the container's image cannot be empty".to_owned());
            }
            format!("container{{from(address:{}){{id}}}}", quoted(text))
        }
        ObjectKind::Directory => match Git::parse(text) {
            Some(git) => match &git.path {
                Some(path) => git.tree(&format!("directory(path:{}){{id}}", quoted(path))),
                None => git.tree("id"),
            },
            None => host("directory", "path", &here.path(text)),
        },
        ObjectKind::File => match Git::parse(text) {
            Some(git) => {
                let path = git.path.as_deref();
                let path = path.ok_or("expected path selection for git repo")?;
                git.tree(&format!("file(path:{}){{id}}", quoted(path)))
            }
            None => host("file", "path", &here.path(text)),
        },
        ObjectKind::Secret => return secret(text).map(Source::Secret),
        ObjectKind::Service => service(text)?,
        ObjectKind::CacheVolume => {
            if text.is_empty() {
                return Err("name of the cache volume cannot be empty".to_owned());
            }
            format!("cacheVolume(key:{}){{id}}", quoted(text))
        }
        ObjectKind::Socket => {
            let path = text.strip_prefix("unix://").unwrap_or(text);
            host("unixSocket", "path", &here.path(path))
        }
    };
    Ok(Source::Query(query))
}

/// The selection that makes a secret of a value.
pub fn set_secret(name: &str, plaintext: &str) -> String {
    format!(
        "setSecret(name:{},plaintext:{}){{id}}",
        quoted(name),
        quoted(plaintext)
    )
}

fn host(field: &str, argument: &str, value: &str) -> String {
    format!("host{{{field}({argument}:{}){{id}}}}", quoted(value))
}

fn secret(text: &str) -> Result<SecretPlace, String> {
    let Some((source, rest)) = text.split_once(':') else {
        return Ok(SecretPlace::Env(text.to_owned()));
    };
    let rest = rest.strip_prefix("//").unwrap_or(rest).to_owned();
    match source {
        "env" => Ok(SecretPlace::Env(rest)),
        "file" => Ok(SecretPlace::File(rest)),
        "cmd" => Ok(SecretPlace::Command(rest)),
        other => Err(format!("unsupported secret arg source: {other:?}")),
    }
}

fn service(text: &str) -> Result<String, String> {
    let wrong = || "unsupported service address. Must be a valid tcp:// or udp:// URL".to_owned();
    let (protocol, address) = match text.split_once("://") {
        Some(("tcp", address)) => ("TCP", address),
        Some(("udp", address)) => ("UDP", address),
        _ => return Err(wrong()),
    };
    let (name, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let name = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .unwrap_or(name);
    Ok(format!(
        "host{{service(host:{},ports:[{{frontend:{port},backend:{port},protocol:{protocol}}}]){{start}}}}",
        quoted(name)
    ))
}

/// A place in a Git repository: `https://host/repo#ref:path`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Git {
    url: String,
    version: Option<String>,
    path: Option<String>,
}

impl Git {
    fn parse(text: &str) -> Option<Self> {
        let (url, fragment) = match text.split_once('#') {
            Some((url, fragment)) => (url, fragment),
            None => (text, ""),
        };
        // `git@host:path`, as ssh has it.
        let scp = url
            .split_once('@')
            .is_some_and(|(user, rest)| user == "git" && rest.contains(':'));
        let ssh = scp || url.starts_with("ssh://");
        let schemes = ["https://", "http://", "git://"];
        if !ssh && !schemes.iter().any(|s| url.starts_with(s)) {
            return None;
        }
        let (version, path) = match fragment.split_once(':') {
            Some((version, path)) => (version, path),
            None => (fragment, ""),
        };
        let some = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        Some(Self {
            url: url.to_owned(),
            version: some(version),
            path: some(path),
        })
    }

    /// The selection of the tree, around what is wanted of it.
    fn tree(&self, wanted: &str) -> String {
        let version = match &self.version {
            Some(version) => format!("ref(name:{})", quoted(version)),
            None => "head".to_owned(),
        };
        let url = quoted(&self.url);
        format!("git(url:{url},keepGitDir:true){{{version}{{tree{{{wanted}}}}}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Here<'static> {
        Here {
            workdir: Path::new("/w"),
            home: Some(Path::new("/home/me")),
        }
    }

    fn query(kind: ObjectKind, text: &str) -> String {
        match source(kind, text, &here()) {
            Ok(Source::Query(query)) => query,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn paths_begin_at_the_working_directory_and_the_home() {
        for (text, path) in [
            ("d/x", "/w/d/x"),
            ("/abs", "/abs"),
            ("~", "/home/me"),
            ("~/x", "/home/me/x"),
            ("~x", "/w/~x"),
            ("file:///abs", "/abs"),
            ("file://rel", "/w/rel"),
        ] {
            assert_eq!(here().path(text), path);
        }
        assert_eq!(
            query(ObjectKind::File, "f"),
            "host{file(path:\"/w/f\"){id}}"
        );
        assert_eq!(
            query(ObjectKind::Socket, "unix:///s"),
            "host{unixSocket(path:\"/s\"){id}}"
        );
    }

    #[test]
    fn secrets_are_kept_in_three_places() {
        for (text, place) in [
            ("NAME", SecretPlace::Env("NAME".into())),
            ("env:NAME", SecretPlace::Env("NAME".into())),
            ("env://NAME", SecretPlace::Env("NAME".into())),
            ("file:~/a:b", SecretPlace::File("~/a:b".into())),
            ("file:///a", SecretPlace::File("/a".into())),
            ("cmd:printf a:b", SecretPlace::Command("printf a:b".into())),
        ] {
            assert_eq!(secret(text), Ok(place), "{text}");
        }
        assert_eq!(
            secret("op://v/i"),
            Err("unsupported secret arg source: \"op\"".into())
        );
    }

    #[test]
    fn services_are_addresses() {
        assert_eq!(
            query(ObjectKind::Service, "tcp://db:5432"),
            "host{service(host:\"db\",ports:[{frontend:5432,backend:5432,protocol:TCP}]){start}}"
        );
        for bad in ["db:5432", "http://db:80", "tcp://db", "tcp://db:port"] {
            assert!(source(ObjectKind::Service, bad, &here()).is_err(), "{bad}");
        }
    }

    #[test]
    fn directories_and_files_may_be_in_a_repository() {
        assert_eq!(
            query(ObjectKind::Directory, "https://h/r#main:sub"),
            "git(url:\"https://h/r\",keepGitDir:true){ref(name:\"main\"){tree{directory(path:\"sub\"){id}}}}"
        );
        assert_eq!(
            query(ObjectKind::Directory, "git@h:o/r.git"),
            "git(url:\"git@h:o/r.git\",keepGitDir:true){head{tree{id}}}"
        );
        assert_eq!(
            source(ObjectKind::File, "https://h/r#main", &here()),
            Err("expected path selection for git repo".into())
        );
        assert!(query(ObjectKind::Directory, "me@x:y").starts_with("host{"));
    }
}
