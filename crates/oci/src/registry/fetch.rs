//! Fetching layers: parallel, resumed where they broke off, checked by the store before they count.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Method, Response, StatusCode, header::CONTENT_RANGE};
use tokio::sync::{mpsc, watch};

use super::{
    Access, Client,
    client::{Ask, Pieces},
    config::{Endpoint, endpoints},
    error::{Attempts, RequestError},
    resolve::blocking,
};
use crate::{
    blobs::{Blobs, CommitError, Ingest},
    digest::Digest,
    manifest::Descriptor,
    reference::Reference,
};

/// Pieces of a blob between the network and the disk.
const QUEUE: usize = 16;
/// Layers whose fetching begins at once. Where the network is not what takes long, few at a time arrive one after the other, and
/// each is unpacked while the next ones come; all at a time would arrive at the end.
const FIRST: usize = 2;
/// After so long one more layer is fetched at the same time: the network takes long, and may give more to more connections.
const LONG: Duration = Duration::from_millis(400);
/// Interruptions of one blob that are forgiven as long as each try brings something.
const MAX_RESUMES: u32 = 50;

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes of it are there.
    Fetched {
        /// The layer's blob.
        digest: Digest,
        /// Bytes there.
        bytes: u64,
        /// Bytes in all.
        size: u64,
    },
    /// So many bytes of it have been sent.
    Pushed {
        /// The layer's blob.
        digest: Digest,
        /// Bytes sent.
        bytes: u64,
        /// Bytes in all.
        size: u64,
    },
    /// It is being unpacked.
    Unpacking {
        /// The layer's blob.
        digest: Digest,
    },
    /// It is ready to use.
    Ready {
        /// The layer's blob.
        digest: Digest,
    },
}

/// Why a blob of an image could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("failed to fetch layer {digest} of image {reference}")]
pub struct FetchError {
    /// The image.
    pub reference: Reference,
    /// The blob.
    pub digest: Digest,
    /// Who was asked and what they said.
    #[source]
    pub source: Attempts,
}

/// Told how far things are; called often, must be quick.
pub type Watch<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Access {
    /// Makes sure that all `layers` of an image are in `blobs`, some at the same time. `ready` is called for each as it
    /// arrives, in no particular order.
    ///
    /// # Errors
    /// The first layer that could not be had; what was fetched of the others is kept.
    pub async fn fetch(
        &self,
        reference: &Reference,
        layers: &[Descriptor],
        blobs: &Arc<dyn Blobs>,
        watch: Watch<'_>,
        ready: impl Fn(Digest),
    ) -> Result<(), FetchError> {
        let config = &self.client.shared.config;
        let places = endpoints(config, reference);
        let at_once = config.patience.per_image.max(1);
        // Some begin at once, the others one by one when those take long.
        let (begin, begun) = watch::channel(FIRST.min(at_once));
        let tasks: Vec<_> = layers
            .iter()
            .enumerate()
            .map(async |(n, layer)| {
                // Whoever waits has the sender beside it.
                let _ = begun.clone().wait_for(|begun| n < *begun).await;
                self.blob(&places, layer, blobs, watch)
                    .await
                    .map_err(|source| FetchError {
                        reference: reference.clone(),
                        digest: layer.digest,
                        source,
                    })?;
                begin.send_modify(|begun| *begun += 1);
                ready(layer.digest);
                Ok(())
            })
            .collect();
        let all = stream::iter(tasks).buffer_unordered(at_once).try_collect();
        let more = async {
            loop {
                tokio::time::sleep(LONG).await;
                begin.send_modify(|begun| *begun += 1);
            }
        };
        tokio::select! { done = all => done, never = more => never }
    }

    async fn blob(
        &self,
        places: &[Endpoint],
        layer: &Descriptor,
        blobs: &Arc<dyn Blobs>,
        watch: Watch<'_>,
    ) -> Result<(), Attempts> {
        let (digest, size) = (layer.digest, layer.size);
        let only = Arc::new(self.client.only(digest).await);
        let _slot = self.client.shared.downloads.acquire().await;
        let mut attempts = Attempts::default();
        for place in places {
            match self.blob_at(place, layer, blobs, (&only, watch)).await {
                Ok(()) => {
                    watch(Progress::Fetched {
                        digest,
                        bytes: size,
                        size,
                    });
                    return Ok(());
                }
                Err(error) => {
                    let local = error.local();
                    attempts.add(place, error);
                    if local {
                        break;
                    }
                }
            }
        }
        Err(attempts)
    }

    async fn blob_at(
        &self,
        place: &Endpoint,
        layer: &Descriptor,
        blobs: &Arc<dyn Blobs>,
        (only, watch): (&Arc<Only>, Watch<'_>),
    ) -> Result<(), RequestError> {
        let (store, digest) = (Arc::clone(blobs), layer.digest);
        if blocking(move || store.open(&digest))
            .await
            .map_err(RequestError::Store)?
            .is_some()
        {
            return Ok(());
        }
        match self.download_blob(place, layer, blobs, (only, watch)).await {
            // What an earlier run left behind may have been at fault.
            Err((RequestError::Digest { .. }, true)) => self
                .download_blob(place, layer, blobs, (only, watch))
                .await
                .map_err(|(error, _)| error),
            result => result.map_err(|(error, _)| error),
        }
    }

    /// Fetches one blob from one place. The error tells whether it continued from bytes of an earlier run.
    async fn download_blob(
        &self,
        place: &Endpoint,
        layer: &Descriptor,
        blobs: &Arc<dyn Blobs>,
        (only, watch): (&Arc<Only>, Watch<'_>),
    ) -> Result<(), (RequestError, bool)> {
        let (digest, size) = (layer.digest, layer.size);
        let (store, only) = (Arc::clone(blobs), Arc::clone(only));
        let held = blocking(move || Held::new(only, || store.ingest(&digest, size)))
            .await
            .map_err(|e| (RequestError::Store(e), false))?;
        let resumed = held.ingest.offset() > 0;
        let mut sink = Sink::new(held);
        let result = self.stream_into(place, layer, &mut sink, watch).await;
        // The disk's error explains a queue that was closed early, so it comes first.
        let held = sink
            .finish()
            .await
            .map_err(|e| (RequestError::Store(e), resumed))?;
        result.map_err(|e| (e, resumed))?;
        blocking(move || Ok(held.commit()))
            .await
            .map_err(|e| (RequestError::Store(e), resumed))?
            .map_err(|e| (RequestError::commit(&place.name, e), resumed))
    }

    async fn stream_into(
        &self,
        place: &Endpoint,
        layer: &Descriptor,
        sink: &mut Sink,
        watch: Watch<'_>,
    ) -> Result<(), RequestError> {
        let (digest, size) = (layer.digest, layer.size);
        let patience = &self.client.shared.config.patience;
        let (mut fruitless, mut resumes) = (0, 0);
        watch(Progress::Fetched {
            digest,
            bytes: sink.written,
            size,
        });
        while sink.written < size {
            let before = sink.written;
            let ask = Ask {
                method: Method::GET,
                path: format!("blobs/{digest}"),
                accept: None,
                from: before,
            };
            let response = self.ask(place, &ask).await?;
            let result = async {
                let mut skip = skipped(place, &response, before)?;
                let mut pieces = Pieces::new(response, &place.name, patience.silence);
                while let Some(mut piece) = pieces.next().await? {
                    if skip > 0 {
                        let passed = piece.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                        skip -= passed as u64;
                        let _ = piece.split_to(passed);
                    }
                    if sink.written + piece.len() as u64 > size {
                        return Err(RequestError::TooLarge {
                            host: place.name.clone(),
                            limit: size,
                        });
                    }
                    if !piece.is_empty() {
                        sink.send(piece).await?;
                        watch(Progress::Fetched {
                            digest,
                            bytes: sink.written,
                            size,
                        });
                    }
                }
                if sink.written < size {
                    return Err(RequestError::Short {
                        host: place.name.clone(),
                        got: sink.written,
                        size,
                    });
                }
                Ok(())
            }
            .await;
            let Err(error) = result else { break };
            resumes += 1;
            // What only drips would go on for hours, each try a little further.
            let drips = matches!(error, RequestError::Slow { .. });
            fruitless = if sink.written > before && !drips {
                0
            } else {
                fruitless + 1
            };
            if !error.transient() || fruitless + 1 >= patience.tries || resumes > MAX_RESUMES {
                return Err(error);
            }
            tracing::debug!(endpoint = place.name, %digest, bytes = sink.written, %error, "download resumed");
            tokio::time::sleep(patience.backoff).await;
        }
        Ok(())
    }
}

impl Client {
    /// Waits until nobody else works on what is named by a digest. Work that is given up may go on for a moment in a thread
    /// that cannot be stopped: such a thread has to hold what this answers.
    pub(super) async fn only(&self, digest: Digest) -> Only {
        self.busy(digest).lock_owned().await
    }

    fn busy(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self
            .shared
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = busy.get(&digest).and_then(std::sync::Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        busy.insert(digest, Arc::downgrade(&lock));
        lock
    }
}

/// The right to work on what is named by a digest.
pub(crate) type Only = tokio::sync::OwnedMutexGuard<()>;

/// A blob being written, and the right to do so. A blocking thread owns both, so that a download that is given up keeps the
/// next one waiting until its last write is over.
struct Held {
    // Before the lock: dropped first.
    ingest: Box<dyn Ingest>,
    _only: Arc<Only>,
}

impl Held {
    fn new(
        only: Arc<Only>,
        begin: impl FnOnce() -> std::io::Result<Box<dyn Ingest>>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            ingest: begin()?,
            _only: only,
        })
    }

    fn commit(self) -> Result<(), CommitError> {
        self.ingest.commit()
    }
}

/// How many bytes of an answer are there already: none if the registry obeyed the range, all if it began anew.
fn skipped(place: &Endpoint, response: &Response, from: u64) -> Result<u64, RequestError> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(from);
    }
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|v| v.to_str().ok());
    let start = range
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split('-').next())
        .and_then(|start| start.trim().parse::<u64>().ok());
    if start == Some(from) {
        Ok(0)
    } else {
        Err(RequestError::Range {
            host: place.name.clone(),
        })
    }
}

/// A blob being written by a blocking thread, fed through a short queue.
struct Sink {
    queue: mpsc::Sender<Bytes>,
    writer: tokio::task::JoinHandle<std::io::Result<Held>>,
    written: u64,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl Sink {
    fn new(mut held: Held) -> Self {
        let written = held.ingest.offset();
        let (queue, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = pieces.blocking_recv() {
                held.ingest.write(&piece)?;
            }
            Ok(held)
        });
        Self {
            queue,
            writer,
            written,
        }
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), RequestError> {
        self.written += piece.len() as u64;
        self.queue
            .send(piece)
            .await
            .map_err(|_| RequestError::Store(std::io::Error::from(std::io::ErrorKind::BrokenPipe)))
    }

    /// Waits until everything is written.
    async fn finish(self) -> std::io::Result<Held> {
        drop(self.queue);
        self.writer
            .await
            .unwrap_or_else(|e| Err(std::io::Error::other(e)))
    }
}
