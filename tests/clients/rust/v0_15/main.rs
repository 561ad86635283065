//! The pipeline with `dagger-sdk` 0.15.
use dagger_sdk::{ContainerWithExecOptsBuilder, HostDirectoryOptsBuilder, ReturnType};

include!("../pipeline.rs");
include!("../with_expect.rs");

#[tokio::main]
async fn main() -> eyre::Result<()> {
    let out = std::env::args().nth(1).ok_or_else(|| eyre::eyre!("where to export to?"))?;
    dagger_sdk::connect(|client| async move { pipeline(&client, &out).await }).await?;
    Ok(())
}
