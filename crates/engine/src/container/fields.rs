//! The fields of `Container` that read or change its configuration, and the table of all its fields.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, Memo, View},
    value::{Object, Value},
};

use super::{
    Container, Port, TerminalCommand, config, exec, files, from, import, mounts, output, shell,
    terminal,
};
use crate::{
    Ctx,
    dispatch::Binder,
    env_file::EnvFile,
    secret::{Plaintext, Secret},
};

type Answer = Result<Value, Error>;

/// A name and a value: `EnvVariable` and `Label`.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) name: Arc<str>,
    pub(crate) value: Arc<str>,
}

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.bind("Query.container", Memo::Session, query_container);
    b.bind("Container.from", Memo::Session, from::from);
    b.bind("Container.import", Memo::Session, import::import);
    output::bind(b);
    b.bind("Container.sync", Memo::Never, exec::sync);
    b.by_view("Container.withExec", Memo::Session, exec::with_exec);
    b.by_view("Container.stdout", Memo::Never, exec::stdout);
    b.by_view("Container.stderr", Memo::Never, exec::stderr);
    b.bind("Container.exitCode", Memo::Never, exec::exit_code);
    b.bind(
        "Container.combinedOutput",
        Memo::Never,
        exec::combined_output,
    );
    terminal::bind(b);
    shell::bind(b);
    b.bind("Container.exists", Memo::Never, files::exists);
    b.bind("Container.stat", Memo::Session, files::stat);
    b.bind("Container.withSymlink", Memo::Session, files::with_symlink);
    b.bind("Container.withError", Memo::Session, |inv| async move {
        match inv.args.str("err") {
            "" => unchanged(inv).await,
            message => Err(Error::user(message)),
        }
    });
    b.bind(
        "Container.withEnvFileVariables",
        Memo::Session,
        with_env_file_variables,
    );
    b.bind(
        "Container.withVolatileVariable",
        Memo::Session,
        with_volatile_variable,
    );
    b.bind(
        "Container.withoutVolatileVariable",
        Memo::Session,
        |inv| async move {
            let mut c = inv.this::<Container>()?.clone();
            let name = inv.args.str("name");
            Arc::make_mut(&mut c.volatile_env).retain(|(n, _)| **n != *name);
            Ok(inv.object(c))
        },
    );
    b.bind("Container.rootfs", Memo::Session, files::rootfs);
    b.bind("Container.withRootfs", Memo::Session, files::with_rootfs);
    b.bind("Container.directory", Memo::Session, files::directory);
    b.bind("Container.file", Memo::Session, files::file);
    b.bind("Container.withNewFile", Memo::Session, files::with_new_file);
    b.bind("Container.withFile", Memo::Session, files::with_file);
    b.bind("Container.withFiles", Memo::Session, files::with_files);
    b.bind(
        "Container.withDirectory",
        Memo::Session,
        files::with_directory,
    );
    b.bind("Container.withoutFile", Memo::Session, files::without_path);
    b.bind(
        "Container.withoutFiles",
        Memo::Session,
        files::without_files,
    );
    b.bind(
        "Container.withoutDirectory",
        Memo::Session,
        files::without_path,
    );
    b.bind(
        "Container.withMountedDirectory",
        Memo::Session,
        mounts::directory,
    );
    b.bind("Container.withMountedFile", Memo::Session, mounts::file);
    b.bind("Container.withMountedCache", Memo::Session, mounts::cache);
    b.bind("Container.withMountedTemp", Memo::Session, mounts::temp);
    b.bind("Container.withMountedSecret", Memo::Session, mounts::secret);
    b.bind("Container.withUnixSocket", Memo::Session, mounts::socket);
    b.bind(
        "Container.withoutUnixSocket",
        Memo::Session,
        mounts::without_socket,
    );
    b.bind("Container.withoutMount", Memo::Session, mounts::without);
    b.bind("Container.mounts", Memo::Never, mounts::list);
    b.bind("Container.platform", Memo::Never, platform);
    b.bind("Container.envVariable", Memo::Never, env_variable);
    b.bind("Container.envVariables", Memo::Session, env_variables);
    b.bind(
        "Container.withEnvVariable",
        Memo::Session,
        with_env_variable,
    );
    b.bind(
        "Container.withoutEnvVariable",
        Memo::Session,
        without_env_variable,
    );
    b.bind(
        "Container.withSecretVariable",
        Memo::Session,
        with_secret_variable,
    );
    b.bind(
        "Container.withoutSecretVariable",
        Memo::Session,
        without_secret_variable,
    );
    b.bind("Container.label", Memo::Never, label);
    b.bind("Container.labels", Memo::Session, labels);
    b.bind("Container.withLabel", Memo::Session, with_label);
    b.bind("Container.withoutLabel", Memo::Session, without_label);
    b.bind("Container.withAnnotation", Memo::Session, with_annotation);
    b.bind(
        "Container.withoutAnnotation",
        Memo::Session,
        without_annotation,
    );
    b.bind("Container.entrypoint", Memo::Never, entrypoint);
    b.bind("Container.withEntrypoint", Memo::Session, with_entrypoint);
    b.bind(
        "Container.withoutEntrypoint",
        Memo::Session,
        without_entrypoint,
    );
    b.bind("Container.defaultArgs", Memo::Never, default_args);
    b.bind(
        "Container.withDefaultArgs",
        Memo::Session,
        with_default_args,
    );
    b.bind(
        "Container.withoutDefaultArgs",
        Memo::Session,
        without_default_args,
    );
    b.bind("Container.user", Memo::Never, user);
    b.bind("Container.withUser", Memo::Session, with_user);
    b.bind("Container.withoutUser", Memo::Session, without_user);
    b.bind("Container.workdir", Memo::Never, workdir);
    b.bind("Container.withWorkdir", Memo::Session, with_workdir);
    b.bind("Container.withoutWorkdir", Memo::Session, without_workdir);
    b.bind("Container.imageRef", Memo::Never, image_ref);
    b.bind("Container.exposedPorts", Memo::Session, exposed_ports);
    b.bind(
        "Container.withExposedPort",
        Memo::Session,
        with_exposed_port,
    );
    b.bind(
        "Container.withoutExposedPort",
        Memo::Session,
        without_exposed_port,
    );
    b.bind(
        "Container.withDefaultTerminalCmd",
        Memo::Session,
        with_default_terminal_cmd,
    );
    b.bind("Container.experimentalWithGPU", Memo::Session, with_gpu);
    b.bind("Container.experimentalWithAllGPUs", Memo::Session, with_gpu);
    b.bind(
        "Container.withRegistryAuth",
        Memo::Never,
        with_registry_auth,
    );
    b.bind(
        "Container.withoutRegistryAuth",
        Memo::Never,
        without_registry_auth,
    );
    b.bind("Container.pipeline", Memo::Session, unchanged);
    b.bind("Container.withFocus", Memo::Session, unchanged);
    b.bind("Container.withoutFocus", Memo::Session, unchanged);
    for (field, get) in [
        ("EnvVariable.name", true),
        ("EnvVariable.value", false),
        ("Label.name", true),
        ("Label.value", false),
    ] {
        b.bind(field, Memo::Never, move |inv| async move {
            let p = inv.this::<Pair>()?;
            Ok(Value::String(if get {
                p.name.clone()
            } else {
                p.value.clone()
            }))
        });
    }
    b.bind("Port.port", Memo::Never, |inv| async move {
        Ok(Value::Int(inv.this::<Port>()?.port.into()))
    });
    b.bind("Port.protocol", Memo::Never, |inv| async move {
        Ok(Value::Enum(
            if inv.this::<Port>()?.udp {
                "UDP"
            } else {
                "TCP"
            }
            .into(),
        ))
    });
    b.bind("Port.description", Memo::Never, |inv| async move {
        Ok(Value::opt_string(inv.this::<Port>()?.description.clone()))
    });
    b.bind(
        "Port.experimentalSkipHealthcheck",
        Memo::Never,
        |inv| async move { Ok(Value::Bool(inv.this::<Port>()?.skip_healthcheck)) },
    );
}

async fn query_container(inv: Invocation<Ctx>) -> Answer {
    if let Some(id) = inv.args.id("id") {
        return Ok(Value::Object(inv.ctx.load_object(id).await?));
    }
    let platform = match inv.args.opt_str("platform") {
        Some(p) => from::parse_platform(p)?,
        None => crate::platform::native().to_owned(),
    };
    Ok(inv.object(Container::scratch(&platform)))
}

async fn unchanged(inv: Invocation<Ctx>) -> Answer {
    Ok(inv.object(inv.this::<Container>()?.clone()))
}

async fn platform(inv: Invocation<Ctx>) -> Answer {
    Ok(Value::String(inv.this::<Container>()?.platform.clone()))
}

async fn env_variable(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(Value::opt_string(
        config::get(&c.config.env, inv.args.str("name")).cloned(),
    ))
}

fn pairs(list: &[(Arc<str>, Arc<str>)]) -> Vec<Pair> {
    list.iter()
        .map(|(n, v)| Pair {
            name: n.clone(),
            value: v.clone(),
        })
        .collect()
}

async fn env_variables(inv: Invocation<Ctx>) -> Answer {
    Ok(inv.objects(pairs(&inv.this::<Container>()?.config.env)))
}

/// Refuses what is no name of an environment variable: the process would see another one, or none.
fn check_variable(inv: &Invocation<Ctx>) -> Result<(), Error> {
    let name = inv.args.str("name");
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.contains('=') {
        "it contains `=`"
    } else if name.contains('\0') {
        "it contains a NUL byte"
    } else {
        return Ok(());
    };
    Err(Error::user(format!(
        "`{}` cannot set an environment variable with the name {name:?}: {problem}",
        inv.call.field
    )))
}

async fn with_env_variable(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    check_variable(&inv)?;
    let value = c.text_arg(&inv, "value")?;
    Ok(inv.object(c.configured(|k| config::set(&mut k.env, inv.args.str("name"), &value))))
}

async fn with_env_file_variables(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let id = inv.args.id("source");
    let file: EnvFile = inv
        .ctx
        .load(id.ok_or_else(|| Error::user("`source` is missing"))?)
        .await?;
    Ok(inv.object(c.configured(|k| {
        for (name, value) in file.expanded() {
            config::set(&mut k.env, &name, &value);
        }
    })))
}

async fn with_volatile_variable(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    config::set(
        Arc::make_mut(&mut c.volatile_env),
        inv.args.str("name"),
        inv.args.str("value"),
    );
    Ok(inv.object(c))
}

async fn without_env_variable(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let name = inv.args.str("name");
    Ok(inv.object(c.configured(|k| k.env.retain(|(n, _)| **n != *name))))
}

async fn with_secret_variable(inv: Invocation<Ctx>) -> Answer {
    check_variable(&inv)?;
    let mut c = inv.this::<Container>()?.clone();
    let secret: Secret = inv
        .ctx
        .load(
            inv.args
                .id("secret")
                .ok_or_else(|| Error::user("`secret` is missing"))?,
        )
        .await?;
    let name: Arc<str> = inv.args.str("name").into();
    let list = Arc::make_mut(&mut c.secret_env);
    list.retain(|(n, _)| *n != name);
    list.push((name, secret));
    c.image_ref = None;
    Ok(inv.object(c))
}

async fn without_secret_variable(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    let name = inv.args.str("name");
    Arc::make_mut(&mut c.secret_env).retain(|(n, _)| **n != *name);
    Ok(inv.object(c))
}

async fn label(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(Value::opt_string(
        config::get(&c.config.labels, inv.args.str("name")).cloned(),
    ))
}

async fn labels(inv: Invocation<Ctx>) -> Answer {
    Ok(inv.objects(pairs(&inv.this::<Container>()?.config.labels)))
}

async fn with_label(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(
        c.configured(|k| config::set(&mut k.labels, inv.args.str("name"), inv.args.str("value"))),
    ))
}

async fn without_label(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let name = inv.args.str("name");
    Ok(inv.object(c.configured(|k| k.labels.retain(|(n, _)| **n != *name))))
}

async fn with_annotation(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    config::set(
        Arc::make_mut(&mut c.annotations),
        inv.args.str("name"),
        inv.args.str("value"),
    );
    Ok(inv.object(c))
}

async fn without_annotation(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    let name = inv.args.str("name");
    Arc::make_mut(&mut c.annotations).retain(|(n, _)| **n != *name);
    Ok(inv.object(c))
}

/// Below 0.12 unset texts and lists were null.
fn unset_is_null(inv: &Invocation<Ctx>) -> bool {
    inv.view < View::new(0, 12, 0)
}

fn text_or_null(inv: &Invocation<Ctx>, text: &Arc<str>) -> Value {
    if text.is_empty() && unset_is_null(inv) {
        Value::Null
    } else {
        Value::String(text.clone())
    }
}

fn list_or_null(inv: &Invocation<Ctx>, list: &[Arc<str>]) -> Value {
    if list.is_empty() && unset_is_null(inv) {
        Value::Null
    } else {
        Value::strings(list.iter().cloned())
    }
}

async fn entrypoint(inv: Invocation<Ctx>) -> Answer {
    Ok(list_or_null(
        &inv,
        &inv.this::<Container>()?.config.entrypoint,
    ))
}

async fn with_entrypoint(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.configured(|k| {
        k.entrypoint = inv.args.strings("args");
        if !inv.args.bool("keepDefaultArgs") {
            k.cmd.clear();
            k.cmd_chosen = false;
        }
    })))
}

async fn without_entrypoint(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.configured(|k| {
        k.entrypoint.clear();
        if !inv.args.bool("keepDefaultArgs") {
            k.cmd.clear();
            k.cmd_chosen = false;
        }
    })))
}

async fn default_args(inv: Invocation<Ctx>) -> Answer {
    Ok(list_or_null(&inv, &inv.this::<Container>()?.config.cmd))
}

async fn with_default_args(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.configured(|k| {
        k.cmd = inv.args.strings("args");
        k.cmd_chosen = true;
    })))
}

async fn without_default_args(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.configured(|k| {
        k.cmd.clear();
        k.cmd_chosen = false;
    })))
}

async fn user(inv: Invocation<Ctx>) -> Answer {
    Ok(text_or_null(&inv, &inv.this::<Container>()?.config.user))
}

async fn with_user(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.configured(|k| k.user = inv.args.str("name").into())))
}

async fn without_user(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.configured(|k| k.user = "".into())))
}

async fn workdir(inv: Invocation<Ctx>) -> Answer {
    Ok(text_or_null(&inv, &inv.this::<Container>()?.config.workdir))
}

async fn with_workdir(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    let text = c.text_arg(&inv, "path")?;
    let dir = exec::workdir(c, &text);
    Ok(inv.object(c.configured(|k| k.workdir = dir.into())))
}

async fn without_workdir(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.configured(|k| k.workdir = "".into())))
}

async fn image_ref(inv: Invocation<Ctx>) -> Answer {
    match &inv.this::<Container>()?.image_ref {
        Some(r) => Ok(Value::String(r.clone())),
        None => Err(Error::user(
            "Image reference can only be retrieved immediately after the 'Container.From' call. Error in fetching imageRef as the container image is changed",
        )),
    }
}

impl Container {
    /// The pipeline's ports, then the image's that it did not name.
    fn all_ports(&self) -> Vec<Port> {
        let mut ports = self.ports.to_vec();
        for (port, udp) in &self.config.exposed {
            if !ports.iter().any(|p| p.port == *port && p.udp == *udp) {
                ports.push(Port {
                    port: *port,
                    udp: *udp,
                    description: None,
                    skip_healthcheck: false,
                });
            }
        }
        ports
    }
}

async fn exposed_ports(inv: Invocation<Ctx>) -> Answer {
    Ok(inv.objects(inv.this::<Container>()?.all_ports()))
}

fn port_arg(inv: &Invocation<Ctx>) -> Result<u16, Error> {
    let n = inv.args.int("port").unwrap_or(0);
    u16::try_from(n).ok().filter(|p| *p > 0).ok_or_else(|| {
        Error::user(format!(
            "port {n} is out of range: ports go from 1 to 65535"
        ))
    })
}

async fn with_exposed_port(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    let port = Port {
        port: port_arg(&inv)?,
        udp: inv.args.str("protocol") == "UDP",
        description: inv.args.opt_str("description").map(Arc::from),
        skip_healthcheck: inv.args.bool("experimentalSkipHealthcheck"),
    };
    let key = (port.port, port.udp);
    let ports = Arc::make_mut(&mut c.ports);
    match ports.iter_mut().find(|p| (p.port, p.udp) == key) {
        Some(p) => *p = port,
        None => ports.push(port),
    }
    Ok(inv.object(c.configured(|k| {
        if !k.exposed.contains(&key) {
            k.exposed.push(key);
        }
    })))
}

async fn without_exposed_port(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    let key = (port_arg(&inv)?, inv.args.str("protocol") == "UDP");
    Arc::make_mut(&mut c.ports).retain(|p| (p.port, p.udp) != key);
    Ok(inv.object(c.configured(|k| k.exposed.retain(|p| *p != key))))
}

async fn with_default_terminal_cmd(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    c.terminal = Some(Arc::new(TerminalCommand {
        args: inv.args.strings("args"),
        nesting: inv.args.bool("experimentalPrivilegedNesting"),
        privileged: inv.args.bool("insecureRootCapabilities"),
    }));
    Ok(inv.object(c))
}

async fn with_gpu(inv: Invocation<Ctx>) -> Answer {
    let mut c = inv.this::<Container>()?.clone();
    c.gpus = Some(Arc::new(inv.args.strings("devices")));
    Ok(inv.object(c))
}

/// The receiver itself: `withRegistryAuth` changes the session, not the container.
fn same(inv: &Invocation<Ctx>) -> Answer {
    let this: &Object = inv
        .this
        .as_ref()
        .ok_or_else(|| Error::internal("a field without a receiver"))?;
    Ok(Value::Object(this.clone()))
}

async fn with_registry_auth(inv: Invocation<Ctx>) -> Answer {
    let secret: Secret = inv
        .ctx
        .load(
            inv.args
                .id("secret")
                .ok_or_else(|| Error::user("`secret` is missing"))?,
        )
        .await?;
    let value = secret.fetch(&inv.ctx).await?;
    let host = from::auth_host(inv.args.str("address"))?;
    inv.ctx.session.set_registry_auth(
        &host,
        Some((
            inv.args.str("username").to_owned(),
            Plaintext::new(value.reveal()),
        )),
    );
    same(&inv)
}

async fn without_registry_auth(inv: Invocation<Ctx>) -> Answer {
    let host = from::auth_host(inv.args.str("address"))?;
    inv.ctx.session.set_registry_auth(&host, None);
    same(&inv)
}
