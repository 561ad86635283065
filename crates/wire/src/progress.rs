//! What a session's user sees of the work.

use serde::{Deserialize, Serialize};

/// One thing to show. Events may be dropped when the client does not keep up, so an end can come without a start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ProgressEvent {
    /// A step begins.
    StepStarted {
        /// Its number in the session.
        id: u64,
        /// The step or call it happens in; 0 is none.
        parent: u64,
        /// What it does, such as `withExec go test`.
        name: String,
    },
    /// A step was answered from the cache; nothing else is said of it.
    StepCached {
        /// Its number in the session.
        id: u64,
        /// The step or call it happened in; 0 is none.
        parent: u64,
        /// What it would have done.
        name: String,
    },
    /// A step wrote something.
    StepOutput {
        /// Which step.
        id: u64,
        /// To standard error rather than standard output.
        stderr: bool,
        /// What; not necessarily whole lines.
        text: String,
    },
    /// A step is over.
    StepEnded {
        /// Which step.
        id: u64,
        /// How long it took.
        millis: u64,
        /// It was given up.
        #[serde(default)]
        cancelled: bool,
        /// How it failed.
        #[serde(default)]
        error: Option<String>,
    },
    /// One sentence for the user.
    Note {
        /// The sentence.
        text: String,
    },
    /// From a newer engine; ignored.
    #[serde(other)]
    Unknown,
}
