//! Extended headers: `<length> <key>=<value>\n` records.

use super::HeaderError;

/// The values of an extended header this crate uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseKeys,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseKeys {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// Offsets and lengths from versions 0.0 and 0.1.
    pub(super) map: Option<Vec<u64>>,
}

/// Reads the records of a header that belongs to one entry.
pub(super) fn parse(mut rest: &[u8]) -> Result<Pax, HeaderError> {
    let mut pax = Pax::default();
    while !rest.is_empty() {
        let (key, value, after) = record(rest)?;
        rest = after;
        apply(&mut pax, key, value)?;
    }
    Ok(pax)
}

/// Checks that a header for all later entries says nothing this crate would have to obey.
pub(super) fn check_global(mut rest: &[u8]) -> Result<(), HeaderError> {
    while !rest.is_empty() {
        let (key, _, after) = record(rest)?;
        rest = after;
        if matches!(key, b"path" | b"linkpath" | b"size")
            || key.starts_with(b"GNU.sparse.")
            || key.starts_with(b"SCHILY.xattr.")
        {
            return Err(HeaderError::Ambiguous(
                "a global header sets names, sizes or attributes",
            ));
        }
    }
    Ok(())
}

/// The first record's key and value, and the bytes after it.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn record(bytes: &[u8]) -> Result<Record<'_>, HeaderError> {
    let space = bytes
        .iter()
        .take(20)
        .position(|b| *b == b' ')
        .ok_or(HeaderError::Pax)?;
    let (digits, _) = bytes.split_at(space);
    let length =
        usize::try_from(decimal(digits).ok_or(HeaderError::Pax)?).map_err(|_| HeaderError::Pax)?;
    let record = bytes.get(space + 1..length).ok_or(HeaderError::Pax)?;
    let (newline, record) = record.split_last().ok_or(HeaderError::Pax)?;
    if *newline != b'\n' {
        return Err(HeaderError::Pax);
    }
    let equals = record
        .iter()
        .position(|b| *b == b'=')
        .ok_or(HeaderError::Pax)?;
    let (key, value) = record.split_at(equals);
    if key.is_empty() {
        return Err(HeaderError::Pax);
    }
    Ok((
        key,
        value.get(1..).unwrap_or_default(),
        bytes.get(length..).unwrap_or_default(),
    ))
}

fn apply(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<(), HeaderError> {
    let text = || (!value.is_empty()).then(|| value.to_vec());
    let number = |name| match value {
        b"" => Ok(None),
        value => decimal(value).map(Some).ok_or(HeaderError::Number(name)),
    };
    match key {
        b"path" => pax.path = text(),
        b"linkpath" => pax.link = text(),
        b"size" => pax.size = number("size")?,
        b"uid" => pax.uid = number("uid")?,
        b"gid" => pax.gid = number("gid")?,
        b"mtime" if value.is_empty() => pax.mtime = None,
        b"mtime" => pax.mtime = Some(time(value).ok_or(HeaderError::Number("mtime"))?),
        b"GNU.sparse.major" => pax.sparse.major = number("GNU.sparse.major")?,
        b"GNU.sparse.minor" => pax.sparse.minor = number("GNU.sparse.minor")?,
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => pax.sparse.size = number("GNU.sparse.size")?,
        b"GNU.sparse.name" => pax.sparse.name = text(),
        b"GNU.sparse.numblocks" => pax.sparse.map = Some(Vec::new()),
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            let map = pax.sparse.map.get_or_insert_default();
            // Offsets and lengths take turns.
            if map.len().is_multiple_of(2) != (key == b"GNU.sparse.offset") {
                return Err(HeaderError::Sparse);
            }
            map.push(decimal(value).ok_or(HeaderError::Sparse)?);
        }
        b"GNU.sparse.map" => {
            let numbers = value
                .split(|b| *b == b',')
                .map(decimal)
                .collect::<Option<Vec<_>>>();
            pax.sparse.map = Some(numbers.ok_or(HeaderError::Sparse)?);
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if name.is_empty() || name.len() > 255 || name.contains(&0) {
                    return Err(HeaderError::Pax);
                }
                pax.xattrs.retain(|(other, _)| other != name);
                pax.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// A number in plain decimal digits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// Seconds with an optional fraction, rounded down.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = parts.next() {
        if fraction.iter().any(|b| !b.is_ascii_digit()) {
            return None;
        }
        for place in 0..9 {
            nanos = nanos * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
        }
    }
    Some(match (negative, nanos) {
        (false, nanos) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, nanos) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(records: &[(&str, &str)]) -> Vec<u8> {
        crate::layer::tarball::tests::pax_records(records)
    }

    #[test]
    fn reads_what_it_uses() {
        let pax = parse(&records(&[
            ("path", "a/é"),
            ("size", "12"),
            ("mtime", "-1.5"),
            ("SCHILY.xattr.user.a", "x=y\n"),
            ("comment", "whatever"),
        ]))
        .unwrap();
        assert_eq!(pax.path.as_deref(), Some("a/é".as_bytes()));
        assert_eq!(pax.size, Some(12));
        assert_eq!(pax.mtime, Some((-2, 500_000_000)));
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"x=y\n".to_vec())]);
    }

    #[test]
    fn refuses_malformed_records() {
        for bad in [
            &b"5 a=b"[..],
            b"x a=b\n",
            b"99 a=b\n",
            b"6 ab\n\n",
            b"4 =\n",
            b"3 a",
            b"0 a=b\n",
            b"18446744073709551616 a=b\n",
            b"-1 a=b\n",
            b"                      6 a=b\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for (key, value) in [
            ("size", "-1"),
            ("size", "1e3"),
            ("uid", "0x1"),
            ("mtime", "nan"),
            ("mtime", "1.-5"),
            ("GNU.sparse.map", "1,,2"),
            ("GNU.sparse.numbytes", "1"),
        ] {
            assert!(parse(&records(&[(key, value)])).is_err(), "{key}={value}");
        }
        assert!(check_global(&records(&[("comment", "x")])).is_ok());
        assert!(check_global(&records(&[("size", "1")])).is_err());
    }
}
