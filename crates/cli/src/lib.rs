//! The client: finds or starts the engine, opens sessions for SDKs and commands, and answers what the engine asks of this
//! machine.

#![forbid(unsafe_code)]

pub mod agent;
pub mod answer;
pub mod args;
pub mod broker;
pub mod command;
pub mod connect;
pub mod error;
pub mod functions;
pub mod http;
pub mod link;
pub mod module;
pub mod nested;
pub mod output;
pub mod progress;
pub mod proxy;
pub mod resolve;
pub mod session;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use args::{Command, Stop};
use command::Setup;
use error::Failure;
use wire::paths::Address;

/// What the executable has to do after the command line was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more: exit with this status.
    Exit(u8),
    /// Be the engine.
    Engine(EngineOptions),
}

/// How an engine is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Where everything is kept.
    pub state_dir: PathBuf,
    /// Where to listen: at least one address.
    pub listen: Vec<Address>,
    /// The configuration file; it need not exist.
    pub config: PathBuf,
    /// Exit after so long without a session; `None` stays.
    pub idle_timeout: Option<Duration>,
    /// Log more.
    pub debug: bool,
    /// A client started it: no terminal, standard output and error are the log file.
    pub detached: bool,
}

/// Does what a command line says; `argv` begins with the program's name.
pub fn run(argv: Vec<OsString>) -> Outcome {
    let cli = match args::parse(argv) {
        Ok(cli) => cli,
        Err(Stop::Help(text)) => {
            // Help that nobody reads.
            let _ = output::stdout(text.as_bytes());
            return Outcome::Exit(0);
        }
        Err(Stop::Mistake(text)) => return failed(&Failure::new(text)),
    };
    let result = match cli.command {
        Command::Engine(engine) => command::engine::run(engine, &cli.global),
        Command::Version(version) => command::version::run(&version),
        command => Setup::new(&cli.global).and_then(|setup| match command {
            Command::Session(session) => command::session::run(setup, session),
            Command::Run(run) => command::run::run(setup, run),
            Command::Query(query) => command::query::run(setup, query),
            Command::Core(words) => command::core::run(setup, words),
            Command::Config(config) => command::config::run(&setup, &config),
            Command::Init(init) => command::init::run(&setup, &init),
            Command::Install(install) => command::install::run(&setup, &install),
            Command::Listen(listen) => command::listen::run(setup, listen),
            later => command::later::run(&later),
        }),
    };
    match result {
        Ok(outcome) => outcome,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> Outcome {
    output::stderr_now(&format!("Error: {}", failure.message));
    Outcome::Exit(failure.exit)
}
