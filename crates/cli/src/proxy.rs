//! The session's port: every connection to it is carried, byte for byte, to the engine.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use wire::{Preamble, line};

use crate::{
    connect::{Conn, Door},
    nested::Nested,
};

/// Most connections at once; more wait to be accepted.
const CONNECTIONS: usize = 1024;

/// What a client's connection leads to.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// A session of the engine.
    Session {
        /// The engine.
        door: Door,
        /// The session.
        id: Arc<str>,
    },
    /// A session that is there already.
    Nested(Nested),
}

impl Upstream {
    /// A connection that speaks HTTP.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn connect(&self) -> io::Result<Conn> {
        match self {
            Self::Session { door, id } => {
                let mut conn = door.connect().await?;
                let preamble = line::encode(&Preamble::Http {
                    session: id.to_string(),
                })
                .map_err(io::Error::other)?;
                conn.write_all(&preamble).await?;
                Ok(conn)
            }
            Self::Nested(nested) => Ok(Conn::Tcp(nested.connect().await?)),
        }
    }
}

/// A listener on a free port of the loopback.
///
/// # Errors
/// No loopback, no ports.
pub async fn bind() -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Carries connections until dropped.
pub async fn serve(listener: TcpListener, upstream: Upstream) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, most likely: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let upstream = upstream.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // The client sees its connection end; there is nobody else to tell.
            let _ = carry(client, &upstream).await;
        });
    }
}

async fn carry(mut client: TcpStream, upstream: &Upstream) -> io::Result<()> {
    client.set_nodelay(true)?;
    match upstream.connect().await {
        Ok(mut engine) => copy_bidirectional(&mut client, &mut engine)
            .await
            .map(|_| ()),
        Err(e) => {
            let body = format!(
                "{{\"errors\":[{{\"message\":\"cannot reach the engine: {}\"}}]}}",
                e.kind()
            );
            let head = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length";
            client
                .write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes())
                .await?;
            client.shutdown().await
        }
    }
}
