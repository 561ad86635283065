//! How errors are told.

use std::error::Error;

/// An error with its causes, as one sentence.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let next = e.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = e.source();
    }
    text
}

/// What a command failed with: what to say, and the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people; `Error: ` is put before it.
    pub message: String,
    /// The exit status.
    pub exit: u8,
}

impl Failure {
    /// An ordinary failure: exit status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit: 1,
        }
    }

    /// The user ended it: exit status 2.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit: 2,
        }
    }

    /// From an error with its causes.
    pub fn from_error(error: &dyn Error) -> Self {
        Self::new(chain(error))
    }
}
