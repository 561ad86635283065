//! `withExec`: from a container and arguments to a plan, and on to a lazy node.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, View},
    value::Value,
};

use super::{Container, MountSource, Special, paths};
use crate::{
    Ctx,
    node::{
        KeyHasher, Node, Output,
        exec::{ExecPlan, Expect, PlannedMount, PlannedSource},
    },
};

type Answer = Result<Value, Error>;

/// What `withExec` was asked.
#[derive(Debug, Clone)]
pub(crate) struct ExecArgs {
    pub(crate) args: Vec<Arc<str>>,
    pub(crate) use_entrypoint: bool,
    pub(crate) expand: bool,
    pub(crate) expect: Expect,
    pub(crate) stdin: Option<Arc<[u8]>>,
    pub(crate) redirect_stdin: String,
    pub(crate) redirect_stdout: String,
    pub(crate) redirect_stderr: String,
    pub(crate) privileged: bool,
    pub(crate) nesting: bool,
    pub(crate) init: bool,
}

impl ExecArgs {
    fn of(inv: &Invocation<Ctx>) -> Result<Self, Error> {
        let a = &inv.args;
        let text = |name: &str| a.opt_str(name).unwrap_or("").to_owned();
        // Below 0.12 the entrypoint is used unless told otherwise; in 0.12 an explicit `skipEntrypoint: false` uses it.
        let use_entrypoint = if inv.view < View::new(0, 12, 0) {
            !a.bool("skipEntrypoint")
        } else {
            a.bool("useEntrypoint") || matches!(a.get("skipEntrypoint"), Value::Bool(false))
        };
        let any_max = if inv.view >= View::new(0, 19, 11) {
            255
        } else {
            127
        };
        let expect = match a.get("expect") {
            Value::List(codes) => Expect::Codes(exit_codes(codes)?),
            _ => match a.str("expect") {
                "FAILURE" => Expect::Failure,
                "ANY" => Expect::Any(any_max),
                _ => Expect::Success,
            },
        };
        if !a.str("redirectStdin").is_empty() && !a.str("stdin").is_empty() {
            return Err(Error::user(
                "`stdin` and `redirectStdin` cannot be used together",
            ));
        }
        Ok(Self {
            args: a.strings("args"),
            use_entrypoint,
            expand: a.bool("expand"),
            expect,
            stdin: a
                .opt_str("stdin")
                .filter(|s| !s.is_empty())
                .map(|s| s.as_bytes().into()),
            redirect_stdin: text("redirectStdin"),
            redirect_stdout: text("redirectStdout"),
            redirect_stderr: text("redirectStderr"),
            privileged: a.bool("insecureRootCapabilities"),
            nesting: a.bool("experimentalPrivilegedNesting"),
            init: !a.bool("noInit"),
        })
    }

    /// The default command with entrypoint, as old views run it for `stdout` without an exec.
    pub(crate) fn default_command() -> Self {
        Self {
            args: vec![],
            use_entrypoint: true,
            expand: false,
            expect: Expect::Success,
            stdin: None,
            redirect_stdin: String::new(),
            redirect_stdout: String::new(),
            redirect_stderr: String::new(),
            privileged: false,
            nesting: false,
            init: true,
        }
    }
}

/// The exit codes of `expect`.
fn exit_codes(codes: &[Value]) -> Result<Vec<i32>, Error> {
    if codes.is_empty() {
        return Err(Error::user(
            "`expect` of `withExec` is an empty list, so that no exit code would do: name one, or ANY",
        ));
    }
    let code = |c: &Value| match c {
        Value::Int(i @ 0..=255) => Ok(*i as i32),
        Value::Int(i) => Err(Error::user(format!(
            "`expect` of `withExec` names the exit code {i}: exit codes go from 0 to 255"
        ))),
        _ => Err(Error::user(
            "`expect` of `withExec` takes exit codes, whole numbers from 0 to 255",
        )),
    };
    codes.iter().map(code).collect()
}

impl Container {
    /// Program and arguments.
    fn argv(&self, args: &ExecArgs) -> Result<Vec<String>, Error> {
        let mut argv: Vec<String> = Vec::new();
        if args.use_entrypoint {
            argv.extend(self.config.entrypoint.iter().map(|s| s.to_string()));
        }
        let given = if args.args.is_empty() {
            &self.config.cmd
        } else {
            &args.args
        };
        for a in given {
            argv.push(if args.expand {
                self.expand(a)?
            } else {
                a.to_string()
            });
        }
        if argv.is_empty() {
            return Err(Error::user("no command has been set"));
        }
        Ok(argv)
    }

    /// Decides what would run. Pure: the same container and arguments give the same plan and inputs.
    ///
    /// # Errors
    /// No command, a variable that cannot be replaced; GPUs, which there are none of.
    pub(crate) fn plan(&self, args: &ExecArgs) -> Result<(ExecPlan, Vec<Option<Output>>), Error> {
        if let Some(devices) = &self.gpus {
            return Err(super::gpu::refused(devices));
        }
        let mut inputs = vec![self.rootfs.output.clone()];
        let mut outputs = 0;
        let mut mounts = Vec::new();
        let mut input = |o: &Option<Output>| {
            o.clone().map(|o| {
                inputs.push(Some(o));
                inputs.len() - 1
            })
        };
        for m in self.mounts.iter() {
            let source = match &m.source {
                MountSource::Directory { tree, readonly } => {
                    outputs += 1;
                    PlannedSource::Tree {
                        input: input(&tree.output),
                        path: tree.path.to_string(),
                        output: outputs,
                        readonly: *readonly,
                    }
                }
                MountSource::File(tree) => {
                    outputs += 1;
                    PlannedSource::Tree {
                        input: input(&tree.output),
                        path: tree.path.to_string(),
                        output: outputs,
                        readonly: false,
                    }
                }
                MountSource::Cache {
                    key,
                    sharing,
                    seed,
                    owner,
                } => {
                    let seed_input = seed
                        .as_ref()
                        .and_then(|t| input(&t.output).map(|i| (i, t.path.to_string())));
                    PlannedSource::Cache {
                        key: cache_key(key, seed.as_ref()),
                        sharing: *sharing,
                        seed: seed_input,
                        owner: *owner,
                        mode: None,
                        readonly: false,
                    }
                }
                MountSource::Temp { size } => PlannedSource::Temp { size: *size },
            };
            mounts.push(PlannedMount {
                target: m.target.to_string(),
                source,
            });
        }
        for s in self.special.iter() {
            mounts.push(match s {
                Special::Secret {
                    target,
                    secret,
                    mode,
                    owner,
                } => PlannedMount {
                    target: target.to_string(),
                    source: PlannedSource::Secret {
                        secret: secret.clone(),
                        mode: *mode,
                        owner: *owner,
                    },
                },
                Special::Socket {
                    target,
                    socket,
                    owner,
                } => PlannedMount {
                    target: target.to_string(),
                    source: PlannedSource::Socket {
                        socket: socket.clone(),
                        owner: *owner,
                    },
                },
            });
        }
        let redirect = |p: &str| (!p.is_empty()).then(|| self.absolute(p));
        let plan = ExecPlan {
            argv: self.argv(args)?,
            env: self
                .config
                .env
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            volatile_env: self
                .volatile_env
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            secret_env: self
                .secret_env
                .iter()
                .map(|(k, s)| (k.to_string(), s.clone()))
                .collect(),
            cwd: self.absolute(""),
            user: self.config.user.to_string(),
            root_path: self.rootfs.path.to_string(),
            platform: self.platform.to_string(),
            mounts,
            expect: args.expect.clone(),
            stdin: args.stdin.clone(),
            redirect_stdin: redirect(&args.redirect_stdin),
            redirect_stdout: redirect(&args.redirect_stdout),
            redirect_stderr: redirect(&args.redirect_stderr),
            privileged: args.privileged,
            nesting: args.nesting,
            init: args.init,
            services: self.services.to_vec(),
            isolated: false,
            origin: None,
        };
        Ok((plan, inputs))
    }

    /// The container after running `args`: nothing runs yet.
    pub(super) fn executed(&self, args: &ExecArgs) -> Result<Self, Error> {
        let (plan, inputs) = self.plan(args)?;
        let node = Node::exec(plan, inputs);
        let mut after = self.clone();
        after.rootfs = crate::directory::Tree {
            output: Some(Output {
                node: node.clone(),
                index: 0,
            }),
            path: "/".into(),
        };
        let mut outputs = 0;
        for m in Arc::make_mut(&mut after.mounts) {
            if let MountSource::Directory { tree, .. } | MountSource::File(tree) = &mut m.source {
                outputs += 1;
                tree.output = Some(Output {
                    node: node.clone(),
                    index: outputs,
                });
            }
        }
        after.image_ref = None;
        after.last_exec = Some(node);
        Ok(after)
    }
}

/// A volume seeded from another directory is another volume.
fn cache_key(key: &str, seed: Option<&crate::directory::Tree>) -> String {
    match seed {
        None => key.to_owned(),
        Some(tree) => {
            let mut h = KeyHasher::new("cache-seed");
            tree.output_key(&mut h);
            format!("{key}@{:?}", h.finish())
        }
    }
}

pub(super) async fn with_exec(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.executed(&ExecArgs::of(&inv)?)?))
}

/// Which result of the last exec is asked for.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Stdout,
    Stderr,
    Combined,
    ExitCode,
}

async fn last_exec(inv: &Invocation<Ctx>, ask: Ask) -> Answer {
    let c = inv.this::<Container>()?;
    let node = match &c.last_exec {
        Some(node) => node.clone(),
        None if inv.view < View::new(0, 12, 0) => {
            let ran = c.executed(&ExecArgs::default_command())?;
            ran.last_exec
                .ok_or_else(|| Error::internal("an exec without a node"))?
        }
        None => return Err(Error::user("no command has been set")),
    };
    let done = inv.ctx.evaluate_node(&node).await?;
    let result = done
        .exec
        .as_ref()
        .ok_or_else(|| Error::internal("an exec without a result"))?;
    Ok(match ask {
        Ask::Stdout => Value::string(String::from_utf8_lossy(&result.stdout)),
        Ask::Stderr => Value::string(String::from_utf8_lossy(&result.stderr)),
        Ask::Combined => Value::string(String::from_utf8_lossy(&result.combined())),
        Ask::ExitCode => Value::Int(result.exit_code.into()),
    })
}

pub(super) async fn stdout(inv: Invocation<Ctx>) -> Answer {
    last_exec(&inv, Ask::Stdout).await
}

pub(super) async fn stderr(inv: Invocation<Ctx>) -> Answer {
    last_exec(&inv, Ask::Stderr).await
}

pub(super) async fn combined_output(inv: Invocation<Ctx>) -> Answer {
    last_exec(&inv, Ask::Combined).await
}

pub(super) async fn exit_code(inv: Invocation<Ctx>) -> Answer {
    last_exec(&inv, Ask::ExitCode).await
}

/// `sync`: makes everything the container is, and answers its ID.
pub(super) async fn sync(inv: Invocation<Ctx>) -> Answer {
    let c = inv.this::<Container>()?;
    c.rootfs.snapshot(&inv.ctx).await?;
    if let Some(node) = &c.last_exec {
        inv.ctx.evaluate_node(node).await?;
    }
    for m in c.mounts.iter() {
        if let MountSource::Directory { tree, .. } | MountSource::File(tree) = &m.source {
            tree.snapshot(&inv.ctx).await?;
        }
    }
    let call = &inv
        .this
        .as_ref()
        .ok_or_else(|| Error::internal("`sync` without a receiver"))?
        .call;
    Ok(Value::Id(call.clone()))
}

/// `withWorkdir`: joins and cleans, except that an empty path keeps the old one and an absolute one stays as written.
pub(super) fn workdir(c: &Container, text: &str) -> String {
    if text.is_empty() {
        c.config.workdir.to_string()
    } else if text.starts_with('/') {
        text.to_owned()
    } else {
        paths::join(
            if c.config.workdir.is_empty() {
                "/"
            } else {
                &c.config.workdir
            },
            text,
        )
    }
}
