//! Part `unit`: `cargo test` of the whole workspace.

use std::time::Duration;

use anyhow::{Result, bail};

use super::suite::{Outcome, Suite};
use crate::process;

const LIMIT: Duration = Duration::from_secs(20 * 60);

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    suite.build()?;
    let mut command = suite.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    command.args(suite.filter());
    let mut outcome = Outcome::default();
    let status = process::lines(&mut command, LIMIT, |line| {
        if let Some((passed, failed)) = counts(line) {
            outcome.passed += passed;
            outcome.failed += failed;
        }
        if tells(line) {
            println!("  {line}");
        }
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

/// Whether a person wants to see the line: not that a test passed, nor that a program has none.
fn tells(line: &str) -> bool {
    let passed = line.starts_with("test ")
        && [" ... ok", " ... ignored"]
            .iter()
            .any(|end| line.ends_with(end));
    let heading = line.is_empty() || line.starts_with("running ");
    !passed && !heading && counts(line) != Some((0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted_and_what_passed_is_not_shown() {
        let line = "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(counts(line), Some((12, 1)));
        assert_eq!(counts("test result: pending"), None);
        assert!(tells("test a::b ... FAILED") && tells(line) && tells("thread 'a' panicked"));
        assert!(!tells("test a::b ... ok") && !tells("running 3 tests") && !tells(""));
        assert!(!tells("test result: ok. 0 passed; 0 failed; 0 ignored"));
    }
}
