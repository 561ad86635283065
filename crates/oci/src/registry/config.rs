//! What is configured per registry, and whom to ask for an image because of it.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{error::RequestError, tls::Profile};
use crate::reference::Reference;

/// Configuration of the client.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Settings by registry, as in `engine.json`.
    pub registries: BTreeMap<String, Host>,
    /// PEM files with further authorities to trust everywhere.
    pub roots: Vec<PathBuf>,
    /// How long to wait and how often to try.
    pub patience: Patience,
}

/// Settings of one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// `host[:port][/prefix]`, optionally with a scheme; asked in this order before the registry itself.
    pub mirrors: Vec<String>,
    /// Speak plain HTTP.
    pub http: bool,
    /// Do not verify certificates, and speak plain HTTP if TLS does not work.
    pub insecure: bool,
    /// PEM files with the authorities that sign this registry's certificate, beside the usual ones.
    pub ca: Vec<PathBuf>,
    /// Connect to this unix socket, which leads to the registry, instead of to the host.
    #[serde(skip)]
    pub socket: Option<PathBuf>,
}

/// Deadlines, repetitions, parallelism.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// To the first byte of an answer, and between two pieces of it.
    pub silence: Duration,
    /// Tries of one request, the first included.
    pub tries: u32,
    /// Wait before the second try; doubled each time.
    pub backoff: Duration,
    /// The longest wait, also when the registry asks for more.
    pub longest_wait: Duration,
    /// Blobs downloaded at the same time, for all users together.
    pub downloads: usize,
    /// Blobs of one image downloaded at the same time.
    pub per_image: usize,
}

impl Patience {
    /// How often what failed so is tried. A machine that cannot be reached or is silent rarely comes back within seconds, and
    /// there may be another to ask.
    pub(super) fn tries_after(&self, error: &RequestError) -> u32 {
        if error.unreachable() || matches!(error, RequestError::Silence { .. }) {
            self.tries.min(2)
        } else {
            self.tries
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            tries: 5,
            backoff: Duration::from_millis(250),
            longest_wait: Duration::from_secs(20),
            downloads: 8,
            per_image: 4,
        }
    }
}

/// One place that may have an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `host[:port]` as shown and as asked for credentials.
    pub(super) name: String,
    /// `scheme://host[:port]`, the most secure first; the second is tried when the first cannot be spoken.
    pub(super) origins: Vec<String>,
    /// Repository below `/v2/`.
    pub(super) repository: String,
    pub(super) mirror: bool,
    pub(super) profile: Profile,
    /// What a token must allow; empty for what the registry asks for itself, which is pulling.
    pub(super) scopes: Vec<String>,
}

/// Where to push an image: the registry itself, with the right to read another of its repositories that blobs are taken from.
pub(super) fn target(config: &Config, reference: &Reference, from: &[String]) -> Endpoint {
    let mut place = registry(config, reference);
    place.scopes = vec![format!("repository:{}:pull,push", place.repository)];
    place
        .scopes
        .extend(from.iter().map(|from| format!("repository:{from}:pull")));
    place
}

/// Whom to ask for an image, in order.
pub(super) fn endpoints(config: &Config, reference: &Reference) -> Vec<Endpoint> {
    let mirrors = config
        .registries
        .get(reference.domain())
        .map(|host| host.mirrors.as_slice())
        .unwrap_or_default();
    let mut list: Vec<Endpoint> = mirrors
        .iter()
        .map(|mirror| self::mirror(config, mirror, reference.path()))
        .collect();
    list.push(registry(config, reference));
    list
}

/// The registry that a reference names.
fn registry(config: &Config, reference: &Reference) -> Endpoint {
    let domain = reference.domain();
    let upstream = if domain == "docker.io" {
        "registry-1.docker.io"
    } else {
        domain
    };
    let settings = config
        .registries
        .get(domain)
        .or_else(|| config.registries.get(upstream));
    let (origins, profile) = reach(config, upstream, settings, None);
    Endpoint {
        name: domain.to_owned(),
        origins,
        repository: reference.path().to_owned(),
        mirror: false,
        profile,
        scopes: Vec::new(),
    }
}

fn mirror(config: &Config, text: &str, path: &str) -> Endpoint {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let rest = rest.trim_end_matches('/');
    let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_start_matches("v2/").trim_matches('/');
    let repository = if prefix.is_empty() {
        path.to_owned()
    } else {
        format!("{prefix}/{path}")
    };
    let (origins, profile) = reach(config, host, config.registries.get(host), scheme);
    Endpoint {
        name: host.to_owned(),
        origins,
        repository,
        mirror: true,
        profile,
        scopes: Vec::new(),
    }
}

/// The origins of a host and how to verify it.
fn reach(
    config: &Config,
    host: &str,
    settings: Option<&Host>,
    scheme: Option<&str>,
) -> (Vec<String>, Profile) {
    let local = is_loopback(host);
    let settings = settings.cloned().unwrap_or_default();
    let plain = || format!("http://{host}");
    let secure = || format!("https://{host}");
    let origins = match scheme {
        Some("http") => vec![plain()],
        Some(_) => vec![secure()],
        None if settings.http => vec![plain()],
        None if settings.insecure => vec![secure(), plain()],
        None if local && settings.ca.is_empty() => vec![plain()],
        None => vec![secure()],
    };
    (origins, profile_of(config, host, &settings, local))
}

/// How to connect to a host that a redirect names.
pub(super) fn profile(config: &Config, host: &str) -> Profile {
    let settings = config.registries.get(host).cloned().unwrap_or_default();
    profile_of(config, host, &settings, is_loopback(host))
}

fn profile_of(config: &Config, _host: &str, settings: &Host, local: bool) -> Profile {
    let mut authorities = config.roots.clone();
    authorities.extend(settings.ca.iter().cloned());
    Profile {
        insecure: settings.insecure,
        authorities,
        direct: local,
        socket: settings.socket.clone(),
    }
}

/// Whether `host[:port]` is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = bare_host(host).trim_end_matches('.');
    bare == "localhost"
        || bare.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether `host[:port]` is an address that only this machine or its hypervisor answers.
pub fn is_internal(host: &str) -> bool {
    is_loopback(host)
        || match bare_host(host).parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => ip.is_link_local() || ip.is_unspecified(),
            Ok(IpAddr::V6(ip)) => {
                ip.is_unicast_link_local()
                    || ip.is_unspecified()
                    || ip.to_ipv4_mapped().is_some_and(|v4| {
                        v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()
                    })
            }
            Err(_) => false,
        }
}

fn bare_host(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or(host),
        None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(registries: &str, address: &str) -> Vec<String> {
        let config = Config {
            registries: serde_json::from_str(registries).unwrap(),
            ..Config::default()
        };
        endpoints(&config, &Reference::parse(address).unwrap())
            .iter()
            .map(|e| {
                format!(
                    "{} {} {}{}",
                    e.name,
                    e.origins.join("|"),
                    e.repository,
                    if e.mirror { " mirror" } else { "" }
                )
            })
            .collect()
    }

    #[test]
    fn mirrors_first_then_the_registry() {
        assert_eq!(
            plan("{}", "alpine"),
            ["docker.io https://registry-1.docker.io library/alpine"]
        );
        assert_eq!(
            plan(
                r#"{"docker.io":{"mirrors":["127.0.0.1:5055","harbor.example/proxy/","http://plain:81"]},"127.0.0.1:5055":{"http":true}}"#,
                "alpine:3"
            ),
            [
                "127.0.0.1:5055 http://127.0.0.1:5055 library/alpine mirror",
                "harbor.example https://harbor.example proxy/library/alpine mirror",
                "plain:81 http://plain:81 library/alpine mirror",
                "docker.io https://registry-1.docker.io library/alpine",
            ]
        );
    }

    #[test]
    fn plain_http_only_where_it_is_safe_or_asked_for() {
        assert_eq!(
            plan("{}", "localhost:5000/a"),
            ["localhost:5000 http://localhost:5000 a"]
        );
        assert_eq!(
            plan("{}", "[::1]:5000/a"),
            ["[::1]:5000 http://[::1]:5000 a"]
        );
        assert_eq!(
            plan("{}", "10.0.0.1:5000/a"),
            ["10.0.0.1:5000 https://10.0.0.1:5000 a"]
        );
        assert_eq!(
            plan(r#"{"h:1":{"http":true}}"#, "h:1/a"),
            ["h:1 http://h:1 a"]
        );
        assert_eq!(
            plan(r#"{"h:1":{"insecure":true}}"#, "h:1/a"),
            ["h:1 https://h:1|http://h:1 a"]
        );
        assert_eq!(
            plan(r#"{"localhost:1":{"ca":["x.pem"]}}"#, "localhost:1/a"),
            ["localhost:1 https://localhost:1 a"]
        );
        assert!(
            is_internal("169.254.169.254")
                && is_internal("[::ffff:127.0.0.1]:80")
                && is_internal("0.0.0.0:1")
        );
        assert!(!is_internal("10.0.0.1") && !is_internal("example.com:443"));
    }
}
