//! The pipeline with `dagger-sdk` 0.9.
use std::sync::Arc;

use dagger_sdk::core::logger::Logger;
use dagger_sdk::{Config, HostDirectoryOptsBuilder};

include!("../pipeline.rs");

/// Runs a step that exits with 3; this client has no `expect`, and gives errors as text.
async fn failing(ctr: dagger_sdk::Container) -> eyre::Result<(isize, String)> {
    match ctr.with_exec(vec!["sh", "-c", "echo on purpose >&2; exit 3"]).sync().await {
        Ok(_) => Err(eyre::eyre!("the step did not fail")),
        Err(e) => {
            let text = format!("{e:?}");
            eyre::ensure!(text.contains("exit code: 3") && text.contains("on purpose"), "another error: {text}");
            Ok((3, "on purpose".to_owned()))
        }
    }
}

/// The client's own logger prints progress among the program's output.
struct ToStderr;

impl Logger for ToStderr {
    fn stdout(&self, output: &str) -> eyre::Result<()> {
        self.stderr(output)
    }

    fn stderr(&self, output: &str) -> eyre::Result<()> {
        eprintln!("{output}");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> eyre::Result<()> {
    let out = std::env::args().nth(1).ok_or_else(|| eyre::eyre!("where to export to?"))?;
    let client = dagger_sdk::connect_opts(Config::new(None, None, None, None, Some(Arc::new(ToStderr)))).await?;
    pipeline(&client, &out).await
}
