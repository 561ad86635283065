//! Part `unit`: `cargo test` of the whole workspace.

use std::time::Duration;

use anyhow::{Result, bail};

use super::suite::{Outcome, Suite};
use crate::process;

const LIMIT: Duration = Duration::from_secs(20 * 60);

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    suite.build()?;
    let mut command = suite.cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--quiet"]);
    command.args(suite.filter());
    let mut outcome = Outcome::default();
    let status = process::lines(&mut command, LIMIT, |line| {
        match counts(line) {
            Some((passed, failed)) => {
                outcome.passed += passed;
                outcome.failed += failed;
            }
            // Progress and headings, of which there is one per program.
            None if line.is_empty() || line.starts_with("running ") || dots(line) => return,
            None => {}
        }
        println!("  {line}");
    })?;
    if !status.success() && outcome.failed == 0 {
        bail!("`cargo test` ended with {status}");
    }
    Ok(outcome)
}

/// The numbers of a program's closing line: passed, failed.
fn counts(line: &str) -> Option<(usize, usize)> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |what: &str| {
        let part = numbers.split(';').find(|p| p.trim_end().ends_with(what))?;
        part.trim().split(' ').next()?.parse().ok()
    };
    Some((number("passed")?, number("failed")?))
}

/// libtest's progress in quiet mode.
fn dots(line: &str) -> bool {
    let bar = line.split_once(' ').map_or(line, |(bar, _)| bar);
    bar.chars().all(|c| ".iF".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted_and_progress_is_not_shown() {
        let line = "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(counts(line), Some((12, 1)));
        assert_eq!(counts("test result: pending"), None);
        assert!(dots("......F") && dots("....... 87/120") && !dots("thread panicked"));
    }
}
