//! Answers requests against a folder of schema texts without any resolver: introspection works, everything else says that it is
//! not available. Reads one JSON request per line (`{"view": "v0.14.0", "query": "…"}`), writes one answer per line.

use std::{io::BufRead, sync::Arc};

use graph::{
    Request, Schema, Solver,
    call::Call,
    error::Error,
    resolve::{Context, View},
};

#[derive(Clone)]
struct Nobody;

impl Context for Nobody {
    fn client_key(&self) -> u64 {
        0
    }
    fn span(&self, _: &Arc<Call>, _: u64) -> u64 {
        0
    }
    fn span_end(&self, _: u64, _: &Arc<Call>, _: bool, _: Option<&Error>) {}
    fn within(&self, _: u64) -> Self {
        Self
    }
    fn current_span(&self) -> u64 {
        0
    }
}

#[derive(serde::Deserialize)]
struct Line {
    view: String,
    #[serde(flatten)]
    request: Request,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: ask FOLDER")?;
    let mut texts: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    texts.sort_by_key(std::fs::DirEntry::path);
    let mut builder = Schema::<Nobody>::builder();
    for text in texts
        .iter()
        .filter(|t| t.path().extension().is_some_and(|e| e == "graphql"))
    {
        builder.sdl(
            &text.path().to_string_lossy(),
            &std::fs::read_to_string(text.path())?,
        )?;
    }
    let start = std::time::Instant::now();
    let solver = Solver::new(builder.build()?);
    eprintln!("built in {:?}", start.elapsed());
    for line in std::io::stdin().lock().lines() {
        let line: Line = serde_json::from_str(&line?)?;
        let view = View::parse(&line.view).ok_or("not a version")?;
        let start = std::time::Instant::now();
        let response = solver.run(&Nobody, view, line.request).await;
        eprintln!("{} in {:?}", response.status, start.elapsed());
        println!("{}", String::from_utf8(response.body)?);
    }
    Ok(())
}
