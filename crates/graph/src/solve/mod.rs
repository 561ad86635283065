//! The solver: finds or computes the result of a call. One per session: it is the session's memory.

pub(crate) mod load;
pub(crate) mod memo;
pub(crate) mod task;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    call::{Call, Literal},
    error::Error,
    query::coerce::{same, to_literal},
    resolve::{Args, BoxFuture, Context, Invocation, Memo, View},
    schema::{Binding, Defs, FieldId, Kind, ScalarKind, Schema, Ty},
    value::{Object, Value},
};

use memo::{Found, Key, Memory};
use task::{Computation, SpanGuard, Task, cancelled, panicked};

/// Evaluates calls: each recipe once, however many wait for it. Forgets failures; cancels what nobody waits for.
pub struct Solver<C> {
    pub(crate) schema: Schema<C>,
    memory: Memory,
}

/// A call to evaluate.
#[derive(Clone)]
pub(crate) struct Asking {
    pub(crate) field: FieldId,
    pub(crate) this: Option<Object>,
    pub(crate) args: Args,
    pub(crate) call: Arc<Call>,
    pub(crate) view: View,
}

/// The answer, or a future of it.
pub(crate) enum Asked {
    Now(Result<Value, Error>),
    Later(BoxFuture<Result<Value, Error>>),
}

impl Asked {
    /// Waits.
    pub(crate) async fn wait(self) -> Result<Value, Error> {
        match self {
            Asked::Now(r) => r,
            Asked::Later(f) => f.await,
        }
    }
}

/// The type of an asking's view and receiver after looking at the field.
pub(crate) fn receiver(defs: &Defs, this: Option<Object>) -> Option<Object> {
    // `Query` objects (the no-op `pipeline`) are the root.
    this.filter(|o| *o.type_name != *defs.ty(defs.query).name)
}

impl<C: Context> Solver<C> {
    /// A solver with nothing remembered.
    pub fn new(schema: Schema<C>) -> Arc<Self> {
        Arc::new(Self {
            schema,
            memory: Memory::default(),
        })
    }

    /// The schema it solves.
    pub fn schema(&self) -> &Schema<C> {
        &self.schema
    }

    /// How many results are remembered.
    pub fn remembered(&self) -> usize {
        self.memory.len()
    }

    /// Forgets all results, at the end of a session: remembered objects may hold what holds the solver. Computations under way
    /// go on as long as someone waits for them.
    pub fn forget(&self) {
        self.memory.forget();
    }

    /// How many computations are under way.
    pub fn running(&self) -> usize {
        self.memory.running()
    }

    pub(crate) fn defs(&self) -> &Arc<Defs> {
        &self.schema.0.defs
    }

    pub(crate) fn binding(&self, field: FieldId) -> Option<&Binding<C>> {
        self.schema.0.bindings.get(field as usize)?.as_ref()
    }

    /// What of a field's coerced arguments stands in a recipe: not what equals the default, and nothing sensitive.
    pub(crate) fn recipe(&self, field: FieldId, args: &Args) -> Vec<(Arc<str>, Literal)> {
        let def = self.defs().field(field);
        let sensitive = self.binding(field).map_or(&[][..], |b| &b.sensitive);
        let default = |name: &str, value: &Value| {
            def.args
                .iter()
                .any(|a| *a.name == *name && a.default.as_ref().is_some_and(|d| same(d, value)))
                && def.args.iter().filter(|a| *a.name == *name).count() == 1
        };
        args.0
            .iter()
            .filter(|(n, v)| !v.is_null() && !sensitive.contains(n) && !default(n, v))
            .map(|(n, v)| (n.clone(), to_literal(v)))
            .collect()
    }

    /// The call of a field asked under `view`.
    pub(crate) fn asking(
        &self,
        view: View,
        interval: u32,
        field: FieldId,
        this: Option<Object>,
        args: Args,
        literals: Vec<(Arc<str>, Literal)>,
    ) -> Asking {
        let defs = self.defs();
        let def = defs.field(field);
        let this = receiver(defs, this);
        let (view, recorded) = self.recorded(view, interval, field);
        let call = Call::with(
            this.as_ref().map(|o| o.call.clone()),
            &def.name,
            literals,
            &defs.ty(def.ty.named()).name,
            0,
            &recorded,
        );
        Asking {
            field,
            this,
            args,
            call,
            view,
        }
    }

    /// The view a resolver is told, and the one the recipe records.
    fn recorded(&self, view: View, interval: u32, field: FieldId) -> (View, Arc<str>) {
        if self.binding(field).is_some_and(|b| b.by_view) {
            let text = if view == View::DEFAULT {
                String::new()
            } else {
                view.to_string()
            };
            return (view, text.into());
        }
        let recorded = self
            .defs()
            .field(field)
            .recorded
            .get(interval as usize)
            .cloned()
            .unwrap_or_default();
        (View::parse(&recorded).unwrap_or(view), recorded)
    }

    /// Where the result of a call of `field` is remembered.
    pub(crate) fn key(&self, ctx: &C, field: FieldId, call: &Call) -> Option<Key> {
        match self.binding(field)?.memo {
            Memo::Session => Some(Key(call.digest().0, 0)),
            // 0 stands for the session.
            Memo::ClientUnless(arg)
                if call
                    .args
                    .iter()
                    .any(|(n, v)| **n == *arg && *v == Literal::Bool(true)) =>
            {
                None
            }
            Memo::Client | Memo::ClientUnless(_) => Some(Key(
                call.digest().0,
                ctx.client_key().wrapping_add(1).max(1),
            )),
            Memo::Never => None,
        }
    }

    /// Finds or computes the result of a call.
    pub(crate) fn ask(self: &Arc<Self>, ctx: &C, asking: Asking) -> Asked {
        let Some(binding) = self.binding(asking.field) else {
            let path = self.defs().path(asking.field);
            return Asked::Now(Err(Error::user(format!(
                "{path} is not available in this version of bodkin yet"
            ))));
        };
        let span = SpanGuard::begin(ctx, asking.call.clone());
        let key = self.key(ctx, asking.field, &asking.call);
        let task = match &key {
            None => Task::new(),
            Some(key) => match self.memory.find(key) {
                Found::Done(value) => {
                    span.end(true, None);
                    return Asked::Now(Ok(value));
                }
                Found::Running(waiter) => {
                    let (solver, ctx) = (self.clone(), ctx.clone());
                    return Asked::Later(Box::pin(async move {
                        match waiter.wait().await {
                            // The one who started it went away, we did not.
                            Err(e) if e.class() == crate::error::Class::Cancelled => {
                                drop(span);
                                solver.ask(&ctx, asking).wait().await
                            }
                            result => {
                                span.end(true, result.as_ref().err());
                                result
                            }
                        }
                    }));
                }
                Found::Nothing(task) => task,
            },
        };
        let ctx = span.within(ctx);
        let invocation = Invocation {
            ctx: ctx.clone(),
            this: asking.this,
            args: asking.args,
            call: asking.call,
            view: asking.view,
        };
        let resolver = &binding.resolver;
        let future =
            catch_unwind(AssertUnwindSafe(|| resolver(invocation))).unwrap_or_else(|panic| {
                let error = panicked(&self.defs().path(asking.field), &*panic);
                Box::pin(std::future::ready(Err(error)))
            });
        Computation {
            solver: self.clone(),
            ctx,
            field: asking.field,
            key,
            task,
            span: Some(span),
            future: Some(future),
        }
        .start()
    }

    /// What a finished computation leaves behind: checks the result against the declared type and remembers it.
    pub(crate) fn finish(
        &self,
        ctx: &C,
        field: FieldId,
        key: Option<Key>,
        task: &Arc<Task>,
        result: Result<Value, Error>,
    ) -> Result<Value, Error> {
        let defs = self.defs();
        let result = result.and_then(|value| match check(defs, &defs.field(field).ty, &value) {
            Ok(()) => Ok(value),
            Err(problem) => Err(Error::internal(format!(
                "{} gave {problem}",
                defs.path(field)
            ))),
        });
        if let Some(key) = key {
            self.memory.settle(&key, task, result.as_ref().ok());
        }
        // An object under another recipe than the one asked is what that recipe makes, too.
        if let Ok(Value::Object(object)) = &result
            && object.call.nth == 0
            && let Some(field) = self.field_of(&object.call)
            && let Some(other) = self.key(ctx, field, &object.call)
            && Some(other) != key
        {
            self.memory.teach(other, result.as_ref().ok());
        }
        task.send(result.clone());
        result
    }

    /// The field a call asks, by its receiver's type.
    pub(crate) fn field_of(&self, call: &Call) -> Option<FieldId> {
        let defs = self.defs();
        let parent = match &call.receiver {
            None => defs.query,
            Some(r) => defs.type_named(&r.type_name)?,
        };
        defs.field_of_recipe(parent, &call.field, &call.view)
            .map(|(f, _)| f)
    }

    /// Gives up a computation unless someone waits for it again.
    pub(crate) fn abandon(&self, key: Option<&Key>, task: &Arc<Task>) -> bool {
        key.is_none_or(|key| self.memory.abandon(key, task))
    }

    /// A computation was dropped before its end: nothing of it stays, and whoever waits is told.
    pub(crate) fn dropped(&self, key: Option<&Key>, task: &Arc<Task>) {
        if let Some(key) = key {
            self.memory.settle(key, task, None);
        }
        task.send(Err(cancelled()));
    }

    /// The remembered result of a call.
    pub(crate) fn recall(&self, key: &Key) -> Option<Value> {
        self.memory.recall(key)
    }
}

/// Does a result fit its declared type? The nesting of lists is bounded by the type.
fn check(defs: &Defs, ty: &Ty, value: &Value) -> Result<(), String> {
    match (ty, value) {
        (Ty::NonNull(_), Value::Null) => Err("null, which its type does not allow".into()),
        (Ty::NonNull(inner), value) => check(defs, inner, value),
        (_, Value::Null) => Ok(()),
        (Ty::List(inner), Value::List(items)) => {
            items.iter().try_for_each(|v| check(defs, inner, v))
        }
        (Ty::Named(id), value) => {
            let def = defs.ty(*id);
            let fits = match (def.kind, def.scalar, value) {
                (Kind::Object | Kind::Interface | Kind::Union, _, Value::Object(o)) => defs
                    .type_named(&o.type_name)
                    .is_some_and(|t| defs.is_a(t, *id)),
                (Kind::Enum, _, Value::Enum(_) | Value::String(_)) => true,
                (Kind::Scalar, ScalarKind::Int, Value::Int(_)) => true,
                (Kind::Scalar, ScalarKind::Float, Value::Float(_) | Value::Int(_)) => true,
                (Kind::Scalar, ScalarKind::Boolean, Value::Bool(_)) => true,
                (Kind::Scalar, ScalarKind::Text, Value::String(_) | Value::Enum(_)) => true,
                (
                    Kind::Scalar,
                    ScalarKind::IdOf(_) | ScalarKind::AnyId,
                    Value::Id(_) | Value::Object(_),
                ) => true,
                _ => false,
            };
            if fits {
                Ok(())
            } else {
                Err(format!("{value:?} where {} is declared", def.name))
            }
        }
        (Ty::List(_), value) => Err(format!("{value:?} where {} is declared", defs.show(ty))),
    }
}
