//! Many services, and what is left of them while the engine goes on.

use std::{thread, time::Duration};

use crate::kit::{Holdings, Lab, Session, args, mark, quoted, running, until};

/// A service that listens; found among the machine's processes by its mark.
fn listener(s: &Session, mark: &str) -> String {
    s.text(&format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withExposedPort(port:80){{withExec(args:{}){{asService{{id",
        args(&["busybox", "httpd", "-f", "-p", "80", "-h", "/etc", "-r", mark])
    ))
}

fn field(id: &str, what: &str) -> String {
    format!("{{loadServiceFromID(id:{}){{{what}", quoted(id))
}

/// How much more of anything an engine may hold: its pools are filled when it has time, which may be after it was counted
/// first. What services leave comes by the dozen.
const POOLED: usize = 10;

/// Waits until the engine holds no more than before.
fn nothing_more_than(lab: &Lab, before: &Holdings) {
    let fits = |now: &Holdings| {
        // Connections come and go as well.
        now.descriptors <= before.descriptors + 2 * POOLED
            && now.processes <= before.processes
            && now.mounts <= before.mounts
            && now.namespaces <= before.namespaces + POOLED
            && now.devices <= before.devices + POOLED
            && now.ports <= before.ports + POOLED
            && now.addresses <= before.addresses + POOLED
    };
    let began = std::time::Instant::now();
    loop {
        let now = lab.holdings();
        if fits(&now) {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "before {before:?}, now {now:?}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// What an engine holds once it has run some, so that its pools are as full as they get.
fn settled(lab: &Lab, s: &Session, id: &str) -> Holdings {
    for _ in 0..3 {
        s.get(&field(id, "start"));
        s.get(&field(id, "stop(kill:true)"));
    }
    let (mut last, mut same) = (lab.holdings(), 0);
    while same < 5 {
        thread::sleep(Duration::from_millis(50));
        let now = lab.holdings();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[test]
fn root_a_hundred_services_at_once() {
    let Some(lab) = Lab::new() else { return };
    let idle = lab.session();
    let before = settled(&lab, &idle, &listener(&idle, &mark("first")));
    let memory = lab.memory();
    let s = lab.session();
    let ids: Vec<String> = (0..100)
        .map(|i| listener(&s, &format!("{}-{i}", mark("many"))))
        .collect();
    thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| s.get(&field(id, "start")));
        }
    });
    assert_eq!(running(&mark("many")), 100);
    let each = lab.memory().saturating_sub(memory) / 100;
    assert!(each <= 1024, "the engine holds {each} KiB for each");
    s.close();
    until("all are gone", Duration::from_secs(2), || {
        running(&mark("many")) == 0
    });
    nothing_more_than(&lab, &before);
    idle.close();
}

#[test]
fn root_five_hundred_starts_and_stops_leave_nothing() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let id = listener(&s, &mark("often"));
    let before = settled(&lab, &s, &id);
    let times = |n: usize| {
        for _ in 0..n {
            s.get(&field(&id, "start"));
            s.get(&field(&id, "stop(kill:true)"));
        }
    };
    times(150);
    let memory = lab.memory();
    times(350);
    let grown = lab.memory().saturating_sub(memory);
    assert!(grown < 6 << 10, "{grown} KiB more after 350 services");
    assert_eq!(running(&mark("often")), 0);
    nothing_more_than(&lab, &before);
    s.close();
}

#[test]
fn root_twenty_sessions_with_one_recipe_leave_nothing() {
    let Some(lab) = Lab::new() else { return };
    let idle = lab.session();
    let before = settled(&lab, &idle, &listener(&idle, &mark("first")));
    let sessions: Vec<Session> = (0..20).map(|_| lab.session()).collect();
    thread::scope(|scope| {
        for s in &sessions {
            for _ in 0..3 {
                scope.spawn(|| s.get(&field(&listener(s, &mark("same")), "start")));
            }
        }
    });
    assert_eq!(running(&mark("same")), 20);
    let names: std::collections::BTreeSet<String> = sessions
        .iter()
        .map(|s| s.text(&field(&listener(s, &mark("same")), "hostname")))
        .collect();
    assert_eq!(names.len(), 1, "one recipe has one name: {names:?}");
    for (n, s) in sessions.into_iter().enumerate() {
        if n % 2 == 0 { s.close() } else { s.kill() }
    }
    until("all are gone", Duration::from_secs(2), || {
        running(&mark("same")) == 0
    });
    nothing_more_than(&lab, &before);
    idle.close();
}
