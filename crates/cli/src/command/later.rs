//! Commands that a later version brings: they say so.

use std::path::Path;

use crate::{Outcome, args::Command, error::Failure};

/// Says why nothing happens.
///
/// # Errors
/// Always.
pub fn run(command: &Command) -> Result<Outcome, Failure> {
    let (name, needs_module) = match command {
        Command::Call(_) => ("call", true),
        Command::Functions(_) => ("functions", true),
        Command::Config(_) => ("config", true),
        Command::Develop(_) => ("develop", true),
        Command::Install(_) => ("install", true),
        Command::Core(_) => ("core", false),
        Command::Init(_) => ("init", false),
        Command::Listen(_) => ("listen", false),
        Command::Login(_) => ("login", false),
        Command::Logout(_) => ("logout", false),
        Command::Shell(_) => ("shell", false),
        Command::Query(_)
        | Command::Run(_)
        | Command::Session(_)
        | Command::Engine(_)
        | Command::Version(_) => ("command", false),
    };
    if needs_module && !std::env::current_dir().is_ok_and(|dir| in_module(&dir)) {
        return Err(Failure::new(
            "no dagger.json found in this directory or above it",
        ));
    }
    Err(Failure::new(format!(
        "`{name}` is not available in this version of bodkin"
    )))
}

fn in_module(dir: &Path) -> bool {
    dir.ancestors().any(|d| d.join("dagger.json").is_file())
}
