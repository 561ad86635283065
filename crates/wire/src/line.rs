//! One JSON value per line, bounded, blocking and async.
//!
//! Readers take exactly the line and leave what follows in the `BufRead`, so the rest of a connection can be raw bytes.

use std::io::{self, BufRead, Write};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

/// Longest preamble or welcome.
pub const MAX_PREAMBLE: usize = 64 << 10;
/// Longest control or status line. A [`LinkRequest::Read`](crate::LinkRequest::Read) with many paths is the largest.
pub const MAX_LINE: usize = 4 << 20;

/// Why a line was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The connection ended where a line was expected.
    #[error("the connection was closed")]
    Closed,
    /// More than the limit came without a line's end.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// Not the JSON that was expected.
    #[error("cannot understand a line")]
    Json(#[source] serde_json::Error),
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// What one look at the buffer says: bytes to take, and whether the line is complete.
fn take(buffer: &[u8], line: &mut Vec<u8>, max: usize) -> Result<(usize, bool), LineError> {
    let (piece, used, complete) = match buffer.iter().position(|b| *b == b'\n') {
        Some(at) => (buffer.get(..at).unwrap_or_default(), at + 1, true),
        None => (buffer, buffer.len(), false),
    };
    if line.len() + piece.len() > max {
        return Err(LineError::TooLong(max));
    }
    line.extend_from_slice(piece);
    Ok((used, complete))
}

/// Reads one value; `None` when the connection ended before a line began.
///
/// # Errors
/// A long, broken or foreign line, or a failed connection.
pub fn read<T: DeserializeOwned>(
    from: &mut impl BufRead,
    max: usize,
) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    loop {
        let buffer = match from.fill_buf() {
            Ok(b) => b,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(LineError::Io(e)),
        };
        if buffer.is_empty() {
            return if line.is_empty() {
                Ok(None)
            } else {
                Err(LineError::Closed)
            };
        }
        let (used, complete) = take(buffer, &mut line, max)?;
        from.consume(used);
        if complete {
            return serde_json::from_slice(&line)
                .map(Some)
                .map_err(LineError::Json);
        }
    }
}

/// [`read`] for async connections. Dropping the future may lose a part of a line.
///
/// # Errors
/// As [`read`].
pub async fn read_async<T: DeserializeOwned>(
    from: &mut (impl AsyncBufRead + Unpin),
    max: usize,
) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    loop {
        let buffer = from.fill_buf().await.map_err(LineError::Io)?;
        if buffer.is_empty() {
            return if line.is_empty() {
                Ok(None)
            } else {
                Err(LineError::Closed)
            };
        }
        let (used, complete) = take(buffer, &mut line, max)?;
        from.consume(used);
        if complete {
            return serde_json::from_slice(&line)
                .map(Some)
                .map_err(LineError::Json);
        }
    }
}

/// A value as its line, with the line's end.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(value).map_err(LineError::Json)?;
    line.push(b'\n');
    Ok(line)
}

/// Writes one value and flushes.
///
/// # Errors
/// A failed connection.
pub fn write(to: &mut impl Write, value: &impl Serialize) -> Result<(), LineError> {
    to.write_all(&encode(value)?)
        .and_then(|()| to.flush())
        .map_err(LineError::Io)
}

/// [`write`] for async connections.
///
/// # Errors
/// As [`write`].
pub async fn write_async(
    to: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
) -> Result<(), LineError> {
    let line = encode(value)?;
    to.write_all(&line).await.map_err(LineError::Io)?;
    to.flush().await.map_err(LineError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_line_stays_in_the_buffer() {
        let mut from = io::Cursor::new(b"{\"a\":1}\nraw bytes".to_vec());
        let value: serde_json::Value = read(&mut from, 100).unwrap().unwrap();
        assert_eq!(value, serde_json::json!({"a": 1}));
        let mut rest = String::new();
        io::Read::read_to_string(&mut from, &mut rest).unwrap();
        assert_eq!(rest, "raw bytes");
    }

    #[test]
    fn an_endless_line_is_refused_at_the_limit() {
        let mut from = io::Cursor::new(vec![b'x'; 1000]);
        assert!(matches!(
            read::<u32>(&mut from, 10),
            Err(LineError::TooLong(10))
        ));
    }

    #[test]
    fn an_end_between_lines_is_no_error_and_within_one_is() {
        assert!(
            read::<u32>(&mut io::Cursor::new(b""), 10)
                .unwrap()
                .is_none()
        );
        assert!(matches!(
            read::<u32>(&mut io::Cursor::new(b"12"), 10),
            Err(LineError::Closed)
        ));
    }

    #[tokio::test]
    async fn async_and_blocking_readers_agree() {
        let mut line = encode(&[1, 2]).unwrap();
        line.extend_from_slice(b"tail");
        let mut from = tokio::io::BufReader::with_capacity(3, io::Cursor::new(line));
        assert_eq!(
            read_async::<Vec<u8>>(&mut from, 100).await.unwrap(),
            Some(vec![1, 2])
        );
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut from, &mut rest)
            .await
            .unwrap();
        assert_eq!(rest, b"tail");
    }
}
