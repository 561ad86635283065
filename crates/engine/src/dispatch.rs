//! Binds resolvers to the schema: a shorthand over the graph's builder.

use std::future::Future;

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    schema::Builder,
    value::Value,
};

use crate::Ctx;

/// The schema being bound.
pub struct Binder {
    /// The graph's builder.
    pub schema: Builder<Ctx>,
}

impl Binder {
    /// Binds one field.
    pub fn bind<F, R>(&mut self, field: &str, memo: Memo, resolver: F)
    where
        F: Fn(Invocation<Ctx>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        self.schema.bind(field, memo, resolver);
    }

    /// Binds a field whose meaning depends on the schema view: the view becomes part of its recipe.
    pub fn by_view<F, R>(&mut self, field: &str, memo: Memo, resolver: F)
    where
        F: Fn(Invocation<Ctx>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        self.schema.bind(field, memo, resolver).by_view();
    }

    /// Binds a field with arguments that must not become part of the recipe.
    pub fn sensitive<F, R>(&mut self, field: &str, memo: Memo, arguments: &[&str], resolver: F)
    where
        F: Fn(Invocation<Ctx>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        self.schema.bind(field, memo, resolver).sensitive(arguments);
    }
}
