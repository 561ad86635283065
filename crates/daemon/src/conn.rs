//! One connection: its first line says what it is for.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use wire::{AdminRequest, AdminStatus, Preamble, Status, Welcome, line};

use crate::{Shared, http, session};

/// Any byte stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// The descriptor that came with what was read last, if one did.
    fn descriptor(&mut self) -> Option<OwnedFd> {
        None
    }
}
impl Duplex for tokio::net::TcpStream {}
/// A connection as accepted.
pub(crate) type Stream = Box<dyn Duplex>;
/// A connection being read.
pub(crate) type Conn = BufReader<Stream>;

/// Longest time a new connection may take to say what it is.
pub(crate) const PREAMBLE_TIME: Duration = Duration::from_secs(10);

/// Serves a connection on a task of its own.
pub(crate) fn spawn(shared: Arc<Shared>, stream: Stream) {
    tokio::spawn(async move {
        shared.connections.fetch_add(1, Ordering::AcqRel);
        shared.activity.notify_waiters();
        serve(&shared, BufReader::with_capacity(64 << 10, stream)).await;
        shared.connections.fetch_sub(1, Ordering::AcqRel);
        shared.activity.notify_waiters();
        // `notify_waiters` stores nothing: whoever begins to wait just now must not sleep through it.
        shared.activity.notify_one();
    });
}

async fn serve(shared: &Arc<Shared>, mut conn: Conn) {
    let preamble = tokio::time::timeout(
        PREAMBLE_TIME,
        line::read_async::<Preamble>(&mut conn, line::MAX_PREAMBLE),
    )
    .await;
    let preamble = match preamble {
        Ok(Ok(Some(p))) => p,
        Ok(Ok(None)) => return,
        Ok(Err(e)) => {
            tracing::debug!("a connection with a bad first line: {e}");
            return refuse(
                &mut conn,
                "this is a bodkin engine; it did not understand the first line",
            )
            .await;
        }
        Err(_) => return,
    };
    match preamble {
        Preamble::Control { version, .. } if version != wire::PROTOCOL => {
            let text = format!(
                "the engine speaks version {} of bodkin's protocol, the client version {version}: use the same bodkin for both",
                wire::PROTOCOL
            );
            refuse(&mut conn, &text).await;
        }
        Preamble::Control {
            session, client, ..
        } => session::serve(shared, conn, session, *client).await,
        Preamble::Http { session } => match shared.sessions.get(&session) {
            Some(entry) => tokio::select! {
                () = entry.end.cancelled() => {}
                () = http::serve(conn, entry.ctx.clone()) => {}
            },
            None => http::gone(conn).await,
        },
        Preamble::Stream { session, stream } => {
            if let Some(entry) = shared.sessions.get(&session) {
                entry.link.deliver(stream, conn);
            }
        }
        Preamble::Accepted {
            session, stream, ..
        } => {
            if let Some(entry) = shared.sessions.get(&session) {
                entry.link.accepted(stream, conn);
            }
        }
        Preamble::Admin { request } => admin(shared, conn, request).await,
    }
}

async fn refuse(conn: &mut Conn, text: &str) {
    // The other side may be gone already.
    let _ = line::write_async(conn, &Welcome::Error(text.to_owned())).await;
    let _ = conn.shutdown().await;
}

async fn admin(shared: &Arc<Shared>, mut conn: Conn, request: AdminRequest) {
    let status = AdminStatus {
        pid: std::process::id(),
        version: wire::API_VERSION.to_owned(),
        sessions: shared.sessions.count(),
        uptime_secs: shared.started.elapsed().as_secs(),
        state_dir: shared.options.state_dir.display().to_string(),
        listening: shared
            .options
            .listen
            .iter()
            .map(ToString::to_string)
            .collect(),
    };
    let _ = line::write_async(&mut conn, &Status::Ok(status)).await;
    let _ = conn.flush().await;
    if request == AdminRequest::Stop {
        shared.stop.cancel();
        // What the asker waits for is the end of the process, which closes the connection: not the end of this task, which
        // comes before the store is closed.
        std::mem::forget(conn);
    }
}
