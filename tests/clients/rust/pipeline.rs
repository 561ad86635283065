// The pipeline with `dagger-sdk`. Included by the programs beside it: the body is the same, the clients' options are not.

async fn pipeline(client: &dagger_sdk::Query, out: &str) -> eyre::Result<()> {
    let project = std::env::var("PROJECT")?;
    let source = client
        .host()
        .directory_opts(project, HostDirectoryOptsBuilder::default().exclude(vec!["*.md"]).build()?);
    let token = client.set_secret("token", "s3cret-t0ken-1");
    let ctr = client
        .container()
        .from("python")
        .with_mounted_directory("/src", source)
        .with_mounted_cache("/cache", client.cache_volume("clients-rust"))
        .with_secret_variable("TOKEN", token)
        .with_exec(vec!["python3", "/src/app.py"]);
    println!("step: {}", ctr.stdout().await?.trim());
    println!("secret: {}", ctr.stderr().await?.trim().trim_start_matches("token "));
    let (code, stderr) = failing(client.container().from("python")).await?;
    println!("failed: exit={code} stderr={}", stderr.trim());
    ctr.directory("/out").export(out).await?;
    println!("export: {}", std::fs::read_to_string(std::path::Path::new(out).join("result.txt"))?.trim());
    Ok(())
}
