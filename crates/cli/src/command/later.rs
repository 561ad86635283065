//! Commands that a later version brings: they say so.

use crate::{Outcome, args::Command, error::Failure, module};

/// Says why nothing happens.
///
/// # Errors
/// Always.
pub fn run(command: &Command) -> Result<Outcome, Failure> {
    let (name, needs_module) = match command {
        Command::Call(_) => ("call", true),
        Command::Functions(_) => ("functions", true),
        Command::Develop(_) => ("develop", true),
        Command::Login(_) => ("login", false),
        Command::Logout(_) => ("logout", false),
        Command::Shell(_) => ("shell", false),
        Command::Query(_)
        | Command::Run(_)
        | Command::Session(_)
        | Command::Engine(_)
        | Command::Version(_)
        | Command::Core(_)
        | Command::Config(_)
        | Command::Init(_)
        | Command::Install(_)
        | Command::Listen(_) => ("command", false),
    };
    if needs_module {
        let dir = std::env::current_dir()
            .map_err(|e| Failure::new(format!("cannot tell the working directory: {e}")))?;
        module::find(&dir)?;
    }
    Err(Failure::new(format!(
        "`{name}` is not available in this version of bodkin"
    )))
}
