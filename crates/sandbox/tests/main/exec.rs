//! Further processes in a running container.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::fd::OwnedFd,
};

use sandbox::{
    Child, Exit, Native, Options, StartError,
    spec::{ExecSpec, Stdio, UserSpec},
};

use crate::kit::{Image, able, native, start};

fn spec(script: &str) -> ExecSpec {
    ExecSpec {
        argv: ["sh", "-c", script].map(|a| a.as_bytes().to_vec()).to_vec(),
        env: vec![b"PATH=/bin".to_vec(), b"B=2".to_vec()],
        cwd: b"/tmp".to_vec(),
        user: UserSpec::default(),
        stdio: Stdio {
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: false,
        },
        privileged: false,
    }
}

fn exec(child: &Child, mut spec: ExecSpec) -> Result<(String, Exit), StartError> {
    let (mut read, write) = std::io::pipe().unwrap();
    spec.stdio.stdout = Some(OwnedFd::from(write.try_clone().unwrap()));
    spec.stdio.stderr = Some(OwnedFd::from(write));
    let mut process = child.exec(spec)?;
    let mut out = String::new();
    read.read_to_string(&mut out).unwrap();
    Ok((out, process.wait_blocking().unwrap()))
}

/// A container that runs until its standard input is closed.
fn waiting(image: &Image) -> (Child, (std::io::PipeWriter, BufReader<fs::File>)) {
    let (read, write) = std::io::pipe().unwrap();
    let mut spec = image.script("echo here > /tmp/file; echo ready; cat");
    spec.stdio.stdin = Some(OwnedFd::from(read));
    let (child, out) = start(native(), spec).unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(out);
    out.read_line(&mut line).unwrap();
    (child, (write, out))
}

#[test]
fn root_a_second_process_shares_everything_but_its_own_setup() {
    if !able() {
        return;
    }
    let image = Image::new();
    let (mut child, stdin) = waiting(&image);
    let (out, exit) = exec(
        &child,
        spec("cat file; echo $B; pwd; hostname; ps | grep -c '[.]init'; ls /sys/class/net; exit 4"),
    )
    .unwrap();
    assert_eq!(
        (out.as_str(), exit),
        ("here\n2\n/tmp\nbox\n1\nlo\n", Exit::Code(4))
    );

    let (out, _) = exec(&child, spec("ls /proc/self/fd; grep -E '^(CapEff|CapBnd|Seccomp:)' /proc/self/status; cat /proc/self/cgroup | sort -u | head -1; true")).unwrap();
    assert_eq!(
        out.split_whitespace()
            .take(10)
            .collect::<Vec<_>>()
            .join(" "),
        "0 1 2 3 CapEff: 00000000a80425fb CapBnd: 00000000a80425fb Seccomp: 2"
    );

    let mut as_user = spec("id -u; id -g");
    as_user.user = UserSpec {
        name: "build".into(),
    };
    assert_eq!(exec(&child, as_user).unwrap().0, "1000\n1000\n");
    drop(stdin);
    assert_eq!(child.wait_blocking().unwrap(), Exit::Code(0));
}

#[test]
fn root_what_cannot_be_executed_is_named() {
    if !able() {
        return;
    }
    let image = Image::new();
    let (child, _stdin) = waiting(&image);
    let check = |spec: ExecSpec, expected: &str| {
        let error = exec(&child, spec).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let mut unknown = spec("");
    unknown.argv = vec![b"nope".to_vec()];
    check(unknown, "unknown program `nope`: not found in `/bin`");
    let mut missing = spec("");
    missing.cwd = b"/missing".to_vec();
    check(missing, "cannot enter the working directory `/missing`");
    let mut descriptor = spec("");
    descriptor.cwd = b"/proc/self/fd/7".to_vec();
    check(
        descriptor,
        "cannot enter the working directory `/proc/self/fd/7`",
    );
    let mut more = spec("");
    more.privileged = true;
    check(
        more,
        "a process cannot have more privileges than its container",
    );
}

#[test]
fn root_the_container_ends_although_nobody_waits_for_the_second_process() {
    if !able() {
        return;
    }
    let image = Image::new();
    let (mut child, stdin) = waiting(&image);
    let mut second = child.exec(spec("sleep 1000")).unwrap();
    let third = child.exec(spec("sleep 1000")).unwrap();
    drop(third);
    let (stdin, mut out) = stdin;
    drop(stdin);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(
        (text.as_str(), child.wait_blocking().unwrap()),
        ("", Exit::Code(0))
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert_eq!(runtime.block_on(second.wait()).unwrap(), Exit::Signal(9));
    assert!(child.exec(spec("true")).is_err(), "the container has ended");
}

#[test]
fn root_a_second_process_has_its_own_terminal() {
    if !able() {
        return;
    }
    let image = Image::new();
    let (child, _stdin) = waiting(&image);
    let mut spec = spec("tty; read x; stty size; echo > /dev/tty");
    spec.stdio.terminal = true;
    let mut process = child.exec(spec).unwrap();
    process.resize(20, 30).unwrap();
    let mut master = fs::File::from(process.terminal.take().unwrap());
    master.write_all(b"go\n").unwrap();
    let mut out = Vec::new();
    let mut chunk = [0; 256];
    while let Ok(n @ 1..) = master.read(&mut chunk) {
        out.extend_from_slice(&chunk[..n]);
    }
    assert_eq!(process.wait_blocking().unwrap(), Exit::Code(0));
    assert_eq!(
        String::from_utf8_lossy(&out)
            .replace('\r', "")
            .replacen("go\n", "", 1),
        "/dev/pts/0\n20 30\n\n"
    );
}

#[test]
fn root_a_container_cannot_hold_up_the_engine_by_stopping_what_joins_it() {
    if !able() {
        return;
    }
    let mut options = Options::default();
    options.start_limit = std::time::Duration::from_millis(300);
    let runtime = Native::with(options).unwrap();
    let image = Image::new();
    // Stops every process but itself, as fast as it can.
    let (child, out) = start(
        &runtime,
        image.script("echo ready; while :; do kill -STOP -1 2> /dev/null; done"),
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).unwrap();
    let mut stopped = 0;
    for _ in 0..60 {
        // Each call comes back, with a process that runs (and is killed here) or without.
        if let Err(error) = child.exec(spec("exit 0")).map(drop) {
            assert_eq!(error.to_string(), "`sh` was killed before it was executed");
            stopped += 1;
            if stopped == 2 {
                break;
            }
        }
    }
    eprintln!("{stopped} were stopped in time");
}
