//! A toy schema: texts, folders and numbers, with a context that counts.

#![allow(dead_code, unreachable_pub)]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use graph::{
    Request, Schema, Solver,
    call::Call,
    error::{Class, Error},
    resolve::{Context, Invocation, Memo, View},
    value::Value,
};

/// The engine's side.
#[derive(Default)]
pub struct World {
    spans: AtomicU64,
    /// Names of begun spans, with their parents.
    pub begun: Mutex<Vec<(String, u64)>>,
    /// How spans ended: name, cached, error.
    pub ended: Mutex<Vec<(String, bool, Option<String>)>>,
    /// How often `slow` ran.
    pub runs: AtomicUsize,
    /// How many `slow` are running.
    pub alive: AtomicUsize,
    /// Lets `slow` go on.
    pub gate: tokio::sync::Notify,
}

#[derive(Clone)]
pub struct Ctx {
    pub world: Arc<World>,
    pub client: u64,
    span: u64,
}

impl Ctx {
    pub fn new() -> Self {
        Self {
            world: Arc::default(),
            client: 1,
            span: 0,
        }
    }

    pub fn client(&self, client: u64) -> Self {
        Self {
            client,
            ..self.clone()
        }
    }

    pub fn ended(&self) -> Vec<(String, bool, Option<String>)> {
        self.world.ended.lock().unwrap().clone()
    }
}

impl Context for Ctx {
    fn client_key(&self) -> u64 {
        self.client
    }

    fn span(&self, call: &Arc<Call>, parent: u64) -> u64 {
        self.world
            .begun
            .lock()
            .unwrap()
            .push((call.field.to_string(), parent));
        self.world.spans.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn span_end(&self, _: u64, call: &Arc<Call>, cached: bool, error: Option<&Error>) {
        self.world.ended.lock().unwrap().push((
            call.field.to_string(),
            cached,
            error.map(|e| e.message().to_owned()),
        ));
    }

    fn within(&self, span: u64) -> Self {
        Self {
            span,
            ..self.clone()
        }
    }

    fn current_span(&self) -> u64 {
        self.span
    }
}

pub const SDL: &str = r#"
"The root."
type Query {
  "An empty container."
  container(platform: Platform): Container!
  directory: Directory!
  version: String!
  "Adds."
  add(a: Int!, b: Int! = 1): Int!
  half(x: Float!): Float!
  echo(text: String! = "hi", list: [[Int!]!], flag: Boolean = false, in: Point, mode: Mode = ONE @also(type: "[Int!]")): String!
  maybe(there: Boolean = false): Container
  slow(key: String!): String!
  counter: Int!
  mine: Int!
  never: Int!
  fail(message: String!, extensions: Boolean = false): String!
  panic(how: String!): String!
  nothing: String!
  wrong: Container!
  unbound: String!
  secret(plaintext: String!, name: String!): Secret!
  named(name: String!): Secret!
  pipeline(name: String!): Query!
  old: String! @until(version: "v0.12.0")
  new: String! @since(version: "v0.15.0")
  renamed(directory: DirectoryID! @until(version: "v0.19.0"), source: DirectoryID! @since(version: "v0.19.0")): String!
  keep(dir: Boolean = false @until(version: "v0.13.4"), dir: Boolean = true @since(version: "v0.13.4")): Keep!
  gone: String! @deprecated(reason: "Use here.")
  matrix: [[Label!]!]!
}
type Secret { id: SecretID! plaintext: String! name: String! }
type Keep { id: KeepID! dir: Boolean! view: String! }
input Point { x: Int! y: Int = 7 to: Point }
enum Mode { ONE TWO THREE @since(version: "v0.15.0") OLD @deprecated(reason: "It is old.") }
"A platform."
scalar Platform
type Container {
  id: ContainerID!
  platform: Platform!
  withEnv(name: String!, value: String!): Container!
  withDirectory(path: String!, directory: DirectoryID!): Container!
  withFiles(sources: [DirectoryID!]!): Container!
  "As it was."
  withExec(args: [String!]!, skipEntrypoint: Boolean): Container! @until(version: "v0.12.0")
  "As it is."
  withExec(args: [String!]!, useEntrypoint: Boolean = false): Container! @since(version: "v0.12.0")
  view: View!
  env: String!
  labels: [Label!]!
  sync: ContainerID!
  rootfs: Directory!
}
type View { id: ViewID! text: String! }
type Label { id: LabelID! name: String! }
type Directory {
  id: DirectoryID!
  withFile(path: String!): Directory!
  entries: [String!]!
  self: Directory!
  "Takes `n` turns."
  stepped(n: Int!): Directory!
}
"#;

pub struct Container(pub Vec<String>);
pub struct Directory(pub Vec<String>);
pub struct Label(pub String);
pub struct Text(pub String);
pub struct KeepDir(bool, String);

fn container(inv: &Invocation<Ctx>, add: impl Into<String>) -> Result<Value, Error> {
    let mut env = inv.this::<Container>()?.0.clone();
    env.push(add.into());
    Ok(inv.object(Container(env)))
}

pub fn schema() -> Schema<Ctx> {
    let solver: Arc<Mutex<Option<Arc<Solver<Ctx>>>>> = Arc::default();
    schema_with(solver)
}

/// A schema whose resolvers may load arguments with the solver that is put into the slot.
#[allow(clippy::too_many_lines)]
pub fn schema_with(solver: Arc<Mutex<Option<Arc<Solver<Ctx>>>>>) -> Schema<Ctx> {
    let mut b = Schema::<Ctx>::builder();
    b.sdl("toy", SDL).expect("the text is a schema");
    b.bind("Query.container", Memo::Session, |inv| async move {
        Ok(inv.object(Container(vec![])))
    });
    b.bind("Query.directory", Memo::Session, |inv| async move {
        Ok(inv.object(Directory(vec![])))
    });
    b.bind("Query.version", Memo::Session, |_| async {
        Ok(Value::string("1"))
    });
    b.bind("Query.add", Memo::Session, |inv| async move {
        Ok(Value::Int(
            inv.args.int("a").unwrap_or(0) + inv.args.int("b").unwrap_or(0),
        ))
    });
    b.bind("Query.half", Memo::Session, |inv| async move {
        match inv.args.get("x") {
            Value::Float(f) => Ok(Value::Float(f / 2.0)),
            _ => Err(Error::internal("no float")),
        }
    });
    b.bind("Query.echo", Memo::Session, |inv| async move {
        Ok(Value::string(format!("{:?}", inv.args.0)))
    });
    b.bind("Query.maybe", Memo::Session, |inv| async move {
        Ok(if inv.args.bool("there") {
            inv.object(Container(vec![]))
        } else {
            Value::Null
        })
    });
    b.bind("Query.slow", Memo::Session, |inv| async move {
        struct Alive(Arc<World>);
        impl Drop for Alive {
            fn drop(&mut self) {
                self.0.alive.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let world = inv.ctx.world.clone();
        world.runs.fetch_add(1, Ordering::SeqCst);
        world.alive.fetch_add(1, Ordering::SeqCst);
        let _alive = Alive(world.clone());
        world.gate.notified().await;
        if inv.args.str("key").starts_with("bad") {
            return Err(Error::user("slow failed"));
        }
        Ok(Value::string(format!("slow {}", inv.args.str("key"))))
    });
    b.bind("Query.counter", Memo::Session, |inv| async move {
        Ok(Value::Int(
            inv.ctx.world.runs.fetch_add(1, Ordering::SeqCst) as i64,
        ))
    });
    b.bind("Query.mine", Memo::Client, |inv| async move {
        Ok(Value::Int(
            inv.ctx.world.runs.fetch_add(1, Ordering::SeqCst) as i64,
        ))
    });
    b.bind("Query.never", Memo::Never, |inv| async move {
        Ok(Value::Int(
            inv.ctx.world.runs.fetch_add(1, Ordering::SeqCst) as i64,
        ))
    });
    b.bind("Query.fail", Memo::Session, |inv| async move {
        let e = Error::new(Class::User, inv.args.str("message"));
        if !inv.args.bool("extensions") {
            return Err(e);
        }
        let mut map = serde_json::Map::new();
        map.insert("_type".into(), "EXEC_ERROR".into());
        map.insert("exitCode".into(), 3.into());
        Err(e.with_extensions(map))
    });
    b.bind("Query.panic", Memo::Session, |inv| {
        assert!(inv.args.str("how") != "early", "early panic");
        async move {
            if inv.args.str("how") == "late" {
                tokio::task::yield_now().await;
            }
            panic!("at the disco")
        }
    });
    b.bind("Query.nothing", Memo::Session, |_| async {
        Ok(Value::Null)
    });
    b.bind("Query.wrong", Memo::Session, |_| async {
        Ok(Value::Int(1))
    });
    b.bind("Query.secret", Memo::Never, |inv| async move {
        let call = Call::new(
            None,
            "named",
            vec![(
                "name".into(),
                graph::call::Literal::String(inv.args.str("name").into()),
            )],
            "Secret",
        );
        let text = inv.args.str("plaintext").to_owned();
        Ok(Value::Object(graph::value::Object::new(
            "Secret",
            call,
            Text(text),
        )))
    })
    .sensitive(&["plaintext"]);
    b.bind("Query.named", Memo::Session, |_| async {
        Err(Error::user("secret not found"))
    });
    b.bind("Secret.plaintext", Memo::Never, |inv| async move {
        Ok(Value::string(inv.this::<Text>()?.0.as_str()))
    });
    b.bind("Secret.name", Memo::Session, |inv| async move {
        match inv.this.as_ref().and_then(|o| o.call.arg("name")) {
            Some(graph::call::Literal::String(s)) => Ok(Value::String(s.clone())),
            _ => Ok(Value::string("")),
        }
    });
    b.bind("Query.pipeline", Memo::Session, |inv| async move {
        Ok(inv.object(()))
    });
    b.bind("Query.old", Memo::Session, |_| async {
        Ok(Value::string("old"))
    });
    b.bind("Query.new", Memo::Session, |_| async {
        Ok(Value::string("new"))
    });
    b.bind("Query.renamed", Memo::Session, |inv| async move {
        Ok(Value::string(format!(
            "{} {}",
            inv.args.get("directory").is_null(),
            inv.args.get("source").is_null()
        )))
    });
    b.bind("Query.keep", Memo::Session, |inv| async move {
        Ok(inv.object(KeepDir(inv.args.bool("dir"), inv.view.to_string())))
    });
    b.bind("Keep.dir", Memo::Session, |inv| async move {
        Ok(Value::Bool(inv.this::<KeepDir>()?.0))
    });
    b.bind("Keep.view", Memo::Session, |inv| async move {
        Ok(Value::string(inv.this::<KeepDir>()?.1.as_str()))
    });
    b.bind("Query.gone", Memo::Session, |_| async {
        Ok(Value::string("gone"))
    });
    b.bind("Query.matrix", Memo::Session, |inv| async move {
        let label = |n: u32, i: u32| {
            graph::value::Object::new(
                "Label",
                inv.call.element(n * 10 + i, "Label"),
                Label(format!("{n}{i}")),
            )
        };
        let row = |n: u32| (0..n).map(|i| Value::Object(label(n, i))).collect();
        Ok(Value::List(vec![
            Value::List(row(2)),
            Value::List(vec![]),
            Value::List(row(1)),
        ]))
    });
    b.bind("Container.platform", Memo::Session, |_| async {
        Ok(Value::string("linux/amd64"))
    });
    b.bind("Container.withEnv", Memo::Session, |inv| async move {
        let add = format!("{}={}", inv.args.str("name"), inv.args.str("value"));
        container(&inv, add)
    });
    let slot = solver.clone();
    b.bind("Container.withDirectory", Memo::Session, move |inv| {
        let slot = slot.clone();
        async move {
            let solver = slot.lock().unwrap().clone().expect("a solver");
            let dir = inv.args.id("directory").expect("an ID").clone();
            let dir = solver.load(&inv.ctx, &dir).await?;
            let entries = dir.get::<Directory>().expect("a directory").0.join("+");
            container(&inv, format!("{}:{entries}", inv.args.str("path")))
        }
    });
    b.bind("Container.withFiles", Memo::Session, |inv| async move {
        let n = inv.args.ids("sources").len();
        container(&inv, format!("{n} files"))
    });
    b.bind("Container.withExec", Memo::Session, |inv| async move {
        let add = format!("{:?} {}", inv.args.0, inv.view);
        container(&inv, add)
    });
    b.bind("Container.view", Memo::Session, |inv| async move {
        Ok(inv.object(Text(inv.view.to_string())))
    })
    .by_view();
    b.bind("View.text", Memo::Session, |inv| async move {
        Ok(Value::string(inv.this::<Text>()?.0.as_str()))
    });
    b.bind("Container.env", Memo::Session, |inv| async move {
        Ok(Value::string(inv.this::<Container>()?.0.join(",")))
    });
    b.bind("Container.labels", Memo::Session, |inv| async move {
        let labels: Vec<Label> = inv
            .this::<Container>()?
            .0
            .iter()
            .map(|e| Label(e.clone()))
            .collect();
        Ok(inv.objects(labels))
    });
    b.bind("Container.sync", Memo::Session, |inv| async move {
        Ok(Value::Id(
            inv.this.as_ref().expect("a receiver").call.clone(),
        ))
    });
    b.bind("Container.rootfs", Memo::Session, |inv| async move {
        Ok(inv.object(Directory(inv.this::<Container>()?.0.clone())))
    });
    b.bind("Label.name", Memo::Session, |inv| async move {
        Ok(Value::string(inv.this::<Label>()?.0.as_str()))
    });
    b.bind("Directory.withFile", Memo::Session, |inv| async move {
        let mut entries = inv.this::<Directory>()?.0.clone();
        entries.push(inv.args.str("path").into());
        Ok(inv.object(Directory(entries)))
    });
    b.bind("Directory.entries", Memo::Session, |inv| async move {
        Ok(Value::strings(
            inv.this::<Directory>()?.0.iter().map(String::as_str),
        ))
    });
    b.bind("Directory.stepped", Memo::Session, |inv| async move {
        for _ in 0..inv.args.int("n").unwrap_or(0) {
            tokio::task::yield_now().await;
        }
        Ok(inv.object(Directory(inv.this::<Directory>()?.0.clone())))
    });
    b.bind("Directory.self", Memo::Session, |inv| async move {
        Ok(inv.object(Directory(vec![])))
    });
    b.build().expect("the toy schema is consistent")
}

/// A session on the toy schema.
pub struct Toy {
    pub ctx: Ctx,
    pub solver: Arc<Solver<Ctx>>,
}

impl Toy {
    pub fn new() -> Self {
        let slot: Arc<Mutex<Option<Arc<Solver<Ctx>>>>> = Arc::default();
        let solver = Solver::new(schema_with(slot.clone()));
        *slot.lock().unwrap() = Some(solver.clone());
        Self {
            ctx: Ctx::new(),
            solver,
        }
    }

    pub async fn raw(
        &self,
        view: &str,
        query: &str,
        operation: Option<&str>,
        variables: serde_json::Value,
    ) -> (u16, serde_json::Value) {
        let request = Request {
            query: query.into(),
            operation_name: operation.map(Into::into),
            variables,
        };
        let response = self
            .solver
            .run(&self.ctx, View::parse(view).expect("a version"), request)
            .await;
        (
            response.status,
            serde_json::from_slice(&response.body).expect("the answer is JSON"),
        )
    }

    /// The answer's JSON, as of v0.14.0.
    pub async fn ask(&self, query: &str) -> serde_json::Value {
        self.raw("v0.14.0", query, None, serde_json::Value::Null)
            .await
            .1
    }

    /// The data of an answer without errors.
    pub async fn data(&self, query: &str) -> serde_json::Value {
        self.data_at("v0.14.0", query).await
    }

    pub async fn data_at(&self, view: &str, query: &str) -> serde_json::Value {
        let (status, mut answer) = self.raw(view, query, None, serde_json::Value::Null).await;
        assert!(
            status == 200 && answer.get("errors").is_none(),
            "{query}: {answer}"
        );
        answer["data"].take()
    }

    /// The first error's message.
    pub async fn error(&self, query: &str) -> String {
        let answer = self.ask(query).await;
        answer["errors"][0]["message"]
            .as_str()
            .unwrap_or_else(|| panic!("{query:.300}: {:.300}", answer.to_string()))
            .to_owned()
    }
}
