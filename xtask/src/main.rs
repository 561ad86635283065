//! Chores of this repository: `cargo xtask COMMAND`.
//!
//! `images` makes the container images that tests and the demo need, from Debian packages; `env` serves them, starts
//! nothing that is running already and prints the variables that make a client find our engine; `down` ends it all. `test`
//! runs the tests.

mod bench;
mod env;
mod files;
mod images;
mod process;
mod registry;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
Usage: cargo xtask COMMAND [OPTIONS]

Commands:
  images   Make OCI images from Debian packages
             --group NAME     core, services, toolchains, docker or all; repeatable (default: core)
             --out DIR        where to write the OCI layout (default: target/images)
             --update         ask the package sources for newer versions first
             --serve          serve them on 127.0.0.1 afterwards, as `env` does
             --port PORT      where to serve them (default: 5055)
  env      Build the engine and the images, serve them, print variables for `eval`
             --group NAME     as for `images`
             --port PORT      where the registry listens on 127.0.0.1 (default: 5055)
             --release        build the engine optimised
             --no-build       take the engine that was built before
  test     Run the tests, with an engine of their own: `test [PART [FILTER]]`
             lint         formatting, clippy, shell scripts
             unit         `cargo test` of all crates; FILTER is part of a test's name
             conformance  recorded answers of Dagger 0.14.0; FILTER is a regular expression on AREA/NAME
             clients      the same pipeline in every published client; FILTER is part of a name such as python-0.9.0
             services     services in containers, as programs with the published clients; FILTER as for clients
             census       that the engine leaves nothing behind
             all          these, one after another (default)
  bench    Measure an optimised engine and print a table: `bench [PART OF A ROW'S NAME …]`
  down     Stop the registry and the engine that `env` started
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        bail!("no command given\n\n{USAGE}");
    };
    match command.as_str() {
        "images" => images::command(rest),
        "env" => env::up(&env::Options::parse(rest)?),
        "test" => test::command(rest),
        "bench" => bench::command(rest),
        // Not for people: the ends of measured connections.
        "bench-peer" => bench::peer_command(rest),
        "down" => env::down(rest),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command `{other}`\n\n{USAGE}"),
    }
}
