//! What a client and the engine say to each other.
//!
//! Every connection begins with one JSON line, the [`Preamble`]. A *control* connection then carries JSON lines both ways
//! ([`ToClient`], [`ToEngine`]) and is the session's life line; an *http* connection is raw HTTP; a *stream* connection answers
//! one [`LinkRequest`], with a [`Status`] line first and bytes, or [frames](frame), after it.
//!
//! Nothing here touches the machine: readers take any `BufRead` or `AsyncBufRead`, sizes are bounded, and what comes from the
//! other side is checked before it is used.

#![forbid(unsafe_code)]

pub mod carry;
pub mod control;
pub mod datagrams;
pub mod frame;
pub mod hello;
pub mod line;
pub mod link;
pub mod listing;
pub mod pass;
pub mod paths;
pub mod piece;
pub mod progress;

pub use control::{ToClient, ToEngine};
pub use hello::{AdminRequest, AdminStatus, ClientInfo, Preamble, Welcome};
pub use link::{LinkError, LinkErrorKind, LinkRequest, RawPath, Status};
pub use progress::ProgressEvent;

/// The version of this protocol; a control connection with another one is refused.
pub const PROTOCOL: u32 = 1;

/// The API version the engine speaks by itself, and what it calls its own version.
pub const API_VERSION: &str = "v0.14.0";
