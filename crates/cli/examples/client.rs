//! The client with an engine that does nothing, for the tests of the command line in `tests/process.rs`.

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::process::ExitCode;

use wire::paths::{Address, EXIT_ANOTHER_RUNS};

fn main() -> ExitCode {
    let options = match cli::run(std::env::args_os().collect()) {
        cli::Outcome::Exit(code) => return code.into(),
        cli::Outcome::Engine(options) => options,
    };
    if options.config.ends_with("broken.json") {
        eprintln!("cannot understand the configuration");
        return ExitCode::FAILURE;
    }
    // The lock of the real engine.
    let lock = std::fs::File::create(options.state_dir.join("lock")).unwrap();
    if lock.try_lock().is_err() {
        return EXIT_ANOTHER_RUNS.into();
    }
    let Some(Address::Unix(socket)) = options.listen.first() else {
        return ExitCode::FAILURE;
    };
    let engine = fake::Engine::at(socket);
    engine.wait_stopped();
    std::fs::remove_file(socket).unwrap();
    ExitCode::SUCCESS
}
