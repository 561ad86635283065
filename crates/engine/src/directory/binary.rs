//! The part of a patch that changes a file which is no text: `GIT binary patch`, as `git diff --binary` writes it.

use std::io::{Read, Write};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use sha1::{Digest, Sha1};

/// Bytes in a line.
const LINE: usize = 52;
/// What bytes are written with, five for four.
const ALPHABET: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

/// A file's new contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// They are these.
    Literal(Vec<u8>),
    /// They are pieces of the old ones and new ones, as Git's packs tell them.
    Delta(Vec<u8>),
}

/// What Git calls a file with these contents.
pub(super) fn id(contents: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", contents.len()));
    hash.update(contents);
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Adds the part that makes one file the other, and the one that takes it back.
pub(super) fn write(out: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    out.extend_from_slice(b"GIT binary patch\n");
    for contents in [new, old] {
        out.extend_from_slice(format!("literal {}\n", contents.len()).as_bytes());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        // Writing to memory cannot fail.
        let packed = zlib.write_all(contents).and_then(|()| zlib.finish());
        for line in packed.unwrap_or_default().chunks(LINE) {
            let n = u8::try_from(line.len()).unwrap_or_default();
            out.push(if n <= 26 { b'A' + n - 1 } else { b'a' + n - 27 });
            for four in line.chunks(4) {
                let mut word = [0; 4];
                word[..four.len()].copy_from_slice(four);
                let mut word = u32::from_be_bytes(word);
                let mut five = [0; 5];
                for digit in five.iter_mut().rev() {
                    *digit = ALPHABET[(word % 85) as usize];
                    word /= 85;
                }
                out.extend_from_slice(&five);
            }
            out.push(b'\n');
        }
        out.push(b'\n');
    }
}

/// Reads a part from the line that says its kind and size: it, and how many lines it has. A file may have up to `max` bytes.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(lines: &[&[u8]], max: usize) -> Result<(Part, usize), String> {
    let head = String::from_utf8_lossy(lines.first().copied().unwrap_or_default());
    let (kind, size) = head.trim_end().split_once(' ').unwrap_or_default();
    let size = match (kind, size.parse::<usize>()) {
        ("literal" | "delta", Ok(size)) => size,
        _ => {
            return Err(format!(
                "`{}` is neither `literal` nor `delta` and a size",
                head.trim_end()
            ));
        }
    };
    if size > max {
        return Err(format!("its {size} bytes are more than {max}"));
    }
    let body = lines[1..].iter();
    let body: Vec<_> = body.take_while(|l| !l.trim_ascii().is_empty()).collect();
    let mut packed = Vec::new();
    for line in &body {
        let line = line.trim_ascii_end();
        decode(line, &mut packed)
            .ok_or_else(|| format!("`{}` is not base 85", String::from_utf8_lossy(line)))?;
    }
    let mut contents = Vec::new();
    ZlibDecoder::new(packed.as_slice())
        .take(size as u64 + 1)
        .read_to_end(&mut contents)
        .map_err(|e| format!("it cannot be unpacked: {e}"))?;
    if contents.len() != size {
        return Err(format!("it does not have the {size} bytes it says"));
    }
    let part = match kind {
        "literal" => Part::Literal(contents),
        _ => Part::Delta(contents),
    };
    Ok((part, 1 + body.len()))
}

fn decode(line: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (n, digits) = line.split_first()?;
    let n = usize::from(match n {
        b'A'..=b'Z' => n - b'A' + 1,
        b'a'..=b'z' => n - b'a' + 27,
        _ => return None,
    });
    if digits.len() != n.div_ceil(4) * 5 {
        return None;
    }
    let end = out.len() + n;
    for five in digits.chunks(5) {
        let mut word: u32 = 0;
        for digit in five {
            let value = ALPHABET.iter().position(|a| a == digit)?;
            word = word
                .checked_mul(85)?
                .checked_add(u32::try_from(value).ok()?)?;
        }
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.truncate(end);
    Some(())
}

impl Part {
    /// The new contents of a file with these old ones, of up to `max` bytes.
    pub(super) fn apply(&self, old: &[u8], max: usize) -> Option<Vec<u8>> {
        let delta = match self {
            Self::Literal(contents) => return Some(contents.clone()),
            Self::Delta(delta) => delta,
        };
        let mut delta = delta.iter().copied();
        let mut size = || -> Option<usize> {
            let mut n = 0_usize;
            for shift in (0..63).step_by(7) {
                let b = delta.next()?;
                n |= usize::from(b & 0x7f) << shift;
                if b & 0x80 == 0 {
                    return Some(n);
                }
            }
            None
        };
        let (was, is) = (size()?, size()?);
        if was != old.len() || is > max {
            return None;
        }
        let mut out = Vec::new();
        while let Some(op) = delta.next() {
            if op & 0x80 != 0 {
                let mut number = |bits: std::ops::Range<u32>| -> Option<usize> {
                    let mut n = 0;
                    for (shift, bit) in bits.enumerate() {
                        if op >> bit & 1 == 1 {
                            n |= usize::from(delta.next()?) << (8 * shift);
                        }
                    }
                    Some(n)
                };
                let (at, n) = (number(0..4)?, number(4..7)?);
                let n = if n == 0 { 0x10000 } else { n };
                out.extend_from_slice(old.get(at..at.checked_add(n)?)?);
            } else if op == 0 {
                return None;
            } else {
                for _ in 0..op {
                    out.push(delta.next()?);
                }
            }
            if out.len() > is {
                return None;
            }
        }
        (out.len() == is).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<&[u8]> {
        text.split_inclusive(|b| *b == b'\n').collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for len in [0, 1, 3, 4, 5, 51, 52, 53, 1000] {
            let new: Vec<u8> = (0..len).map(|n: u32| (n * n % 251) as u8).collect();
            let mut out = Vec::new();
            write(&mut out, b"old\0", &new);
            let all = lines(&out);
            let (part, used) = read(&all[1..], 1000).expect("a part");
            assert_eq!(part, Part::Literal(new));
            let (back, _) = read(&all[used + 2..], 1000).expect("the way back");
            assert_eq!(back, Part::Literal(b"old\0".to_vec()));
        }
        // What `git hash-object` and `git diff --binary` say.
        assert_eq!(id(b"a\0"), "90802fedc2462f10bf2114d086cacb9e3af99ffb");
        assert_eq!(id(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }

    #[test]
    fn deltas_take_pieces_of_what_was() {
        let delta = |bytes: &[u8]| Part::Delta(bytes.to_vec()).apply(b"0123456789", 20);
        assert_eq!(
            delta(&[10, 6, 0x91, 2, 3, 2, b'x', b'y', 0x90, 1]),
            Some(b"234xy0".to_vec())
        );
        for bad in [
            &[9, 1, 1, b'x'][..],
            &[10, 2, 1, b'x'],
            &[10, 1, 0],
            &[10, 3, 0x91, 8, 3],
            &[10, 30, 0x90, 1],
            &[10, 1, 0x91],
            &[10],
        ] {
            assert_eq!(delta(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn damaged_parts_are_told() {
        for (text, why) in [
            (&b"litera 3\n"[..], "neither"),
            (b"literal 3000\n", "more than"),
            (b"literal 3\nA\n", "base 85"),
            (b"literal 3\nD\"0000\n", "base 85"),
            (b"literal 3\nD00000\n", "cannot be unpacked"),
            (b"literal 3\nHcmV?d00001\n\n", "does not have"),
            (b"", "neither"),
        ] {
            let error = read(&lines(text), 1000).expect_err("damaged");
            assert!(error.contains(why), "{error}");
        }
    }
}
