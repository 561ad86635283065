//! The running services of a session: at most one instance per service, however many ask.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use graph::{
    call::Digest,
    error::{Class, Error},
};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Door, Kind, Service, health::Probe, host, instance, output::Log, tunnel};
use crate::{Ctx, container::Port, lock};

/// How long a service stays after its last use: one exec is often followed by another.
const GRACE: Duration = Duration::from_secs(10);
/// How long a service that is asked to end may take before it is killed.
pub(super) const TERMINATE: Duration = Duration::from_secs(10);
/// How long the end of a session waits for its killed services.
const CLOSE: Duration = Duration::from_secs(5);
/// Logs of ended services remembered per session.
const LOGS_MAX: usize = 256;

/// A session's services.
#[derive(Default)]
pub struct Services(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    closed: bool,
    instances: HashMap<Digest, Entry>,
    /// Started explicitly: these stay without users.
    pinned: HashSet<Digest>,
    /// What the instances said, also those that have ended.
    logs: HashMap<Digest, Log>,
}

/// One instance, from its start to its end.
struct Entry {
    number: u64,
    users: watch::Sender<usize>,
    outcome: watch::Receiver<Option<Outcome>>,
    terminate: CancellationToken,
    kill: CancellationToken,
    ended: CancellationToken,
    stopping: bool,
}

type Outcome = Result<Arc<Running>, Error>;

/// An instance that is ready.
#[derive(Debug)]
pub struct Running {
    /// Its fully qualified name; a tunnel's is its bind address.
    pub hostname: String,
    /// The way to it; a tunnel has none.
    pub door: Option<Door>,
    /// The ports that are open.
    pub ports: Vec<Port>,
    /// Set when it has ended.
    pub ended: CancellationToken,
    /// Its first process, where it has one: readable when that has ended.
    process: Option<OwnedFd>,
    /// Starts commands beside its process, where it has one.
    pub(super) commands: Option<mpsc::Sender<Probe>>,
}

impl Running {
    /// Has its process ended, though its end is not dealt with yet?
    fn is_ending(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|n| n > 0)
    }
}

/// A running service in use. Dropping it is the end of the use.
#[derive(Debug)]
pub struct Use {
    _seat: Seat,
    running: Arc<Running>,
}

impl Use {
    /// What is used.
    pub fn running(&self) -> &Running {
        &self.running
    }
}

/// One user of an instance, whether it is ready or not.
struct Seat {
    state: Arc<Mutex<State>>,
    id: Digest,
    number: u64,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({})", self.id)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(entry) = lock(&self.state)
            .instances
            .get(&self.id)
            .filter(|e| e.number == self.number)
        {
            entry.users.send_modify(|n| *n = n.saturating_sub(1));
        }
    }
}

/// What a new user finds.
enum Found {
    Seat(Seat, watch::Receiver<Option<Outcome>>),
    Ending {
        kill: CancellationToken,
        ended: CancellationToken,
    },
}

impl Services {
    /// Uses a service: starts it when it does not run, and waits until it is ready.
    ///
    /// The start goes on when the caller goes away and others wait; when nobody has waited for some seconds it is given up.
    ///
    /// # Errors
    /// It did not start, or the session has ended.
    pub async fn acquire(&self, ctx: &Ctx, service: &Service) -> Result<Use, Error> {
        loop {
            match self.enter(ctx, service)? {
                Found::Seat(seat, mut outcome) => {
                    let outcome = outcome
                        .wait_for(Option::is_some)
                        .await
                        .ok()
                        .and_then(|o| o.clone());
                    let running = outcome.unwrap_or_else(|| {
                        Err(Error::internal("a service's start ended without an answer"))
                    })?;
                    if running.is_ending() {
                        // It died just now: the next one is asked for when it is gone.
                        drop(seat);
                        running.ended.cancelled().await;
                        continue;
                    }
                    return Ok(Use {
                        _seat: seat,
                        running,
                    });
                }
                Found::Ending { kill, ended } => {
                    // Two instances at once would fight for the same volumes.
                    if timeout(TERMINATE, ended.cancelled()).await.is_err() {
                        kill.cancel();
                        ended.cancelled().await;
                    }
                }
            }
        }
    }

    fn enter(&self, ctx: &Ctx, service: &Service) -> Result<Found, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut state = lock(&self.0);
        if state.closed {
            return Err(Error::new(Class::Cancelled, "the session has ended"));
        }
        if let Some(entry) = state.instances.get(&service.id) {
            if entry.stopping {
                return Ok(Found::Ending {
                    kill: entry.kill.clone(),
                    ended: entry.ended.clone(),
                });
            }
            entry.users.send_modify(|n| *n += 1);
            let seat = Seat {
                state: self.0.clone(),
                id: service.id,
                number: entry.number,
            };
            return Ok(Found::Seat(seat, entry.outcome.clone()));
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pinned = usize::from(state.pinned.contains(&service.id));
        let (users, users_seen) = watch::channel(1 + pinned);
        let (tell, outcome) = watch::channel(None);
        let entry = Entry {
            number,
            users,
            outcome: outcome.clone(),
            terminate: CancellationToken::new(),
            kill: CancellationToken::new(),
            ended: CancellationToken::new(),
            stopping: false,
        };
        let controls = Controls {
            state: self.0.clone(),
            id: service.id,
            number,
            users: users_seen,
            terminate: entry.terminate.clone(),
            kill: entry.kill.clone(),
            ended: entry.ended.clone(),
        };
        state.instances.insert(service.id, entry);
        drop(state);
        let seat = Seat {
            state: self.0.clone(),
            id: service.id,
            number,
        };
        spawn(ctx.clone(), service.clone(), controls, tell);
        Ok(Found::Seat(seat, outcome))
    }

    /// Starts a service and keeps it until it is stopped or the session ends.
    ///
    /// # Errors
    /// As for [`Services::acquire`].
    pub async fn start(&self, ctx: &Ctx, service: &Service) -> Result<(), Error> {
        let used = self.acquire(ctx, service).await?;
        let mut state = lock(&self.0);
        if state.pinned.insert(service.id)
            && let Some(entry) = state
                .instances
                .get(&service.id)
                .filter(|e| e.number == used._seat.number)
        {
            entry.users.send_modify(|n| *n += 1);
        }
        drop(state);
        Ok(())
    }

    /// Ends a service, whoever uses it, and waits for its end. One that does not run has ended.
    ///
    /// Without `kill` the process is asked to end, and killed when it has not within ten seconds.
    pub async fn stop(&self, id: Digest, kill: bool) {
        let ended = {
            let mut state = lock(&self.0);
            state.pinned.remove(&id);
            let Some(entry) = state.instances.get_mut(&id) else {
                return;
            };
            entry.stopping = true;
            if kill {
                entry.kill.cancel();
            } else {
                entry.terminate.cancel();
            }
            entry.ended.clone()
        };
        ended.cancelled().await;
    }

    /// The instance, if it is ready.
    pub fn running(&self, id: Digest) -> Option<Arc<Running>> {
        let state = lock(&self.0);
        let entry = state.instances.get(&id)?;
        let outcome = entry.outcome.borrow();
        outcome.as_ref()?.as_ref().ok().cloned()
    }

    /// What a service has said lately, whether or not it still runs.
    pub fn log(&self, id: Digest) -> Option<Log> {
        lock(&self.0).logs.get(&id).cloned()
    }

    /// How many instances there are, in whatever state.
    pub fn count(&self) -> usize {
        lock(&self.0).instances.len()
    }

    /// Kills everything and waits for its end. Nothing can be started any more.
    pub async fn close(&self) {
        let ended: Vec<CancellationToken> = {
            let mut state = lock(&self.0);
            state.closed = true;
            state.pinned.clear();
            state.logs.clear();
            for entry in state.instances.values_mut() {
                entry.stopping = true;
                entry.kill.cancel();
            }
            state.instances.values().map(|e| e.ended.clone()).collect()
        };
        let all = futures::future::join_all(ended.iter().map(CancellationToken::cancelled));
        if timeout(CLOSE, all).await.is_err() {
            tracing::warn!(
                "some services of a session have not ended {} s after they were killed",
                CLOSE.as_secs()
            );
        }
    }
}

/// Runs an instance on a task of its own. Boxed: services need services, and their futures would have no finite type.
fn spawn(ctx: Ctx, service: Service, mut controls: Controls, tell: watch::Sender<Option<Outcome>>) {
    let life: futures::future::BoxFuture<'static, ()> = Box::pin(async move {
        let gone = Gone(
            controls.state.clone(),
            controls.id,
            controls.number,
            controls.ended.clone(),
        );
        let mut announce = Announce {
            process: None,
            commands: None,
            tell: &tell,
            ended: &controls.ended.clone(),
            state: &controls.state.clone(),
            id: controls.id,
        };
        let result = match &*service.kind {
            Kind::Container(c) => {
                instance::live(&ctx, &service, c, &mut controls, &mut announce).await
            }
            Kind::Tunnel(t) => tunnel::live(&ctx, t, &mut controls, &mut announce).await,
            Kind::Host(h) => host::live(&ctx, &service, h, &mut controls, &mut announce).await,
        };
        // Forgotten before the failure is seen: whoever comes later starts anew.
        drop(gone);
        if let Err(e) = result {
            tell.send_if_modified(|outcome| {
                let first = outcome.is_none();
                if first {
                    *outcome = Some(Err(e));
                }
                first
            });
        }
    });
    tokio::spawn(life);
}

/// Takes the instance off the list when its task is over in any way.
struct Gone(Arc<Mutex<State>>, Digest, u64, CancellationToken);

impl Drop for Gone {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        if state
            .instances
            .get(&self.1)
            .is_some_and(|e| e.number == self.2)
        {
            state.instances.remove(&self.1);
        }
        drop(state);
        self.3.cancel();
    }
}

/// An instance's way to tell that it is ready.
pub(super) struct Announce<'a> {
    /// The first process of what is announced.
    pub(super) process: Option<OwnedFd>,
    /// Starts commands beside that process.
    pub(super) commands: Option<mpsc::Sender<Probe>>,
    tell: &'a watch::Sender<Option<Outcome>>,
    ended: &'a CancellationToken,
    state: &'a Mutex<State>,
    id: Digest,
}

impl Announce<'_> {
    /// It is.
    pub(super) fn ready(&mut self, hostname: String, door: Option<Door>, ports: Vec<Port>) {
        let (process, commands) = (self.process.take(), self.commands.take());
        self.tell.send_replace(Some(Ok(Arc::new(Running {
            hostname,
            door,
            ports,
            process,
            commands,
            ended: self.ended.clone(),
        }))));
    }

    /// What it says can be read here.
    pub(super) fn log(&mut self, log: Log) {
        let mut state = lock(self.state);
        if state.logs.len() >= LOGS_MAX && !state.logs.contains_key(&self.id) {
            let running: HashSet<Digest> = state.instances.keys().copied().collect();
            state.logs.retain(|id, _| running.contains(id));
        }
        state.logs.insert(self.id, log);
    }
}

/// How an instance is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At once.
    Kill,
    /// Asked; killed when it takes longer than [`TERMINATE`].
    Terminate,
}

/// What an instance is told.
pub(super) struct Controls {
    state: Arc<Mutex<State>>,
    id: Digest,
    number: u64,
    users: watch::Receiver<usize>,
    terminate: CancellationToken,
    kill: CancellationToken,
    ended: CancellationToken,
}

impl Controls {
    /// Resolves when a running instance is to end.
    pub(super) async fn end(&mut self, grace: Option<Duration>) -> End {
        let (terminate, kill) = (self.terminate.clone(), self.kill.clone());
        tokio::select! {
            biased;
            () = kill.cancelled() => End::Kill,
            () = terminate.cancelled() => End::Terminate,
            () = self.unused(grace.unwrap_or(GRACE)) => End::Terminate,
        }
    }

    /// Resolves when a start is to be given up: killed, or nobody has waited for a while. Being asked to end waits for the start.
    pub(super) async fn abort(&mut self) {
        let kill = self.kill.clone();
        tokio::select! {
            () = kill.cancelled() => {}
            () = self.unused(GRACE) => {}
        }
    }

    /// Resolves when the instance is to end at once, although it has been asked to end already.
    pub(super) fn killed(&self) -> impl Future<Output = ()> + use<> {
        let kill = self.kill.clone();
        async move { kill.cancelled().await }
    }

    /// Resolves when nobody has used the instance for `grace`; from then on nobody can.
    async fn unused(&mut self, grace: Duration) {
        loop {
            if self.users.wait_for(|n| *n == 0).await.is_err() {
                return std::future::pending().await;
            }
            let used_again = timeout(grace, self.users.wait_for(|n| *n > 0))
                .await
                .is_ok();
            if !used_again && self.retire() {
                return;
            }
        }
    }

    /// Marks the instance as ending, unless somebody has just come.
    fn retire(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(entry) = state
            .instances
            .get_mut(&self.id)
            .filter(|e| e.number == self.number)
        else {
            return true;
        };
        let unused = *entry.users.borrow() == 0;
        entry.stopping |= unused;
        unused
    }
}
