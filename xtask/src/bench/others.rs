//! What other programs need for the like.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// Times one run of a program, output thrown away.
pub(super) fn time(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(start.elapsed())
}

/// fork and exec of a static program.
pub(super) fn fork_exec(times: usize) -> Result<Vec<Duration>> {
    (0..times)
        .map(|_| time(Command::new("/bin/busybox").arg("true")))
        .collect()
}

/// A bundle that `runc` and `crun` run: busybox and nothing else.
pub(super) fn bundle(dir: &Path) -> Result<()> {
    let root = dir.join("rootfs/bin");
    fs::create_dir_all(&root)?;
    fs::copy("/bin/busybox", root.join("busybox")).context("busybox-static is not installed")?;
    for dir in ["proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(dir_of(&root).join(dir))?;
    }
    let spec = Command::new("runc")
        .arg("spec")
        .current_dir(dir)
        .output()
        .context("runc is not installed")?;
    ensure!(spec.status.success(), "runc spec failed");
    let path = dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["args"] = serde_json::json!(["/bin/busybox", "true"]);
    config["process"]["terminal"] = false.into();
    fs::write(&path, serde_json::to_vec(&config)?)?;
    Ok(())
}

fn dir_of(bin: &Path) -> &Path {
    bin.parent().unwrap_or(bin)
}

/// One container by an OCI runtime.
pub(super) fn run_bundle(runtime: &str, dir: &Path, times: usize) -> Result<Vec<Duration>> {
    (0..times)
        .map(|n| {
            time(
                Command::new(runtime)
                    .args(["run", &format!("bodkin-bench-{n}")])
                    .current_dir(dir),
            )
        })
        .collect()
}

/// A plain stat walk.
pub(super) fn find(dir: &Path, times: usize) -> Result<Vec<Duration>> {
    (0..times)
        .map(|_| time(Command::new("find").arg(dir).args(["-size", "+1000000k"])))
        .collect()
}
