//! `cargo xtask test`: all tests, or a part of them.
//!
//! The parts share an engine of their own below `target/test`, with a store that starts empty, and a folder for temporary
//! files that must be empty at the end. Whatever is started is stopped.

mod census;
mod clients;
mod conformance;
mod dockerfiles;
mod expected;
mod install;
mod kill;
mod lint;
mod packages;
mod services;
mod suite;
mod unit;

use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use census::Census;
use suite::{Outcome, Suite};

use crate::env::Build;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Lint,
    Unit,
    Conformance,
    Clients,
    Services,
    Dockerfiles,
    Census,
}

impl Part {
    /// In the order in which they run.
    const ALL: [Part; 7] = [
        Part::Lint,
        Part::Unit,
        Part::Conformance,
        Part::Clients,
        Part::Services,
        Part::Dockerfiles,
        Part::Census,
    ];

    fn name(self) -> &'static str {
        match self {
            Part::Lint => "lint",
            Part::Unit => "unit",
            Part::Conformance => "conformance",
            Part::Clients => "clients",
            Part::Services => "services",
            Part::Dockerfiles => "dockerfiles",
            Part::Census => "census",
        }
    }
}

/// What the command line asks for: parts, and a filter for one.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    parts: Vec<Part>,
    filter: Option<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let (name, filter) = match args {
            [] => ("all", None),
            [name] => (name.as_str(), None),
            [name, filter] => (name.as_str(), Some(filter.clone())),
            _ => bail!("`test` takes a part and a filter at most"),
        };
        let parts: Vec<Part> = Part::ALL
            .into_iter()
            .filter(|p| name == "all" || name == p.name())
            .collect();
        let filtered = [
            Part::Unit,
            Part::Conformance,
            Part::Clients,
            Part::Services,
            Part::Dockerfiles,
        ];
        match parts.as_slice() {
            [] => {
                bail!(
                    "no part `{name}`: there are lint, unit, conformance, clients, services, dockerfiles, census, all"
                )
            }
            [part] if filter.is_none() || filtered.contains(part) => Ok(Options { parts, filter }),
            _ if filter.is_none() => Ok(Options { parts, filter }),
            _ => bail!("`{name}` takes no filter"),
        }
    }

    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// Runs the parts, prints a line for each and the sum.
pub(crate) fn command(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let build = if options.has(Part::Unit) {
        Build::Tests
    } else {
        Build::Dev
    };
    let suite = Suite::new(build, options.filter.clone())?;
    let before = Census::take(&[suite.tmp().to_owned()]);
    let mut sums = Vec::new();
    let ended = run(&options, &suite, &before, &mut sums);
    suite.stop()?;
    suite.close();
    ended?;
    println!();
    for (part, outcome, seconds) in &sums {
        let Outcome {
            passed,
            failed,
            note,
        } = outcome;
        let note = if note.is_empty() {
            String::new()
        } else {
            format!("; {note}")
        };
        println!(
            "{:12} {passed} passed, {failed} failed in {seconds} s{note}",
            part.name()
        );
    }
    let passed: usize = sums.iter().map(|(_, o, _)| o.passed).sum();
    let failed: usize = sums.iter().map(|(_, o, _)| o.failed).sum();
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} failed");
    }
    Ok(())
}

fn run(
    options: &Options,
    suite: &Suite,
    before: &Census,
    sums: &mut Vec<(Part, Outcome, u64)>,
) -> Result<()> {
    thread::scope(|scope| {
        // What waits for the network runs beside what waits for the compiler.
        let preparing = scope.spawn(|| {
            let needed = options
                .parts
                .iter()
                .any(|p| !matches!(p, Part::Lint | Part::Unit));
            let served = if needed { suite.serve() } else { Ok(()) };
            let filter = options.filter.as_deref();
            let needs = |client: &clients::Client| {
                options.has(Part::Clients)
                    || options.has(Part::Services) && !services::of(client).is_empty()
            };
            let installed = clients::install(filter, needs);
            let programs = if options.has(Part::Services) {
                services::build(&installed)
            } else {
                Vec::new()
            };
            served.map(|()| (installed, programs))
        });
        let mut preparing = Some(preparing);
        let (mut installed, mut programs) = (Vec::new(), Vec::new());
        for part in &options.parts {
            let start = Instant::now();
            if !matches!(part, Part::Lint | Part::Unit)
                && let Some(thread) = preparing.take()
            {
                suite.build()?;
                (installed, programs) = thread
                    .join()
                    .unwrap_or_else(|e| std::panic::resume_unwind(e))?;
            }
            println!("{}:", part.name());
            let result = match part {
                Part::Lint => lint::run(suite),
                Part::Unit => unit::run(suite),
                Part::Conformance => conformance::run(suite),
                Part::Clients => clients::run(suite, &installed),
                Part::Services => services::run(suite, &programs),
                Part::Dockerfiles => dockerfiles::run(suite),
                Part::Census => census::run(suite, before),
            };
            let outcome = result.unwrap_or_else(|e| {
                println!("  failed: {e:#}");
                Outcome {
                    failed: 1,
                    ..Outcome::default()
                }
            });
            sums.push((*part, outcome, start.elapsed().as_secs()));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options> {
        Options::parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn all_parts_run_unless_one_is_named() {
        assert_eq!(parse(&[]).unwrap().parts, Part::ALL);
        assert_eq!(parse(&["all"]).unwrap().parts, Part::ALL);
        assert_eq!(parse(&["unit"]).unwrap().parts, [Part::Unit]);
        assert!(
            parse(&["units"])
                .unwrap_err()
                .to_string()
                .contains("no part `units`")
        );
    }

    #[test]
    fn a_filter_narrows_one_part() {
        assert_eq!(
            parse(&["clients", "go"]).unwrap().filter.as_deref(),
            Some("go")
        );
        assert!(parse(&["all", "go"]).is_err() && parse(&["census", "go"]).is_err());
    }
}
