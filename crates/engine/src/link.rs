//! The client's machine, as the engine reaches it: one of two ports to another machine.

use std::{future::Future, pin::Pin};

use tokio::io::{AsyncBufRead, AsyncWrite};
use wire::{LinkError, LinkRequest};

/// Bytes to and from a client.
pub trait Io: AsyncBufRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncBufRead + AsyncWrite + Send + Unpin> Io for T {}

/// A boxed future of a link.
pub type LinkFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asks things of a client's machine. The answer begins with a [`wire::Status`] line.
pub trait ClientLink: Send + Sync {
    /// Opens a stream for a request.
    ///
    /// # Errors
    /// The client is gone or does not answer.
    fn open(&self, request: LinkRequest) -> LinkFuture<'_, Result<Box<dyn Io>, LinkError>>;
}
