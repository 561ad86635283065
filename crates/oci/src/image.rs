//! From a resolved image to a file system: layers are fetched in parallel and unpacked in order, each as soon as it is there.
//!
//! A file system is named by its chain ID, so images that begin with the same layers share them, and what is unpacked
//! already needs neither its blob nor the network.

use std::{
    collections::HashSet,
    error::Error,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use crate::{
    blobs::Blobs,
    digest::{Digest, chain_id},
    layer::{Expected, Limits, Target, UnpackError, Unpacked, unpack},
    manifest::Descriptor,
    reference::Reference,
    registry::{Access, FetchError, Progress, Resolved, Watch},
};

/// A place for unpacked layers. All calls may block and are made on blocking threads.
pub trait Layers: Send + Sync + 'static {
    /// A file system, held as long as this lives.
    type Snapshot: Clone + Send + Sync + 'static;

    /// The file system without anything in it.
    ///
    /// # Errors
    /// It cannot be had.
    fn empty(&self) -> Result<Self::Snapshot, BoxError>;

    /// The file system of a chain of layers, if it is there.
    ///
    /// # Errors
    /// It cannot be looked up.
    fn find(&self, chain: &Digest) -> Result<Option<Self::Snapshot>, BoxError>;

    /// Makes the file system of a chain: `fill` puts the topmost layer over `parent`. If it fails nothing may be left.
    ///
    /// # Errors
    /// What `fill` said, or why there is no place for it.
    fn add(
        &self,
        chain: &Digest,
        parent: Option<&Self::Snapshot>,
        fill: &mut dyn FnMut(Target<'_>) -> Result<Unpacked, UnpackError>,
    ) -> Result<Self::Snapshot, AddError>;
}

/// An error of a place for layers.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a layer was not added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The layer is wrong.
    #[error("cannot unpack the layer")]
    Unpack(#[source] UnpackError),
    /// There is no place for it.
    #[error("cannot store the unpacked layer")]
    Store(#[source] BoxError),
}

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// A layer could not be fetched.
    #[error(transparent)]
    Fetch(FetchError),
    /// A layer could not be unpacked.
    #[error("failed to unpack layer {layer} of image {reference}")]
    Unpack {
        /// The image.
        reference: Reference,
        /// Digest of the layer's blob.
        layer: Digest,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The store failed.
    #[error("failed to store layer {layer} of image {reference}")]
    Store {
        /// The image.
        reference: Reference,
        /// Digest of the layer's blob.
        layer: Digest,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The image's layers and their contents' digests do not pair up.
    #[error("image {reference} has {layers} layers but names the contents of {diff_ids}")]
    Uneven {
        /// The image.
        reference: Reference,
        /// Layers.
        layers: usize,
        /// Digests of contents.
        diff_ids: usize,
    },
    /// The store failed before there was a layer.
    #[error("failed to look up the layers of image {reference}")]
    LookUp {
        /// The image.
        reference: Reference,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// The layers of an image: all that is needed to have its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The image's name, for looking and for messages.
    pub reference: Reference,
    /// Blobs, the lowest first.
    pub layers: Vec<Descriptor>,
    /// Digests of the tars inside, in the same order.
    pub diff_ids: Vec<Digest>,
}

impl From<&Resolved> for Stack {
    fn from(image: &Resolved) -> Self {
        Self {
            reference: image.reference.clone(),
            layers: image.manifest.layers.clone(),
            diff_ids: image.config.rootfs.diff_ids.clone(),
        }
    }
}

/// Makes the file system of an image.
///
/// # Errors
/// The layer and what is wrong with it. Layers finished before stay; dropping the future ends the work soon.
pub async fn pull<L: Layers>(
    access: &Access,
    image: &Stack,
    blobs: &Arc<dyn Blobs>,
    layers: &Arc<L>,
    watch: Watch<'_>,
) -> Result<L::Snapshot, PullError> {
    if image.layers.len() != image.diff_ids.len() {
        return Err(PullError::Uneven {
            reference: image.reference.clone(),
            layers: image.layers.len(),
            diff_ids: image.diff_ids.len(),
        });
    }
    let steps = steps(image);
    let look_up = |source| PullError::LookUp {
        reference: image.reference.clone(),
        source,
    };
    let (place, chains) = (
        Arc::clone(layers),
        steps.iter().map(|step| step.chain).collect::<Vec<_>>(),
    );
    // The longest part that is there already.
    let (mut snapshot, done) = blocking(move || {
        for (at, chain) in chains.iter().enumerate().rev() {
            if let Some(snapshot) = place.find(chain)? {
                return Ok((Some(snapshot), at + 1));
            }
        }
        Ok((
            if chains.is_empty() {
                Some(place.empty()?)
            } else {
                None
            },
            0,
        ))
    })
    .await
    .map_err(look_up)?;
    let (ready, missing) = steps.split_at(done.min(steps.len()));
    for step in ready {
        watch(Progress::Ready {
            digest: step.layer.digest,
        });
    }
    let mut seen = HashSet::new();
    let wanted: Vec<Descriptor> = missing
        .iter()
        .map(|step| step.layer.clone())
        .filter(|layer| seen.insert(layer.digest))
        .collect();
    let (arrived, arrivals) = watch::channel(HashSet::new());
    let fetch = async {
        access
            .fetch(&image.reference, &wanted, blobs, watch, |digest| {
                arrived.send_modify(|there| {
                    there.insert(digest);
                });
            })
            .await
            .map_err(PullError::Fetch)
    };
    let unpack = async {
        for step in missing {
            let mut arrivals = arrivals.clone();
            // If fetching fails it ends this too.
            let _ = arrivals
                .wait_for(|there| there.contains(&step.layer.digest))
                .await;
            watch(Progress::Unpacking {
                digest: step.layer.digest,
            });
            snapshot = Some(add(access, image, step, snapshot.clone(), blobs, layers).await?);
            watch(Progress::Ready {
                digest: step.layer.digest,
            });
        }
        Ok(())
    };
    tokio::try_join!(fetch, unpack)?;
    snapshot.ok_or_else(|| look_up("no layer was unpacked".into()))
}

/// One layer: its blob, its contents, and the file system it completes.
struct Step {
    layer: Descriptor,
    diff_id: Digest,
    chain: Digest,
}

fn steps(image: &Stack) -> Vec<Step> {
    image
        .layers
        .iter()
        .zip(&image.diff_ids)
        .scan(None, |below: &mut Option<Digest>, (layer, diff_id)| {
            let chain = below.map_or(Some(*diff_id), |below| chain_id(&[below, *diff_id]))?;
            *below = Some(chain);
            Some(Step {
                layer: layer.clone(),
                diff_id: *diff_id,
                chain,
            })
        })
        .collect()
}

async fn add<L: Layers>(
    access: &Access,
    image: &Stack,
    step: &Step,
    parent: Option<L::Snapshot>,
    blobs: &Arc<dyn Blobs>,
    layers: &Arc<L>,
) -> Result<L::Snapshot, PullError> {
    // Two images with the same layer unpack it once.
    let only = access
        .only(Digest::of(format!("unpack {}", step.chain).as_bytes()))
        .await;
    let (blobs, layers) = (Arc::clone(blobs), Arc::clone(layers));
    let (digest, diff_id, chain) = (step.layer.digest, step.diff_id, step.chain);
    let cancelled = Arc::new(AtomicBool::new(false));
    let _cancel = CancelOnDrop(Arc::clone(&cancelled));
    let result = tokio::task::spawn_blocking(move || {
        let _only = only;
        if let Some(snapshot) = layers.find(&chain).map_err(AddError::Store)? {
            return Ok(snapshot);
        }
        layers.add(&chain, parent.as_ref(), &mut |target| {
            let unreadable = |source| UnpackError::Read { offset: 0, source };
            let blob = blobs.open(&digest).map_err(unreadable)?;
            let blob = blob.ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))?;
            // The store has checked the blob's digest when it came; its contents are checked here.
            let expected = Expected {
                digest: None,
                diff_id: Some(diff_id),
            };
            unpack(
                Cancellable {
                    blob,
                    cancelled: &cancelled,
                },
                target,
                &expected,
                &Limits::default(),
            )
        })
    })
    .await
    .unwrap_or_else(|e| Err(AddError::Store(e.into())));
    let (reference, layer) = (image.reference.clone(), digest);
    result.map_err(|e| match e {
        AddError::Unpack(source) => PullError::Unpack {
            reference,
            layer,
            source,
        },
        AddError::Store(source) => PullError::Store {
            reference,
            layer,
            source,
        },
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
) -> Result<T, BoxError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(e.into()))
}

/// A blocking thread cannot be stopped, but it can be starved.
struct Cancellable<'a, R> {
    blob: R,
    cancelled: &'a AtomicBool,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        self.blob.read(buffer)
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
