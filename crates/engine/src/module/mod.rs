//! Modules as the API describes them: types, functions and what a module says of itself.

mod core;
mod definition;
mod error;
mod fields;
mod function;
mod names;
#[cfg(test)]
mod tests;
mod typedef;

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

pub use definition::{GeneratedCode, Module};
pub use error::{Failure, FailureValue};
pub use function::{CachePolicy, Function, FunctionArg, Roles};
pub use names::{field_name, type_name};
pub use typedef::{
    About, Enum, EnumValue, Field, Input, Interface, Kind, Object, Shape, SourceMap, TypeDef,
    TypeDefError,
};

use crate::{Ctx, dispatch::Binder};

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    fields::bind(b);
    function::bind(b);
    definition::bind(b);
    error::bind(b);
    let types = Arc::new(core::CoreTypes::default());
    b.by_view("Query.currentTypeDefs", Memo::Never, move |inv| {
        let types = types.clone();
        async move { current_type_defs(inv, &types).await }
    });
    b.bind("Query.currentModule", Memo::Never, |_| async {
        Err(Error::user(
            "no current module: this client does not run inside a module",
        ))
    });
    b.bind("Query.currentFunctionCall", Memo::Never, |_| async {
        Err(Error::user(
            "no current function call: this client does not run inside a function of a module",
        ))
    });
}

/// `currentTypeDefs`: the engine's own types, as the client's version sees them.
async fn current_type_defs(inv: Invocation<Ctx>, types: &core::CoreTypes) -> Result<Value, Error> {
    if inv.args.bool("hideCore") {
        return Ok(Value::List(vec![]));
    }
    let types = types.of(&inv.ctx, inv.view).await?;
    Ok(inv.objects(types.iter().cloned()))
}
