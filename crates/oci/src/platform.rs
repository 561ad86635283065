//! Platforms: `linux/amd64`, `linux/arm/v7`. Parsing, the canonical form, and which others a platform can run.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Operating system, architecture and variant in canonical spelling (Go's names, default variants left out).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`, `windows`, …
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7` of `linux/arm/v7`; empty where the architecture has none or it is the default.
    pub variant: String,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// Nothing known by that name.
    #[error("\"{0}\": unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// A `*`.
    #[error("\"{0}\": wildcards not yet supported: invalid argument")]
    Wildcard(String),
    /// A part that is empty or has other characters than letters, digits, `_` and `-`.
    #[error("\"{component}\" is an invalid component of platform \"{platform}\": invalid argument")]
    Component {
        /// The offending part.
        component: String,
        /// The whole text.
        platform: String,
    },
    /// More than three parts.
    #[error("\"{0}\": cannot parse platform specifier: invalid argument")]
    Parts(String),
}

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
    "zos",
];

const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        Self::normalised("linux", std::env::consts::ARCH, "")
    }

    /// A platform from three fields of an image's JSON, whatever their spelling.
    pub fn normalised(os: &str, architecture: &str, variant: &str) -> Self {
        let mut os = os.to_ascii_lowercase();
        if os == "macos" {
            os = "darwin".to_owned();
        }
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// How well something made for `other` runs here: `None` not at all, otherwise smaller is better.
    pub fn preference(&self, other: &Platform) -> Option<u32> {
        if self.os != other.os {
            return None;
        }
        if self == other {
            return Some(0);
        }
        let number = |platform: &Platform, default: u32| match platform.variant.as_str() {
            "" => Some(default),
            variant => variant.strip_prefix('v')?.parse::<u32>().ok(),
        };
        let lower = |floor: u32, default: u32| {
            let (mine, theirs) = (number(self, default)?, number(other, default)?);
            (theirs >= floor && theirs <= mine).then(|| mine - theirs)
        };
        match (self.architecture.as_str(), other.architecture.as_str()) {
            ("amd64", "amd64") => lower(1, 1),
            ("amd64", "386") => Some(100),
            ("arm", "arm") => lower(5, 7),
            ("arm64", "arm64") => lower(8, 8),
            ("arm64", "arm") => number(other, 7)
                .filter(|v| (5..=8).contains(v))
                .map(|v| 100 + 8 - v),
            _ => None,
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let shown = || text.chars().take(100).collect::<String>();
        if text.contains('*') {
            return Err(PlatformError::Wildcard(shown()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        for part in &parts {
            if part.is_empty()
                || !part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            {
                return Err(PlatformError::Component {
                    component: part.chars().take(100).collect(),
                    platform: shown(),
                });
            }
        }
        let host = Self::host();
        match parts.as_slice() {
            [one] => {
                let os = Self::normalised(one, "", "").os;
                if SYSTEMS.contains(&os.as_str()) {
                    return Ok(Self { os, ..host });
                }
                let arch = Self::normalised("", one, "");
                if ARCHITECTURES.contains(&arch.architecture.as_str()) {
                    return Ok(Self {
                        os: host.os,
                        ..arch
                    });
                }
                Err(PlatformError::Unknown(shown()))
            }
            [os, architecture] => Ok(Self::normalised(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::normalised(os, architecture, variant)),
            _ => Err(PlatformError::Parts(shown())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let os = if self.os.is_empty() {
            "unknown"
        } else {
            &self.os
        };
        f.write_str(os)?;
        for part in [&self.architecture, &self.variant]
            .into_iter()
            .filter(|part| !part.is_empty())
        {
            write!(f, "/{part}")?;
        }
        Ok(())
    }
}

/// A platform as an index spells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformFields {
    /// Architecture.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// What this crate does not use (`os.version`, `os.features`, …).
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl PlatformFields {
    /// In canonical spelling.
    pub fn platform(&self) -> Platform {
        Platform::normalised(&self.os, &self.architecture, &self.variant)
    }
}

impl From<&Platform> for PlatformFields {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            extra: serde_json::Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_become_one() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                text.parse::<Platform>().unwrap().to_string(),
                expected,
                "{text}"
            )
        };
        check("linux/amd64", "linux/amd64");
        check("linux/x86_64", "linux/amd64");
        check("linux/amd64/v1", "linux/amd64");
        check("linux/amd64/v3", "linux/amd64/v3");
        check("linux/arm64/v8", "linux/arm64");
        check("linux/aarch64", "linux/arm64");
        check("linux/arm", "linux/arm/v7");
        check("linux/arm/v7", "linux/arm/v7");
        check("linux/arm/6", "linux/arm/v6");
        check("linux/armhf", "linux/arm/v7");
        check("Linux/i386", "linux/386");
        check("windows/amd64", "windows/amd64");
        check("arm64", "linux/arm64");
        check("macos/arm64", "darwin/arm64");
    }

    #[test]
    fn errors_say_invalid() {
        let error = |text: &str| text.parse::<Platform>().unwrap_err().to_string();
        assert_eq!(
            error("windows98"),
            "\"windows98\": unknown operating system or architecture: invalid argument"
        );
        assert_eq!(
            error(""),
            "\"\" is an invalid component of platform \"\": invalid argument"
        );
        assert_eq!(
            error("*"),
            "\"*\": wildcards not yet supported: invalid argument"
        );
        assert_eq!(
            error("a/b/c/d"),
            "\"a/b/c/d\": cannot parse platform specifier: invalid argument"
        );
        assert_eq!(
            error("linux/../x"),
            "\"..\" is an invalid component of platform \"linux/../x\": invalid argument"
        );
    }

    #[test]
    fn what_runs_where() {
        let preference = |host: &str, image: &str| {
            host.parse::<Platform>()
                .unwrap()
                .preference(&image.parse::<Platform>().unwrap())
        };
        assert_eq!(preference("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(preference("linux/amd64", "linux/386"), Some(100));
        assert_eq!(preference("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(preference("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(preference("linux/arm64", "linux/arm/v7"), Some(101));
        assert_eq!(preference("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(preference("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(preference("linux/amd64", "linux/arm64"), None);
        assert_eq!(preference("linux/amd64", "windows/amd64"), None);
    }
}
