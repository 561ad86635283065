//! What a resolver may use.

use std::sync::Arc;

use graph::{call::Call, error::Error, resolve::Context, value::Object};

use crate::{
    Engine,
    session::{Client, Session},
};

/// The world as one call sees it. Functions below a resolver take the parts they use, never this.
#[derive(Clone)]
pub struct Ctx {
    /// The machine.
    pub engine: Arc<Engine>,
    /// One user's connection.
    pub session: Arc<Session>,
    /// The caller in it.
    pub client: Arc<Client>,
    /// The span the call is in.
    pub span: u64,
}

impl Ctx {
    /// Evaluates a recipe to an object's payload of type `T`.
    ///
    /// # Errors
    /// What the recipe's calls answered, or a recipe of another type.
    pub async fn load<T: Clone + Send + Sync + 'static>(
        &self,
        call: &Arc<Call>,
    ) -> Result<T, Error> {
        let object = self.load_object(call).await?;
        object.get::<T>().cloned().ok_or_else(|| {
            Error::user(format!(
                "expected an ID of another type than `{}`",
                object.type_name
            ))
        })
    }

    /// Evaluates a recipe.
    ///
    /// # Errors
    /// What the recipe's calls answered.
    pub async fn load_object(&self, call: &Arc<Call>) -> Result<Object, Error> {
        self.session.solver.load(self, call).await
    }
}

impl Context for Ctx {
    fn client_key(&self) -> u64 {
        self.client.key
    }

    fn span(&self, call: &Arc<Call>, parent: u64) -> u64 {
        self.session.progress.call_started(call, parent)
    }

    fn span_end(&self, span: u64, _call: &Arc<Call>, cached: bool, error: Option<&Error>) {
        self.session.progress.call_ended(span, cached, error);
    }

    fn within(&self, span: u64) -> Self {
        Self {
            span,
            ..self.clone()
        }
    }

    fn current_span(&self) -> u64 {
        self.span
    }

    fn told(&self, error: Error) -> Error {
        self.session.told(error)
    }
}
