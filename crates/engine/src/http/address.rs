//! Addresses: what may be fetched, how it is named, and how it is shown. No I/O.

use reqwest::Url;
use sha2::Digest as _;

use super::FetchError;
use crate::directory::NAME_MAX;

/// What a file without a name in its address is called.
const NAMELESS: &str = "download";

/// An address without credentials, and the credentials that were in it.
#[derive(Clone)]
pub(super) struct Address {
    /// Shown in errors: it holds no secret.
    pub(super) url: Url,
    /// User and password that stood in it.
    pub(super) login: Option<(String, String)>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.shown())
    }
}

impl Address {
    /// Reads an address.
    pub(super) fn parse(text: &str) -> Result<Self, FetchError> {
        let url = Url::parse(text).map_err(|source| FetchError::NoUrl {
            url: crate::scrub::shown_address(text),
            source,
        })?;
        Self::of(url)
    }

    /// Where a redirect leads.
    pub(super) fn join(&self, location: &str) -> Result<Self, FetchError> {
        let url = self
            .url
            .join(location)
            .map_err(|source| FetchError::BadRedirect {
                url: self.shown(),
                source,
            })?;
        Self::of(url).map_err(|e| match e {
            FetchError::Scheme { scheme } => FetchError::RedirectScheme {
                url: self.shown(),
                scheme,
            },
            e => e,
        })
    }

    fn of(mut url: Url) -> Result<Self, FetchError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Scheme {
                scheme: url.scheme().to_owned(),
            });
        }
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
        };
        let login = (!url.username().is_empty() || url.password().is_some()).then(|| {
            (
                decoded(url.username()),
                decoded(url.password().unwrap_or_default()),
            )
        });
        // Neither fails for these schemes.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        Ok(Self { url, login })
    }

    /// For people: without the query, which may hold a signature.
    pub(super) fn shown(&self) -> String {
        let mut url = self.url.clone();
        if url.query().is_some() {
            url.set_query(Some("…"));
            return url.as_str().replace("%E2%80%A6", "…");
        }
        url.into()
    }

    /// Host and port that a connection is made to.
    pub(super) fn host(&self) -> (&str, u16) {
        (
            self.url.host_str().unwrap_or_default(),
            self.url.port_or_known_default().unwrap_or(80),
        )
    }

    /// Do credentials for one count for the other?
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        self.url.origin() == other.url.origin()
    }

    /// Is it this machine? Proxies are not asked for it.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.host().0.trim_matches(['[', ']']);
        host == "localhost"
            || host.ends_with(".localhost")
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }

    /// Is it this machine, or an address that only it (or its hypervisor) answers?
    pub(super) fn is_internal(&self) -> bool {
        self.url.host_str().is_none_or(oci::registry::is_internal)
    }

    /// The last part of the path, as a file may be called.
    pub(super) fn file_name(&self) -> String {
        let last = self.url.path().rsplit('/').next().unwrap_or_default();
        let name = percent_encoding::percent_decode_str(last)
            .decode_utf8_lossy()
            .into_owned();
        if check_file_name(&name).is_ok() {
            name
        } else {
            NAMELESS.to_owned()
        }
    }
}

/// Refuses names that are no name of a file in one directory.
pub(super) fn check_file_name(name: &str) -> Result<(), FetchError> {
    let bad = name.is_empty()
        || matches!(name, "." | "..")
        || name.contains(['/', '\0'])
        || name.len() > NAME_MAX;
    if bad {
        return Err(FetchError::Name {
            name: name.chars().take(80).collect(),
        });
    }
    Ok(())
}

/// A digest that content must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    algorithm: Algorithm,
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl Checksum {
    /// Reads `sha256:<hex>` (or `sha384`, `sha512`).
    ///
    /// # Errors
    /// Another algorithm, or digits that are none of its digests.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let bad = || FetchError::BadChecksum {
            text: text.chars().take(160).collect(),
        };
        let (algorithm, hex) = text.split_once(':').ok_or_else(bad)?;
        let (algorithm, len) = match algorithm {
            "sha256" => (Algorithm::Sha256, 64),
            "sha384" => (Algorithm::Sha384, 96),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return Err(bad()),
        };
        if hex.len() != len || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        Ok(Self {
            algorithm,
            hex: hex.to_ascii_lowercase(),
        })
    }

    /// The digits of a SHA-256.
    pub(super) fn sha256(&self) -> Option<&str> {
        (self.algorithm == Algorithm::Sha256).then_some(&self.hex)
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        };
        write!(f, "{name}:{}", self.hex)
    }
}

/// Computes the digest content is known by, and the one that was asked for.
pub(super) struct Hasher {
    sha256: sha2::Sha256,
    other: Option<Other>,
}

enum Other {
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    pub(super) fn new(wanted: Option<&Checksum>) -> Self {
        let other = wanted.and_then(|c| match c.algorithm {
            Algorithm::Sha256 => None,
            Algorithm::Sha384 => Some(Other::Sha384(sha2::Sha384::new())),
            Algorithm::Sha512 => Some(Other::Sha512(sha2::Sha512::new())),
        });
        Self {
            sha256: sha2::Sha256::new(),
            other,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        match &mut self.other {
            Some(Other::Sha384(h)) => h.update(bytes),
            Some(Other::Sha512(h)) => h.update(bytes),
            None => {}
        }
    }

    /// The SHA-256 in hex, and the digest to compare with the one that was asked for.
    pub(super) fn finish(self) -> (String, Checksum) {
        let sha256 = hex(&self.sha256.finalize());
        let (algorithm, digits) = match self.other {
            None => (Algorithm::Sha256, sha256.clone()),
            Some(Other::Sha384(h)) => (Algorithm::Sha384, hex(&h.finalize())),
            Some(Other::Sha512(h)) => (Algorithm::Sha512, hex(&h.finalize())),
        };
        let checksum = Checksum {
            algorithm,
            hex: digits,
        };
        (sha256, checksum)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a string does not fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_address() {
        for (url, name) in [
            ("http://h/a/b.tar.gz?x=/y", "b.tar.gz"),
            ("http://h/a%20b", "a b"),
            ("http://h/", "download"),
            ("http://h", "download"),
            ("http://h/a/", "download"),
            ("http://h/a%2Fb", "download"),
            ("http://h/%2e%2e", "download"),
        ] {
            let address = Address::parse(url).expect("an address");
            assert_eq!(address.file_name(), name, "{url}");
        }
    }

    #[test]
    fn what_only_this_machine_answers() {
        for (url, internal) in [
            ("http://127.0.0.1:80/", true),
            ("http://2130706433/", true),
            ("http://localhost/", true),
            ("http://localhost./", true),
            ("http://a.localhost/", true),
            ("http://[::1]/", true),
            ("http://[::ffff:169.254.169.254]/", true),
            ("http://169.254.169.254/latest", true),
            ("http://0.0.0.0/", true),
            ("http://10.0.0.1/", false),
            ("http://example.com/", false),
        ] {
            assert_eq!(
                Address::parse(url).expect("an address").is_internal(),
                internal,
                "{url}"
            );
        }
    }

    #[test]
    fn credentials_and_signatures_are_never_shown() {
        let a = Address::parse("https://me:s%2Fcret@h.example/x?token=abc#f").expect("an address");
        assert_eq!(a.shown(), "https://h.example/x?…");
        assert_eq!(a.login, Some(("me".to_owned(), "s/cret".to_owned())));
        assert!(!format!("{a:?}").contains("cret"));
        assert_eq!(a.url.as_str(), "https://h.example/x?token=abc");
    }

    #[test]
    fn only_http_is_fetched() {
        for url in ["file:///etc/passwd", "ftp://h/x", "data:,x", "x"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
        let a = Address::parse("http://h/x").expect("an address");
        let e = a
            .join("file:///etc/passwd")
            .expect_err("a scheme")
            .to_string();
        assert!(e.contains("http://h/x") && e.contains("`file`"), "{e}");
        for text in [
            "https://u:pa/TokZZ19@h/x",
            "h/x?t=TokZZ19",
            "//u:TokZZ19@h/x",
        ] {
            let e = Address::parse(text).expect_err("no URL").to_string();
            assert!(e.contains("h/x") && !e.contains("TokZZ19"), "{e}");
        }
        assert_eq!(a.join("/y").expect("an address").shown(), "http://h/y");
    }

    #[test]
    fn this_machine_needs_no_proxy() {
        for (url, local) in [
            ("http://localhost:1/", true),
            ("http://127.3.2.1/", true),
            ("http://[::1]/", true),
            ("http://10.0.0.1/", false),
            ("http://localhost.example/", false),
        ] {
            assert_eq!(
                Address::parse(url).expect("an address").is_loopback(),
                local,
                "{url}"
            );
        }
    }

    #[test]
    fn checksums_are_compared_by_their_own_algorithm() {
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let wanted = Checksum::parse(&format!("sha256:{}", digits.to_uppercase())).expect("one");
        let mut hasher = Hasher::new(Some(&wanted));
        hasher.update(b"abc");
        let (sha256, checksum) = hasher.finish();
        assert_eq!((sha256.as_str(), &checksum), (digits, &wanted));
        let wanted = Checksum::parse(&format!("sha512:{}", "0".repeat(128))).expect("one");
        let mut hasher = Hasher::new(Some(&wanted));
        hasher.update(b"abc");
        let (sha256, checksum) = hasher.finish();
        assert_eq!(sha256, digits);
        assert!(
            checksum.to_string().starts_with("sha512:ddaf35a1"),
            "{checksum}"
        );
        for bad in ["", "sha256:", "md5:00", "sha256:zz", "abc"] {
            assert!(Checksum::parse(bad).is_err(), "{bad}");
        }
    }
}
