//! The rows about images on their way, beside `skopeo`, which moves the same blobs between the same kinds of places.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::Result;

use super::{Row, client::Bench, depot::Depot, median, others, rows::fresh};
use crate::env;

/// Layers of the image, of [`LAYER_MB`] megabytes each that no compression makes smaller.
const LAYERS: usize = 5;
const LAYER_MB: usize = 100;
const TIMES: usize = 3;

/// An image of 500 MB in a registry, and as a layout on disk.
struct Large {
    registry: Depot,
    layout: PathBuf,
}

impl Large {
    fn make(bench: &Bench) -> Result<Self> {
        let registry = Depot::registry(&bench.scratch.path().join("large"))?;
        let mut query = "{container{from(address:\"busybox\"){".to_owned();
        for n in 0..LAYERS {
            let write = format!(
                "head -c {LAYER_MB}000000 /dev/urandom > /layer{n} # {}",
                fresh()
            );
            query += &format!("withExec(args:[\"sh\",\"-c\",\"{write}\"]){{");
        }
        let large = Large {
            layout: bench.scratch.path().join("layout"),
            registry,
        };
        query += &format!("publish(address:\"{}\")", large.address());
        query += &"}".repeat(LAYERS + 3);
        bench.session()?.ask(&query)?;
        Ok(large)
    }

    fn address(&self) -> String {
        format!("{}/bench/large:it", self.registry.address())
    }

    fn local(&self) -> String {
        format!("oci:{}:it", self.layout.display())
    }

    /// Times `skopeo copy`; `None` where there is none.
    fn copy(&self, from: &str, to: &str) -> Result<Option<Duration>> {
        let mut version = Command::new("skopeo");
        if others::time(version.arg("--version")).is_err() {
            return Ok(None);
        }
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--insecure-policy"]);
        copy.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
        others::time(copy.arg(from).arg(to)).map(Some)
    }

    fn pull_by_skopeo(&self) -> Result<Option<Duration>> {
        if self.layout.exists() {
            fs::remove_dir_all(&self.layout)?;
        }
        self.copy(&format!("docker://{}", self.address()), &self.local())
    }
}

/// A row beside `skopeo`: not slower than it.
fn beside(work: &'static str, ours: Vec<Duration>, theirs: Option<Vec<Duration>>) -> Row {
    let mut row = Row::new(work, 0.0, ours);
    row.goal = theirs.as_ref().map(|runs| {
        let mut runs = runs.clone();
        runs.sort();
        median(&runs)
    });
    match theirs {
        Some(runs) => row.beside("skopeo copy", runs),
        None => {
            eprintln!("skopeo is not installed: `{work}` stands alone");
            row
        }
    }
}

/// From a registry to files that a container can have; skopeo's end as blobs.
pub(super) fn pull(bench: &Bench) -> Result<Row> {
    let large = Large::make(bench)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        env::wipe(&bench.dir)?;
        crate::files::make_dir(&env::state_dir(&bench.dir))?;
        let session = bench.session()?;
        session.ask("{version}")?;
        let query = format!(
            "{{container{{from(address:\"{}\"){{sync}}}}}}",
            large.address()
        );
        ours.push(session.ask(&query)?.0);
        session.close()?;
        theirs.push(large.pull_by_skopeo()?);
    }
    Ok(beside(
        "pull and unpack of 500 MB",
        ours,
        theirs.into_iter().collect(),
    ))
}

/// To a registry that has nothing of it.
pub(super) fn push(bench: &Bench) -> Result<Row> {
    let large = Large::make(bench)?;
    large.pull_by_skopeo()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let empty = Depot::registry(&bench.scratch.path().join("empty"))?;
        let session = bench.session()?;
        session.ask(&format!(
            "{{container{{from(address:\"{}\"){{sync}}}}}}",
            large.address()
        ))?;
        let query = format!(
            "{{container{{from(address:\"{}\"){{withLabel(name:\"run\",value:\"{}\"){{publish(address:\"{}/bench/large:it\")}}}}}}}}",
            large.address(),
            fresh(),
            empty.address()
        );
        ours.push(session.ask(&query)?.0);
        session.close()?;
        drop(empty);
        let empty = Depot::registry(&bench.scratch.path().join("empty"))?;
        let to = format!("docker://{}/bench/large:it", empty.address());
        theirs.push(large.copy(&large.local(), &to)?);
    }
    Ok(beside("push of 500 MB", ours, theirs.into_iter().collect()))
}
