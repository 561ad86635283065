//! Cache volumes: directories that live beside the graph, by name.

use std::sync::Arc;

use graph::{
    call::Call,
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

use crate::{Ctx, dispatch::Binder};

/// A named cache volume.
#[derive(Debug, Clone)]
pub struct CacheVolume {
    /// Its name.
    pub key: Arc<str>,
    /// What fills it at first use (views from 0.21 on).
    pub source: Option<Arc<Call>>,
    /// Owner of its top directory (views from 0.21 on).
    pub owner: Arc<str>,
}

/// Binds all fields.
pub fn bind(b: &mut Binder) {
    b.bind("Query.cacheVolume", Memo::Session, cache_volume);
}

async fn cache_volume(inv: Invocation<Ctx>) -> Result<Value, Error> {
    Ok(inv.object(CacheVolume {
        key: inv.args.str("key").into(),
        source: inv.args.id("source").cloned(),
        owner: inv.args.str("owner").into(),
    }))
}
