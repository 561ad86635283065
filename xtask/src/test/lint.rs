//! Part `lint`: formatting, clippy, shell scripts.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::suite::{Outcome, Suite};
use crate::{files, process, workspace};

const LIMIT: Duration = Duration::from_secs(15 * 60);

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut fmt = suite.cargo();
    // The names of the files are enough: `cargo fmt --all` does the rest.
    fmt.args(["fmt", "--all", "--check", "--", "-l"]);
    outcome.count("format", check(fmt));
    let mut clippy = suite.cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--quiet"]);
    clippy.args(["--", "--deny", "warnings"]);
    outcome.count("clippy", check(clippy));
    let mut shell = suite.plain(Command::new("shellcheck"));
    let root = workspace::root();
    shell.arg("demo").arg(".ci/run");
    let scripts = files::list(&root.join("images/files"))?;
    shell.args(
        scripts
            .iter()
            .filter(|p| p.extension().is_some_and(|e| e == "sh")),
    );
    outcome.count("shell scripts", check(shell));
    Ok(outcome)
}

/// Shows the program's output; its exit decides.
fn check(mut command: Command) -> Result<()> {
    let status = process::lines(&mut command, LIMIT, |line| println!("  {line}"))?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
