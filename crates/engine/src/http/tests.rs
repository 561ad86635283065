//! Downloads from a server that behaves as the test says.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use graph::resolve::View;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::testkit::{Asker, Kit};

/// A server: each request gets what `answer` says to its head; `None` lets it wait for ever.
struct Server {
    port: u16,
    requests: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn new(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let requests = Arc::new(AtomicUsize::new(0));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen, kept) = (Arc::new(answer), requests.clone(), heads.clone());
        tokio::spawn(async move {
            while let Ok((mut conn, _)) = listener.accept().await {
                let (answer, seen, kept) = (answer.clone(), seen.clone(), kept.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match conn.read_u8().await {
                            Ok(b) => head.push(b),
                            Err(_) => return,
                        }
                    }
                    seen.fetch_add(1, Ordering::SeqCst);
                    let head = String::from_utf8_lossy(&head).to_lowercase();
                    kept.lock().expect("heads").push(head.clone());
                    match answer(&head) {
                        // The reader may have hung up.
                        Some(text) => drop(conn.write_all(text.as_bytes()).await),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Self {
            port,
            requests,
            heads,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn last(&self) -> String {
        let heads = self.heads.lock().expect("heads");
        heads.last().cloned().unwrap_or_default()
    }
}

fn ok(extra: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n{extra}\r\n{body}",
        body.len()
    )
}

fn status(line: &str, extra: &str) -> String {
    format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\nconnection: close\r\n{extra}\r\n")
}

fn new(kit: &Kit) -> Asker {
    kit.session(View::new(0, 21, 0))
}

#[tokio::test]
async fn a_file_is_asked_for_once_per_session_and_revalidated_in_the_next() {
    let kit = Kit::new();
    let server = Server::new(|head| {
        Some(if head.contains("if-none-match: \"one\"") {
            status("304 Not Modified", "etag: \"one\"\r\n")
        } else {
            ok("etag: \"one\"\r\n", "text")
        })
    })
    .await;
    let query = format!(
        r#"{{http(url:"{}"){{contents name}}}}"#,
        server.url("/a.txt")
    );
    let first = new(&kit);
    for _ in 0..3 {
        let data = first.data(&query).await;
        assert_eq!(data["http"]["contents"], "text");
        assert_eq!(data["http"]["name"], "a.txt");
    }
    assert_eq!(server.count(), 1);
    let second = new(&kit);
    assert_eq!(second.data(&query).await["http"]["contents"], "text");
    assert_eq!(server.count(), 2);
    assert!(server.last().contains("if-none-match: \"one\""));
}

#[tokio::test]
async fn failures_are_lazy_name_the_address_and_are_tried_again() {
    let kit = Kit::new();
    let broken = Arc::new(AtomicUsize::new(1));
    let switch = broken.clone();
    let server = Server::new(move |_| {
        Some(if switch.load(Ordering::SeqCst) == 1 {
            status("404 Not Found", "")
        } else {
            ok("", "there")
        })
    })
    .await;
    let url = server
        .url("/x?sig=SECRET")
        .replace("http://", "http://me:PASSWORD@");
    let s = new(&kit);
    s.data(&format!(r#"{{http(url:"{url}"){{id}}}}"#)).await;
    let query = format!(r#"{{http(url:"{url}"){{contents}}}}"#);
    let error = s.error(&query).await;
    assert!(error.contains("404") && error.contains("/x?…"), "{error}");
    assert!(
        !error.contains("SECRET") && !error.contains("PASSWORD"),
        "{error}"
    );
    assert!(
        server.last().contains("authorization: basic"),
        "{}",
        server.last()
    );
    broken.store(0, Ordering::SeqCst);
    assert_eq!(s.text(&query).await, "there");
}

#[tokio::test]
async fn equal_content_is_the_same_file() {
    let kit = Kit::new();
    let server = Server::new(|head| {
        let date = if head.contains("/a/") {
            "Mon, 01 Jan 2024"
        } else {
            "Tue, 02 Jan 2024"
        };
        Some(ok(
            &format!("last-modified: {date} 00:00:00 GMT\r\n"),
            "same",
        ))
    })
    .await;
    let s = new(&kit);
    let mut keys = Vec::new();
    for path in ["/a/f", "/b/f"] {
        let wanted = super::Wanted {
            url: server.url(path),
            name: None,
            mode: super::MODE,
            checksum: None,
            authorization: None,
            service: None,
        };
        let fetched = super::fetch(&s.0, wanted).await.expect("a file");
        keys.push(fetched.file.tree.output.expect("a tree").node.key);
    }
    assert_eq!(keys[0], keys[1]);
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn checksums_are_verified_and_make_requests_needless() {
    let kit = Kit::new();
    let server = Server::new(|_| Some(ok("", "abc"))).await;
    let right = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let wrong = right.replace("ba", "00");
    let ask = |sum: &str| {
        format!(
            r#"{{http(url:"{}",checksum:"{sum}",permissions:420){{contents}}}}"#,
            server.url("/abc")
        )
    };
    let error = new(&kit).error(&ask(&wrong)).await;
    assert!(error.contains(right) && error.contains(&wrong), "{error}");
    assert_eq!(new(&kit).text(&ask(right)).await, "abc");
    let before = server.count();
    assert_eq!(new(&kit).text(&ask(right)).await, "abc");
    assert_eq!(server.count(), before);
}

#[tokio::test]
async fn headers_stay_with_their_origin() {
    let kit = Kit::new();
    let other = Server::new(|_| Some(ok("", "elsewhere"))).await;
    let to = other.url("/y");
    let server =
        Server::new(move |_| Some(status("302 Found", &format!("location: {to}\r\n")))).await;
    let s = new(&kit);
    let secret = s
        .text(r#"{setSecret(name:"h",plaintext:"Bearer t0ken"){id}}"#)
        .await;
    let query = format!(
        r#"{{http(url:"{}",authHeader:"{secret}"){{contents}}}}"#,
        server.url("/x")
    );
    assert_eq!(s.text(&query).await, "elsewhere");
    assert!(server.last().contains("authorization: bearer t0ken"));
    assert!(!other.last().contains("authorization"));
}

#[tokio::test]
async fn redirects_to_nowhere_are_told_at_once() {
    let kit = Kit::new();
    for answer in ["", "location: \r\n"] {
        let server = Server::new(move |_| Some(status("302 Found", answer))).await;
        let query = format!(r#"{{http(url:"{}"){{contents}}}}"#, server.url("/x"));
        let error = new(&kit).error(&query).await;
        assert!(error.contains("does not say where to"), "{error}");
        assert_eq!(server.count(), 1);
    }
}

#[tokio::test]
async fn redirects_have_an_end() {
    let kit = Kit::new();
    let server = Server::new(|_| Some(status("302 Found", "location: /again\r\n"))).await;
    let query = format!(r#"{{http(url:"{}"){{contents}}}}"#, server.url("/x"));
    let error = new(&kit).error(&query).await;
    assert!(error.contains("10 redirects"), "{error}");
    assert_eq!(server.count(), 11);
}

#[tokio::test]
async fn an_answer_that_breaks_off_leaves_nothing_and_is_asked_for_again() {
    let kit = Kit::new();
    let server = Server::new(|_| {
        Some("HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\nhalf".to_owned())
    })
    .await;
    let query = format!(r#"{{http(url:"{}"){{contents}}}}"#, server.url("/x"));
    let error = new(&kit).error(&query).await;
    assert!(error.contains("broke after 4 bytes"), "{error}");
    assert_eq!(server.count(), 3);
    assert!(kit.engine.store.results().is_empty());
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let kit = Kit::new();
    let server = Server::new(|_| None).await;
    let query = format!(r#"{{http(url:"{}"){{contents}}}}"#, server.url("/x"));
    let s = new(&kit);
    let short = super::client::Limits {
        connect: std::time::Duration::from_millis(50),
        silence: std::time::Duration::from_millis(50),
        ..super::client::Limits::default()
    };
    s.0.session
        .fetched
        .limits
        .set(short)
        .expect("the first use");
    let error = s.error(&query).await;
    assert!(error.contains("has sent nothing for 0.1 s"), "{error}");
}

#[tokio::test]
async fn a_part_is_no_file() {
    let kit = Kit::new();
    let server =
        Server::new(|_| Some(ok("", "abc").replace("200 OK", "206 Partial Content"))).await;
    let query = format!(r#"{{http(url:"{}"){{contents}}}}"#, server.url("/x"));
    let error = new(&kit).error(&query).await;
    assert!(error.contains("sent a part of the file"), "{error}");
    assert_eq!(server.count(), 1);
    assert!(kit.engine.store.results().is_empty());
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let kit = Kit::new();
    let s = new(&kit);
    for name in ["..", "a/b"] {
        let error = s
            .error(&format!(
                r#"{{http(url:"http://127.0.0.1:1/x",name:"{name}"){{contents}}}}"#
            ))
            .await;
        assert!(error.contains("cannot be the name of a file"), "{error}");
    }
}
