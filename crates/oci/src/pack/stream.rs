//! Bytes into a compressed blob: cut into units, compressed side by side, written in order.
//!
//! Every unit is a whole gzip member or zstd frame, so what comes out depends on the bytes alone, never on how many threads
//! there are.

use std::{
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use flate2::{GzBuilder, read::MultiGzDecoder};
use sha2::{Digest as _, Sha256};

use super::Format;
use crate::{digest::Digest, layer::Compression};

/// gzip's default; what other builders use.
const GZIP_LEVEL: u32 = 6;
/// zstd's default.
const ZSTD_LEVEL: i32 = 3;
/// Most bytes of one unit.
pub(super) const UNIT: usize = 4 << 20;
/// Units under way per thread.
const AHEAD: usize = 2;
const THREADS_MAX: usize = 8;

type Answer = SyncSender<io::Result<Vec<u8>>>;

/// Where a producer writes its bytes.
pub(super) struct Units {
    hash: Sha256,
    size: u64,
    unit: Vec<u8>,
    limit: usize,
    index: usize,
    work: SyncSender<(Vec<u8>, Answer)>,
    order: SyncSender<Receiver<io::Result<Vec<u8>>>>,
}

impl Units {
    /// Begins a new unit; its number.
    pub(super) fn boundary(&mut self) -> io::Result<usize> {
        if !self.unit.is_empty() {
            let full =
                std::mem::replace(&mut self.unit, Vec::with_capacity(self.limit.min(1 << 20)));
            let (answer, wait) = sync_channel(1);
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            self.order.send(wait).map_err(|_| gone(()))?;
            self.work.send((full, answer)).map_err(|_| gone(()))?;
            self.index += 1;
        }
        Ok(self.index)
    }
}

impl Write for Units {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.limit - self.unit.len());
        let part = bytes.get(..taken).unwrap_or_default();
        self.hash.update(part);
        self.unit.extend_from_slice(part);
        self.size += taken as u64;
        if self.unit.len() >= self.limit {
            self.boundary()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was written.
pub(super) struct Written<T> {
    /// What the producer said.
    pub(super) value: T,
    /// The digest's state after all that was produced.
    pub(super) hash: Sha256,
    /// Bytes produced.
    pub(super) size: u64,
    /// Where in the output each unit begins.
    pub(super) offsets: Vec<u64>,
    /// Bytes written.
    pub(super) written: u64,
}

/// Runs a producer, compresses what it writes and writes that to `out`.
pub(super) fn run<T: Send, E: Send + From<io::Error>>(
    format: Format,
    out: &mut dyn Write,
    produce: impl FnOnce(&mut Units) -> Result<T, E> + Send,
) -> Result<Written<T>, E> {
    let threads = std::thread::available_parallelism()
        .map_or(2, std::num::NonZero::get)
        .min(THREADS_MAX);
    let limit = match format {
        Format::Gzip => 1 << 20,
        Format::Uncompressed => 256 << 10,
        Format::Zstd | Format::Stargz => UNIT,
    };
    let (work, jobs) = sync_channel::<(Vec<u8>, Answer)>(threads * AHEAD);
    let (order, waits) = sync_channel(threads * AHEAD);
    let jobs = Mutex::new(jobs);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let jobs = &jobs;
            std::thread::Builder::new()
                .name("layer-pack".to_owned())
                .spawn_scoped(scope, move || {
                    loop {
                        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok((bytes, answer)) = next else { break };
                        // Nobody waits for it when writing has failed.
                        let _ = answer.send(compress(format, bytes));
                    }
                })?;
        }
        let producer = std::thread::Builder::new()
            .name("layer-read".to_owned())
            .spawn_scoped(scope, move || {
                let mut units = Units {
                    hash: Sha256::new(),
                    size: 0,
                    unit: Vec::new(),
                    limit,
                    index: 0,
                    work,
                    order,
                };
                let value = produce(&mut units)?;
                units.boundary()?;
                Ok::<_, E>((value, units.hash, units.size))
            })?;
        let (mut offsets, mut written) = (Vec::new(), 0_u64);
        let mut failed = None;
        for wait in waits {
            let bytes = wait.recv().unwrap_or_else(|_| {
                Err(io::Error::other(
                    "a compressing thread ended without an answer",
                ))
            });
            if let Err(e) = bytes.and_then(|bytes| {
                offsets.push(written);
                written += bytes.len() as u64;
                out.write_all(&bytes)
            }) {
                failed = Some(e);
                // Dropping the queue ends the producer.
                break;
            }
        }
        let produced = producer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the reading thread failed").into()));
        if let Some(e) = failed {
            return Err(e.into());
        }
        let (value, hash, size) = produced?;
        Ok(Written {
            value,
            hash,
            size,
            offsets,
            written,
        })
    })
}

/// One unit as a gzip member or zstd frame.
pub(super) fn compress(format: Format, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    match format {
        Format::Uncompressed => Ok(bytes),
        Format::Gzip | Format::Stargz => {
            let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(
                Vec::with_capacity(bytes.len() / 2),
                flate2::Compression::new(GZIP_LEVEL),
            );
            encoder.write_all(&bytes)?;
            encoder.finish()
        }
        Format::Zstd => zstd::bulk::compress(&bytes, ZSTD_LEVEL),
    }
}

/// A blob's contents, whatever way it is compressed.
pub(super) fn inflate<'a>(mut blob: impl io::BufRead + 'a) -> io::Result<Box<dyn io::Read + 'a>> {
    Ok(match Compression::detect(blob.fill_buf()?) {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(blob)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(blob)?),
    })
}

/// The digest of a finished state.
pub(super) fn digest(hash: Sha256) -> Digest {
    Digest::from_bytes(hash.finalize().into())
}
