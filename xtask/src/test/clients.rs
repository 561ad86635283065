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
        client(Go { tags: "newer" }, "0.21.7"),
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

    /// Has it a program in whose name `filter` is?
    fn has_program(&self, filter: &str) -> bool {
        let mut more = MORE.iter().filter(|m| m.has(self));
        self.name().contains(filter) || more.any(|m| m.name_for(&self.name()).contains(filter))
    }
}

/// The folder of the programs.
pub(super) fn programs() -> PathBuf {
    workspace::root().join("tests/clients")
}

pub(super) fn run(suite: &Suite, installed: &[Installed]) -> Result<Outcome> {
    let expected = files::read_text(&programs().join("expected.txt"))?;
    let wanted = |name: &str| suite.filter().is_none_or(|f| name.contains(f));
    suite.shell()?;
    let mut more = Vec::new();
    for program in &MORE {
        let expected = files::read_text(&programs().join(program.expected))?;
        let found = installed.iter().filter(|i| program.has(&i.client));
        more.extend(found.map(|i| (program.of(i), expected.clone())));
    }
    let first = installed.iter().map(|i| (i, &expected));
    let all = first.chain(more.iter().map(|(i, expected)| (i, expected)));
    let mut jobs = Vec::new();
    for (each, expected) in all.filter(|(i, _)| wanted(&i.name)) {
        jobs.push(Job::new(&each.name, move || {
            pipeline(suite, each, expected)
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

/// Installs the clients that are needed and one of whose programs the filter lets through.
pub(super) fn install(filter: Option<&str>, needed: impl Fn(&Client) -> bool) -> Vec<Installed> {
    let wanted = |c: &&Client| needed(c) && filter.is_none_or(|f| c.has_program(f));
    install::all(&CLIENTS.iter().filter(wanted).copied().collect::<Vec<_>>())
}

pub(super) fn timed(job: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    job().map(|()| start.elapsed())
}

/// A program beside `pipeline` that the clients of one time have in Python, TypeScript and Go.
#[derive(Debug)]
struct More {
    name: &'static str,
    versions: &'static [&'static str],
    expected: &'static str,
}

const MORE: [More; 2] = [
    More {
        name: "newer",
        versions: &["0.21.7"],
        expected: "expected_newer.txt",
    },
    More {
        name: "every09",
        versions: &["0.9.0", "0.9.3"],
        expected: "expected_every09.txt",
    },
];

impl More {
    fn has(&self, client: &Client) -> bool {
        self.versions.contains(&client.version) && !matches!(client.language, Language::Rust { .. })
    }

    fn name_for(&self, client: &str) -> String {
        format!("{client}-{}", self.name)
    }

    /// The program as `client` runs it: a file beside `pipeline`'s, or a word for the one executable of Go.
    fn of(&self, client: &Installed) -> Installed {
        let go = matches!(client.client.language, Language::Go { .. });
        let words = |words: &Vec<String>| -> Vec<String> {
            if go {
                let name = self.name.to_owned();
                return words.iter().cloned().chain([name]).collect();
            }
            // Only the file's name: a folder may be called like it.
            let named = |word: &String| match word.rsplit_once('/') {
                Some((folder, file)) => format!("{folder}/{}", file.replace("pipeline", self.name)),
                None => word.clone(),
            };
            words.iter().map(named).collect()
        };
        Installed {
            client: client.client,
            name: self.name_for(&client.name),
            program: client.program.as_ref().map(words).map_err(String::clone),
        }
    }
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
    command
        .arg(&out)
        .env("PROJECT", programs().join("project"))
        .env("EVERY09", programs().join("every09"))
        .env("REGISTRY", suite.registry().address());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `some_name`, `someName` and `SomeName`, `SOMEName` alike: without underscores, in small letters.
    fn folded(name: &str) -> String {
        name.replace('_', "").to_lowercase()
    }

    /// How often each method is called in `source`, by its folded name; a keyword has a `_` at its end.
    fn calls(source: &str) -> std::collections::HashMap<String, usize> {
        let mut counts = std::collections::HashMap::new();
        for part in source.split('.').skip(1).map(str::trim_start) {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let end = part.find(|c| !word(c)).unwrap_or(part.len());
            // A method's value, as in `names.map(thing.ask)`, counts too: it is asked for by name.
            *counts.entry(folded(&part[..end])).or_default() += 1;
        }
        counts
    }

    /// Is `name` a word of `source`, however the language writes it?
    fn says(source: &str, name: &str) -> bool {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        source.split(|c| !word(c)).any(|w| folded(w) == name)
    }

    #[test]
    fn every_field_of_0_9_outside_of_modules_is_asked() {
        let list = files::read_text(&programs().join("every09/fields.txt")).unwrap();
        for source in ["python/every09.py", "node/every09.mjs", "go/every09.go"] {
            let text = files::read_text(&programs().join(source)).unwrap();
            let calls = calls(&text);
            let mut types = std::collections::BTreeMap::<String, usize>::new();
            for line in list.lines() {
                let mut words = line.split(' ');
                let field = words.next().unwrap();
                let (_, name) = field.split_once('.').unwrap();
                *types.entry(folded(name)).or_default() += 1;
                for argument in words {
                    assert!(
                        says(&text, &folded(argument)),
                        "{source}: {field}({argument}:)"
                    );
                }
            }
            // A name that several types have is called as often at least.
            for (name, times) in types {
                let called = calls.get(&name).copied().unwrap_or_default();
                assert!(
                    called >= times,
                    "{source}: {name} called {called} of {times} times"
                );
            }
        }
    }

    #[test]
    fn programs_beside_pipeline() {
        let installed = |language, words: &[&str]| Installed {
            client: client(language, "0.9.0"),
            name: "x".to_owned(),
            program: Ok(words.iter().map(|w| (*w).to_owned()).collect()),
        };
        let [newer, every] = &MORE;
        let named = |filter| CLIENTS.iter().filter(|c| c.has_program(filter)).count();
        assert_eq!(
            (
                named(newer.name),
                named("python-0.9.0-every"),
                named("absent")
            ),
            (3, 1, 0)
        );
        let go = every.of(&installed(
            Language::Go { tags: "old" },
            &["/pipeline/pipeline"],
        ));
        assert_eq!(go.name, "x-every09");
        assert_eq!(go.program.unwrap(), ["/pipeline/pipeline", "every09"]);
        let node = every.of(&installed(
            Language::Node,
            &["node", "/pipeline/pipeline.mjs"],
        ));
        assert_eq!(node.program.unwrap(), ["node", "/pipeline/every09.mjs"]);
    }
}
