//! Certificate authorities of the host inside a container: a merged bundle, mounted over the image's own.

use std::{io::Read, os::fd::BorrowedFd, path::Path};

use rustix::fs::{FileType, OFlags};

use crate::{plan::CA_BUNDLES, rooted};

/// No bundle is larger.
const MAX_BUNDLE: u64 = 8 << 20;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The host's bundle, if it can be read.
pub(crate) fn read_host(path: &Path) -> Option<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(MAX_BUNDLE).read_to_string(&mut text));
    match read {
        Ok(_) => Some(text),
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "the bundle of certificate authorities cannot be read");
            None
        }
    }
}

/// The image's bundle files that lack some of the host's authorities, with what they should hold instead.
pub(crate) fn merged(root: BorrowedFd<'_>, host: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut found: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let mut seen = Vec::new();
    for path in CA_BUNDLES {
        let Ok(fd) = rooted::open(
            root,
            path.as_bytes(),
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        ) else {
            continue;
        };
        let Ok(stat) = rustix::fs::fstat(&fd) else {
            continue;
        };
        // Several of the names are often links to one file.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || seen.contains(&(stat.st_dev, stat.st_ino))
        {
            continue;
        }
        seen.push((stat.st_dev, stat.st_ino));
        let mut theirs = Vec::new();
        if std::fs::File::from(fd)
            .take(MAX_BUNDLE)
            .read_to_end(&mut theirs)
            .is_err()
        {
            continue;
        }
        if let Some(merged) = merge(&theirs, host) {
            found.push((path, merged));
        }
    }
    found
}

/// `theirs` and the certificates of `host` that it lacks; `None` when it lacks none.
fn merge(theirs: &[u8], host: &str) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(theirs);
    let known: std::collections::BTreeSet<String> = certificates(&text).map(squeeze).collect();
    let missing: Vec<&str> = certificates(host)
        .filter(|c| !known.contains(&squeeze(c)))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let mut merged = theirs.to_vec();
    if !merged.is_empty() && !merged.ends_with(b"\n") {
        merged.push(b'\n');
    }
    for certificate in missing {
        merged.extend_from_slice(certificate.as_bytes());
        merged.push(b'\n');
    }
    Some(merged)
}

fn certificates(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(BEGIN).filter_map(|(start, _)| {
        let rest = text.get(start..)?;
        let end = rest.find(END)? + END.len();
        rest.get(..end)
    })
}

/// A certificate without the white space that differs between writers.
fn squeeze(certificate: &str) -> String {
    certificate.split_ascii_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_certificates_are_added() {
        let cert = |body: &str| format!("{BEGIN}\n{body}\n{END}");
        let host = format!("# host\n{}\n{}\n", cert("AAAA"), cert("BBBB\nCCCC"));
        let theirs = format!("{}\r\n", cert("BBBB\r\nCCCC"));
        let merged = merge(theirs.as_bytes(), &host).unwrap();
        assert_eq!(
            String::from_utf8(merged).unwrap(),
            format!("{theirs}{}\n", cert("AAAA"))
        );
        assert_eq!(merge(host.as_bytes(), &host), None);
        assert_eq!(
            merge(b"", "no certificate, -----BEGIN CERTIFICATE-----"),
            None
        );
        assert_eq!(
            merge(b"x", &cert("A")).unwrap(),
            format!("x\n{}\n", cert("A")).into_bytes()
        );
    }
}
