//! From a name to an image: its manifest and config, checked and kept.

use std::{io, sync::Arc};

use reqwest::{Method, Response, header::CONTENT_TYPE};

use super::{
    Access,
    client::{Ask, body},
    config::{Endpoint, endpoints},
    error::{Attempts, ContentError, RequestError},
    fetch::Only,
    tags::Remembered,
};
use crate::{
    blobs::Blobs,
    config::ImageConfig,
    digest::Digest,
    manifest::{Document, MAX_DOCUMENT, Manifest, media_type},
    platform::Platform,
    reference::Reference,
};

/// Indexes inside indexes are followed so far.
const MAX_NESTING: usize = 3;

/// An image somebody asked for by name, ready to be fetched.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The name, pinned to what it meant.
    pub reference: Reference,
    /// Digest of what the name stands for: an index, or the manifest itself.
    pub digest: Digest,
    /// Digest of the manifest for the platform.
    pub manifest_digest: Digest,
    /// The manifest for the platform.
    pub manifest: Manifest,
    /// The image's config.
    pub config: ImageConfig,
    /// The config as it came, unknown fields and all.
    pub config_bytes: Vec<u8>,
    /// The platform, as the config says.
    pub platform: Platform,
    /// Set when no place answered and the name is taken for what it was when it was last looked up.
    pub remembered: Option<Remembered>,
}

/// Why a name could not be turned into an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The image could not be had, or is unusable.
    #[error("failed to resolve image {reference}")]
    Content {
        /// The name.
        reference: Reference,
        /// Why.
        #[source]
        source: ContentError,
    },
    /// Nobody answered what the tag means, and nothing is known of it from before.
    #[error(
        "failed to resolve image {reference}: its registry does not answer, and what the tag means has not been seen before"
    )]
    Unseen {
        /// The name.
        reference: Reference,
        /// What was tried.
        #[source]
        source: Attempts,
    },
    /// Nobody answered what the tag means, and what it meant before is not here any more, or not all of it.
    #[error(
        "failed to resolve image {reference}: its registry does not answer, and of {digest}, which the tag meant when it was last \
         seen, not everything is in the store"
    )]
    Pruned {
        /// The name.
        reference: Reference,
        /// What it meant.
        digest: Digest,
        /// What was tried.
        #[source]
        source: Attempts,
    },
    /// There are images by that name, for other platforms.
    #[error(
        "failed to resolve image {reference}: no match for platform {platform} in manifest (it has {})",
        list(offered)
    )]
    Platform {
        /// The name.
        reference: Reference,
        /// What was asked for.
        platform: Platform,
        /// What is there.
        offered: Vec<Platform>,
    },
    /// Indexes lead to indexes.
    #[error("failed to resolve image {reference}: indexes are nested more than {MAX_NESTING} deep")]
    Nested {
        /// The name.
        reference: Reference,
    },
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    platforms
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A small document fetched and checked.
pub(super) struct Fetched {
    digest: Digest,
    bytes: Vec<u8>,
    /// What the registry called it.
    media_type: Option<String>,
}

impl Access {
    /// Finds the image `reference` means for `platform`.
    ///
    /// Manifests and config are kept in `blobs`. What is pinned by digest and already there costs no request. A tag whose
    /// registry does not answer is what it was when it was last looked up, where that is remembered.
    ///
    /// # Errors
    /// Who was asked and what they said, or what is wrong with the image.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        blobs: &Arc<dyn Blobs>,
    ) -> Result<Resolved, ResolveError> {
        let reference = &reference.clone().or_latest();
        let places = endpoints(&self.client.shared.config, reference);
        let fail = |source| ResolveError::Content {
            reference: reference.clone(),
            source,
        };
        if let Some(digest) = reference.digest() {
            let first = self
                .document(&places, "manifests", digest, blobs)
                .await
                .map_err(|e| fail(ContentError::Attempts(e)))?;
            return self.image(reference, platform, &places, first, blobs).await;
        }
        match self
            .tag(&places, reference.tag().unwrap_or("latest"), blobs)
            .await
        {
            Ok((first, place)) => {
                let image = self
                    .image(reference, platform, &places, first, blobs)
                    .await?;
                self.remember(reference, image.digest, place).await;
                Ok(image)
            }
            Err(attempts) => {
                self.recalled(reference, platform, &places, attempts, blobs)
                    .await
            }
        }
    }

    /// The image that a document stands for.
    pub(super) async fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
        places: &[Endpoint],
        first: Fetched,
        blobs: &Arc<dyn Blobs>,
    ) -> Result<Resolved, ResolveError> {
        let fail = |source| ResolveError::Content {
            reference: reference.clone(),
            source,
        };
        let digest = first.digest;
        let mut current = first;
        let mut nesting = 0;
        let (manifest_digest, manifest) = loop {
            let document = Document::parse(&current.bytes, current.media_type.as_deref()).map_err(
                |source| {
                    fail(ContentError::Document {
                        digest: current.digest,
                        source,
                    })
                },
            )?;
            let index = match document {
                Document::Manifest(manifest) => break (current.digest, *manifest),
                Document::Index(_) if nesting == MAX_NESTING => {
                    return Err(ResolveError::Nested {
                        reference: reference.clone(),
                    });
                }
                Document::Index(index) => index,
            };
            let Some(entry) = index.select(platform) else {
                return Err(ResolveError::Platform {
                    reference: reference.clone(),
                    platform: platform.clone(),
                    offered: index.platforms(),
                });
            };
            nesting += 1;
            current = self
                .document(places, "manifests", entry.digest, blobs)
                .await
                .map_err(|e| fail(ContentError::Attempts(e)))?;
            current.media_type = Some(entry.media_type.clone()).filter(|m| !m.is_empty());
        };
        let config = self
            .document(places, "blobs", manifest.config.digest, blobs)
            .await
            .map_err(|e| fail(ContentError::Attempts(e)))?;
        let parsed = ImageConfig::parse_for(&config.bytes, &manifest).map_err(|source| {
            fail(ContentError::Config {
                digest: config.digest,
                source,
            })
        })?;
        Ok(Resolved {
            reference: reference.pinned(digest),
            digest,
            manifest_digest,
            manifest,
            platform: parsed.platform(),
            config: parsed,
            config_bytes: config.bytes,
            remembered: None,
        })
    }

    /// What a tag means now, from the first place that knows it.
    async fn tag<'a>(
        &self,
        places: &'a [Endpoint],
        tag: &str,
        blobs: &Arc<dyn Blobs>,
    ) -> Result<(Fetched, &'a Endpoint), Attempts> {
        let mut attempts = Attempts::default();
        for place in places {
            let mut said = None;
            match self.tag_at(place, tag, &mut said, blobs).await {
                Ok(found) => return Ok((found, place)),
                Err(error) => {
                    let local = error.local();
                    attempts.add_after(place, error, said.is_some());
                    if local {
                        break;
                    }
                }
            }
        }
        Err(attempts)
    }

    /// Asks for the digest first: if that is known, nothing is downloaded. `meant` is what the place said that the tag means.
    async fn tag_at(
        &self,
        place: &Endpoint,
        tag: &str,
        meant: &mut Option<Digest>,
        blobs: &Arc<dyn Blobs>,
    ) -> Result<Fetched, RequestError> {
        let ask = |method, path| Ask {
            method,
            path,
            accept: Some(media_type::ACCEPT),
            from: 0,
        };
        let known = match self
            .ask(place, &ask(Method::HEAD, format!("manifests/{tag}")))
            .await
        {
            Ok(response) => announced(place, &response)?,
            // Some registries cannot do HEAD. No answer at all will not get better by asking again.
            Err(RequestError::Status { status, .. })
                if status.is_client_error() && status != 429 =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        *meant = known;
        if let Some(digest) = known {
            return self.download(place, "manifests", digest, blobs).await;
        }
        let response = self
            .ask(place, &ask(Method::GET, format!("manifests/{tag}")))
            .await?;
        let said = announced(place, &response)?;
        *meant = said;
        let media_type = content_type(&response);
        let bytes = self.bytes(place, response).await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = said.filter(|said| *said != digest) {
            return Err(RequestError::Digest {
                host: place.name.clone(),
                expected,
            });
        }
        let only = self.client.only(digest).await;
        keep(blobs, only, digest, &bytes).await?;
        Ok(Fetched {
            digest,
            bytes,
            media_type,
        })
    }

    /// A manifest, index or config by digest: from the store, or from the first place that has it.
    pub(super) async fn document(
        &self,
        places: &[Endpoint],
        kind: &str,
        digest: Digest,
        blobs: &Arc<dyn Blobs>,
    ) -> Result<Fetched, Attempts> {
        let mut attempts = Attempts::default();
        if places.is_empty()
            && let Ok(Some(bytes)) = local(blobs, digest).await
        {
            return Ok(Fetched {
                digest,
                bytes,
                media_type: None,
            });
        }
        for place in places {
            match self.download(place, kind, digest, blobs).await {
                Ok(found) => return Ok(found),
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

    /// A document by digest, from the store if it is there, else from `place`.
    async fn download(
        &self,
        place: &Endpoint,
        kind: &str,
        digest: Digest,
        blobs: &Arc<dyn Blobs>,
    ) -> Result<Fetched, RequestError> {
        let only = self.client.only(digest).await;
        if let Some(bytes) = local(blobs, digest).await? {
            return Ok(Fetched {
                digest,
                bytes,
                media_type: None,
            });
        }
        let accept = (kind == "manifests").then_some(media_type::ACCEPT);
        let ask = Ask {
            method: Method::GET,
            path: format!("{kind}/{digest}"),
            accept,
            from: 0,
        };
        let response = self.ask(place, &ask).await?;
        let media_type = accept.and_then(|_| content_type(&response));
        let bytes = self.bytes(place, response).await?;
        if Digest::of(&bytes) != digest {
            return Err(RequestError::Digest {
                host: place.name.clone(),
                expected: digest,
            });
        }
        keep(blobs, only, digest, &bytes).await?;
        Ok(Fetched {
            digest,
            bytes,
            media_type,
        })
    }

    async fn bytes(&self, place: &Endpoint, response: Response) -> Result<Vec<u8>, RequestError> {
        body(
            response,
            &place.name,
            MAX_DOCUMENT,
            self.client.shared.config.patience.silence,
        )
        .await
    }
}

fn announced(place: &Endpoint, response: &Response) -> Result<Option<Digest>, RequestError> {
    match response
        .headers()
        .get("docker-content-digest")
        .map(|v| v.to_str().unwrap_or_default())
    {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|source| RequestError::BadDigest {
                host: place.name.clone(),
                source,
            }),
    }
}

fn content_type(response: &Response) -> Option<String> {
    let text = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_owned())
        .filter(|text| !text.is_empty())
}

async fn local(blobs: &Arc<dyn Blobs>, digest: Digest) -> Result<Option<Vec<u8>>, RequestError> {
    let blobs = Arc::clone(blobs);
    let bytes = blocking(move || blobs.read(&digest, MAX_DOCUMENT))
        .await
        .map_err(RequestError::Store)?;
    // Small enough to make sure that the disk has not changed it.
    Ok(bytes.filter(|bytes| {
        let sound = Digest::of(bytes) == digest;
        if !sound {
            tracing::warn!(%digest, "stored document is damaged and fetched anew");
        }
        sound
    }))
}

async fn keep(
    blobs: &Arc<dyn Blobs>,
    only: Only,
    digest: Digest,
    bytes: &[u8],
) -> Result<(), RequestError> {
    let (blobs, bytes) = (Arc::clone(blobs), bytes.to_vec());
    blocking(move || {
        let _only = only;
        let mut ingest = blobs.ingest(&digest, bytes.len() as u64)?;
        let from = usize::try_from(ingest.offset()).unwrap_or(usize::MAX);
        ingest.write(bytes.get(from..).unwrap_or_default())?;
        ingest.commit().map_err(io::Error::other)
    })
    .await
    .map_err(RequestError::Store)
}

/// Runs something that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
}
