//! Replaces secret values by `***` in streams, across chunk borders.

/// What a secret is shown as.
const MASK: &[u8] = b"***";
/// Shortest line of a multi-line secret that is masked by itself.
const MIN_LINE: usize = 6;

/// A streaming replacer. Holds back only what may be the beginning of a secret.
#[derive(Debug)]
pub struct Scrubber {
    /// What to mask, the longest first.
    patterns: Vec<Box<[u8]>>,
    /// Which bytes a pattern begins with.
    first: [bool; 256],
    held: Vec<u8>,
}

impl Scrubber {
    /// Masks these values, their whitespace-trimmed forms and, of multi-line ones, each line of some length.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut patterns: Vec<&[u8]> = Vec::new();
        for s in secrets {
            let trimmed = s.trim_ascii();
            patterns.push(s);
            patterns.push(trimmed);
            if trimmed.contains(&b'\n') {
                patterns.extend(
                    trimmed
                        .split(|b| *b == b'\n')
                        .map(<[u8]>::trim_ascii)
                        .filter(|l| l.len() >= MIN_LINE),
                );
            }
        }
        patterns.retain(|p| !p.trim_ascii().is_empty());
        patterns.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        patterns.dedup();
        let mut first = [false; 256];
        for b in patterns.iter().filter_map(|p| p.first()) {
            first[usize::from(*b)] = true;
        }
        Self {
            patterns: patterns.into_iter().map(Box::from).collect(),
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
                for p in &self.patterns {
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
    fn blank_secrets_mask_nothing() {
        assert_eq!(in_chunks(&["", " \n"], "a b\n", 2), "a b\n");
    }
}
