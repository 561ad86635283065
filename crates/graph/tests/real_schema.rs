//! The API as text, as introspection shows it: whole and consistent in every view.

mod toy;

use std::{collections::HashSet, path::Path};

use graph::{Request, Schema, Solver, resolve::View};
use serde_json::Value as Json;
use toy::Ctx;

const VIEWS: &[&str] = &[
    "v0.9.0", "v0.11.9", "v0.12.0", "v0.13.0", "v0.13.4", "v0.14.0", "v0.15.0", "v0.19.0",
    "v0.21.0", "v0.21.7", "v1.0.0",
];

fn schema() -> Schema<Ctx> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema");
    let mut builder = Schema::<Ctx>::builder();
    for entry in std::fs::read_dir(folder).expect("the folder of schema texts") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "graphql") {
            let text = std::fs::read_to_string(&path).expect("text");
            builder
                .sdl(&path.to_string_lossy(), &text)
                .unwrap_or_else(|e| panic!("{}", graph::error::chain(&e)));
        }
    }
    builder
        .build()
        .unwrap_or_else(|e| panic!("{}", graph::error::chain(&e)))
}

async fn ask(solver: &std::sync::Arc<Solver<Ctx>>, view: &str, query: &str) -> Json {
    let request = Request {
        query: query.into(),
        ..Request::default()
    };
    let response = solver
        .run(&Ctx::new(), View::parse(view).expect("a version"), request)
        .await;
    let mut answer: Json = serde_json::from_slice(&response.body).expect("JSON");
    assert!(answer.get("errors").is_none(), "{view}: {answer:.500}");
    answer["data"].take()
}

/// The named type inside a reference.
fn named(ty: &Json) -> &str {
    let mut ty = ty;
    while !ty["ofType"].is_null() {
        ty = &ty["ofType"];
    }
    ty["name"].as_str().expect("a named type")
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn name(json: &Json) -> &str {
    json["name"].as_str().expect("a name")
}

#[tokio::test]
async fn every_view_is_whole() {
    let solver = Solver::new(schema());
    for view in VIEWS {
        let data = ask(
            &solver,
            view,
            include_str!("../examples/introspection.graphql"),
        )
        .await;
        let types = list(&data["__schema"]["types"]);
        let names: HashSet<&str> = types.iter().map(name).collect();
        assert_eq!(names.len(), types.len(), "{view}: a type is listed twice");
        let output: HashSet<&str> = types
            .iter()
            .filter(|t| t["kind"] != "INPUT_OBJECT")
            .map(name)
            .collect();
        let input: HashSet<&str> = types
            .iter()
            .filter(|t| {
                ["SCALAR", "ENUM", "INPUT_OBJECT"].contains(&t["kind"].as_str().unwrap_or(""))
            })
            .map(name)
            .collect();
        let sorted = |l: &[Json]| l.is_sorted_by(|a, b| name(a) < name(b));
        assert!(sorted(types));
        for ty in types {
            let fields = list(&ty["fields"]);
            if !name(ty).starts_with('_') {
                assert!(sorted(fields), "{view}: {}", name(ty));
            }
            for field in fields {
                assert!(
                    output.contains(named(&field["type"])),
                    "{view}: {} {field}",
                    name(ty)
                );
                for arg in list(&field["args"]) {
                    assert!(
                        input.contains(named(&arg["type"])),
                        "{view}: {} {field}",
                        name(ty)
                    );
                }
            }
            for field in list(&ty["inputFields"]) {
                assert!(
                    input.contains(named(&field["type"])),
                    "{view}: {} {field}",
                    name(ty)
                );
            }
            for interface in list(&ty["interfaces"]) {
                let interface = types
                    .iter()
                    .find(|t| t["name"] == interface["name"])
                    .expect("the interface");
                for wanted in list(&interface["fields"]) {
                    let own = fields
                        .iter()
                        .find(|f| f["name"] == wanted["name"])
                        .expect("the interface's field");
                    assert_eq!(
                        own["type"],
                        wanted["type"],
                        "{view}: {}.{}",
                        name(ty),
                        name(wanted)
                    );
                }
            }
        }
        // Any client's own query for the version.
        assert_eq!(
            ask(&solver, view, "{__schemaVersion}").await["__schemaVersion"],
            **view
        );
    }
}

#[tokio::test]
async fn arguments_keep_their_order_and_internals_are_hidden() {
    let solver = Solver::new(schema());
    let query = "{__type(name:\"Container\"){fields{name args{name} directives{name args{name value}}}} __schema{directives{name}}}";
    let data = ask(&solver, "v0.14.0", query).await;
    let fields = list(&data["__type"]["fields"]);
    let field = |n: &str| fields.iter().find(|f| f["name"] == n).expect("the field");
    let args = |n: &str| list(&field(n)["args"]).iter().map(name).collect::<Vec<_>>();
    assert_eq!(
        args("withNewFile"),
        ["path", "contents", "permissions", "owner", "expand"]
    );
    assert_eq!(args("withDirectory")[..2], ["path", "directory"]);
    assert_eq!(name(&field("export")["directives"][0]), "impure");
    assert!(
        field("export")["directives"][0]["args"][0]["value"]
            .as_str()
            .is_some_and(|v| v.starts_with('"'))
    );
    assert_eq!(field("withExec")["directives"], serde_json::json!([]));
    let directives: Vec<&str> = list(&data["__schema"]["directives"])
        .iter()
        .map(name)
        .collect();
    assert!(
        ["deprecated", "include", "skip", "impure"]
            .iter()
            .all(|d| directives.contains(d))
    );
    assert!(
        ["since", "until", "also"]
            .iter()
            .all(|d| !directives.contains(d))
    );
}

#[tokio::test]
async fn ids_have_types_of_their_own_until_there_is_one_for_all() {
    let solver = Solver::new(schema());
    let query = "{c:__type(name:\"ContainerID\"){kind} i:__type(name:\"ID\"){kind} n:__type(name:\"Node\"){possibleTypes{name}}
        t:__type(name:\"Container\"){fields{name type{ofType{name}} args{name type{name ofType{name}} directives{name args{name value}}} directives{name}}}}";
    let old = ask(&solver, "v0.14.0", query).await;
    assert_eq!(
        (&old["c"]["kind"], &old["i"], &old["n"]),
        (&"SCALAR".into(), &Json::Null, &Json::Null)
    );
    let new = ask(&solver, "v0.21.7", query).await;
    assert_eq!(
        (&new["c"], &new["i"]["kind"]),
        (&Json::Null, &"SCALAR".into())
    );
    assert!(
        list(&new["n"]["possibleTypes"])
            .iter()
            .any(|t| name(t) == "Container")
    );
    let field = |data: &Json, n: &str| {
        list(&data["t"]["fields"])
            .iter()
            .find(|f| name(f) == n)
            .expect("the field")
            .clone()
    };
    for (data, ty) in [(&old, "ContainerID"), (&new, "ID")] {
        assert_eq!(field(data, "id")["type"]["ofType"]["name"], ty);
        assert_eq!(field(data, "sync")["type"]["ofType"]["name"], ty);
        assert_eq!(field(data, "id")["directives"], serde_json::json!([]));
    }
    let args = field(&new, "withMountedDirectory")["args"].clone();
    let source = list(&args)
        .iter()
        .find(|a| name(a) == "source")
        .expect("the argument");
    assert_eq!(source["type"]["ofType"]["name"], "ID");
    assert_eq!(
        source["directives"],
        serde_json::json!([{"name": "expectedType", "args": [{"name": "name", "value": "\"Directory\""}]}])
    );
}
