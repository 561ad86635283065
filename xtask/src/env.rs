//! `cargo xtask env` and `cargo xtask down`: what a client needs on this machine to find our engine, started and stopped.
//!
//! `eval "$(cargo xtask env)"` makes `dagger` our binary and any published client library run against it, with images from
//! a registry on loopback. Standard output carries nothing but lines for the shell.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::images;
use crate::process;
use crate::registry::{self, Registry};
use crate::{files, workspace};

/// Where the registry listens unless told otherwise.
pub(crate) const PORT: u16 = 5055;
/// A unix socket's path must fit into 108 bytes; leave room for what is appended while it is made.
const SOCKET_LIMIT: usize = 96;
/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAYFS: u64 = 0x794c_7630;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    images: images::Options,
    port: u16,
    build: Build,
}

/// What to build before the engine is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    Dev,
    Release,
    /// The whole workspace with its tests: one choice of features for all that a test run needs.
    Tests,
    /// Take what was built before.
    None,
}

/// An engine's surroundings, as a client needs to see them.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) variables: Vec<(&'static str, OsString)>,
    /// The program under the name that clients know.
    pub(crate) dagger: PathBuf,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut for_images = Vec::new();
        let (mut port, mut build) = (PORT, Build::Dev);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .with_context(|| format!("`{arg}` needs a value"))
            };
            match arg.as_str() {
                "--group" => for_images.extend([arg.clone(), value()?.clone()]),
                "--port" => {
                    port = value()?
                        .parse()
                        .context("`--port` needs a number up to 65535")?
                }
                "--release" => build = Build::Release,
                "--no-build" => build = Build::None,
                other => bail!("unknown option `{other}` of `env`"),
            }
        }
        Ok(Options {
            images: images::Options::parse(&for_images)?,
            port,
            build,
        })
    }
}

/// Starts what is missing and prints the variables.
pub(crate) fn up(options: &Options) -> Result<()> {
    let dir = workspace::target("env");
    files::make_dir(&dir)?;
    // Images first: they are of use to others even while the engine does not compile.
    let registry = serve(&options.images, options.port)?;
    let binary = build(options.build, &dir)?;
    let shell = shell(&dir, &registry, &binary)?;
    for (name, value) in shell.variables {
        let value = value
            .into_string()
            .map_err(|v| anyhow::anyhow!("{name} would not be UTF-8: {v:?}"))?;
        println!("export {name}={}", quoted(&value));
    }
    Ok(())
}

/// Lays out in `dir` what makes a client run `binary` with images from `registry`.
pub(crate) fn shell(dir: &Path, registry: &Registry, binary: &Path) -> Result<Shell> {
    let place = Place::choose(dir);
    for path in [Some(place.state.as_path()), place.socket.parent()]
        .into_iter()
        .flatten()
    {
        files::make_dir(path)?;
    }
    let address = registry.address();
    let config = dir.join("engine.json");
    let registries = json!({ "registries": { "docker.io": { "mirrors": [address] }, address: { "http": true } } });
    files::write(&config, &serde_json::to_vec_pretty(&registries)?)?;
    let bin = dir.join("bin");
    link_programs(&bin, binary)?;
    let dagger = bin.join("dagger");
    Ok(Shell {
        variables: vec![
            ("PATH", path_with(&bin)?),
            (
                "_EXPERIMENTAL_DAGGER_CLI_BIN",
                dagger.clone().into_os_string(),
            ),
            ("BODKIN_CONFIG", config.into_os_string()),
            ("BODKIN_STATE_DIR", place.state.into_os_string()),
            ("BODKIN_SOCKET", place.socket.into_os_string()),
        ],
        dagger,
    })
}

/// Makes the images that are missing and serves them.
pub(crate) fn serve(images: &images::Options, port: u16) -> Result<Registry> {
    if let Some(missing) = registry::missing_program() {
        bail!("{missing}");
    }
    let list = images::run(images)?;
    let registry = Registry::new(port);
    registry.serve(&list)?;
    Ok(registry)
}

/// Stops registry and engine of this work tree.
pub(crate) fn down(args: &[String]) -> Result<()> {
    if let Some(arg) = args.first() {
        bail!("`down` takes no arguments, not `{arg}`");
    }
    let dir = workspace::target("env");
    let mut stopped = BTreeSet::new();
    if stop_engine(&dir)? {
        stopped.insert("engine");
    }
    if Registry::new(PORT).service().stop()? {
        stopped.insert("registry");
    }
    match stopped.len() {
        0 => eprintln!("nothing was running"),
        _ => eprintln!(
            "stopped: {}",
            stopped.into_iter().collect::<Vec<_>>().join(", ")
        ),
    }
    Ok(())
}

/// Asks the engine at our socket to stop and waits until its process is gone; false if there is none.
pub(crate) fn stop_engine(dir: &Path) -> Result<bool> {
    let socket = Place::choose(dir).socket;
    let Some((mut stream, engine)) = engine(dir)? else {
        return Ok(false);
    };
    let context = || format!("cannot stop the engine at `{}`", socket.display());
    writeln!(stream, "{}", json!({ "kind": "admin", "request": "stop" })).with_context(context)?;
    if !engine.wait(process::PATIENCE)? {
        engine.end()?;
    }
    fs::remove_file(&socket).ok();
    Ok(true)
}

/// A connection to the engine at the socket of `dir` and its process; nothing if none answers.
pub(crate) fn engine(dir: &Path) -> Result<Option<(UnixStream, process::Handle)>> {
    let socket = Place::choose(dir).socket;
    let Ok(stream) = UnixStream::connect(&socket) else {
        return Ok(None);
    };
    let pid = rustix::net::sockopt::socket_peercred(&stream)
        .with_context(|| format!("cannot tell who listens at `{}`", socket.display()))?
        .pid;
    Ok(Some((stream, process::Handle::open(pid, "engine")?)))
}

/// Where the engine of `dir` keeps its state.
pub(crate) fn state_dir(dir: &Path) -> PathBuf {
    Place::choose(dir).state
}

/// Stops the engine of `dir` and forgets all that it stored.
pub(crate) fn wipe(dir: &Path) -> Result<()> {
    stop_engine(dir)?;
    let state = Place::choose(dir).state;
    match fs::remove_dir_all(&state) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove `{}`", state.display()))
        }
        _ => Ok(()),
    }
}

/// Builds the engine; returns the path of the binary.
pub(crate) fn build(build: Build, dir: &Path) -> Result<PathBuf> {
    if build == Build::None {
        let binary = fs::canonicalize(dir.join("bin/bodkin"));
        return binary.context("no engine was built before; leave `--no-build` away");
    }
    let mut command = process::cargo();
    command.args(["build", "--message-format", "json-render-diagnostics"]);
    match build {
        Build::Tests => command.args(["--workspace", "--bins", "--tests"]),
        Build::Release => command.args(["--package", "bodkin", "--release"]),
        Build::Dev | Build::None => command.args(["--package", "bodkin"]),
    };
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cannot build the engine ({})", output.status);
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    executable(&messages).context("cargo named no binary `bodkin`")
}

/// The path of the binary `bodkin` in cargo's JSON messages.
fn executable(messages: &str) -> Option<PathBuf> {
    let of_line = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        // Built for its tests, the binary has an executable of its own.
        let ours = message["reason"] == "compiler-artifact"
            && message["target"]["name"] == "bodkin"
            && message["profile"]["test"] != true;
        ours.then(|| message["executable"].as_str().map(PathBuf::from))
            .flatten()
    };
    messages.lines().rev().find_map(of_line)
}

/// Both names of the program in `bin`.
fn link_programs(bin: &Path, binary: &Path) -> Result<()> {
    files::make_dir(bin)?;
    for name in ["bodkin", "dagger"] {
        let link = bin.join(name);
        if fs::read_link(&link).is_ok_and(|target| target == binary) {
            continue;
        }
        let fresh = bin.join(format!(".{name}.{}", std::process::id()));
        std::os::unix::fs::symlink(binary, &fresh)
            .and_then(|()| fs::rename(&fresh, &link))
            .with_context(|| format!("cannot link `{}`", link.display()))?;
    }
    Ok(())
}

/// `PATH` with `bin` in front, once.
fn path_with(bin: &Path) -> Result<OsString> {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&old).filter(|p| p != bin);
    std::env::join_paths(std::iter::once(bin.to_owned()).chain(others))
        .context("cannot put the programs in PATH")
}

/// Where the engine keeps its state and listens.
struct Place {
    state: PathBuf,
    socket: PathBuf,
}

impl Place {
    /// In `dir`, unless that cannot be: the state must lie on a file system that can hold an overlay, the socket's path
    /// must be short. Then a folder outside that is named after the work tree.
    fn choose(dir: &Path) -> Self {
        let short = &files::hash_of([dir.as_os_str().as_encoded_bytes()])[..12];
        // A missing folder means that `env` never ran here.
        let on_overlay = rustix::fs::statfs(dir)
            .is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|t| t == OVERLAYFS));
        let state = if on_overlay {
            PathBuf::from(format!("/dev/shm/bodkin-{short}"))
        } else {
            dir.join("state")
        };
        let mut socket = dir.join("engine.sock");
        if socket.as_os_str().len() > SOCKET_LIMIT {
            socket = PathBuf::from(format!("/tmp/bodkin-{short}/engine.sock"));
        }
        Place { state, socket }
    }
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=+,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("/a/b:c"), "/a/b:c");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_socket_path_too_long_for_the_kernel_moves_elsewhere() {
        let near = Place::choose(Path::new("/work/target/env"));
        assert_eq!(near.socket, Path::new("/work/target/env/engine.sock"));
        let far = Place::choose(&Path::new("/x").join("y".repeat(90)));
        assert!(far.socket.starts_with("/tmp") && far.socket.as_os_str().len() < SOCKET_LIMIT);
    }

    #[test]
    fn the_binary_is_the_one_that_cargo_names() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"cli"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"bodkin"},"profile":{"test":false},"executable":"/t/debug/bodkin"}
{"reason":"compiler-artifact","target":{"name":"bodkin"},"profile":{"test":true},"executable":"/t/debug/deps/bodkin-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/debug/bodkin")));
        assert_eq!(executable(""), None);
    }
}
