//! The layer as a stream of tar bytes: a thread reads and inflates into recycled buffers, the consumer hashes and parses.

use std::{
    io::{self, BufReader, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use sha2::{Digest as _, Sha256};

use super::{UnpackError, shown};
use crate::digest::Digest;

const BUFFER: usize = 512 << 10;
const BUFFERS: usize = 8;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A bare tar.
    None,
    /// gzip, one or more members.
    Gzip,
    /// zstd, one or more frames.
    Zstd,
}

impl Compression {
    /// Tells the compression by the first bytes of a blob.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, with which zstd:chunked and seekable files may begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// What was read once the stream has ended.
pub(super) struct Finished {
    pub(super) diff_id: Digest,
    pub(super) digest: Option<Digest>,
    pub(super) size: u64,
    pub(super) compression: Compression,
}

/// The consumer's side.
pub(super) struct Stream {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    hash: Option<Sha256>,
    seen: u64,
    limit: u64,
    ended: bool,
    /// Name of the entry being read, for messages.
    pub(super) entry: Vec<u8>,
}

/// Runs `consume` on the tar inside `blob`, then reads to the end and tells what was read.
pub(super) fn with_stream<R, T>(
    blob: R,
    digest: bool,
    limit: u64,
    consume: impl FnOnce(&mut Stream) -> Result<T, UnpackError>,
) -> Result<(T, Finished), UnpackError>
where
    R: Read + Send,
{
    let mut blob = Blob {
        inner: blob,
        hash: digest.then(Sha256::new),
        start: Vec::new(),
        at: 0,
    };
    let first = |source| UnpackError::Read { offset: 0, source };
    let compression = blob.peek().map(Compression::detect).map_err(first)?;
    let (full_in, full) = sync_channel(BUFFERS);
    let (empty, empty_out) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        let _ = empty.try_send(vec![0; BUFFER]);
    }
    // Without inflating the reader has time to hash; otherwise the consumer has.
    let reader_hashes = compression == Compression::None;
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .name("layer-read".to_owned())
            .spawn_scoped(scope, move || {
                inflate(blob, compression, reader_hashes, &full_in, &empty_out)
            })
            .map_err(first)?;
        let mut stream = Stream {
            full,
            empty,
            buffer: Vec::new(),
            at: 0,
            hash: (!reader_hashes).then(Sha256::new),
            seen: 0,
            limit,
            ended: false,
            entry: Vec::new(),
        };
        let value = consume(&mut stream)?;
        stream.drain()?;
        let (seen, own) = (stream.seen, stream.hash.take());
        drop(stream);
        let (diff, digest) = reader
            .join()
            .map_err(|_| first(io::Error::other("the reading thread failed")))?;
        let diff_id = own
            .or(diff)
            .map(|hash| Digest::from_bytes(hash.finalize().into()))
            .unwrap_or_else(|| Digest::of(b""));
        Ok((
            value,
            Finished {
                diff_id,
                digest,
                size: seen,
                compression,
            },
        ))
    })
}

/// The reader thread: fills empty buffers until the blob ends or the consumer goes away.
fn inflate<R: Read>(
    mut blob: Blob<R>,
    compression: Compression,
    hashes: bool,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> (Option<Sha256>, Option<Digest>) {
    let mut hash = hashes.then(Sha256::new);
    let result = (|| {
        let mut pump = |decoder: &mut dyn Read| -> io::Result<()> {
            while let Ok(mut buffer) = empty.recv() {
                buffer.resize(BUFFER, 0);
                let filled = fill(decoder, &mut buffer)?;
                buffer.truncate(filled);
                if let Some(hash) = &mut hash {
                    hash.update(&buffer);
                }
                if filled == 0 || full.send(Ok(buffer)).is_err() {
                    break;
                }
            }
            Ok(())
        };
        match compression {
            Compression::None => pump(&mut blob)?,
            Compression::Gzip => {
                pump(&mut flate2::bufread::MultiGzDecoder::new(
                    BufReader::with_capacity(BUFFER, &mut blob),
                ))?;
            }
            Compression::Zstd => {
                pump(&mut zstd::stream::read::Decoder::with_buffer(
                    BufReader::with_capacity(BUFFER, &mut blob),
                )?)?;
            }
        }
        // What the decoder left unread still belongs to the blob.
        io::copy(&mut blob, &mut io::sink())
    })();
    if let Err(error) = result {
        let _ = full.send(Err(error));
    }
    (
        hash,
        blob.hash
            .map(|hash| Digest::from_bytes(hash.finalize().into())),
    )
}

fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// The blob with its first bytes put back, hashing what passes.
struct Blob<R> {
    inner: R,
    hash: Option<Sha256>,
    start: Vec<u8>,
    at: usize,
}

impl<R: Read> Blob<R> {
    fn peek(&mut self) -> io::Result<&[u8]> {
        let mut start = vec![0; 8];
        let filled = fill(&mut self.inner, &mut start)?;
        start.truncate(filled);
        self.start = start;
        Ok(&self.start)
    }
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.start.get(self.at..).filter(|rest| !rest.is_empty()) {
            Some(mut rest) => {
                let n = rest.read(buffer)?;
                self.at += n;
                n
            }
            None => self.inner.read(buffer)?,
        };
        if let (Some(hash), Some(read)) = (&mut self.hash, buffer.get(..n)) {
            hash.update(read);
        }
        Ok(n)
    }
}

impl Stream {
    /// Bytes of the tar already consumed.
    pub(super) fn offset(&self) -> u64 {
        self.seen - (self.buffer.len() - self.at) as u64
    }

    /// The next bytes, as many as there are at hand; empty at the end.
    fn chunk(&mut self) -> Result<&[u8], UnpackError> {
        if self.at == self.buffer.len() && !self.ended {
            let used = std::mem::take(&mut self.buffer);
            self.at = 0;
            if used.capacity() > 0 {
                let _ = self.empty.try_send(used);
            }
            match self.full.recv() {
                Ok(Ok(buffer)) => {
                    self.seen += buffer.len() as u64;
                    if self.seen > self.limit {
                        return Err(UnpackError::Limit {
                            what: "bytes",
                            limit: self.limit,
                        });
                    }
                    if let Some(hash) = &mut self.hash {
                        hash.update(&buffer);
                    }
                    self.buffer = buffer;
                }
                Ok(Err(source)) => {
                    return Err(UnpackError::Read {
                        offset: self.seen,
                        source,
                    });
                }
                Err(_) => self.ended = true,
            }
        }
        Ok(self.buffer.get(self.at..).unwrap_or_default())
    }

    /// Hands exactly `left` bytes to `sink` in pieces.
    pub(super) fn take(
        &mut self,
        mut left: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        while left > 0 {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Err(self.truncated());
            }
            let n = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            sink(chunk.get(..n).unwrap_or_default())?;
            self.at += n;
            left -= n as u64;
        }
        Ok(())
    }

    /// The next 512 bytes, or `None` if the tar ends here.
    pub(super) fn block(&mut self) -> Result<Option<[u8; 512]>, UnpackError> {
        let mut block = [0; 512];
        let chunk = self.chunk()?;
        if chunk.is_empty() {
            return Ok(None);
        }
        if let Some(whole) = chunk.get(..512) {
            block.copy_from_slice(whole);
            self.at += 512;
            return Ok(Some(block));
        }
        let mut at = 0;
        self.take(512, |piece| {
            if let Some(to) = block.get_mut(at..at + piece.len()) {
                to.copy_from_slice(piece);
            }
            at += piece.len();
            Ok(())
        })?;
        Ok(Some(block))
    }

    /// The next `len` bytes as a vector; the caller has bounded `len`.
    pub(super) fn bytes(&mut self, len: u64) -> Result<Vec<u8>, UnpackError> {
        let mut out = Vec::new();
        self.take(len, |piece| {
            out.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(out)
    }

    fn drain(&mut self) -> Result<(), UnpackError> {
        loop {
            let n = self.chunk()?.len();
            if n == 0 {
                return Ok(());
            }
            self.at += n;
        }
    }

    fn truncated(&self) -> UnpackError {
        UnpackError::Truncated {
            offset: self.seen,
            entry: shown(&self.entry),
        }
    }
}
