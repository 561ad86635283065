//! What a session's user sees: steps with their output, as events. Bounded: a reader that does not keep up loses log text,
//! never the engine's time.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use graph::{call::Call, error::Error};
use tokio::sync::mpsc;
use wire::ProgressEvent;

use crate::{scrub::Veil, session::shortened};

/// Events waiting for a slow reader at most.
const QUEUE: usize = 4096;
/// Spans remembered per session at most.
const SPANS: usize = 20_000;
/// Longest piece of output in one event, in bytes.
const LOG_PIECE: usize = 32 << 10;

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A call, as an observer sees it.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its number in the session; 0 is nobody's.
    pub id: u64,
    /// The span it happened in.
    pub parent: u64,
    /// `Type.field`, or what a step does.
    pub name: Arc<str>,
    /// When it began.
    pub started: Instant,
    /// When it ended.
    pub ended: Option<Instant>,
    /// Answered from a cache.
    pub cached: bool,
    /// How it failed.
    pub error: Option<String>,
}

/// A session's progress.
#[derive(Clone)]
pub struct Progress(Arc<Inner>);

struct Inner {
    next: AtomicU64,
    events: mpsc::Sender<ProgressEvent>,
    spans: Mutex<VecDeque<Span>>,
    /// What must not be seen.
    veil: OnceLock<Arc<Mutex<Veil>>>,
}

impl Progress {
    /// A progress and the receiving end of its events.
    pub fn new() -> (Self, mpsc::Receiver<ProgressEvent>) {
        let (events, rx) = mpsc::channel(QUEUE);
        (
            Self(Arc::new(Inner {
                next: AtomicU64::new(1),
                events,
                spans: Mutex::default(),
                veil: OnceLock::new(),
            })),
            rx,
        )
    }

    /// Masks these secrets in names, notes and errors from now on. Output has been masked by who read it.
    pub(crate) fn veil(&self, veil: Arc<Mutex<Veil>>) {
        // A progress belongs to one session.
        let _ = self.0.veil.set(veil);
    }

    fn veiled<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let veil = self.0.veil.get();
        let masked = veil.and_then(|v| crate::lock(v).text(text));
        match shortened(masked.as_deref().unwrap_or(text)) {
            Some(short) => Cow::Owned(short),
            None => masked.map_or(Cow::Borrowed(text), Cow::Owned),
        }
    }

    fn open(&self, name: Arc<str>, parent: u64) -> u64 {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut spans = crate::lock(&self.0.spans);
        if spans.len() >= SPANS {
            spans.pop_front();
        }
        spans.push_back(Span {
            id,
            parent,
            name,
            started: Instant::now(),
            ended: None,
            cached: false,
            error: None,
        });
        id
    }

    fn close(&self, id: u64, cached: bool, error: Option<&Error>) {
        let mut spans = crate::lock(&self.0.spans);
        // Ids grow, so the queue is sorted by them.
        if let Ok(at) = spans.binary_search_by_key(&id, |s| s.id)
            && let Some(span) = spans.get_mut(at)
        {
            span.ended = Some(Instant::now());
            span.cached = cached;
            span.error = error.map(|e| self.veiled(e.message()).into_owned());
        }
    }

    fn send(&self, event: ProgressEvent) {
        // A full queue drops: the reader is behind, and pipelines do not wait for it.
        let _ = self.0.events.try_send(event);
    }

    /// A call begins.
    pub fn call_started(&self, call: &Call, parent: u64) -> u64 {
        let on = call.receiver.as_ref().map_or("Query", |r| &*r.type_name);
        self.open(format!("{on}.{}", call.field).into(), parent)
    }

    /// A call is over.
    pub fn call_ended(&self, span: u64, cached: bool, error: Option<&Error>) {
        self.close(span, cached, error);
    }

    /// Something worth a line begins.
    pub fn step(&self, name: &str, parent: u64) -> Step {
        let name = &*self.veiled(name);
        let id = self.open(name.into(), parent);
        self.send(ProgressEvent::StepStarted {
            id,
            parent,
            name: name.to_owned(),
        });
        Step {
            progress: self.clone(),
            id,
            started: Instant::now(),
            ended: false,
        }
    }

    /// Something worth a line was answered from the cache.
    pub fn step_cached(&self, name: &str, parent: u64) {
        let name = &*self.veiled(name);
        let id = self.open(name.into(), parent);
        self.close(id, true, None);
        self.send(ProgressEvent::StepCached {
            id,
            parent,
            name: name.to_owned(),
        });
    }

    /// One sentence for the user.
    pub fn note(&self, text: &str) {
        self.send(ProgressEvent::Note {
            text: self.veiled(text).into_owned(),
        });
    }

    /// The spans so far, oldest first; at most [`SPANS`].
    pub fn spans(&self) -> Vec<Span> {
        crate::lock(&self.0.spans).iter().cloned().collect()
    }
}

/// A running step. Dropped without an end, it was cancelled.
pub struct Step {
    progress: Progress,
    id: u64,
    started: Instant,
    ended: bool,
}

impl Step {
    /// Its span, for what happens in it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// It wrote something.
    pub fn output(&self, stream: Stream, bytes: &[u8]) {
        for piece in bytes.chunks(LOG_PIECE) {
            self.progress.send(ProgressEvent::StepOutput {
                id: self.id,
                stderr: stream == Stream::Stderr,
                text: String::from_utf8_lossy(piece).into_owned(),
            });
        }
    }

    /// It ended well.
    pub fn done(mut self) {
        self.end(false, None);
    }

    /// It failed.
    pub fn failed(mut self, error: &Error) {
        self.end(false, Some(error));
    }

    fn end(&mut self, cancelled: bool, error: Option<&Error>) {
        self.ended = true;
        self.progress.close(self.id, false, error);
        self.progress.send(ProgressEvent::StepEnded {
            id: self.id,
            millis: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            cancelled,
            error: error.map(|e| self.progress.veiled(e.message()).into_owned()),
        });
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end(true, None);
        }
    }
}
