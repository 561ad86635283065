//! An engine that is killed while `git` works for it.

use std::{io::Read, net::TcpListener};

use rustix::process::{Pid, Signal, kill_process};

use crate::kit::{Lab, PATIENCE, processes, until};

/// Processes whose home is the one that this engine gives to `git`.
fn gits(lab: &Lab) -> Vec<i32> {
    let command = lab.command(&[]);
    let folder = command.get_current_dir().expect("a folder");
    let home = format!("HOME={}/state/run/git-home ", folder.display());
    processes()
        .into_iter()
        .filter(|p| p.env.contains(&home))
        .map(|p| p.pid)
        .collect()
}

#[test]
fn root_no_git_outlives_the_next_start_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    // A server that takes the question and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let session = lab.session();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            session.ask(&format!(
                r#"{{git(url:"git://127.0.0.1:{port}/r.git"){{head{{commit"#
            ))
        });
        let (mut connection, _) = silent.accept().expect("git connects");
        let mut question = [0; 64];
        let read = connection.read(&mut question).expect("a question");
        assert!(read > 0);
        assert!(!gits(&lab).is_empty());
        let engine = Pid::from_raw(lab.engine().expect("an engine")).expect("a process");
        kill_process(engine, Signal::KILL).expect("killed");
        until("the engine is gone", PATIENCE, || lab.engine().is_none());
        // There may be no answer at all.
        let answer = asking.join();
        assert!(answer.is_err() || answer.is_ok_and(|a| a["errors"].is_array()));
    });
    drop(session);
    let session = lab.session();
    session.get("{defaultPlatform");
    assert_eq!(gits(&lab), [0; 0]);
    session.close();
}
