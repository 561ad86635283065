//! Part `clients`: the programs of `tests/clients` with every published client, and package managers inside containers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::install::{self, Installed};
use super::packages;
use super::suite::{Job, Outcome, Suite, in_pairs};
use crate::{files, process, workspace};

/// For one program.
const LIMIT: Duration = Duration::from_secs(180);

/// A published client in one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) language: Language,
    pub(super) version: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    /// `dagger-io`; `extra` is what its version needs beside it.
    Python { extra: Option<&'static str> },
    /// `@dagger.io/dagger`.
    Node,
    /// `dagger.io/dagger`; `tags` are the program's build tags.
    Go { tags: &'static str },
    /// `dagger-sdk`; `project` is its folder below `tests/clients/rust`.
    Rust { project: &'static str },
}

/// What is tested: the first clients that people still use, those of the recorded answers' time, the newest.
pub(super) const CLIENTS: [Client; 12] = {
    use Language::*;
    // gql 4 came after these clients and renamed what they use.
    let old = Python {
        extra: Some("gql<4"),
    };
    [
        client(old, "0.9.0"),
        client(old, "0.14.0"),
        client(Python { extra: None }, "0.21.7"),
        client(Node, "0.9.3"),
        client(Node, "0.14.0"),
        client(Node, "0.21.7"),
        client(Go { tags: "old" }, "0.9.0"),
        client(Go { tags: "" }, "0.14.0"),
        client(Go { tags: "" }, "0.21.7"),
        client(Rust { project: "v0_9" }, "0.9.8"),
        client(Rust { project: "v0_15" }, "0.15.4"),
        client(Rust { project: "v0_21" }, "0.21.7"),
    ]
};

const fn client(language: Language, version: &'static str) -> Client {
    Client { language, version }
}

impl Client {
    /// `LANGUAGE-VERSION`: in output and as a folder's name.
    pub(super) fn name(&self) -> String {
        let language = match self.language {
            Language::Python { .. } => "python",
            Language::Node => "node",
            Language::Go { .. } => "go",
            Language::Rust { .. } => "rust",
        };
        format!("{language}-{}", self.version)
    }
}

/// The folder of the programs.
pub(super) fn programs() -> PathBuf {
    workspace::root().join("tests/clients")
}

pub(super) fn run(suite: &Suite, installed: &[Installed]) -> Result<Outcome> {
    let expected = files::read_text(&programs().join("expected.txt"))?;
    let newer_expected = files::read_text(&programs().join("expected_newer.txt"))?;
    let (expected, newer_expected) = (&expected, &newer_expected);
    let wanted = |name: &str| suite.filter().is_none_or(|f| name.contains(f));
    suite.shell()?;
    let newer: Vec<Installed> = installed.iter().filter_map(newer).collect();
    let mut jobs = Vec::new();
    for each in installed.iter().filter(|i| wanted(&i.name)) {
        jobs.push(Job::new(&each.name, move || {
            pipeline(suite, each, expected)
        }));
    }
    for each in newer.iter().filter(|i| wanted(&i.name)) {
        jobs.push(Job::new(&each.name, move || {
            pipeline(suite, each, newer_expected)
        }));
    }
    for check in packages::CHECKS.iter().filter(|c| wanted(c.name)) {
        let work = move || timed(|| packages::run(suite, check));
        jobs.push(Job::new(check.name, work));
    }
    ensure!(!jobs.is_empty(), "no client has that name");
    let mut outcome = Outcome::default();
    in_pairs(jobs, |name, result| match result {
        Ok(took) => outcome.count(&format!("{name} ({:.1} s)", took.as_secs_f64()), Ok(())),
        Err(e) => outcome.count(&name, Err(e)),
    });
    Ok(outcome)
}

/// Installs the clients that are needed and that the filter lets through.
pub(super) fn install(filter: Option<&str>, needed: impl Fn(&Client) -> bool) -> Vec<Installed> {
    let wanted = |c: &&Client| needed(c) && filter.is_none_or(|f| c.name().contains(f));
    install::all(&CLIENTS.iter().filter(wanted).copied().collect::<Vec<_>>())
}

pub(super) fn timed(job: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    job().map(|()| start.elapsed())
}

/// The program that asks what only the newest clients ask, where there is one.
fn newer(client: &Installed) -> Option<Installed> {
    let newest = client.client.version == "0.21.7";
    let scripted = matches!(
        client.client.language,
        Language::Python { .. } | Language::Node
    );
    let named = |part: &String| part.replace("pipeline", "newer");
    (newest && scripted).then(|| Installed {
        client: client.client,
        name: format!("{}-newer", client.name),
        program: client.program.as_ref().map_or_else(
            |e| Err(e.clone()),
            |parts| Ok(parts.iter().map(named).collect()),
        ),
    })
}

/// Runs one program and compares what it prints.
fn pipeline(suite: &Suite, client: &Installed, expected: &str) -> Result<Duration> {
    let program = match &client.program {
        Ok(program) => program,
        Err(e) => bail!("not installed: {e}"),
    };
    let name = program.first().context("no program")?;
    let mut command = suite.command(name)?;
    command.args(&program[1..]);
    let out = suite.tmp().join(format!("out-{}", client.name));
    command.arg(&out).env("PROJECT", programs().join("project"));
    let log = suite.log(&client.name);
    let result = timed(|| compare(&mut command, &log, expected));
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot remove `{}`", out.display()))?;
    }
    result.with_context(|| format!("log: {}", suite.shown(&log)))
}

/// Runs a program whose standard output must be `expected`; standard error goes to `log`.
pub(super) fn compare(command: &mut Command, log: &Path, expected: &str) -> Result<()> {
    let file = File::create(log).with_context(|| format!("cannot create `{}`", log.display()))?;
    command.stderr(file);
    let mut printed = String::new();
    let status = process::lines(command, LIMIT, |line| {
        printed.push_str(line);
        printed.push('\n');
    })?;
    if !status.success() {
        bail!("{status}\n{printed}{}", tail(log, 12));
    }
    ensure!(
        printed == expected,
        "other output than expected\n--- expected\n{expected}--- printed\n{printed}"
    );
    Ok(())
}

/// The last lines of a file, indented.
pub(super) fn tail(log: &Path, lines: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = &all[all.len().saturating_sub(lines)..];
    last.iter().map(|l| format!("    {l}\n")).collect()
}
