//! Dockerfiles: `Directory.dockerBuild` and `Container.build`. The Dockerfile is read, and the images it names are looked up,
//! when the field is asked; its steps are nodes like any other and run when something needs them.

mod add;
mod files;
mod lower;

use std::sync::Arc;

use ::dockerfile::{
    Answer, Error as DockerfileError, ImageKey, Images, Options, Plan, Settings, plan,
};
use graph::{
    error::Error,
    resolve::{Invocation, Memo, View},
    value::Value,
};

pub use files::FileStep;

use crate::{
    Ctx,
    container::{Config, Container, Special, from, from::Resolved, paths},
    directory::{Directory, Tree},
    dispatch::Binder,
    host::Socket,
    node::{CopyKind, Edit},
    secret::Secret,
};

type Answered = Result<Value, Error>;

/// From this view on `.dockerignore` counts.
const IGNORING: View = View::new(0, 18, 0);
/// Largest Dockerfile or ignore file that is read.
const FILE_MAX: u64 = ::dockerfile::TEXT_MAX as u64;

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    b.by_view("Directory.dockerBuild", Memo::Session, |inv| async move {
        let context = inv.this::<Directory>()?.clone();
        let platform = match inv.args.opt_str("platform") {
            Some(p) => from::parse_platform(p)?,
            None => crate::platform::native().to_owned(),
        };
        let built = build(&inv, context, &Container::scratch(&platform)).await?;
        Ok(inv.object(built))
    });
    b.by_view("Container.build", Memo::Session, container_build);
}

async fn container_build(inv: Invocation<Ctx>) -> Answered {
    let base = inv.this::<Container>()?.clone();
    let id = inv
        .args
        .id("context")
        .ok_or_else(|| Error::user("`context` is missing"))?;
    let context: Directory = inv.ctx.load(id).await?;
    let built = build(&inv, context, &base).await?;
    Ok(inv.object(built))
}

/// What a build was asked for, beside its context.
struct Request {
    file: String,
    options: Options,
    secrets: Vec<Secret>,
    ssh: Option<Socket>,
    init: bool,
}

async fn request(inv: &Invocation<Ctx>, platform: &str) -> Result<Request, Error> {
    let mut secrets = Vec::new();
    for id in inv.args.ids("secrets") {
        secrets.push(inv.ctx.load::<Secret>(&id).await?);
    }
    let ssh = match inv.args.id("ssh") {
        Some(id) => Some(inv.ctx.load::<Socket>(id).await?),
        None => None,
    };
    let text = |fields: &[(Arc<str>, Value)], name: &str| match fields
        .iter()
        .find(|(n, _)| **n == *name)
    {
        Some((_, Value::String(s))) => s.to_string(),
        _ => String::new(),
    };
    let args = match inv.args.get("buildArgs") {
        Value::List(items) => items
            .iter()
            .filter_map(|v| match v {
                Value::Input(fields) => Some((text(fields, "name"), text(fields, "value"))),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let file = match inv.args.str("dockerfile") {
        "" => "Dockerfile",
        file => file,
    };
    Ok(Request {
        file: file.to_owned(),
        options: Options {
            target: inv.args.str("target").to_owned(),
            args,
            platform: platform.to_owned(),
            build_platform: crate::platform::native().to_owned(),
        },
        secrets,
        ssh,
        init: !inv.args.bool("noInit"),
    })
}

fn user(e: &DockerfileError) -> Error {
    Error::user(e.to_string())
}

/// Builds `context` for the platform of `base`, and continues `base` with the result.
async fn build(
    inv: &Invocation<Ctx>,
    context: Directory,
    base: &Container,
) -> Result<Container, Error> {
    let ctx = &inv.ctx;
    let request = request(inv, &base.platform).await?;
    let text = read(ctx, &context, &request.file).await?.ok_or_else(|| {
        Error::user(format!(
            "failed to read dockerfile: open {}: no such file or directory in the directory that is built",
            request.file
        ))
    })?;
    let source = ::dockerfile::parse(&request.file, &text).map_err(|e| user(&e))?;
    let context = match inv.view >= IGNORING {
        true => ignoring(ctx, context, &request.file).await?,
        false => context,
    };
    let mut known = Images::new();
    let mut images: Vec<(ImageKey, Resolved)> = Vec::new();
    // Every round knows more images than the one before; what a Dockerfile can name has an end.
    let plan: Plan = loop {
        match plan(&source, &request.options, &known).map_err(|e| user(&e))? {
            Answer::Plan(plan) => break *plan,
            Answer::Needs(keys) => {
                let looking = keys.into_iter().map(|key| async {
                    let resolved = from::resolve(ctx, &key.reference, &key.platform)
                        .await
                        .map_err(|e| {
                            e.context(format!(
                                "{}: image `{}`",
                                request.file,
                                oci::reference::shown(&key.reference)
                            ))
                        })?;
                    Ok::<_, Error>((key, resolved))
                });
                for (key, resolved) in futures::future::try_join_all(looking).await? {
                    known.insert(key.clone(), Settings::read(&resolved.config));
                    images.push((key, resolved));
                }
            }
        }
    };
    let lowered = lower::Lowering {
        ctx,
        request: &request,
        context: context.tree,
        images: &images,
    }
    .lower(&plan)
    .await?;
    Ok(continued(base, &plan, lowered, &request.secrets))
}

/// `base` with the image that was built, as `from` would take one; the secrets stay where the build had them.
fn continued(base: &Container, plan: &Plan, built: lower::Built, secrets: &[Secret]) -> Container {
    let mut after = base.with_rootfs(built.tree);
    if let Some(platform) = built.platform {
        after.platform = platform.into();
    }
    if let Some(stage) = plan.target() {
        let mut image = Config::from_oci(&stage.settings.write());
        image.author = stage.settings.author.as_deref().map(Arc::from);
        after.config = Arc::new(base.config.merged_from(&image));
    }
    after.last_exec = None;
    for secret in secrets {
        let target: Arc<str> = format!("/run/secrets/{}", secret.name).into();
        let special = Arc::make_mut(&mut after.special);
        special.retain(|s| s.target() != &*target);
        special.push(Special::Secret {
            target,
            secret: secret.clone(),
            mode: 0o400,
            owner: (0, 0),
        });
    }
    after
}

/// A text file of the context; `None` when it is not there.
async fn read(ctx: &Ctx, context: &Directory, path: &str) -> Result<Option<String>, Error> {
    let place = Tree {
        output: context.tree.output.clone(),
        path: context.tree.clamped(path).into(),
    };
    let bytes = place
        .read(ctx, |tree, path| match tree.read_file(path, FILE_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        })
        .await?;
    bytes
        .map(|b| {
            String::from_utf8(b).map_err(|_| Error::user(format!("{path}: is not UTF-8 text")))
        })
        .transpose()
}

/// The context without what `<Dockerfile>.dockerignore`, or else `.dockerignore`, excludes.
async fn ignoring(ctx: &Ctx, context: Directory, file: &str) -> Result<Directory, Error> {
    let own = format!("{file}.dockerignore");
    let (name, text) = match read(ctx, &context, &own).await? {
        Some(text) => (own, Some(text)),
        None => (
            ".dockerignore".to_owned(),
            read(ctx, &context, ".dockerignore").await?,
        ),
    };
    let exclude = patterns::parse_ignore_file(&text.unwrap_or_default());
    if exclude.is_empty() {
        return Ok(context);
    }
    patterns::Filter::new::<&str, _>(&[], &exclude)
        .map_err(|e| Error::user(format!("{name}: {e}")))?;
    let edit = Edit::Copy {
        kind: CopyKind::Dir,
        from: context.tree.path.to_string(),
        to: "/".to_owned(),
        include: Vec::new(),
        exclude,
        owner: None,
        mode: None,
        git_ignore: false,
    };
    Ok(Directory {
        tree: Tree::empty().edited(edit, context.tree.output.clone().into_iter().collect()),
    })
}

/// `path` below a place in a tree, never above it.
fn inside(place: &Tree, path: &str) -> String {
    place.clamped(&paths::join("/", path))
}
