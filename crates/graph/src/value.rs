//! Values: what arguments and results are made of.

use std::{any::Any, sync::Arc};

use crate::call::Call;

/// An argument after coercion, or a field's result.
#[derive(Debug, Clone)]
pub enum Value {
    /// Absent or null.
    Null,
    /// Boolean.
    Bool(bool),
    /// GraphQL `Int`, 64-bit.
    Int(i64),
    /// GraphQL `Float`.
    Float(f64),
    /// Strings and string-like scalars (`Platform`, `JSON`).
    String(Arc<str>),
    /// The name of an enum value.
    Enum(Arc<str>),
    /// A list.
    List(Vec<Value>),
    /// An input object, in declared order of its fields.
    Input(Vec<(Arc<str>, Value)>),
    /// An ID argument: the recipe of an object, not yet loaded.
    Id(Arc<Call>),
    /// An object (results only).
    Object(Object),
}

/// An object: its type, the recipe that made it, and the engine's payload.
#[derive(Clone)]
pub struct Object {
    /// GraphQL type name, e.g. `Container`.
    pub type_name: Arc<str>,
    /// The recipe; printed as the object's ID.
    pub call: Arc<Call>,
    /// The engine's noun. See [`Object::get`].
    pub data: Arc<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.type_name, self.call.digest())
    }
}

impl Object {
    /// Wraps a payload. The graph sets `call` to the asked call when a resolver returns a [`Value::Object`] made with
    /// [`Invocation::object`](crate::resolve::Invocation::object); use this to return an object under another (content-addressed) recipe.
    pub fn new<T: Any + Send + Sync>(type_name: &str, call: Arc<Call>, data: T) -> Self {
        Self {
            type_name: type_name.into(),
            call,
            data: Arc::new(data),
        }
    }

    /// The payload as `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.data.downcast_ref()
    }
}

impl Value {
    /// A string.
    pub fn string(s: impl Into<Arc<str>>) -> Self {
        Self::String(s.into())
    }

    /// An optional string; `None` is null.
    pub fn opt_string<S: Into<Arc<str>>>(s: Option<S>) -> Self {
        s.map_or(Self::Null, Self::string)
    }

    /// A list of strings.
    pub fn strings<S: Into<Arc<str>>>(items: impl IntoIterator<Item = S>) -> Self {
        Self::List(items.into_iter().map(Self::string).collect())
    }

    /// Is it null?
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}
