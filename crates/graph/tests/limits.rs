//! What is huge, deep or endless: runs on a small stack, or is refused with a clear error.

mod toy;

use std::fmt::Write as _;

use graph::call::{Call, Literal};
use toy::Toy;

/// Runs a test on a runtime whose only thread has the stack a tokio worker has.
fn on_a_small_stack<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(test());
    };
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(run)
        .expect("a thread")
        .join()
        .expect("no overflow");
}

fn chain(n: usize) -> String {
    let mut q = String::from("{container");
    for i in 0..n {
        let _ = write!(q, "{{withEnv(name:\"A\",value:\"{i}\")");
    }
    q + "{id}" + &"}".repeat(n + 1)
}

#[test]
fn chains_of_20_000_levels_run() {
    on_a_small_stack(|| async {
        let toy = Toy::new();
        // Each container of the toy holds all before it: a chain of `self` is what is deep and cheap.
        let n = 20_000;
        let q = format!(
            "{{directory{}{{id entries}}{}",
            "{self".repeat(n),
            "}".repeat(n + 1)
        );
        let request = graph::Request {
            query: q,
            ..Default::default()
        };
        let response = toy
            .solver
            .run(&toy.ctx, graph::resolve::View::DEFAULT, request)
            .await;
        let body = String::from_utf8(response.body).expect("text");
        assert!(
            body.starts_with("{\"data\":{\"directory\":{\"self\":{\"self\":"),
            "{}",
            &body[..200]
        );
        let id = body
            .split("\"id\":\"")
            .nth(1)
            .and_then(|t| t.split('"').next())
            .expect("an ID");
        // The ID loads in a new session, and everything is dropped without recursion.
        let other = Toy::new();
        let data = other
            .data(&format!("{{loadDirectoryFromID(id:\"{id}\"){{entries}}}}"))
            .await;
        assert_eq!(
            data["loadDirectoryFromID"]["entries"],
            serde_json::json!([])
        );
        let response = toy
            .solver
            .run(
                &toy.ctx,
                graph::resolve::View::DEFAULT,
                graph::Request {
                    query: chain(300),
                    ..Default::default()
                },
            )
            .await;
        assert_eq!(response.status, 200);
    });
}

#[test]
fn arguments_nested_in_arguments_do_not_grow_the_stack() {
    on_a_small_stack(|| async {
        let toy = Toy::new();
        let mut dir = Call::new(None, "directory", vec![], "Directory");
        for _ in 0..1_500 {
            let base = Call::new(None, "container", vec![], "Container");
            let args = vec![
                ("path".into(), Literal::String("".into())),
                ("directory".into(), Literal::Call(dir)),
            ];
            dir = Call::new(
                Some(Call::new(Some(base), "withDirectory", args, "Container")),
                "rootfs",
                vec![],
                "Directory",
            );
        }
        let loaded = toy.solver.load(&toy.ctx, &dir).await.expect("an object");
        assert_eq!(&*loaded.type_name, "Directory");
        // A chain whose every resolver is given up while it waits.
        let other = Toy::new();
        let mut given_up = Box::pin(other.solver.load(&other.ctx, &dir));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        while other.solver.running() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn bombs_are_refused() {
    on_a_small_stack(|| async {
        let toy = Toy::new();
        // Fragments that double at every level.
        let mut q = String::from("{container{...F0}}");
        for i in 0..40 {
            let _ = write!(
                q,
                " fragment F{i} on Container {{ a:withEnv(name:\"a\",value:\"\"){{...F{}}} b:withEnv(name:\"b\",value:\"\"){{...F{}}} }}",
                i + 1,
                i + 1
            );
        }
        q += " fragment F40 on Container { env }";
        assert!(toy.error(&q).await.contains("more than 250000 fields"));
        // Fragments that cost without giving fields.
        let mut q = String::from("{");
        for i in 0..2_000 {
            let _ = write!(q, "a{i}:container{{...F env}} ");
        }
        q += "} fragment F on Container {";
        q += &"env @skip(if:true) ".repeat(20_000);
        q += "}";
        assert!(toy.error(&q).await.contains("more than 250000 fields"));
        // Introspection that multiplies.
        let depth = 16;
        let q = format!(
            "{{__schema{{types{}{{name}}{}}}}}",
            "{fields{type{ofType".repeat(depth),
            "}}}".repeat(depth)
        );
        assert!(toy.error(&q).await.contains("the answer has more than"));
        // Too deep, too large, too many.
        assert!(
            toy.error(&format!("{}{}", "{a".repeat(60_000), "}".repeat(60_000)))
                .await
                .contains("levels deep")
        );
        assert!(
            toy.error(&" ".repeat((32 << 20) + 1))
                .await
                .contains("bytes")
        );
        assert!(
            toy.error(&format!("{{{}}}", "a ".repeat(4_100_000)))
                .await
                .contains("tokens")
        );
        // The same field a hundred thousand times is one field.
        assert_eq!(
            toy.data(&format!("{{{}}}", "version ".repeat(100_000)))
                .await,
            serde_json::json!({"version": "1"})
        );
        let many: String = (0..2_000).fold(String::new(), |q, i| q + &format!("v{i}:add(a:{i}) "));
        assert_eq!(toy.data(&format!("{{{many}}}")).await["v1999"], 2_000);
    });
}
