//! Part `conformance`: Dagger's recorded answers, replayed against our command line and engine.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::expected::{Expected, Reader};
use super::suite::{Outcome, Suite};
use crate::{files, workspace};

/// For all cases together.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// For one request.
const REQUEST_LIMIT: &str = "60";

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    let dir = workspace::root().join("tests/conformance");
    let expected = Expected::parse(&files::read_text(&dir.join("expected.toml"))?)?;
    let document = files::read_text(&workspace::root().join("docs/deviations.md"))?;
    let shell = suite.shell()?;
    let mut command = suite.command("python3")?;
    command
        .arg(dir.join("run.py"))
        .arg("--cli")
        .arg(&shell.dagger);
    command.args(["-j", "2", "--timeout", REQUEST_LIMIT, "--registry"]);
    command.arg(suite.registry().address());
    for area in &expected.areas {
        command.args(["--area", area]);
    }
    if let Some(filter) = suite.filter() {
        command.args(["--only", filter]);
    }
    let log = suite.log("conformance");
    let mut file =
        File::create(&log).with_context(|| format!("cannot create `{}`", log.display()))?;
    command.stderr(file.try_clone()?);
    let mut reader = Reader::default();
    let mut written = Ok(());
    crate::process::lines(&mut command, LIMIT, |line| {
        reader.line(line);
        let result = writeln!(file, "{line}");
        if written.is_ok() {
            written = result;
        }
    })?;
    written.with_context(|| format!("cannot write `{}`", log.display()))?;
    if reader.cases.is_empty() {
        bail!("no case was run; see `{}`", log.display());
    }
    let mut verdict = expected.judge(&reader.cases, suite.filter().is_none());
    verdict.wrong.extend(expected.untold(&document));
    for wrong in &verdict.wrong {
        println!("  {wrong}");
    }
    Ok(Outcome {
        passed: verdict.passed,
        failed: verdict.wrong.len(),
        note: format!(
            "{} fail as listed; log: {}",
            verdict.excused,
            suite.shown(&log)
        ),
    })
}
