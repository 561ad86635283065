//! The whole API: the schema's text bound to the resolvers of all nouns.

use graph::schema::Schema;

use crate::{
    Ctx, address, cache_api, container, directory, dispatch::Binder, dockerfile, env_file, file,
    git, host, http, json, module, query, secret, service, volume,
};

/// The schema's files, as text, by name.
pub const SDL: &[(&str, &str)] = &[
    (
        "address.graphql",
        include_str!("../../../schema/address.graphql"),
    ),
    (
        "cache_volume.graphql",
        include_str!("../../../schema/cache_volume.graphql"),
    ),
    (
        "changeset.graphql",
        include_str!("../../../schema/changeset.graphql"),
    ),
    (
        "container.graphql",
        include_str!("../../../schema/container.graphql"),
    ),
    (
        "container_with.graphql",
        include_str!("../../../schema/container_with.graphql"),
    ),
    (
        "directives.graphql",
        include_str!("../../../schema/directives.graphql"),
    ),
    (
        "directory.graphql",
        include_str!("../../../schema/directory.graphql"),
    ),
    (
        "engine.graphql",
        include_str!("../../../schema/engine.graphql"),
    ),
    (
        "enums.graphql",
        include_str!("../../../schema/enums.graphql"),
    ),
    (
        "env_file.graphql",
        include_str!("../../../schema/env_file.graphql"),
    ),
    ("file.graphql", include_str!("../../../schema/file.graphql")),
    (
        "function.graphql",
        include_str!("../../../schema/function.graphql"),
    ),
    ("git.graphql", include_str!("../../../schema/git.graphql")),
    ("host.graphql", include_str!("../../../schema/host.graphql")),
    (
        "inputs.graphql",
        include_str!("../../../schema/inputs.graphql"),
    ),
    (
        "interfaces.graphql",
        include_str!("../../../schema/interfaces.graphql"),
    ),
    (
        "json_value.graphql",
        include_str!("../../../schema/json_value.graphql"),
    ),
    (
        "loaders.graphql",
        include_str!("../../../schema/loaders.graphql"),
    ),
    (
        "module.graphql",
        include_str!("../../../schema/module.graphql"),
    ),
    (
        "module_source.graphql",
        include_str!("../../../schema/module_source.graphql"),
    ),
    (
        "query.graphql",
        include_str!("../../../schema/query.graphql"),
    ),
    (
        "scalars.graphql",
        include_str!("../../../schema/scalars.graphql"),
    ),
    (
        "secret.graphql",
        include_str!("../../../schema/secret.graphql"),
    ),
    (
        "service.graphql",
        include_str!("../../../schema/service.graphql"),
    ),
    (
        "socket.graphql",
        include_str!("../../../schema/socket.graphql"),
    ),
    ("stat.graphql", include_str!("../../../schema/stat.graphql")),
    (
        "typedef.graphql",
        include_str!("../../../schema/typedef.graphql"),
    ),
];

/// Parses and binds the schema.
///
/// # Errors
/// A bug of ours: a malformed file, or a resolver for a field that is not declared.
pub fn build() -> Result<Schema<Ctx>, Box<dyn std::error::Error + Send + Sync>> {
    let mut schema = Schema::builder();
    for (name, text) in SDL {
        schema.sdl(name, text)?;
    }
    let mut binder = Binder { schema };
    query::bind(&mut binder);
    container::bind(&mut binder);
    directory::bind(&mut binder);
    dockerfile::bind(&mut binder);
    file::bind(&mut binder);
    host::bind(&mut binder);
    http::bind(&mut binder);
    git::bind(&mut binder);
    secret::bind(&mut binder);
    service::bind_fields(&mut binder);
    volume::bind(&mut binder);
    module::bind(&mut binder);
    cache_api::bind(&mut binder);
    json::bind(&mut binder);
    env_file::bind(&mut binder);
    address::bind(&mut binder);
    Ok(binder.schema.build()?)
}

#[cfg(test)]
mod tests {
    use super::SDL;

    #[test]
    fn every_file_of_the_schema_is_read() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schema");
        let entries = std::fs::read_dir(dir).expect("the schema's folder");
        let mut files: Vec<String> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|n| n.ends_with(".graphql"))
            .collect();
        files.sort();
        assert_eq!(SDL.iter().map(|(name, _)| *name).collect::<Vec<_>>(), files);
    }

    #[test]
    fn the_schema_builds() {
        super::build().expect("bindings and declarations agree");
    }
}
