//! A way into a service for libraries that connect by themselves: a unix socket.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tokio::{
    net::{TcpStream, UnixListener},
    task::AbortHandle,
};

use super::Door;

/// A socket of this machine, for the engine alone, that leads into a service. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Passage {
    path: PathBuf,
    accepting: AbortHandle,
}

impl Passage {
    /// Opens it in the engine's folder for sockets. `first` is a connection that is made already.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub(crate) fn open(
        run_dir: &Path,
        door: Door,
        port: u16,
        first: TcpStream,
    ) -> std::io::Result<Self> {
        let path = run_dir.join(format!("to-{}", uuid::Uuid::new_v4().simple()));
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let accepting = tokio::spawn(async move {
            let mut first = Some(first);
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = match first.take() {
                    Some(first) => Ok(first),
                    None => door.connect(port).await,
                };
                // Dropping the near end tells of the failure.
                if let Ok(far) = far {
                    connections.spawn(super::carry::streams(near, far));
                }
                while connections.try_join_next().is_some() {}
            }
        })
        .abort_handle();
        Ok(Self { path, accepting })
    }

    /// The socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.accepting.abort();
        // The scratch directory is emptied at the next start as well.
        let _ = std::fs::remove_file(&self.path);
    }
}
