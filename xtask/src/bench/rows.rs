//! The rows of the table.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Row, client::Bench, images, others, services, trees};
use crate::env;

/// Runs of short work.
pub(super) const TIMES: usize = 15;
/// Runs of long work.
pub(super) const FEW: usize = 5;

pub(super) fn all(bench: &Bench, only: &[String]) -> Result<Vec<Row>> {
    type Make = fn(&Bench) -> Result<Row>;
    let rows: &[(&str, Make)] = &[
        ("cold", cold),
        ("session", session),
        ("exec", exec),
        ("runtime", runtime),
        ("chain", chain),
        ("cached", cached),
        ("parallel", parallel),
        ("files", files),
        ("upload", upload),
        ("unchanged", unchanged),
        ("export", export),
        ("dockerfile", dockerfile),
        ("unpack", unpack),
        ("pull", images::pull),
        ("push", images::push),
        ("git-clone", trees::clone),
        ("git-second", trees::second_reference),
        ("export-large", trees::export),
        ("search", trees::search),
        ("service-start", services::start),
        ("service-bind", services::bind),
        ("service-stop", services::stop),
        ("service-names", services::names),
        ("tunnel-http", services::tunnel_http),
        ("tunnel-tcp", services::tunnel_tcp),
        ("tunnel-large", services::tunnel_large),
        ("tunnel-floor-tcp", services::floor_tcp),
        ("tunnel-floor-large", services::floor_large),
    ];
    let mut out = Vec::new();
    for (name, make) in rows {
        if only.is_empty() || only.iter().any(|o| name.contains(o.as_str())) {
            eprintln!("{name} …");
            out.push(make(bench).with_context(|| format!("row `{name}`"))?);
        }
    }
    let memory = "service-memory";
    if only.is_empty() || only.iter().any(|o| memory.contains(o.as_str())) {
        eprintln!(
            "engine's memory for an idle service: {} KiB (goal 1024 KiB)",
            services::memory(bench).with_context(|| format!("row `{memory}`"))?
        );
    }
    // What the last session held is given back a moment after its end.
    std::thread::sleep(std::time::Duration::from_secs(2));
    eprintln!("engine at rest: {} KiB", bench.engine_memory()?);
    Ok(out)
}

/// Something no earlier run has asked.
pub(super) fn fresh() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let at = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!("{at}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn first_answer(bench: &Bench) -> Result<Duration> {
    let start = Instant::now();
    let session = bench.session()?;
    session.ask("{version}")?;
    let took = start.elapsed();
    session.close()?;
    Ok(took)
}

fn cold(bench: &Bench) -> Result<Row> {
    let runs = (0..FEW)
        .map(|_| {
            env::stop_engine(&bench.dir)?;
            first_answer(bench)
        })
        .collect::<Result<_>>()?;
    Ok(Row::new(
        "session to first answer, engine not running",
        100.0,
        runs,
    ))
}

fn session(bench: &Bench) -> Result<Row> {
    first_answer(bench)?;
    let runs = (0..TIMES)
        .map(|_| first_answer(bench))
        .collect::<Result<_>>()?;
    Ok(Row::new(
        "session to first answer, engine running",
        20.0,
        runs,
    ))
}

/// `n` execs one on the other.
fn execs(n: usize, salt: &str) -> String {
    let mut q = String::from("{container{from(address:\"busybox\"){");
    for i in 0..n {
        q += &format!("withExec(args:[\"true\",\"{i}-{salt}\"]){{");
    }
    q += "sync";
    q += &"}".repeat(n + 3);
    q
}

fn exec(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    session.ask(&execs(1, &fresh()))?;
    let runs = (0..TIMES)
        .map(|_| Ok(session.ask(&execs(1, &fresh()))?.0))
        .collect::<Result<_>>()?;
    Ok(Row::new("one withExec with its own network", 12.0, runs)
        .beside("fork+exec", others::fork_exec(TIMES)?))
}

fn runtime(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let runs = (0..TIMES)
        .map(|_| Ok(session.ask(&execs(1, &fresh()))?.0))
        .collect::<Result<_>>()?;
    let dir = bench.scratch.path().join("bundle");
    others::bundle(&dir)?;
    Ok(
        Row::new("the same, beside an OCI runtime's bare run", 12.0, runs)
            .beside("runc", others::run_bundle("runc", &dir, FEW)?),
    )
}

fn chain(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let runs = (0..FEW)
        .map(|_| Ok(session.ask(&execs(30, &fresh()))?.0))
        .collect::<Result<_>>()?;
    Ok(Row::new("chain of 30 execs", 300.0, runs))
}

fn cached(bench: &Bench) -> Result<Row> {
    let query = execs(30, &fresh());
    bench.session()?.ask(&query)?;
    let runs = (0..TIMES)
        .map(|_| {
            let start = Instant::now();
            let session = bench.session()?;
            session.ask(&query)?;
            session.close()?;
            Ok(start.elapsed())
        })
        .collect::<Result<_>>()?;
    Ok(Row::new(
        "the same cached, new session, whole program",
        30.0,
        runs,
    ))
}

fn parallel(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let runs = (0..FEW)
        .map(|_| {
            let salt = fresh();
            let all: String = (0..100)
                .map(|i| format!("a{i}:withExec(args:[\"true\",\"{i}-{salt}\"]){{sync}} "))
                .collect();
            Ok(session
                .ask(&format!(
                    "{{container{{from(address:\"busybox\"){{{all}}}}}}}"
                ))?
                .0)
        })
        .collect::<Result<_>>()?;
    Ok(Row::new("100 execs in one query", 600.0, runs))
}

fn files(bench: &Bench) -> Result<Row> {
    let session = bench.session()?;
    let runs = (0..TIMES)
        .map(|_| {
            let salt = fresh();
            let mut q = String::from("{directory{");
            for i in 0..200 {
                q += &format!("withNewFile(path:\"f{i}\",contents:\"{salt}\"){{");
            }
            q += "entries";
            q += &"}".repeat(202);
            Ok(session.ask(&q)?.0)
        })
        .collect::<Result<_>>()?;
    Ok(Row::new("chain of 200 withNewFile", 50.0, runs))
}

/// A tree of `n` small files.
pub(super) fn tree(dir: &Path, n: usize) -> Result<()> {
    for i in 0..n {
        let sub = dir.join(format!("d{}", i / 100));
        fs::create_dir_all(&sub)?;
        fs::write(
            sub.join(format!("f{i}")),
            format!("{}-{i}\n", fresh()).repeat(20),
        )?;
    }
    Ok(())
}

fn upload(bench: &Bench) -> Result<Row> {
    let mut runs = Vec::new();
    for n in 0..FEW {
        let dir = bench.scratch.path().join(format!("up{n}"));
        tree(&dir, 5_000)?;
        let session = bench.session()?;
        runs.push(
            session
                .ask(&format!(
                    "{{host{{directory(path:{:?}){{id}}}}}}",
                    dir.display().to_string()
                ))?
                .0,
        );
    }
    Ok(Row::new("host directory, 5,000 files, first", 150.0, runs))
}

fn unchanged(bench: &Bench) -> Result<Row> {
    let dir = bench.scratch.path().join("same");
    tree(&dir, 20_000)?;
    let query = format!(
        "{{host{{directory(path:{:?}){{id}}}}}}",
        dir.display().to_string()
    );
    bench.session()?.ask(&query)?;
    let runs = (0..TIMES)
        .map(|_| Ok(bench.session()?.ask(&query)?.0))
        .collect::<Result<_>>()?;
    let walk = others::find(&dir, TIMES)?;
    let mut row = Row::new("host directory, 20,000 files, nothing changed", 0.0, runs)
        .beside("find (stat walk)", walk);
    row.goal = row
        .beside
        .as_ref()
        .map(|(_, w)| super::median(w).mul_f64(1.2));
    Ok(row)
}

fn export(bench: &Bench) -> Result<Row> {
    let dir = bench.scratch.path().join("out-source");
    tree(&dir, 2_000)?;
    let session = bench.session()?;
    let source = dir.display().to_string();
    let runs = (0..FEW)
        .map(|n| {
            let dest = bench
                .scratch
                .path()
                .join(format!("out{n}"))
                .display()
                .to_string();
            session.ask(&format!("{{host{{directory(path:{source:?}){{id}}}}}}"))?;
            Ok(session
                .ask(&format!(
                    "{{host{{directory(path:{source:?}){{export(path:{dest:?})}}}}}}"
                ))?
                .0)
        })
        .collect::<Result<_>>()?;
    Ok(Row::new("export of 2,000 files", 100.0, runs))
}

fn dockerfile(bench: &Bench) -> Result<Row> {
    const LINES: usize = 30;
    let session = bench.session()?;
    let build = || -> Result<Duration> {
        let mut text = "FROM busybox\n".to_owned();
        let salt = fresh();
        for i in 0..LINES {
            text += &format!("RUN echo {i} {salt} > /f{i}\n");
        }
        let quoted = serde_json::to_string(&text)?;
        let query = format!(
            "{{directory{{withNewFile(path:\"Dockerfile\",contents:{quoted}){{dockerBuild{{sync}}}}}}}}"
        );
        Ok(session.ask(&query)?.0)
    };
    build()?;
    let runs = (0..FEW).map(|_| build()).collect::<Result<_>>()?;
    Ok(Row::new("Dockerfile of 30 RUN lines", 400.0, runs))
}

fn unpack(bench: &Bench) -> Result<Row> {
    let mut runs = Vec::new();
    for _ in 0..3 {
        env::wipe(&bench.dir)?;
        crate::files::make_dir(&env::state_dir(&bench.dir))?;
        let session = bench.session()?;
        runs.push(
            session
                .ask("{container{from(address:\"python\"){sync}}}")?
                .0,
        );
    }
    Ok(Row::new(
        "pull and unpack of `python`, empty store",
        3000.0,
        runs,
    ))
}
