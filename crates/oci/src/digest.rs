//! Content digests. Only sha256: the one algorithm registries and images use in practice.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A sha256 digest, written `sha256:<64 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:` before the hash, or nothing after it.
    #[error("invalid checksum digest format: `{0}`")]
    Format(String),
    /// An algorithm other than sha256.
    #[error("unsupported digest algorithm `{0}`")]
    Algorithm(String),
    /// Not 64 lower-case hex digits.
    #[error("invalid checksum digest length or character in `{0}`")]
    Hash(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut out, byte| {
                write!(out, "{byte:02x}").expect("writing to a string cannot fail");
                out
            })
    }
}

/// The chain ID of a stack of layers, lowest first: names the file system they make together (OCI image spec, *Layer
/// ChainID*). `None` for an empty stack.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    diff_ids
        .iter()
        .copied()
        .reduce(|chain, diff| Digest::of(format!("{chain} {diff}").as_bytes()))
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let short = || text.chars().take(100).collect::<String>();
        let (algorithm, hash) = text
            .split_once(':')
            .ok_or_else(|| DigestError::Format(short()))?;
        if algorithm.is_empty() || hash.is_empty() {
            return Err(DigestError::Format(short()));
        }
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm(algorithm.chars().take(40).collect()));
        }
        let digits = hash.as_bytes();
        if digits.len() != 64 {
            return Err(DigestError::Hash(short()));
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else {
                return Err(DigestError::Hash(short()));
            };
            let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) else {
                return Err(DigestError::Hash(short()));
            };
            *byte = high << 4 | low;
        }
        Ok(Self(out))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(format!("sha256:{}", digest.hex()), digest.to_string());
    }

    #[test]
    fn refuses_what_a_registry_would_choke_on() {
        let error = |text: &str| text.parse::<Digest>().unwrap_err().to_string();
        assert_eq!(error("abc"), "invalid checksum digest format: `abc`");
        assert_eq!(
            error("sha256:abc"),
            "invalid checksum digest length or character in `sha256:abc`"
        );
        assert_eq!(
            error("md5:d41d8cd98f00b204e9800998ecf8427e"),
            "unsupported digest algorithm `md5`"
        );
        let upper = format!("sha256:{}", "A".repeat(64));
        assert_eq!(
            error(&upper),
            format!("invalid checksum digest length or character in `{upper}`")
        );
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[a]), Some(a));
        assert_eq!(
            chain_id(&[a, b]),
            Some(Digest::of(format!("{a} {b}").as_bytes()))
        );
    }
}
