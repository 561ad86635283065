// Runs a step that exits with 3.
async fn failing(ctr: dagger_sdk::Container) -> eyre::Result<(isize, String)> {
    let options = ContainerWithExecOptsBuilder::default().expect(ReturnType::Any).build()?;
    let ran = ctr.with_exec_opts(vec!["sh", "-c", "echo on purpose >&2; exit 3"], options);
    Ok((ran.exit_code().await?, ran.stderr().await?))
}
