//! `engine`: be the engine, or ask the running one.

use std::time::Duration;

use tokio::{io::BufReader, time::timeout};
use wire::{AdminRequest, AdminStatus, Preamble, Status, line, paths};

use super::{block_on, done, env, place};
use crate::{
    EngineOptions, Outcome,
    args::{self, Ask, Global},
    connect::{ConnectError, Door},
    error::Failure,
    output::{self, Stderr},
};

/// How long an engine that a client started stays without sessions.
const IDLE: Duration = Duration::from_secs(600);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long an engine may take to end.
const STOP: Duration = Duration::from_secs(60);

/// Runs the command.
///
/// # Errors
/// No engine to ask.
pub fn run(engine: args::Engine, global: &Global) -> Result<Outcome, Failure> {
    match engine.ask {
        None => serve(&engine, global),
        Some(Ask::Status) => status(),
        Some(Ask::Stop) => stop(),
    }
}

fn serve(engine: &args::Engine, global: &Global) -> Result<Outcome, Failure> {
    if engine.detached {
        // Fails only for the leader of a process group, who has no terminal to lose.
        let _ = rustix::process::setsid();
    }
    // As users know it in lists of processes, however it was started. A name is all this is about.
    let _ = rustix::thread::set_name(c"bodkin");
    // Not that of whoever happened to start it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let state_flag = engine
        .state_dir
        .as_ref()
        .map(|d| d.to_string_lossy().into_owned());
    let with_flag = |name: &str| {
        if name == paths::STATE_DIR {
            state_flag.clone().or_else(|| env(name))
        } else {
            env(name)
        }
    };
    let place = paths::Place {
        env: &with_flag,
        ..place()
    };
    let absolute = |path: std::path::PathBuf| {
        std::path::absolute(&path)
            .map_err(|e| Failure::new(format!("cannot use `{}`: {e}", path.display())))
    };
    let listen = match engine.addr.as_slice() {
        [] => vec![paths::Address::Unix(absolute(place.socket())?)],
        given => given.to_vec(),
    };
    let from_env = match env(paths::IDLE_TIMEOUT) {
        Some(text) => Some(
            args::duration(&text)
                .map_err(|e| Failure::new(format!("cannot use {}: {e}", paths::IDLE_TIMEOUT)))?,
        ),
        None => None,
    };
    let idle = engine
        .idle_timeout
        .or(from_env)
        .or(engine.detached.then_some(IDLE));
    Ok(Outcome::Engine(EngineOptions {
        state_dir: absolute(place.state_dir())?,
        listen,
        config: absolute(engine.config.clone().unwrap_or_else(|| place.config()))?,
        idle_timeout: idle.filter(|i| !i.is_zero()),
        debug: global.debug,
        detached: engine.detached,
    }))
}

/// Asks; what it says, or none when no engine runs. A stopping engine is waited for.
fn ask(request: AdminRequest) -> Result<Option<AdminStatus>, Failure> {
    block_on(&Stderr::new(), async {
        let (_, conn) = match Door::find_running(&place()).await {
            Ok(found) => found,
            Err(ConnectError::Reach { source, .. })
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(Failure::from_error(&e)),
        };
        let mut conn = BufReader::new(conn);
        let question = async {
            line::write_async(&mut conn, &Preamble::Admin { request }).await?;
            line::read_async::<Status<AdminStatus>>(&mut conn, line::MAX_LINE).await
        };
        let answer = match timeout(ANSWER, question).await {
            Ok(Ok(Some(answer))) => answer,
            // An engine that was just ending took the question with it.
            Ok(Ok(None) | Err(line::LineError::Io(_))) if request == AdminRequest::Stop => {
                return Ok(None);
            }
            Ok(Err(e)) => return Err(Failure::from_error(&e)),
            Ok(Ok(None)) | Err(_) => return Err(Failure::new("the engine does not answer")),
        };
        let status = answer.into_result().map_err(|e| Failure::from_error(&e))?;
        if request == AdminRequest::Stop {
            let mut rest = Vec::new();
            let gone = tokio::io::AsyncReadExt::read_to_end(&mut conn, &mut rest);
            timeout(STOP, gone)
                .await
                .map_err(|_| Failure::new("the engine did not end in time"))
                .map(|_| ())?;
        }
        Ok(Some(status))
    })
}

fn status() -> Result<Outcome, Failure> {
    let status = ask(AdminRequest::Status)?.ok_or_else(|| Failure::new("no engine is running"))?;
    print(&render(&status))
}

fn stop() -> Result<Outcome, Failure> {
    match ask(AdminRequest::Stop)? {
        Some(status) => print(&format!("Stopped the engine (pid {}).\n", status.pid)),
        None => print("No engine is running.\n"),
    }
}

fn print(text: &str) -> Result<Outcome, Failure> {
    output::stdout(text.as_bytes())
        .map_err(|e| Failure::new(format!("cannot write to standard output: {e}")))?;
    Ok(done())
}

fn render(status: &AdminStatus) -> String {
    let AdminStatus {
        pid,
        version,
        sessions,
        uptime_secs,
        state_dir,
        listening,
    } = status;
    let up = Duration::from_secs(*uptime_secs);
    let (hours, minutes, seconds) = (
        up.as_secs() / 3600,
        up.as_secs() / 60 % 60,
        up.as_secs() % 60,
    );
    let listening = listening.join(", ");
    format!(
        "Engine:    {version}, pid {pid}, up {hours}h{minutes}m{seconds}s\nSessions:  {sessions}\nState:     {state_dir}\nListening: {listening}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_four_lines() {
        let status = AdminStatus {
            pid: 7,
            version: "v0.14.0".into(),
            sessions: 2,
            uptime_secs: 3723,
            state_dir: "/s".into(),
            listening: vec!["unix:///k".into(), "tcp://127.0.0.1:1".into()],
        };
        expect_test::expect![[r#"
            Engine:    v0.14.0, pid 7, up 1h2m3s
            Sessions:  2
            State:     /s
            Listening: unix:///k, tcp://127.0.0.1:1
        "#]]
        .assert_eq(&render(&status));
    }
}
