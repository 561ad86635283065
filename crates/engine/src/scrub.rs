//! Replaces secret values by `***` in streams, across chunk borders, and in what is said of them.

use std::{collections::HashMap, sync::Arc};

use graph::call::Digest;

use crate::secret::Plaintext;

/// What a secret is shown as.
const MASK: &[u8] = b"***";
/// Shortest line of a multi-line secret that is masked by itself.
const MIN_LINE: usize = 6;

/// An address that could not be read, as messages show it: shortened, without what stands before an `@` and in its query. It may
/// be anything, so rather too much is masked.
pub(crate) fn shown_address(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text.as_str()),
    };
    let (masked, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    let (rest, cut) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?…"),
        None => (rest, ""),
    };
    let rest: String = rest.chars().take(200).collect();
    // What stands before `://` may be a password as well.
    let scheme = match scheme.contains('@') {
        true => "***".to_owned(),
        false => scheme.chars().take(200).collect(),
    };
    format!("{scheme}{masked}{rest}{cut}")
}

/// A text with what stands before an `@` in its addresses masked: `ADD http://user:password@host/file`.
pub(crate) fn addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '`'))
            .unwrap_or(after.len());
        let authority = &after[..end];
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("***@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// Shortest secret of a session that is masked in every error: shorter ones are parts of ordinary words.
const MIN_ANYWHERE: usize = 4;

/// A streaming replacer. Holds back only what may be the beginning of a secret. Cheap to clone.
#[derive(Clone)]
pub struct Scrubber {
    /// What to mask, the longest first.
    patterns: Arc<[Box<[u8]>]>,
    /// Which bytes a pattern begins with.
    first: [bool; 256],
    held: Vec<u8>,
}

impl Scrubber {
    /// Masks these values, their whitespace-trimmed forms and, of multi-line ones, each line of some length.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut patterns: Vec<Box<[u8]>> = Vec::new();
        for s in secrets {
            patterns.extend(parts(s).into_iter().map(Box::from));
        }
        Self::of(patterns)
    }

    /// Masks these values in texts too that say what they are: as messages show them, with what cannot be printed replaced or
    /// escaped.
    pub fn for_texts<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut patterns: Vec<Box<[u8]>> = Vec::new();
        for s in secrets {
            for part in parts(s) {
                let text = String::from_utf8_lossy(part);
                let replaced = |by: char| -> String {
                    text.chars()
                        .map(|c| if c.is_control() { by } else { c })
                        .collect()
                };
                for form in [
                    text.to_string(),
                    replaced('\u{fffd}'),
                    replaced(' '),
                    text.escape_debug().to_string(),
                    text.replace('\0', "\\0"),
                ] {
                    patterns.push(form.into_bytes().into());
                }
                patterns.push(part.into());
            }
        }
        Self::of(patterns)
    }

    fn of(mut patterns: Vec<Box<[u8]>>) -> Self {
        patterns.retain(|p| !p.trim_ascii().is_empty());
        patterns.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        patterns.dedup();
        let mut first = [false; 256];
        for b in patterns.iter().filter_map(|p| p.first()) {
            first[usize::from(*b)] = true;
        }
        Self {
            patterns: patterns.into(),
            first,
            held: Vec::new(),
        }
    }

    /// Takes a chunk and returns what can be shown already.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        if self.patterns.is_empty() {
            return chunk.to_vec();
        }
        self.held.extend_from_slice(chunk);
        self.drain(false)
    }

    /// The rest.
    pub fn finish(&mut self) -> Vec<u8> {
        self.drain(true)
    }

    fn drain(&mut self, last: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        'bytes: while let Some(byte) = self.held.get(at) {
            if self.first[usize::from(*byte)] {
                let rest = &self.held[at..];
                for p in self.patterns.iter() {
                    if rest.starts_with(p) {
                        out.extend_from_slice(MASK);
                        at += p.len();
                        continue 'bytes;
                    }
                    // A longer secret may still become whole with the next chunk.
                    if !last && p.starts_with(rest) {
                        break 'bytes;
                    }
                }
            }
            out.push(*byte);
            at += 1;
        }
        self.held.drain(..at);
        out
    }

    /// Masks a whole text.
    pub fn text(&mut self, text: &str) -> String {
        let mut out = self.push(text.as_bytes());
        out.extend(self.finish());
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scrubber(…)")
    }
}

/// What of a secret is masked: all of it, without white space around it, and each of its lines of some length.
fn parts(secret: &[u8]) -> Vec<&[u8]> {
    let trimmed = secret.trim_ascii();
    let mut parts = vec![secret, trimmed];
    if trimmed.contains(&b'\n') {
        parts.extend(
            trimmed
                .split(|b| *b == b'\n')
                .map(<[u8]>::trim_ascii)
                .filter(|l| l.len() >= MIN_LINE),
        );
    }
    parts
}

/// All secrets of a session, for what leaves the engine about it.
#[derive(Debug, Default)]
pub struct Veil {
    secrets: HashMap<Digest, Plaintext>,
    /// Made when first needed, and anew when there are more secrets.
    scrubber: Option<Scrubber>,
}

impl Veil {
    /// A secret's value.
    pub fn get(&self, id: Digest) -> Option<Plaintext> {
        self.secrets.get(&id).cloned()
    }

    /// Adds a secret, or changes it.
    pub fn set(&mut self, id: Digest, value: Plaintext) {
        self.secrets.insert(id, value);
        self.scrubber = None;
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// A text with all values masked; `None` when there is nothing to mask.
    pub fn text(&mut self, text: &str) -> Option<String> {
        if self.secrets.is_empty() {
            return None;
        }
        let secrets = &self.secrets;
        let scrubber = self.scrubber.get_or_insert_with(|| {
            let long = secrets
                .values()
                .map(Plaintext::reveal)
                .filter(|s| s.trim_ascii().len() >= MIN_ANYWHERE);
            Scrubber::for_texts(long)
        });
        let masked = scrubber.clone().text(text);
        (masked != text).then_some(masked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_chunks(secrets: &[&str], text: &str, size: usize) -> String {
        let mut s = Scrubber::new(secrets.iter().map(|s| s.as_bytes()));
        let mut out = Vec::new();
        for c in text.as_bytes().chunks(size) {
            out.extend(s.push(c));
        }
        out.extend(s.finish());
        String::from_utf8(out).expect("text in, text out")
    }

    #[test]
    fn credentials_in_addresses_are_masked() {
        assert_eq!(
            addresses("ADD http://u:p@ss@h/f@1 https://h2/x \"ssh://git@h3\" /to # a@b ://"),
            "ADD http://***@h/f@1 https://h2/x \"ssh://***@h3\" /to # a@b ://"
        );
        assert_eq!(addresses("nothing: //a@b"), "nothing: //a@b");
    }

    #[test]
    fn secrets_are_masked_at_every_chunk_size() {
        let text = "a hunter2 b hunter22 c\nhunter";
        for size in 1..text.len() {
            assert_eq!(
                in_chunks(&["hunter2", "hunter22\n"], text, size),
                "a *** b *** c\nhunter",
                "chunks of {size}"
            );
        }
    }

    #[test]
    fn lines_of_a_key_are_masked_each() {
        let key = "-----BEGIN-----\nabcdefgh\n-----END-----\n";
        assert_eq!(in_chunks(&[key], "x abcdefgh y", 3), "x *** y");
        assert_eq!(in_chunks(&[key], key, 5), "***");
    }

    #[test]
    fn secrets_are_masked_as_messages_show_them() {
        let secret = "Nul\0tail\"x";
        let mut scrubber = Scrubber::for_texts([secret.as_bytes()]);
        for shown in [
            secret.to_owned(),
            "Nul\u{fffd}tail\"x".to_owned(),
            "Nul tail\"x".to_owned(),
            format!("{secret:?}"),
            "Nul\\0tail\"x".to_owned(),
        ] {
            let masked = scrubber.text(&format!("path {shown}: no"));
            assert!(
                !masked.contains("Nul") && !masked.contains("tail"),
                "{masked}"
            );
        }
        let mut binary = Scrubber::for_texts([&b"ab\xffcd"[..]]);
        assert_eq!(binary.text("x ab\u{fffd}cd y"), "x *** y");
    }

    #[test]
    fn a_veil_covers_all_secrets_but_not_short_ones() {
        let id = |n| Digest(n);
        let mut veil = Veil::default();
        assert_eq!(veil.text("hunter2"), None);
        veil.set(id(1), Plaintext::new(&b"hunter2"[..]));
        veil.set(id(2), Plaintext::new(&b"1"[..]));
        assert_eq!(veil.text("exit code: 1"), None);
        assert_eq!(veil.text("/x/hunter2: no").as_deref(), Some("/x/***: no"));
        veil.set(id(1), Plaintext::new(&b"other-value"[..]));
        assert_eq!(veil.text("other-value").as_deref(), Some("***"));
        veil.clear();
        assert_eq!(veil.text("other-value"), None);
    }

    #[test]
    fn blank_secrets_mask_nothing() {
        assert_eq!(in_chunks(&["", " \n"], "a b\n", 2), "a b\n");
    }
}
