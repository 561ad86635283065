//! `cargo xtask bench`: how long things take, through a client's door.
//!
//! An optimised engine with a store of its own; every row is asked as a client asks, several times, and shown as median
//! with what other programs need for the like in the same run.

mod client;
mod depot;
mod images;
mod others;
mod peer;
mod rows;
mod services;
mod trees;

use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) use self::peer::command as peer_command;

use crate::{env, files};

/// Where the bench's registry listens: the one of the tests.
const PORT: u16 = env::PORT;

/// One line of the table.
pub(super) struct Row {
    /// What was done.
    pub(super) work: &'static str,
    /// All runs, sorted.
    pub(super) runs: Vec<Duration>,
    /// What is wanted.
    pub(super) goal: Option<Duration>,
    /// Something to compare with: its name and its runs.
    pub(super) beside: Option<(&'static str, Vec<Duration>)>,
}

impl Row {
    pub(super) fn new(work: &'static str, goal_ms: f64, runs: Vec<Duration>) -> Self {
        Row {
            work,
            runs: sorted(runs),
            goal: Some(Duration::from_secs_f64(goal_ms / 1000.0)),
            beside: None,
        }
    }

    pub(super) fn beside(mut self, name: &'static str, runs: Vec<Duration>) -> Self {
        self.beside = Some((name, sorted(runs)));
        self
    }
}

fn sorted(mut runs: Vec<Duration>) -> Vec<Duration> {
    runs.sort();
    runs
}

fn median(runs: &[Duration]) -> Duration {
    runs.get(runs.len() / 2).copied().unwrap_or_default()
}

/// Runs the bench; arguments are parts of the names of rows to run.
pub(crate) fn command(args: &[String]) -> Result<()> {
    if let Some(flag) = args.iter().find(|a| a.starts_with('-')) {
        bail!("`bench` takes parts of rows' names, not `{flag}`");
    }
    // In memory: what is measured is the engine, not the disk below the sources.
    let scratch = client::Scratch::new()?;
    let dir = scratch.path().join("env");
    files::make_dir(&dir)?;
    let registry = env::serve(&crate::images::Options::parse(&[])?, PORT)?;
    let binary = env::build(env::Build::Release, &dir)?;
    let shell = env::shell(&dir, &registry, &binary)?;
    let bench = client::Bench {
        shell,
        dir: dir.clone(),
        scratch,
    };
    let result = rows::all(&bench, args);
    env::stop_engine(&dir).context("cannot stop the bench's engine")?;
    let rows = result?;
    print(&rows);
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "{:<44} {:>10} {:>10} {:>10} {:>9}  beside",
        "work", "median", "min", "max", "goal"
    );
    for row in rows {
        let goal = row.goal.map_or(String::new(), ms);
        let met = match row.goal {
            Some(g) if median(&row.runs) > g => "!",
            _ => " ",
        };
        let beside = row.beside.as_ref().map_or(String::new(), |(name, runs)| {
            let theirs = median(runs);
            let ratio = median(&row.runs).as_secs_f64() / theirs.as_secs_f64().max(1e-9);
            format!("{name} {} (ratio {ratio:.2})", ms(theirs))
        });
        println!(
            "{:<44} {:>10} {:>10} {:>10} {:>9}{met} {beside}",
            row.work,
            ms(median(&row.runs)),
            ms(row.runs.first().copied().unwrap_or_default()),
            ms(row.runs.last().copied().unwrap_or_default()),
            goal
        );
    }
}

fn ms(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let runs = sorted([5, 1, 9].map(Duration::from_millis).to_vec());
        assert_eq!(median(&runs), Duration::from_millis(5));
        assert_eq!(median(&[]), Duration::ZERO);
    }
}
