//! Sessions: opened by a control connection, gone with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::{
    Ctx,
    progress::Progress,
    session::{Client, Session},
};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use wire::{ClientInfo, ToClient, ToEngine, Welcome, line};

use crate::{Shared, conn::Conn, link::Link};

/// Lines waiting for a slow client at most.
const LINES: usize = 256;

/// One open session.
pub(crate) struct Entry {
    pub(crate) ctx: Ctx,
    pub(crate) link: Arc<Link>,
    /// Ends everything the session does.
    pub(crate) end: CancellationToken,
    gone: CancellationToken,
}

/// All open sessions.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<Entry>>>);

impl Sessions {
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// Adds a session; false when its name is taken.
    fn add(&self, id: &str, entry: &Arc<Entry>) -> bool {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = !sessions.contains_key(id);
        if free {
            sessions.insert(id.to_owned(), entry.clone());
        }
        free
    }

    fn remove(&self, id: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends all sessions and waits for them.
    pub(crate) async fn end_all(&self, limit: Duration) {
        let all: Vec<_> = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        for entry in &all {
            entry.end.cancel();
        }
        let gone = futures::future::join_all(all.iter().map(|e| e.gone.cancelled()));
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!("some sessions did not end in time");
        }
    }
}

/// Serves a control connection: the session lives as long as it.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    mut conn: Conn,
    wished: Option<String>,
    client: ClientInfo,
) {
    let id = wished.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let wants_progress = client.progress;
    let (progress, mut events) = Progress::new();
    let (lines, mut outgoing) = mpsc::channel(LINES);
    let link = Arc::new(Link::new(lines.clone()));
    let session = Session::new(
        id.clone(),
        graph::solve::Solver::new(shared.engine.schema.clone()),
        progress,
    );
    let entry = Arc::new(Entry {
        ctx: Ctx {
            engine: shared.engine.clone(),
            session: Arc::new(session),
            client: Arc::new(Client::new(client, link.clone())),
            span: 0,
        },
        link,
        end: shared.stop.child_token(),
        gone: CancellationToken::new(),
    });
    if !shared.sessions.add(&id, &entry) {
        let text = format!("a session named `{id}` is open already");
        // Whoever asked may be gone.
        let _ = line::write_async(&mut conn, &Welcome::Error(text)).await;
        let _ = conn.flush().await;
        return;
    }
    let welcome = Welcome::Ok {
        session: id.clone(),
        engine_version: wire::API_VERSION.to_owned(),
    };
    let welcomed =
        line::write_async(&mut conn, &welcome).await.is_ok() && conn.flush().await.is_ok();
    let mut closing = false;
    if welcomed {
        let (read, mut write) = tokio::io::split(conn);
        // Reading a line must not be interrupted half-way: it has a task of its own.
        let mut reading = tokio::spawn(read_until_close(BufReader::new(read)));
        loop {
            tokio::select! {
                () = entry.end.cancelled() => break,
                orderly = &mut reading => {
                    closing = orderly.unwrap_or(false);
                    break;
                }
                Some(message) = outgoing.recv() => {
                    if line::write_async(&mut write, &message).await.is_err() || write.flush().await.is_err() {
                        break;
                    }
                }
                Some(event) = events.recv(), if wants_progress => {
                    if line::write_async(&mut write, &ToClient::Progress { event }).await.is_err() || write.flush().await.is_err() {
                        break;
                    }
                }
            }
        }
        reading.abort();
        entry.end.cancel();
        shared.sessions.remove(&id);
        entry.ctx.session.close(&shared.engine).await;
        shared.engine.session_closed();
        if closing {
            while let (true, Ok(event)) = (wants_progress, events.try_recv()) {
                let _ = line::write_async(&mut write, &ToClient::Progress { event }).await;
            }
            let _ = line::write_async(&mut write, &ToClient::Bye).await;
            let _ = write.shutdown().await;
        }
    } else {
        entry.end.cancel();
        shared.sessions.remove(&id);
    }
    entry.gone.cancel();
    drop(entry);
    if shared.sessions.count() == 0 {
        tokio::task::spawn_blocking(sys::process::release_memory);
    }
}

/// Reads until the client says it closes (true) or is gone (false).
async fn read_until_close(mut read: impl tokio::io::AsyncBufRead + Unpin) -> bool {
    loop {
        match line::read_async::<ToEngine>(&mut read, line::MAX_LINE).await {
            Ok(Some(ToEngine::Close)) => return true,
            Ok(Some(ToEngine::Unknown)) => {}
            Ok(None) | Err(_) => return false,
        }
    }
}
