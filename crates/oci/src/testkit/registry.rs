//! A registry in this process, with as many faults as wanted.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_rustls::TlsAcceptor;

use super::{
    fault::{Fault, error, spoil},
    http::{Request, Response, Then, serve},
    image::{Image, index},
};
use crate::{digest::Digest, manifest::media_type, platform::Platform};

/// Whom the registry lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    None,
    /// One user by HTTP basic authentication.
    Basic(&'static str, &'static str),
    /// Tokens from `/token`: anonymous ones for `library/`, others for one user.
    Token(&'static str, &'static str),
    /// Tokens from another place.
    TokenFrom(String),
}

/// A request the registry has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, `HEAD`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Range` header.
    pub range: Option<String>,
    /// Bytes of the body.
    pub body: usize,
}

#[derive(Default)]
struct Contents {
    /// Manifests by repository and by tag or digest.
    manifests: HashMap<(String, String), Arc<[u8]>>,
    blobs: HashMap<Digest, Arc<[u8]>>,
    /// Which repositories have which pushed or mounted blobs.
    placed: std::collections::HashSet<(String, Digest)>,
    uploads: HashMap<String, Vec<u8>>,
    faults: Vec<(String, Fault, usize)>,
    seen: Vec<Seen>,
    tokens: HashMap<String, String>,
}

struct State {
    contents: Mutex<Contents>,
    auth: Auth,
    origin: String,
}

/// A registry that lives until it is dropped.
pub struct Registry {
    address: SocketAddr,
    state: Arc<State>,
    certificate: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry for everybody, on a free port of the loopback interface.
    pub fn start() -> Self {
        Self::start_with(Auth::None, false)
    }

    /// A registry with authentication, and with TLS under a certificate of its own authority.
    pub fn start_with(auth: Auth, tls: bool) -> Self {
        let (acceptor, certificate) = if tls {
            self::tls()
        } else {
            return Self::launch(auth, None, None);
        };
        Self::launch(auth, Some(acceptor), Some(certificate))
    }

    fn launch(auth: Auth, acceptor: Option<TlsAcceptor>, certificate: Option<String>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        listener
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let state = Arc::new(State {
            contents: Mutex::default(),
            auth,
            origin: format!("{scheme}://{address}"),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("test-registry".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async move {
                    let listener = TcpListener::from_std(listener).expect("inside a runtime");
                    tokio::select! {
                        () = accept(listener, shared, acceptor) => {}
                        _ = stopped => {}
                    }
                });
            })
            .expect("a thread");
        Self {
            address,
            state,
            certificate,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The authority that signed the certificate, as PEM.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Adds an image under a tag; returns its digest.
    pub fn add(&self, repository: &str, tag: &str, image: &Image) -> Digest {
        let manifest = self.add_blobs(repository, image);
        self.put(repository, tag, &manifest)
    }

    /// Adds images for several platforms under a tag; returns the digest of their index.
    pub fn add_index(&self, repository: &str, tag: &str, images: &[(&Platform, &Image)]) -> Digest {
        let manifests: Vec<Vec<u8>> = images
            .iter()
            .map(|(_, image)| self.add_blobs(repository, image))
            .collect();
        let entries: Vec<(&Platform, &[u8])> = images
            .iter()
            .zip(&manifests)
            .map(|((platform, _), manifest)| (*platform, manifest.as_slice()))
            .collect();
        self.put(repository, tag, &index(&entries))
    }

    fn add_blobs(&self, repository: &str, image: &Image) -> Vec<u8> {
        let (manifest, blobs) = image.build();
        self.contents().blobs.extend(
            blobs
                .into_iter()
                .map(|(digest, bytes)| (digest, bytes.into())),
        );
        self.put(repository, &Digest::of(&manifest).to_string(), &manifest);
        manifest
    }

    /// Adds any bytes as a manifest under a tag (or digest), and under their own digest.
    pub fn put(&self, repository: &str, tag: &str, manifest: &[u8]) -> Digest {
        let digest = Digest::of(manifest);
        let bytes: Arc<[u8]> = manifest.into();
        let mut contents = self.contents();
        contents
            .manifests
            .insert((repository.to_owned(), tag.to_owned()), Arc::clone(&bytes));
        contents
            .manifests
            .insert((repository.to_owned(), digest.to_string()), bytes);
        digest
    }

    /// Adds any bytes as a blob.
    pub fn put_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.contents().blobs.insert(digest, bytes.into());
        digest
    }

    /// Serves the images of an OCI layout under the names its index gives them (`repository:tag`).
    pub fn add_layout(&self, dir: &Path) -> io::Result<()> {
        let read = |digest: &str| fs::read(dir.join("blobs").join(digest.replace(':', "/")));
        let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json"))?)?;
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let Some(name) = entry["annotations"]["org.opencontainers.image.ref.name"].as_str()
            else {
                continue;
            };
            let name = name.strip_prefix("docker.io/").unwrap_or(name);
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
            let mut documents = vec![(
                tag.to_owned(),
                entry["digest"].as_str().unwrap_or_default().to_owned(),
            )];
            while let Some((tag, digest)) = documents.pop() {
                let bytes = read(&digest)?;
                let document: Value = serde_json::from_slice(&bytes)?;
                for child in document["manifests"].as_array().into_iter().flatten() {
                    let digest = child["digest"].as_str().unwrap_or_default();
                    documents.push((digest.to_owned(), digest.to_owned()));
                }
                for blob in document["layers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .chain([&document["config"]])
                {
                    if let Some(digest) = blob["digest"].as_str() {
                        self.put_blob(&read(digest)?);
                    }
                }
                self.put(repository, &tag, &bytes);
            }
        }
        Ok(())
    }

    /// Makes the next `times` answers to paths containing `pattern` go wrong.
    pub fn fault(&self, pattern: impl fmt::Display, fault: Fault, times: usize) {
        self.contents()
            .faults
            .push((pattern.to_string(), fault, times));
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.contents().faults.clear();
    }

    /// Requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.contents().seen.clone()
    }

    /// `METHOD path` of the requests so far, then forgets them.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut self.contents().seen)
            .into_iter()
            .map(|s| format!("{} {}", s.method, s.path))
            .collect()
    }

    /// Makes all tokens given out so far worthless.
    pub fn revoke_tokens(&self) {
        self.contents().tokens.clear();
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.state
            .contents
            .lock()
            .expect("no test panics while holding it")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, acceptor: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (state, acceptor) = (Arc::clone(&state), acceptor.clone());
        tokio::spawn(async move {
            // A client that breaks off is what some tests are about.
            let _ = match acceptor {
                None => serve(stream, |r| state.limit(r), |request| state.answer(request)).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => {
                        serve(stream, |r| state.limit(r), |request| state.answer(request)).await
                    }
                    Err(error) => Err(error),
                },
            };
        });
    }
}

/// An acceptor for localhost and the authority to trust for it.
fn tls() -> (TlsAcceptor, String) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .expect("a certificate");
    let certificate = key.cert.pem();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has all versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der())
                .expect("a fresh key"),
        )
        .expect("a fresh certificate");
    (TlsAcceptor::from(Arc::new(config)), certificate)
}

impl State {
    /// How much of a request's body to read.
    fn limit(&self, request: &Request) -> Option<(usize, Then)> {
        let mut contents = self
            .contents
            .lock()
            .expect("no test panics while holding it");
        contents
            .faults
            .iter_mut()
            .filter(|(pattern, _, times)| *times > 0 && request.path.contains(pattern.as_str()))
            .find_map(|(_, fault, times)| {
                let limit = match fault {
                    Fault::CutUpload(bytes) => (*bytes, Then::Close),
                    Fault::StallUpload(bytes) => (*bytes, Then::Stall),
                    _ => return None,
                };
                let length = request
                    .headers
                    .get("content-length")?
                    .parse::<usize>()
                    .ok()?;
                (length > limit.0).then(|| {
                    *times -= 1;
                    limit
                })
            })
    }

    /// Uploads and manifests. `None` for a request that only reads.
    fn write(
        &self,
        request: &Request,
        kind: &str,
        repository: &str,
        what: &str,
    ) -> Option<Response> {
        let url = reqwest::Url::parse(&format!("http://x{}", request.path)).ok()?;
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let mut contents = self
            .contents
            .lock()
            .expect("no test panics while holding it");
        let accepted = |status, id: &str, bytes: usize| Response {
            status,
            headers: vec![
                (
                    "Location".to_owned(),
                    format!("/v2/{repository}/blobs/uploads/{id}?state=x"),
                ),
                ("Range".to_owned(), format!("0-{}", bytes.saturating_sub(1))),
            ],
            ..Response::default()
        };
        let created = |digest: Digest| Response {
            status: 201,
            headers: vec![("Docker-Content-Digest".to_owned(), digest.to_string())],
            ..Response::default()
        };
        match (kind, request.method.as_str()) {
            ("manifests", "PUT") => {
                let digest = Digest::of(&request.body);
                let document: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let blobs = document["layers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .chain(document.get("config"));
                for blob in blobs {
                    let named = blob["digest"]
                        .as_str()
                        .and_then(|d| d.parse::<Digest>().ok());
                    if !named.is_some_and(|d| contents.placed.contains(&(repository.to_owned(), d)))
                    {
                        return Some(error(
                            400,
                            "MANIFEST_BLOB_UNKNOWN",
                            "blob unknown to registry",
                        ));
                    }
                }
                let bytes: Arc<[u8]> = request.body.clone().into();
                for name in [what.to_owned(), digest.to_string()] {
                    contents
                        .manifests
                        .insert((repository.to_owned(), name), Arc::clone(&bytes));
                }
                Some(created(digest))
            }
            ("blobs", "HEAD") => {
                let digest: Digest = what.parse().ok()?;
                let there = contents.placed.contains(&(repository.to_owned(), digest));
                Some(if there {
                    Response {
                        status: 200,
                        ..Response::default()
                    }
                } else {
                    error(404, "BLOB_UNKNOWN", "blob unknown to registry")
                })
            }
            ("blobs", "POST") if what == "uploads/" => {
                let mount = query.get("mount").and_then(|d| d.parse::<Digest>().ok());
                if let Some(digest) = mount.filter(|d| contents.blobs.contains_key(d)) {
                    contents.placed.insert((repository.to_owned(), digest));
                    return Some(created(digest));
                }
                let id = format!("u{}", contents.uploads.len());
                contents.uploads.insert(id.clone(), Vec::new());
                Some(accepted(202, &id, 0))
            }
            ("blobs", method) => {
                let id = what.strip_prefix("uploads/")?.to_owned();
                let Some(upload) = contents.uploads.get_mut(&id) else {
                    return Some(error(404, "BLOB_UPLOAD_UNKNOWN", "upload unknown"));
                };
                if method == "GET" {
                    return Some(accepted(204, &id, upload.len()));
                }
                if let Some(range) = request.headers.get("content-range")
                    && range.split('-').next() != Some(upload.len().to_string().as_str())
                {
                    return Some(error(416, "RANGE_INVALID", "not where it ended"));
                }
                upload.extend_from_slice(&request.body);
                if method == "PATCH" || request.cut {
                    let bytes = upload.len();
                    return Some(accepted(202, &id, bytes));
                }
                let bytes = std::mem::take(upload);
                contents.uploads.remove(&id);
                let digest = Digest::of(&bytes);
                if query.get("digest") != Some(&digest.to_string()) {
                    return Some(error(400, "DIGEST_INVALID", "digest does not match"));
                }
                contents.blobs.insert(digest, bytes.into());
                contents.placed.insert((repository.to_owned(), digest));
                Some(created(digest))
            }
            _ => None,
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let fault = {
            let mut contents = self
                .contents
                .lock()
                .expect("no test panics while holding it");
            contents.seen.push(Seen {
                method: request.method.clone(),
                path: request.path.clone(),
                authorization: request.headers.get("authorization").cloned(),
                range: request.headers.get("range").cloned(),
                body: request.body.len(),
            });
            // What concerns the reading of a request has happened already.
            let active = |(pattern, fault, times): &&mut (String, Fault, usize)| {
                *times > 0
                    && request.path.contains(pattern.as_str())
                    && !matches!(fault, Fault::CutUpload(_) | Fault::StallUpload(_))
            };
            contents
                .faults
                .iter_mut()
                .find(active)
                .map(|(_, fault, times)| {
                    *times = times.saturating_sub(1);
                    fault.clone()
                })
        };
        let ranged = !matches!(fault, Some(Fault::NoRange));
        let response = self.respond(request, ranged);
        match fault {
            Some(fault) => spoil(response, fault),
            None => response,
        }
    }

    fn respond(&self, request: &Request, ranged: bool) -> Response {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path == "/token" {
            return self.token(request, query);
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return error(404, "NOT_FOUND", "not a registry path");
        };
        let found = ["manifests", "blobs"].into_iter().find_map(|kind| {
            rest.split_once(&format!("/{kind}/"))
                .map(|(repository, what)| (kind, repository, what))
        });
        let Some((kind, repository, what)) = found else {
            return error(404, "NOT_FOUND", "not a registry path");
        };
        if let Some(refusal) = self.refuse(request, repository) {
            return refusal;
        }
        if (kind == "blobs" || request.method == "PUT")
            && let Some(response) = self.write(request, kind, repository, what)
        {
            return response;
        }
        let contents = self
            .contents
            .lock()
            .expect("no test panics while holding it");
        if kind == "manifests" {
            match contents
                .manifests
                .get(&(repository.to_owned(), what.to_owned()))
            {
                Some(bytes) => document(bytes),
                None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            }
        } else {
            match what
                .parse()
                .ok()
                .and_then(|digest: Digest| contents.blobs.get(&digest))
            {
                Some(bytes) => blob(bytes, request.headers.get("range").filter(|_| ranged)),
                None => error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
            }
        }
    }

    fn refuse(&self, request: &Request, repository: &str) -> Option<Response> {
        let authorization = request.headers.get("authorization").map(String::as_str);
        let challenge = match &self.auth {
            Auth::None => return None,
            Auth::Basic(user, password) => {
                if authorization == Some(&basic(user, password)) {
                    return None;
                }
                "Basic realm=\"test\"".to_owned()
            }
            Auth::Token(..) => {
                let token = authorization
                    .and_then(|a| a.strip_prefix("Bearer "))
                    .unwrap_or_default();
                let writes = !matches!(request.method.as_str(), "GET" | "HEAD");
                let actions = if writes { "pull,push" } else { "pull" };
                let scope = format!("repository:{repository}:{actions}");
                let enough = |given: &String| {
                    given.split(' ').any(|given| {
                        *given == scope
                            || (!writes && *given == format!("repository:{repository}:pull,push"))
                    })
                };
                if self
                    .contents
                    .lock()
                    .expect("no test panics while holding it")
                    .tokens
                    .get(token)
                    .is_some_and(enough)
                {
                    return None;
                }
                format!(
                    "Bearer realm=\"{}/token\",service=\"test\",scope=\"{scope}\"",
                    self.origin
                )
            }
            Auth::TokenFrom(realm) => format!("Bearer realm=\"{realm}\",service=\"test\""),
        };
        let mut response = error(401, "UNAUTHORIZED", "authentication required");
        response
            .headers
            .push(("WWW-Authenticate".to_owned(), challenge));
        Some(response)
    }

    fn token(&self, request: &Request, query: &str) -> Response {
        let Auth::Token(user, password) = self.auth else {
            return error(404, "NOT_FOUND", "no tokens here");
        };
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let fields: BTreeMap<String, String> =
            reqwest::Url::parse(&format!("http://x/?{query}&{form}"))
                .map(|url| url.query_pairs().into_owned().collect())
                .unwrap_or_default();
        let scopes: Vec<String> = reqwest::Url::parse(&format!("http://x/?{query}&{form}"))
            .map(|url| {
                url.query_pairs()
                    .filter(|(name, _)| name == "scope")
                    .map(|(_, value)| value.into_owned())
                    .collect()
            })
            .unwrap_or_default();
        let scope = scopes.join(" ");
        let known = request
            .headers
            .get("authorization")
            .map(|a| *a == basic(user, password));
        let refreshed = fields.get("refresh_token").map(|token| token == password);
        match (known, refreshed) {
            (Some(false), _) | (_, Some(false)) => {
                return error(401, "UNAUTHORIZED", "incorrect username or password");
            }
            (None, None) if !scope.starts_with("repository:library/") => {
                return error(401, "UNAUTHORIZED", "who are you");
            }
            _ => {}
        }
        let mut contents = self
            .contents
            .lock()
            .expect("no test panics while holding it");
        let token = format!("token-{}", contents.tokens.len() + contents.seen.len());
        contents.tokens.insert(token.clone(), scope);
        Response {
            status: 200,
            body: json!({"token": token, "expires_in": 300})
                .to_string()
                .into_bytes()
                .into(),
            ..Response::default()
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{user}:{password}"))
    )
}

fn document(bytes: &Arc<[u8]>) -> Response {
    let media_type = serde_json::from_slice::<Value>(bytes)
        .ok()
        .and_then(|document| document["mediaType"].as_str().map(str::to_owned))
        .unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned());
    Response {
        status: 200,
        headers: vec![
            (
                "Docker-Content-Digest".to_owned(),
                Digest::of(bytes).to_string(),
            ),
            ("Content-Type".to_owned(), media_type),
        ],
        body: Arc::clone(bytes),
        ..Response::default()
    }
}

fn blob(bytes: &Arc<[u8]>, range: Option<&String>) -> Response {
    let from = range
        .and_then(|r| r.strip_prefix("bytes="))
        .and_then(|r| r.strip_suffix('-'))
        .and_then(|r| r.parse::<usize>().ok());
    match from {
        None => Response {
            status: 200,
            body: Arc::clone(bytes),
            ..Response::default()
        },
        Some(from) if from < bytes.len() => Response {
            status: 206,
            headers: vec![(
                "Content-Range".to_owned(),
                format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
            )],
            body: bytes[from..].into(),
            ..Response::default()
        },
        Some(_) => error(416, "RANGE_INVALID", "range out of bounds"),
    }
}
