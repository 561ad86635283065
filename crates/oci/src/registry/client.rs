//! One request to one place: redirects, authentication, waiting, trying again.

use std::time::{Duration, Instant};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE, RETRY_AFTER},
};

use super::{
    Access,
    config::{Endpoint, is_internal, profile},
    error::{AuthError, RequestError},
};

pub(super) const MAX_REDIRECTS: usize = 5;
const MAX_MESSAGE: usize = 4096;
/// Bytes a second below which an answer is not worth waiting for.
const LEAST_RATE: u64 = 256;

/// What to ask a registry for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Below the repository: `manifests/latest`.
    pub(super) path: String,
    pub(super) accept: Option<&'static str>,
    /// Skip so many bytes.
    pub(super) from: u64,
}

impl Access {
    /// Asks until there is an answer that is final: success, or an error that trying again would not cure.
    pub(super) async fn ask(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
    ) -> Result<Response, RequestError> {
        let patience = self.client.shared.config.patience;
        let mut wait = patience.backoff;
        let mut tries = 1;
        loop {
            let error = match self.once(endpoint, ask).await {
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
            let pause = asked.unwrap_or(wait).min(patience.longest_wait);
            tracing::debug!(endpoint = endpoint.name, tries, ?pause, %error, "registry asked again");
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(patience.longest_wait);
            tries += 1;
        }
    }

    async fn once(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Response, RequestError> {
        let mut last = None;
        for origin in &endpoint.origins {
            match self.at(origin, endpoint, ask).await {
                Err(error) if error.unreachable() => last = Some(error),
                result => return result,
            }
        }
        Err(last.unwrap_or_else(|| RequestError::NotFound {
            host: endpoint.name.clone(),
            message: String::new(),
        }))
    }

    async fn at(
        &self,
        origin: &str,
        endpoint: &Endpoint,
        ask: &Ask,
    ) -> Result<Response, RequestError> {
        let patience = &self.client.shared.config.patience;
        let host = || endpoint.name.clone();
        let mut challenged = false;
        loop {
            let authorization = self.authorization(origin, endpoint).await;
            let response = self
                .follow(origin, endpoint, ask, authorization.as_ref())
                .await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let own = origin_of(response.url()) == origin_of(&url(origin, endpoint, ask)?);
            if status == StatusCode::UNAUTHORIZED && own && !challenged {
                challenged = true;
                self.authenticate(origin, endpoint, response.headers(), authorization.as_ref())
                    .await?;
                continue;
            }
            let retry_after = retry_after(&response);
            let message = message(response, patience.silence).await;
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RequestError::Auth {
                    host: host(),
                    source: AuthError::Denied(message),
                },
                StatusCode::NOT_FOUND => RequestError::NotFound {
                    host: host(),
                    message,
                },
                status => RequestError::Status {
                    host: host(),
                    status,
                    message,
                    retry_after,
                },
            });
        }
    }

    /// Sends the request, following redirects. Credentials go to the place they are for and nowhere else.
    async fn follow(
        &self,
        origin: &str,
        endpoint: &Endpoint,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RequestError> {
        let config = &self.client.shared.config;
        let start = url(origin, endpoint, ask)?;
        let mut at = start.clone();
        let mut how = endpoint.profile.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self
                .client
                .connections(&how, at.scheme() == "https")?
                .request(ask.method.clone(), at.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            if let Some(authorization) =
                authorization.filter(|_| origin_of(&at) == origin_of(&start))
            {
                request = request.header(AUTHORIZATION, authorization);
            }
            let host = || {
                if at == start {
                    endpoint.name.clone()
                } else {
                    origin_of(&at)
                }
            };
            let waited = config.patience.connect + config.patience.silence;
            let response = tokio::time::timeout(waited, request.send())
                .await
                .map_err(|_| RequestError::Silence {
                    host: host(),
                    waited,
                })?
                .map_err(|e| RequestError::unanswered(host(), &at, e))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default();
            let next = at
                .join(location)
                .ok()
                .filter(|next| !location.is_empty() && may_redirect(&at, next));
            let Some(next) = next else {
                let to = match at.join(location) {
                    _ if location.is_empty() => "nowhere".to_owned(),
                    Ok(url) => format!("`{}`", origin_of(&url)),
                    Err(_) => "a place that is no URL".to_owned(),
                };
                return Err(RequestError::Redirect { host: host(), to });
            };
            if origin_of(&next) != origin_of(&at) {
                let next_host = authority(&next);
                how = if next_host == authority(&start) {
                    endpoint.profile.clone()
                } else {
                    profile(config, &next_host)
                };
            }
            at = next;
        }
        Err(RequestError::Redirect {
            host: endpoint.name.clone(),
            to: "yet another place".to_owned(),
        })
    }
}

/// Redirects lead to object stores anywhere, but never from TLS to clear text, nor from the network into this machine.
pub(super) fn may_redirect(from: &Url, to: &Url) -> bool {
    let scheme = match to.scheme() {
        "https" => true,
        "http" => from.scheme() == "http",
        _ => false,
    };
    let internal = |url: &Url| url.host_str().is_none_or(is_internal);
    scheme
        && to.username().is_empty()
        && to.password().is_none()
        && (!internal(to) || internal(from))
}

fn url(origin: &str, endpoint: &Endpoint, ask: &Ask) -> Result<Url, RequestError> {
    let text = format!("{origin}/v2/{}/{}", endpoint.repository, ask.path);
    Url::parse(&text).map_err(|_| RequestError::Redirect {
        host: endpoint.name.clone(),
        to: "an address that is no URL".to_owned(),
    })
}

/// `scheme://host[:port]`.
pub(super) fn origin_of(url: &Url) -> String {
    format!("{}://{}", url.scheme(), authority(url))
}

/// `host[:port]`.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// A whole answer of at most `limit` bytes.
pub(super) async fn body(
    response: Response,
    host: &str,
    limit: u64,
    silence: Duration,
) -> Result<Vec<u8>, RequestError> {
    let mut bytes = Vec::new();
    let mut pieces = Pieces::new(response, host, silence);
    while let Some(piece) = pieces.next().await? {
        if bytes.len() as u64 + piece.len() as u64 > limit {
            return Err(RequestError::TooLarge {
                host: host.to_owned(),
                limit,
            });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// An answer piece by piece, given up when it stops or only drips.
pub(super) struct Pieces<'a> {
    response: Response,
    host: &'a str,
    silence: Duration,
    /// When the current interval began, and what came in it.
    interval: (Instant, u64),
}

impl<'a> Pieces<'a> {
    pub(super) fn new(response: Response, host: &'a str, silence: Duration) -> Self {
        Self {
            response,
            host,
            silence,
            interval: (Instant::now(), 0),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<bytes::Bytes>, RequestError> {
        let piece = tokio::time::timeout(self.silence, self.response.chunk())
            .await
            .map_err(|_| RequestError::Silence {
                host: self.host.to_owned(),
                waited: self.silence,
            })?
            .map_err(|e| RequestError::Body {
                host: self.host.to_owned(),
                source: e.without_url(),
            })?;
        let (began, bytes) = &mut self.interval;
        *bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let waited = began.elapsed();
        if piece.is_some() && waited > 2 * self.silence {
            if *bytes < LEAST_RATE * waited.as_secs() {
                return Err(RequestError::Slow {
                    host: self.host.to_owned(),
                    bytes: *bytes,
                    waited,
                });
            }
            self.interval = (Instant::now(), 0);
        }
        Ok(piece)
    }
}

/// What a registry says about its refusal: the messages of its JSON, or nothing.
pub(super) async fn message(mut response: Response, silence: Duration) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<Message>,
    }
    #[derive(serde::Deserialize)]
    struct Message {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut bytes = Vec::new();
    let read = async {
        while let Ok(Some(piece)) = response.chunk().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_MESSAGE {
                break;
            }
        }
    };
    // What has come until then is what there is to show: nobody waits for an apology that drips.
    let _ = tokio::time::timeout(silence, read).await;
    let Ok(errors) = serde_json::from_slice::<Errors>(&bytes) else {
        return String::new();
    };
    let texts: Vec<String> = errors
        .errors
        .into_iter()
        .take(3)
        .map(|m| {
            if m.message.is_empty() {
                m.code
            } else {
                m.message
            }
        })
        .map(|text| text.chars().filter(|c| !c.is_control()).take(200).collect())
        .filter(|text: &String| !text.is_empty())
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_that_are_followed() {
        let ok = |from: &str, to: &str| {
            may_redirect(&Url::parse(from).unwrap(), &Url::parse(to).unwrap())
        };
        assert!(ok(
            "https://registry.example/v2/",
            "https://cdn.example/blob?signature=x"
        ));
        assert!(ok("http://127.0.0.1:5000/", "http://127.0.0.1:5001/"));
        assert!(!ok("https://registry.example/", "http://registry.example/"));
        assert!(!ok("https://registry.example/", "https://localhost/"));
        assert!(!ok("https://registry.example/", "https://169.254.169.254/"));
        assert!(!ok("https://registry.example/", "https://[::1]/"));
        assert!(!ok("https://registry.example/", "file:///etc/passwd"));
        assert!(!ok(
            "https://registry.example/",
            "https://user@cdn.example/"
        ));
    }
}
