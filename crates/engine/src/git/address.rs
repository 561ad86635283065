//! Addresses of repositories: every form that Dagger takes, and nothing that would run a program or read this machine's files.

use std::fmt;

use crate::scrub::shown_address as shown;

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `https://`.
    Https,
    /// `http://`.
    Http,
    /// `ssh://`, or `user@host:path`.
    Ssh,
    /// `git://`.
    Git,
}

impl Transport {
    fn scheme(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Git => "git",
        }
    }

    /// Over HTTP, with or without TLS?
    pub fn is_http(self) -> bool {
        matches!(self, Self::Https | Self::Http)
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
            Self::Ssh => 22,
            Self::Git => 9418,
        }
    }
}

/// Where a repository is. Holds no password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// How it is reached.
    pub transport: Transport,
    /// For SSH.
    pub user: Option<String>,
    /// Name or address; IPv6 in brackets.
    pub host: String,
    /// When it was said.
    pub port: Option<u16>,
    /// With its slash; without one as `host:path` of SSH means it: below the user's home.
    pub path: String,
}

/// An address as users write it, with what may stand beside it.
#[derive(Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Where.
    pub address: Address,
    /// User and password that stood in it.
    pub login: Option<(String, String)>,
    /// What followed `#`: `ref:subdir`. The API does not look at it; Dockerfiles and the command line do.
    pub fragment: Option<String>,
}

/// Why an address is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another scheme.
    #[error(
        "the repository address `{shown}` has the scheme `{scheme}`, which is not fetched: write https, http, ssh or git"
    )]
    Scheme {
        /// The address.
        shown: String,
        /// The scheme.
        scheme: String,
    },
    /// Not an address.
    #[error("`{shown}` is no address of a repository: {why}")]
    Bad {
        /// The address.
        shown: String,
        /// Why.
        why: &'static str,
    },
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parsed({})", self.address)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// What people see: without the query, which may hold a token.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_query())?;
        f.write_str(if self.query().is_some() { "?…" } else { "" })
    }
}

impl Address {
    /// What `git` is given.
    pub fn url(&self) -> String {
        let user = self.user.as_deref();
        if !self.path.starts_with('/') {
            let user = user.map_or(String::new(), |u| format!("{u}@"));
            return format!("{user}{}:{}", self.host, self.path);
        }
        format!("{}{}", self.origin(), self.path)
    }

    /// The query, which is a part of the path for `git`.
    pub fn query(&self) -> Option<&str> {
        let path = self
            .path
            .split_once('?')
            .filter(|_| self.transport.is_http());
        path.map(|(_, query)| query)
    }

    /// What may be written into a tree: it holds no credentials.
    pub fn without_query(&self) -> String {
        let url = self.url();
        match (self.query(), url.split_once('?')) {
            (Some(_), Some((url, _))) => url.to_owned(),
            _ => url,
        }
    }

    /// Scheme, user, host and port.
    pub fn origin(&self) -> String {
        let user = self
            .user
            .as_ref()
            .map_or(String::new(), |u| format!("{u}@"));
        format!("{}://{user}{}", self.transport.scheme(), self.host_port())
    }

    /// The host, with the port when it was said.
    pub fn host_port(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// The port that is connected to.
    pub fn effective_port(&self) -> u16 {
        self.port.unwrap_or(self.transport.default_port())
    }

    /// The scheme.
    pub fn scheme(&self) -> &'static str {
        self.transport.scheme()
    }

    /// Where the address of a submodule leads: `./` and `../` are relative to this repository.
    ///
    /// # Errors
    /// What [`parse`] refuses, and `../` beyond the host.
    pub fn submodule(&self, text: &str) -> Result<Parsed, AddressError> {
        if !(text.starts_with("./") || text.starts_with("../") || text == "..") {
            return parse(text);
        }
        let bad = |why| AddressError::Bad {
            shown: shown(text),
            why,
        };
        if text.chars().any(char::is_control) {
            return Err(bad("it has control characters"));
        }
        let rooted = self.path.starts_with('/');
        let mut parts: Vec<&str> = self.path.split('/').filter(|p| !p.is_empty()).collect();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| bad("it leads out of the host"))?;
                }
                part => parts.push(part),
            }
        }
        if parts.is_empty() {
            return Err(bad("it names no repository"));
        }
        let joined = parts.join("/");
        let path = if rooted { format!("/{joined}") } else { joined };
        let address = Self {
            path: sound_path(&path, text)?,
            ..self.clone()
        };
        Ok(Parsed {
            address,
            login: None,
            fragment: None,
        })
    }
}

fn sound_path(path: &str, text: &str) -> Result<String, AddressError> {
    let bad = |why| AddressError::Bad {
        shown: shown(text),
        why,
    };
    if path.trim_matches('/').is_empty() {
        return Err(bad("it has no path"));
    }
    if path.chars().any(char::is_control) {
        return Err(bad("it has control characters"));
    }
    // Given to a program on the other side.
    if path.trim_start_matches('/').starts_with('-') {
        return Err(bad("its path begins with a dash"));
    }
    Ok(path.to_owned())
}

/// Reads an address: `https://host/path`, `http://…`, `ssh://user@host:port/path`, `git://…`, `user@host:path`, or a bare
/// `host/path`, which means https.
///
/// # Errors
/// Other schemes (`file`, `ext::…`), paths of this machine, and what would be taken for an option.
pub fn parse(text: &str) -> Result<Parsed, AddressError> {
    let text = text.trim();
    let bad = |why| AddressError::Bad {
        shown: shown(text),
        why,
    };
    let (place, fragment) = match text.split_once('#') {
        Some((place, fragment)) => (place, Some(fragment.to_owned())),
        None => (text, None),
    };
    if place.is_empty() {
        return Err(bad("it is empty"));
    }
    if place.starts_with(['-', '/', '.', '~']) {
        return Err(bad("it names nothing on another machine"));
    }
    let (transport, rest) = match place.split_once("://") {
        Some((scheme, rest)) => {
            let transport = match scheme.to_ascii_lowercase().as_str() {
                "https" | "git+https" => Transport::Https,
                "http" | "git+http" => Transport::Http,
                "ssh" | "git+ssh" => Transport::Ssh,
                "git" => Transport::Git,
                other => {
                    return Err(AddressError::Scheme {
                        shown: shown(text),
                        scheme: other.chars().take(40).collect(),
                    });
                }
            };
            (transport, rest)
        }
        None => {
            if let Some((helper, _)) = place.split_once("::") {
                return Err(AddressError::Scheme {
                    shown: shown(text),
                    scheme: format!("{}::", helper.chars().take(40).collect::<String>()),
                });
            }
            if let Some(parsed) = scp(place, text)? {
                return Ok(Parsed {
                    address: parsed,
                    login: None,
                    fragment,
                });
            }
            (Transport::Https, place)
        }
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (userinfo, host_port) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let (host, port) = match host_port.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let port = port.parse().map_err(|_| bad("its port is no number"))?;
            (host, Some(port))
        }
        _ => (host_port, None),
    };
    check_host(host).map_err(bad)?;
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    let userinfo = userinfo.filter(|u| !u.is_empty());
    let mut user = None;
    let mut login = None;
    if let Some(userinfo) = userinfo {
        let (name, password) = match userinfo.split_once(':') {
            Some((name, password)) => (decoded(name), Some(decoded(password))),
            None => (decoded(userinfo), None),
        };
        match transport {
            Transport::Ssh => {
                check_user(&name).map_err(bad)?;
                user = Some(name);
            }
            Transport::Https | Transport::Http => {
                login = Some((name, password.unwrap_or_default()))
            }
            Transport::Git => return Err(bad("`git://` knows no users")),
        }
    }
    Ok(Parsed {
        address: Address {
            transport,
            user,
            host: host.to_ascii_lowercase(),
            port: port.filter(|p| *p != transport.default_port()),
            path: sound_path(path, text)?,
        },
        login,
        fragment,
    })
}

/// `user@host:path`. A colon after a slash, or before a port number, belongs to something else.
fn scp(place: &str, text: &str) -> Result<Option<Address>, AddressError> {
    let bad = |why| AddressError::Bad {
        shown: shown(text),
        why,
    };
    let Some((before, path)) = place.split_once(':') else {
        return Ok(None);
    };
    if before.contains('/') {
        return Ok(None);
    }
    let (user, host) = match before.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => {
            // `host:8080/path` is a bare address with a port.
            let first = path.split('/').next().unwrap_or_default();
            // And `user:password@host/path` is one with credentials.
            if first.parse::<u16>().is_ok() || first.contains('@') {
                return Ok(None);
            }
            (None, before)
        }
    };
    check_host(host).map_err(bad)?;
    if let Some(user) = user {
        check_user(user).map_err(bad)?;
    }
    Ok(Some(Address {
        transport: Transport::Ssh,
        user: user.map(str::to_owned),
        host: host.to_ascii_lowercase(),
        port: None,
        path: sound_path(path, text)?,
    }))
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    if host != bare && bare.parse::<std::net::Ipv6Addr>().is_err() {
        return Err("its host is no IPv6 address");
    }
    if bare.is_empty() || bare.starts_with(['-', '.']) {
        return Err("it has no host");
    }
    let sound = host != bare
        || bare
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if sound {
        Ok(())
    } else {
        Err("its host has characters that no host has")
    }
}

fn check_user(user: &str) -> Result<(), &'static str> {
    let sound = !user.is_empty()
        && !user.starts_with('-')
        && user
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | '+' | '@'));
    if sound {
        Ok(())
    } else {
        Err("its user has characters that no user has")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, shown) in [
            ("https://h.example/a/b.git", "https://h.example/a/b.git"),
            ("HTTPS://H.example:443/a", "https://h.example/a"),
            ("http://127.0.0.1:8080/r.git", "http://127.0.0.1:8080/r.git"),
            ("git://h/r.git", "git://h/r.git"),
            ("ssh://git@h:2222/r.git", "ssh://git@h:2222/r.git"),
            ("git@github.com:org/repo.git", "git@github.com:org/repo.git"),
            ("host:path/repo", "host:path/repo"),
            ("git@h:/abs/repo", "ssh://git@h/abs/repo"),
            ("github.com/org/repo", "https://github.com/org/repo"),
            ("localhost:8080/repo", "https://localhost:8080/repo"),
            ("ssh://[::1]:22/r", "ssh://[::1]/r"),
            ("https://h/a#main:sub", "https://h/a"),
        ] {
            let parsed = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.address.to_string(), shown, "{text}");
        }
        assert_eq!(
            parse("https://h/a#main:sub")
                .expect("one")
                .fragment
                .as_deref(),
            Some("main:sub")
        );
    }

    #[test]
    fn passwords_are_kept_apart() {
        let parsed = parse("https://me:p%40ss@h/a").expect("an address");
        assert_eq!(parsed.address.to_string(), "https://h/a");
        assert_eq!(parsed.login, Some(("me".into(), "p@ss".into())));
        assert!(!format!("{parsed:?}").contains("ss@"));
        let e = parse("ftp://me:secret@h/a")
            .expect_err("a scheme")
            .to_string();
        assert!(!e.contains("secret"), "{e}");
    }

    #[test]
    fn nothing_secret_is_shown() {
        for text in [
            "user:TokZZ19@h.example/x",
            "user:TokZZ19@h.example:99999/x",
            "https://u:pa/TokZZ19@h.example/x",
            "https://u:TokZZ19@h b/x",
            "https://h.example/x?token=TokZZ19",
            "h.example/x?token=TokZZ19",
            "ftp://h.example/x?token=TokZZ19",
            "ext::sh TokZZ19@h",
            "u:TokZZ19@://h",
        ] {
            let shown = match parse(text) {
                Ok(parsed) => format!("{} {parsed:?}", parsed.address),
                Err(e) => e.to_string(),
            };
            assert!(!shown.contains("TokZZ19"), "{text}: {shown}");
        }
        let parsed = parse("user:TokZZ19@h.example/x").expect("an address");
        assert_eq!(parsed.address.to_string(), "https://h.example/x");
        assert_eq!(parsed.login, Some(("user".into(), "TokZZ19".into())));
        let parsed = parse("https://h/x?token=abc").expect("an address");
        assert_eq!(parsed.address.url(), "https://h/x?token=abc");
        assert_eq!(parsed.address.to_string(), "https://h/x?…");
        assert_eq!(parsed.address.without_query(), "https://h/x");
    }

    #[test]
    fn what_would_run_programs_or_read_files_is_refused() {
        for text in [
            "",
            "ext::sh -c touch% /tmp/x",
            "fd::17/foo",
            "file:///etc",
            "/etc",
            "./x",
            "../x",
            "~/x",
            "--upload-pack=touch /tmp/x",
            "-u@h:x",
            "ssh://-oProxyCommand=x/y",
            "ssh://-x@h/y",
            "-oProxyCommand=x:y",
            "git@-oProxyCommand=x:y",
            "git@h:-x",
            "ssh://h/-x",
            "https://h",
            "https://h/",
            "https:///x",
            "https://h:x/y",
            "https://h/a\nb",
            "https://h b/a",
            "git://u@h/x",
            "ssh://h;touch x/y",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn submodules_are_found_beside_their_parent() {
        let of = |base: &str, text: &str| {
            parse(base)
                .expect("a base")
                .address
                .submodule(text)
                .map(|p| p.address.to_string())
        };
        for (base, text, to) in [
            ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
            ("https://h:8443/a/b", "./c", "https://h:8443/a/b/c"),
            ("git@h:a/b.git", "../c.git", "git@h:a/c.git"),
            ("ssh://g@h/a/b/", "../../x/y", "ssh://g@h/x/y"),
            ("https://h/a", "git://o/x", "git://o/x"),
        ] {
            assert_eq!(of(base, text).expect("an address"), to, "{base} {text}");
        }
        for text in [
            "../../..",
            "..",
            "../-x",
            "/etc/x",
            "file:///x",
            "ext::x",
            "../a\nb",
            "-x",
        ] {
            assert!(of("https://h/a", text).is_err(), "{text}");
        }
    }
}
