//! Which paths a set of patterns includes: the rules of `.dockerignore`, as Docker and BuildKit apply them. Pure.
//!
//! A pattern is Go's `filepath.Match` (`*`, `?`, `[a-z]`, `\x`) plus `**`, which crosses directories. It is matched against
//! the whole path relative to the root, so `*.md` means top-level files only and a leading `/` never matches. Among many
//! patterns the last match wins; `!` takes back what earlier ones matched, even below a matched directory. A pattern that
//! matches a directory matches all that is in it. There are no braces; `[^a]` negates a class and `[!a]` does not.
//!
//! Three front doors:
//! - [`Filter`]: include and exclude lists, with what a walk needs to skip directories (`host.directory`, `withDirectory`).
//! - [`Glob`]: one pattern that lists exactly the paths it matches (`Directory.glob`).
//! - [`go_match`]: plain `filepath.Match`, where `**` is just `*` (`withoutFile("*.txt")`).
//!
//! Where moby's translation to regular expressions leaks (`\d` as a digit, `[*]`, `^` inside a pattern, newlines below
//! `**`), this crate does what the pattern says instead.

#![forbid(unsafe_code)]

mod filter;
mod git_ignore;
mod glob;
mod go;
mod ignore_file;
mod matcher;
mod pattern;

pub use filter::{Decision, DirState, Filter, Step};
pub use git_ignore::{GIT_IGNORE, GitIgnore, literal};
pub use glob::Glob;
pub use go::{clean, go_match, has_wildcards};
pub use ignore_file::parse_ignore_file;
pub use matcher::{Matched, Matcher};

/// A pattern that means nothing. The texts are those users of Go tools know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// An unclosed or empty class, or a trailing backslash.
    #[error("syntax error in pattern `{pattern}`")]
    Syntax {
        /// The pattern as it was given.
        pattern: String,
    },
    /// A lone `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclamation,
    /// More or longer patterns than anyone writes.
    #[error("{what} is more than the {limit} allowed")]
    TooMuch {
        /// What was too much, e.g. `a pattern of 70000 bytes`.
        what: String,
        /// The limit that applied.
        limit: usize,
    },
}
