//! Why a container could not be started.

use std::io;

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program named by `argv[0]` is not in the container.
    #[error("unknown program `{name}`: {looked_in}")]
    UnknownProgram {
        /// `argv[0]`.
        name: String,
        /// Where it was looked for, as a phrase.
        looked_in: String,
    },
    /// The program is there, but not to be executed.
    #[error("cannot execute `{name}`")]
    NotExecutable {
        /// `argv[0]`.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The user is not in the container's `/etc/passwd`, or is none.
    #[error("cannot run as user `{user}`: {reason}")]
    UnknownUser {
        /// As the image or the API named it.
        user: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The specification asks for something impossible.
    #[error("{0}")]
    Spec(String),
    /// A filesystem could not be made.
    #[error(transparent)]
    Mount(#[from] sys::mount::MountError),
    /// A step failed.
    #[error("cannot {step}")]
    Step {
        /// What was being done on what, e.g. ``mount on `/src` ``.
        step: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another program that was to do the work failed.
    #[error("{program}: {message}")]
    Delegate {
        /// The program.
        program: String,
        /// Its own words.
        message: String,
    },
}

impl StartError {
    /// The errno, where one is behind the failure.
    pub fn errno(&self) -> Option<i32> {
        match self {
            StartError::Step { source, .. } | StartError::NotExecutable { source, .. } => {
                source.raw_os_error()
            }
            StartError::Mount(e) => e.source.raw_os_error(),
            StartError::UnknownProgram { .. }
            | StartError::UnknownUser { .. }
            | StartError::Spec(_)
            | StartError::Delegate { .. } => None,
        }
    }
}

/// Names the step of a failed call.
pub(crate) trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, StartError> {
        self.map_err(|e| StartError::Step {
            step: what(),
            source: e.into(),
        })
    }
}

/// Bytes from outside, for a message. Whole: what is cut could no longer be recognised as a secret by those who mask them.
pub(crate) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
