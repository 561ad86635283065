//! The solver on the toy schema: memory, single flight, cancellation, IDs, views.

mod toy;

use std::{sync::atomic::Ordering, task::Poll};

use graph::{
    Request, Solver,
    call::{Call, Literal},
    resolve::{Args, View},
    value::Value,
};
use serde_json::json;
use toy::Toy;

fn request(query: &str) -> Request {
    Request {
        query: query.into(),
        ..Request::default()
    }
}

#[tokio::test]
async fn results_are_remembered_as_their_binding_says() {
    let toy = Toy::new();
    assert_eq!(
        toy.data("{counter mine never}").await,
        json!({"counter": 0, "mine": 1, "never": 2})
    );
    assert_eq!(
        toy.data("{counter mine never}").await,
        json!({"counter": 0, "mine": 1, "never": 3})
    );
    assert!(toy.solver.remembered() > 0);
    let other = Toy {
        ctx: toy.ctx.client(2),
        solver: toy.solver.clone(),
    };
    assert_eq!(
        other.data("{counter mine never}").await,
        json!({"counter": 0, "mine": 4, "never": 5})
    );
    toy.solver.forget();
    assert_eq!(toy.solver.remembered(), 0);
    assert_eq!(toy.data("{counter}").await, json!({"counter": 6}));
}

#[tokio::test]
async fn one_computation_however_many_wait() {
    let toy = Toy::new();
    let query = r#"{slow(key:"a") b:slow(key:"a")}"#;
    let mut waiting: Vec<_> = (0..5)
        .map(|_| Box::pin(toy.solver.run(&toy.ctx, View::DEFAULT, request(query))))
        .collect();
    for w in &mut waiting {
        assert!(matches!(futures::poll!(w), Poll::Pending));
    }
    while toy.ctx.world.alive.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // The first goes away; the work goes on for the others.
    drop(waiting.remove(0));
    tokio::task::yield_now().await;
    toy.ctx.world.gate.notify_one();
    for w in waiting {
        assert_eq!(w.await.body, br#"{"data":{"slow":"slow a","b":"slow a"}}"#);
    }
    assert_eq!(toy.ctx.world.runs.load(Ordering::SeqCst), 1);
    assert_eq!(toy.solver.running(), 0);
    let ended = toy.ctx.ended();
    assert_eq!(
        ended
            .iter()
            .filter(|(n, cached, e)| n == "slow" && !cached && e.is_none())
            .count(),
        1,
        "{ended:?}"
    );
    // Of ten askings one began it and one left.
    assert_eq!(
        ended
            .iter()
            .filter(|(n, cached, _)| n == "slow" && *cached)
            .count(),
        8,
        "{ended:?}"
    );
}

#[tokio::test]
async fn cancelled_when_the_last_leaves_and_failures_are_forgotten() {
    let toy = Toy::new();
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            Box::pin(
                toy.solver
                    .run(&toy.ctx, View::DEFAULT, request(r#"{slow(key:"bad")}"#)),
            )
        })
        .collect();
    for w in &mut waiting {
        assert!(matches!(futures::poll!(w), Poll::Pending));
    }
    drop(waiting);
    while toy.ctx.world.alive.load(Ordering::SeqCst) > 0 || toy.solver.running() > 0 {
        tokio::task::yield_now().await;
    }
    for run in 2..4 {
        toy.ctx.world.gate.notify_one();
        assert_eq!(toy.error(r#"{slow(key:"bad")}"#).await, "slow failed");
        assert_eq!(toy.ctx.world.runs.load(Ordering::SeqCst), run);
    }
    assert_eq!(toy.solver.running(), 0);
}

#[tokio::test]
async fn a_failing_sibling_cancels_the_rest() {
    let toy = Toy::new();
    assert_eq!(toy.error(r#"{slow(key:"a") fail(message:"x")}"#).await, "x");
    while toy.ctx.world.alive.load(Ordering::SeqCst) > 0 || toy.solver.running() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ids_are_recipes_loadable_anywhere() {
    let toy = Toy::new();
    let q = r#"{container{withEnv(name:"A",value:"1"){withEnv(name:"B",value:"2"){id sync labels{id name}}}}}"#;
    let data = toy.data(q).await;
    let made = &data["container"]["withEnv"]["withEnv"];
    assert_eq!(made["id"], made["sync"]);
    let other = Toy::new();
    assert_eq!(other.data(q).await, data);
    let fresh = Toy::new();
    let load = format!(
        "{{loadContainerFromID(id:{}){{env id}} l:loadLabelFromID(id:{}){{name}}}}",
        made["id"], made["labels"][1]["id"]
    );
    assert_eq!(
        fresh.data(&load).await,
        json!({"loadContainerFromID": {"env": "A=1,B=2", "id": made["id"]}, "l": {"name": "B=2"}})
    );
    // `node` takes any ID where the view has it.
    let node = format!(
        "{{node(id:{}){{__typename id ... on Container{{env}} ... on Directory{{nope:entries}}}}}}",
        made["id"]
    );
    assert_eq!(
        fresh.data_at("v0.21.7", &node).await,
        json!({"node": {"__typename": "Container", "id": made["id"], "env": "A=1,B=2"}})
    );
    assert!(fresh.error(&node).await.contains("no field \"node\""));
}

#[tokio::test]
async fn forged_recipes_are_refused() {
    let toy = Toy::new();
    let s = |s: &str| Literal::String(s.into());
    let container = Call::new(None, "container", vec![], "Container");
    for (call, part) in [
        (
            Call::new(None, "nope", vec![], "Container"),
            "Query has no field \"nope\"",
        ),
        (
            Call::new(None, "version", vec![], "Container"),
            "Query.version makes no object",
        ),
        (
            Call::new(None, "directory", vec![], "Container"),
            "expected a Container, but Query.directory makes a Directory",
        ),
        (
            Call::new(None, "container", vec![("x".into(), s("1"))], "Container"),
            "has no argument \"x\"",
        ),
        (
            Call::new(Some(container.clone()), "withEnv", vec![], "Container"),
            "missing required argument: \"name\"",
        ),
        (
            Call::new(
                Some(container.clone()),
                "withEnv",
                vec![("name".into(), Literal::Int(1)), ("value".into(), s(""))],
                "Container",
            ),
            "expected String, found 1",
        ),
        (
            Call::new(
                Some(container.clone()),
                "withFiles",
                vec![(
                    "sources".into(),
                    Literal::List(vec![Literal::Call(container.clone())]),
                )],
                "Container",
            ),
            "expected the ID of a Directory, found the ID of a Container",
        ),
        (
            Call::with(Some(container.clone()), "labels", vec![], "Label", 3, ""),
            "labels has 0 elements, no #3",
        ),
        (
            Call::new(Some(container.clone()), "labels", vec![], "Label"),
            "the ID names no element",
        ),
        (
            Call::with(None, "container", vec![], "Container", 1, ""),
            "container is no list",
        ),
        (
            Call::new(
                None,
                "loadContainerFromID",
                vec![("id".into(), Literal::Call(container.clone()))],
                "Container",
            ),
            "makes no object",
        ),
        (
            Call::new(None, "maybe", vec![], "Container"),
            "maybe is null",
        ),
        (
            Call::new(
                Some(Call::new(None, "nope", vec![], "Nope")),
                "x",
                vec![],
                "Container",
            ),
            "no field \"nope\"",
        ),
    ] {
        let e = toy.solver.load(&toy.ctx, &call).await.expect_err(part);
        assert!(e.message().contains(part), "{part}: {e}");
    }
}

#[tokio::test]
async fn objects_under_other_recipes_are_remembered_there() {
    let toy = Toy::new();
    let id = toy.data(r#"{secret(name:"n",plaintext:"hush"){id}}"#).await["secret"]["id"].clone();
    assert!(
        !Call::decode(id.as_str().expect("an ID"))
            .expect("an ID")
            .args
            .iter()
            .any(|(n, _)| &**n == "plaintext")
    );
    let load = format!("{{loadSecretFromID(id:{id}){{plaintext name}}}}");
    assert_eq!(
        toy.data(&load).await,
        json!({"loadSecretFromID": {"plaintext": "hush", "name": "n"}})
    );
    let other = Toy::new();
    assert_eq!(other.error(&load).await, "secret not found");
    // A recipe of the sensitive field itself loads without the argument that is not in it.
    let args = vec![("name".into(), Literal::String("n".into()))];
    let call = Call::new(None, "secret", args, "Secret");
    assert!(toy.solver.load(&toy.ctx, &call).await.is_ok());
}

#[tokio::test]
async fn views_change_fields_and_are_recorded_where_they_matter() {
    let toy = Toy::new();
    assert_eq!(toy.data_at("v0.9.0", "{old}").await, json!({"old": "old"}));
    assert_eq!(
        toy.data_at("v0.15.0", "{new __schemaVersion}").await,
        json!({"new": "new", "__schemaVersion": "v0.15.0"})
    );
    let q = "{container{withExec(args:[]){env id view{text id}}}}";
    let now = toy.data(q).await["container"]["withExec"].clone();
    assert_eq!(
        toy.data_at("v0.15.3", q).await["container"]["withExec"]["id"],
        now["id"]
    );
    let then = toy.data_at("v0.9.3", q).await["container"]["withExec"].clone();
    assert_ne!(then["id"], now["id"]);
    assert_eq!(now["view"]["text"], "v0.14.0");
    assert_eq!(then["view"]["text"], "v0.9.3");
    assert!(
        then["env"]
            .as_str()
            .expect("a text")
            .contains("skipEntrypoint")
    );
    let fresh = Toy::new();
    let load = format!(
        "{{loadContainerFromID(id:{}){{env}} v:loadViewFromID(id:{}){{text}}}}",
        then["id"], then["view"]["id"]
    );
    assert_eq!(
        fresh.data(&load).await,
        json!({"loadContainerFromID": {"env": then["env"]}, "v": {"text": "v0.9.3"}})
    );
    let load = format!(
        "{{loadContainerFromID(id:{}){{env}} v:loadViewFromID(id:{}){{text}}}}",
        now["id"], now["view"]["id"]
    );
    assert_eq!(
        Toy::new().data_at("v0.9.0", &load).await,
        json!({"loadContainerFromID": {"env": now["env"]}, "v": {"text": "v0.14.0"}})
    );
    // A default that changed.
    for (view, dir) in [
        ("v0.13.0", false),
        ("v0.13.4", true),
        ("v0.14.0", true),
        ("v0.20.0", true),
    ] {
        let data = toy.data_at(view, "{keep{dir id}}").await["keep"].clone();
        assert_eq!(data["dir"], dir, "{view}");
        let load = format!("{{loadKeepFromID(id:{}){{dir}}}}", data["id"]);
        assert_eq!(
            Toy::new().data(&load).await["loadKeepFromID"]["dir"],
            dir,
            "{view}"
        );
    }
    // A renamed argument.
    let id = toy.data("{directory{id}}").await["directory"]["id"].clone();
    assert_eq!(
        toy.data(&format!("{{renamed(directory:{id})}}")).await["renamed"],
        "false true"
    );
    assert_eq!(
        toy.data_at("v0.19.0", &format!("{{renamed(source:{id})}}"))
            .await["renamed"],
        "true false"
    );
}

#[tokio::test]
async fn spans_nest_and_tell_cached_from_run() {
    let toy = Toy::new();
    let id =
        toy.data(r#"{directory{withFile(path:"f"){id}}}"#).await["directory"]["withFile"]["id"]
            .clone();
    let toy = Toy::new();
    toy.data(&format!(
        "{{container{{withDirectory(path:\"/\",directory:{id}){{env id}}}}}}"
    ))
    .await;
    let begun = toy.ctx.world.begun.lock().unwrap().clone();
    let names: Vec<&str> = begun.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names,
        ["container", "withDirectory", "directory", "withFile", "env"]
    );
    // What the argument needs happens inside the call that needs it.
    assert_eq!(begun[2].1, 2);
    assert_eq!(begun[0].1, 0);
    toy.data("{container{platform}}").await;
    let ended = toy.ctx.ended();
    assert!(ended.contains(&("container".into(), true, None)));
    assert_eq!(ended.len(), toy.ctx.world.begun.lock().unwrap().len());
}

#[tokio::test]
async fn fields_can_be_called_from_rust() {
    let toy = Toy::new();
    let select =
        async |this: Option<&graph::value::Object>, field: &str, args: Vec<(&str, Value)>| {
            let args = Args(args.into_iter().map(|(n, v)| (n.into(), v)).collect());
            toy.solver
                .select(&toy.ctx, View::DEFAULT, this, field, args)
                .await
        };
    let Ok(Value::Object(c)) = select(None, "container", vec![]).await else {
        panic!("an object")
    };
    let Ok(Value::Object(d)) = select(None, "directory", vec![]).await else {
        panic!("an object")
    };
    let args = vec![
        ("path", Value::string("/x")),
        ("directory", Value::Object(d)),
    ];
    let Ok(Value::Object(c)) = select(Some(&c), "withDirectory", args).await else {
        panic!("an object")
    };
    assert_eq!(c.get::<toy::Container>().expect("a container").0, ["/x:"]);
    let Ok(Value::Id(id)) = select(Some(&c), "id", vec![]).await else {
        panic!("an ID")
    };
    let Ok(Value::Object(again)) =
        select(None, "loadContainerFromID", vec![("id", Value::Id(id))]).await
    else {
        panic!("an object")
    };
    assert_eq!(again.call, c.call);
    assert!(select(Some(&c), "nope", vec![]).await.is_err());
    assert!(
        select(Some(&c), "withDirectory", vec![("x", Value::Int(1))])
            .await
            .is_err()
    );
    assert!(
        select(Some(&c), "withDirectory", vec![("path", Value::Int(1))])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_schema_tells_what_is_missing() {
    let schema = toy::schema();
    assert_eq!(schema.unbound(), ["Query.unbound"]);
    assert!(
        schema
            .fields()
            .contains(&"Query.loadContainerFromID".into())
    );
    assert!(
        schema
            .view(View::DEFAULT)
            .has("Container.withExec.useEntrypoint")
    );
    assert!(
        !schema
            .view(View::new(0, 9, 0))
            .has("Container.withExec.useEntrypoint")
    );
    let _ = Solver::new(schema.clone()).schema().unbound();
}
