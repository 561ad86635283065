//! As much of an HTTP/1.1 server as a misbehaving registry needs.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// A request without its body.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
    /// The body was not read to its end.
    pub(super) cut: bool,
}

/// What goes back.
#[derive(Debug, Clone, Default)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Arc<[u8]>,
    /// Send so many bytes of the body, then do this.
    pub(super) then: Option<(usize, Then)>,
    /// Send the body byte by byte with this pause.
    pub(super) drip: Option<Duration>,
}

/// How an answer ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Close,
    Stall,
}

/// Serves one connection until it ends.
///
/// `limit` may say to read only so much of a request's body, and what to do then.
pub(super) async fn serve<S>(
    stream: S,
    limit: impl Fn(&Request) -> Option<(usize, Then)>,
    handle: impl Fn(&Request) -> Response,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    while let Some((request, then)) = read(&mut stream, &limit).await? {
        let response = handle(&request);
        match then {
            None => {}
            // Without a reset the client could not tell that nobody reads.
            Some(Then::Close) => return Ok(()),
            Some(Then::Stall) => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return Ok(());
            }
        }
        if response.then == Some((0, Then::Stall)) {
            let _ = stream.read(&mut [0; 1]).await;
            return Ok(());
        }
        let length = response.body.len();
        let mut head = format!(
            "HTTP/1.1 {} -\r\nContent-Length: {length}\r\n",
            response.status
        );
        for (name, value) in &response.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let out = stream.get_mut();
        out.write_all(head.as_bytes()).await?;
        if let Some(pause) = response.drip.filter(|_| request.method != "HEAD") {
            for byte in response.body.iter() {
                out.write_all(&[*byte]).await?;
                out.flush().await?;
                tokio::time::sleep(pause).await;
            }
        } else if request.method != "HEAD" {
            let sent = response.then.map_or(response.body.len(), |(bytes, _)| {
                bytes.min(response.body.len())
            });
            out.write_all(&response.body[..sent]).await?;
        }
        out.flush().await?;
        match response.then {
            None => {}
            Some((_, Then::Close)) => return out.shutdown().await,
            Some((_, Then::Stall)) => {
                // Until the client gives up.
                let _ = stream.read(&mut [0; 1]).await;
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn read<S: AsyncRead + Unpin>(
    stream: &mut BufReader<S>,
    limit: &impl Fn(&Request) -> Option<(usize, Then)>,
) -> io::Result<Option<(Request, Option<Then>)>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length: usize = headers
        .get("content-length")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    let mut request = Request {
        method,
        path,
        headers,
        body: Vec::new(),
        cut: false,
    };
    let cut = limit(&request).filter(|(bytes, _)| *bytes < length);
    let read = cut.map_or(length, |(bytes, _)| bytes).min(64 << 20);
    request.body = vec![0; read];
    request.cut = cut.is_some();
    stream.read_exact(&mut request.body).await?;
    Ok(Some((request, cut.map(|(_, then)| then))))
}
