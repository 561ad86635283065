//! The lines of a control connection.

use serde::{Deserialize, Serialize};

use crate::{link::LinkRequest, progress::ProgressEvent};

/// From the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ToClient {
    /// Do this and answer on a new connection with
    /// [`Preamble::Stream`](crate::Preamble::Stream) and this number.
    Open {
        /// Unique in the session.
        stream: u64,
        /// What to do.
        request: LinkRequest,
    },
    /// Something to show.
    Progress {
        /// What.
        event: ProgressEvent,
    },
    /// The session is over; nothing follows.
    Bye,
    /// From a newer engine; ignored.
    #[serde(other)]
    Unknown,
}

/// From the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ToEngine {
    /// Orderly end: answered by [`ToClient::Bye`] when the session's things are gone.
    Close,
    /// From a newer client; ignored.
    #[serde(other)]
    Unknown,
}
