//! The rows about large trees: a repository beside `git clone`, an export beside `cp -a`, a search beside ripgrep.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::{
    Row,
    client::Bench,
    depot::Depot,
    median, others,
    rows::{FEW, tree},
};
use crate::env;

/// Files of the large trees.
const LARGE: usize = 100_000;
/// Files of the repository.
const REPOSITORY: usize = 50_000;
/// Runs of work on large trees.
const TIMES: usize = 3;

/// A row whose goal is so many times the median of what stands beside it.
fn within(mut row: Row, factor: f64) -> Row {
    row.goal = row
        .beside
        .as_ref()
        .map(|(_, runs)| median(runs).mul_f64(factor));
    row
}

fn git(dir: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir);
    command.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"]);
    // A commit would start it behind our back.
    command.args(["-c", "gc.auto=0"]);
    others::time(command.args(args)).map(drop)
}

/// A repository, served, with a tag beside its branch.
fn repository(bench: &Bench) -> Result<Depot> {
    let root = bench.scratch.path().join("repositories");
    let dir = root.join("large");
    if !dir.exists() {
        tree(&dir, REPOSITORY)?;
        git(&dir, &["init", "--quiet", "--initial-branch=main"])?;
        git(&dir, &["add", "--all"])?;
        git(&dir, &["commit", "--quiet", "--message=all"])?;
        git(&dir, &["tag", "v1"])?;
        // As a server has it: packed.
        git(&dir, &["gc", "--quiet"])?;
    }
    Depot::git(&root)
}

/// Everything of a repository that nothing is known of.
pub(super) fn clone(bench: &Bench) -> Result<Row> {
    let served = repository(bench)?;
    let url = format!("git://{}/large", served.address());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..TIMES {
        env::wipe(&bench.dir)?;
        crate::files::make_dir(&env::state_dir(&bench.dir))?;
        let session = bench.session()?;
        session.ask("{version}")?;
        let query = format!("{{git(url:\"{url}\"){{branch(name:\"main\"){{tree{{sync}}}}}}}}");
        ours.push(session.ask(&query)?.0);
        session.close()?;
        let to = bench.scratch.path().join(format!("clone{n}"));
        let mut command = Command::new("git");
        command
            .args(["clone", "--quiet", "--depth=1", &url])
            .arg(&to);
        theirs.push(others::time(&mut command)?);
        fs::remove_dir_all(&to)?;
    }
    let row = Row::new("git repository of 50,000 files, empty store", 0.0, ours);
    Ok(within(row.beside("git clone", theirs), 1.1))
}

/// Another name for a commit that is known, when the server is gone.
pub(super) fn second_reference(bench: &Bench) -> Result<Row> {
    let mut runs = Vec::new();
    for _ in 0..TIMES {
        let served = repository(bench)?;
        let repository = format!("git(url:\"git://{}/large\")", served.address());
        let session = bench.session()?;
        session.ask(&format!(
            "{{{repository}{{branch(name:\"main\"){{tree{{sync}}}}}}}}"
        ))?;
        drop(served);
        let query = format!("{{{repository}{{tag(name:\"v1\"){{tree{{entries}}}}}}}}");
        runs.push(session.ask(&query)?.0);
        session.close()?;
    }
    Ok(Row::new(
        "its second reference, without network",
        20.0,
        runs,
    ))
}

/// A tree of [`LARGE`] files of the client's machine and its ID in a session of a version that has all of them.
fn large(bench: &Bench) -> Result<(super::client::Session, String, std::path::PathBuf)> {
    let dir = bench.scratch.path().join("large-tree");
    if !dir.exists() {
        tree(&dir, LARGE)?;
    }
    let session = bench.session_of("v0.21.0")?;
    let path = serde_json::to_string(&dir)?;
    let (_, answer) = session.ask(&format!("{{host{{directory(path:{path}){{id}}}}}}"))?;
    let id = answer["data"]["host"]["directory"]["id"]
        .as_str()
        .context("the directory has no ID")?;
    let root = format!("loadDirectoryFromID(id:\"{id}\")");
    Ok((session, root, dir))
}

/// To the client's machine.
pub(super) fn export(bench: &Bench) -> Result<Row> {
    let (session, root, source) = large(bench)?;
    session.ask(&format!("{{{root}{{sync}}}}"))?;
    let to = bench.scratch.path().join("large-out");
    let quoted = serde_json::to_string(&to)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        ours.push(
            session
                .ask(&format!("{{{root}{{export(path:{quoted})}}}}"))?
                .0,
        );
        fs::remove_dir_all(&to)?;
        let mut command = Command::new("cp");
        theirs.push(others::time(command.arg("-a").arg(&source).arg(&to))?);
        fs::remove_dir_all(&to)?;
    }
    session.close()?;
    let row = Row::new("export of 100,000 files", 0.0, ours);
    Ok(within(row.beside("cp -a", theirs), 1.2))
}

/// For a word that is in one of the files.
pub(super) fn search(bench: &Bench) -> Result<Row> {
    let (session, root, source) = large(bench)?;
    session.ask(&format!("{{{root}{{sync}}}}"))?;
    let has_rg = others::time(Command::new("rg").arg("--version")).is_ok();
    let (mut ours, mut theirs): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
    for n in 0..FEW {
        // The end of a line that is in one file, twenty times.
        let word = format!("-{}$", n * 7919 + 1);
        let query = format!("{{{root}{{search(pattern:\"{word}\"){{filePath}}}}}}");
        ours.push(session.ask(&query)?.0);
        if has_rg {
            let mut command = Command::new("rg");
            command.args([
                "--no-ignore",
                "--hidden",
                "--line-number",
                "--regexp",
                &word,
            ]);
            theirs.push(others::time(command.arg(&source))?);
        }
    }
    session.close()?;
    let row = Row::new("search in 100,000 files", 0.0, ours);
    if !has_rg {
        eprintln!("ripgrep is not installed: `search` stands alone");
        return Ok(Row { goal: None, ..row });
    }
    Ok(within(row.beside("ripgrep", theirs), 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_follow_what_stands_beside() {
        let ms = Duration::from_millis;
        let row = Row::new("x", 0.0, vec![ms(1)]).beside("y", vec![ms(30), ms(10), ms(20)]);
        assert_eq!(within(row, 1.5).goal, Some(ms(30)));
        assert_eq!(within(Row::new("x", 1.0, vec![]), 2.0).goal, None);
    }
}
