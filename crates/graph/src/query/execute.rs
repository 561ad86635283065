//! Runs a document: a work list over a flat plan, siblings at once, nothing recursive.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Waking, Poll},
};

use futures::stream::{FuturesUnordered, StreamExt};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    error::Error,
    resolve::{BoxFuture, Context, View},
    schema::{Kind, Provider, Ty, introspect},
    solve::{Asked, Solver},
    value::{Object, Value},
};

use super::{
    Request, Response,
    parse::{NONE, parse},
    plan::{Plan, What},
    response::{Failure, Node, Out, Step, write},
    validate,
};

/// Most fields of one query that are computed at the same time.
const MAX_IN_FLIGHT: usize = 1_000;
/// Most objects, lists and leaves of one answer.
const MAX_NODES: usize = 2_000_000;
/// Most bytes of one answer.
const MAX_BYTES: usize = 1 << 30;
/// Fields answered at once before other tasks get a turn.
const TURN: u32 = 256;

impl<C: Context> Solver<C> {
    /// Runs a request against what clients of version `view` see.
    pub async fn run(self: &Arc<Self>, ctx: &C, view: View, request: Request) -> Response {
        match self.answer(ctx, view, &request).await {
            Ok(body) => Response { status: 200, body },
            Err(mut failure) => {
                failure.error = ctx.told(failure.error);
                failure.response()
            }
        }
    }

    async fn answer(
        self: &Arc<Self>,
        ctx: &C,
        asked: View,
        request: &Request,
    ) -> Result<Vec<u8>, Failure> {
        let view = self.schema.view(asked);
        let name = request.operation_name.as_deref().filter(|n| !n.is_empty());
        // Clients send the same introspection at every start.
        let plain = request.variables.is_null()
            || request
                .variables
                .as_object()
                .is_some_and(serde_json::Map::is_empty);
        let digest = (plain && request.query.contains("__schema")).then(|| {
            xxh3_128(request.query.as_bytes()) ^ name.map_or(0, |n| xxh3_128(n.as_bytes()))
        });
        if let Some(body) = digest.and_then(|d| view.recall(d)) {
            return Ok(body.to_vec());
        }
        let doc = parse(&request.query).map_err(|e| Failure::syntax(&e))?;
        let op = validate::choose(&doc, name)?;
        let fragments = validate::fragments(&doc)?;
        let vars = validate::variables(&view, &doc, op, &request.variables)?;
        validate::check(&view, &doc, op, &fragments, &vars)?;
        let recipe = |field, args: &_| self.recipe(field, args);
        let plan = Plan::new(&view, &doc, op.first, &fragments, &vars, &recipe)?;
        let constant = |f: &super::plan::PlanField<'_>| match f.what {
            What::Typename => true,
            What::Field(id) => {
                view.defs.field(id).provider == Provider::Meta
                    && &*view.defs.field(id).name != "__schemaVersion"
            }
        };
        let (first, len) = plan.root;
        let digest = digest.filter(|_| {
            plan.fields[first as usize..(first + len) as usize]
                .iter()
                .all(constant)
        });
        let mut run = Run {
            solver: self,
            ctx,
            asked,
            plan,
            nodes: Vec::new(),
            jobs: Vec::new(),
            flight: FuturesUnordered::new(),
        };
        run.run().await?;
        let body = write(&run.nodes, |f| run.plan.fields[f as usize].key, MAX_BYTES);
        let body = body.map_err(|e| Failure::field(e, Vec::new()))?;
        if let Some(digest) = digest {
            view.remember(digest, &body);
        }
        Ok(body)
    }
}

/// A field to answer.
struct Job {
    node: u32,
    field: u32,
    this: Option<Object>,
}

/// A field being answered.
struct Flight {
    node: u32,
    future: BoxFuture<Result<Value, Error>>,
}

impl Future for Flight {
    type Output = (u32, Result<Value, Error>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Waking<'_>) -> Poll<Self::Output> {
        let node = self.node;
        self.future.as_mut().poll(cx).map(|r| (node, r))
    }
}

struct Run<'r, 'a, C> {
    solver: &'r Arc<Solver<C>>,
    ctx: &'r C,
    asked: View,
    plan: Plan<'a>,
    nodes: Vec<Node>,
    jobs: Vec<Job>,
    flight: FuturesUnordered<Flight>,
}

impl<C: Context> Run<'_, '_, C> {
    async fn run(&mut self) -> Result<(), Failure> {
        self.nodes.push(Node {
            out: Out::Pending,
            parent: NONE,
            field: NONE,
            index: NONE,
        });
        let root = self.plan.root;
        self.object(0, root, None)?;
        let mut turn = TURN;
        loop {
            while self.flight.len() < MAX_IN_FLIGHT {
                let Some(job) = self.jobs.pop() else { break };
                self.start(job)?;
                turn -= 1;
                if turn == 0 {
                    turn = TURN;
                    tokio::task::yield_now().await;
                }
            }
            match self.flight.next().await {
                Some((node, Ok(value))) => self.complete(node, value)?,
                Some((node, Err(e))) => return Err(self.failed(node, e)),
                None if self.jobs.is_empty() => return Ok(()),
                None => {}
            }
        }
    }

    fn failed(&self, node: u32, error: Error) -> Failure {
        Failure::field(error, self.path(node))
    }

    /// Response keys and list indices down to a node.
    fn path(&self, mut node: u32) -> Vec<Step> {
        let mut out = Vec::new();
        while let Some(n) = self.nodes.get(node as usize) {
            if n.index != NONE {
                out.push(Step::Index(n.index));
            } else if let Some(f) = self.plan.fields.get(n.field as usize) {
                out.push(Step::Key(f.key.into()));
            }
            node = n.parent;
        }
        out.reverse();
        out
    }

    fn add(&mut self, count: usize) -> Result<u32, Failure> {
        if self.nodes.len() + count > MAX_NODES {
            return Err(Failure::field(
                Error::user(format!("the answer has more than {MAX_NODES} values")),
                Vec::new(),
            ));
        }
        Ok(self.nodes.len() as u32)
    }

    /// Node `node` is an object: its selected fields become jobs.
    fn object(
        &mut self,
        node: u32,
        (fields, len): (u32, u32),
        this: Option<&Object>,
    ) -> Result<(), Failure> {
        let first = self.add(len as usize)?;
        self.nodes[node as usize].out = Out::Object { fields, first, len };
        for i in 0..len {
            self.nodes.push(Node {
                out: Out::Pending,
                parent: node,
                field: fields + i,
                index: NONE,
            });
        }
        for i in (0..len).rev() {
            self.jobs.push(Job {
                node: first + i,
                field: fields + i,
                this: this.cloned(),
            });
        }
        Ok(())
    }

    fn start(&mut self, job: Job) -> Result<(), Failure> {
        let Job { node, field, this } = job;
        let view = self.plan.view;
        let planned = &self.plan.fields[field as usize];
        let id = match planned.what {
            What::Typename => {
                let name = this.map_or_else(
                    || view.defs.ty(view.defs.query).name.clone(),
                    |o| o.type_name,
                );
                return self.leaf(node, Value::String(name));
            }
            What::Field(id) => id,
        };
        let def = view.defs.field(id);
        match def.provider {
            Provider::Meta if &*def.name == "__schemaVersion" => {
                self.leaf(node, Value::string(self.asked.to_string()))
            }
            Provider::Meta => {
                let json = introspect::answer(&mut self.plan, field)?;
                self.nodes[node as usize].out = Out::Raw(json.into());
                Ok(())
            }
            Provider::Id => match this {
                Some(o) => self.leaf(node, Value::Id(o.call)),
                None => Err(self.failed(node, Error::user("Query has no ID"))),
            },
            Provider::Load => {
                let Some((_, Value::Id(call))) = planned.args.0.first() else {
                    return Err(self.failed(node, Error::user("missing required argument: \"id\"")));
                };
                let call = call.clone();
                if let Ok(object) = self.solver.backlog(self.ctx, &call) {
                    return self.complete(node, Value::Object(object));
                }
                let (solver, ctx, asked) = (self.solver.clone(), self.ctx.clone(), self.asked);
                let future =
                    Box::pin(
                        async move { solver.load_in(&ctx, asked, &call).await.map(Value::Object) },
                    );
                self.flight.push(Flight { node, future });
                Ok(())
            }
            Provider::Engine => {
                let (args, literals) = (planned.args.clone(), planned.literals.clone());
                let asking =
                    self.solver
                        .asking(self.asked, view.interval, id, this, args, literals);
                match self.solver.ask(self.ctx, asking) {
                    Asked::Now(Ok(value)) => self.complete(node, value),
                    Asked::Now(Err(e)) => Err(self.failed(node, e)),
                    Asked::Later(future) => {
                        self.flight.push(Flight { node, future });
                        Ok(())
                    }
                }
            }
        }
    }

    fn leaf(&mut self, node: u32, value: Value) -> Result<(), Failure> {
        self.nodes[node as usize].out = Out::Leaf(value);
        Ok(())
    }

    /// Puts a field's value into the answer; objects in it become objects with jobs.
    fn complete(&mut self, node: u32, value: Value) -> Result<(), Failure> {
        let field = self.nodes[node as usize].field;
        let view = self.plan.view;
        let What::Field(id) = self.plan.fields[field as usize].what else {
            return self.leaf(node, value);
        };
        let ty: &Ty = &view.defs.field(id).ty;
        if !matches!(
            view.defs.ty(ty.named()).kind,
            Kind::Object | Kind::Interface | Kind::Union
        ) {
            return self.leaf(node, value);
        }
        let mut open = vec![(node, value)];
        while let Some((node, value)) = open.pop() {
            match value {
                Value::Object(o) => {
                    let ty = view.defs.type_named(&o.type_name);
                    let ty = ty.ok_or_else(|| {
                        self.failed(
                            node,
                            Error::internal(format!("there is no type {}", o.type_name)),
                        )
                    })?;
                    let set = self.plan.children(field, ty)?;
                    self.object(node, set, Some(&o))?;
                }
                Value::List(items) => {
                    let first = self.add(items.len())?;
                    self.nodes[node as usize].out = Out::List {
                        first,
                        len: items.len() as u32,
                    };
                    for i in 0..items.len() as u32 {
                        self.nodes.push(Node {
                            out: Out::Pending,
                            parent: node,
                            field,
                            index: i,
                        });
                    }
                    open.extend((first..).zip(items));
                }
                other => self.leaf(node, other)?,
            }
        }
        Ok(())
    }
}
