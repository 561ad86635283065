//! Part `services`: the programs of `tests/services` with the published clients, and the MariaDB of the host that they ask.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::clients::{Client, Language, compare, tail, timed};
use super::install::{self, Installed};
use super::suite::{Job, Outcome, Suite, in_pairs};
use crate::{files, process, workspace};

/// For the host's MariaDB to listen.
const STARTING: Duration = Duration::from_secs(60);

/// What the host's MariaDB runs first.
const DATA: &str = "\
CREATE DATABASE zoo;
CREATE TABLE zoo.animals (name VARCHAR(20), legs INT);
INSERT INTO zoo.animals VALUES ('the cat', 4);
CREATE USER reader@'%' IDENTIFIED BY 'letters';
GRANT SELECT ON zoo.* TO reader@'%';
";

/// The scenarios that a client's program runs, in the order of `expected.txt`.
pub(super) fn of(client: &Client) -> &'static [&'static str] {
    match client.language {
        // Clients of 0.9 cannot name services.
        Language::Go { .. } if client.version.starts_with("0.9.") => &[
            "tunnel", "host", "cache", "stop", "database", "kernel", "docker",
        ],
        Language::Go { .. } => &[
            "tunnel", "host", "cache", "stop", "names", "database", "kernel", "docker",
        ],
        Language::Python { .. } | Language::Node => &["tunnel", "host", "cache", "stop"],
        Language::Rust { .. } => &[],
    }
}

/// A program ready to run.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    scenarios: &'static [&'static str],
    /// Program and arguments, or why there is none.
    words: Result<Vec<String>, String>,
}

/// Builds the programs of all clients that have one.
pub(super) fn build(installed: &[Installed]) -> Vec<Program> {
    let program = |i: &Installed| Program {
        name: i.name.clone(),
        scenarios: of(&i.client),
        words: install::services(i).map_err(|e| format!("{e:#}")),
    };
    let wanted = |i: &&Installed| !of(&i.client).is_empty();
    installed.iter().filter(wanted).map(program).collect()
}

pub(super) fn run(suite: &Suite, programs: &[Program]) -> Result<Outcome> {
    ensure!(!programs.is_empty(), "no client has that name");
    let expected = files::read_text(&workspace::root().join("tests/services/expected.txt"))?;
    suite.shell()?;
    let database = Database::start(suite)?;
    let (expected, port) = (&expected, database.port);
    let mut jobs = Vec::new();
    for program in programs {
        let work = move || one(suite, program, expected, port);
        jobs.push(Job::new(&program.name, work));
    }
    let mut outcome = Outcome::default();
    in_pairs(jobs, |name, result| match result {
        Ok(took) => outcome.count(&format!("{name} ({:.1} s)", took.as_secs_f64()), Ok(())),
        Err(e) => outcome.count(&name, Err(e)),
    });
    database.end()?;
    Ok(outcome)
}

/// Runs one program and compares what it prints.
fn one(suite: &Suite, program: &Program, expected: &str, port: u16) -> Result<Duration> {
    let words = match &program.words {
        Ok(words) => words,
        Err(e) => bail!("not built: {e}"),
    };
    let (name, args) = words.split_first().context("no program")?;
    let mut command = suite.command(name)?;
    command.args(args).args(program.scenarios);
    command.env("HOST_DATABASE_PORT", port.to_string());
    let log = suite.log(&format!("services-{}", program.name));
    timed(|| compare(&mut command, &log, &lines_of(expected, program.scenarios)))
        .with_context(|| format!("log: {}", suite.shown(&log)))
}

/// The lines that begin with one of these scenarios' names.
fn lines_of(expected: &str, scenarios: &[&str]) -> String {
    let wanted = |line: &&str| {
        line.split_once(": ")
            .is_some_and(|(name, _)| scenarios.contains(&name))
    };
    let lines = expected.lines().filter(wanted);
    lines.map(|line| format!("{line}\n")).collect()
}

/// A MariaDB of the host's, on loopback.
struct Database {
    server: Child,
    dir: PathBuf,
    port: u16,
}

impl Database {
    fn start(suite: &Suite) -> Result<Self> {
        let dir = suite.tmp().join("database");
        files::make_dir(&dir)?;
        let init = dir.join("init.sql");
        files::write(&init, DATA.as_bytes())?;
        let data = format!("--datadir={}", dir.join("data").display());
        let mut install = suite.plain(Command::new("mariadb-install-db"));
        install.args(["--no-defaults", "--user=root", &data, "--skip-test-db"]);
        install.args([
            "--skip-name-resolve",
            "--auth-root-authentication-method=normal",
        ]);
        process::output(&mut install)?;
        // The server cannot choose a port itself: one that is free now.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|l| l.local_addr())
            .context("no free port")?
            .port();
        let log = suite.log("services-database");
        let file =
            File::create(&log).with_context(|| format!("cannot create `{}`", log.display()))?;
        let mut command = suite.plain(Command::new("mariadbd"));
        command.args(["--no-defaults", "--user=root", &data, "--skip-name-resolve"]);
        command.arg(format!("--socket={}", dir.join("socket").display()));
        command.arg(format!("--pid-file={}", dir.join("pid").display()));
        command.arg(format!("--init-file={}", init.display()));
        command.args(["--bind-address=127.0.0.1", &format!("--port={port}")]);
        command.stdout(Stdio::null()).stderr(file);
        let server = command.spawn().context("cannot run `mariadbd`")?;
        let mut database = Database { server, dir, port };
        match database.wait() {
            Ok(()) => Ok(database),
            Err(e) => {
                let e = e.context(format!("the host's MariaDB\n{}", tail(&log, 12)));
                database.end()?;
                Err(e)
            }
        }
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.server.try_wait()? {
                bail!("ended: {status}");
            }
            ensure!(
                start.elapsed() < STARTING,
                "did not listen within {} s",
                STARTING.as_secs()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Nothing of it is worth an orderly end.
    fn end(mut self) -> Result<()> {
        self.server.kill().context("cannot end `mariadbd`")?;
        self.server.wait().context("cannot wait for `mariadbd`")?;
        fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot remove `{}`", self.dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_named_scenarios_are_expected() {
        let all = "a: 1\nab: 2: 3\nb: 4\n";
        assert_eq!(lines_of(all, &["ab", "b"]), "ab: 2: 3\nb: 4\n");
    }

    #[test]
    fn every_scenario_has_an_expected_line() {
        let expected = include_str!("../../../tests/services/expected.txt");
        for client in &super::super::clients::CLIENTS {
            assert_eq!(
                lines_of(expected, of(client)).lines().count(),
                of(client).len()
            );
        }
    }
}
