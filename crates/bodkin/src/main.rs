//! The executable: a client by default, the engine when asked, and in containers their first process and the engine's agent
//! when started as such.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use cli::{EngineOptions, Outcome};

fn main() -> ExitCode {
    // Started by the engine as a container's init, this does not return.
    sandbox::init::maybe_run();
    if let Some(channel) = sandbox::agent::channel() {
        return cli::agent::run(channel).into();
    }
    match cli::run(std::env::args_os().collect()) {
        Outcome::Exit(code) => code.into(),
        Outcome::Engine(options) => {
            let EngineOptions {
                state_dir,
                listen,
                config,
                idle_timeout,
                debug: _,
                detached: _,
            } = options;
            daemon::run(daemon::Options {
                state_dir,
                listen,
                config,
                idle_timeout,
            })
        }
    }
}
