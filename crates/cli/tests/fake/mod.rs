//! An engine that does nothing but keep to the protocol.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use wire::{
    AdminStatus, ClientInfo, LinkRequest, Preamble, ProgressEvent, Status, ToClient, ToEngine,
    Welcome,
    line::{self, MAX_LINE, MAX_PREAMBLE},
};

/// Waits in tests end here.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The engine's state: sessions by name, streams that clients opened.
#[derive(Clone, Default)]
pub(crate) struct Engine(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    sessions: HashMap<String, Session>,
    opened: usize,
    streams: HashMap<u64, BufReader<UnixStream>>,
    accepted: Vec<(u64, BufReader<UnixStream>)>,
    next_stream: u64,
    stopped: bool,
}

struct Session {
    client: ClientInfo,
    control: UnixStream,
}

impl Engine {
    /// Listens at a socket.
    pub(crate) fn at(socket: &Path) -> Self {
        let engine = Self::default();
        let listener = UnixListener::bind(socket).unwrap();
        let theirs = engine.clone();
        thread::spawn(move || theirs.accept(&listener));
        engine
    }

    fn accept(&self, listener: &UnixListener) {
        for conn in listener.incoming().flatten() {
            let engine = self.clone();
            thread::spawn(move || engine.connection(BufReader::new(conn)));
        }
    }

    /// Waits until the state is as wanted.
    fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        let mut state = self.0.0.lock().unwrap();
        loop {
            if let Some(found) = look(&mut state) {
                return found;
            }
            let left = end
                .checked_duration_since(Instant::now())
                .expect("it did not happen in time");
            state = self.0.1.wait_timeout(state, left).unwrap().0;
        }
    }

    fn change(&self, with: impl FnOnce(&mut State)) {
        with(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// What the only client said of itself.
    pub(crate) fn client(&self) -> ClientInfo {
        self.wait(|s| s.sessions.values().next().map(|s| s.client.clone()))
    }

    /// Waits until no session is open.
    pub(crate) fn wait_idle(&self) {
        self.wait(|s| (s.opened > 0 && s.sessions.is_empty()).then_some(()));
    }

    /// Waits until the engine was told to stop.
    pub(crate) fn wait_stopped(&self) {
        self.wait(|s| s.stopped.then_some(()));
    }

    /// Closes every control connection, as a killed engine does.
    pub(crate) fn die(&self) {
        self.change(|s| {
            s.sessions
                .values()
                .for_each(|s| drop(s.control.shutdown(std::net::Shutdown::Both)))
        });
    }

    /// Dies as soon as a client is there.
    pub(crate) fn die_when_open(&self) {
        self.client();
        self.die();
    }

    /// Sends a line to the only client.
    pub(crate) fn say(&self, line: &ToClient) {
        let mut control = self.wait(|s| {
            s.sessions
                .values()
                .next()
                .map(|s| s.control.try_clone().unwrap())
        });
        line::write(&mut control, line).unwrap();
    }

    pub(crate) fn progress(&self, event: ProgressEvent) {
        self.say(&ToClient::Progress { event });
    }

    /// Asks the only client; the number of the stream.
    pub(crate) fn open(&self, request: LinkRequest) -> u64 {
        let mut stream = 0;
        self.change(|s| {
            s.next_stream += 1;
            stream = s.next_stream;
        });
        self.say(&ToClient::Open { stream, request });
        stream
    }

    /// The client's answer to a request.
    pub(crate) fn stream(&self, stream: u64) -> BufReader<UnixStream> {
        self.wait(|s| s.streams.remove(&stream))
    }

    /// A connection that the client's listener accepted.
    pub(crate) fn accepted(&self, stream: u64) -> BufReader<UnixStream> {
        self.wait(|s| {
            let at = s.accepted.iter().position(|(of, _)| *of == stream)?;
            Some(s.accepted.remove(at).1)
        })
    }

    /// Asks, and reads the status.
    pub(crate) fn ask<T: serde::de::DeserializeOwned>(
        &self,
        request: LinkRequest,
    ) -> (Result<T, wire::LinkError>, BufReader<UnixStream>) {
        let stream = self.open(request);
        let mut conn = self.stream(stream);
        let status = line::read::<Status<T>>(&mut conn, MAX_LINE)
            .unwrap()
            .unwrap();
        (status.into_result(), conn)
    }

    fn connection(&self, mut conn: BufReader<UnixStream>) {
        conn.get_ref().set_write_timeout(Some(LIMIT)).unwrap();
        match line::read::<Preamble>(&mut conn, MAX_PREAMBLE) {
            Ok(Some(Preamble::Control { client, .. })) => self.control(conn, *client),
            Ok(Some(Preamble::Http { session })) => self.http(&mut conn, &session),
            Ok(Some(Preamble::Stream { stream, .. })) => {
                self.change(|s| drop(s.streams.insert(stream, conn)))
            }
            Ok(Some(Preamble::Accepted { stream, .. })) => {
                self.change(|s| s.accepted.push((stream, conn)))
            }
            Ok(Some(Preamble::Admin { .. })) => {
                let status = AdminStatus {
                    pid: 1,
                    version: "v0.14.0".into(),
                    ..AdminStatus::default()
                };
                line::write(conn.get_mut(), &Status::Ok(status)).unwrap();
                self.change(|s| s.stopped = true);
            }
            // A client that only looks whether someone is there.
            Ok(None) | Err(_) => {}
        }
    }

    fn control(&self, mut conn: BufReader<UnixStream>, client: ClientInfo) {
        let mut session = String::new();
        let control = conn.get_ref().try_clone().unwrap();
        if client.labels.contains_key("refuse") {
            line::write(conn.get_mut(), &Welcome::Error("no more sessions".into())).unwrap();
            return;
        }
        let mut out = conn.get_ref().try_clone().unwrap();
        // Both at once: nothing is asked before the welcome, and nothing comes after it for an unknown session.
        self.change(|s| {
            s.opened += 1;
            session = format!("s{}", s.opened);
            line::write(
                &mut out,
                &Welcome::Ok {
                    session: session.clone(),
                    engine_version: "v0.14.0".into(),
                },
            )
            .unwrap();
            s.sessions
                .insert(session.clone(), Session { client, control });
        });
        let end = line::read::<ToEngine>(&mut conn, MAX_LINE);
        self.change(|s| drop(s.sessions.remove(&session)));
        if matches!(end, Ok(Some(ToEngine::Close))) {
            // The client may have gone without waiting.
            let _ = line::write(&mut out, &ToClient::Bye);
        }
    }

    fn http(&self, conn: &mut BufReader<UnixStream>, session: &str) {
        let token = self
            .0
            .0
            .lock()
            .unwrap()
            .sessions
            .get(session)
            .map(|s| s.client.token.clone());
        loop {
            let Some((head, body)) = request(conn) else {
                return;
            };
            let wanted = token.as_ref().map(|t| {
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{t}:"))
            });
            let authorised = wanted.is_some_and(|w| {
                head.contains(&format!("authorization: basic {}", w.to_lowercase()))
            });
            let (status, answer) = match &body {
                _ if !authorised => ("401 Unauthorized", "who are you".to_owned()),
                b if b.contains("hang") => {
                    // Until the client goes.
                    let _ = conn.read(&mut [0]);
                    return;
                }
                b if b.contains("nope") => (
                    "200 OK",
                    r#"{"data":null,"errors":[{"message":"no field nope","path":["nope"]}]}"#
                        .to_owned(),
                ),
                b if b.contains("echo") => ("200 OK", body.clone()),
                _ => (
                    "200 OK",
                    r#"{"data":{"defaultPlatform":"linux/amd64"}}"#.to_owned(),
                ),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            );
            conn.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    }
}

/// One HTTP request: its head in lower case, its body.
fn request(conn: &mut BufReader<UnixStream>) -> Option<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if conn.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)?
        .split("\r\n")
        .next()?
        .parse()
        .ok()?;
    let mut body = vec![0; length];
    conn.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).ok()?))
}
