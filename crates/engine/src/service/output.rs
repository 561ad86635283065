//! What a service says: the end of it is kept, and lines can be waited for.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::progress::Stream;

/// How much is kept, in bytes.
const KEPT: usize = 256 << 10;
/// Longest line that is looked at whole.
const LINE: usize = 64 << 10;
/// How much of the output an error shows: lines and bytes.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 4 << 10;

/// The end of a service's output. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    kept: Vec<u8>,
    /// The unfinished lines of both streams.
    lines: [Vec<u8>; 2],
    watched: Vec<Watched>,
}

struct Watched {
    text: Vec<u8>,
    missing: u32,
    seen: watch::Sender<bool>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({} bytes)", self.inner().kept.len())
    }
}

impl Log {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        crate::lock(&self.0)
    }

    /// It said this.
    pub(super) fn push(&self, stream: Stream, bytes: &[u8]) {
        let mut inner = self.inner();
        inner.kept.extend_from_slice(bytes);
        if inner.kept.len() > 2 * KEPT {
            let cut = inner.kept.len() - KEPT;
            inner.kept.drain(..cut);
        }
        if inner.watched.is_empty() {
            // Nobody waits for lines; an unfinished one may still matter to who comes next, but starts are over by then.
            return;
        }
        let Inner { lines, watched, .. } = &mut *inner;
        let [out, err] = lines;
        let line = if stream == Stream::Stdout { out } else { err };
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            line.extend_from_slice(piece);
            if line.last() == Some(&b'\n') || line.len() >= LINE {
                watched.retain_mut(|w| !w.sees(line));
                line.clear();
            }
        }
    }

    /// Resolves when so many lines with this text have been said from now on. Ask before it speaks.
    pub(super) fn lines(&self, text: &str, count: u32) -> watch::Receiver<bool> {
        let (seen, receiver) = watch::channel(count == 0);
        self.inner().watched.push(Watched {
            text: text.as_bytes().to_vec(),
            missing: count,
            seen,
        });
        receiver
    }

    /// All that is kept.
    pub fn text(&self) -> String {
        let inner = self.inner();
        let start = inner.kept.len().saturating_sub(KEPT);
        String::from_utf8_lossy(inner.kept.get(start..).unwrap_or_default()).into_owned()
    }

    /// The last lines, for an error; empty when it said nothing.
    pub(super) fn tail(&self) -> String {
        let inner = self.inner();
        let start = inner.kept.len().saturating_sub(TAIL_BYTES);
        let text = String::from_utf8_lossy(inner.kept.get(start..).unwrap_or_default());
        let lines: Vec<&str> = text.trim().lines().collect();
        lines
            .get(lines.len().saturating_sub(TAIL_LINES)..)
            .unwrap_or_default()
            .join("\n")
    }
}

impl Watched {
    /// Takes a line; true when nothing more is waited for.
    fn sees(&mut self, line: &[u8]) -> bool {
        if self.text.is_empty() || line.windows(self.text.len()).any(|w| w == self.text) {
            self.missing = self.missing.saturating_sub(1);
        }
        let done = self.missing == 0;
        if done {
            self.seen.send_replace(true);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_across_pieces_and_streams_apart() {
        let log = Log::default();
        let once = log.lines("ready", 1);
        let twice = log.lines("ready", 2);
        log.push(Stream::Stdout, b"not yet\nrea");
        log.push(Stream::Stderr, b"dy\n");
        assert!(!*once.borrow());
        log.push(Stream::Stdout, b"dy now\n");
        assert!(*once.borrow() && !*twice.borrow());
        log.push(Stream::Stdout, b"ready again");
        assert!(!*twice.borrow(), "a line counts when it is over");
        log.push(Stream::Stdout, b"\n");
        assert!(*twice.borrow());
    }

    #[test]
    fn only_the_end_is_kept() {
        let log = Log::default();
        for i in 0..200_000 {
            log.push(Stream::Stdout, format!("line {i}\n").as_bytes());
        }
        assert!(log.text().len() <= KEPT && log.text().ends_with("line 199999\n"));
        assert_eq!(log.tail().lines().count(), TAIL_LINES);
        assert!(log.tail().ends_with("line 199999"));
        assert_eq!(Log::default().tail(), "");
    }
}
