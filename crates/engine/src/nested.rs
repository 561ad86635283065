//! Sessions inside containers: a process that was started with `experimentalPrivilegedNesting` is one more client of its
//! session, whose machine is its container.
//!
//! It finds the API on its own loopback, by `DAGGER_SESSION_PORT` and `DAGGER_SESSION_TOKEN`. For what the API needs of its
//! machine, an agent of the engine is started in the container, when something is needed for the first time. The API and the
//! agent end with the process.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    sync::Arc,
};

use graph::error::{Class, Error};
use sandbox::{
    Agency, Child, StartError,
    spec::{AgentSpec, UserSpec},
};
use tokio::{net::TcpListener, sync::oneshot, task::AbortHandle};
use wire::ClientInfo;

use crate::{Ctx, link::ClientLink, network::ExecNetwork, node::exec::ExecPlan, session::Client};

/// Serves the API to processes in containers: the other of the two ports.
pub trait ApiServer: Send + Sync {
    /// Serves the API to whoever connects to the listener and knows the token of `ctx.client`, as that client.
    fn serve(&self, listener: TcpListener, ctx: Ctx) -> Serving;

    /// The way to a machine that an agent answers for, which need not be there yet.
    fn remote(&self) -> Remote;
}

/// The API being served. Dropping it ends that, and the requests under way.
#[derive(Debug)]
pub struct Serving(AbortHandle);

impl Serving {
    /// Served by this task, which owns everything it started.
    pub fn new(task: AbortHandle) -> Self {
        Self(task)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The way to a machine that an agent answers for.
pub struct Remote {
    /// Asks things of the machine. Fails when `agent` is dropped, or the agent ends.
    pub link: Arc<dyn ClientLink>,
    /// Resolves when something is asked for the first time.
    pub wanted: oneshot::Receiver<()>,
    /// Takes the channel to the agent.
    pub agent: oneshot::Sender<UnixStream>,
}

/// The API inside one container. Dropping it ends the requests under way.
pub struct Nesting {
    _serving: Serving,
    port: u16,
    token: String,
    state: State,
}

enum State {
    /// Until there is a container.
    Ahead(
        oneshot::Receiver<()>,
        oneshot::Sender<UnixStream>,
        UserSpec,
        bool,
    ),
    /// Sees to an agent.
    Attended(#[expect(dead_code, reason = "held to be dropped")] Serving),
}

impl std::fmt::Debug for Nesting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nesting")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Nesting {
    /// Serves the API of `ctx`'s session in the network of a process that is about to start, if it is to have that.
    ///
    /// # Errors
    /// The engine cannot listen there.
    pub async fn start(
        ctx: &Ctx,
        plan: &ExecPlan,
        hostname: &str,
        network: &mut ExecNetwork,
    ) -> Result<Option<Self>, Error> {
        if !plan.nesting {
            return Ok(None);
        }
        let failed = |e: io::Error| {
            Error::environment(format!("cannot listen in the container's network: {e}"))
        };
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = sandbox::network::listen_in(network.loopback()?, any_port)
            .await
            .map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let token = uuid::Uuid::new_v4().to_string();
        let Remote {
            link,
            wanted,
            agent,
        } = ctx.engine.api.remote();
        let info = ClientInfo {
            workdir: plan.cwd.clone(),
            token: token.clone(),
            hostname: hostname.to_owned(),
            ..ClientInfo::default()
        };
        let client = Arc::new(Client::in_container(info, link, &ctx.client));
        let serving = ctx.engine.api.serve(
            listener,
            Ctx {
                client,
                ..ctx.clone()
            },
        );
        let user = UserSpec {
            name: plan.user.clone(),
        };
        Ok(Some(Self {
            _serving: serving,
            port,
            token,
            state: State::Ahead(wanted, agent, user, plan.privileged),
        }))
    }

    /// What the process finds the API by. Not a part of what it is: never in a key, a configuration or a layer.
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("DAGGER_SESSION_PORT", self.port.to_string()),
            ("DAGGER_SESSION_TOKEN", self.token.clone()),
        ]
    }

    /// Sees to an agent in the container when one is needed. Without an agent, what is asked of the container fails; the
    /// process itself goes on.
    pub fn attend(mut self, ctx: &Ctx, child: &Child) -> Self {
        let agency = child.agency();
        let engine = ctx.engine.clone();
        if let State::Ahead(wanted, channel, user, privileged) = self.state {
            let task = tokio::spawn(async move {
                if wanted.await.is_err() {
                    return;
                }
                let started = engine
                    .blocking(move || start_agent(agency, user, privileged))
                    .await;
                match started {
                    // Nobody takes it when the container has just ended.
                    Ok(ours) => drop(channel.send(ours)),
                    Err(e) => tracing::warn!("a container has no agent: {}", e.message()),
                }
            });
            self.state = State::Attended(Serving::new(task.abort_handle()));
        }
        self
    }
}

/// Starts an agent; the channel to it.
fn start_agent(
    agency: Result<Agency, StartError>,
    user: UserSpec,
    privileged: bool,
) -> Result<UnixStream, Error> {
    let (ours, theirs) = UnixStream::pair()
        .map_err(|e| Error::environment(format!("cannot make a pair of sockets: {e}")))?;
    let spec = AgentSpec {
        user,
        privileged,
        channel: theirs.into(),
    };
    agency
        .and_then(|a| a.start(spec))
        .map_err(|e| Error::from_chain(Class::Environment, &e))?;
    Ok(ours)
}
