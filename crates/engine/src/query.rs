//! The fields of `Query` that belong to no other noun.

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

use crate::{Ctx, dispatch::Binder, platform};

/// The API version this engine speaks.
pub const API_VERSION: &str = "v0.14.0";

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.bind("Query.version", Memo::Never, |_| async {
        Ok(Value::string(API_VERSION))
    });
    b.bind("Query.defaultPlatform", Memo::Never, |_| async {
        Ok(Value::string(platform::native()))
    });
    b.bind("Query.checkVersionCompatibility", Memo::Never, |_| async {
        Ok(Value::Bool(true))
    });
    b.bind("Query.pipeline", Memo::Session, pipeline);
}

/// Pipelines are gone: the field stays for old clients and does nothing.
async fn pipeline(inv: Invocation<Ctx>) -> Result<Value, Error> {
    Ok(inv.object(()))
}
