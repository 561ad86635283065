//! One question over HTTP.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;

use crate::connect::Conn;

/// Largest answer.
const ANSWER: usize = 1 << 30;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The question could not be put.
    #[error("cannot form the request")]
    Request(#[source] hyper::http::Error),
    /// The connection failed.
    #[error("cannot ask the engine")]
    Connection(#[source] hyper::Error),
    /// The answer was cut or too long.
    #[error("cannot read the engine's answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not an answer of the API.
    #[error("the engine answered {status}: {text}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        text: String,
    },
}

/// Asks a session's API; the answer's JSON.
///
/// # Errors
/// A broken connection, or an answer that is not JSON.
pub async fn post_query(conn: Conn, token: &str, body: Vec<u8>) -> Result<Bytes, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(conn))
        .await
        .map_err(HttpError::Connection)?;
    let driver = tokio::spawn(connection);
    let request = Request::post("/query")
        .header(HOST, "dagger")
        .header(
            AUTHORIZATION,
            format!("Basic {}", STANDARD.encode(format!("{token}:"))),
        )
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(HttpError::Request)?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(HttpError::Connection)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER)
        .collect()
        .await
        .map_err(HttpError::Body)?
        .to_bytes();
    driver.abort();
    // GraphQL errors may come with 200, 400 or 422; they are in the body.
    if status.is_success() || body.first() == Some(&b'{') {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(body.get(..200).unwrap_or(&body))
        .trim()
        .to_owned();
    Err(HttpError::Status {
        status: status.as_u16(),
        text,
    })
}
