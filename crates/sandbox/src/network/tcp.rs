//! Copying between the two halves of a container's TCP connection to the outside.
//!
//! Plain copies: `splice` through a pipe was measured and gains nothing here, while it costs two more descriptors each way
//! and counts against the kernel's limit on pipe memory.

use std::io;

use tokio::net::TcpStream;

use super::outside;

/// Bytes moved at once. Held only while bytes are moving, so an idle connection costs nothing but its descriptors.
const CHUNK: usize = 64 * 1024;

/// Copies both ways until both ended. A connection that broke is reset on both sides.
pub(super) async fn relay(inside: &TcpStream, outside: &TcpStream) {
    let work = async {
        outside::prepare(inside)?;
        tokio::try_join!(pump(inside, outside), pump(outside, inside))
    };
    if let Err(error) = work.await {
        tracing::trace!(%error, "connection broke");
        reset(inside);
        reset(outside);
    }
}

/// Makes the close that follows a reset, so that the peer cannot take it for an orderly end.
pub(super) fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

/// Copies until `from` ends, and passes the end on.
async fn pump(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut buffer = Vec::with_capacity(CHUNK);
        loop {
            buffer.clear();
            match from.try_read_buf(&mut buffer) {
                Ok(0) => {
                    return rustix::net::shutdown(to, rustix::net::Shutdown::Write)
                        .map_err(Into::into);
                }
                Ok(_) => write(to, &buffer).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
