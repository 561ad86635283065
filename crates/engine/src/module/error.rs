//! Errors that a function of a module fails with, as values.

use std::sync::Arc;

use graph::{error::Error, resolve::Memo, value::Value};

use crate::dispatch::Binder;

/// Most values one error has.
const MAX_VALUES: usize = 1_000;

/// An error, to be returned by a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub message: Arc<str>,
    /// What else is known about it.
    pub values: Vec<FailureValue>,
}

/// Something known about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureValue {
    /// Its name.
    pub name: Arc<str>,
    /// JSON text.
    pub value: Arc<str>,
}

/// Binds all fields.
pub(super) fn bind(b: &mut Binder) {
    b.bind("Query.error", Memo::Session, |inv| async move {
        Ok(inv.object(Failure {
            message: inv.args.str("message").into(),
            values: vec![],
        }))
    });
    b.bind("Error.message", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Failure>()?.message.clone()))
    });
    b.bind("Error.values", Memo::Session, |inv| async move {
        Ok(inv.objects(inv.this::<Failure>()?.values.iter().cloned()))
    });
    b.bind("Error.withValue", Memo::Session, |inv| async move {
        let mut failure = inv.this::<Failure>()?.clone();
        if failure.values.len() >= MAX_VALUES {
            return Err(Error::user(format!(
                "an error may have at most {MAX_VALUES} values"
            )));
        }
        let (name, value) = (inv.args.str("name").into(), inv.args.str("value").into());
        failure.values.push(FailureValue { name, value });
        Ok(inv.object(failure))
    });
    b.bind("ErrorValue.name", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<FailureValue>()?.name.clone()))
    });
    b.bind("ErrorValue.value", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<FailureValue>()?.value.clone()))
    });
}
