//! One computation shared by all who wait for it, and cancelled when the last of them leaves.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context as Waking, Poll, Waker},
};

use tokio::sync::watch;

use crate::{
    call::Call,
    error::{Class, Error},
    resolve::{BoxFuture, Context},
    schema::FieldId,
    value::Value,
};

use super::{Asked, Solver, memo::Key};

/// How many resolvers may begin inside one another on the same stack before they get tasks of their own.
const MAX_INLINE: u32 = 4;

type Outcome = Option<Result<Value, Error>>;

/// A computation under way.
#[derive(Debug)]
pub(crate) struct Task(watch::Sender<Outcome>);

impl Task {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(None)))
    }

    /// One more waits.
    pub(crate) fn join(&self) -> Waiter {
        Waiter(self.0.subscribe())
    }

    /// Does anyone wait?
    pub(crate) fn awaited(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Tells all who wait.
    pub(crate) fn send(&self, result: Result<Value, Error>) {
        self.0.send_replace(Some(result));
    }
}

/// One who waits for a [`Task`].
pub(crate) struct Waiter(watch::Receiver<Outcome>);

impl Waiter {
    pub(crate) async fn wait(mut self) -> Result<Value, Error> {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(cancelled())),
            // The runtime is going down.
            Err(_) => Err(cancelled()),
        }
    }
}

pub(crate) fn cancelled() -> Error {
    Error::new(Class::Cancelled, "the computation was cancelled")
}

/// What is told when a resolver panics.
pub(crate) fn panicked(path: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!(
        "{path} panicked: {}; please report this",
        text.unwrap_or("no message")
    ))
}

/// A span that ends even when whoever opened it is dropped.
pub(crate) struct SpanGuard<C: Context> {
    ctx: C,
    call: Arc<Call>,
    span: u64,
    open: bool,
}

impl<C: Context> SpanGuard<C> {
    pub(crate) fn begin(ctx: &C, call: Arc<Call>) -> Self {
        let span = ctx.span(&call, ctx.current_span());
        Self {
            ctx: ctx.clone(),
            call,
            span,
            open: true,
        }
    }

    pub(crate) fn within(&self, ctx: &C) -> C {
        ctx.within(self.span)
    }

    pub(crate) fn end(mut self, cached: bool, error: Option<&Error>) {
        self.open = false;
        self.ctx.span_end(self.span, &self.call, cached, error);
    }
}

impl<C: Context> Drop for SpanGuard<C> {
    fn drop(&mut self) {
        if self.open {
            self.ctx
                .span_end(self.span, &self.call, false, Some(&cancelled()));
        }
    }
}

/// A resolver at work.
pub(crate) struct Computation<C: Context> {
    pub(crate) solver: Arc<Solver<C>>,
    pub(crate) ctx: C,
    pub(crate) field: FieldId,
    pub(crate) key: Option<Key>,
    pub(crate) task: Arc<Task>,
    pub(crate) span: Option<SpanGuard<C>>,
    /// `None` once it is over.
    pub(crate) future: Option<BoxFuture<Result<Value, Error>>>,
}

impl<C: Context> Drop for Computation<C> {
    fn drop(&mut self) {
        if self.future.is_some() {
            self.solver.dropped(self.key.as_ref(), &self.task);
        }
    }
}

thread_local! {
    /// How many resolvers are being polled inline on this stack.
    static INLINE: Cell<u32> = const { Cell::new(0) };
}

/// Counts one more inline poll while it lives.
struct Inline;

impl Inline {
    fn enter() -> Option<Self> {
        INLINE.with(|n| {
            let ok = n.get() < MAX_INLINE;
            if ok {
                n.set(n.get() + 1);
            }
            // Made only when counted: dropping it counts down.
            ok.then(|| Inline)
        })
    }
}

impl Drop for Inline {
    fn drop(&mut self) {
        INLINE.with(|n| n.set(n.get() - 1));
    }
}

impl<C: Context> Computation<C> {
    /// Polls once where we are, as most resolvers are done at once; else gives the rest a task of its own, so that neither
    /// deep recipes nor busy resolvers sit on the asker's stack or thread.
    pub(crate) fn start(mut self) -> Asked {
        if let Some(_inline) = Inline::enter()
            && let Poll::Ready(result) = self.poll(&mut Waking::from_waker(Waker::noop()))
        {
            return Asked::Now(self.finish(result));
        }
        let waiter = self.task.join();
        // Not joined: it ends by itself when its waiters are gone.
        drop(tokio::spawn(self.run()));
        Asked::Later(Box::pin(waiter.wait()))
    }

    fn poll(&mut self, cx: &mut Waking<'_>) -> Poll<Result<Value, Error>> {
        let Some(future) = &mut self.future else {
            return Poll::Ready(Err(cancelled()));
        };
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => Poll::Ready(Err(panicked(&self.solver.defs().path(self.field), &*panic))),
        }
    }

    async fn run(mut self) {
        let task = self.task.clone();
        loop {
            let result = {
                let poll = std::future::poll_fn(|cx| self.poll(cx));
                tokio::select! {
                    biased;
                    r = poll => Some(r),
                    () = task.0.closed() => None,
                }
            };
            match result {
                Some(result) => {
                    // The waiters have it.
                    drop(self.finish(result));
                    return;
                }
                None if self.solver.abandon(self.key.as_ref(), &task) => return,
                // Someone came back in the meantime.
                None => {}
            }
        }
    }

    fn finish(&mut self, result: Result<Value, Error>) -> Result<Value, Error> {
        self.future = None;
        let result = self
            .solver
            .finish(&self.ctx, self.field, self.key, &self.task, result);
        if let Some(span) = self.span.take() {
            span.end(false, result.as_ref().err());
        }
        result
    }
}
