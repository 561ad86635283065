//! The rows about services. What they are compared with runs in the same images, on the same machine, in the same run.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Row,
    client::{Bench, Session},
    median,
    peer::{self, Plain},
    rows::{FEW, TIMES, fresh},
};

/// Connections made one after another.
const CONNECTIONS: usize = 300;
/// Services of which the memory is told.
const IDLE: u64 = 100;
/// A server that takes its time to listen, as users' do.
const WEB: &[&str] = &["python3", "-m", "http.server", "8000"];
const PAGE: &str = "a page of some length\n";
const IMAGE: &str = "container{from(address:\"python:3.12-slim\"){";

/// A text or a list of texts of GraphQL.
fn quoted(text: impl Into<Value>) -> String {
    text.into().to_string()
}

/// Asks for one value, whatever it is nested in.
fn get(session: &Session, query: &str) -> Result<(Duration, String)> {
    let depth = query.matches('{').count() - query.matches('}').count();
    let (took, mut answer) = session.ask(&(query.to_owned() + &"}".repeat(depth)))?;
    loop {
        match answer {
            Value::Object(map) => answer = map.into_values().next().unwrap_or_default(),
            Value::String(text) => return Ok((took, text)),
            other => return Ok((took, other.to_string())),
        }
    }
}

/// A container with this program at `/peer`, up to and with an exec that no earlier run has seen.
fn with_peer(session: &Session, before: &str, command: &[&str]) -> Result<String> {
    let own = std::env::current_exe().context("no path to this program")?;
    let path = quoted(own.display().to_string());
    let file = get(session, &format!("{{host{{file(path:{path}){{id"))?.1;
    Ok(format!(
        "{{{IMAGE}withMountedFile(path:\"/peer\",source:{}){{withNewFile(path:\"/srv/README\",contents:{}){{withWorkdir(path:\"/srv\"){{withEnvVariable(name:\"RUN\",value:{}){{{before}withExec(args:{}){{",
        quoted(file),
        quoted(PAGE.repeat(20)),
        quoted(fresh()),
        quoted(command.iter().copied().map(Value::from).collect::<Vec<_>>())
    ))
}

fn service(session: &Session, port: u16, command: &[&str]) -> Result<String> {
    let ports = format!("withExposedPort(port:{port}){{");
    Ok(get(
        session,
        &(with_peer(session, &ports, command)? + "asService{id"),
    )?
    .1)
}

fn of(id: &str, what: &str) -> String {
    format!("{{loadServiceFromID(id:{}){{{what}", quoted(id))
}

/// What `/peer` printed when run in a container.
fn printed(session: &Session, before: &str, command: &[&str]) -> Result<Vec<Duration>> {
    let out = get(session, &(with_peer(session, before, command)? + "stdout"))?.1;
    out.lines()
        .map(|l| Ok(Duration::from_micros(l.trim().parse()?)))
        .collect()
}

/// How long the web server takes in that image until it listens, without a service around it.
fn own_time(session: &Session) -> Result<Vec<Duration>> {
    let command = [&["/peer", "bench-peer", "listens", "8000"][..], WEB].concat();
    let mut runs = Vec::new();
    for _ in 0..TIMES {
        runs.extend(printed(session, "", &command)?);
    }
    Ok(runs)
}

/// `row` against the server's own time and so much more.
fn above(work: &'static str, runs: Vec<Duration>, own: Vec<Duration>, more: Duration) -> Row {
    let mut row = Row::new(work, 0.0, runs).beside("its own time to listen", own);
    row.goal = row.beside.as_ref().map(|(_, own)| median(own) + more);
    row
}

pub(super) fn start(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let own = own_time(&session)?;
    let mut runs = Vec::new();
    for _ in 0..TIMES {
        let id = service(&session, 8000, WEB)?;
        runs.push(get(&session, &of(&id, "start"))?.0);
        get(&session, &of(&id, "stop(kill:true)"))?;
    }
    let work = "python -m http.server, start to healthy";
    Ok(above(work, runs, own, Duration::from_millis(10)))
}

pub(super) fn bind(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let own = own_time(&session)?;
    let mut runs = Vec::new();
    for _ in 0..TIMES {
        let id = service(&session, 8000, WEB)?;
        let bound = format!(
            "withServiceBinding(alias:\"web\",service:{}){{",
            quoted(id.as_str())
        );
        let script = "exec /peer bench-peer http $(sed -n 's/\\tweb$//p' /etc/hosts):8000 1";
        let query = with_peer(&session, &bound, &["sh", "-c", script])? + "stdout";
        runs.push(get(&session, &query)?.0);
        get(&session, &of(&id, "stop(kill:true)"))?;
    }
    let work = "the same bound, and one client run against it";
    Ok(above(work, runs, own, Duration::from_millis(30)))
}

/// A tunnel to a service; where it listens.
fn tunnel(session: &Session, id: &str) -> Result<SocketAddr> {
    let tunnel = get(
        session,
        &format!("{{host{{tunnel(service:{}){{id", quoted(id)),
    )?
    .1;
    get(session, &of(&tunnel, "start"))?;
    Ok(get(session, &of(&tunnel, "endpoint"))?.1.parse()?)
}

/// So many connections to this program, one after another, several times, in turns with the same on plain loopback.
fn compare(
    bench: &Bench,
    work: &'static str,
    (what, times): (&str, usize),
    limit: f64,
) -> Result<Row> {
    let session = bench.session()?;
    let id = service(&session, 8000, &["/peer", "bench-peer", "serve", "8000"])?;
    let away = tunnel(&session, &id)?;
    let (_plain, here) = plain_server()?;
    let (runs, plain) = in_turns((what, times), away, here)?;
    get(&session, &of(&id, "stop(kill:true)"))?;
    Ok(beside_loopback(work, runs, plain, limit))
}

/// A server of this program on plain loopback; where it listens.
fn plain_server() -> Result<(Plain, SocketAddr)> {
    plain_peer(&["serve"], &[])
}

/// This program as one end, listening on a free port that is told to it between these words.
fn plain_peer(before: &[&str], after: &[&str]) -> Result<(Plain, SocketAddr)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let own = std::env::current_exe().context("no path to this program")?;
    let (own, number) = (own.display().to_string(), port.to_string());
    let command = [&[&own, "bench-peer"], before, &[&number], after].concat();
    let plain = Plain::start(&command, port)?;
    Ok((plain, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// So many connections to one address and to another, in turns.
fn in_turns(
    (what, times): (&str, usize),
    one: SocketAddr,
    other: SocketAddr,
) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let all = |to| {
        let each: Result<Vec<Duration>> = (0..times).map(|_| peer::connect(what, to)).collect();
        Ok::<Duration, anyhow::Error>(each?.iter().sum())
    };
    let (mut runs, mut others) = (Vec::new(), Vec::new());
    for _ in 0..FEW {
        runs.push(all(one)?);
        others.push(all(other)?);
    }
    Ok((runs, others))
}

/// What the plainest program between two ends costs, which makes a second connection for each.
fn floor(work: &'static str, connections: (&str, usize)) -> Result<Row> {
    let (_plain, here) = plain_server()?;
    let (_relay, between) = plain_peer(&["relay"], &[&here.to_string()])?;
    let (runs, plain) = in_turns(connections, between, here)?;
    let row = Row::new(work, 0.0, runs).beside("plain loopback", plain);
    Ok(Row { goal: None, ..row })
}

pub(super) fn floor_tcp(_: &Bench) -> Result<Row> {
    floor(
        "300 bare connections through a plain relay",
        ("echo", CONNECTIONS),
    )
}

pub(super) fn floor_large(_: &Bench) -> Result<Row> {
    floor("1 GiB through a plain relay", ("download", 1))
}

fn beside_loopback(
    work: &'static str,
    runs: Vec<Duration>,
    plain: Vec<Duration>,
    limit: f64,
) -> Row {
    let mut row = Row::new(work, 0.0, runs).beside("plain loopback", plain);
    row.goal = row.beside.as_ref().map(|(_, p)| median(p).mul_f64(limit));
    row
}

pub(super) fn tunnel_http(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let id = service(&session, 8000, WEB)?;
    let away = tunnel(&session, &id)?;
    // Plainly: the same server of the same image, asked on its own loopback. Another build of Python would differ by more
    // than a tunnel costs.
    let server = WEB.join(" ");
    let once = "/peer bench-peer http 127.0.0.1:8000";
    let script = format!(
        "{server} >/dev/null 2>&1 & until {once} 1 >/dev/null 2>&1; do :; done; {once} {CONNECTIONS}"
    );
    let (mut runs, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..FEW {
        let each: Result<Vec<Duration>> = (0..CONNECTIONS)
            .map(|_| peer::connect("http", away))
            .collect();
        runs.push(each?.iter().sum());
        let each = printed(&session, "", &["sh", "-c", &script])?;
        plain.push(each.iter().sum());
    }
    get(&session, &of(&id, "stop(kill:true)"))?;
    let work = "300 HTTP requests through a tunnel";
    Ok(beside_loopback(work, runs, plain, 1.3))
}

pub(super) fn tunnel_tcp(bench: &Bench) -> Result<Row> {
    let work = "300 bare connections through a tunnel";
    compare(bench, work, ("echo", CONNECTIONS), 1.3)
}

pub(super) fn tunnel_large(bench: &Bench) -> Result<Row> {
    compare(bench, "1 GiB through a tunnel", ("download", 1), 1.0 / 0.8)
}

pub(super) fn names(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let id = service(&session, 8000, &["/peer", "bench-peer", "serve", "8000"])?;
    get(&session, &of(&id, "start"))?;
    let name = get(&session, &of(&id, "hostname"))?.1;
    let runs = printed(
        &session,
        "",
        &["/peer", "bench-peer", "names", &name, "200"],
    )?;
    get(&session, &of(&id, "stop(kill:true)"))?;
    Ok(Row::new(
        "the address of a service, asked by a container",
        0.2,
        runs,
    ))
}

pub(super) fn stop(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let mut runs = Vec::new();
    for _ in 0..TIMES {
        let id = service(&session, 8000, WEB)?;
        get(&session, &of(&id, "start"))?;
        runs.push(get(&session, &of(&id, "stop(kill:true)"))?.0);
    }
    Ok(Row::new("stop(kill) of a service", 20.0, runs))
}

/// What the engine itself holds for each service that idles, in KiB.
pub(super) fn memory(bench: &Bench) -> Result<u64> {
    let session = bench.session()?;
    let services: Result<Vec<String>> = (0..IDLE)
        .map(|_| service(&session, 8000, &["/peer", "bench-peer", "serve", "8000"]))
        .collect();
    let services = services?;
    let before = bench.engine_memory()?;
    for id in &services {
        get(&session, &of(id, "start"))?;
    }
    let each = bench.engine_memory()?.saturating_sub(before) / IDLE;
    session.close()?;
    Ok(each)
}
