//! One file from one address: revalidation, redirects, trying again, storing.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use graph::error::Error;
use reqwest::{
    Response, StatusCode,
    header::{
        AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
        LAST_MODIFIED, LOCATION, RETRY_AFTER,
    },
};
use serde::{Deserialize, Serialize};
use store::{Draft, Snapshot};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    FetchError, Fetched, Plan,
    address::{Address, Hasher},
    client::{Limits, Pool, Served},
    error::{cause, hint},
};
use crate::{Ctx, host::upload::known, node::Node, secret::Plaintext};

/// Where what servers said is kept.
const SPACE: &str = "http";
/// Longest wait that a server may ask for before the next try.
const RETRY_MAX: Duration = Duration::from_secs(20);

/// What a server said of a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Said {
    etag: Option<String>,
    last_modified: Option<String>,
    sha256: String,
}

/// What is needed to ask a server.
struct Asker<'a> {
    pool: &'a Pool,
    served: Option<&'a Served>,
    limits: Limits,
    authorization: Option<&'a Plaintext>,
}

/// What came of asking.
enum Answer {
    /// It is the file that is known.
    Same,
    /// It is another; the passage is held as long as it is read.
    New(Box<(Response, Option<crate::service::Passage>, Address)>),
}

pub(super) async fn fetch(ctx: &Ctx, plan: &Plan) -> Result<Fetched, Error> {
    let store = &ctx.engine.store;
    if let Some(sha256) = plan.checksum.as_ref().and_then(|c| c.sha256())
        && let Some(snapshot) = known(store, &plan.content(sha256))
    {
        return Ok(plan.fetched(sha256, Node::given(&plan.content(sha256), snapshot)));
    }
    let authorization = match &plan.authorization {
        Some(secret) => Some(secret.fetch(ctx).await?),
        None => None,
    };
    let served = match &plan.service {
        Some(service) => {
            let used = ctx.session.services.acquire(ctx, service).await?;
            Some(Served::new(
                service.hostname.clone(),
                used,
                ctx.engine.run_dir.clone(),
            ))
        }
        None => None,
    };
    let step = ctx
        .session
        .progress
        .step(&format!("fetch {}", plan.address.shown()), ctx.span);
    let asker = Asker {
        pool: &ctx.session.fetched.pool,
        served: served.as_ref(),
        limits: ctx.session.fetched.limits(),
        authorization: authorization.as_ref(),
    };
    let result = patiently(ctx, plan, &asker).await.map_err(Error::from);
    match &result {
        Ok(_) => step.done(),
        Err(e) => step.failed(e),
    }
    result
}

/// Asks again when that may help.
async fn patiently(ctx: &Ctx, plan: &Plan, asker: &Asker<'_>) -> Result<Fetched, FetchError> {
    let mut pause = asker.limits.pause;
    let mut tries = 1;
    loop {
        let (error, asked) = match once(ctx, plan, asker).await {
            Ok(fetched) => return Ok(fetched),
            Err(failed) => failed,
        };
        if !error.is_transient() || tries >= asker.limits.tries {
            return Err(error);
        }
        tokio::time::sleep(asked.unwrap_or(pause).min(RETRY_MAX)).await;
        pause *= 2;
        tries += 1;
    }
}

type Failed = (FetchError, Option<Duration>);

async fn once(ctx: &Ctx, plan: &Plan, asker: &Asker<'_>) -> Result<Fetched, Failed> {
    let store = &ctx.engine.store;
    let fact = fact_key(plan);
    let said = store
        .facts()
        .get(SPACE, &fact)
        .and_then(|bytes| serde_json::from_slice::<Said>(&bytes).ok());
    // What was said is worth something only while the file is there.
    let said = said.and_then(|said| {
        let snapshot = known(store, &plan.content(&said.sha256))?;
        Some((said, snapshot))
    });
    let before = said.as_ref().map(|(said, _)| said);
    let (response, passage, address) = match asker.ask(&plan.address, before).await? {
        Answer::Same => {
            if let Some((said, snapshot)) = said {
                check(plan, &said.sha256, None).map_err(|e| (e, None))?;
                return Ok(plan.fetched(
                    &said.sha256,
                    Node::given(&plan.content(&said.sha256), snapshot),
                ));
            }
            let url = plan.address.shown();
            let status = StatusCode::NOT_MODIFIED;
            return Err((
                FetchError::Status {
                    url,
                    status,
                    hint: "",
                },
                None,
            ));
        }
        Answer::New(answer) => *answer,
    };
    let mut now = said_in(response.headers());
    let (sha256, snapshot) = receive(ctx, plan, &asker.limits, response, &address)
        .await
        .map_err(|e| (e, None))?;
    drop(passage);
    now.sha256 = sha256;
    if (now.etag.is_some() || now.last_modified.is_some())
        && let Ok(bytes) = serde_json::to_vec(&now)
    {
        store.facts().put(SPACE, &fact, &bytes);
    } else {
        store.facts().remove(SPACE, &fact);
    }
    let output = Node::given(&plan.content(&now.sha256), snapshot);
    Ok(plan.fetched(&now.sha256, output))
}

/// The name of what was said, for this address and asker.
fn fact_key(plan: &Plan) -> String {
    let mut h = blake3::Hasher::new();
    h.update(plan.address.url.as_str().as_bytes());
    h.update(b"\0");
    h.update(plan.source().as_bytes());
    h.finalize().to_hex().to_string()
}

fn said_in(headers: &HeaderMap) -> Said {
    let text = |name| {
        let value = headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok());
        value.filter(|v| v.len() < 4096).map(str::to_owned)
    };
    Said {
        etag: text(ETAG),
        last_modified: text(LAST_MODIFIED),
        sha256: String::new(),
    }
}

fn check(plan: &Plan, sha256: &str, computed: Option<&super::Checksum>) -> Result<(), FetchError> {
    let Some(wanted) = &plan.checksum else {
        return Ok(());
    };
    let found = match (wanted.sha256(), computed) {
        (Some(digits), _) if digits == sha256 => return Ok(()),
        (None, Some(c)) if c == wanted => return Ok(()),
        (None, Some(c)) => c.to_string(),
        _ => format!("sha256:{sha256}"),
    };
    Err(FetchError::Checksum {
        url: plan.address.shown(),
        found,
        wanted: wanted.to_string(),
    })
}

impl Asker<'_> {
    /// Asks one address and follows where it leads. Credentials stay with the origin they are for.
    async fn ask(&self, start: &Address, before: Option<&Said>) -> Result<Answer, Failed> {
        let mut at = start.clone();
        for _ in 0..=self.limits.redirects {
            let (client, passage) = match self.served.filter(|s| s.serves(&at)) {
                Some(served) => {
                    let (client, passage) = served
                        .client(&at, &self.limits)
                        .await
                        .map_err(|e| (e, None))?;
                    (client, Some(passage))
                }
                None => (
                    self.pool.client(&at, &self.limits).map_err(|e| (e, None))?,
                    None,
                ),
            };
            let mut request = client.get(at.url.clone());
            if let Some((user, password)) = &at.login {
                request = request.basic_auth(user, Some(password));
            } else if let Some(value) = self.authorization.filter(|_| at.same_origin(start)) {
                let mut header = HeaderValue::from_bytes(value.reveal().trim_ascii())
                    .map_err(|_| (FetchError::Header, None))?;
                header.set_sensitive(true);
                request = request.header(AUTHORIZATION, header);
            }
            if let Some(said) = before {
                if let Some(etag) = &said.etag {
                    request = request.header(IF_NONE_MATCH, etag);
                }
                if let Some(date) = &said.last_modified {
                    request = request.header(IF_MODIFIED_SINCE, date);
                }
            }
            let patience = self.limits.connect + self.limits.silence;
            let response = match timeout(patience, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(e)) => {
                    let e = e.without_url();
                    let why = if e.is_timeout() {
                        format!("no connection within {} s", self.limits.connect.as_secs())
                    } else {
                        cause(&e)
                    };
                    let url = at.shown();
                    return Err((FetchError::Connect { url, why }, None));
                }
                Err(_) => {
                    return Err((
                        FetchError::Silent {
                            url: at.shown(),
                            waited: patience,
                        },
                        None,
                    ));
                }
            };
            let status = response.status();
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                let to = response.headers().get(LOCATION);
                let to = to.and_then(|v| v.to_str().ok()).map(str::trim);
                let to = to.filter(|to| !to.is_empty()).ok_or_else(|| {
                    let url = at.shown();
                    (FetchError::NoRedirect { url, status }, None)
                })?;
                let next = at.join(to).map_err(|e| (e, None))?;
                // Whoever is on the network has no business with what only this machine can ask.
                if next.is_internal() && !at.is_internal() {
                    let (url, to) = (at.shown(), next.host().0.to_owned());
                    return Err((FetchError::Inward { url, to }, None));
                }
                at = next;
                continue;
            }
            if status == StatusCode::PARTIAL_CONTENT {
                return Err((FetchError::Partial { url: at.shown() }, None));
            }
            if status == StatusCode::NOT_MODIFIED && before.is_some() {
                return Ok(Answer::Same);
            }
            if !status.is_success() {
                let asked = response.headers().get(RETRY_AFTER);
                let asked = asked
                    .and_then(|v| v.to_str().ok()?.trim().parse().ok())
                    .map(Duration::from_secs);
                let url = at.shown();
                let hint = hint(status);
                return Err((FetchError::Status { url, status, hint }, asked));
            }
            return Ok(Answer::New(Box::new((response, passage, at))));
        }
        Err((
            FetchError::Redirects {
                url: start.shown(),
                limit: self.limits.redirects,
            },
            None,
        ))
    }
}

/// Writes an answer into a tree of its own. Nothing is left of one that breaks off.
async fn receive(
    ctx: &Ctx,
    plan: &Plan,
    limits: &Limits,
    mut response: Response,
    from: &Address,
) -> Result<(String, Snapshot), FetchError> {
    let url = || from.shown();
    let too_large = || FetchError::TooLarge {
        url: url(),
        limit: limits.size,
    };
    if response.content_length().is_some_and(|n| n > limits.size) {
        return Err(too_large());
    }
    let modified = response.headers().get(LAST_MODIFIED);
    let modified = modified
        .and_then(|v| httpdate::parse_http_date(v.to_str().ok()?).ok())
        .unwrap_or(UNIX_EPOCH);
    let draft = blocking(ctx, url(), {
        let store = ctx.engine.store.clone();
        move || Ok(store.draft(None)?)
    })
    .await?;
    let path = draft.upper().join(&plan.name);
    let disk = |e: std::io::Error| FetchError::Disk {
        url: url(),
        source: e.into(),
    };
    let mut file = tokio::fs::File::create_new(&path).await.map_err(disk)?;
    let mut hasher = Hasher::new(plan.checksum.as_ref());
    let mut total = 0u64;
    let mut interval = (Instant::now(), 0u64);
    loop {
        let piece = timeout(limits.silence, response.chunk())
            .await
            .map_err(|_| FetchError::Silent {
                url: url(),
                waited: limits.silence,
            })?
            .map_err(|e| FetchError::Broken {
                url: url(),
                bytes: total,
                why: cause(&e.without_url()),
            })?;
        let Some(piece) = piece else { break };
        total += piece.len() as u64;
        if total > limits.size {
            return Err(too_large());
        }
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(disk)?;
        interval.1 += piece.len() as u64;
        let waited = interval.0.elapsed();
        if waited > 2 * limits.silence {
            if interval.1 < limits.least_rate * waited.as_secs() {
                return Err(FetchError::Slow {
                    url: url(),
                    bytes: interval.1,
                    waited,
                });
            }
            interval = (Instant::now(), 0);
        }
    }
    file.flush().await.map_err(disk)?;
    let file = file.into_std().await;
    let (sha256, computed) = hasher.finish();
    check(plan, &sha256, Some(&computed))?;
    let content = plan.content(&sha256);
    let mode = plan.mode;
    let store = ctx.engine.store.clone();
    let snapshot = blocking(ctx, url(), move || {
        if let Some(snapshot) = known(&store, &content) {
            return Ok(snapshot);
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        date(&file, modified)?;
        drop(file);
        keep(&store, draft, &content)
    })
    .await?;
    Ok((sha256, snapshot))
}

/// A failure of the machine's disk, before it has an address.
type Trouble = Box<dyn std::error::Error + Send + Sync>;

async fn blocking<T: Send + 'static>(
    ctx: &Ctx,
    url: String,
    f: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, FetchError> {
    let done = ctx.engine.blocking(move || Ok(f())).await;
    let failed = |source: Trouble| FetchError::Disk { url, source };
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(failed(e)),
        Err(e) => Err(failed(e.into())),
    }
}

fn keep(store: &store::Store, draft: Draft, content: &str) -> Result<Snapshot, Trouble> {
    let snapshot = draft.commit()?;
    let key = Node::given(content, snapshot.clone()).node.key;
    store.results().put(
        &key.0,
        std::slice::from_ref(&snapshot),
        &[],
        "file fetched over HTTP",
    );
    Ok(snapshot)
}

fn date(file: &fs::File, modified: SystemTime) -> std::io::Result<()> {
    file.set_times(
        fs::FileTimes::new()
            .set_accessed(modified)
            .set_modified(modified),
    )
}
