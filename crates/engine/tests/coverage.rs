//! `docs/api-coverage.md` says which fields of the API work. It is made here: run with `UPDATE=1` to write it.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use graph::resolve::View;

/// The views whose fields are listed, with what is special about them.
const VIEWS: [(View, &str); 3] = [
    (View::DEFAULT, "what clients get that name no version"),
    (View::new(0, 9, 0), "the oldest clients served"),
    (View::new(0, 21, 7), "the newest clients served"),
];

#[test]
fn the_list_of_working_fields_is_current() {
    let schema = engine::schema::build().expect("the schema builds");
    let unbound = schema.unbound();
    let mut page = "# What of the API works\n\nMade by `UPDATE=1 cargo test -p engine --test coverage`; do not edit.\n".to_owned();
    for (version, what) in VIEWS {
        let view = schema.view(version);
        let mut types: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
        for field in schema.fields().into_iter().filter(|f| view.has(f)) {
            let Some((on, name)) = field.split_once('.') else {
                continue;
            };
            let entry = types.entry(on.to_owned()).or_default();
            if unbound.contains(&field) {
                entry.1.push(format!("`{name}`"));
            } else {
                entry.0 += 1;
            }
        }
        let works: usize = types.values().map(|(done, _)| done).sum();
        let missing: usize = types.values().map(|(_, names)| names.len()).sum();
        write!(
            page,
            "\n## The {version} schema: {what}\n\nOf its fields {works} are answered, {missing} say that they are not available yet.\n\n\
             | type | works | not yet |\n|---|---|---|\n"
        )
        .expect("a string");
        for (on, (done, names)) in &types {
            let rest = if names.is_empty() {
                "–".to_owned()
            } else {
                names.join(", ")
            };
            writeln!(page, "| {on} | {done} of {} | {rest} |", done + names.len())
                .expect("a string");
        }
    }
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
