//! Whatever comes in, something sensible goes out; whenever a request is dropped, nothing stays behind.

mod toy;

use std::sync::atomic::Ordering;

use graph::{Request, resolve::View};
use proptest::prelude::*;
use toy::Toy;

const SEEDS: &[&str] = &[
    r#"query A($a: Int! = 1, $l: [String!]) @skip(if: false) { add(a: $a, b: null) c: container { ...P ... on Container @include(if: true) { env } } }
       fragment P on Container { withEnv(name: "A\u00e9\n", value: """block "x" """) { labels { name __typename } } }"#,
    r#"{ echo(in: {x: 1, to: {x: -2}}, list: [[1, 2], []], mode: TWO, flag: true) half(x: 1.5e3) __schema { types { name fields(includeDeprecated: true) { name args { defaultValue } } } } }"#,
];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
}

/// The answer is JSON, and holds either data or an error with a message.
fn sensible(query: String) {
    let toy = Toy::new();
    let request = Request {
        query: query.clone(),
        variables: serde_json::json!({"a": 2, "l": ["x"]}),
        ..Request::default()
    };
    let response = runtime().block_on(toy.solver.run(&toy.ctx, View::DEFAULT, request));
    let answer: serde_json::Value =
        serde_json::from_slice(&response.body).unwrap_or_else(|e| panic!("{query}: {e}"));
    assert!(
        answer["data"].is_object() != answer["errors"][0]["message"].is_string(),
        "{query}: {answer}"
    );
    assert!(response.status == 200 || answer["data"].is_null());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in ".{0,80}") {
        sensible(text);
    }

    #[test]
    fn any_tokens_are_answered(tokens in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "(", ")", "[", "]", ":", "$", "@", "!", "=", "...", "on", "query", "fragment", "mutation", "add", "container",
        "env", "a", "b", "$a", "1", "1.5", "\"s\"", "\"\"\"b\"\"\"", "true", "null", "ONE", "Container", "Int", "@skip(if:true)", "{version}",
    ]), 0..40)) {
        sensible(tokens.join(" "));
    }

    #[test]
    fn damaged_queries_are_answered(seed in 0..SEEDS.len(), edits in prop::collection::vec((any::<usize>(), 0..3u8, any::<char>()), 1..5)) {
        let mut text: Vec<char> = SEEDS[seed].chars().collect();
        for (at, how, c) in edits {
            let at = at % text.len().max(1);
            match how {
                0 => drop(text.drain(at..(at + 1).min(text.len()))),
                1 => text.insert(at, c),
                _ => text.truncate(at.max(1)),
            }
        }
        sensible(text.into_iter().collect());
    }
}

#[test]
fn the_seeds_are_good() {
    for seed in SEEDS {
        let toy = Toy::new();
        let request = Request {
            query: (*seed).into(),
            ..Request::default()
        };
        let response = runtime().block_on(toy.solver.run(&toy.ctx, View::DEFAULT, request));
        assert!(
            response.body.starts_with(b"{\"data\":{"),
            "{}",
            String::from_utf8_lossy(&response.body)
        );
    }
}

/// Polls a request a number of times, drops it, and looks at what is left; for every number up to its end.
#[test]
fn a_request_may_be_dropped_at_any_point() {
    let settled = async |toy: &Toy| {
        for _ in 0..10_000 {
            if toy.solver.running() == 0 && toy.ctx.world.alive.load(Ordering::SeqCst) == 0 {
                let (begun, ended) = (
                    toy.ctx.world.begun.lock().unwrap().len(),
                    toy.ctx.ended().len(),
                );
                if begun == ended {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
        panic!("something is still running");
    };
    runtime().block_on(async {
        let made = Toy::new();
        let dir = made.data("{directory{stepped(n:2){withFile(path:\"f\"){stepped(n:1){id}}}}}").await;
        let id = dir["directory"]["stepped"]["withFile"]["stepped"]["id"].as_str().expect("an ID").to_owned();
        let query = format!(
            "{{a:container{{withDirectory(path:\"/\",directory:\"{id}\"){{env labels{{name}}}}}} b:loadDirectoryFromID(id:\"{id}\"){{stepped(n:3){{entries}}}} c:directory{{stepped(n:2){{entries}}}}}}"
        );
        let request = || Request { query: query.clone(), ..Request::default() };
        let mut dropped = 0;
        for polls in 0.. {
            let toy = Toy::new();
            let mut first = Box::pin(toy.solver.run(&toy.ctx, View::DEFAULT, request()));
            let mut done = false;
            for _ in 0..polls {
                done = futures::poll!(&mut first).is_ready();
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(first);
            settled(&toy).await;
            // The session is as good as new.
            let answer = toy.data(&query).await;
            assert_eq!(answer["b"]["stepped"]["entries"], serde_json::json!(["f"]));
            assert_eq!(answer["a"]["withDirectory"]["env"], "/:f");
            settled(&toy).await;
            if done {
                break;
            }
            dropped += 1;
        }
        assert!(dropped > 3, "the request was over after {dropped} polls");
    });
}

/// Many requests for overlapping work on two threads, half of them given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_several_threads_share_and_leave() {
    let toy = std::sync::Arc::new(Toy::new());
    for round in 0..20 {
        let mut tasks = Vec::new();
        for i in 0..20 {
            let toy = toy.clone();
            tasks.push(tokio::spawn(async move {
                let query = format!(
                    "{{directory{{withFile(path:\"{round}\"){{stepped(n:{}){{entries}}}}}}}}",
                    i % 5
                );
                toy.data(&query).await
            }));
        }
        for (i, task) in tasks.into_iter().enumerate() {
            if i % 2 == 0 {
                task.abort();
                let _ = task.await;
            } else {
                let data = task.await.expect("an answer");
                assert_eq!(
                    data["directory"]["withFile"]["stepped"]["entries"][0],
                    round.to_string()
                );
            }
        }
    }
    while toy.solver.running() > 0
        || toy.ctx.world.begun.lock().unwrap().len() != toy.ctx.ended().len()
    {
        tokio::task::yield_now().await;
    }
}
