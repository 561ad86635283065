//! A web server of a few lines, for what no program of the system serves.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use crate::kit::PATIENCE;

/// What was asked: the first line of the request, and the body.
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) body: String,
}

/// Answers every request with what the function says: a status, and a body.
pub(crate) struct Web {
    pub(crate) port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Web {
    pub(crate) fn new(
        answer: impl Fn(u16, &Asked) -> (&'static str, String) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let seen = lines.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(asked) = read(&stream) else { continue };
                seen.lock().expect("no panic").push(asked.line.clone());
                let (status, body) = answer(port, &asked);
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/vnd.git-lfs+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                // Who asked may have gone.
                let _ = (&stream).write_all((head + &body).as_bytes());
            }
        });
        Self { port, lines }
    }

    /// The first lines of all requests until now.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(n) = header.strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Some(Asked {
        line: line.trim_end().to_owned(),
        body,
    })
}
