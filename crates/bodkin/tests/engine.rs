//! The engine's own life, as commands meet it.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

const BODKIN: &str = env!("CARGO_BIN_EXE_bodkin");

/// A command of somebody whose engine keeps its store in `dir`.
fn start(dir: &Path, args: &[&str]) -> Child {
    run(Command::new(BODKIN).args(args), dir)
}

fn run(command: &mut Command, dir: &Path) -> Child {
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", dir)
        .env("BODKIN_STATE_DIR", dir.join("state"))
        .env("BODKIN_CONFIG", dir.join("engine.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Both outputs of a command that is given `stdin` and succeeds.
fn output(mut child: Child, stdin: &str) -> Output {
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(stdin.as_bytes()).unwrap();
    drop(pipe);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{out:?}");
    out
}

#[test]
fn commands_on_a_fresh_machine_share_one_engine_which_is_gone_when_stop_says_so() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        // All started before any is given what it waits for.
        let commands: Vec<_> = (0..6).map(|_| start(dir.path(), &["query"])).collect();
        for command in commands {
            let out = output(command, "{ defaultPlatform }");
            assert!(String::from_utf8_lossy(&out.stdout).contains("linux/"));
        }
        let log = fs::read_to_string(dir.path().join("state/engine.log")).unwrap();
        assert_eq!(log.matches(" ready ").count(), 1, "{log}");

        let out = output(start(dir.path(), &["engine", "stop"]), "");
        let said = String::from_utf8(out.stdout).unwrap();
        let pid = said.split(['(', ')']).nth(1).unwrap();
        let pid = pid.strip_prefix("pid ").unwrap();
        // It may be there for whoever should wait for it, but holds nothing.
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(cmdline.is_empty(), "{said}");
        dir.close().unwrap();
    }
}

#[test]
fn root_who_may_not_make_containers_is_told_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // As root in a container of others.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    let child = run(command.args([BODKIN, "query"]), dir.path());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.contains("needs root's rights to make containers (CAP_SYS_ADMIN)")
            && said.contains("_EXPERIMENTAL_DAGGER_RUNNER_HOST"),
        "{said}"
    );
}
