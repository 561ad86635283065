//! `version`.

use super::done;
use crate::{Outcome, args, error::Failure, output, session::VERSION};

/// This executable's own version.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// Runs the command. There is no service to ask for a newer one, so `--check` says the same.
///
/// # Errors
/// A broken standard output.
pub fn run(_version: &args::Version) -> Result<Outcome, Failure> {
    let text = format!(
        "dagger {VERSION} (bodkin v{OWN}) {}/{}\n",
        std::env::consts::OS,
        arch(std::env::consts::ARCH)
    );
    output::stdout(text.as_bytes())
        .map_err(|e| Failure::new(format!("cannot write to standard output: {e}")))?;
    Ok(done())
}

/// As platforms are named in images.
fn arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
