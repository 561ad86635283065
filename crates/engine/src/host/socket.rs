//! Unix sockets of the client's machine, and their stand-ins in containers.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use graph::{
    call::{Call, Digest, Literal},
    error::Error,
    value::Object,
};
use tokio::{net::UnixListener, task::AbortHandle};
use wire::{
    LinkRequest,
    link::{Network, read_status},
};

use crate::{Ctx, session::Client};

/// Connections of one proxy at once.
const CONNECTIONS_MAX: usize = 256;

/// A socket: of which client, and where.
#[derive(Clone)]
pub struct Socket {
    /// The digest of its recipe.
    pub id: Digest,
    /// Absolute path on the client's machine.
    pub path: Arc<str>,
    /// Whose machine.
    pub client: Arc<Client>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({} of client {})", self.path, self.client.key)
    }
}

/// The recipe of a socket.
fn recipe(path: &str) -> Arc<Call> {
    let host = Call::new(None, "host", vec![], "Host");
    Call::new(
        Some(host),
        "unixSocket",
        vec![("path".into(), Literal::String(path.into()))],
        "Socket",
    )
}

impl Socket {
    /// A socket of this client's machine.
    pub(crate) fn of_client(path: &str, client: Arc<Client>) -> Self {
        Self {
            id: recipe(path).digest(),
            path: path.into(),
            client,
        }
    }
}

/// The object of a socket of the calling client.
pub(super) fn object(ctx: &Ctx, path: &str) -> Object {
    Object::new(
        "Socket",
        recipe(path),
        Socket::of_client(path, ctx.client.clone()),
    )
}

/// A listening socket whose connections end at the client's. Dropping it closes all of them.
#[derive(Debug)]
pub struct SocketProxy {
    path: PathBuf,
    accepting: AbortHandle,
}

impl SocketProxy {
    /// Listens in the engine's scratch directory.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn listen(ctx: &Ctx, socket: &Socket, owner: (u32, u32)) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let path = ctx
            .engine
            .run_dir
            .join(format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let failed = |e: std::io::Error| {
            Error::environment(format!(
                "cannot make a stand-in for the socket `{}`: {e}",
                socket.path
            ))
        };
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)).map_err(failed)?;
        let socket = socket.clone();
        let accepting = tokio::spawn(async move {
            let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
            // Owned here: aborting this task closes the connections too.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok(slot) = slots.clone().acquire_owned().await {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let socket = socket.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    forward(&socket, stream).await;
                });
                while connections.try_join_next().is_some() {}
            }
        })
        .abort_handle();
        Ok(Self { path, accepting })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // The scratch directory is emptied at the next start as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Copies both ways; each side's end reaches the other.
async fn forward(socket: &Socket, stream: tokio::net::UnixStream) {
    let request = LinkRequest::Dial {
        network: Network::Unix,
        addr: socket.path.to_string(),
        pass: false,
    };
    let Ok(mut remote) = socket.client.link.open(request).await else {
        return;
    };
    if read_status::<()>(&mut remote).await.is_err() {
        return;
    }
    wire::carry::streams(stream, remote, wire::carry::Room::USUAL).await;
}
