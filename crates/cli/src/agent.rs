//! The engine's agent in a container: answers for the container's files and sockets what a client answers for its machine.
//!
//! The engine starts this executable in the container's mount and network namespace, with the identity and the rights of the
//! process whose requests it serves, and with one descriptor: a [`Broker`]. It must never execute a program: whatever it
//! finds is the container's, and it is not among the container's processes.

use std::{os::fd::OwnedFd, sync::Arc};

use tokio::runtime;
use wire::ClientInfo;

use crate::{broker::Broker, connect::Door, session::Session};

/// Threads for file work.
const FILE_THREADS: usize = 8;

/// Serves until the engine closes the connection; the status to exit with.
pub fn run(channel: OwnedFd) -> u8 {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .build();
    let Ok(runtime) = runtime else { return 1 };
    let served = runtime.block_on(async {
        let door = Door::Broker(Arc::new(Broker::new(channel)?));
        let conn = door.connect().await?;
        let session = Session::open(door, conn, ClientInfo::default(), Box::new(|_| {}))
            .await
            .map_err(std::io::Error::other)?;
        session.ended().await;
        Ok::<_, std::io::Error>(())
    });
    // File work whose connection is gone is nobody's.
    runtime.shutdown_background();
    served.is_err().into()
}
