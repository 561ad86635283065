//! `config`: a module's configuration.

use super::{Setup, done};
use crate::{Outcome, args, error::Failure, module, output};

/// Runs the command.
///
/// # Errors
/// No module.
pub fn run(setup: &Setup, config: &args::Config) -> Result<Outcome, Failure> {
    let module = module::wanted(config.r#mod.as_deref(), &setup.workdir)?;
    let text = if config.json {
        module.text.clone()
    } else {
        let source = module::tidy(&module.dir.join(module.source()));
        let rows = [
            ("Name:", module.name().to_owned()),
            ("SDK:", module.sdk().unwrap_or_default().to_owned()),
            (
                "Root Directory:",
                module::context(&module.dir).display().to_string(),
            ),
            ("Source Directory:", source.display().to_string()),
        ];
        rows.iter()
            .map(|(name, value)| format!("{name:<20}{value}").trim_end().to_owned() + "\n")
            .collect()
    };
    output::stdout(text.as_bytes())
        .map_err(|e| Failure::new(format!("cannot write to standard output: {e}")))?;
    Ok(done())
}
