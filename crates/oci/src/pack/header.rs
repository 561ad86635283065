//! Tar headers, written so that the same entry has the same bytes everywhere: ustar, with a PAX header only for what ustar
//! cannot hold.

/// What a header says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head<'a> {
    /// Relative; a directory's ends in `/`.
    pub(crate) name: &'a [u8],
    /// Target of a link.
    pub(crate) link: &'a [u8],
    /// ustar's type flag.
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
    /// Extended attributes, sorted by name.
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// A tar's unit.
pub(crate) const BLOCK: usize = 512;

/// How many bytes fill up the last block of contents.
pub(crate) fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

/// The header of an entry, with a PAX header before it if it needs one.
pub(crate) fn encode(head: &Head<'_>) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let split = split(head.name);
    if split.is_none() {
        records.push((b"path".to_vec(), head.name.to_vec()));
    }
    if head.link.len() > 100 {
        records.push((b"linkpath".to_vec(), head.link.to_vec()));
    }
    let mut number = |key: &str, value: u64, limit: u64| {
        if value > limit {
            records.push((key.into(), value.to_string().into_bytes()));
            0
        } else {
            value
        }
    };
    let uid = number("uid", head.uid, 0o7_777_777);
    let gid = number("gid", head.gid, 0o7_777_777);
    let size = number("size", head.size, 0o77_777_777_777);
    let mtime = match u64::try_from(head.mtime) {
        Ok(seconds) => number("mtime", seconds, 0o77_777_777_777),
        Err(_) => {
            records.push((b"mtime".to_vec(), head.mtime.to_string().into_bytes()));
            0
        }
    };
    for (name, value) in head.xattrs {
        records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
    }
    records.sort();
    let mut out = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        let body: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        let base: Vec<u8> = head
            .name
            .strip_suffix(b"/")
            .unwrap_or(head.name)
            .rsplit(|b| *b == b'/')
            .next()
            .unwrap_or_default()
            .iter()
            .copied()
            .take(80)
            .collect();
        let name = [b"PaxHeaders.0/", base.as_slice()].concat();
        block(
            &mut out,
            (b"", &name),
            b"",
            b'x',
            0o644,
            (0, 0),
            body.len() as u64,
            0,
            (0, 0),
        );
        out.extend_from_slice(&body);
        out.resize(out.len() + padding(body.len() as u64), 0);
    }
    let cut = head
        .name
        .get(..100.min(head.name.len()))
        .unwrap_or_default();
    block(
        &mut out,
        split.unwrap_or((b"", cut)),
        head.link
            .get(..100.min(head.link.len()))
            .unwrap_or_default(),
        head.kind,
        head.mode,
        (uid, gid),
        size,
        mtime,
        head.device,
    );
    out
}

/// Prefix and name of a ustar header, if the name fits.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let inner = name.get(..name.len().saturating_sub(1))?;
    inner
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .find_map(|(at, _)| {
            let (prefix, rest) = (name.get(..at)?, name.get(at + 1..)?);
            (!prefix.is_empty() && prefix.len() <= 155 && rest.len() <= 100)
                .then_some((prefix, rest))
        })
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[expect(
    clippy::too_many_arguments,
    reason = "the fields of one header, in its order"
)]
fn block(
    out: &mut Vec<u8>,
    (prefix, name): (&[u8], &[u8]),
    link: &[u8],
    kind: u8,
    mode: u32,
    (uid, gid): (u64, u64),
    size: u64,
    mtime: u64,
    (major, minor): (u32, u32),
) {
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = header.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, name);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, format!("{uid:07o}").as_bytes());
    put(116, format!("{gid:07o}").as_bytes());
    put(124, format!("{size:011o}").as_bytes());
    put(136, format!("{mtime:011o}").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link);
    put(257, b"ustar\x0000");
    if kind == b'3' || kind == b'4' {
        put(329, format!("{major:07o}").as_bytes());
        put(337, format!("{minor:07o}").as_bytes());
    }
    put(345, prefix);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(field) = header.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    out.extend_from_slice(&header);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &[u8]) -> Vec<u8> {
        encode(&Head {
            name,
            kind: b'0',
            ..Head::default()
        })
    }

    #[test]
    fn extended_headers_only_where_they_are_needed() {
        assert_eq!(named(b"short").len(), BLOCK);
        let deep = [b"d/".repeat(60), b"name".to_vec()].concat();
        assert_eq!(named(&deep).len(), BLOCK, "prefix and name");
        assert_eq!(
            named(&[b'n'; 101]).len(),
            3 * BLOCK,
            "one name of 101 bytes"
        );
        let big = encode(&Head {
            name: b"f",
            kind: b'0',
            size: 9 << 30,
            uid: 3_000_000,
            mtime: -1,
            ..Head::default()
        });
        let text = String::from_utf8_lossy(&big).into_owned();
        for record in ["19 size=9663676416\n", "12 mtime=-1\n", "15 uid=3000000\n"] {
            assert!(text.contains(record), "{record:?}");
        }
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for size in 0..2000 {
            let r = record(b"k", &vec![b'v'; size]);
            let digits: String = r
                .iter()
                .take_while(|b| **b != b' ')
                .map(|b| *b as char)
                .collect();
            assert_eq!(digits.parse::<usize>().ok(), Some(r.len()));
        }
    }
}
