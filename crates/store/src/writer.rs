//! The one writer of the database: a thread with a bounded queue, many changes per transaction.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::db::{self, DbError, Write};

/// More changes than this wait for the disk.
const QUEUE: usize = 1024;
/// Changes per transaction.
const BATCH: usize = 512;
/// How often the file system is synced while there are changes.
const SYNC_EVERY: Duration = Duration::from_secs(30);

/// Named in `meta`: the sequence number up to which everything has reached the disk.
pub(crate) const SYNCED: &str = "synced";

enum Message {
    Write(Write),
    Flush(SyncSender<Result<(), DbError>>),
    Stop,
}

/// Takes changes and writes them in order.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: SyncSender<Message>,
    /// How many changes were queued. Held while queueing, so that the count is the order.
    queued: Mutex<u64>,
    /// How many changes are committed. Stands still after a failure.
    committed: Arc<AtomicU64>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    seq: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the writer. `root` is any file on the store's file system; `seq` is the last sequence number used.
    pub(crate) fn start(db: Connection, root: OwnedFd, seq: u64) -> io::Result<Writer> {
        let (queue, receiver) = sync_channel(QUEUE);
        let seq = Arc::new(AtomicU64::new(seq));
        let committed = Arc::<AtomicU64>::default();
        let reported = committed.clone();
        let syncer = Syncer {
            root: Arc::new(root),
            seq: seq.clone(),
            queue: queue.clone(),
            running: Arc::default(),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                Loop {
                    db,
                    failed: None,
                    whole: true,
                    count: 0,
                    committed: reported,
                    wrote: false,
                    synced: Instant::now(),
                    syncer,
                }
                .run(&receiver);
            })?;
        Ok(Writer {
            queue,
            queued: Mutex::new(0),
            committed,
            thread: Mutex::new(Some(thread)),
            seq,
        })
    }

    /// The next sequence number: records carry it, so that it is known which ones are older than the last sync.
    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Queues a change and answers its number. Blocks while the queue is full.
    pub(crate) fn write(&self, write: Write) -> u64 {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        *queued += 1;
        // The thread ends only by `stop`, after which nothing is worth recording.
        let _ = self.queue.send(Message::Write(write));
        *queued
    }

    /// The number up to which all changes can be read from the database.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Waits for all changes before.
    pub(crate) fn flush(&self) -> Result<(), DbError> {
        let (answer, wait) = sync_channel(1);
        match self
            .queue
            .send(Message::Flush(answer))
            .map_err(drop)
            .and_then(|()| wait.recv().map_err(drop))
        {
            Ok(result) => result,
            Err(()) => Err(DbError {
                action: "write",
                message: "it is closed".into(),
                corrupt: false,
            }),
        }
    }

    /// Writes what is queued and ends the thread.
    pub(crate) fn stop(&self) {
        let _ = self.queue.send(Message::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

struct Loop {
    db: Connection,
    /// How the last changes failed: said once, and by `flush`.
    failed: Option<DbError>,
    /// No change was ever lost.
    whole: bool,
    count: u64,
    committed: Arc<AtomicU64>,
    wrote: bool,
    synced: Instant,
    syncer: Syncer,
}

impl Loop {
    fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            let first = match receiver.recv_timeout(SYNC_EVERY) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let batch: Vec<Message> = first
                .into_iter()
                .chain(receiver.try_iter().take(BATCH))
                .collect();
            let stop = batch.iter().any(|m| matches!(m, Message::Stop));
            if !batch.is_empty() {
                self.batch(batch);
            }
            if stop {
                return;
            }
            if self.wrote && self.synced.elapsed() >= SYNC_EVERY {
                self.wrote = false;
                self.synced = Instant::now();
                self.syncer.start();
            }
        }
    }

    fn batch(&mut self, batch: Vec<Message>) {
        let result = self.commit(&batch);
        if let (Err(error), None) = (&result, &self.failed) {
            tracing::warn!(%error, "cannot record results; the cache works from memory until the next start");
        }
        self.whole &= result.is_ok();
        // A flush alone changes nothing: it tells what became of the changes before it.
        if batch.iter().any(|m| matches!(m, Message::Write(_))) {
            self.failed = result.err();
        }
        self.count += batch
            .iter()
            .filter(|m| matches!(m, Message::Write(w) if !matches!(w, Write::Meta(..))))
            .count() as u64;
        if self.whole {
            self.committed.store(self.count, Ordering::Release);
        }
        for message in batch {
            if let Message::Flush(answer) = message {
                let _ = answer.send(self.failed.clone().map_or(Ok(()), Err));
            }
        }
    }

    fn commit(&mut self, batch: &[Message]) -> Result<(), DbError> {
        let mut writes = batch
            .iter()
            .filter_map(|m| {
                if let Message::Write(w) = m {
                    Some(w)
                } else {
                    None
                }
            })
            .peekable();
        if writes.peek().is_none() {
            return Ok(());
        }
        let commit = || {
            let transaction = self.db.transaction()?;
            for write in writes {
                db::apply(&transaction, write)?;
                self.wrote |= !matches!(write, Write::Meta(..));
            }
            transaction.commit()
        };
        commit().map_err(DbError::of("write"))
    }
}

/// Syncs the file system now and then, and records up to where it is safe.
struct Syncer {
    root: Arc<OwnedFd>,
    seq: Arc<AtomicU64>,
    queue: SyncSender<Message>,
    running: Arc<std::sync::atomic::AtomicBool>,
}

impl Syncer {
    fn start(&self) {
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (root, queue, running) = (self.root.clone(), self.queue.clone(), self.running.clone());
        let upto = self.seq.load(Ordering::Relaxed);
        let sync = move || {
            match rustix::fs::syncfs(root.as_fd()) {
                Ok(()) => {
                    // A full queue or a closed store: the next sync says it.
                    let _ = queue.try_send(Message::Write(Write::Meta(
                        SYNCED,
                        upto.to_le_bytes().to_vec(),
                    )));
                }
                Err(error) => tracing::warn!(%error, "cannot sync the store's file system"),
            }
            running.store(false, Ordering::Release);
        };
        if std::thread::Builder::new()
            .name("store-sync".into())
            .spawn(sync)
            .is_err()
        {
            self.running.store(false, Ordering::Release);
        }
    }
}
