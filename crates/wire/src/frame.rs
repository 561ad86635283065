//! Binary frames: one byte of kind, four of length (little endian), then that many bytes.

use std::io::{self, Read, Write};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest payload.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Bytes before a payload.
pub const HEADER: usize = 5;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Encoded entries of a listing.
    Entries = 1,
    /// Nothing more comes.
    Done = 2,
    /// The sender gives up: a JSON [`LinkError`](crate::LinkError).
    Fail = 3,
    /// A directory.
    Dir = 4,
    /// A regular file; its content follows.
    File = 5,
    /// A symbolic link.
    Symlink = 6,
    /// Another name of an earlier file.
    HardLink = 7,
    /// Content.
    Data = 8,
    /// A hole in a file.
    Hole = 9,
    /// A file's end.
    End = 10,
    /// A file of a read begins.
    Begin = 11,
    /// A file of a read is not there.
    Missing = 12,
    /// A terminal's new size: rows and columns, two bytes each, the lower one first.
    Resize = 13,
}

impl Kind {
    /// From its byte.
    pub fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            1 => Self::Entries,
            2 => Self::Done,
            3 => Self::Fail,
            4 => Self::Dir,
            5 => Self::File,
            6 => Self::Symlink,
            7 => Self::HardLink,
            8 => Self::Data,
            9 => Self::Hole,
            10 => Self::End,
            11 => Self::Begin,
            12 => Self::Missing,
            13 => Self::Resize,
            _ => return None,
        })
    }
}

/// Why a frame was not read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind nobody knows.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A longer payload than allowed.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// Not what this kind of frame holds.
    #[error("a malformed {0:?} frame: {1}")]
    Malformed(Kind, &'static str),
    /// The connection failed or ended too early.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// A frame's header. Payloads are at most [`MAX_PAYLOAD`].
pub fn header(kind: Kind, len: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    [kind as u8, a, b, c, d]
}

fn parse(header: [u8; HEADER]) -> Result<(Kind, usize), FrameError> {
    let [kind, a, b, c, d] = header;
    let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
    let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if len > MAX_PAYLOAD {
        Err(FrameError::TooLong(len))
    } else {
        Ok((kind, len))
    }
}

/// Appends a whole frame to a buffer.
pub fn push(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    out.extend_from_slice(&header(kind, payload.len()));
    out.extend_from_slice(payload);
}

/// Writes a frame.
///
/// # Errors
/// A failed connection.
pub fn write(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&header(kind, payload.len()))?;
    to.write_all(payload)
}

/// Reads a frame into `payload`, which is replaced.
///
/// # Errors
/// A foreign or overlong frame, a failed or ended connection.
pub fn read(from: &mut impl Read, payload: &mut Vec<u8>) -> Result<Kind, FrameError> {
    let mut head = [0; HEADER];
    from.read_exact(&mut head).map_err(FrameError::Io)?;
    let (kind, len) = parse(head)?;
    payload.resize(len, 0);
    from.read_exact(payload).map_err(FrameError::Io)?;
    Ok(kind)
}

/// [`write`] for async connections.
///
/// # Errors
/// As [`write`].
pub async fn write_async(
    to: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    payload: &[u8],
) -> io::Result<()> {
    to.write_all(&header(kind, payload.len())).await?;
    to.write_all(payload).await
}

/// [`read`] for async connections. Dropping the future may lose a part of a frame.
///
/// # Errors
/// As [`read`].
pub async fn read_async(
    from: &mut (impl AsyncRead + Unpin),
    payload: &mut Vec<u8>,
) -> Result<Kind, FrameError> {
    let mut head = [0; HEADER];
    from.read_exact(&mut head).await.map_err(FrameError::Io)?;
    let (kind, len) = parse(head)?;
    payload.resize(len, 0);
    from.read_exact(payload).await.map_err(FrameError::Io)?;
    Ok(kind)
}

/// Appends a number: seven bits a byte, low first.
pub fn push_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Takes a number from the front.
pub fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        n |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// Appends bytes with their length.
pub fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes bytes with their length from the front.
pub fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(bytes)
}

/// Takes a fixed-width number from the front.
pub(crate) fn take_u64(from: &mut &[u8]) -> Option<u64> {
    let (bytes, rest) = from.split_first_chunk::<8>()?;
    *from = rest;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_round_trip() {
        for n in (0..64).flat_map(|s| [1u64 << s, (1u64 << s) - 1, u64::MAX >> s]) {
            let mut out = Vec::new();
            push_varint(&mut out, n);
            let mut rest = &out[..];
            assert_eq!(take_varint(&mut rest), Some(n));
            assert!(rest.is_empty());
        }
        assert_eq!(take_varint(&mut &[0x80; 11][..]), None);
        assert_eq!(take_varint(&mut &[0x80][..]), None);
    }

    #[test]
    fn frames_round_trip_and_foreign_ones_are_refused() {
        let mut out = Vec::new();
        push(&mut out, Kind::Data, b"abc");
        write(&mut out, Kind::Done, b"").unwrap();
        let (mut from, mut payload) = (&out[..], Vec::new());
        assert_eq!(read(&mut from, &mut payload).unwrap(), Kind::Data);
        assert_eq!(payload, b"abc");
        assert_eq!(read(&mut from, &mut payload).unwrap(), Kind::Done);
        assert!(matches!(
            read(&mut from, &mut payload),
            Err(FrameError::Io(_))
        ));
        assert!(matches!(
            read(&mut &[99, 0, 0, 0, 0][..], &mut payload),
            Err(FrameError::Kind(99))
        ));
        assert!(matches!(
            read(&mut &[8, 0, 0, 0, 255][..], &mut payload),
            Err(FrameError::TooLong(_))
        ));
    }
}
