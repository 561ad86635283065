//! The session's API over HTTP/1.1: `POST /query`.

use std::{convert::Infallible, sync::Arc};

use base64::Engine as _;
use bytes::Bytes;
use engine::Ctx;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;

use crate::conn::Conn;

/// Largest request body, in bytes.
const BODY_MAX: usize = 64 << 20;

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
    if request.uri().path() != "/query" {
        return Some(problem(
            StatusCode::NOT_FOUND,
            "no such path: the API is at `/query`",
        ));
    }
    (request.method() != Method::POST)
        .then(|| problem(StatusCode::METHOD_NOT_ALLOWED, "queries are sent with POST"))
}

async fn answer(ctx: &Ctx, request: Request<Incoming>) -> Answer {
    if let Some(refused) = refusal(&request, &ctx.client.info.token) {
        // What is longer is cut off with the connection.
        let _ = Limited::new(request.into_body(), REFUSED_MAX)
            .collect()
            .await;
        return refused;
    }
    let body = match Limited::new(request.into_body(), BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) => {
            return problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("cannot read the request: {e}"),
            );
        }
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
