//! Sizes, durations and rules as configurations write them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use store::EntryKind;

use super::{GcError, WishedRule, Wishes};

/// An amount of disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// Per cent of the disk, 0 to 100.
    Part(f64),
}

impl Size {
    /// Bytes of a disk of `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Size::Bytes(bytes) => bytes,
            // A disk has far fewer than 2^53 bytes.
            Size::Part(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }
}

/// Units of sizes and their bytes.
const UNITS: [(&str, u64); 16] = [
    ("", 1),
    ("b", 1),
    ("k", 1_000),
    ("kb", 1_000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
    ("pb", 1_000_000_000_000_000),
    ("pib", 1 << 50),
];

/// `512MB`, `10GiB`, `1.5 GB`, `10%` or bytes. `None` when it is no size.
pub fn parse_size(text: &str) -> Option<Size> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let amount: f64 = number.parse().ok()?;
    let unit = unit.trim().to_ascii_lowercase();
    if unit == "%" {
        return (amount <= 100.0).then_some(Size::Part(amount));
    }
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    // Whole numbers are taken exactly.
    let bytes = if number.contains('.') {
        let bytes = amount * *factor as f64;
        (bytes < u64::MAX as f64).then_some(bytes as u64)?
    } else {
        number.parse::<u64>().ok()?.checked_mul(*factor)?
    };
    Some(Size::Bytes(bytes))
}

/// A duration as Go writes it (`1h30m`, `48h`, `1.5s`), or seconds. `None` when it is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at_checked(digits)?;
        let amount: f64 = number.parse().ok()?;
        let unit_len = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(unit_len)?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += amount * seconds;
        rest = behind;
    }
    Duration::try_from_secs_f64(total).ok()
}

/// A setting that is a size.
pub(super) fn size_setting(key: &str, value: Option<&Value>) -> Result<Option<Size>, GcError> {
    let wrong = |found: &Value| GcError::Size {
        key: key.to_owned(),
        found: found.to_string(),
    };
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(v @ Value::Number(n)) => n
            .as_u64()
            .map(|n| Some(Size::Bytes(n)))
            .ok_or_else(|| wrong(v)),
        Some(v @ Value::String(s)) => parse_size(s).map(Some).ok_or_else(|| wrong(v)),
        Some(v) => Err(wrong(v)),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Raw {
    /// Has no meaning here: there are no records that only some rules see.
    #[serde(rename = "all")]
    _all: bool,
    filters: Vec<String>,
    keep_duration: Option<Value>,
    reserved_space: Option<Value>,
    max_used_space: Option<Value>,
    min_free_space: Option<Value>,
    sweep_size: Option<Value>,
}

/// A rule of `policies`, which is called `key`.
pub(super) fn rule(key: &str, value: &Value) -> Result<WishedRule, GcError> {
    let raw = Raw::deserialize(value).map_err(|e| GcError::Policy {
        key: key.to_owned(),
        problem: e.to_string(),
    })?;
    let key = |name: &str| format!("{key}.{name}");
    let mut kinds = Vec::new();
    for filter in raw.filters.iter().flat_map(|f| f.split(',')) {
        let kind = match filter.trim().strip_prefix("type==") {
            Some("exec.cachemount") => EntryKind::Volume,
            Some("regular" | "source.local" | "source.git.checkout") => EntryKind::Result,
            Some("source.image") => EntryKind::Blob,
            _ => {
                return Err(GcError::Filter {
                    key: key("filters"),
                    found: format!("{filter:?}"),
                });
            }
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let size = |name: &str, value: &Option<Value>| size_setting(&key(name), value.as_ref());
    let unused_for = match &raw.keep_duration {
        None | Some(Value::Null) => None,
        Some(v) => {
            let text = v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let parsed = parse_duration(&text);
            Some(parsed.ok_or_else(|| GcError::Duration {
                key: key("keepDuration"),
                found: v.to_string(),
            })?)
        }
    };
    let wishes = Wishes {
        reserved: size("reservedSpace", &raw.reserved_space)?,
        max_used: size("maxUsedSpace", &raw.max_used_space)?,
        min_free: size("minFreeSpace", &raw.min_free_space)?,
        sweep: size("sweepSize", &raw.sweep_size)?,
    };
    Ok(WishedRule {
        kinds,
        unused_for: unused_for.filter(|d| !d.is_zero()),
        wishes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("0", Some(Size::Bytes(0))),
            ("1024", Some(Size::Bytes(1024))),
            ("512MB", Some(Size::Bytes(512_000_000))),
            ("10GiB", Some(Size::Bytes(10 << 30))),
            ("10 gb", Some(Size::Bytes(10_000_000_000))),
            ("1.5k", Some(Size::Bytes(1_500))),
            ("10%", Some(Size::Part(10.0))),
            ("101%", None),
            ("-1", None),
            ("", None),
            ("GB", None),
            ("1.2.3GB", None),
            ("10 apples", None),
            ("99999999999999999999", None),
            ("18446744073709551615PB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), expected, "{text}");
        }
        assert_eq!(Size::Part(12.5).of(1000), 125);
    }

    #[test]
    fn durations() {
        let cases = [
            ("60", Some(Duration::from_secs(60))),
            ("48h", Some(Duration::from_secs(48 * 3600))),
            ("1h30m", Some(Duration::from_secs(5400))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("250ms", Some(Duration::from_millis(250))),
            ("", None),
            ("h", None),
            ("5", Some(Duration::from_secs(5))),
            ("5x", None),
            ("-5h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
