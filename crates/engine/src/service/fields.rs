//! The fields of `Service`, and those of other types that make or bind services.

use std::{net::IpAddr, sync::Arc};

use graph::{
    call::Digest,
    error::Error,
    resolve::{Args, Invocation, Memo, View},
    value::Value,
};

use super::{
    Binding, ContainerService, DEPTH_MAX, Forward, HostPorts, Kind, Service, Tunnel, add_binding,
    health::Probe,
    healthcheck::{self, Healthcheck},
    hostname_of, ready, tunnel,
};
use crate::{
    Ctx,
    container::{Container, config, exec::ExecArgs, terminal::Screen},
    dispatch::Binder,
    node::{Op, exec::Expect},
};

type Answer = Result<Value, Error>;

/// The container label that says where tunnels to its service listen.
const BIND_LABEL: &str = "bodkin.tunnel.bind";
/// The first version in which `asService` takes a command.
const WITH_COMMAND: View = View::new(0, 15, 0);
/// The first version that knows of health checks.
const WITH_HEALTHCHECK: View = View::new(0, 20, 1);

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.by_view("Container.asService", Memo::Session, as_service);
    b.bind(
        "Container.withServiceBinding",
        Memo::Session,
        with_service_binding,
    );
    b.by_view("Container.up", Memo::Never, container_up);
    b.bind("Host.tunnel", Memo::Client, host_tunnel);
    b.bind("Host.service", Memo::Client, host_service);
    b.bind("Service.hostname", Memo::Never, hostname);
    b.bind("Service.ports", Memo::Never, ports);
    b.bind("Service.endpoint", Memo::Never, endpoint);
    b.bind("Service.start", Memo::Never, start);
    b.bind("Service.stop", Memo::Never, stop);
    b.bind(
        "Service.sync",
        Memo::Never,
        |inv| async move { this_id(&inv) },
    );
    b.bind("Service.up", Memo::Never, up);
    b.bind("Service.terminal", Memo::Never, terminal);
    b.bind("Service.withHostname", Memo::Session, with_hostname);
    b.bind("Service.withReadiness", Memo::Session, with_readiness);
    b.bind("Service.logs", Memo::Never, logs);
    healthcheck::bind(b);
}

fn this_id(inv: &Invocation<Ctx>) -> Answer {
    let this = inv
        .this
        .as_ref()
        .ok_or_else(|| Error::internal("a field without a receiver"))?;
    Ok(Value::Id(this.call.clone()))
}

async fn as_service(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let exec = if inv.view < WITH_COMMAND {
        last_exec(c)?
    } else {
        Ok(c.plan(&command(&inv, c))?)
    };
    let depth = c
        .services
        .iter()
        .map(|b| b.service.depth() + 1)
        .max()
        .unwrap_or(0);
    if depth > DEPTH_MAX {
        return Err(Error::user(format!(
            "services may depend on each other {DEPTH_MAX} levels deep at most"
        )));
    }
    let container = ContainerService {
        exec,
        ports: c.ports.clone(),
        wanted: ready::from_labels(&c.config.labels).map_err(|e| Error::user(e.to_string()))?,
        healthcheck: if inv.view < WITH_HEALTHCHECK {
            None
        } else {
            Healthcheck::of(&c.config.other)
        },
        bind: config::get(&c.config.labels, BIND_LABEL).map(|b| b.to_string()),
        depth,
    };
    let id = inv.call.digest();
    Ok(inv.object(Service {
        id,
        hostname: hostname_of(id, "").into(),
        kind: Arc::new(Kind::Container(container)),
        ready: Arc::default(),
    }))
}

type Exec = (
    crate::node::exec::ExecPlan,
    Vec<Option<crate::node::Output>>,
);

/// What the container does when it is run as such: its last exec, else its default command.
///
/// # Errors
/// There is neither.
pub(crate) fn command_of(c: &Container) -> Result<Exec, Error> {
    last_exec(c)?.map_err(Error::user)
}

/// What `asService` ran before it took a command: the last exec; without one, the default command.
fn last_exec(c: &Container) -> Result<Result<Exec, String>, Error> {
    let Some(node) = &c.last_exec else {
        return c.plan(&ExecArgs::default_command()).map(Ok);
    };
    let untouched = c
        .rootfs
        .output
        .as_ref()
        .is_some_and(|o| Arc::ptr_eq(&o.node, node) && o.index == 0);
    match &node.op {
        Op::Exec(plan) if untouched => {
            let mut plan = (**plan).clone();
            // What was bound since is wanted too.
            for b in c.services.iter() {
                merge(&mut plan.services, b);
            }
            Ok(Ok((plan, node.inputs.clone())))
        }
        _ => Ok(Err("service container must be result of withExec (expected exec op, got a change of its files)".to_owned())),
    }
}

fn merge(list: &mut Vec<Binding>, binding: &Binding) {
    add_binding(list, binding.service.clone(), "");
    for alias in &binding.aliases {
        add_binding(list, binding.service.clone(), alias);
    }
}

/// The command `asService` was given, or the default one. The entrypoint goes before a default command that is the image's own.
fn command(inv: &Invocation<Ctx>, c: &Container) -> ExecArgs {
    let a = &inv.args;
    let args = a.strings("args");
    let own = args.is_empty() && !c.config.cmd_chosen && !c.config.entrypoint.is_empty();
    ExecArgs {
        args,
        use_entrypoint: a.bool("useEntrypoint") || own,
        expand: a.bool("expand"),
        expect: Expect::Any(255),
        privileged: a.bool("insecureRootCapabilities"),
        nesting: a.bool("experimentalPrivilegedNesting"),
        init: !a.bool("noInit"),
        ..ExecArgs::default_command()
    }
}

async fn with_service_binding(inv: Invocation<Ctx>) -> Answer {
    let service: Service = inv
        .ctx
        .load(
            inv.args
                .id("service")
                .ok_or_else(|| Error::user("`service` is missing"))?,
        )
        .await?;
    if let Kind::Tunnel(_) = &*service.kind {
        return Err(Error::user(
            "a tunnel leads to a container and cannot be bound to one: bind the service behind it",
        ));
    }
    let alias = inv.args.str("alias");
    if alias.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(Error::user(format!("alias {alias:?} is no host name")));
    }
    let mut c = inv.this::<Container>()?.clone();
    add_binding(Arc::make_mut(&mut c.services), service, alias);
    Ok(inv.object(c))
}

/// The number of a port in an input object; 0 and null are none.
fn port_of(name: &str, value: &Value) -> Result<Option<u16>, Error> {
    match value {
        Value::Null | Value::Int(0) => Ok(None),
        Value::Int(n) => u16::try_from(*n).map(Some).map_err(|_| {
            Error::user(format!(
                "{name} port {n} is out of range: ports go from 1 to 65535"
            ))
        }),
        _ => Ok(None),
    }
}

/// The `ports` argument.
fn forwards_of(args: &Args) -> Result<Vec<Forward>, Error> {
    let Value::List(items) = args.get("ports") else {
        return Ok(Vec::new());
    };
    let forward = |item: &Value| {
        let Value::Input(fields) = item else {
            return Err(Error::internal("a port that is no input object"));
        };
        let get = |name: &str| {
            fields
                .iter()
                .find(|(n, _)| **n == *name)
                .map_or(&Value::Null, |(_, v)| v)
        };
        let backend = port_of("backend", get("backend"))?.ok_or_else(|| {
            Error::user("backend port 0 is out of range: ports go from 1 to 65535")
        })?;
        let udp = matches!(get("protocol"), Value::Enum(p) | Value::String(p) if **p == *"UDP");
        Ok(Forward {
            frontend: port_of("frontend", get("frontend"))?,
            backend,
            udp,
        })
    };
    items.iter().map(forward).collect()
}

/// One client's service: two clients of a session do not share it.
fn client_id(inv: &Invocation<Ctx>) -> Digest {
    let mut bytes = inv.call.digest().0.to_le_bytes().to_vec();
    bytes.extend_from_slice(&inv.ctx.client.key.to_le_bytes());
    Digest(xxhash_rust::xxh3::xxh3_128(&bytes))
}

fn tunnel_to(inv: &Invocation<Ctx>, upstream: Service, native: bool) -> Result<Service, Error> {
    let forwards = tunnel::forwards(&upstream, native, forwards_of(&inv.args)?)?;
    let label = match &*upstream.kind {
        Kind::Container(c) => c.bind.as_deref(),
        _ => None,
    };
    let bind = inv
        .args
        .opt_str("bind")
        .or(label)
        .unwrap_or(tunnel::LOCALHOST);
    let bind: IpAddr = bind.parse().map_err(|_| {
        Error::user(format!(
            "cannot open ports on `{bind}`: it is no IP address"
        ))
    })?;
    let id = client_id(inv);
    let tunnel = Tunnel {
        upstream,
        forwards,
        bind,
        client: inv.ctx.client.clone(),
    };
    Ok(Service {
        id,
        hostname: hostname_of(id, "").into(),
        kind: Arc::new(Kind::Tunnel(tunnel)),
        ready: Arc::default(),
    })
}

async fn host_tunnel(inv: Invocation<Ctx>) -> Answer {
    let upstream: Service = inv
        .ctx
        .load(
            inv.args
                .id("service")
                .ok_or_else(|| Error::user("`service` is missing"))?,
        )
        .await?;
    let service = tunnel_to(&inv, upstream, inv.args.bool("native"))?;
    Ok(inv.object(service))
}

async fn host_service(inv: Invocation<Ctx>) -> Answer {
    let forwards = forwards_of(&inv.args)?;
    if forwards.is_empty() {
        return Err(Error::user("no ports specified"));
    }
    let host = inv
        .args
        .opt_str("host")
        .filter(|h| !h.is_empty())
        .unwrap_or("localhost")
        .to_owned();
    let id = client_id(&inv);
    // What listens there may be another thing in another session: its name is this session's alone, and with it the cache.
    let hostname = hostname_of(id, &inv.ctx.session.id).into();
    let kind = Arc::new(Kind::Host(HostPorts {
        host,
        forwards,
        client: inv.ctx.client.clone(),
    }));
    Ok(inv.object(Service {
        id,
        hostname,
        kind,
        ready: Arc::default(),
    }))
}

/// A running tunnel, or the error of one that does not run.
fn running(
    inv: &Invocation<Ctx>,
    service: &Service,
) -> Result<Arc<super::registry::Running>, Error> {
    let running = inv.ctx.session.services.running(service.id);
    running.ok_or_else(|| Error::user(format!("service {} is not running", service.hostname)))
}

async fn hostname(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?;
    Ok(Value::string(match &*service.kind {
        Kind::Tunnel(_) => running(&inv, service)?.hostname.as_str().into(),
        _ => service.hostname.clone(),
    }))
}

async fn ports(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?;
    Ok(inv.objects(match &*service.kind {
        Kind::Tunnel(_) => running(&inv, service)?.ports.clone(),
        _ => service.declared_ports(),
    }))
}

async fn endpoint(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?;
    let (host, ports) = match &*service.kind {
        Kind::Tunnel(_) => {
            let r = running(&inv, service)?;
            (r.hostname.clone(), r.ports.clone())
        }
        _ => (service.hostname.to_string(), service.declared_ports()),
    };
    let port = match inv.args.int("port") {
        Some(p) => p,
        None => ports
            .first()
            .map(|p| i64::from(p.port))
            .ok_or_else(|| Error::user("no ports exposed"))?,
    };
    let scheme = inv.args.str("scheme");
    Ok(Value::string(if scheme.is_empty() {
        format!("{host}:{port}")
    } else {
        format!("{scheme}://{host}:{port}")
    }))
}

async fn start(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?;
    inv.ctx
        .session
        .services
        .start(&inv.ctx, service)
        .await
        .map_err(|e| e.context(format_args!("start {}", service.hostname)))?;
    this_id(&inv)
}

async fn stop(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?;
    inv.ctx
        .session
        .services
        .stop(service.id, inv.args.bool("kill"))
        .await;
    this_id(&inv)
}

/// `terminal`: a command beside the service's process, which is started if it does not run.
async fn terminal(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?.clone();
    let used = inv.ctx.session.services.acquire(&inv.ctx, &service).await?;
    let commands = used.running().commands.as_ref().ok_or_else(|| {
        Error::user("only a container's service has a place to open a terminal in")
    })?;
    let mut argv: Vec<String> = inv
        .args
        .strings("cmd")
        .iter()
        .map(|s| s.to_string())
        .collect();
    if argv.is_empty() {
        argv.push("sh".to_owned());
    }
    let gone = || Error::user(format!("service {} has ended", service.hostname));
    let screen = Screen::open(&inv.ctx.client, "").await?;
    let (started, answer) = tokio::sync::oneshot::channel();
    let probe = Probe {
        argv,
        terminal: Some(screen.facts.term.clone()),
        started,
    };
    let child = match commands.send(probe).await {
        Ok(()) => answer.await.map_err(|_| gone()),
        Err(_) => Err(gone()),
    };
    match child {
        Ok(Ok(child)) => screen.show(child).await.map(drop)?,
        Ok(Err(why)) => {
            let e = Error::user(format!("cannot open a terminal in the service: {why}"));
            return Err(screen.refuse(e).await);
        }
        Err(e) => return Err(screen.refuse(e).await),
    }
    same(&inv)
}

/// The receiver itself.
fn same(inv: &Invocation<Ctx>) -> Answer {
    let this = inv.this.as_ref();
    let this = this.ok_or_else(|| Error::internal("a field without a receiver"))?;
    Ok(Value::Object(this.clone()))
}

async fn up(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?.clone();
    keep_up(&inv, service).await
}

/// Opens a service's ports on the client's machine for as long as the request lasts.
async fn keep_up(inv: &Invocation<Ctx>, service: Service) -> Answer {
    let native =
        matches!(inv.args.get("ports"), Value::List(l) if !l.is_empty()) || inv.args.bool("random");
    let tunnel = tunnel_to(inv, service, !native)?;
    let used = inv.ctx.session.services.acquire(&inv.ctx, &tunnel).await?;
    for p in &used.running().ports {
        let protocol = if p.udp { "UDP" } else { "TCP" };
        let description = p.description.as_deref().unwrap_or("");
        inv.ctx.session.progress.note(&format!(
            "tunnel started port={} protocol={protocol} http_url=http://localhost:{} description={description:?}",
            p.port, p.port
        ));
    }
    // It lasts as long as the request, or the tunnel: somebody may stop the service behind it.
    used.running().ended.cancelled().await;
    Ok(Value::Null)
}

async fn container_up(inv: Invocation<Ctx>) -> Answer {
    const OF_SERVICE: [&str; 6] = [
        "args",
        "useEntrypoint",
        "experimentalPrivilegedNesting",
        "insecureRootCapabilities",
        "expand",
        "noInit",
    ];
    let args = Args(
        inv.args
            .0
            .iter()
            .filter(|(n, _)| OF_SERVICE.contains(&&**n))
            .cloned()
            .collect(),
    );
    let made = inv
        .ctx
        .session
        .solver
        .select(&inv.ctx, inv.view, inv.this.as_ref(), "asService", args)
        .await?;
    let Value::Object(object) = made else {
        return Err(Error::internal("`asService` gave no object"));
    };
    let service = object
        .get::<Service>()
        .cloned()
        .ok_or_else(|| Error::internal("`asService` gave no service"))?;
    keep_up(&inv, service).await
}

async fn with_hostname(inv: Invocation<Ctx>) -> Answer {
    let name = inv.args.str("hostname");
    let parsed: Result<sandbox::dns::Name, _> = name.parse();
    parsed.map_err(|e| Error::user(format!("cannot use `{name}` as a host name: {e}")))?;
    let service = inv.this::<Service>()?.clone();
    Ok(inv.object(Service {
        id: inv.call.digest(),
        hostname: name.into(),
        ..service
    }))
}

async fn with_readiness(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?;
    if !matches!(&*service.kind, Kind::Container(_)) {
        return Err(Error::user("only a container's service can be waited for"));
    }
    let mut wanted = (*service.ready).clone();
    let a = &inv.args;
    if let Some(text) = a.opt_str("http").filter(|t| !t.is_empty()) {
        wanted.http.push(ready::http(text).ok_or_else(|| {
            Error::user(format!(
                "http: expected something like `8080/health`, got `{text}`"
            ))
        })?);
    }
    if let Some(text) = a.opt_str("log").filter(|t| !t.is_empty()) {
        let count = a.int("logCount").unwrap_or(1);
        let count = u32::try_from(count)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::user(format!("logCount: {count} is out of range")))?;
        wanted.log.push(ready::Line {
            text: text.to_owned(),
            count,
        });
    }
    let exec = a.strings("exec");
    if !exec.is_empty() {
        wanted
            .exec
            .push(exec.iter().map(|s| s.to_string()).collect());
    }
    if let Some(text) = a.opt_str("timeout").filter(|t| !t.is_empty()) {
        wanted.timeout =
            Some(ready::duration(text).ok_or_else(|| {
                Error::user(format!("timeout: `{text}` is no time such as `90s`"))
            })?);
    }
    // Another way to wait is another service: who waits differently must not share an instance that is not ready for both.
    let id = inv.call.digest();
    let hashed = *service.hostname == *hostname_of(service.id, "");
    let hostname = if hashed {
        hostname_of(id, "").into()
    } else {
        service.hostname.clone()
    };
    Ok(inv.object(Service {
        id,
        hostname,
        kind: service.kind.clone(),
        ready: Arc::new(wanted),
    }))
}

async fn logs(inv: Invocation<Ctx>) -> Answer {
    let service = inv.this::<Service>()?;
    Ok(Value::string(
        inv.ctx
            .session
            .services
            .log(service.id)
            .map(|l| l.text())
            .unwrap_or_default(),
    ))
}
