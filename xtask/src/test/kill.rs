//! Kills the engine while a container runs, and starts the next one.

use std::fs::File;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::suite::Suite;
use crate::{env, files, process};

/// For the container to start, and for the client to notice the end.
const LIMIT: Duration = Duration::from_secs(60);
const STEP: &str = r#"{ container { from(address: "alpine") { withExec(args: ["sh", "-c", "sleep 613; true"]) { stdout } } } }"#;

/// Returns when the client has ended; what is left then is for the census.
pub(super) fn engine_in_mid_exec(suite: &Suite) -> Result<()> {
    let document = suite.tmp().join("kill.graphql");
    files::write(&document, STEP.as_bytes())?;
    let log = suite.log("kill");
    let file = File::create(&log).with_context(|| format!("cannot create `{}`", log.display()))?;
    let mut command = suite.command(&suite.shell()?.dagger.to_string_lossy())?;
    command.arg("query").arg("--doc").arg(&document);
    command.stdout(file.try_clone()?).stderr(file);
    let mut client = command.spawn().context("cannot run the client")?;
    let result = kill(suite, &mut client);
    if result.is_err() {
        client.kill().ok();
    }
    let status = client.wait().context("cannot wait for the client")?;
    std::fs::remove_file(&document).ok();
    result.with_context(|| format!("log: {}", suite.shown(&log)))?;
    ensure!(
        !status.success(),
        "the client ended well though its engine was killed"
    );
    Ok(())
}

/// Starts an engine by asking for its version.
pub(super) fn next_engine(suite: &Suite) -> Result<()> {
    let document = suite.tmp().join("next.graphql");
    files::write(&document, b"{ version }")?;
    let mut command = suite.command(&suite.shell()?.dagger.to_string_lossy())?;
    let answer = process::output(command.arg("query").arg("--doc").arg(&document));
    std::fs::remove_file(&document).ok();
    answer.map(|_| ())
}

fn kill(suite: &Suite, client: &mut Child) -> Result<()> {
    let start = Instant::now();
    while !sleeper_runs() {
        if client.try_wait()?.is_some() {
            bail!("the client ended before its step ran");
        }
        ensure!(start.elapsed() < LIMIT, "the step did not start");
        thread::sleep(Duration::from_millis(20));
    }
    let (_, engine) = env::engine(suite.dir())?.context("no engine answers")?;
    engine.kill()?;
    ensure!(engine.wait(process::PATIENCE)?, "the engine did not end");
    let pid = rustix::process::Pid::from_child(client);
    let client = process::Handle::open(pid, "client")?;
    ensure!(
        client.wait(LIMIT)?,
        "the client waits on after its engine's end"
    );
    Ok(())
}

/// Whether the step's last command runs anywhere.
fn sleeper_runs() -> bool {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x00613\x00")
    })
}
