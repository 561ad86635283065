//! A container that runs as a service, from its start to its end.

use std::{future::Future, pin::pin, time::Duration};

use graph::error::{Class, Error};
use sandbox::{
    Child, Exit,
    spec::{ExecSpec, Stdio, UserSpec},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Bound, Door, Service, bind, domain,
    health::{self, Probe, Target},
    healthcheck::Healthcheck,
    output::Log,
    ready,
    registry::{Announce, Controls, End, TERMINATE},
};
use crate::{
    Ctx,
    container::{
        Port,
        prepare::{self, Held, Masked, Place, Prepared},
    },
    nested::Nesting,
    network::{ExecNetwork, Named},
    node::{Output, exec::ExecPlan},
    progress::{Step, Stream},
};

/// The longest host name Linux takes.
const HOSTNAME_MAX: usize = 64;
/// How long output is waited for after the process has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Asks a process to end.
const TERM: i32 = 15;

/// What a container runs as a service, decided.
#[derive(Debug)]
pub struct ContainerService {
    /// The process and the trees it works on; or why there can be none, told when it is started.
    pub(super) exec: Result<(ExecPlan, Vec<Option<Output>>), String>,
    /// Ports that the pipeline declared.
    pub(super) ports: std::sync::Arc<Vec<Port>>,
    /// What the container's labels ask for.
    pub(super) wanted: ready::Wanted,
    /// Its health check, where the client's version knows of such.
    pub(super) healthcheck: Option<Healthcheck>,
    /// Where tunnels to it listen, when its labels say so.
    pub(super) bind: Option<String>,
    /// How deep services are nested below this one.
    pub(super) depth: u32,
}

/// A process that runs, and everything it needs to.
struct Begun {
    child: Child,
    prepared: Streams,
    masked: Masked,
    commands: Commands,
    door: Option<Door>,
    _network: ExecNetwork,
    fqdn: String,
    _nesting: Option<Nesting>,
    _named: Option<Named>,
    _bound: Bound,
    _held: Held,
}

struct Streams {
    stdin: Option<std::os::fd::OwnedFd>,
    stdout: std::os::fd::OwnedFd,
    stderr: std::os::fd::OwnedFd,
}

/// How commands are run beside the service's process.
struct Commands {
    env: Vec<Vec<u8>>,
    cwd: Vec<u8>,
    user: UserSpec,
    privileged: bool,
}

/// How a life ended.
enum Ended {
    /// Before it was ready.
    Early(Exit),
    Unready(String),
    GivenUp,
    /// After it was ready; told to, or not.
    Later(Exit, bool),
}

/// Starts the service, tells when it is ready, and ends it when it is told to.
pub(super) async fn live(
    ctx: &Ctx,
    service: &Service,
    c: &ContainerService,
    controls: &mut Controls,
    announce: &mut Announce<'_>,
) -> Result<(), Error> {
    let (plan, inputs) = match &c.exec {
        Ok((plan, inputs)) => (plan, inputs),
        Err(why) => return Err(Error::user(why.as_str())),
    };
    let step = ctx.session.progress.step(
        &format!(
            "service {}: {}",
            service.hostname,
            prepare::command(ctx, plan)
        ),
        ctx.span,
    );
    let outcome = run(ctx, service, c, (plan, inputs), controls, announce, &step).await;
    match &outcome {
        Ok(()) => step.done(),
        Err(e) => step.failed(e),
    }
    outcome
}

async fn run(
    ctx: &Ctx,
    service: &Service,
    c: &ContainerService,
    (plan, inputs): (&ExecPlan, &[Option<Output>]),
    controls: &mut Controls,
    announce: &mut Announce<'_>,
    step: &Step,
) -> Result<(), Error> {
    let log = Log::default();
    announce.log(log.clone());
    let mut begun = tokio::select! {
        begun = begin(ctx, service, plan, inputs) => begun?,
        () = controls.abort() => return Err(given_up()),
    };
    let checks = ready::plan(
        &c.ports,
        c.healthcheck.as_ref(),
        &[&c.wanted, &service.ready],
    );
    let lines = health::watch_lines(&checks, &log);
    let streams = begun.prepared;
    let (stdout, stderr) = (begun.masked.scrubber(), begun.masked.scrubber());
    let show = |stream, bytes: &[u8]| {
        step.output(stream, bytes);
        log.push(stream, bytes);
    };
    let talk = async {
        let out = prepare::drain(streams.stdout, stdout, |b| show(Stream::Stdout, b));
        let err = prepare::drain(streams.stderr, stderr, |b| show(Stream::Stderr, b));
        let (_, out, err) = tokio::join!(
            prepare::feed_stdin(streams.stdin, plan.stdin.clone()),
            out,
            err
        );
        if let Err(e) = out.and(err) {
            tracing::debug!("a service's output: {e}");
        }
    };
    let (probes, asked) = mpsc::channel(1);
    let target = Target {
        hostname: &service.hostname,
        pid: begun.child.pid(),
        door: begun.door.as_ref(),
        probes: probes.clone(),
    };
    let ready = health::ready(&checks, &target, lines);
    announce.commands = Some(probes);
    announce.process = begun.child.pidfd().try_clone_to_owned().ok();
    let tell = || announce.ready(begun.fqdn.clone(), begun.door.clone(), c.ports.to_vec());
    let life = supervise(
        &mut begun.child,
        &begun.commands,
        controls,
        (ready, asked),
        tell,
    );
    let ended = beside(life, talk)
        .await
        .map_err(|e| Error::environment(format!("cannot wait for the service's process: {e}")))?;
    let said = |what: String| match log.tail() {
        tail if tail.is_empty() => Error::user(what),
        tail => Error::user(format!("{what}; its last output:\n{tail}")),
    };
    match ended {
        Ended::Early(exit) if exit.code() == 0 => {
            Err(said("exited: service exited before healthcheck".to_owned()))
        }
        Ended::Early(exit) => Err(said(format!("exited: {}", shown(exit)))),
        Ended::Unready(why) => Err(said(why)),
        Ended::GivenUp => Err(given_up()),
        Ended::Later(exit, asked) if asked || exit.code() == 0 => Ok(()),
        Ended::Later(exit, _) => Err(said(format!("exited: {}", shown(exit)))),
    }
}

fn given_up() -> Error {
    Error::new(Class::Cancelled, "it was stopped while it started")
}

/// `exit code: 1`, and why if the kernel did it.
fn shown(exit: Exit) -> String {
    match exit {
        Exit::OutOfMemory => format!("exit code: {} (out of memory)", exit.code()),
        other => format!("exit code: {}", other.code()),
    }
}

/// Makes everything the process needs, dependencies first, and starts it.
async fn begin(
    ctx: &Ctx,
    service: &Service,
    plan: &ExecPlan,
    inputs: &[Option<Output>],
) -> Result<Begun, Error> {
    let inputs = ctx.inputs(inputs).await?;
    let bound = bind(ctx, &plan.services)
        .await
        .map_err(|e| e.context("start dependent services"))?;
    let masked = prepare::masked(ctx, plan).await?;
    let mut held = Held::default();
    let mounts = prepare::mounts(ctx, plan, &inputs, &mut held).await?;
    let mut network = ctx.engine.networking.take(&ctx.session).await?;
    let short = service.hostname.to_string();
    let fqdn = format!("{short}.{}", domain(&ctx.session.id));
    // Known from now on, not from when it is ready: services may need each other to become so.
    let named = ctx
        .engine
        .networking
        .name(&network, &[&fqdn, &short])
        .await?;
    let (hostname, own_names) = if fqdn.len() <= HOSTNAME_MAX {
        (&fqdn, &short)
    } else {
        (&short, &fqdn)
    };
    let nesting = Nesting::start(ctx, plan, hostname, &mut network).await?;
    let place = Place {
        network: &network,
        nesting: nesting.as_ref(),
        hostname,
        own_names: std::slice::from_ref(own_names),
        aliases: bound.aliases(),
    };
    let Prepared {
        spec,
        stdin,
        stdout,
        stderr,
    } = prepare::assemble(ctx, plan, mounts, &place)?;
    let commands = Commands {
        env: spec.env.clone(),
        cwd: spec.cwd.clone(),
        user: spec.user.clone(),
        privileged: spec.privileged,
    };
    let child = prepare::start(ctx, spec).await?.map_err(|e| {
        let why = prepare::unknown_program(plan, &e).map_or_else(
            || prepare::not_started(plan, &e),
            |(said, code)| format!("exit code: {code}: {said}"),
        );
        Error::user(masked.texts().text(&format!("exited: {why}")))
    })?;
    let nesting = nesting.map(|n| n.attend(ctx, &child));
    let prepared = Streams {
        stdin,
        stdout,
        stderr,
    };
    let door = match network.namespace().zip(network.address()) {
        Some((namespace, address)) => {
            let own = namespace
                .try_clone()
                .map_err(|e| Error::environment(format!("cannot keep a network namespace: {e}")))?;
            Some(Door::new(own, address))
        }
        None => None,
    };
    Ok(Begun {
        child,
        prepared,
        masked,
        commands,
        door,
        _network: network,
        fqdn,
        _nesting: nesting,
        _named: named,
        _bound: bound,
        _held: held,
    })
}

/// Watches over the process until it has ended.
async fn supervise(
    child: &mut Child,
    commands: &Commands,
    controls: &mut Controls,
    (ready, mut asked): (
        impl Future<Output = Result<(), String>>,
        mpsc::Receiver<Probe>,
    ),
    tell: impl FnOnce(),
) -> std::io::Result<Ended> {
    let mut ready = pin!(ready);
    loop {
        let failed = tokio::select! {
            biased;
            exit = child.wait() => return Ok(Ended::Early(exit?)),
            Some(probe) = asked.recv() => {
                probe_in(child, commands, probe);
                continue;
            }
            ready = &mut ready => match ready {
                Ok(()) => break,
                Err(why) => Ended::Unready(why),
            },
            () = controls.abort() => Ended::GivenUp,
        };
        child.kill()?;
        child.wait().await?;
        return Ok(failed);
    }
    tell();
    let end = loop {
        tokio::select! {
            exit = child.wait() => return Ok(Ended::Later(exit?, false)),
            end = controls.end(None) => break end,
            Some(probe) = asked.recv() => probe_in(child, commands, probe),
        }
    };
    if end == End::Terminate && child.signal(TERM).is_ok() {
        tokio::select! {
            exit = child.wait() => return Ok(Ended::Later(exit?, true)),
            () = controls.killed() => {}
            () = sleep(TERMINATE) => {}
        }
    }
    child.kill()?;
    Ok(Ended::Later(child.wait().await?, true))
}

/// Starts a command beside the service's process.
fn probe_in(child: &Child, commands: &Commands, probe: Probe) {
    let mut env = commands.env.clone();
    if let Some(kind) = &probe.terminal {
        let cwd = String::from_utf8_lossy(&commands.cwd);
        for (name, value) in [("PS1", format!("dagger {cwd} $ ")), ("TERM", kind.clone())] {
            let head = format!("{name}=");
            if !env.iter().any(|e| e.starts_with(head.as_bytes())) {
                env.push((head + &value).into_bytes());
            }
        }
    }
    let spec = ExecSpec {
        argv: probe.argv.into_iter().map(String::into_bytes).collect(),
        env,
        cwd: commands.cwd.clone(),
        user: commands.user.clone(),
        stdio: Stdio {
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: probe.terminal.is_some(),
        },
        privileged: commands.privileged,
    };
    // A few milliseconds of system calls.
    let started =
        tokio::task::block_in_place(|| child.exec(spec)).map_err(|e| graph::error::chain(&e));
    // Whoever asked may have given up.
    let _ = probe.started.send(started);
}

/// Runs `main` to its end with `side` beside it, which then gets a moment to end as well.
async fn beside<T>(main: impl Future<Output = T>, side: impl Future<Output = ()>) -> T {
    let (mut main, mut side) = (pin!(main), pin!(side));
    let mut open = true;
    let value = loop {
        tokio::select! {
            value = &mut main => break value,
            () = &mut side, if open => open = false,
        }
    };
    if open {
        // What is still to come is not worth more.
        let _ = timeout(LAST_WORDS, side).await;
    }
    value
}
