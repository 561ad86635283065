//! `shellEndpoint` of the oldest clients: a command of a container on a terminal that somebody else draws, who connects to an
//! address of the session's API.

use std::{collections::HashMap, sync::Mutex};

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};
use wire::link::TerminalFacts;

use super::{
    Container,
    terminal::{Screen, show},
};
use crate::{Ctx, dispatch::Binder, link::Io, lock, node::exec::Expect, service};

/// Most addresses that a session has; with more the answer is an error.
const SHELLS_MAX: usize = 1000;
/// What addresses begin with, after the host.
pub const PATH: &str = "/shells/";

/// The containers that have an address in a session.
#[derive(Default)]
pub struct Shells(Mutex<HashMap<String, Container>>);

impl Shells {
    fn add(&self, c: &Container) -> Result<String, Error> {
        let mut known = lock(&self.0);
        if known.len() >= SHELLS_MAX {
            return Err(Error::user(format!(
                "the session has {SHELLS_MAX} addresses of shells: end it and begin another"
            )));
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        known.insert(id.clone(), c.clone());
        Ok(id)
    }

    /// The container with this name.
    pub fn get(&self, id: &str) -> Option<Container> {
        lock(&self.0).get(id).cloned()
    }
}

pub(super) fn bind(b: &mut Binder) {
    b.bind("Container.shellEndpoint", Memo::Never, endpoint);
}

async fn endpoint(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let id = inv.ctx.session.shells.add(inv.this::<Container>()?)?;
    Ok(Value::String(format!("ws://dagger{PATH}{id}").into()))
}

/// Runs what a container would run as a service, its last exec or else its default command, on a terminal at the other end
/// of `stream`: frames as [`wire::LinkRequest::Terminal`] has them, without a status before. What it changes is dropped. The
/// exit code.
///
/// # Errors
/// It cannot be started, or the other end is gone.
pub async fn attach(ctx: &Ctx, c: &Container, stream: Box<dyn Io>) -> Result<i32, Error> {
    let (mut plan, inputs) = service::command_of(c)?;
    plan.expect = Expect::Any(255);
    let inputs = ctx.inputs(&inputs).await?;
    let facts = TerminalFacts {
        term: "xterm".into(),
        rows: 24,
        columns: 80,
    };
    let screen = async { Ok(Screen { stream, facts }) };
    let exit = show(ctx, screen, plan, &inputs).await?;
    Ok(exit.code())
}
