//! Evaluation of nodes: from the persistent cache when it is there, else once for all who wait.

use std::{collections::HashSet, sync::Arc};

use graph::error::{Class, Error};
use store::{CopyOptions, Snapshot, Tree};

use super::{
    CopyKind, Done, Edit, Key, KeyHasher, Node, Op, Output,
    exec::ExecResult,
    made::{EDITS, Made},
};
use crate::{
    Ctx, container,
    directory::{merge, patch, replace, tree_error},
    engine::Stop,
};

/// How many edits are applied to one draft at most.
const BATCH_MAX: usize = 50_000;

/// The outcome all waiters of a node share.
pub type Outcome = Result<Arc<Done>, Error>;

impl Ctx {
    /// One tree of a node.
    ///
    /// # Errors
    /// What the work, or the work before it, answered.
    pub async fn evaluate(&self, output: &Output) -> Result<Snapshot, Error> {
        let done = self.evaluate_node(&output.node).await?;
        done.outputs
            .get(output.index as usize)
            .cloned()
            .ok_or_else(|| {
                Error::internal(format!(
                    "node {:?} has no output {}",
                    output.node.key, output.index
                ))
            })
    }

    /// All of a node's results.
    ///
    /// # Errors
    /// What the work, or the work before it, answered.
    pub async fn evaluate_node(&self, node: &Arc<Node>) -> Outcome {
        if let Some(done) = node.done.get() {
            return Ok(done.clone());
        }
        if let Some(done) = self.known(node) {
            return Ok(node.done.get_or_init(|| done).clone());
        }
        if let Some(error) = self.session.failure(&node.key) {
            return Err(error);
        }
        let (ctx, work) = (self.clone(), node.clone());
        let outcome = self
            .engine
            .flights
            .join(self.flight_key(node), move || ctx.compute(work))
            .await
            .unwrap_or_else(|| {
                Err(Error::internal(
                    "a step ended without an answer; please report this",
                ))
            });
        match outcome {
            Ok(done) => Ok(node.done.get_or_init(|| done).clone()),
            Err(error) => {
                // A service that did not start may start the next time: only what a process itself did is remembered.
                let own = |plan: &super::exec::ExecPlan| {
                    error.extensions().is_some() || plan.origin.is_some()
                };
                if matches!(&node.op, Op::Exec(plan) if own(plan)) && error.class() == Class::User {
                    self.session.remember_failure(node.key, error.clone());
                }
                Err(error)
            }
        }
    }

    /// The results in the persistent cache.
    fn known(&self, node: &Node) -> Option<Arc<Done>> {
        let done = match &node.op {
            Op::Given(snapshot) => Done {
                outputs: vec![snapshot.clone()],
                exec: None,
            },
            Op::Failed(_) => return None,
            Op::Image(_) | Op::Checkout(_) | Op::Edit(_) => {
                let record = self.engine.store.results().get(&node.key.0)?;
                Done {
                    outputs: record.outputs,
                    exec: None,
                }
            }
            Op::Exec(_) => {
                let record = self.engine.store.results().get(&node.key.0)?;
                let exec = Some(ExecResult::decode(&record.extra)?);
                self.show_cached(node);
                Done {
                    outputs: record.outputs,
                    exec,
                }
            }
        };
        Some(Arc::new(done))
    }

    /// Shows an exec that is answered from the cache, and before it all execs it is made of: they are answered with it.
    fn show_cached(&self, node: &Node) {
        let mut pending = vec![node];
        let mut steps = Vec::new();
        let mut seen = HashSet::from([node.key]);
        while let Some(node) = pending.pop() {
            if let Op::Exec(plan) = &node.op {
                if !self.session.first_shown(node.key) {
                    continue;
                }
                steps.push(plan);
            }
            let inputs = node.inputs.iter().flatten().map(|o| &*o.node);
            pending.extend(inputs.filter(|input| seen.insert(input.key)));
        }
        for plan in steps.into_iter().rev() {
            self.session
                .progress
                .step_cached(&container::prepare::label(self, plan), self.span);
        }
    }

    /// By what askers find each other. An exec that reaches services, or the session itself, is never shared between sessions:
    /// these end with it.
    fn flight_key(&self, node: &Node) -> Key {
        match &node.op {
            Op::Exec(plan) if !plan.services.is_empty() || plan.nesting => {
                KeyHasher::new("in session")
                    .bytes(&node.key.0)
                    .str(&self.session.id)
                    .finish()
            }
            // Credentials and services are the session's.
            Op::Checkout(_) => KeyHasher::new("in session")
                .bytes(&node.key.0)
                .str(&self.session.id)
                .finish(),
            _ => node.key,
        }
    }

    /// Does the work of a node that is not known. Boxed: nodes need nodes, and their futures would have no finite type.
    fn compute(self, node: Arc<Node>) -> futures::future::BoxFuture<'static, Outcome> {
        Box::pin(async move { self.with_room(|| self.work(&node)).await })
    }

    async fn work(&self, node: &Arc<Node>) -> Outcome {
        let done = match &node.op {
            Op::Given(snapshot) => Done {
                outputs: vec![snapshot.clone()],
                exec: None,
            },
            Op::Failed(error) => return Err(error.clone()),
            Op::Image(pin) => {
                let snapshot = container::image::unpacked(self, pin).await?;
                self.record(
                    node.key,
                    std::slice::from_ref(&snapshot),
                    &[],
                    &format!("image {}", pin.stack.reference),
                );
                Done {
                    outputs: vec![snapshot],
                    exec: None,
                }
            }
            Op::Checkout(plan) => {
                let snapshot = plan.snapshot(self).await?;
                self.record(
                    node.key,
                    std::slice::from_ref(&snapshot),
                    &[],
                    &format!("git checkout {}", plan.shown()),
                );
                Done {
                    outputs: vec![snapshot],
                    exec: None,
                }
            }
            Op::Edit(_) => {
                let snapshot = self.edit(node).await?;
                self.record(
                    node.key,
                    std::slice::from_ref(&snapshot),
                    &[],
                    "file change",
                );
                Done {
                    outputs: vec![snapshot],
                    exec: None,
                }
            }
            Op::Exec(plan) => {
                let inputs = self.inputs(&node.inputs).await?;
                // Its run is shown; later it is no news.
                self.session.first_shown(node.key);
                let (outputs, result) = container::run::run(self, plan, &inputs).await?;
                let label = container::prepare::label(self, plan);
                self.record(node.key, &outputs, &result.encode(), &label);
                if let Some(root) = outputs.first().filter(|root| Some(*root) != inputs.first()) {
                    let made = Made {
                        by: label,
                        begun: None,
                    };
                    made.remember(&self.engine.store, root);
                }
                Done {
                    outputs,
                    exec: Some(result),
                }
            }
        };
        Ok(Arc::new(done))
    }

    fn record(&self, key: Key, outputs: &[Snapshot], extra: &[u8], description: &str) {
        self.engine
            .store
            .results()
            .put(&key.0, outputs, extra, description);
    }

    /// Evaluates all inputs of a node at once; the empty tree stands for a missing one.
    pub(crate) async fn inputs(&self, inputs: &[Option<Output>]) -> Result<Vec<Snapshot>, Error> {
        futures::future::try_join_all(inputs.iter().map(|input| async move {
            match input {
                Some(o) => self.evaluate(o).await,
                None => self
                    .engine
                    .store
                    .empty()
                    .map_err(|e| Error::from_chain(Class::Environment, &e)),
            }
        }))
        .await
    }

    /// Applies an edit, together with all unfinished edits below it, to one draft.
    async fn edit(&self, top: &Arc<Node>) -> Result<Snapshot, Error> {
        let mut batch: Vec<Arc<Node>> = vec![top.clone()];
        let base = loop {
            let Some(last) = batch.last() else { break None };
            let Some(below) = last.inputs.first().cloned().flatten() else {
                break None;
            };
            let unfinished = matches!(&below.node.op, Op::Edit(e) if !matches!(e, Edit::Diff { .. }))
                && !matches!(&last.op, Op::Edit(Edit::Diff { .. }))
                && below.node.done.get().is_none()
                && batch.len() < BATCH_MAX
                && !self.engine.store.results().contains(&below.node.key.0);
            if !unfinished {
                break Some(below);
            }
            batch.push(below.node);
        };
        let parent = match &base {
            Some(o) => Some(self.evaluate(o).await?),
            None => None,
        };
        // Sources in the order the edits will want them.
        batch.reverse();
        let mut sources = Vec::with_capacity(batch.len());
        for node in &batch {
            sources.push(
                self.inputs(node.inputs.get(1..).unwrap_or_default())
                    .await?,
            );
        }
        let store = self.engine.store.clone();
        let begun = Made::now();
        self.engine
            .stoppable(move |stop| {
                let environment = |e: &(dyn std::error::Error + 'static)| {
                    Error::from_chain(Class::Environment, e)
                };
                let replaces = matches!(
                    batch.first().map(|n| &n.op),
                    Some(Op::Edit(Edit::Diff { .. }))
                );
                let draft = store
                    .draft(if replaces { None } else { parent.as_ref() })
                    .map_err(|e| environment(&e))?;
                {
                    let tree = draft.tree().map_err(|e| environment(&e))?;
                    for (node, source) in batch.iter().zip(&sources) {
                        let Op::Edit(edit) = &node.op else { continue };
                        stop.check()?;
                        apply(&store, &tree, edit, parent.as_ref(), source, stop)?;
                    }
                }
                let snapshot = draft.commit().map_err(|e| environment(&e))?;
                if Some(&snapshot) != parent.as_ref() {
                    let made = Made {
                        by: EDITS.to_owned(),
                        begun: Some(begun),
                    };
                    made.remember(&store, &snapshot);
                }
                Ok(snapshot)
            })
            .await
    }
}

/// Applies one edit to a writable tree.
fn apply(
    store: &store::Store,
    tree: &Tree,
    edit: &Edit,
    base: Option<&Snapshot>,
    sources: &[Snapshot],
    stop: &Stop,
) -> Result<(), Error> {
    let environment =
        |e: &(dyn std::error::Error + 'static)| Error::from_chain(Class::Environment, e);
    let source_at = |nth: usize| {
        sources
            .get(nth)
            .map(|s| s.tree().map_err(|e| environment(&e)))
            .transpose()
    };
    let source_tree = || source_at(0);
    let needed = |nth: usize| {
        source_at(nth)?.ok_or_else(|| Error::internal("a change of files without what it takes"))
    };
    let result = match edit {
        Edit::WriteFile {
            path,
            contents,
            mode,
            owner,
        } => tree.write_file(path, contents, *mode, *owner),
        Edit::MakeDir { path, mode, owner } => tree.make_dir(path, *mode, *owner),
        Edit::Copy {
            kind,
            from,
            to,
            include,
            exclude,
            owner,
            mode,
            git_ignore,
        } => {
            let source = source_tree()?;
            let options = CopyOptions {
                include: include.clone(),
                exclude: exclude.clone(),
                owner: *owner,
                mode: *mode,
                git_ignore: *git_ignore,
                ..CopyOptions::default()
            };
            match (kind, source) {
                (CopyKind::Dir, Some(source)) => tree.copy_dir(&source, from, to, &options),
                (CopyKind::Dir, None) => tree.make_dir(to, 0o755, *owner),
                (CopyKind::File, Some(source)) => tree.copy_file(&source, from, to, &options),
                (CopyKind::File, None) => {
                    return Err(Error::user(format!("{from}: no such file or directory")));
                }
            }
        }
        Edit::Remove { paths } => paths.iter().try_for_each(|p| tree.remove(p)),
        Edit::SetTimes { path, seconds } => tree.set_times(path, *seconds),
        Edit::Diff { path } => {
            let lower = base
                .map(|s| s.tree().map_err(|e| environment(&e)))
                .transpose()?;
            match source_tree()? {
                Some(upper) => tree.diff_from(lower.as_ref(), &upper, path),
                None => Ok(()),
            }
        }
        Edit::Symlink { target, path } => tree.symlink(target, path),
        Edit::Instruction(instruction) => {
            return instruction.apply(store, tree, source_tree()?.as_ref());
        }
        Edit::Chown { path, owner } => tree.chown_all(path, owner.0, owner.1),
        Edit::Chmod { path, mode } => tree.chmod_all(path, *mode),
        Edit::Changes { at, before, after } => {
            tree.apply_changes(at, (&needed(0)?, before), (&needed(1)?, after))
        }
        Edit::Merge {
            at,
            before,
            after,
            base,
            conflict,
        } => {
            let (theirs_before, theirs_after, ours_before) = (needed(0)?, needed(1)?, needed(2)?);
            let theirs = (
                (&theirs_before, before.as_str()),
                (&theirs_after, after.as_str()),
            );
            return merge::merge(tree, at, theirs, (&ours_before, base), *conflict, stop);
        }
        Edit::Patch { at, patch } => return patch::apply(tree, at, patch, stop),
        Edit::PatchFile { at, file } => {
            let patch = needed(0)?
                .read_file(file, patch::PATCH_MAX)
                .map_err(|e| tree_error(&e))?;
            return patch::apply(tree, at, &patch, stop);
        }
        Edit::Replace {
            path,
            search,
            replacement,
            which,
        } => return replace::apply(tree, path, search, replacement, *which),
    };
    result.map_err(|e| tree_error(&e))
}
