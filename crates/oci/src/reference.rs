//! Names of images, parsed and normalised as Docker does: `alpine` is `docker.io/library/alpine:latest`.

use std::fmt;

use crate::digest::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const MAX_NAME: usize = 255;

/// A normalised image name: registry, repository, and a tag or digest or both.
///
/// With both, the digest decides what is fetched and the tag is only shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// An address that is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse image address {address}")]
pub struct ParseError {
    /// The address as given, shortened.
    pub address: String,
    /// What is wrong with it.
    #[source]
    pub source: Problem,
}

/// What is wrong with an image address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Characters or separators where none may be.
    #[error("invalid reference format")]
    Format,
    /// Upper case in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Nothing before the tag.
    #[error("repository name must have at least one component")]
    Empty,
    /// More than 255 characters of registry and repository.
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// 64 hex digits, which would be confused with an image ID.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// Something before an `@` that is no name.
    #[error(
        "invalid reference format: an image address has no user and password; give them by `withRegistryAuth`, and a digest as `@sha256:…`"
    )]
    Login,
    /// A URL.
    #[error(
        "invalid reference format: an image address has no `scheme://`; write it as `host/name:tag`"
    )]
    Scheme,
    /// The part after `@`.
    #[error("invalid reference format: bad digest")]
    Digest(#[source] DigestError),
}

/// What is wrong, told without what may be a part of a password.
fn problem(address: &str, found: Problem) -> Problem {
    let after = address.rsplit_once('@').map(|(_, after)| after);
    if address.contains("://") {
        Problem::Scheme
    } else if after.is_some_and(|a| !matches!(found, Problem::Digest(_)) || a.contains('/')) {
        Problem::Login
    } else {
        found
    }
}

/// An address as errors show it: shortened, and without what may be a user and a password.
pub fn shown(address: &str) -> String {
    let text: String = match address.rsplit_once('@') {
        Some((before, after)) if before.contains(':') && !after.starts_with("sha") => {
            let scheme = before.split_inclusive("://").next();
            let scheme = scheme.filter(|s| s.ends_with("://")).unwrap_or_default();
            format!("{scheme}***@{after}")
        }
        _ => address.to_owned(),
    };
    text.chars().take(300).collect()
}

impl Reference {
    /// Parses and normalises `address`. A missing tag stays missing: see [`Reference::or_latest`].
    ///
    /// # Errors
    /// The address and what is wrong with it.
    pub fn parse(address: &str) -> Result<Self, ParseError> {
        parse(address).map_err(|source| ParseError {
            address: shown(address),
            source: problem(address, source),
        })
    }

    /// The registry: `docker.io`, `host:port`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `domain/path` without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Adds `:latest` where there is neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same name pinned to `digest`; the tag stays for the reader.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The short form people type: `alpine`, `user/app:1`, without Docker Hub's defaults.
    pub fn familiar(&self) -> String {
        let text = self.to_string();
        match text.strip_prefix("docker.io/") {
            Some(rest) => rest
                .strip_prefix(OFFICIAL)
                .filter(|rest| !rest.contains('/'))
                .unwrap_or(rest)
                .to_owned(),
            None => text,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

fn parse(address: &str) -> Result<Reference, Problem> {
    if address.len() == 64
        && address
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return Err(Problem::Identifier(address.to_owned()));
    }
    let (rest, digest) = match address.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(Problem::Digest)?)),
        None => (address, None),
    };
    let (domain, remainder) = split_domain(rest);
    let (path, tag) = match remainder.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remainder, None),
    };
    if path.is_empty() {
        return Err(if rest.is_empty() || rest.starts_with(':') {
            Problem::Empty
        } else {
            Problem::Format
        });
    }
    if path.chars().any(char::is_uppercase) {
        return Err(Problem::Uppercase(path.chars().take(MAX_NAME).collect()));
    }
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("{OFFICIAL}{path}")
    } else {
        path.to_owned()
    };
    if !is_domain(domain) || !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
        return Err(Problem::Format);
    }
    if domain.len() + 1 + path.len() > MAX_NAME {
        return Err(Problem::TooLong);
    }
    Ok(Reference {
        domain: domain.to_owned(),
        path,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// The first component is a registry only if it looks like one; otherwise it is a user of Docker Hub.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (
                if first == LEGACY_DOMAIN {
                    DEFAULT_DOMAIN
                } else {
                    first
                },
                rest,
            )
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

/// `host`, `host:port`, `[v6]:port`.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, "")) => return is_v6(v6),
            Some((v6, rest)) if is_v6(v6) => ("v6", rest.strip_prefix(':')),
            _ => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, Some("0")),
        },
    };
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        && host.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

fn is_v6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, expected: &str) {
        assert_eq!(
            Reference::parse(address).unwrap().or_latest().to_string(),
            expected,
            "{address}"
        );
    }

    #[test]
    fn normalises_as_docker_does() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        check("alpine", "docker.io/library/alpine:latest");
        check("alpine:3.20.2", "docker.io/library/alpine:3.20.2");
        check("user/app", "docker.io/user/app:latest");
        check("docker.io/alpine", "docker.io/library/alpine:latest");
        check("docker.io/library/alpine:3", "docker.io/library/alpine:3");
        check("index.docker.io/a/b", "docker.io/a/b:latest");
        check("localhost/a", "localhost/a:latest");
        check("localhost:5000/a/b/c:t", "localhost:5000/a/b/c:t");
        check("127.0.0.1:5055/x", "127.0.0.1:5055/x:latest");
        check("[::1]:5000/x", "[::1]:5000/x:latest");
        check("registry.example.com/x", "registry.example.com/x:latest");
        check("UPPER/x", "UPPER/x:latest");
        check("a__b/c-d.e---f", "docker.io/a__b/c-d.e---f:latest");
        check(
            &format!("alpine@{digest}"),
            &format!("docker.io/library/alpine@{digest}"),
        );
        check(&format!("h:1/a:t@{digest}"), &format!("h:1/a:t@{digest}"));
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |address: &str| {
            let error = Reference::parse(address).unwrap_err();
            format!("{error}: {}", error.source)
        };
        assert_eq!(
            error(""),
            "failed to parse image address : repository name must have at least one component"
        );
        assert_eq!(
            error("Alpine"),
            "failed to parse image address Alpine: invalid reference format: repository name (Alpine) must be lowercase"
        );
        for bad in [
            "alpine:",
            "alpine:a b",
            "a//b",
            "/alpine",
            "a/",
            "-a",
            "a..b",
            "a___b",
            "http://a/b",
            "h:x/a",
            "a:-t",
            "UPPER:x:y",
            "é",
            "a\0b",
            "[::g]/a",
        ] {
            let text = error(bad);
            assert!(text.contains("invalid reference format"), "{bad}: {text}");
        }
        assert_eq!(
            error(":tag"),
            "failed to parse image address :tag: repository name must have at least one component"
        );
        assert!(error(&"a".repeat(250)).ends_with("must not be more than 255 characters"));
        assert!(error(&"ab".repeat(32)).contains("cannot specify 64-byte hexadecimal strings"));
        let error = Reference::parse("a@sha256:abc").unwrap_err();
        assert_eq!(
            error.source.to_string(),
            "invalid reference format: bad digest"
        );
    }

    #[test]
    fn the_familiar_form_drops_defaults() {
        let familiar = |address: &str| Reference::parse(address).unwrap().familiar();
        assert_eq!(familiar("docker.io/library/alpine:3"), "alpine:3");
        assert_eq!(familiar("docker.io/user/app"), "user/app");
        assert_eq!(familiar("quay.io/user/app"), "quay.io/user/app");
    }
}
