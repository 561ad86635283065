//! `listen`: a session's API on an address of the user's choice.
//!
//! Requests pass through here one by one, as those who ask need not know the session's token. Web pages are kept out unless
//! `--allow-cors`: a browser says with `Origin` whose page asks.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    client,
    header::{self, AUTHORIZATION, HeaderName, HeaderValue},
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{Opened, Setup, block_on, done, ending, env, lost};
use crate::{Outcome, args, error::Failure, link::Files, proxy::Upstream};

/// Most connections at once; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// How long a client may take to say what it asks.
const HEAD: Duration = Duration::from_secs(60);

type Body = BoxBody<Bytes, hyper::Error>;

/// What requests meet.
struct Gate {
    upstream: Upstream,
    /// The `Authorization` that the engine wants.
    inner: HeaderValue,
    /// The `Authorization` that is wanted here.
    outer: Option<HeaderValue>,
    allow_cors: bool,
}

/// Runs the command.
///
/// # Errors
/// No engine, or it was lost; an address that cannot be listened on.
pub fn run(mut setup: Setup, listen: args::Listen) -> Result<Outcome, Failure> {
    if listen.r#mod.is_some() {
        return Err(Failure::new(
            "cannot load a module yet: --mod is not available in this version",
        ));
    }
    if listen.disable_host_read_write {
        if setup.nested.is_some() {
            return Err(Failure::new(
                "--disable-host-read-write needs a session of its own, and there is one in the environment already",
            ));
        }
        setup.files = Files::Denied;
    }
    let stderr = setup.stderr.clone();
    block_on(&stderr, async move {
        let mut signal = Box::pin(ending()?);
        // Go's `:8080` is every address.
        let address = match listen.listen.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}"),
            None => listen.listen.clone(),
        };
        let cannot =
            |e: std::io::Error| Failure::new(format!("cannot listen on {}: {e}", listen.listen));
        let listener = TcpListener::bind(&address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let (opened, upstream, token) = tokio::select! {
            opened = Opened::open(&setup) => opened?,
            _ = &mut signal => return Ok(done()),
        };
        let gate = Gate {
            upstream,
            inner: basic(&token)?,
            outer: env("DAGGER_SESSION_TOKEN").map(|t| basic(&t)).transpose()?,
            allow_cors: listen.allow_cors,
        };
        setup
            .stderr
            .line(&format!("==> server listening on http://{address}/query"));
        let ended = tokio::select! {
            () = serve(listener, Arc::new(gate)) => Ok(done()),
            _ = &mut signal => Ok(done()),
            () = opened.lost() => Err(lost()),
        };
        opened.close().await;
        ended
    })
}

fn basic(token: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{token}:"))))
        .map_err(|e| Failure::new(e.to_string()))
}

/// Answers requests until dropped.
async fn serve(listener: TcpListener, gate: Arc<Gate>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, most likely: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            let _permit = permit;
            let answer = service_fn(|request| {
                let gate = Arc::clone(&gate);
                async move { Ok::<_, Infallible>(gate.answer(request).await) }
            });
            // The client sees its connection end; there is nobody else to tell.
            let _ = server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(client), answer)
                .await;
        });
    }
}

impl Gate {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut response = match self.refusal(request.method(), request.headers()) {
            Some(refusal) => refusal,
            None => self.forward(request).await.unwrap_or_else(|e| {
                let why = format!("cannot reach the engine: {e}");
                text(StatusCode::BAD_GATEWAY, &why)
            }),
        };
        if self.allow_cors {
            let headers = response.headers_mut();
            let any = HeaderValue::from_static("*");
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, any);
        }
        response
    }

    /// The answer to a request that does not get to the engine.
    fn refusal(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
        let origin = headers.get(header::ORIGIN);
        if origin.is_some() && !self.allow_cors {
            return Some(text(
                StatusCode::FORBIDDEN,
                "web pages may not ask: start with --allow-cors to let them",
            ));
        }
        // A browser asks without credentials whether it may ask.
        if *method == Method::OPTIONS && origin.is_some() {
            let mut response = text(StatusCode::NO_CONTENT, "");
            let allowed = [
                (
                    header::ACCESS_CONTROL_ALLOW_METHODS,
                    HeaderValue::from_static("GET, POST, OPTIONS"),
                ),
                (
                    header::ACCESS_CONTROL_ALLOW_HEADERS,
                    headers
                        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
                        .cloned()
                        .unwrap_or(HeaderValue::from_static("*")),
                ),
            ];
            response
                .headers_mut()
                .extend(allowed.map(|(n, v)| (Some(n), v)));
            return Some(response);
        }
        match &self.outer {
            Some(wanted) if headers.get(AUTHORIZATION) != Some(wanted) => {
                let mut response = text(StatusCode::UNAUTHORIZED, "Unauthorized");
                response.headers_mut().insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"Access to the Dagger engine session\""),
                );
                Some(response)
            }
            _ => None,
        }
    }

    /// Asks the engine on a connection of its own. The query ends when its client goes: dropping this closes the connection.
    async fn forward(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
        let conn = self.upstream.connect().await?;
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(conn)).await?;
        tokio::spawn(connection);
        let headers = request.headers_mut();
        for hop in [
            header::CONNECTION,
            header::UPGRADE,
            header::ORIGIN,
            HeaderName::from_static("keep-alive"),
        ] {
            headers.remove(hop);
        }
        headers.insert(AUTHORIZATION, self.inner.clone());
        let mut response = sender.send_request(request).await?;
        response.headers_mut().remove(header::CONNECTION);
        Ok(response.map(BodyExt::boxed))
    }
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}
