//! Where the engine listens.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::{TcpListener, UnixListener};
use wire::paths::Address;

use crate::{RunError, Shared, conn, passing::Passing};

/// An open socket.
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Opens all sockets.
pub(crate) async fn bind_all(addresses: &[Address]) -> Result<Vec<Listener>, RunError> {
    let mut out = Vec::new();
    for address in addresses {
        let failed = |source| RunError::Listen {
            address: address.to_string(),
            source,
        };
        out.push(match address {
            Address::Unix(path) => Listener::Unix(bind_unix(path).map_err(failed)?),
            Address::Tcp(addr) => Listener::Tcp(TcpListener::bind(addr).await.map_err(failed)?),
        });
    }
    Ok(out)
}

/// Binds beside and renames over: the socket is never there without a listener, and only its owner may connect.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Removes the sockets' files.
pub(crate) fn remove_sockets(addresses: &[Address]) {
    for address in addresses {
        if let Address::Unix(path) = address {
            // Already gone is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    pub(crate) async fn accept_loop(self, shared: Arc<Shared>) {
        loop {
            let accepted = tokio::select! {
                () = shared.stop.cancelled() => return,
                a = self.accept() => a,
            };
            match accepted {
                Ok(stream) => conn::spawn(shared.clone(), stream),
                Err(e) => {
                    // Out of descriptors, most likely: let others finish before the next try.
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<conn::Stream> {
        Ok(match self {
            Self::Unix(l) => Box::new(Passing::new(l.accept().await?.0)),
            Self::Tcp(l) => {
                let (stream, _) = l.accept().await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    }
}
