//! From a plan to nodes: pure but for the look at the context that gives `COPY` its key.

use std::{collections::BTreeMap, sync::Arc};

use ::dockerfile::{
    Copy as CopyOp, From, ImageKey, Mount, MountKind, Network, Op, Plan, Run, Sharing, Stage, Step,
};
use graph::error::Error;

use super::{FileStep, Request, add, files::Bring, inside};
use crate::{
    Ctx,
    container::from::Resolved,
    directory::Tree,
    node::{
        Edit, Node, Output,
        exec::{ExecPlan, Expect, Origin, PlannedMount, PlannedSource, Sharing as NodeSharing},
    },
};

/// What a stage came to.
#[derive(Debug, Clone)]
pub(super) struct Built {
    /// Its files.
    pub(super) tree: Tree,
    /// Its platform, when its base has one.
    pub(super) platform: Option<String>,
}

/// A build on its way into nodes.
pub(super) struct Lowering<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) request: &'a Request,
    pub(super) context: Tree,
    pub(super) images: &'a [(ImageKey, Resolved)],
}

impl Lowering<'_> {
    /// Makes the nodes of all stages. Nothing runs.
    ///
    /// # Errors
    /// A secret that was not given, a platform nobody knows.
    pub(super) async fn lower(&self, plan: &Plan) -> Result<Built, Error> {
        let mut done: BTreeMap<usize, Built> = BTreeMap::new();
        let mut last = None;
        for stage in &plan.stages {
            let built = self.stage(stage, &done).await?;
            done.insert(stage.index, built.clone());
            last = Some(built);
        }
        last.ok_or_else(|| Error::internal("a plan without stages"))
    }

    fn tree(&self, from: &From, done: &BTreeMap<usize, Built>) -> Result<Built, Error> {
        let tree = |tree: Tree| Built {
            tree,
            platform: None,
        };
        match from {
            From::Context => Ok(tree(self.context.clone())),
            From::Scratch => Ok(tree(Tree::empty())),
            From::Stage(i) => {
                let built = done.get(i).cloned();
                built.ok_or_else(|| Error::internal(format!("stage {i} is not there")))
            }
            From::Image(key) => {
                let found = self.images.iter().find(|(k, _)| k == key);
                let (_, image) = found.ok_or_else(|| {
                    Error::internal(format!("image `{}` is not there", key.reference))
                })?;
                Ok(Built {
                    tree: image.rootfs.clone(),
                    platform: Some(image.platform.clone()),
                })
            }
        }
    }

    fn origin(&self, step: &Step) -> Arc<Origin> {
        Arc::new(Origin {
            place: format!("{}:{}", self.request.file, step.line),
            text: crate::scrub::addresses(&step.text),
        })
    }

    async fn stage(&self, stage: &Stage, done: &BTreeMap<usize, Built>) -> Result<Built, Error> {
        let mut built = self.tree(&stage.base, done)?;
        if built.platform.is_none() && !stage.platform.is_empty() {
            built.platform = Some(crate::container::from::parse_platform(&stage.platform)?);
        }
        for step in &stage.steps {
            let origin = self.origin(step);
            let placed = |e: Error| e.context(&origin);
            built.tree = match &step.op {
                Op::Run(run) => self.run(run, &built, done, &origin).map_err(placed)?,
                Op::MakeDir { path, owner } => {
                    let step = FileStep::make_dir(path.clone(), owner.clone(), origin.clone());
                    built.tree.edited(Edit::Instruction(Arc::new(step)), vec![])
                }
                Op::Copy(copy) => self
                    .copy(copy, built.tree, done, &origin)
                    .await
                    .map_err(placed)?,
            };
        }
        Ok(built)
    }

    async fn copy(
        &self,
        copy: &CopyOp,
        base: Tree,
        done: &BTreeMap<usize, Built>,
        origin: &Arc<Origin>,
    ) -> Result<Tree, Error> {
        let mut tree = base;
        if !copy.sources.is_empty() || !copy.inline.is_empty() {
            let from = self.tree(&copy.from, done)?.tree;
            let bring = Bring::new(copy, &from)?;
            let seen = match copy.from {
                From::Context => self.seen(&bring, &from).await,
                _ => None,
            };
            let step = FileStep::bring(bring, origin.clone());
            let sources = from.output.clone().into_iter().collect();
            tree = match seen {
                Some(seen) => step.keyed(tree.output.clone(), sources, &seen),
                None => tree.edited(Edit::Instruction(Arc::new(step)), sources),
            };
        }
        for url in &copy.urls {
            tree = add::added(self.ctx, self.request, copy, url, &tree, origin).await?;
        }
        Ok(tree)
    }

    /// Digests of what a `COPY` takes of the context: other changes there do not matter to it. `None` when there is
    /// something that cannot be told without copying, as patterns, or something that is missing.
    async fn seen(&self, bring: &Bring, from: &Tree) -> Option<String> {
        let paths = bring.plain_sources()?;
        let root = Tree {
            output: from.output.clone(),
            path: "/".into(),
        };
        root.read(self.ctx, move |tree, _| {
            let mut all = String::new();
            for path in paths {
                // Times do not count, as everywhere in keys. Links are followed when copied: left to that.
                match tree.lstat(&path)? {
                    Some(stat) if stat.is_dir() => all.push_str(&tree.digest(&path)?),
                    Some(stat) if stat.kind == store::Kind::File => {
                        all.push_str(&tree.file_digest(&path, false)?);
                    }
                    _ => return Ok(None),
                }
                all.push('\n');
            }
            Ok(Some(all))
        })
        .await
        .ok()
        .flatten()
    }

    fn run(
        &self,
        run: &Run,
        root: &Built,
        done: &BTreeMap<usize, Built>,
        origin: &Arc<Origin>,
    ) -> Result<Tree, Error> {
        let mut mounts = Mounts {
            inputs: vec![root.tree.output.clone()],
            outputs: 0,
            planned: Vec::new(),
            secret_env: Vec::new(),
            env: run.env.clone(),
        };
        for (mount, from) in &run.mounts {
            let from = match from {
                Some(from) => Some(self.tree(from, done)?.tree),
                None => None,
            };
            self.mount(mount, from, &mut mounts)?;
        }
        if let Some((path, body)) = &run.script {
            let edit = Edit::WriteFile {
                path: "/script".to_owned(),
                contents: body.as_bytes().into(),
                mode: 0o755,
                owner: None,
            };
            let script = Tree::empty().edited(edit, vec![]).at("/script");
            mounts.tree(path, &script, true);
        }
        let plan = ExecPlan {
            argv: run.argv.clone(),
            env: mounts.env,
            volatile_env: Vec::new(),
            secret_env: mounts.secret_env,
            cwd: run.cwd.clone(),
            user: run.user.clone(),
            root_path: root.tree.path.to_string(),
            platform: root
                .platform
                .clone()
                .unwrap_or_else(|| crate::platform::native().to_owned()),
            mounts: mounts.planned,
            expect: Expect::Success,
            stdin: None,
            redirect_stdin: None,
            redirect_stdout: None,
            redirect_stderr: None,
            privileged: run.privileged,
            nesting: false,
            init: self.request.init,
            services: Vec::new(),
            isolated: run.network == Network::None,
            origin: Some(origin.clone()),
        };
        Ok(Tree::root(Output {
            node: Node::exec(plan, mounts.inputs),
            index: 0,
        }))
    }

    fn mount(&self, mount: &Mount, from: Option<Tree>, mounts: &mut Mounts) -> Result<(), Error> {
        let target = mount.target.clone();
        match &mount.kind {
            MountKind::Bind {
                source, writable, ..
            } => {
                let tree = from.unwrap_or_else(|| self.context.clone());
                let place = Tree {
                    path: inside(&tree, source).into(),
                    ..tree
                };
                mounts.tree(&target, &place, !writable);
            }
            MountKind::Cache {
                id,
                sharing,
                source,
                owner,
                mode,
                readonly,
                ..
            } => {
                let seed = from.and_then(|tree| {
                    let path = inside(&tree, source);
                    mounts.input(&tree).map(|i| (i, path))
                });
                mounts.planned.push(PlannedMount {
                    target,
                    source: PlannedSource::Cache {
                        // Apart from the volumes that programs name.
                        key: format!("dockerfile {id}"),
                        sharing: match sharing {
                            Sharing::Shared => NodeSharing::Shared,
                            Sharing::Private => NodeSharing::Private,
                            Sharing::Locked => NodeSharing::Locked,
                        },
                        seed,
                        owner: Some(*owner),
                        mode: Some(*mode),
                        readonly: *readonly,
                    },
                });
            }
            MountKind::Tmpfs { size } => mounts.planned.push(PlannedMount {
                target,
                source: PlannedSource::Temp { size: *size },
            }),
            MountKind::Secret {
                id,
                env,
                file,
                mode,
                owner,
                ..
            } => {
                let secret = self.request.secrets.iter().find(|s| *s.name == **id);
                let secret = secret.ok_or_else(|| {
                    Error::user(format!(
                        "secret not found: {id}; pass it in `secrets`, it is known by the name it was set under"
                    ))
                })?;
                if *file {
                    mounts.planned.push(PlannedMount {
                        target: if target.is_empty() {
                            format!("/run/secrets/{id}")
                        } else {
                            target
                        },
                        source: PlannedSource::Secret {
                            secret: secret.clone(),
                            mode: *mode,
                            owner: *owner,
                        },
                    });
                }
                if let Some(name) = env {
                    mounts.env.retain(|(n, _)| n != name);
                    mounts.secret_env.push((name.clone(), secret.clone()));
                }
            }
            MountKind::Ssh {
                id,
                required,
                owner,
                ..
            } => match &self.request.ssh {
                Some(socket) => {
                    let n = mounts
                        .env
                        .iter()
                        .filter(|(k, _)| k == "SSH_AUTH_SOCK")
                        .count();
                    let target = if target.is_empty() {
                        format!("/run/buildkit/ssh_agent.{n}")
                    } else {
                        target
                    };
                    if n == 0 {
                        mounts
                            .env
                            .push(("SSH_AUTH_SOCK".to_owned(), target.clone()));
                    }
                    mounts.planned.push(PlannedMount {
                        target,
                        source: PlannedSource::Socket {
                            socket: socket.clone(),
                            owner: *owner,
                        },
                    });
                }
                None if *required => {
                    return Err(Error::user(format!(
                        "no SSH key \"{id}\" forwarded from the client: pass the agent's socket in `ssh`"
                    )));
                }
                None => {}
            },
        }
        Ok(())
    }
}

/// The mounts of a process as they come together.
struct Mounts {
    inputs: Vec<Option<Output>>,
    outputs: u32,
    planned: Vec<PlannedMount>,
    secret_env: Vec<(String, crate::secret::Secret)>,
    env: Vec<(String, String)>,
}

impl Mounts {
    fn input(&mut self, tree: &Tree) -> Option<usize> {
        tree.output.clone().map(|o| {
            self.inputs.push(Some(o));
            self.inputs.len() - 1
        })
    }

    fn tree(&mut self, target: &str, tree: &Tree, readonly: bool) {
        self.outputs += 1;
        let input = self.input(tree);
        self.planned.push(PlannedMount {
            target: target.to_owned(),
            source: PlannedSource::Tree {
                input,
                path: tree.path.to_string(),
                output: self.outputs,
                readonly,
            },
        });
    }
}
