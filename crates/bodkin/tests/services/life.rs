//! Starts, waits and ends.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::kit::{Lab, Session, args, inits, mark, quoted, running, until};

/// A web server that can be found among the machine's processes by its mark.
fn web(s: &Session, mark: &str) -> String {
    s.text(&format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withNewFile(path:\"/www/index.html\",contents:{}){{withExposedPort(port:80){{\
         withExec(args:{}){{asService{{id",
        quoted(mark),
        args(&["busybox", "httpd", "-f", "-p", "80", "-h", "/www", "-r", mark])
    ))
}

/// Runs a command beside a service bound as `it`.
fn beside(id: &str, command: &str) -> String {
    format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withServiceBinding(alias:\"it\",service:{}){{withExec(args:{}){{stdout",
        quoted(id),
        args(&["sh", "-c", command])
    )
}

/// Has the image at hand, so that its way here is not measured.
fn warm(s: &Session) {
    s.get("{container{from(address:\"alpine:3.20.2\"){rootfs{entries");
}

fn field(id: &str, what: &str) -> String {
    format!("{{loadServiceFromID(id:{}){{{what}}}}}", quoted(id))
}

/// A service made of a shell command.
fn shell(s: &Session, before: &str, command: &str) -> String {
    s.text(&format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{{before}withExec(args:{}){{asService{{id",
        args(&["sh", "-c", command])
    ))
}

#[test]
fn root_a_session_takes_its_services_with_it() {
    let Some(lab) = Lab::new() else { return };
    for (name, kill) in [("close", false), ("kill", true)] {
        let mark = &mark(name);
        let s = lab.session();
        for i in 0..5 {
            s.get(&field(&web(&s, &format!("{mark}-{i}")), "start"));
        }
        assert_eq!(running(mark), 5);
        if kill {
            s.kill();
        } else {
            s.close();
        }
        until("the services are gone", Duration::from_secs(1), || {
            running(mark) == 0
        });
    }
}

#[test]
fn root_an_engine_that_is_killed_takes_all_services_with_it() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    s.get(&field(&web(&s, &mark("engine")), "start"));
    let engine =
        rustix::process::Pid::from_raw(lab.engine().expect("an engine")).expect("a process");
    rustix::process::kill_process(engine, rustix::process::Signal::KILL).expect("it runs");
    until("the service is gone", Duration::from_secs(2), || {
        running(&mark("engine")) == 0
    });
}

#[test]
fn root_a_service_stays_ten_seconds_after_its_last_use() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let id = web(&s, &mark("grace"));
    assert_eq!(
        s.text(&beside(&id, "curl -sS -m 20 http://it/; : 1")),
        mark("grace")
    );
    let first = Instant::now();
    assert_eq!(
        running(&mark("grace")),
        1,
        "it is there for whoever comes next"
    );
    until("half of the time is over", Duration::from_secs(6), || {
        first.elapsed() > Duration::from_secs(5)
    });
    assert_eq!(
        s.text(&beside(&id, "curl -sS -m 20 http://it/; : 2")),
        mark("grace")
    );
    let last = Instant::now();
    until("it is gone", Duration::from_secs(15), || {
        running(&mark("grace")) == 0
    });
    let stayed = last.elapsed().as_secs_f64();
    assert!((9.5..12.0).contains(&stayed), "{stayed} s");
    // What is known needs no service.
    assert_eq!(
        s.text(&beside(&id, "curl -sS -m 20 http://it/; : 1")),
        mark("grace")
    );
    assert_eq!(running(&mark("grace")), 0);
    s.close();
}

#[test]
fn root_stopping_asks_first_and_kills_when_told() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let id = shell(
        &s,
        "",
        &format!(
            "trap 'echo asked; sleep 0.4; exit 0' TERM; echo {}; while :; do sleep 0.05; done",
            mark("stop")
        ),
    );
    s.get(&field(&id, "start"));
    until("it speaks", Duration::from_secs(5), || {
        s.text(&field(&id, "logs")).contains(&mark("stop"))
    });
    let began = Instant::now();
    s.get(&field(&id, "stop"));
    assert!(
        began.elapsed() > Duration::from_millis(300),
        "its handler is waited for"
    );
    assert!(s.text(&field(&id, "logs")).contains("asked"));
    assert_eq!(running(&mark("stop")), 0);

    let deaf = shell(
        &s,
        "",
        &format!(
            "trap '' TERM; echo {}; while :; do sleep 0.05; done",
            mark("deaf")
        ),
    );
    s.get(&field(&deaf, "start"));
    until("it speaks", Duration::from_secs(5), || {
        s.text(&field(&deaf, "logs")).contains(&mark("deaf"))
    });
    thread::scope(|scope| {
        let waiting = scope.spawn(|| s.get(&field(&deaf, "stop")));
        assert!(!waiting.is_finished() && running(&mark("deaf")) > 0);
        let began = Instant::now();
        s.get(&field(&deaf, "stop(kill:true)"));
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
        waiting.join().expect("both return");
    });
    assert_eq!(running(&mark("deaf")), 0);
    // Nobody has to: it is killed when it has had its time.
    s.get(&field(&deaf, "start"));
    until("it speaks", Duration::from_secs(5), || {
        s.text(&field(&deaf, "logs")).contains(&mark("deaf"))
    });
    let began = Instant::now();
    s.get(&field(&deaf, "stop"));
    let took = began.elapsed().as_secs_f64();
    assert!((9.5..12.0).contains(&took), "{took} s");
    assert_eq!(running(&mark("deaf")), 0);
    s.close();
}

#[test]
fn root_a_service_that_died_is_started_again() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let id = web(&s, &mark("dies"));
    s.get(&field(&id, "start"));
    // The container's first process is its init.
    let init = inits(&mark("dies")).pop().expect("it runs");
    let pid = rustix::process::Pid::from_raw(init).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    until("it is gone", Duration::from_secs(5), || {
        !std::path::Path::new(&format!("/proc/{init}")).exists()
    });
    assert_eq!(
        s.text(&beside(
            &id,
            "curl -sS -m 20 --retry 3 --retry-connrefused http://it/"
        )),
        mark("dies")
    );
    s.close();
}

#[test]
fn root_one_instance_per_session_however_many_ask() {
    let Some(lab) = Lab::new() else { return };
    let sessions: Vec<Session> = (0..20).map(|_| lab.session()).collect();
    thread::scope(|scope| {
        for s in &sessions {
            for ask in 0..3 {
                scope.spawn(move || {
                    let id = web(s, &mark("shared"));
                    assert_eq!(
                        s.text(&beside(
                            &id,
                            &format!("curl -sS -m 60 http://it/; : {ask} {}", s.pid())
                        )),
                        mark("shared")
                    );
                });
            }
        }
    });
    // Those whose last user left longest ago may have ended by now; what runs is kept, and nothing is started beside it.
    for s in &sessions {
        s.get(&field(&web(s, &mark("shared")), "start"));
    }
    assert_eq!(running(&mark("shared")), 20);
    drop(sessions);
    until("all are gone", Duration::from_secs(2), || {
        running(&mark("shared")) == 0
    });
}

#[test]
fn root_early_ends_say_why_with_the_last_words() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let id = shell(&s, "withExposedPort(port:80){", "echo no disk >&2; exit 42");
    let e = s.error(&beside(&id, "true"));
    assert!(
        e.contains("(aliased as it): exited: exit code: 42; its last output:\nno disk"),
        "{e}"
    );
    // Not remembered: it may work the next time.
    let e = s.error(&beside(&id, "true"));
    assert!(e.contains("exit code: 42"), "{e}");
    let unknown = shell(&s, "withExposedPort(port:80){", "exec /no/such/program");
    let e = s.error(&field(&unknown, "start"));
    assert!(e.contains("exited: exit code: 127"), "{e}");
    s.close();
}

#[test]
fn root_waits_end_in_time_and_say_what_was_waited_for() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    warm(&s);
    let limit = "withLabel(name:\"bodkin.ready.timeout\",value:\"700ms\"){";
    for (label, value, said) in [
        (
            "bodkin.ready.http",
            "8080/health",
            "checking for http 8080/health: not ready after 700ms: dial tcp",
        ),
        (
            "bodkin.ready.log",
            "all set",
            "checking for a line with `all set`: not ready after 700ms",
        ),
        (
            "bodkin.ready.exec",
            "exit 3",
            "checking for the command `/bin/sh -c exit 3`: not ready after 700ms: exit code: 3",
        ),
    ] {
        let id = shell(
            &s,
            &format!(
                "withLabel(name:{},value:{}){{{limit}",
                quoted(label),
                quoted(value)
            ),
            &format!("sleep 600; : {}", mark("waits")),
        );
        let began = Instant::now();
        let e = s.error(&field(&id, "start"));
        assert!(e.contains(said), "{e}");
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }
    let port = shell(
        &s,
        &format!("withExposedPort(port:81){{{limit}"),
        &format!("sleep 600; : {}", mark("waits")),
    );
    let e = s.error(&field(&port, "start"));
    assert!(
        e.contains("checking for port 81/tcp: not ready after 700ms: dial tcp"),
        "{e}"
    );
    assert_eq!(
        running(&mark("waits")),
        0,
        "what did not become ready does not stay"
    );
    s.close();
}

#[test]
fn root_labels_and_fields_wait_for_lines_answers_and_commands() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    warm(&s);
    let slow = "sleep 0.3; echo warming up; sleep 0.3; touch /ready; echo 'mark: all set'; mkdir /www; echo ok > /www/health; exec busybox httpd -f -p 8080 -h /www";
    for (label, value) in [
        ("log", "all set"),
        ("http", "8080/health"),
        ("exec", "test -e /ready"),
        ("exec", "[\"test\",\"-e\",\"/ready\"]"),
    ] {
        let id = shell(
            &s,
            &format!(
                "withLabel(name:\"bodkin.ready.{label}\",value:{}){{",
                quoted(value)
            ),
            slow,
        );
        let began = Instant::now();
        s.get(&field(&id, "start"));
        let took = began.elapsed().as_millis();
        assert!((600..3000).contains(&took), "{label}: {took} ms");
        s.get(&field(&id, "stop(kill:true)"));
    }
    let plain = shell(&s, "", slow);
    let began = Instant::now();
    s.get(&field(&plain, "withReadiness(log:\"all set\",exec:[\"test\",\"-e\",\"/ready\"],http:\"8080/health 200\",timeout:\"20s\"){start}"));
    assert!(began.elapsed() >= Duration::from_millis(600));
    s.close();

    let new = lab.session_of("v0.21.0");
    let began = Instant::now();
    let id = new.text(&format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withExposedPort(port:9){{withDockerHealthcheck(args:[\"test\",\"-e\",\"/ready\"]){{asService(args:{}){{id",
        args(&["sh", "-c", slow])
    ));
    new.get(&field(&id, "start"));
    assert!(
        began.elapsed() >= Duration::from_millis(600),
        "the health check counts, not the port that nobody opens"
    );
    new.close();
}

#[test]
fn root_a_bound_service_is_not_reached_by_another_session() {
    let Some(lab) = Lab::new() else { return };
    let (a, b) = (lab.session(), lab.session());
    let id = web(&a, &mark("private"));
    a.get(&field(&id, "start"));
    let address = a.text(&beside(&id, "sed -n 's/\\tit$//p' /etc/hosts"));
    let address = address.trim();
    assert_eq!(
        a.text(&beside(&id, &format!("curl -sS -m 5 http://{address}/"))),
        mark("private")
    );
    let other = format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withExec(args:{}){{stdout",
        args(&[
            "sh",
            "-c",
            &format!("curl -s -m 3 http://{address}/ || echo unreachable")
        ])
    );
    assert_eq!(b.text(&other).trim(), "unreachable");
    a.close();
    b.close();
}

#[test]
fn root_a_secret_in_a_command_line_is_masked_wherever_it_is_shown() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let id = s.text("{setSecret(name:\"line\",plaintext:\"Sup3rS3cret99\"){id");
    let with = format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withSecretVariable(name:\"T\",secret:\"{id}\"){{"
    );
    let unknown = format!("{with}withExec(args:[\"/x/Sup3rS3cret99\"],expect:ANY){{stderr");
    assert_eq!(
        s.text(&unknown).trim(),
        "[dumb-init] /x/***: No such file or directory"
    );
    let known = format!("{with}withExec(args:[\"echo\",\"Sup3rS3cret99\"]){{stdout");
    assert_eq!(s.text(&known).trim(), "***");
    s.close();
}
