//! `core`: functions of the API as commands.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Opened, Setup, arguments, block_on, done, ending, env, lost};
use crate::{
    Outcome,
    answer::Api,
    args::{self, Words},
    error::Failure,
    functions::{
        help,
        model::{INTROSPECTION, Model, Object},
        object::Here,
        parse::{Asked, Known, Reader, Stop},
        plan::{self, Finish},
        print::{self, Style},
    },
    output,
    progress::Detail,
};

/// What a command line came to.
pub(super) enum Ended {
    /// Text for standard output.
    Help(String),
    /// A result.
    Result {
        /// As it is printed.
        text: String,
        /// Where it is to be written too.
        file: Option<PathBuf>,
    },
    /// The engine wrote the result here.
    Saved(PathBuf),
}

/// Runs the command.
///
/// # Errors
/// A command line that the API does not know, no engine, what goes wrong in the calls.
pub fn run(setup: Setup, words: Words) -> Result<Outcome, Failure> {
    let words = text_words(words)?;
    let stderr = setup.stderr.clone();
    let ended = block_on(&stderr, async move {
        let signal = ending()?;
        let work = async {
            let (opened, upstream, token) = Opened::open(&setup).await?;
            let api = Api {
                upstream: &upstream,
                token: &token,
                with_output: setup.detail < Detail::Steps,
            };
            let called = async {
                let model = describe(&api).await?;
                let root = model
                    .root()
                    .ok_or_else(|| Failure::new("the API has no functions"))?;
                call(&api, &setup.workdir, &model, root, "dagger core", &words).await
            };
            let ended = tokio::select! {
                biased;
                ended = called => ended,
                () = opened.lost() => Err(lost()),
            };
            opened.close().await;
            ended
        };
        tokio::select! {
            ended = work => ended,
            _ = signal => Err(Failure::cancelled("canceled")),
        }
    })?;
    tell(ended)?;
    Ok(done())
}

/// The words of a command line as text.
fn text_words(words: Words) -> Result<Vec<String>, Failure> {
    let text = words.words.into_iter().map(|w| {
        w.into_string()
            .map_err(|w| Failure::new(format!("cannot use {w:?}: not UTF-8")))
    });
    text.collect()
}

/// What the API can do.
async fn describe(api: &Api<'_>) -> Result<Model, Failure> {
    Model::from_introspection(api.ask(INTROSPECTION).await?).map_err(|e| Failure::from_error(&e))
}

/// Reads a command line of functions that begins at an object of the root, and does what it says.
async fn call(
    api: &Api<'_>,
    workdir: &Path,
    model: &Model,
    start: &Object,
    program: &str,
    words: &[String],
) -> Result<Ended, Failure> {
    let known: Vec<_> = args::known(&[])
        .into_iter()
        .map(|(name, takes_value)| Known { name, takes_value })
        .collect();
    let reader = Reader {
        model,
        start,
        program,
        known: &known,
    };
    let asked = match reader.read(words) {
        Ok(asked) => asked,
        Err(Stop::Help { command, asked }) => {
            let bold = std::io::stdout().is_terminal() && env("NO_COLOR").is_none();
            return Ok(Ended::Help(help::text(
                model, start, &command, &asked, bold,
            )));
        }
        Err(Stop::Mistake { command, message }) => {
            return Err(Failure::new(format!(
                "{message}\nRun '{command} --help' for usage."
            )));
        }
    };
    execute(api, workdir, model, &asked).await
}

async fn execute(
    api: &Api<'_>,
    workdir: &Path,
    model: &Model,
    asked: &Asked,
) -> Result<Ended, Failure> {
    let home = env("HOME").map(PathBuf::from);
    let here = Here {
        workdir,
        home: home.as_deref(),
    };
    let output = asked.output.as_deref().map(|o| here.path(o));
    let ids = arguments::ids(api, &here, &plan::objects(asked)).await?;
    let plan = plan::plan(model, asked, &ids, output.as_deref());
    for effect in &plan.effects {
        api.ask(effect).await?;
    }
    let result = plan::result(api.ask(&plan.query).await?, &plan.path);
    Ok(match plan.finish {
        Finish::Saved => {
            let told = result.as_str().map(PathBuf::from);
            Ended::Saved(told.or(output.map(Into::into)).unwrap_or_default())
        }
        finish => {
            let style = Style {
                json: asked.json,
                terminal: std::io::stdout().is_terminal(),
            };
            let text = match (&finish, &result) {
                (Finish::Nothing, Value::Null) => String::new(),
                _ => print::text(&result, style),
            };
            Ended::Result {
                text,
                file: output.map(Into::into),
            }
        }
    })
}

/// Prints what a command line came to; when nothing else is printed any more.
fn tell(ended: Ended) -> Result<(), Failure> {
    let print = |text: &str| {
        output::stdout(text.as_bytes())
            .map_err(|e| Failure::new(format!("cannot write to standard output: {e}")))
    };
    match ended {
        Ended::Help(text) => print(&text),
        Ended::Saved(path) => {
            output::stderr_now(&format!("Saved to {:?}.", path.display().to_string()));
            Ok(())
        }
        Ended::Result { text, file: None } => print(&text),
        Ended::Result {
            text,
            file: Some(path),
        } => {
            let cannot = |e| {
                Failure::new(format!(
                    "cannot write the result to `{}`: {e}",
                    path.display()
                ))
            };
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(cannot)?;
            }
            std::fs::write(&path, &text).map_err(cannot)?;
            print(&text)?;
            output::stderr_now(&format!(
                "Saved output to {:?}.",
                path.display().to_string()
            ));
            Ok(())
        }
    }
}
