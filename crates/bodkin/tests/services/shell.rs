//! Shells over a websocket, as clients of 0.9 have them.

use std::{net::TcpStream, time::Duration};

use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket, client::ClientRequestBuilder, handshake::HandshakeError, http::Uri,
};

use crate::kit::{Lab, PATIENCE, Session, args, mark, running, until};

/// Connects to a shell's address, whose host means the session.
fn connect(
    s: &Session,
    endpoint: &str,
    authorization: Option<String>,
) -> Result<WebSocket<TcpStream>, u16> {
    let address: Uri = endpoint.parse().expect("an address");
    assert_eq!(address.host(), Some("dagger"), "{endpoint}");
    let stream = TcpStream::connect(("127.0.0.1", s.api().0)).expect("the session listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut request = ClientRequestBuilder::new(address);
    if let Some(value) = authorization {
        request = request.with_header("Authorization", value);
    }
    match tokio_tungstenite::tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(e) => panic!("{e}"),
    }
}

/// What was shown until the end, and the exit code.
fn to_the_end(socket: &mut WebSocket<TcpStream>) -> (String, i32) {
    let mut shown = Vec::new();
    loop {
        let message = socket.read().expect("a message").into_data();
        if let Some(code) = message.strip_prefix(b"exit,") {
            let code = std::str::from_utf8(code).expect("digits").parse();
            return (
                String::from_utf8_lossy(&shown).into_owned(),
                code.expect("a number"),
            );
        }
        assert!(matches!(message[..2], [1 | 2, b',']), "{message:?}");
        shown.extend_from_slice(&message[2..]);
    }
}

fn endpoint(s: &Session, command: &[&str]) -> String {
    s.text(&format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withExec(args:{}){{shellEndpoint",
        args(command)
    ))
}

#[test]
fn root_shells_of_the_oldest_clients_are_at_an_address() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session_of("v0.9.0");
    let shell = endpoint(&s, &["sh"]);
    let token = Some(s.api().1);
    let mut socket = connect(&s, &shell, token.clone()).expect("a shell");
    for said in ["resize,100;40", "\0,echo A$((6*7))B; stty size; exit 7\n"] {
        let message = Message::Binary(said.as_bytes().to_vec().into());
        socket.send(message).expect("sent");
    }
    let (shown, code) = to_the_end(&mut socket);
    assert!(
        shown.contains("A42B") && shown.contains("40 100"),
        "{shown}"
    );
    assert_eq!(code, 7);

    // The same address opens another one.
    let mut again = connect(&s, &shell, token.clone()).expect("a shell");
    let message = Message::Text("\0,exit\n".into());
    again.send(message).expect("sent");
    assert_eq!(to_the_end(&mut again).1, 0);

    // What cannot run says why.
    let nothing = endpoint(&s, &["/no/such"]);
    let mut failing = connect(&s, &nothing, token.clone()).expect("a shell");
    let (shown, code) = to_the_end(&mut failing);
    assert!(shown.contains("/no/such"), "{shown}");
    assert_eq!(code, 1);

    // Nobody else, and nothing else.
    assert_eq!(connect(&s, &shell, None).err(), Some(401));
    let other = "ws://dagger/shells/0123";
    assert_eq!(connect(&s, other, token.clone()).err(), Some(404));

    // Who leaves takes the process along.
    let mark = mark("shell");
    let asleep = endpoint(&s, &["sh", "-c", &format!("sleep 1000; echo {mark}")]);
    let leaving = connect(&s, &asleep, token).expect("a shell");
    until("the shell runs", PATIENCE, || running(&mark) == 1);
    drop(leaving);
    until("the shell is gone", Duration::from_secs(10), || {
        running(&mark) == 0
    });
    s.close();
}
