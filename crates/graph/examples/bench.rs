//! How fast the graph is by itself: medians of a few runs, in one table. `cargo run --release -p graph --example bench`.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use graph::{
    Request, Schema, Solver,
    call::Call,
    error::Error,
    resolve::{Context, Memo, View},
    value::Value,
};

#[derive(Clone)]
struct Nobody;

impl Context for Nobody {
    fn client_key(&self) -> u64 {
        0
    }
    fn span(&self, _: &Arc<Call>, _: u64) -> u64 {
        0
    }
    fn span_end(&self, _: u64, _: &Arc<Call>, _: bool, _: Option<&Error>) {}
    fn within(&self, _: u64) -> Self {
        Self
    }
    fn current_span(&self) -> u64 {
        0
    }
}

const SDL: &str = "
type Query { box: Box! add(a: Int!, b: Int = 1): Int! wait(a: Int!): Int! many(n: Int!): [Box!]! }
type Box { id: BoxID! with(path: String!, contents: String!, mode: Int = 420): Box! name: String! }
";

fn schema() -> Result<Schema<Nobody>, graph::SchemaError> {
    let mut b = Schema::<Nobody>::builder();
    b.sdl("bench", SDL)?;
    b.bind("Query.box", Memo::Session, |inv| async move {
        Ok(inv.object(()))
    });
    b.bind("Query.add", Memo::Session, |inv| async move {
        Ok(Value::Int(inv.args.int("a").unwrap_or(0)))
    });
    b.bind("Query.wait", Memo::Session, |inv| async move {
        tokio::task::yield_now().await;
        Ok(Value::Int(inv.args.int("a").unwrap_or(0)))
    });
    b.bind("Query.many", Memo::Never, |inv| async move {
        Ok(inv.objects(vec![(); inv.args.int("n").unwrap_or(0) as usize]))
    });
    b.bind("Box.with", Memo::Session, |inv| async move {
        Ok(inv.object(()))
    });
    b.bind("Box.name", Memo::Session, |_| async {
        Ok(Value::string("x"))
    });
    b.build()
}

fn chain(n: usize) -> String {
    let mut q = String::from("{box");
    for i in 0..n {
        let _ = write!(
            q,
            "{{with(path:\"/dir/file{i}\",contents:\"contents of {i}\")"
        );
    }
    q.push_str("{id}");
    q.push_str(&"}".repeat(n + 1));
    q
}

async fn median(solver: impl Fn() -> Arc<Solver<Nobody>>, query: &str, runs: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..runs {
        let solver = solver();
        let request = Request {
            query: query.into(),
            ..Request::default()
        };
        let start = Instant::now();
        let response = solver.run(&Nobody, View::DEFAULT, request).await;
        times.push(start.elapsed());
        assert!(
            response.status == 200 && response.body.starts_with(b"{\"data\":{"),
            "{}",
            String::from_utf8_lossy(&response.body)
        );
    }
    times.sort();
    times[times.len() / 2]
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = schema()?;
    let fresh = || Solver::new(schema.clone());
    let warm = fresh();
    let wide = |field: &str, n: usize| {
        (0..n).fold(String::from("{"), |q, i| {
            q + &format!("f{i}:{field}(a:{i}) ")
        }) + "}"
    };
    let introspection = include_str!("introspection.graphql");
    for (name, query, per) in [
        ("10,000 trivial fields", wide("add", 10_000), 10_000),
        ("10,000 fields that wait once", wide("wait", 10_000), 10_000),
        (
            "10,000 list elements, one field each",
            "{many(n:10000){name}}".into(),
            10_000,
        ),
        ("chain of 30", chain(30), 30),
        ("chain of 200", chain(200), 200),
        ("chain of 20,000", chain(20_000), 20_000),
        ("introspection, first", introspection.into(), 1),
    ] {
        let cold = median(fresh, &query, 11).await;
        let again = median(|| warm.clone(), &query, 11).await;
        let rate = f64::from(per) / cold.as_secs_f64();
        println!("{name:40} cold {cold:>10.1?}  remembered {again:>10.1?}  {rate:>10.0}/s cold");
    }
    let query = chain(200);
    let Value::Object(mut object) = warm
        .select(
            &Nobody,
            View::DEFAULT,
            None,
            "box",
            graph::resolve::Args::default(),
        )
        .await?
    else {
        return Err("no object".into());
    };
    for i in 0..200 {
        let text = |s: &str| Value::string(format!("{s}{i}"));
        let args = graph::resolve::Args(vec![
            ("path".into(), text("/")),
            ("contents".into(), text("c")),
        ]);
        if let Value::Object(o) = warm
            .select(&Nobody, View::DEFAULT, Some(&object), "with", args)
            .await?
        {
            object = o;
        }
    }
    let start = Instant::now();
    let id = object.call.encode();
    let encoded = start.elapsed();
    let start = Instant::now();
    let call = Call::decode(&id)?;
    let decoded = start.elapsed();
    let start = Instant::now();
    fresh().load(&Nobody, &call).await?;
    println!(
        "ID of 200 calls: {} bytes, encode {encoded:?}, decode {decoded:?}, load {:?}; query text {} bytes",
        id.len(),
        start.elapsed(),
        query.len()
    );
    Ok(())
}
