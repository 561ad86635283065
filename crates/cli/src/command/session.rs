//! `session`: what SDKs start. One line on standard output, then a port until standard input ends.

use std::{collections::BTreeMap, io::Read, thread};

use serde::Serialize;
use tokio::sync::oneshot;

use super::{Setup, block_on, done, ending, upstream};
use crate::{
    Outcome, args,
    error::Failure,
    output,
    proxy::{self, Upstream},
    session::{Over, Session},
};

/// The one line: SDKs check that it has exactly these keys.
#[derive(Serialize)]
struct Handshake<'a> {
    port: u16,
    session_token: &'a str,
}

/// Runs the command.
///
/// # Errors
/// No engine, or it was lost.
pub fn run(setup: Setup, session: args::Session) -> Result<Outcome, Failure> {
    let stderr = setup.stderr.clone();
    let stdin = stdin_end();
    block_on(&stderr, async move {
        let ended = async {
            let signal = ending()?;
            tokio::select! {
                _ = stdin => {}
                _ = signal => {}
            }
            Ok::<(), Failure>(())
        };
        serve(&setup, session, ended).await
    })
}

async fn serve(
    setup: &Setup,
    session: args::Session,
    ended: impl Future<Output = Result<(), Failure>>,
) -> Result<Outcome, Failure> {
    tokio::pin!(ended);
    let (listener, port) = proxy::bind()
        .await
        .map_err(|e| Failure::new(format!("cannot listen on the loopback: {e}")))?;
    let (own, upstream, token) = tokio::select! {
        opened = open(setup, session) => opened?,
        end = &mut ended => return end.map(|()| done()),
    };
    let handshake = Handshake {
        port,
        session_token: &token,
    };
    let mut line = serde_json::to_vec(&handshake).map_err(|e| Failure::new(e.to_string()))?;
    line.push(b'\n');
    output::stdout(&line)
        .map_err(|e| Failure::new(format!("cannot write to standard output: {e}")))?;
    let lost = async {
        match &own {
            Some(session) => session.ended().await,
            None => std::future::pending().await,
        }
    };
    let how = tokio::select! {
        end = &mut ended => end.map(|()| Over::No)?,
        how = lost => how,
        () = proxy::serve(listener, upstream) => Over::No,
    };
    match (own, how) {
        (_, Over::Lost) => Err(super::lost()),
        (Some(session), Over::No) => {
            session.close().await;
            Ok(done())
        }
        _ => Ok(done()),
    }
}

async fn open(
    setup: &Setup,
    session: args::Session,
) -> Result<(Option<Session>, Upstream, String), Failure> {
    if let Some(nested) = &setup.nested {
        return Ok((None, Upstream::Nested(nested.clone()), nested.token.clone()));
    }
    let token = uuid::Uuid::new_v4().to_string();
    let opened = setup
        .open(session.version, labels(&session.label), &token)
        .await?;
    let upstream = upstream(&opened);
    Ok((Some(opened), upstream, token))
}

/// `name:value` pairs; the value may hold colons.
fn labels(flags: &[String]) -> BTreeMap<String, String> {
    flags
        .iter()
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// Resolves when standard input ends: the SDK closed it, or is gone.
fn stdin_end() -> oneshot::Receiver<()> {
    let (tell, end) = oneshot::channel();
    let read = move || {
        let mut discard = [0; 4096];
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut discard).is_ok_and(|n| n > 0) {}
        // The command may have ended by a signal meanwhile.
        let _ = tell.send(());
    };
    // Without a thread the receiver resolves at once and the session ends, which is better than never.
    let _ = thread::Builder::new().name("stdin".into()).spawn(read);
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_has_exactly_two_keys() {
        let line = serde_json::to_string(&Handshake {
            port: 1,
            session_token: "t",
        })
        .unwrap();
        assert_eq!(line, r#"{"port":1,"session_token":"t"}"#);
    }

    #[test]
    fn labels_split_at_their_first_colon() {
        let labels = labels(&[
            "a:b:c".into(),
            "nothing".into(),
            "dagger.io/sdk.version:n/a".into(),
        ]);
        assert_eq!(labels.len(), 2);
        assert_eq!(labels.get("a").map(String::as_str), Some("b:c"));
    }
}
