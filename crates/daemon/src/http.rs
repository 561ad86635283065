//! The session's API over HTTP/1.1: `POST /query`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use engine::Ctx;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::{conn::Conn, shell};

/// Largest request body, in bytes.
const BODY_MAX: usize = 64 << 20;

/// Most of a request that is read, though it is too large, in bytes.
const DISCARDED_MAX: usize = 1 << 30;
/// How long a client may be silent in the middle of a request.
const BODY_SILENCE: Duration = Duration::from_secs(60);

type Answer = Response<Full<Bytes>>;

/// Serves one connection, as one client, until it closes.
pub(crate) async fn serve(conn: Conn, ctx: Ctx) {
    let ctx = Arc::new(ctx);
    let service = service_fn(move |request| {
        let ctx = ctx.clone();
        async move { Ok::<_, Infallible>(answer(&ctx, request).await) }
    });
    // A client that hangs up in the middle is no news.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(conn), service)
        .with_upgrades()
        .await;
}

/// Answers a connection of a session that is gone.
pub(crate) async fn gone(conn: Conn) {
    let service = service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the session has ended",
        ))
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(conn), service)
        .await;
}

/// Most of a refused request's body that is read, in bytes: a client that still writes would not see the answer.
const REFUSED_MAX: usize = 1 << 20;

/// Why a request is refused before its body counts; `None` takes it.
fn refusal(request: &Request<Incoming>, token: &str) -> Option<Answer> {
    if !authorised(request, token) {
        let mut refused = problem(StatusCode::UNAUTHORIZED, "wrong or missing session token");
        refused.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            header::HeaderValue::from_static("Basic realm=\"Access to the Dagger engine session\""),
        );
        return Some(refused);
    }
    if shell::name(request.uri().path()).is_some() {
        return None;
    }
    if request.uri().path() != "/query" {
        return Some(problem(
            StatusCode::NOT_FOUND,
            "no such path: the API is at `/query`",
        ));
    }
    (request.method() != Method::POST)
        .then(|| problem(StatusCode::METHOD_NOT_ALLOWED, "queries are sent with POST"))
}

async fn answer(ctx: &Arc<Ctx>, request: Request<Incoming>) -> Answer {
    if let Some(refused) = refusal(&request, &ctx.client.info.token) {
        // What is longer is cut off with the connection.
        let _ = Limited::new(request.into_body(), REFUSED_MAX)
            .collect()
            .await;
        return refused;
    }
    if shell::name(request.uri().path()).is_some() {
        return shell::answer(ctx, request).unwrap_or_else(|(status, text)| problem(status, &text));
    }
    let body = match whole(request.into_body()).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let query = match serde_json::from_slice::<graph::Request>(&body) {
        Ok(q) => q,
        Err(e) => {
            return problem(
                StatusCode::BAD_REQUEST,
                &format!("the request is not a GraphQL request: {e}"),
            );
        }
    };
    let response = ctx.session.solver.run(ctx, ctx.client.view, query).await;
    json(
        StatusCode::from_u16(response.status).unwrap_or(StatusCode::OK),
        response.body,
    )
}

/// The whole body, or the answer that says why there is none. What is too much is read and thrown away: a client that still
/// writes would not see the answer.
async fn whole(mut body: Incoming) -> Result<Vec<u8>, Answer> {
    let too_large = || {
        problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!(
                "the request is larger than {} MiB: upload files with `host.directory` instead of writing them into a query",
                BODY_MAX >> 20
            ),
        )
    };
    let (mut whole, mut total) = (Vec::new(), 0_usize);
    loop {
        match timeout(BODY_SILENCE, body.frame()).await {
            Ok(None) if total > BODY_MAX => return Err(too_large()),
            Ok(None) => return Ok(whole),
            Ok(Some(Ok(frame))) => {
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                total = total.saturating_add(data.len());
                if total <= BODY_MAX {
                    whole.extend_from_slice(data);
                    continue;
                }
                whole = Vec::new();
                if total > DISCARDED_MAX {
                    return Err(too_large());
                }
            }
            Ok(Some(Err(e))) => {
                let text = format!("cannot read the request: {e}");
                return Err(problem(StatusCode::BAD_REQUEST, &text));
            }
            Err(_) => {
                let text = format!(
                    "cannot read the request: nothing came for {} s",
                    BODY_SILENCE.as_secs()
                );
                return Err(problem(StatusCode::REQUEST_TIMEOUT, &text));
            }
        }
    }
}

/// Basic auth with the token as user and an empty password. Compared in constant time.
fn authorised(request: &Request<Incoming>, token: &str) -> bool {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    let Some(encoded) = given.strip_prefix("Basic ") else {
        return false;
    };
    let engines = [
        base64::engine::general_purpose::STANDARD,
        base64::engine::general_purpose::URL_SAFE,
    ];
    let Some(pair) = engines.iter().find_map(|e| e.decode(encoded.trim()).ok()) else {
        return false;
    };
    let user = pair.split(|b| *b == b':').next().unwrap_or(&[]);
    user.len() == token.len()
        && !token.is_empty()
        && user
            .iter()
            .zip(token.as_bytes())
            .fold(0, |d, (a, b)| d | (a ^ b))
            == 0
}

fn json(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut r = Response::new(Full::new(Bytes::from(body)));
    *r.status_mut() = status;
    r.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    r
}

fn problem(status: StatusCode, text: &str) -> Answer {
    json(
        status,
        serde_json::json!({"errors": [{"message": text}]})
            .to_string()
            .into_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The answer to raw bytes: `head`, then so many times `piece`.
    async fn answer_to(head: &str, piece: &[u8], times: usize) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let service = service_fn(|request: Request<Incoming>| async {
            Ok::<_, Infallible>(match whole(request.into_body()).await {
                Ok(body) => problem(StatusCode::OK, &format!("{} bytes", body.len())),
                Err(refused) => refused,
            })
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), service);
        let asking = async move {
            let head =
                format!("POST /query HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n");
            client.write_all(head.as_bytes()).await.expect("a head");
            for _ in 0..times {
                client.write_all(piece).await.expect("a body that is read");
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("an answer");
            answer
        };
        let (_, answer) = tokio::join!(serving, asking);
        answer
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_is_told_so_after_it_was_sent() {
        let mib = vec![b'x'; 1 << 20];
        let head = |mib: usize| format!("Content-Length: {}\r\n", mib << 20);
        let answer = answer_to(&head(80), &mib, 80).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("larger than 64 MiB"), "{answer}");
        let answer = answer_to(&head(64), &mib, 64).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("67108864 bytes"), "{answer}");
    }

    #[tokio::test]
    async fn a_malformed_body_is_a_bad_request() {
        let head = "Transfer-Encoding: chunked\r\n";
        let answer = answer_to(head, b"no size\r\nx\r\n0\r\n\r\n", 1).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let answer = answer_to(head, b"2\r\n{}\r\n0\r\n\r\n", 1).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
