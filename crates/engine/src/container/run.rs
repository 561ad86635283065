//! Runs a planned exec to its end: services and network in; snapshots and output out.

use std::sync::{Arc, Mutex, PoisonError};

use graph::error::{Class, Error};
use store::Snapshot;

use super::{
    paths,
    prepare::{self, Held, Masked, OutputTree, Place},
    terminal,
};
use crate::{
    Ctx, lock,
    nested::Nesting,
    network::ExecNetwork,
    node::exec::{ExecPlan, ExecResult, PlannedSource},
    progress::{Step, Stream},
    scrub::Scrubber,
    service,
};

/// Most bytes of one stream that are kept for `stdout` and `stderr`.
const OUTPUT_MAX: usize = 256 << 20;
/// Most bytes of one stream that an error carries; what is longer keeps its end.
const ERROR_OUTPUT_MAX: usize = 100 * 1024;
/// Most bytes of a command that an error's text shows; its extensions have all of it.
const COMMAND_MAX: usize = 8 << 10;
/// The hostname of every exec: constant, so that it cannot break caching.
const HOSTNAME: &str = "bodkin";

/// Runs `plan` over `inputs` (the root filesystem first) and returns the output trees and what the process said.
///
/// # Errors
/// An `EXEC_ERROR` when the process could not be started or did not end as expected; what is missing otherwise.
pub async fn run(
    ctx: &Ctx,
    plan: &ExecPlan,
    inputs: &[Snapshot],
) -> Result<(Vec<Snapshot>, ExecResult), Error> {
    // Before the step is shown and before a slot is taken: services may need execs themselves.
    let bound = service::bind(ctx, &plan.services).await?;
    let step = ctx
        .session
        .progress
        .step(&prepare::label(ctx, plan), ctx.span);
    let outcome = run_step(ctx, plan, inputs, &bound, &step).await;
    match &outcome {
        Ok(_) => step.done(),
        Err(e) => step.failed(e),
    }
    outcome
}

async fn run_step(
    ctx: &Ctx,
    plan: &ExecPlan,
    inputs: &[Snapshot],
    bound: &service::Bound,
    step: &Step,
) -> Result<(Vec<Snapshot>, ExecResult), Error> {
    // A process that can ask for execs waits for them: it must not keep them from running.
    let slot = match plan.nesting {
        true => None,
        false => Some(
            ctx.engine
                .exec_slots
                .acquire()
                .await
                .map_err(|_| Error::new(Class::Cancelled, "the engine is stopping"))?,
        ),
    };
    let masked = prepare::masked(ctx, plan).await?;
    let fail = |message: &str| exec_error(plan, message, -1, b"", b"", &masked);

    let mut held = Held::default();
    let mounts = prepare::mounts(ctx, plan, inputs, &mut held).await?;
    let redirects = [
        ("stdout", &plan.redirect_stdout),
        ("stderr", &plan.redirect_stderr),
    ];
    for (name, path) in redirects {
        if let Some(path) = path {
            write_redirect(ctx, plan, &held, path, b"")
                .await
                .map_err(|e| fail(&format!("open redirect {name} file: {e}")))?;
        }
    }

    let stdin = match &plan.redirect_stdin {
        Some(path) => Some(
            read_redirect(ctx, plan, &held, path)
                .await
                .map_err(|e| fail(&format!("open redirect stdin file: {e}")))?,
        ),
        None => plan.stdin.clone(),
    };
    let mut network = if plan.isolated {
        ExecNetwork::none()
    } else {
        ctx.engine.networking.take(&ctx.session).await?
    };
    let nesting = Nesting::start(
        &Ctx {
            span: step.id(),
            ..ctx.clone()
        },
        plan,
        HOSTNAME,
        &mut network,
    )
    .await?;
    let place = Place {
        network: &network,
        nesting: nesting.as_ref(),
        hostname: HOSTNAME,
        own_names: &[],
        aliases: bound.aliases(),
    };
    let prepared = prepare::assemble(ctx, plan, mounts, &place).map_err(|e| fail(e.message()))?;
    let mut child = match prepare::start(ctx, prepared.spec).await? {
        Ok(child) => child,
        Err(e) => {
            let Some((said, code)) = prepare::unknown_program(plan, &e) else {
                return Err(fail(&prepare::not_started(plan, &e)));
            };
            let said = masked.texts().text(&said);
            step.output(Stream::Stderr, format!("{said}\n").as_bytes());
            if plan.expect.accepts(code) {
                let outputs = commit(ctx, std::mem::take(&mut held.drafts)).await?;
                let result = ExecResult {
                    exit_code: code,
                    stdout: [].into(),
                    stderr: format!("{said}\n").into_bytes().into(),
                    order: [].into(),
                };
                return Ok((outputs, result));
            }
            return Err(exec_error(
                plan,
                &unsuccessful(plan, code, &masked),
                code,
                b"",
                said.as_bytes(),
                &masked,
            ));
        }
    };

    let nesting = nesting.map(|n| n.attend(ctx, &child));
    let feed = prepare::feed_stdin(prepared.stdin, stdin);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let order = Mutex::new(Order::default());
    let out = prepare::drain(prepared.stdout, masked.scrubber(), |b| {
        let kept = keep(step, Stream::Stdout, b, &mut stdout);
        lock(&order).add(0, kept);
    });
    let err = prepare::drain(prepared.stderr, masked.scrubber(), |b| {
        let kept = keep(step, Stream::Stderr, b, &mut stderr);
        lock(&order).add(1, kept);
    });
    let (exit, _, out, err) = tokio::join!(child.wait(), feed, out, err);
    out.and(err)?;
    let exit = exit.map_err(|e| {
        fail(&format!(
            "cannot wait for the process: {}",
            graph::error::chain(&e)
        ))
    })?;
    let code = exit.code();
    drop(child);
    drop(nesting);
    drop(network);
    for (name, path, bytes) in [
        ("stdout", &plan.redirect_stdout, &stdout),
        ("stderr", &plan.redirect_stderr, &stderr),
    ] {
        if let Some(path) = path {
            write_redirect(ctx, plan, &held, path, bytes)
                .await
                .map_err(|e| fail(&format!("write redirect {name} file: {e}")))?;
        }
    }
    if !plan.expect.accepts(code) {
        let why = unsuccessful(plan, code, &masked);
        if ctx.client.user().info.interactive_command.is_some() {
            // A user may look around for long.
            drop(slot);
            let left = commit(ctx, std::mem::take(&mut held.drafts)).await;
            drop(held);
            terminal::after_failure(ctx, plan, left, &why).await;
        }
        return Err(exec_error(plan, &why, code, &stdout, &stderr, &masked));
    }
    let outputs = commit(ctx, std::mem::take(&mut held.drafts)).await?;
    Ok((
        outputs,
        ExecResult {
            exit_code: code,
            stdout: stdout.into(),
            stderr: stderr.into(),
            order: order
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .0
                .into(),
        },
    ))
}

/// Shows a piece of output and keeps it, up to a limit. Answers how much was kept.
fn keep(step: &Step, stream: Stream, bytes: &[u8], all: &mut Vec<u8>) -> usize {
    step.output(stream, bytes);
    let room = OUTPUT_MAX.saturating_sub(all.len());
    let kept = bytes.len().min(room);
    all.extend_from_slice(&bytes[..kept]);
    kept
}

/// Most turns that are told apart; what comes after them is told at the end.
const TURNS_MAX: usize = 100_000;

/// In which order two streams spoke: see [`ExecResult::order`].
#[derive(Default)]
struct Order(Vec<u32>);

impl Order {
    /// So many bytes came of the first (0) or second (1) stream.
    fn add(&mut self, stream: usize, bytes: usize) {
        if bytes == 0 || self.0.len() >= TURNS_MAX {
            return;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.0.len() % 2 == (stream + 1) % 2
            && let Some(last) = self.0.last_mut()
            && let Some(sum) = last.checked_add(bytes)
        {
            *last = sum;
            return;
        }
        while self.0.len() % 2 != stream {
            self.0.push(0);
        }
        self.0.push(bytes);
    }
}

/// The sentence clients know. Secrets are masked before quoting changes how they look.
fn unsuccessful(plan: &ExecPlan, code: i32, masked: &Masked) -> String {
    let mut scrubber = masked.scrubber();
    let argv: Vec<String> = plan.argv.iter().map(|a| scrubber.text(a)).collect();
    let mut line = argv.join(" ");
    let left_out = line.len().saturating_sub(COMMAND_MAX);
    if left_out > 0 {
        line.truncate(line.floor_char_boundary(COMMAND_MAX));
    }
    let more = match left_out {
        0 => String::new(),
        bytes => format!(" [and {bytes} bytes]"),
    };
    format!(
        "process {}{more} did not complete successfully: exit code: {code}",
        quoted(&line)
    )
}

async fn commit(ctx: &Ctx, drafts: Vec<OutputTree>) -> Result<Vec<Snapshot>, Error> {
    ctx.engine
        .blocking(move || {
            drafts
                .into_iter()
                .map(|d| match d {
                    OutputTree::Draft(d) => d
                        .commit()
                        .map_err(|e| Error::from_chain(Class::Environment, &e)),
                    OutputTree::Unchanged(s) => Ok(s),
                })
                .collect()
        })
        .await
}

/// Largest file that is read as stdin, in bytes.
const STDIN_MAX: u64 = 256 << 20;

/// Reads the file that is to be stdin.
async fn read_redirect(
    ctx: &Ctx,
    plan: &ExecPlan,
    held: &Held,
    path: &str,
) -> Result<Arc<[u8]>, String> {
    let (draft, at) = redirected(plan, held, path)?;
    let tree = match draft {
        OutputTree::Draft(d) => d.tree(),
        OutputTree::Unchanged(s) => s.tree(),
    }
    .map_err(|e| graph::error::chain(&e))?;
    let bytes = ctx.engine.blocking(move || {
        tree.read_file(&at, STDIN_MAX)
            .map_err(|e| Error::from_chain(Class::User, &e))
    });
    bytes
        .await
        .map(Into::into)
        .map_err(|e| e.message().to_owned())
}

/// The tree that a redirect's file is in, and where in it.
fn redirected<'a>(
    plan: &ExecPlan,
    held: &'a Held,
    path: &str,
) -> Result<(&'a OutputTree, String), String> {
    let inside = plan
        .mounts
        .iter()
        .filter_map(|m| paths::below(&m.target, path).map(|rest| (m, rest)));
    let (output, at) = match inside.max_by_key(|(m, _)| m.target.len()) {
        Some((mount, rest)) => match &mount.source {
            PlannedSource::Tree {
                path: inner,
                output,
                ..
            } => (*output as usize, paths::join(inner, rest)),
            _ => return Err(format!("{path}: no such file or directory")),
        },
        None => (
            0,
            paths::join(&plan.root_path, path.trim_start_matches('/')),
        ),
    };
    let tree = held.drafts.get(output);
    Ok((tree.ok_or_else(|| "no root filesystem".to_owned())?, at))
}

/// Writes a redirect's file, in the root or in the tree mount it lies in, owned by the process's user.
async fn write_redirect(
    ctx: &Ctx,
    plan: &ExecPlan,
    held: &Held,
    path: &str,
    bytes: &[u8],
) -> Result<(), String> {
    let (OutputTree::Draft(draft), to) = redirected(plan, held, path)? else {
        return Err(format!("{path}: read-only file system"));
    };
    let tree = draft.tree().map_err(|e| graph::error::chain(&e))?;
    let (bytes, user) = (bytes.to_vec(), plan.user.clone());
    let root_tree = match held.drafts.first() {
        Some(OutputTree::Draft(d)) => d.tree().map_err(|e| graph::error::chain(&e))?,
        _ => return Err("no root filesystem".to_owned()),
    };
    ctx.engine
        .blocking(move || {
            let owner = super::owner::of_user(&root_tree, &user)?;
            tree.overwrite_file(&to, &bytes, 0o600, Some(owner))
                .map_err(|e| Error::from_chain(Class::User, &e))
        })
        .await
        .map_err(|e| e.message().to_owned())
}

/// The error of an exec, with the extensions clients read.
fn exec_error(
    plan: &ExecPlan,
    message: &str,
    code: i32,
    stdout: &[u8],
    stderr: &[u8],
    masked: &Masked,
) -> Error {
    let mut scrubber: Scrubber = masked.texts();
    let mut ext = serde_json::Map::new();
    ext.insert("_type".into(), "EXEC_ERROR".into());
    ext.insert(
        "cmd".into(),
        plan.argv
            .iter()
            .map(|a| scrubber.text(a))
            .collect::<Vec<_>>()
            .into(),
    );
    ext.insert("exitCode".into(), code.into());
    ext.insert("stdout".into(), error_output(stdout).into());
    ext.insert("stderr".into(), error_output(stderr).into());
    let message = scrubber.text(message);
    match &plan.origin {
        // Clients read the extensions as those of a `withExec` of theirs: what it said goes into the words.
        Some(origin) => {
            let said = last_lines(stderr);
            let gap = if said.is_empty() { "" } else { "\n" };
            let origin = scrubber.text(&origin.to_string());
            Error::user(format!("{origin}: {message}{gap}{said}"))
        }
        None => Error::user(message).with_extensions(ext),
    }
}

/// A text in double quotes, with the escapes clients know from Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The last lines of an output, for a message.
fn last_lines(bytes: &[u8]) -> String {
    const LINES: usize = 10;
    const BYTES: usize = 2048;
    let text = bytes.trim_ascii();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(BYTES)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// The trimmed end of an output, at most [`ERROR_OUTPUT_MAX`] bytes; a note overwrites its beginning when something is left out.
fn error_output(bytes: &[u8]) -> String {
    let trimmed = bytes.trim_ascii();
    if trimmed.len() <= ERROR_OUTPUT_MAX {
        return String::from_utf8_lossy(trimmed).into_owned();
    }
    let mut tail = trimmed[trimmed.len() - ERROR_OUTPUT_MAX..].to_vec();
    let note = format!("[omitting {} bytes]...", trimmed.len() - ERROR_OUTPUT_MAX);
    tail[..note.len()].copy_from_slice(note.as_bytes());
    String::from_utf8_lossy(&tail).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_in_errors_keeps_its_end_and_says_so() {
        let long = vec![b'x'; ERROR_OUTPUT_MAX + 5];
        let text = error_output(&long);
        assert_eq!(text.len(), ERROR_OUTPUT_MAX);
        assert!(text.starts_with("[omitting 5 bytes]...xxx"));
        assert_eq!(error_output(b"\n out \n"), "out");
        let many: String = (0..40).map(|i| format!("line {i}\n")).collect();
        let last = last_lines(many.as_bytes());
        assert!(last.starts_with("line 30\n") && last.ends_with("line 39"));
        assert_eq!(last_lines(b" \n"), "");
    }
}
