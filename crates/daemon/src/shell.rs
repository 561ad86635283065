//! Terminals over a websocket, as the oldest clients have them: messages begin with what they are.
//!
//! | message | from | what |
//! |---|---|---|
//! | `\0,` and bytes | the client | what is typed |
//! | `resize,COLUMNS;ROWS` | the client | the terminal's size |
//! | `\1,` and bytes | the engine | what is shown |
//! | `\2,` and text | the engine | why there is nothing to show |
//! | `exit,CODE` | the engine | the end |

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use engine::{
    Ctx,
    container::{Container, shell},
};
use futures::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, BufReader, DuplexStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use wire::frame::{self, Kind};

const TYPED: &[u8] = b"\0,";
const SHOWN: &[u8] = b"\x01,";
const FAILED: &[u8] = b"\x02,";
const RESIZE: &[u8] = b"resize,";
/// Largest message, in bytes.
const MESSAGE_MAX: usize = 1 << 20;
/// Bytes between the websocket and the terminal, each way.
const BETWEEN: usize = 64 << 10;
/// How long a client may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// The name of the shell that a path leads to.
pub(crate) fn name(path: &str) -> Option<&str> {
    path.strip_prefix(shell::PATH)
}

/// Makes a websocket of the request's connection and runs the shell on it; or says why not.
pub(crate) fn answer(
    ctx: &Arc<Ctx>,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, (StatusCode, String)> {
    let id = name(request.uri().path()).unwrap_or_default();
    let Some(container) = ctx.session.shells.get(id) else {
        let text = format!("the session has no shell `{id}`: ask for a `shellEndpoint`");
        return Err((StatusCode::NOT_FOUND, text));
    };
    let headers = request.headers();
    let says = |name, word: &str| {
        let values = headers.get_all(name).iter();
        let mut words = values
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','));
        words.any(|w| w.trim().eq_ignore_ascii_case(word))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let asked = says(header::CONNECTION, "upgrade")
        && says(header::UPGRADE, "websocket")
        && says(header::SEC_WEBSOCKET_VERSION, "13");
    let Some(key) = key.filter(|_| asked) else {
        let text = "a shell is used over a websocket (RFC 6455, version 13)";
        return Err((StatusCode::UPGRADE_REQUIRED, text.to_owned()));
    };
    let accepted = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(serve(ctx.clone(), container, upgrade));
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONNECTION,
        header::HeaderValue::from_static("Upgrade"),
    );
    headers.insert(
        header::UPGRADE,
        header::HeaderValue::from_static("websocket"),
    );
    // Base64 is always a header's value.
    if let Ok(accepted) = header::HeaderValue::from_str(&accepted) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    }
    Ok(answer)
}

async fn serve(ctx: Arc<Ctx>, container: Container, upgrade: OnUpgrade) {
    let Ok(connection) = upgrade.await else {
        return;
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, Some(config))
            .await;
    let (mut to_client, from_client) = socket.split();
    let (near, far) = tokio::io::duplex(BETWEEN);
    let (mut from_shell, to_shell) = tokio::io::split(near);
    let attached = shell::attach(&ctx, &container, Box::new(BufReader::new(far)));
    let typing = typed(from_client, to_shell);
    let showing = async {
        let mut payload = Vec::new();
        while let Ok(Kind::Data) = frame::read_async(&mut from_shell, &mut payload).await {
            let message = Message::Binary([SHOWN, &payload].concat().into());
            if to_client.send(message).await.is_err() {
                return;
            }
        }
    };
    let ended = {
        let mut typing = std::pin::pin!(typing);
        let shell = async { tokio::join!(attached, showing).0 };
        let mut shell = std::pin::pin!(shell);
        tokio::select! {
            ended = &mut shell => ended,
            // The client is gone, and with the end of its words the shell ends.
            () = &mut typing => shell.await,
        }
    };
    let last = match ended {
        Ok(code) => vec![Message::Binary(format!("exit,{code}").into_bytes().into())],
        Err(e) => {
            let text = format!("{}\r\n", e.message());
            vec![
                Message::Binary([FAILED, text.as_bytes()].concat().into()),
                Message::Binary(Bytes::from_static(b"exit,1")),
            ]
        }
    };
    let goodbye = async {
        for message in last {
            to_client.send(message).await?;
        }
        to_client.close().await
    };
    // It may be gone already.
    let _ = timeout(GOODBYE, goodbye).await;
}

/// Brings what the client says to the shell, until it says no more.
async fn typed<S>(mut from: S, mut to: tokio::io::WriteHalf<DuplexStream>)
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    while let Some(Ok(message)) = from.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => break,
            _ => continue,
        };
        let sent = match understood(&bytes) {
            Some((kind, payload)) => frame::write_async(&mut to, kind, &payload).await,
            None => continue,
        };
        if sent.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// A client's message as a frame; `None` for what means nothing.
fn understood(message: &[u8]) -> Option<(Kind, Vec<u8>)> {
    if let Some(typed) = message.strip_prefix(TYPED) {
        return Some((Kind::Data, typed.to_vec()));
    }
    let size = std::str::from_utf8(message.strip_prefix(RESIZE)?).ok()?;
    let (columns, rows) = size.split_once(';')?;
    let (columns, rows): (u16, u16) = (columns.trim().parse().ok()?, rows.trim().parse().ok()?);
    let payload = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
    Some((Kind::Resize, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_they_begin_with() {
        let typed = |m: &[u8]| understood(m).map(|(kind, payload)| (kind as u8, payload));
        assert_eq!(
            typed(b"\0,ls\n"),
            Some((Kind::Data as u8, b"ls\n".to_vec()))
        );
        assert_eq!(
            typed(b"resize,80;24"),
            Some((Kind::Resize as u8, vec![24, 0, 80, 0]))
        );
        for nothing in [
            &b"ls"[..],
            b"",
            b"resize,80",
            b"resize,x;y",
            b"resize,70000;1",
        ] {
            assert_eq!(typed(nothing), None);
        }
    }
}
