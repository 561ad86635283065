//! Dockerfiles: from text to a plan of what would be built. Pure: no files, no network, no clock.
//!
//! [`parse()`] reads the text into instructions. [`plan()`] decides, with what is known of the images it names, which stages
//! are needed and what each of their steps does, every variable replaced; what it does not know yet it asks for
//! ([`Answer::Needs`]). A [`Plan`] can be printed and compared; another crate carries it out.
//!
//! The language is the one of Docker's reference for Dockerfiles with the additions of its 1.x syntax: heredocs,
//! `RUN --mount`, `COPY --link`, `--parents` and `--exclude`.

#![forbid(unsafe_code)]

mod instruction;
mod mount;
mod parse;
mod pattern;
mod plan;
mod settings;
mod stage;
#[cfg(test)]
mod tests;
mod words;

pub use instruction::{Command, CopyArgs, Instruction, RunArgs};
pub use mount::{Mount, MountKind, Sharing};
pub use parse::{Heredoc, Line, Source, parse};
pub use plan::{Answer, ImageKey, Images, Options, Plan, plan};
pub use settings::Settings;
pub use stage::{Base, Copy, From, Network, Op, Run, Stage, Step};
pub use words::{ExpandError, expand, expand_words};

/// Longest Dockerfile that is read, in bytes.
pub const TEXT_MAX: usize = 16 << 20;
/// Most instructions of a Dockerfile.
pub const INSTRUCTIONS_MAX: usize = 10_000;

/// What is wrong with a Dockerfile, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(.file, *.line, .instruction))]
pub struct Error {
    /// Its name in the context.
    pub file: String,
    /// Line the instruction begins on, from 1; 0 when it is the file as a whole.
    pub line: usize,
    /// The instruction, shortened; may be empty.
    pub instruction: String,
    /// What is wrong and what to do.
    pub message: String,
}

fn place(file: &str, line: usize, instruction: &str) -> String {
    match (line, instruction) {
        (0, _) => format!("{file}: "),
        (line, "") => format!("{file}:{line}: "),
        (line, instruction) => format!("{file}:{line}: `{instruction}`: "),
    }
}

/// A text on one line, shortened for messages.
pub fn shown(text: &str) -> String {
    const CHARS: usize = 80;
    let mut short: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(CHARS)
        .collect();
    if text.chars().nth(CHARS).is_some() {
        short.push('…');
    }
    short
}
