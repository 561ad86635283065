//! `docs/api-coverage.md` says which fields of the API work. It is made here: run with `UPDATE=1` to write it.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use graph::resolve::View;

#[test]
fn the_list_of_working_fields_is_current() {
    let schema = engine::schema::build().expect("the schema builds");
    let view = schema.view(View::DEFAULT);
    let unbound = schema.unbound();
    let mut types: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for field in schema.fields().into_iter().filter(|f| view.has(f)) {
        let Some((on, name)) = field.split_once('.') else {
            continue;
        };
        let entry = types.entry(on.to_owned()).or_default();
        if unbound.contains(&field) {
            entry.1.push(name.to_owned());
        } else {
            entry.0 += 1;
        }
    }
    let (mut works, mut missing) = (0, 0);
    let mut lines = String::new();
    for (on, (done, names)) in &types {
        works += done;
        missing += names.len();
        let rest = if names.is_empty() {
            "–".to_owned()
        } else {
            names
                .iter()
                .map(|n| format!("`{n}`"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        writeln!(
            lines,
            "| {on} | {done} of {} | {rest} |",
            done + names.len()
        )
        .expect("a string");
    }
    let page = format!(
        "# What of the API works\n\nMade by `UPDATE=1 cargo test -p engine --test coverage`; do not edit.\n\n\
         Of the 0.14.0 schema's fields {works} are answered, {missing} say that they are not available yet.\n\n\
         | type | works | not yet |\n|---|---|---|\n{lines}"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api-coverage.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).expect("the page is written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/api-coverage.md is out of date: run `UPDATE=1 cargo test -p engine --test coverage`"
    );
}
