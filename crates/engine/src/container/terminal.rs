//! Terminals: a process of a container, shown on the terminal of the client's user.

use std::{future::Future, io, os::fd::OwnedFd, sync::Arc};

use graph::{
    error::{Class, Error},
    resolve::{Args, Invocation, Memo, View},
    value::{Object, Value},
};
use sandbox::{Child, Exit, spec::Stdio};
use store::Snapshot;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::{Receiver, Sender},
};
use wire::{
    LinkRequest,
    frame::{self, Kind},
    link::{TerminalFacts, read_status},
};

use super::{
    Container, Mount, MountSource, TerminalCommand,
    exec::ExecArgs,
    prepare::{self, Held, Place},
};
use crate::{
    Ctx,
    directory::Directory,
    dispatch::Binder,
    link::Io,
    nested::Nesting,
    node::exec::{ExecPlan, Expect, PlannedSource},
    service,
    session::Client,
};

type Answer = Result<Value, Error>;

/// The name of a host with a terminal.
const HOSTNAME: &str = "bodkin";
/// The image that a directory is shown in.
const DIRECTORY_IMAGE: &str = "alpine:3.20";
/// Where a directory is shown.
const DIRECTORY_PLACE: &str = "/src";
/// Largest piece read at once, in bytes.
const CHUNK: usize = 16 << 10;

/// What `terminal` gave before 0.12.
#[derive(Debug, Clone)]
struct Terminal;

/// Binds all fields.
pub(super) fn bind(b: &mut Binder) {
    b.bind("Container.terminal", Memo::Never, container);
    b.bind("Directory.terminal", Memo::Never, directory);
    b.bind("Terminal.websocketEndpoint", Memo::Never, |_| async {
        Ok(Value::string(""))
    });
    b.bind("Terminal.sync", Memo::Never, |inv| async move {
        Ok(Value::Id(receiver(&inv)?.call.clone()))
    });
}

fn receiver(inv: &Invocation<Ctx>) -> Result<&Object, Error> {
    let this = inv.this.as_ref();
    this.ok_or_else(|| Error::internal("`terminal` without a receiver"))
}

/// The command that was asked for, else the container's, else a shell.
fn command(args: &Args, default: Option<&TerminalCommand>) -> TerminalCommand {
    let asked = args.strings("cmd");
    let (nesting, privileged) = (
        args.bool("experimentalPrivilegedNesting"),
        args.bool("insecureRootCapabilities"),
    );
    match default {
        Some(d) if asked.is_empty() && !d.args.is_empty() => TerminalCommand {
            args: d.args.clone(),
            nesting: nesting || d.nesting,
            privileged: privileged || d.privileged,
        },
        _ => TerminalCommand {
            args: match asked.is_empty() {
                true => vec!["sh".into()],
                false => asked,
            },
            nesting,
            privileged,
        },
    }
}

async fn container(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    open(&inv.ctx, c, command(&inv.args, c.terminal.as_deref())).await?;
    if inv.view < View::new(0, 12, 0) {
        return Ok(inv.object(Terminal));
    }
    Ok(Value::Object(receiver(&inv)?.clone()))
}

async fn directory(inv: Invocation<Ctx>) -> Answer {
    let dir = inv.this::<Directory>()?;
    let base: Container = match inv.args.id("container") {
        Some(id) => inv.ctx.load(id).await?,
        None => alpine(&inv).await?,
    };
    let mut c = base.configured(|k| k.workdir = DIRECTORY_PLACE.into());
    Arc::make_mut(&mut c.mounts).push(Mount {
        target: DIRECTORY_PLACE.into(),
        source: MountSource::Directory {
            tree: dir.tree.clone(),
            readonly: false,
        },
    });
    open(&inv.ctx, &c, command(&inv.args, base.terminal.as_deref())).await?;
    Ok(Value::Object(receiver(&inv)?.clone()))
}

async fn alpine(inv: &Invocation<Ctx>) -> Result<Container, Error> {
    let solver = &inv.ctx.session.solver;
    let empty = solver
        .select(&inv.ctx, inv.view, None, "container", Args::default())
        .await?;
    let Value::Object(empty) = empty else {
        return Err(Error::internal("`container` gave no object"));
    };
    let address = Args(vec![("address".into(), Value::string(DIRECTORY_IMAGE))]);
    let made = solver
        .select(&inv.ctx, inv.view, Some(&empty), "from", address)
        .await?;
    match made {
        Value::Object(o) => o.get::<Container>().cloned(),
        _ => None,
    }
    .ok_or_else(|| Error::internal("`from` gave no container"))
}

/// Runs a command of a container on the client's terminal, to its end. What it changes is dropped.
async fn open(ctx: &Ctx, c: &Container, command: TerminalCommand) -> Result<(), Error> {
    let args = ExecArgs {
        args: command.args,
        use_entrypoint: false,
        expect: Expect::Any(255),
        privileged: command.privileged,
        nesting: command.nesting,
        ..ExecArgs::default_command()
    };
    let (plan, inputs) = c.plan(&args)?;
    let inputs = ctx.inputs(&inputs).await?;
    show(ctx, Screen::open(&ctx.client, ""), plan, &inputs)
        .await
        .map(drop)
}

/// Opens a terminal in what a failed step has left, if its user asked for that. The step has failed either way.
pub(super) async fn after_failure(
    ctx: &Ctx,
    plan: &ExecPlan,
    outputs: Result<Vec<Snapshot>, Error>,
    why: &str,
) {
    let user = ctx.client.user();
    let (Some(command), Ok(outputs)) = (user.info.interactive_command.clone(), outputs) else {
        return;
    };
    let mut plan = plan.clone();
    plan.argv = command.split_whitespace().map(str::to_owned).collect();
    plan.stdin = None;
    for redirect in [
        &mut plan.redirect_stdin,
        &mut plan.redirect_stdout,
        &mut plan.redirect_stderr,
    ] {
        *redirect = None;
    }
    for mount in &mut plan.mounts {
        match &mut mount.source {
            PlannedSource::Tree { input, output, .. } => *input = Some(*output as usize),
            // It was filled when the step ran.
            PlannedSource::Cache { seed, .. } => *seed = None,
            _ => {}
        }
    }
    let said = prepare::shown(ctx, &plan).text(why);
    let title = format!(
        "\r\n{}\r\nThe step failed; this is a terminal in what it left. The step's error follows its end.\r\n",
        said.replace('\n', "\r\n")
    );
    if let Err(e) = show(ctx, Screen::open(&user, &title), plan, &outputs).await {
        ctx.session.progress.note(&format!(
            "cannot open a terminal in the failed step: {}",
            e.message()
        ));
    }
}

/// Runs a plan on a terminal, which is asked for when all else is ready.
pub(super) async fn show(
    ctx: &Ctx,
    screen: impl Future<Output = Result<Screen, Error>>,
    mut plan: ExecPlan,
    inputs: &[Snapshot],
) -> Result<Exit, Error> {
    let bound = service::bind(ctx, &plan.services).await?;
    // The secrets are got; the user may see them: what is shown is the user's own terminal.
    prepare::masked(ctx, &plan).await?;
    let mut held = Held::default();
    let mounts = prepare::mounts(ctx, &plan, inputs, &mut held).await?;
    let mut network = ctx.engine.networking.take(&ctx.session).await?;
    let nesting = Nesting::start(ctx, &plan, HOSTNAME, &mut network).await?;
    let screen = screen.await?;
    for (name, value) in [
        ("PS1", format!("dagger {} $ ", plan.cwd)),
        ("TERM", screen.facts.term.clone()),
    ] {
        if !plan.env.iter().any(|(n, _)| n == name) {
            plan.env.push((name.to_owned(), value));
        }
    }
    let place = Place {
        network: &network,
        nesting: nesting.as_ref(),
        hostname: HOSTNAME,
        own_names: &[],
        aliases: bound.aliases(),
    };
    let prepared = match prepare::assemble(ctx, &plan, mounts, &place) {
        Ok(prepared) => prepared,
        Err(e) => return Err(screen.refuse(e).await),
    };
    let mut spec = prepared.spec;
    spec.stdio = Stdio {
        stdin: None,
        stdout: None,
        stderr: None,
        terminal: true,
    };
    let child = match prepare::start(ctx, spec).await? {
        Ok(child) => child,
        Err(e) => {
            let what = plan.argv.join(" ");
            let e = Error::user(format!(
                "cannot open a terminal with {what:?}: {}",
                graph::error::chain(&e)
            ));
            return Err(screen.refuse(e).await);
        }
    };
    let nesting = nesting.map(|n| n.attend(ctx, &child));
    let ended = screen.show(child).await;
    drop(nesting);
    ended
}

/// A client's terminal, made ready.
pub(crate) struct Screen {
    pub(super) stream: Box<dyn Io>,
    pub(crate) facts: TerminalFacts,
}

impl Screen {
    /// Asks a client for its terminal.
    ///
    /// # Errors
    /// The client has none.
    pub(crate) async fn open(client: &Client, title: &str) -> Result<Self, Error> {
        let refused = |e: wire::LinkError| crate::host::link_error(&e);
        let request = LinkRequest::Terminal {};
        let mut stream = client.link.open(request).await.map_err(refused)?;
        let facts: TerminalFacts = read_status(&mut stream)
            .await
            .map_err(|e| refused(e).context("cannot open a terminal"))?;
        if !title.is_empty() {
            send(&mut stream, Kind::Data, title.as_bytes())
                .await
                .map_err(|e| lost(&e))?;
        }
        Ok(Self { stream, facts })
    }

    /// Gives the terminal back unused.
    pub(crate) async fn refuse(mut self, error: Error) -> Error {
        // The error goes to who asked; the terminal is given back when the stream ends.
        let _ = send(&mut self.stream, Kind::Done, b"").await;
        error
    }

    /// Connects a process with the terminal until it ends. A client that is gone takes it along.
    ///
    /// # Errors
    /// A process without a terminal, or the engine cannot use it.
    pub(crate) async fn show(self, mut child: Child) -> Result<Exit, Error> {
        let broken = |e: io::Error| Error::environment(format!("cannot use the terminal: {e}"));
        let master = child
            .terminal
            .take()
            .ok_or_else(|| Error::environment("the container has no terminal"))?;
        resize(&master, self.facts.rows, self.facts.columns).map_err(broken)?;
        let flags = rustix::fs::fcntl_getfl(&master).map_err(|e| broken(e.into()))?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)
            .map_err(|e| broken(e.into()))?;
        // A terminal is read and written as a pipe is, whatever else it can do.
        let mut screen = master
            .try_clone()
            .and_then(Receiver::from_owned_fd_unchecked)
            .map_err(broken)?;
        let mut keys = master
            .try_clone()
            .and_then(Sender::from_owned_fd_unchecked)
            .map_err(broken)?;
        let (mut from, mut to) = tokio::io::split(self.stream);
        let input = async {
            let mut payload = Vec::new();
            loop {
                match frame::read_async(&mut from, &mut payload).await {
                    Ok(Kind::Data) => {
                        if keys.write_all(&payload).await.is_err() {
                            return;
                        }
                    }
                    Ok(Kind::Resize) => {
                        if let [r1, r2, c1, c2] = payload[..] {
                            let size = (u16::from_le_bytes([r1, r2]), u16::from_le_bytes([c1, c2]));
                            // The process keeps the old size then.
                            let _ = resize(&master, size.0, size.1);
                        }
                    }
                    _ => return,
                }
            }
        };
        let output = async {
            let mut buf = vec![0; CHUNK];
            // The last of the terminal's users has closed it.
            while let Ok(n @ 1..) = screen.read(&mut buf).await {
                if send(&mut to, Kind::Data, &buf[..n]).await.is_err() {
                    return;
                }
            }
        };
        let shown = {
            let (mut input, mut output) = (std::pin::pin!(input), std::pin::pin!(output));
            tokio::select! {
                () = &mut output => true,
                () = &mut input => false,
                _ = child.wait() => {
                    // Nobody holds the terminal any more: what it still has is read to its end.
                    let _ = tokio::time::timeout(LAST_WORDS, output).await;
                    true
                }
            }
        };
        if shown {
            // Programs may close their terminal before they end.
            if tokio::time::timeout(LAST_WORDS, child.wait())
                .await
                .is_err()
            {
                let _ = child.kill();
            }
        } else {
            let _ = child.kill();
        }
        let exit = child.wait().await.map_err(broken)?;
        let _ = send(&mut to, Kind::Done, b"").await;
        match shown {
            true => Ok(exit),
            false => Err(Error::new(
                Class::Cancelled,
                "the client's terminal is gone",
            )),
        }
    }
}

/// How long a process may take to end after its terminal is closed, and the other way round.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

fn lost(e: &io::Error) -> Error {
    Error::environment(format!("lost the client's terminal: {e}"))
}

async fn send(
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    kind: Kind,
    bytes: &[u8],
) -> io::Result<()> {
    frame::write_async(to, kind, bytes).await?;
    to.flush().await
}

fn resize(master: &OwnedFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).map_err(Into::into)
}
