//! The recorded cases that need no resolver: what introspection shows, and how wrong queries are answered.

mod toy;

use std::{path::Path, sync::Arc};

use graph::{Request, Schema, Solver, resolve::View};
use serde_json::Value as Json;
use toy::Ctx;

/// Cases outside of introspection whose answer comes from the graph alone.
const ALONE: &[&str] = &[
    "several-operations-none-chosen",
    "variables-missing-required",
    "variables-wrong-type",
    "syntax-error",
    "empty-query",
    "empty-selection",
    "unknown-nested-field",
    "null-for-required-argument",
    "wrong-literal-type",
    "leaf-with-selection",
    "mutation",
    "subscription",
    "float-for-int",
    "boolean-as-string",
    "check-version-compatibility-is-gone",
    "load-legacy-terminal",
    "load-module-types-empty-id",
    "load-function-call-arg-value-empty-id",
    "load-current-module-empty-id",
    "newer-client-is-accepted",
    "prerelease-client",
    "expect-bad-value",
    "withexec-missing-args",
    "args-null",
    "missing-ports",
    "new-file-needs-contents-v0-12-0",
];

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

fn solver() -> Arc<Solver<Ctx>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema");
    let mut builder = Schema::<Ctx>::builder();
    for entry in std::fs::read_dir(folder).expect("the folder of schema texts") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "graphql") {
            builder
                .sdl(&path.to_string_lossy(), &read(&path))
                .expect("a schema");
        }
    }
    Solver::new(builder.build().expect("a schema"))
}

/// Differences of `got` from `want`; the matchers are those of the runner beside the cases.
fn differences(want: &Json, got: &Json, at: &str, out: &mut Vec<String>) {
    match want {
        Json::Object(map) if map.keys().next().is_some_and(|k| k.starts_with('$')) => {
            for (matcher, arg) in map {
                if !matches(matcher, arg, got) {
                    out.push(format!(
                        "{at}: expected {matcher} {arg:.200}, got {got:.200}"
                    ));
                }
            }
        }
        Json::Object(map) => {
            for (key, value) in map {
                differences(value, &got[key.as_str()], &format!("{at}.{key}"), out);
            }
            let extra = got
                .as_object()
                .into_iter()
                .flatten()
                .find(|(k, _)| !map.contains_key(*k));
            out.extend(extra.map(|(k, _)| format!("{at}.{k}: unexpected")));
        }
        Json::Array(items) => {
            let found = got.as_array().map_or(&[][..], Vec::as_slice);
            if found.len() != items.len() {
                out.push(format!(
                    "{at}: expected {} items, got {got:.200}",
                    items.len()
                ));
            }
            for (i, (want, got)) in items.iter().zip(found).enumerate() {
                differences(want, got, &format!("{at}[{i}]"), out);
            }
        }
        _ if want == got => {}
        _ => out.push(format!("{at}: expected {want:.200}, got {got:.200}")),
    }
}

fn fits(want: &Json, got: &Json) -> bool {
    let mut out = Vec::new();
    differences(want, got, "", &mut out);
    out.is_empty()
}

fn matches(matcher: &str, arg: &Json, got: &Json) -> bool {
    match (matcher, arg) {
        ("$any", Json::String(kind)) => kind != "list" || got.is_array(),
        ("$has", Json::Array(wanted)) => wanted
            .iter()
            .all(|w| got.as_array().is_some_and(|g| g.iter().any(|g| fits(w, g)))),
        ("$has", Json::Object(wanted)) => wanted.iter().all(|(k, w)| fits(w, &got[k.as_str()])),
        ("$len", len) => got
            .as_array()
            .is_some_and(|g| fits(len, &Json::from(g.len()))),
        ("$range", Json::Array(ends)) => {
            got.as_i64() >= ends[0].as_i64() && got.as_i64() <= ends[1].as_i64()
        }
        ("$oneof", Json::Array(all)) => all.iter().any(|w| fits(w, got)),
        _ => panic!("unknown matcher {matcher} {arg}"),
    }
}

async fn check(solver: &Arc<Solver<Ctx>>, case: &Json) -> Vec<String> {
    let query = match &case["query"] {
        Json::Array(lines) => lines
            .iter()
            .filter_map(Json::as_str)
            .collect::<Vec<_>>()
            .join("\n"),
        query => query.as_str().unwrap_or("").to_owned(),
    };
    let view = View::parse(case["view"].as_str().unwrap_or("v0.14.0")).expect("a version");
    let request = Request {
        query,
        operation_name: None,
        variables: case["variables"].clone(),
    };
    let response = solver.run(&Ctx::new(), view, request).await;
    let answer: Json = serde_json::from_slice(&response.body).expect("JSON");
    let want = &case["expect"];
    let mut out = Vec::new();
    if !want["data"].is_null() {
        differences(&want["data"], &answer["data"], "data", &mut out);
    }
    let status = if want["status"].is_null() {
        Json::from(200)
    } else {
        want["status"].clone()
    };
    differences(&status, &Json::from(response.status), "status", &mut out);
    if let Some(error) = want["error"].as_object() {
        let got = &answer["errors"][0];
        let message = got["message"].as_str().unwrap_or("");
        let parts = error["message_contains"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str);
        out.extend(
            parts
                .filter(|p| !message.contains(p))
                .map(|p| format!("message: expected {p:?}, got {message:?}")),
        );
        for key in ["path", "extensions"] {
            if let Some(want) = error.get(key) {
                differences(want, &got[key], key, &mut out);
            }
        }
    }
    out
}

#[tokio::test]
async fn recorded_answers_are_met() {
    let solver = solver();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/cases");
    let (mut failures, mut alone, mut all) = (Vec::new(), Vec::new(), 0);
    for entry in std::fs::read_dir(&folder).expect("the folder of recorded cases") {
        let path = entry.expect("an entry").path();
        let cases: Vec<Json> = serde_json::from_str(&read(&path)).expect("a list of cases");
        for case in cases {
            let name = case["name"].as_str().expect("a name").to_owned();
            let chosen = ALONE.iter().find(|n| **n == name);
            if path.file_stem().is_none_or(|s| s != "introspection") && chosen.is_none() {
                continue;
            }
            alone.extend(chosen);
            all += 1;
            failures.extend(
                check(&solver, &case)
                    .await
                    .into_iter()
                    .map(|d| format!("{name}: {d}")),
            );
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let missing: Vec<_> = ALONE.iter().filter(|n| !alone.contains(n)).collect();
    assert!(
        missing.is_empty() && all > ALONE.len() + 15,
        "not found: {missing:?}, {all} in all"
    );
}
