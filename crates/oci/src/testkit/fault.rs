//! How the answers of the registry in this process go wrong.

use serde_json::json;

use super::http::{Response, Then};

/// How one answer goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Another status, with headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection ends after so many bytes of the body.
    CutOff(usize),
    /// Nothing more comes after so many bytes of the body; with 0 nothing comes at all.
    Stall(usize),
    /// The body comes one byte at a time, with this pause between two.
    Drip(std::time::Duration),
    /// Another status, and a body that comes one byte at a time, with this pause between two.
    DripStatus(u16, std::time::Duration),
    /// The first byte is another.
    WrongByte,
    /// So many bytes are missing at the end, and the length says so.
    Shorter(usize),
    /// So many bytes too many.
    Longer(usize),
    /// A range is asked for and ignored.
    NoRange,
    /// Another range than asked for.
    WrongRange,
    /// A `Docker-Content-Digest` that is not the content's.
    WrongDigestHeader(String),
    /// No `Docker-Content-Digest`.
    NoDigestHeader,
    /// A `Content-Type` of its own.
    ContentType(&'static str),
    /// Another body altogether.
    Body(Vec<u8>),
    /// Only so many bytes of the request's body are read and kept, then the connection ends.
    CutUpload(usize),
    /// Only so many bytes of the request's body are read and kept, then nothing happens any more.
    StallUpload(usize),
}

/// An answer that says no.
pub(super) fn error(status: u16, code: &str, message: &str) -> Response {
    let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
    Response {
        status,
        body: body.into_bytes().into(),
        ..Response::default()
    }
}

/// The answer after it went wrong.
pub(super) fn spoil(mut response: Response, fault: Fault) -> Response {
    match fault {
        Fault::Status(status, headers) => {
            response = error(status, "TEST", "made to fail");
            response.headers.extend(
                headers
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value)),
            );
        }
        Fault::CutOff(bytes) => response.then = Some((bytes, Then::Close)),
        Fault::Stall(bytes) => response.then = Some((bytes, Then::Stall)),
        Fault::Drip(pause) => response.drip = Some(pause),
        Fault::DripStatus(status, pause) => {
            response.status = status;
            response.drip = Some(pause);
        }
        Fault::WrongByte => {
            let mut bytes = response.body.to_vec();
            if let Some(first) = bytes.first_mut() {
                *first ^= 1;
            }
            response.body = bytes.into();
        }
        Fault::Shorter(by) => {
            response.body = response.body[..response.body.len().saturating_sub(by)].into()
        }
        Fault::Longer(by) => {
            let mut bytes = response.body.to_vec();
            bytes.resize(bytes.len() + by, b'x');
            response.body = bytes.into();
        }
        Fault::NoRange => {}
        Fault::WrongRange => response.headers.retain(|(name, _)| name != "Content-Range"),
        Fault::WrongDigestHeader(digest) => {
            response
                .headers
                .retain(|(name, _)| name != "Docker-Content-Digest");
            response
                .headers
                .push(("Docker-Content-Digest".to_owned(), digest));
        }
        Fault::NoDigestHeader => response
            .headers
            .retain(|(name, _)| name != "Docker-Content-Digest"),
        Fault::ContentType(media_type) => {
            response.headers.retain(|(name, _)| name != "Content-Type");
            response
                .headers
                .push(("Content-Type".to_owned(), media_type.to_owned()));
        }
        Fault::Body(body) => response.body = body.into(),
        Fault::CutUpload(_) | Fault::StallUpload(_) => {}
    }
    response
}
