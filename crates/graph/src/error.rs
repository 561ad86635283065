//! What went wrong, whose fault it is, and what a client is told about it.

use std::sync::Arc;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The query, its arguments, or the user's program.
    User,
    /// Disk, network, registry, a missing kernel feature.
    Environment,
    /// A bug of ours.
    Internal,
    /// The caller went away.
    Cancelled,
}

/// An error at a resolver's edge. Cheap to clone: all waiters of one computation share it.
#[derive(Debug, Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    class: Class,
    message: String,
    extensions: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Error {
    /// An error of the given class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            class,
            message: message.into(),
            extensions: None,
        }))
    }

    /// The query's or the user's program's fault.
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(Class::User, message)
    }

    /// The fault of disk, network or machine.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Class::Environment, message)
    }

    /// A bug of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Class::Internal, message)
    }

    /// Joins an error's whole chain of sources into one sentence.
    pub fn from_chain(class: Class, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(class, chain(error))
    }

    /// The same error with GraphQL `extensions`.
    #[must_use]
    pub fn with_extensions(&self, extensions: serde_json::Map<String, serde_json::Value>) -> Self {
        Self(Arc::new(Inner {
            class: self.0.class,
            message: self.0.message.clone(),
            extensions: Some(extensions),
        }))
    }

    /// The same error in other words. Keeps class and extensions.
    #[must_use]
    pub fn with_message(&self, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            class: self.0.class,
            message: message.into(),
            extensions: self.0.extensions.clone(),
        }))
    }

    /// The same error with its message put behind `prefix: `. Keeps class and extensions.
    #[must_use]
    pub fn context(&self, prefix: impl std::fmt::Display) -> Self {
        Self(Arc::new(Inner {
            class: self.0.class,
            message: format!("{prefix}: {}", self.0.message),
            extensions: self.0.extensions.clone(),
        }))
    }

    /// Whose fault.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// What a client is told.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// GraphQL `extensions`, for failed execs.
    pub fn extensions(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        self.0.extensions.as_ref()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

/// Joins an error and all its sources by `: `. A `Display` of ours never contains its source.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        out.push_str(": ");
        out.push_str(&e.to_string());
        next = e.source();
    }
    out
}
