//! Documents run on the toy schema: the language, arguments, errors, statuses.

mod toy;

use serde_json::json;
use toy::Toy;

#[tokio::test]
async fn chains_aliases_fragments_and_directives() {
    let toy = Toy::new();
    let q = r#"{
        c: container { a: withEnv(name: "A", value: "1") { withEnv(name: "B", value: "2") { env } } ...P @skip(if: false) }
        version @skip(if: true) container { ... on Container { platform } ... { labels { name } } __typename ...P @include(if: false) }
        v2: version __typename
    } fragment P on Container { platform ...Q } fragment Q on Container { env }"#;
    assert_eq!(
        toy.data(q).await,
        json!({
            "c": {"a": {"withEnv": {"env": "A=1,B=2"}}, "platform": "linux/amd64", "env": ""},
            "container": {"platform": "linux/amd64", "labels": [], "__typename": "Container"},
            "v2": "1", "__typename": "Query",
        })
    );
    // Equal keys are merged.
    let q = r#"{container{withEnv(name:"A",value:"1"){env}} container{withEnv(value:"1",name:"A"){platform env}}}"#;
    assert_eq!(
        toy.data(q).await,
        json!({"container": {"withEnv": {"env": "A=1", "platform": "linux/amd64"}}})
    );
    assert_eq!(
        toy.data("{matrix{name}}").await,
        json!({"matrix": [[{"name": "20"}, {"name": "21"}], [], [{"name": "10"}]]})
    );
    assert_eq!(
        toy.data("{maybe{env} y:maybe(there:true){env}}").await,
        json!({"maybe": null, "y": {"env": ""}})
    );
    assert_eq!(
        toy.data(r#"{pipeline(name:"x"){container{env}}}"#).await,
        json!({"pipeline": {"container": {"env": ""}}})
    );
}

#[tokio::test]
async fn operations_and_variables() {
    let toy = Toy::new();
    let (status, answer) = toy
        .raw(
            "v0.14.0",
            "query A{version} query B{add(a:1)}",
            Some("B"),
            json!(null),
        )
        .await;
    assert_eq!((status, answer), (200, json!({"data": {"add": 2}})));
    let (status, answer) = toy
        .raw(
            "v0.14.0",
            "query A{version} query B{add(a:1)}",
            None,
            json!(null),
        )
        .await;
    assert_eq!(
        (status, &answer["errors"][0]["extensions"]["code"]),
        (422, &json!("GRAPHQL_VALIDATION_FAILED"))
    );
    let (status, _) = toy
        .raw("v0.14.0", "query A{version}", Some("C"), json!(null))
        .await;
    assert_eq!(status, 422);
    let (status, answer) = toy
        .raw("v0.14.0", "query A{version}", Some(""), json!({}))
        .await;
    assert_eq!((status, answer), (200, json!({"data": {"version": "1"}})));
    let q = "query($a: Int!, $b: Int = 5, $c: Int) { add(a: $a, b: $b) c: add(a: $a, b: $c) }";
    let (_, answer) = toy
        .raw(
            "v0.14.0",
            q,
            None,
            json!({"a": "40", "unused": 1, "c": null}),
        )
        .await;
    assert_eq!(answer, json!({"data": {"add": 45, "c": 41}}));
    let (status, answer) = toy.raw("v0.14.0", q, None, json!({"a": "x"})).await;
    assert_eq!(status, 422);
    assert_eq!(answer["errors"][0]["path"], json!(["variable", "a"]));
    let (status, answer) = toy.raw("v0.14.0", q, None, json!({})).await;
    assert_eq!(
        (status, answer["errors"][0]["message"].as_str()),
        (422, Some("the variable $a needs a value"))
    );
    let q = "query($d: [DirectoryID!]!) { container { withFiles(sources: $d) { env } } }";
    let id = toy.data("{directory{id}}").await["directory"]["id"].clone();
    let (_, answer) = toy.raw("v0.14.0", q, None, json!({"d": [id, id]})).await;
    assert_eq!(
        answer,
        json!({"data": {"container": {"withFiles": {"env": "2 files"}}}})
    );
}

#[tokio::test]
async fn statuses_and_codes() {
    let toy = Toy::new();
    for (query, status, code) in [
        ("{container{", 422, "GRAPHQL_PARSE_FAILED"),
        ("", 422, "GRAPHQL_VALIDATION_FAILED"),
        (
            "fragment F on Query{version}",
            422,
            "GRAPHQL_VALIDATION_FAILED",
        ),
        ("{container{}}", 422, "GRAPHQL_PARSE_FAILED"),
        ("{...F}", 422, "GRAPHQL_VALIDATION_FAILED"),
        (
            "{...F} fragment F on Query{...G} fragment G on Query{container{...H}} fragment H on Container{... {...G}}",
            422,
            "GRAPHQL_VALIDATION_FAILED",
        ),
        (
            "{...F} fragment F on Nope{version}",
            422,
            "GRAPHQL_VALIDATION_FAILED",
        ),
        (
            "{...F} fragment F on String{version}",
            422,
            "GRAPHQL_VALIDATION_FAILED",
        ),
        ("{add(a:$x)}", 422, "GRAPHQL_VALIDATION_FAILED"),
        ("query($x:Nope){version}", 422, "GRAPHQL_VALIDATION_FAILED"),
        (
            "query($x:Container){version}",
            422,
            "GRAPHQL_VALIDATION_FAILED",
        ),
        ("{version @nope}", 422, "GRAPHQL_VALIDATION_FAILED"),
        ("{version @skip}", 422, "GRAPHQL_VALIDATION_FAILED"),
        ("{version @skip(if:1)}", 422, "GRAPHQL_VALIDATION_FAILED"),
        ("{container{nope}}", 200, ""),
        ("{nope}", 200, ""),
        ("{version{x}}", 200, ""),
        ("{container}", 200, ""),
        ("mutation{version}", 200, ""),
        ("subscription{version}", 200, ""),
        ("{version container{__typename{x}}}", 200, ""),
    ] {
        let (got, answer) = toy.raw("v0.14.0", query, None, json!(null)).await;
        let error = &answer["errors"][0];
        assert_eq!(got, status, "{query}: {answer}");
        assert_eq!(
            error["extensions"]["code"].as_str().unwrap_or(""),
            code,
            "{query}: {answer}"
        );
        assert_eq!(answer["data"], json!(null));
        if code.is_empty() {
            assert!(error.get("extensions").is_none());
        }
    }
}

#[tokio::test]
async fn errors_say_what_and_where() {
    let toy = Toy::new();
    let answer = toy
        .ask(r#"{x:container{y:withEnv(name:"A",value:"1"){nope}}}"#)
        .await;
    assert_eq!(
        answer["errors"][0]["message"],
        "Container has no field \"nope\""
    );
    assert_eq!(answer["errors"][0]["path"], json!(["x", "y", "nope"]));
    assert_eq!(
        answer["errors"][0]["locations"],
        json!([{"line": 1, "column": 44}])
    );
    assert_eq!(
        toy.error("{container{withEmv}}").await,
        "Container has no field \"withEmv\"; did you mean \"withEnv\"?"
    );
    let answer = toy.ask("{container{withEnv(name:null){env}}}").await;
    assert_eq!(
        answer["errors"][0]["message"],
        "missing required argument: \"name\""
    );
    assert_eq!(answer["errors"][0]["path"], json!(["container", "withEnv"]));
    let answer = toy
        .ask(r#"{version a:fail(message:"no", extensions:true)}"#)
        .await;
    assert_eq!(
        answer,
        json!({"data": null, "errors": [{"message": "no", "path": ["a"], "extensions": {"_type": "EXEC_ERROR", "exitCode": 3}}]})
    );
    let answer = toy.ask(r#"{fail(message:"no")}"#).await;
    assert!(answer["errors"][0].get("extensions").is_none());
    for (query, part) in [
        ("{add(a:1.5)}", "expected Int, found 1.5"),
        ("{add(a:{b:1})}", "expected Int, found an object"),
        ("{add(a:99999999999999999999)}", "out of range"),
        ("{add(a:1,a:2)}", "given twice"),
        ("{add(a:1,c:2)}", "has no argument \"c\" (it has a, b)"),
        ("{version(c:2)}", "takes no arguments"),
        ("{echo(text:1)}", "expected String, found 1"),
        ("{echo(list:[1])}", "item 0: expected [Int!], found 1"),
        (
            "{echo(list:[[null]])}",
            "item 0: item 0: expected Int!, found null",
        ),
        ("{echo(list:1)}", "expected [[Int!]!], found 1"),
        ("{echo(flag:\"yes\")}", "expected Boolean"),
        (
            "{echo(mode:MAYBE)}",
            "invalid enum value \"MAYBE\" (expected one of ONE, TWO, OLD)",
        ),
        ("{echo(mode:true)}", "invalid enum value \"true\""),
        ("{echo(mode:THREE)}", "invalid enum value \"THREE\""),
        ("{echo(mode:[\"x\"])}", "expected Mode, found a list"),
        ("{echo(in:{y:1})}", "Point needs the field \"x\""),
        ("{echo(in:{x:1,z:1})}", "Point has no field \"z\""),
        ("{echo(in:{x:1,x:1})}", "given twice"),
        (
            "{echo(in:{x:1,to:{x:true}})}",
            "field \"to\": field \"x\": expected Int, found true",
        ),
        ("{half(x:\"NaN\")}", "expected Float"),
        (
            "{loadContainerFromID(id:\"\"){env}}",
            "cannot decode empty string as ID",
        ),
        ("{loadContainerFromID(id:\"x\"){env}}", "cannot decode ID"),
        (
            "{a:version a:add(a:1)}",
            "asked twice with different fields",
        ),
        (
            "{add(a:1) add(a:2)}",
            "asked twice with different arguments",
        ),
        (
            "{nothing}",
            "Query.nothing gave null, which its type does not allow",
        ),
        (
            "{wrong{env}}",
            "Query.wrong gave Int(1) where Container is declared",
        ),
        (
            "{unbound}",
            "Query.unbound is not available in this version of bodkin yet",
        ),
        (
            "{panic(how:\"late\")}",
            "Query.panic panicked: at the disco",
        ),
        (
            "{panic(how:\"early\")}",
            "Query.panic panicked: early panic",
        ),
        ("{panic(how:\"now\")}", "Query.panic panicked: at the disco"),
        ("{new}", "Query has no field \"new\""),
    ] {
        let message = toy.error(query).await;
        assert!(message.contains(part), "{query}: {message}");
    }
    let id = toy.data("{directory{id}}").await["directory"]["id"]
        .as_str()
        .expect("an ID")
        .to_owned();
    let message = toy
        .error(&format!("{{loadContainerFromID(id:{id:?}){{env}}}}"))
        .await;
    assert!(
        message.contains("expected the ID of a Container, found the ID of a Directory"),
        "{message}"
    );
}

#[tokio::test]
async fn loose_scalars_and_defaults() {
    let toy = Toy::new();
    assert_eq!(
        toy.data(r#"{a:add(a:"80") b:add(a:9007199254740993,b:null) c:half(x:3) d:half(x:"1e1")}"#)
            .await,
        json!({"a": 81, "b": 9007199254740994i64, "c": 1.5, "d": 5.0})
    );
    let echo = toy.data(r#"{echo(text:null, flag:"true", mode:"TWO", in:{x:"1", to:{x:2,y:null}}, list:[[1],[]])}"#).await;
    assert_eq!(
        echo["echo"],
        "[(\"text\", String(\"hi\")), (\"list\", List([List([Int(1)]), List([])])), (\"flag\", Bool(true)), \
         (\"in\", Input([(\"x\", Int(1)), (\"y\", Int(7)), (\"to\", Input([(\"x\", Int(2)), (\"y\", Int(7)), (\"to\", Null)]))])), \
         (\"mode\", Enum(\"TWO\"))]"
    );
    let echo = toy.data("{echo(mode:[0, 42])}").await;
    assert!(
        echo["echo"]
            .as_str()
            .expect("a text")
            .contains("(\"mode\", List([Int(0), Int(42)]))")
    );
    // Explicit defaults and nulls are the same recipe as nothing.
    let ids = toy.data(r#"{a:container{withExec(args:[]){id}} b:container(platform:null){withExec(args:[],useEntrypoint:false){id}}}"#).await;
    assert_eq!(ids["a"]["withExec"]["id"], ids["b"]["withExec"]["id"]);
}
