//! From recipes to objects, and fields called from Rust.

use std::{borrow::Cow, sync::Arc};

use crate::{
    call::Call,
    error::Error,
    query::coerce::{Coercion, Raw},
    resolve::{Args, Context, View},
    schema::{FieldDef, FieldId, Kind, Provider},
    value::{Object, Value},
};

use super::{Asked, Asking, Solver, receiver};

impl<C: Context> Solver<C> {
    /// The object a recipe makes: what is remembered of it is used, the rest evaluated, receivers first.
    ///
    /// # Errors
    /// Whatever a step fails with; or the recipe does not fit the schema.
    pub async fn load(self: &Arc<Self>, ctx: &C, call: &Arc<Call>) -> Result<Object, Error> {
        self.load_in(ctx, View::DEFAULT, call).await
    }

    pub(crate) async fn load_in(
        self: &Arc<Self>,
        ctx: &C,
        view: View,
        call: &Arc<Call>,
    ) -> Result<Object, Error> {
        let (mut this, pending) = match self.backlog(ctx, call) {
            Ok(object) => return Ok(object),
            Err(backlog) => backlog,
        };
        for call in pending.iter().rev() {
            this = Some(self.step(ctx, view, this, call).await?);
        }
        this.ok_or_else(|| Error::user("cannot load an empty recipe"))
    }

    /// The object itself if it is remembered; else the nearest remembered receiver and the calls behind it, last first.
    #[allow(clippy::type_complexity)]
    pub(crate) fn backlog(
        &self,
        ctx: &C,
        call: &Arc<Call>,
    ) -> Result<Object, (Option<Object>, Vec<Arc<Call>>)> {
        let mut pending = Vec::new();
        let mut at = call;
        loop {
            if let Some(object) = self.remembers(ctx, at) {
                return if pending.is_empty() {
                    Ok(object)
                } else {
                    Err((Some(object), pending))
                };
            }
            pending.push(at.clone());
            match &at.receiver {
                Some(r) => at = r,
                None => return Err((None, pending)),
            }
        }
    }

    fn remembers(&self, ctx: &C, call: &Arc<Call>) -> Option<Object> {
        let field = self.field_of(call)?;
        let value = if call.nth == 0 {
            self.recall(&self.key(ctx, field, call)?)?
        } else {
            self.recall(&self.key(ctx, field, &without_nth(call, call.receiver.clone()))?)?
        };
        pick(value, call).ok()
    }

    /// Evaluates the last call of a recipe on its receiver.
    async fn step(
        self: &Arc<Self>,
        ctx: &C,
        view: View,
        this: Option<Object>,
        call: &Arc<Call>,
    ) -> Result<Object, Error> {
        let defs = self.defs();
        let this = receiver(defs, this);
        let parent = match &this {
            None => defs.query,
            Some(o) => defs
                .type_named(&o.type_name)
                .ok_or_else(|| Error::internal(format!("there is no type {}", o.type_name)))?,
        };
        let no_field = || {
            Error::user(format!(
                "cannot load the ID: {} has no field {:?}",
                defs.ty(parent).name,
                call.field
            ))
        };
        let (field, interval) = defs
            .field_of_recipe(parent, &call.field, &call.view)
            .ok_or_else(no_field)?;
        let def = defs.field(field);
        if def.provider != Provider::Engine || defs.ty(def.ty.named()).kind == Kind::Scalar {
            return Err(Error::user(format!(
                "cannot load the ID: {} makes no object",
                defs.path(field)
            )));
        }
        let made = def.ty.named();
        if !defs
            .type_named(&call.type_name)
            .is_some_and(|t| defs.is_a(t, made))
        {
            let made = &defs.ty(made).name;
            return Err(Error::user(format!(
                "cannot load the ID: expected a {}, but {} makes a {made}",
                call.type_name,
                defs.path(field)
            )));
        }
        let args = self.recipe_args(field, def, interval, call)?;
        // The receiver may have come under another recipe than the one asked.
        let same_receiver = match (&this, &call.receiver) {
            (None, None) => true,
            (Some(o), Some(r)) => o.call.digest() == r.digest(),
            _ => false,
        };
        let asked = if same_receiver && call.nth == 0 {
            call.clone()
        } else {
            without_nth(call, this.as_ref().map(|o| o.call.clone()))
        };
        let view = self.view_of_recipe(field, interval, view, call);
        let value = self
            .ask(
                ctx,
                Asking {
                    field,
                    this,
                    args,
                    call: asked,
                    view,
                },
            )
            .wait()
            .await?;
        let object = pick(value, call)?;
        let expected = defs.type_named(&call.type_name);
        let found = defs.type_named(&object.type_name);
        match (expected, found) {
            (Some(e), Some(f)) if defs.is_a(f, e) => Ok(object),
            _ => Err(Error::user(format!(
                "cannot load the ID: expected a {}, found a {}",
                call.type_name, object.type_name
            ))),
        }
    }

    /// The view a resolver is told for a recipe's call: the recorded one; without one, the asker's if it means the same by the
    /// field, else one that does.
    fn view_of_recipe(&self, field: FieldId, interval: u32, asked: View, call: &Call) -> View {
        if let Some(recorded) = View::parse(&call.view) {
            return recorded;
        }
        let defs = self.defs();
        let def = defs.field(field);
        let theirs = defs.interval(asked);
        let same = def.mask & (1 << theirs) != 0
            && def
                .recorded
                .get(theirs as usize)
                .is_some_and(|r| r.is_empty());
        if same && !self.binding(field).is_some_and(|b| b.by_view) {
            asked
        } else if interval == defs.interval(View::DEFAULT) {
            View::DEFAULT
        } else {
            interval
                .checked_sub(1)
                .and_then(|i| defs.bounds.get(i as usize))
                .copied()
                .unwrap_or(View::new(0, 0, 0))
        }
    }

    fn recipe_args(
        &self,
        field: FieldId,
        def: &FieldDef,
        interval: u32,
        call: &Call,
    ) -> Result<Args, Error> {
        let given = |name: &str| call.arg(name).map(|l| Raw::recipe(l, 0));
        let known = |name: &str| def.args.iter().any(|a| *a.name == *name);
        if let Some((name, _)) = call.args.iter().find(|(n, _)| !known(n)) {
            return Err(Error::user(format!(
                "cannot load the ID: {} has no argument {name:?}",
                self.defs().path(field)
            )));
        }
        self.coerce(field, def, interval, true, given)
            .map_err(|e| e.context("cannot load the ID"))
    }

    /// Coerces arguments of a field. With `all`, arguments the interval does not see count, too.
    fn coerce<'a>(
        &self,
        field: FieldId,
        def: &FieldDef,
        interval: u32,
        all: bool,
        given: impl Fn(&str) -> Option<Raw<'a>>,
    ) -> Result<Args, Error> {
        let defs = self.defs();
        let coercion = Coercion {
            defs,
            interval: if all { None } else { Some(interval) },
        };
        let sees = |mask: u64| mask & (1 << interval) != 0;
        let sensitive = self.binding(field).map_or(&[][..], |b| &b.sensitive);
        let mut out: Vec<(Arc<str>, Value)> = Vec::with_capacity(def.args.len());
        for arg in &def.args {
            let variant = def.args.iter().filter(|a| a.name == arg.name).count() > 1;
            if !sees(arg.mask) && (!all || variant) {
                continue;
            }
            let value = match given(&arg.name) {
                None | Some(Raw::Null) => match (&arg.default, arg.ty.nullable().1) {
                    (Some(default), _) => default.clone(),
                    // A required argument that another view has instead of one of these.
                    (None, true) if !sees(arg.mask) => continue,
                    // Not part of recipes: the resolver sees to it.
                    (None, true) if all && sensitive.contains(&arg.name) => Value::Null,
                    (None, true) => {
                        let others = def
                            .args
                            .iter()
                            .any(|a| !sees(a.mask) && given(&a.name).is_some());
                        if all && others {
                            continue;
                        }
                        return Err(Error::user(format!(
                            "missing required argument: {:?}",
                            arg.name
                        )));
                    }
                    (None, false) => Value::Null,
                },
                Some(raw) => coercion.argument(arg, &raw).map_err(|e| {
                    Error::user(format!(
                        "argument {:?} of {}: {e}",
                        arg.name,
                        defs.path(field)
                    ))
                })?,
            };
            out.push((arg.name.clone(), value));
        }
        Ok(Args(out))
    }

    /// Calls one field from Rust, under `view`: of `this`, or of the root.
    ///
    /// # Errors
    /// Unknown fields and arguments, and whatever the field fails with.
    pub async fn select(
        self: &Arc<Self>,
        ctx: &C,
        view: View,
        this: Option<&Object>,
        field: &str,
        args: Args,
    ) -> Result<Value, Error> {
        let defs = self.defs().clone();
        let this = receiver(&defs, this.cloned());
        let parent = match &this {
            None => defs.query,
            Some(o) => defs
                .type_named(&o.type_name)
                .ok_or_else(|| Error::internal(format!("there is no type {}", o.type_name)))?,
        };
        let interval = defs.interval(view);
        let no_field = || Error::user(format!("{} has no field {field:?}", defs.ty(parent).name));
        let field = defs
            .field_in(parent, field, interval)
            .ok_or_else(no_field)?;
        let def = defs.field(field);
        let sees = |mask: u64| mask & (1 << interval) != 0;
        if let Some((name, _)) = args
            .0
            .iter()
            .find(|(n, _)| !def.args.iter().any(|a| a.name == *n && sees(a.mask)))
        {
            return Err(Error::user(format!(
                "{} has no argument {name:?}",
                defs.path(field)
            )));
        }
        let given = |name: &str| match args.get(name) {
            Value::Null => None,
            Value::String(s) => Some(Raw::Str(Cow::Borrowed(s))),
            other => Some(Raw::value(other, 0)),
        };
        let args = self.coerce(field, def, interval, false, given)?;
        match def.provider {
            Provider::Id => {
                let this = this.ok_or_else(|| Error::user("the root has no ID"))?;
                Ok(Value::Id(this.call))
            }
            Provider::Load => match args.0.first() {
                Some((_, Value::Id(call))) => self
                    .load_in(ctx, view, &call.clone())
                    .await
                    .map(Value::Object),
                _ => Err(Error::user(format!("{} needs an ID", defs.path(field)))),
            },
            Provider::Meta => Err(Error::user(format!(
                "{} can only be asked by a query",
                defs.path(field)
            ))),
            Provider::Engine => {
                let literals = self.recipe(field, &args);
                let asking = self.asking(view, interval, field, this, args, literals);
                match self.ask(ctx, asking) {
                    Asked::Now(r) => r,
                    Asked::Later(f) => f.await,
                }
            }
        }
    }
}

/// The call that gave the list an element's call picks from, on another receiver.
fn without_nth(call: &Call, receiver: Option<Arc<Call>>) -> Arc<Call> {
    Call::with(
        receiver,
        &call.field,
        call.args.clone(),
        &call.type_name,
        0,
        &call.view,
    )
}

/// The object a call means in the value its field gave.
fn pick(value: Value, call: &Call) -> Result<Object, Error> {
    let value = match (value, call.nth) {
        (value, 0) => value,
        (Value::List(items), nth) => {
            let len = items.len();
            let item = items.into_iter().nth(nth as usize - 1);
            item.ok_or_else(|| {
                Error::user(format!(
                    "cannot load the ID: {} has {len} elements, no #{nth}",
                    call.field
                ))
            })?
        }
        (_, nth) => {
            return Err(Error::user(format!(
                "cannot load the ID: {} is no list, so there is no #{nth}",
                call.field
            )));
        }
    };
    match value {
        Value::Object(o) => Ok(o),
        Value::Null => Err(Error::user(format!(
            "cannot load the ID: {} is null",
            call.field
        ))),
        Value::List(_) => Err(Error::user(format!(
            "cannot load the ID: {} is a list, and the ID names no element",
            call.field
        ))),
        _ => Err(Error::user(format!(
            "cannot load the ID: {} is no object",
            call.field
        ))),
    }
}
