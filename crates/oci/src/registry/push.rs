//! Pushing images: what the registry has is not sent, what another of its repositories has is mounted, the rest is uploaded
//! side by side, continued where it broke off, and the manifests follow when every blob is there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{
    Body, Method, Response, StatusCode, Url,
    header::{
        AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LOCATION, RANGE,
    },
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::{
    Access, FetchError, Progress, Watch,
    client::{MAX_REDIRECTS, authority, may_redirect, message, origin_of, retry_after},
    config::{Endpoint, profile, target},
    error::{AuthError, RequestError},
    resolve::blocking,
};
use crate::{blobs::Blobs, digest::Digest, manifest::Descriptor, reference::Reference};

/// Blobs up to this size are sent with the request that ends their upload.
const SMALL: u64 = 4 << 20;
/// Bytes read from the disk at once.
const PIECE: usize = 256 << 10;
/// Interruptions of one blob that are forgiven as long as each try brings something.
const MAX_RESUMES: u32 = 50;

/// An image on its way to a registry.
#[derive(Debug, Clone)]
pub struct Push {
    /// Where to; without a tag it becomes `latest`.
    pub reference: Reference,
    /// Layers and configs.
    pub blobs: Vec<PushBlob>,
    /// Manifests, children first; the last gets the tag.
    pub documents: Vec<(Descriptor, Vec<u8>)>,
}

/// A blob of it.
#[derive(Debug, Clone)]
pub struct PushBlob {
    /// What it is.
    pub descriptor: Descriptor,
    /// An image that has it too: where to mount or fetch it from.
    pub origin: Option<Reference>,
    /// An image that it was once pushed for: a mount from there is tried, nothing more.
    pub seen: Option<Reference>,
}

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// A request failed.
    #[error("failed to push {what} of image {reference}")]
    Request {
        /// The image.
        reference: Reference,
        /// `layer sha256:…` or `manifest sha256:…`.
        what: String,
        /// What failed.
        #[source]
        source: RequestError,
    },
    /// A blob is neither here nor there, and cannot be fetched.
    #[error("a layer of image {reference} is not here any more")]
    Fetch {
        /// The image to be pushed.
        reference: Reference,
        /// What failed.
        #[source]
        source: FetchError,
    },
    /// A blob is neither here nor there.
    #[error("layer {digest} of image {reference} is not here any more")]
    Gone {
        /// The image to be pushed.
        reference: Reference,
        /// Which.
        digest: Digest,
    },
}

/// The body of a request, made anew for each try.
enum Content<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// The rest of a blob from an offset.
    Blob {
        blobs: &'a Arc<dyn Blobs>,
        digest: Digest,
        from: u64,
        size: u64,
    },
}

impl Access {
    /// Pushes an image. Gives the digest of its last document.
    ///
    /// # Errors
    /// The first thing that could not be pushed and why. The tag is set last: an image is there whole or not at all.
    pub async fn push(
        &self,
        push: &Push,
        blobs: &Arc<dyn Blobs>,
        watch: Watch<'_>,
    ) -> Result<Option<Digest>, PushError> {
        let reference = push.reference.clone().or_latest();
        let config = &self.client.shared.config;
        let mut from: Vec<String> = push
            .blobs
            .iter()
            .filter_map(|blob| mountable(&reference, blob))
            .collect();
        from.sort();
        from.dedup();
        let place = target(config, &reference, &from);
        let failed = |what: String| {
            let reference = reference.clone();
            move |source| PushError::Request {
                reference,
                what,
                source,
            }
        };
        let mut seen = std::collections::HashSet::new();
        let tasks: Vec<_> = push
            .blobs
            .iter()
            .filter(|blob| seen.insert(blob.descriptor.digest))
            .map(async |blob| self.push_blob(&place, &reference, blob, blobs, watch).await)
            .collect();
        stream::iter(tasks)
            .buffer_unordered(config.patience.per_image.max(1))
            .try_collect::<()>()
            .await?;
        let last = push.documents.len().saturating_sub(1);
        for (at, (descriptor, bytes)) in push.documents.iter().enumerate() {
            let digest = descriptor.digest.to_string();
            let name = match reference.tag() {
                Some(tag) if at == last => tag.to_owned(),
                _ => digest.clone(),
            };
            self.put_document(&place, &name, descriptor, bytes)
                .await
                .map_err(failed(format!("manifest {digest}")))?;
        }
        Ok(push.documents.last().map(|(d, _)| d.digest))
    }

    async fn put_document(
        &self,
        place: &Endpoint,
        name: &str,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), RequestError> {
        let headers = [(CONTENT_TYPE, descriptor.media_type.clone())];
        let path = format!("manifests/{name}");
        let response = self
            .retried(place, Method::PUT, &path, &headers, &Content::Bytes(bytes))
            .await?;
        let told = response
            .headers()
            .get("docker-content-digest")
            .and_then(|v| v.to_str().ok());
        match told {
            Some(told) if told != descriptor.digest.to_string() => Err(RequestError::Digest {
                host: place.name.clone(),
                expected: descriptor.digest,
            }),
            _ => Ok(()),
        }
    }

    async fn push_blob(
        &self,
        place: &Endpoint,
        reference: &Reference,
        blob: &PushBlob,
        blobs: &Arc<dyn Blobs>,
        watch: Watch<'_>,
    ) -> Result<(), PushError> {
        let (digest, size) = (blob.descriptor.digest, blob.descriptor.size);
        let failed = |source| PushError::Request {
            reference: reference.clone(),
            what: format!("layer {digest}"),
            source,
        };
        let done = || {
            watch(Progress::Pushed {
                digest,
                bytes: size,
                size,
            });
        };
        let path = format!("blobs/{digest}");
        let there = self
            .retried(place, Method::HEAD, &path, &[], &Content::Nothing)
            .await;
        match there {
            Ok(_) => {
                done();
                return Ok(());
            }
            Err(RequestError::NotFound { .. }) => {}
            Err(e) => return Err(failed(e)),
        }
        // A mount that is refused begins an upload.
        let mut upload = None;
        if let Some(from) = mountable(reference, blob) {
            let path = format!("blobs/uploads/?mount={digest}&from={from}");
            match self
                .retried(place, Method::POST, &path, &[], &Content::Nothing)
                .await
            {
                Ok(r) if r.status() == StatusCode::CREATED => {
                    done();
                    return Ok(());
                }
                Ok(r) => upload = Some(location(place, &r).map_err(failed)?),
                // Some registries refuse the whole request when the other repository may not be read.
                Err(e) => tracing::debug!(%digest, error = %e, "mount refused"),
            }
        }
        let store = Arc::clone(blobs);
        let here = blocking(move || store.open(&digest))
            .await
            .map_err(|e| failed(RequestError::Store(e)))?;
        if here.is_none() {
            let origin = blob.origin.as_ref().ok_or_else(|| PushError::Gone {
                reference: reference.clone(),
                digest,
            })?;
            self.fetch(
                origin,
                std::slice::from_ref(&blob.descriptor),
                blobs,
                watch,
                |_| {},
            )
            .await
            .map_err(|source| PushError::Fetch {
                reference: reference.clone(),
                source,
            })?;
        }
        self.upload(place, upload, digest, size, blobs, watch)
            .await
            .map_err(failed)
            .inspect(|()| done())
    }

    /// Uploads a blob: begun anew when the registry has forgotten about it, continued when it has a part.
    async fn upload(
        &self,
        place: &Endpoint,
        mut upload: Option<Url>,
        digest: Digest,
        size: u64,
        blobs: &Arc<dyn Blobs>,
        watch: Watch<'_>,
    ) -> Result<(), RequestError> {
        let patience = self.client.shared.config.patience;
        let (mut sent, mut resumes, mut fruitless) = (0, 0, 0);
        let mut wait = patience.backoff;
        // An upload that cannot be begun has been tried often enough.
        let mut begun = true;
        loop {
            let before = sent;
            let result = async {
                let at = match &upload {
                    Some(at) => at.clone(),
                    None => {
                        sent = 0;
                        let path = "blobs/uploads/";
                        let response = self
                            .retried(place, Method::POST, path, &[], &Content::Nothing)
                            .await
                            .inspect_err(|_| begun = false)?;
                        location(place, &response)?
                    }
                };
                upload = Some(at.clone());
                self.send_rest(
                    place,
                    at,
                    &mut upload,
                    &mut sent,
                    digest,
                    size,
                    blobs,
                    watch,
                )
                .await
            }
            .await;
            let Err(error) = result else { return Ok(()) };
            resumes += 1;
            let gone = matches!(error, RequestError::NotFound { .. })
                || matches!(&error, RequestError::Status { status, .. } if *status == StatusCode::RANGE_NOT_SATISFIABLE);
            if !begun || !(error.transient() || (gone && upload.is_some())) || resumes > MAX_RESUMES
            {
                return Err(error);
            }
            // How much has arrived is the registry's to say.
            let known = match upload.take() {
                Some(at) if !gone => self.arrived(place, at).await,
                _ => None,
            };
            match known {
                Some((at, bytes)) if bytes <= size => {
                    upload = Some(at);
                    sent = bytes;
                }
                _ => sent = 0,
            }
            fruitless = if sent > before { 0 } else { fruitless + 1 };
            if fruitless >= patience.tries_after(&error) {
                return Err(error);
            }
            let asked = match &error {
                RequestError::Status { retry_after, .. } => *retry_after,
                _ => None,
            };
            tracing::debug!(endpoint = place.name, %digest, bytes = sent, %error, "upload resumed");
            tokio::time::sleep(asked.unwrap_or(wait).min(patience.longest_wait)).await;
            wait = (wait * 2).min(patience.longest_wait);
        }
    }

    /// Sends what is missing and ends the upload.
    #[expect(
        clippy::too_many_arguments,
        reason = "one step of `upload`, whose state it moves on"
    )]
    async fn send_rest(
        &self,
        place: &Endpoint,
        mut at: Url,
        upload: &mut Option<Url>,
        sent: &mut u64,
        digest: Digest,
        size: u64,
        blobs: &Arc<dyn Blobs>,
        watch: Watch<'_>,
    ) -> Result<(), RequestError> {
        let kind = (CONTENT_TYPE, "application/octet-stream".to_owned());
        let rest = Content::Blob {
            blobs,
            digest,
            from: *sent,
            size,
        };
        if size > SMALL && *sent < size {
            let mut headers = vec![kind.clone()];
            if *sent > 0 {
                headers.push((CONTENT_RANGE, format!("{}-{}", *sent, size - 1)));
            }
            let from = *sent;
            let tell = |bytes: u64| {
                watch(Progress::Pushed {
                    digest,
                    bytes: from + bytes,
                    size,
                });
            };
            let response = self
                .call(place, Method::PATCH, at, &headers, &rest, &tell)
                .await?;
            *sent = size;
            at = location(place, &response)?;
            *upload = Some(at.clone());
        }
        at.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let last = if *sent < size { rest } else { Content::Nothing };
        let response = self
            .call(place, Method::PUT, at, &[kind], &last, &|_| {})
            .await
            .map_err(|error| match error {
                // The registry's word for a blob that arrived with another digest.
                RequestError::Status {
                    status: StatusCode::BAD_REQUEST,
                    ref message,
                    ref host,
                    ..
                } if message.to_ascii_lowercase().contains("digest") => RequestError::Refused {
                    host: host.clone(),
                    digest,
                    message: message.clone(),
                },
                error => error,
            })?;
        let told = response
            .headers()
            .get("docker-content-digest")
            .and_then(|v| v.to_str().ok());
        match told {
            Some(told) if told != digest.to_string() => Err(RequestError::Digest {
                host: place.name.clone(),
                expected: digest,
            }),
            _ => Ok(()),
        }
    }

    /// Where an interrupted upload continues and how many bytes of it have arrived.
    async fn arrived(&self, place: &Endpoint, at: Url) -> Option<(Url, u64)> {
        let response = self
            .call(
                place,
                Method::GET,
                at.clone(),
                &[],
                &Content::Nothing,
                &|_| {},
            )
            .await
            .ok()?;
        let range = response.headers().get(RANGE)?.to_str().ok()?;
        let last: u64 = range.rsplit('-').next()?.trim().parse().ok()?;
        let next = location(place, &response).unwrap_or(at);
        // `0-0` says one byte or none: nobody sends a single byte.
        Some((next, if last == 0 { 0 } else { last + 1 }))
    }

    /// A request with a small body, tried again when that may help.
    async fn retried(
        &self,
        place: &Endpoint,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        content: &Content<'_>,
    ) -> Result<Response, RequestError> {
        let patience = self.client.shared.config.patience;
        let mut wait = patience.backoff;
        let mut tries = 1;
        loop {
            let mut result = Err(RequestError::NotFound {
                host: place.name.clone(),
                message: String::new(),
            });
            for origin in &place.origins {
                let text = format!("{origin}/v2/{}/{path}", place.repository);
                let url = Url::parse(&text).map_err(|_| RequestError::Redirect {
                    host: place.name.clone(),
                    to: "an address that is no URL".to_owned(),
                })?;
                result = self
                    .call(place, method.clone(), url, headers, content, &|_| {})
                    .await;
                if !matches!(&result, Err(e) if e.unreachable()) {
                    break;
                }
            }
            let error = match result {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if !error.transient() || tries >= patience.tries_after(&error) {
                return Err(error);
            }
            let asked = match &error {
                RequestError::Status { retry_after, .. } => *retry_after,
                _ => None,
            };
            tokio::time::sleep(asked.unwrap_or(wait).min(patience.longest_wait)).await;
            wait = (wait * 2).min(patience.longest_wait);
            tries += 1;
        }
    }

    /// One request: authenticated once when it is asked for, redirected a few times, given up when nothing moves.
    async fn call(
        &self,
        place: &Endpoint,
        method: Method,
        url: Url,
        headers: &[(HeaderName, String)],
        content: &Content<'_>,
        tell: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Response, RequestError> {
        let config = &self.client.shared.config;
        let home = place
            .origins
            .iter()
            .find(|origin| **origin == origin_of(&url))
            .cloned();
        let (mut at, mut redirects, mut challenged) = (url, 0, false);
        loop {
            let origin = origin_of(&at);
            // Credentials go to the registry and nowhere else, even if it says to upload elsewhere.
            let own = home.as_deref() == Some(origin.as_str()) || place.origins.contains(&origin);
            let how = if own {
                place.profile.clone()
            } else {
                profile(config, &authority(&at))
            };
            let mut request = self
                .client
                .connections(&how, at.scheme() == "https")?
                .request(method.clone(), at.clone());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let authorization = if own {
                self.authorization(&origin, place).await
            } else {
                None
            };
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let moved = Arc::new(AtomicU64::new(0));
            let (body, length) = content.body(&moved).await?;
            // Without a body the length is said all the same: some registries insist on it.
            if method != Method::HEAD && method != Method::GET {
                request = request.header(CONTENT_LENGTH, length).body(body);
            }
            let host = if own {
                place.name.clone()
            } else {
                origin.clone()
            };
            let silence = config.patience.silence;
            let response = watched(
                request.send(),
                &moved,
                config.patience.connect + silence,
                silence,
                (&host, &at),
                tell,
            )
            .await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                redirects += 1;
                let to = response
                    .headers()
                    .get(LOCATION)
                    .and_then(|v| v.to_str().ok())
                    .and_then(|l| at.join(l).ok());
                match to.filter(|to| redirects <= MAX_REDIRECTS && may_redirect(&at, to)) {
                    Some(to) => at = to,
                    None => {
                        return Err(RequestError::Redirect {
                            host,
                            to: "another place".to_owned(),
                        });
                    }
                }
                continue;
            }
            if status == StatusCode::UNAUTHORIZED && own && !challenged {
                challenged = true;
                self.authenticate(&origin, place, response.headers(), authorization.as_ref())
                    .await?;
                continue;
            }
            let retry_after = retry_after(&response);
            let message = message(response, silence).await;
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RequestError::Auth {
                    host,
                    source: AuthError::Denied(message),
                },
                StatusCode::NOT_FOUND => RequestError::NotFound { host, message },
                status => RequestError::Status {
                    host,
                    status,
                    message,
                    retry_after,
                },
            });
        }
    }
}

/// Waits for an answer as long as bytes move.
async fn watched(
    send: impl Future<Output = reqwest::Result<Response>>,
    moved: &AtomicU64,
    first: Duration,
    silence: Duration,
    (host, at): (&str, &Url),
    tell: &(dyn Fn(u64) + Send + Sync),
) -> Result<Response, RequestError> {
    let mut send = std::pin::pin!(send);
    let (mut before, mut patience) = (0, first);
    loop {
        match tokio::time::timeout(patience, &mut send).await {
            Ok(result) => {
                return result.map_err(|e| RequestError::unanswered(host.to_owned(), at, e));
            }
            Err(_) => {
                let now = moved.load(Ordering::Relaxed);
                if now == before {
                    return Err(RequestError::Silence {
                        host: host.to_owned(),
                        waited: patience,
                    });
                }
                (before, patience) = (now, silence);
                tell(now);
            }
        }
    }
}

impl Content<'_> {
    /// The body and its length; `moved` counts what has been taken from it.
    async fn body(&self, moved: &Arc<AtomicU64>) -> Result<(Body, u64), RequestError> {
        match self {
            Self::Nothing => Ok((Body::from(Vec::new()), 0)),
            Self::Bytes(bytes) => Ok((Body::from(bytes.to_vec()), bytes.len() as u64)),
            Self::Blob {
                blobs,
                digest,
                from,
                size,
            } => {
                let (store, digest) = (Arc::clone(blobs), *digest);
                let file = blocking(move || {
                    store
                        .open(&digest)?
                        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
                })
                .await
                .map_err(RequestError::Store)?;
                let mut file = tokio::fs::File::from_std(file);
                file.set_max_buf_size(PIECE);
                file.seek(std::io::SeekFrom::Start(*from))
                    .await
                    .map_err(RequestError::Store)?;
                let length = size - from;
                let moved = Arc::clone(moved);
                let pieces = stream::try_unfold((file, length), move |(mut file, left)| {
                    let moved = Arc::clone(&moved);
                    async move {
                        if left == 0 {
                            return Ok(None);
                        }
                        let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
                        let n = file.read(&mut piece).await?;
                        if n == 0 {
                            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                        }
                        piece.truncate(n);
                        moved.fetch_add(n as u64, Ordering::Relaxed);
                        Ok(Some((piece, (file, left - n as u64))))
                    }
                });
                Ok((Body::wrap_stream(pieces), length))
            }
        }
    }
}

/// The repository of the same registry that has a blob.
fn mountable(reference: &Reference, blob: &PushBlob) -> Option<String> {
    [&blob.origin, &blob.seen]
        .into_iter()
        .flatten()
        .find(|from| from.domain() == reference.domain() && from.path() != reference.path())
        .map(|from| from.path().to_owned())
}

/// Where an upload goes on. Never from TLS to clear text, nor from the network into this machine.
fn location(place: &Endpoint, response: &Response) -> Result<Url, RequestError> {
    let text = response
        .headers()
        .get(LOCATION)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let next = response.url().join(text).ok().filter(|next| {
        !text.is_empty()
            && (origin_of(next) == origin_of(response.url()) || may_redirect(response.url(), next))
    });
    next.ok_or_else(|| RequestError::Redirect {
        host: place.name.clone(),
        to: "no usable place for an upload".to_owned(),
    })
}
