//! The first process: names, signals, orphans, the end of everything.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use sandbox::{Exit, Runtime};

use crate::{
    kit::{Image, able, native, run, start},
    probe,
};

#[test]
fn root_the_init_is_the_first_process() {
    if !able() {
        return;
    }
    let image = Image::new();
    let out = run(image.script("cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline; echo; echo $$; ps | grep -c '[.]init'; ls -a / | grep -c init")).out;
    assert_eq!(
        out,
        ".init\n/.init sh -c cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline; echo; echo $$; ps | grep -c '[.]init'; ls -a / | grep -c init \n2\n1\n0\n"
    );
    let mut spec = image.script("echo $$; cat /proc/1/comm; true");
    spec.init = false;
    assert_eq!(run(spec).out, "1\nsh\n");
}

#[test]
fn root_orphans_are_reaped() {
    if !able() {
        return;
    }
    let image = Image::new();
    // Forty orphans end one by one; afterwards no zombie is left.
    let script = "for i in $(seq 40); do (true &) ; done; n=0; while grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | grep -q .; do n=$((n+1)); test $n -gt 500 && break; done; grep -h '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    assert_eq!(run(image.script(script)).out, "0\n");
}

#[test]
fn root_signals_reach_the_program_and_its_group() {
    if !able() {
        return;
    }
    let image = Image::new();
    for (signal, name) in [
        (libc::SIGTERM, "TERM"),
        (libc::SIGINT, "INT"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGRTMIN(), "34"),
    ] {
        let script = format!(
            "trap 'echo got; exit 5' {name}; echo ready; while :; do sleep 1000 & wait $!; done"
        );
        let (mut child, out) = start(native(), image.script(&script)).unwrap();
        let mut out = BufReader::new(out);
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child.signal(signal).unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("got\n"), "{name}: {rest}");
        assert_eq!(child.wait_blocking().unwrap(), Exit::Code(5), "{name}");
    }
    // A child of the program in its process group hears it too: the shell itself waits and only its child would end.
    let (mut child, out) = start(native(), image.script(
        "trap : TERM; sh -c \"trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait \\$!; done\" & wait; wait; echo over",
    )).unwrap();
    let mut out = BufReader::new(out);
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    child.signal(libc::SIGTERM).unwrap();
    out.read_to_string(&mut text).unwrap();
    // The shell may say that a grandchild was terminated.
    assert!(
        text.starts_with("ready\n") && text.ends_with("over\n"),
        "{text}"
    );
    assert_eq!(child.wait_blocking().unwrap(), Exit::Code(0));
}

#[test]
fn root_everything_ends_with_the_program() {
    if !able() {
        return;
    }
    let image = Image::new();
    // The background process holds the pipe open: reading to the end waits for its death.
    for init in [true, false] {
        let mut spec = image.script("sleep 1000 & (sleep 1000 &) ; echo done");
        spec.init = init;
        assert_eq!(run(spec).out, "done\n");
    }
}

#[test]
fn root_dropping_a_child_kills_it() {
    if !able() {
        return;
    }
    let image = Image::new();
    let (child, mut out) = start(native(), image.script("sleep 1000 & echo up; wait")).unwrap();
    let mut up = [0; 3];
    out.read_exact(&mut up).unwrap();
    drop(child);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn root_many_start_at_once() {
    if !able() {
        return;
    }
    std::thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || {
                let image = Image::new();
                for i in 0..10 {
                    let ran = run(image.script(&format!("echo {n} {i}; exit {i}")));
                    assert_eq!((ran.out, ran.exit), (format!("{n} {i}\n"), Exit::Code(i)));
                }
            });
        }
    });
}

#[test]
fn root_a_first_process_that_ignores_signals_can_be_killed() {
    if !able() {
        return;
    }
    let image = Image::new();
    let (mut child, out) = start(
        native(),
        image.script("trap '' TERM INT; echo ready; while :; do sleep 1000 & wait $!; done"),
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).unwrap();
    child.signal(libc::SIGTERM).unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait_blocking().unwrap(), Exit::Signal(9));
    assert!(child.signal(libc::SIGTERM).is_err());
    let _ = native() as &dyn Runtime;
}

#[test]
fn root_containers_die_with_the_engine() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mut engine = Command::new(std::env::current_exe().unwrap())
        .arg0(probe::ENGINE)
        .arg(image.lower())
        .arg("sleep 1000 & echo ready; wait")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(engine.stdout.take().unwrap());
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    assert_eq!(text, "ready\n");
    engine.kill().unwrap();
    engine.wait().unwrap();
    // The end of the pipe is the end of the last process that held it.
    out.read_to_string(&mut text).unwrap();
}
