//! The only place that prints.
//!
//! Standard error is written by a thread of its own from a bounded buffer: SDKs start `session` with a pipe that nobody may
//! ever read, and a full pipe must not stop the session. What does not fit is dropped, and said so when there is room again.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Most text waiting for a reader.
const WAITING: usize = 4 << 20;

/// Standard error that never blocks its writers.
#[derive(Clone)]
pub struct Stderr(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<u8>,
    dropped: usize,
    writing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stderr {
    /// Starts the writer over the process's standard error.
    pub fn new() -> Self {
        Self::over(io::stderr())
    }

    fn over(to: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        // Without a thread there is no progress to see; the command itself works.
        let _ = thread::Builder::new()
            .name("stderr".into())
            .spawn(move || pump(&theirs, to));
        Self(shared)
    }

    /// Writes a line, unless too much is waiting.
    pub fn line(&self, text: &str) {
        let mut state = self.0.lock();
        if state.waiting.len() + text.len() > WAITING {
            state.dropped += 1;
            return;
        }
        if state.dropped > 0 {
            let note = format!(
                "({} lines were dropped: nobody reads them)\n",
                state.dropped
            );
            state.dropped = 0;
            state.waiting.extend(note.as_bytes());
        }
        state.waiting.extend(text.as_bytes());
        state.waiting.push_back(b'\n');
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, at most so long.
    pub fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.0.lock();
        while state.writing || !state.waiting.is_empty() {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return;
            };
            state = self
                .0
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Default for Stderr {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes what is waiting until the process ends. A failed write drops the text: there is nowhere to say it.
fn pump(shared: &Shared, mut to: impl Write) {
    loop {
        let mut state = shared.lock();
        state.writing = false;
        shared.changed.notify_all();
        while state.waiting.is_empty() {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        drop(state);
        Hold::wait();
        let mut state = shared.lock();
        let text = Vec::from(std::mem::take(&mut state.waiting));
        drop(state);
        let _ = to.write_all(&text).and_then(|()| to.flush());
    }
}

/// How many have the terminal for themselves.
static HELD: Mutex<usize> = Mutex::new(0);
static RELEASED: Condvar = Condvar::new();

/// Keeps progress off the screen as long as it lives: what comes waits, or is dropped when it is too much.
pub struct Hold(());

impl Hold {
    /// Begins.
    pub fn new() -> Self {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }

    /// Waits until nobody has the terminal.
    fn wait() {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        while *held > 0 {
            held = RELEASED.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RELEASED.notify_all();
    }
}

/// Writes a result to standard output. A closed pipe is the reader's choice and no error.
///
/// # Errors
/// A full disk behind it, and the like.
pub fn stdout(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes to standard error at once: for the last words of a command.
pub fn stderr_now(text: &str) {
    let mut err = io::stderr().lock();
    // Nobody can be told.
    let _ = writeln!(err, "{text}");
}

/// Standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Standard output or standard error is a terminal.
pub fn any_terminal() -> bool {
    io::stdout().is_terminal() || stderr_is_terminal()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes one write per permit.
    struct Gate(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(buf.to_vec()).map_err(io::Error::other)?;
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_never_reads_stops_nobody() {
        let (permit, gate) = mpsc::channel();
        let (out, written) = mpsc::channel();
        let err = Stderr::over(Gate(gate, out));
        let long = "x".repeat(1 << 20);
        for _ in 0..20 {
            err.line(&long);
        }
        err.flush(Duration::from_millis(1));
        let mut text = Vec::new();
        let mut read_one = || {
            permit.send(()).unwrap();
            text.extend(written.recv_timeout(Duration::from_secs(5)).unwrap());
            String::from_utf8_lossy(text.get(text.len().saturating_sub(60)..).unwrap()).into_owned()
        };
        read_one();
        err.line("after");
        while !read_one().ends_with("lines were dropped: nobody reads them)\nafter\n") {}
    }
}
