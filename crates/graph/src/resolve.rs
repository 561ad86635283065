//! Resolvers: what the engine gives the graph for every field of the schema.

use std::{future::Future, pin::Pin, sync::Arc};

use crate::{
    call::Call,
    error::Error,
    value::{Object, Value},
};

/// A boxed future of a resolver.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// What the engine's context must tell the graph.
pub trait Context: Clone + Send + Sync + 'static {
    /// A number naming the calling client, for fields bound with [`Memo::Client`].
    fn client_key(&self) -> u64;

    /// A call begins; the returned value is dropped or ended when it is over. Must be cheap.
    fn span(&self, call: &Arc<Call>, parent: u64) -> u64;

    /// The call of span `span` is over.
    fn span_end(&self, span: u64, call: &Arc<Call>, cached: bool, error: Option<&Error>);

    /// The same context inside span `span`.
    #[must_use]
    fn within(&self, span: u64) -> Self;

    /// The span this context is in; 0 at the top.
    fn current_span(&self) -> u64;

    /// An error as the client may see it: the last word before it leaves.
    #[must_use]
    fn told(&self, error: Error) -> Error {
        error
    }
}

/// How long a field's result is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memo {
    /// By recipe, for the whole session.
    #[default]
    Session,
    /// By recipe, for one client of the session.
    Client,
    /// As [`Memo::Client`], but not when the boolean argument of this name is true.
    ClientUnless(&'static str),
    /// Never: each asking runs the resolver.
    Never,
}

/// The function behind a field.
pub type Resolver<C> = Arc<dyn Fn(Invocation<C>) -> BoxFuture<Result<Value, Error>> + Send + Sync>;

/// One asking of a field.
pub struct Invocation<C> {
    /// The engine's context.
    pub ctx: C,
    /// The receiver; `None` for fields of `Query`.
    pub this: Option<Object>,
    /// The arguments, coerced and with declared defaults filled in.
    pub args: Args,
    /// The recipe of this asking.
    pub call: Arc<Call>,
    /// The schema view the call is made under, e.g. `v0.14.0`.
    pub view: View,
}

impl<C> Invocation<C> {
    /// The receiver's payload.
    ///
    /// # Errors
    /// Internal, when the schema bound a resolver to the wrong type.
    pub fn this<T: Send + Sync + 'static>(&self) -> Result<&T, Error> {
        self.this.as_ref().and_then(Object::get).ok_or_else(|| {
            Error::internal(format!(
                "`{}` is bound to a resolver of another type",
                self.call.field
            ))
        })
    }

    /// A result object under the recipe of this call.
    pub fn object<T: Send + Sync + 'static>(&self, data: T) -> Value {
        Value::Object(Object::new(&self.call.type_name, self.call.clone(), data))
    }

    /// A list of result objects, each under this call's recipe with its index.
    pub fn objects<T: Send + Sync + 'static>(&self, items: impl IntoIterator<Item = T>) -> Value {
        let list = items.into_iter().zip(1..);
        Value::List(
            list.map(|(data, nth)| {
                Value::Object(Object::new(
                    &self.call.type_name,
                    self.call.element(nth, &self.call.type_name),
                    data,
                ))
            })
            .collect(),
        )
    }
}

/// A schema version as clients name it; ordered by its three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Patch.
    pub patch: u32,
}

impl View {
    /// What the engine speaks when nothing else is asked.
    pub const DEFAULT: Self = Self::new(0, 14, 0);

    /// A view.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Reads `v1.2.3`, `1.2.3` or `v1.2.3-pre+build` (the pre-release is dropped). `None` when it is no semantic version.
    pub fn parse(text: &str) -> Option<Self> {
        let core = text
            .strip_prefix('v')
            .unwrap_or(text)
            .split(['-', '+'])
            .next()?;
        let mut parts = core.split('.').map(|p| p.parse().ok());
        let view = Self::new(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(view)
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The coerced arguments of one call, in declared order.
#[derive(Debug, Clone, Default)]
pub struct Args(pub Vec<(Arc<str>, Value)>);

impl Args {
    /// The argument, or null.
    pub fn get(&self, name: &str) -> &Value {
        self.0
            .iter()
            .find(|(n, _)| **n == *name)
            .map_or(&Value::Null, |(_, v)| v)
    }

    /// A string or enum name; empty when null.
    pub fn str(&self, name: &str) -> &str {
        match self.get(name) {
            Value::String(s) | Value::Enum(s) => s,
            _ => "",
        }
    }

    /// A string; `None` when null.
    pub fn opt_str(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Value::String(s) | Value::Enum(s) => Some(s),
            _ => None,
        }
    }

    /// A boolean; false when null.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Value::Bool(true))
    }

    /// An integer; `None` when null.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// A list of strings; empty when null.
    pub fn strings(&self, name: &str) -> Vec<Arc<str>> {
        match self.get(name) {
            Value::List(items) => items
                .iter()
                .filter_map(|v| match v {
                    Value::String(s) | Value::Enum(s) => Some(s.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// An object's recipe; `None` when null.
    pub fn id(&self, name: &str) -> Option<&Arc<Call>> {
        match self.get(name) {
            Value::Id(c) => Some(c),
            _ => None,
        }
    }

    /// A list of recipes; empty when null.
    pub fn ids(&self, name: &str) -> Vec<Arc<Call>> {
        match self.get(name) {
            Value::List(items) => items
                .iter()
                .filter_map(|v| match v {
                    Value::Id(c) => Some(c.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}
