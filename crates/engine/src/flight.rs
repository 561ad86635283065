//! One computation per key, however many wait for it; cancelled when the last one leaves.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex},
};

use crate::lock;
use tokio::{sync::watch, task::AbortHandle};

/// Running computations by key.
#[derive(Debug)]
pub struct Flights<K, V> {
    running: Arc<Mutex<HashMap<K, Running<V>>>>,
}

impl<K, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Self {
            running: self.running.clone(),
        }
    }
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct Running<V> {
    id: u64,
    waiters: usize,
    abort: AbortHandle,
    result: watch::Receiver<Option<V>>,
}

impl<K, V> Flights<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Waits for the computation of `key`, starting it when nobody has. `None` when it panicked.
    ///
    /// Dropping the returned future leaves; when the last waiter has left, the computation is dropped too.
    pub async fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (mut seat, mut result) = self.enter(key, start);
        let value = result
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|v| v.clone());
        seat.leave();
        value
    }

    fn enter<F>(
        &self,
        key: K,
        start: impl FnOnce() -> F,
    ) -> (Seat<K, V>, watch::Receiver<Option<V>>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let mut running = lock(&self.running);
        if let Some(r) = running.get_mut(&key) {
            r.waiters += 1;
            return (
                Seat {
                    flights: self.clone(),
                    key: Some(key),
                    id: r.id,
                },
                r.result.clone(),
            );
        }
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (tx, rx) = watch::channel(None);
        let future = start();
        let done = Done {
            flights: self.clone(),
            key: key.clone(),
            id,
        };
        let abort = tokio::spawn(async move {
            // Forgotten before the result is seen: whoever comes later starts anew.
            let value = future.await;
            drop(done);
            let _ = tx.send(Some(value));
        })
        .abort_handle();
        running.insert(
            key.clone(),
            Running {
                id,
                waiters: 1,
                abort,
                result: rx.clone(),
            },
        );
        (
            Seat {
                flights: self.clone(),
                key: Some(key),
                id,
            },
            rx,
        )
    }
}

/// Removes the computation from the table when it ends in any way.
struct Done<K: Eq + Hash, V> {
    flights: Flights<K, V>,
    key: K,
    id: u64,
}

impl<K: Eq + Hash, V> Drop for Done<K, V> {
    fn drop(&mut self) {
        let mut running = lock(&self.flights.running);
        if running.get(&self.key).is_some_and(|r| r.id == self.id) {
            running.remove(&self.key);
        }
    }
}

/// One waiter.
struct Seat<K: Eq + Hash, V> {
    flights: Flights<K, V>,
    key: Option<K>,
    id: u64,
}

impl<K: Eq + Hash, V> Seat<K, V> {
    fn leave(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut running = lock(&self.flights.running);
        let Some(r) = running.get_mut(&key).filter(|r| r.id == self.id) else {
            return;
        };
        r.waiters -= 1;
        if r.waiters == 0 {
            r.abort.abort();
            running.remove(&key);
        }
    }
}

impl<K: Eq + Hash, V> Drop for Seat<K, V> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_waiters_share_one_run() {
        let flights = Flights::<u8, usize>::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let go = || {
            let (flights, runs) = (flights.clone(), runs.clone());
            async move {
                flights
                    .join(1, || async move {
                        tokio::task::yield_now().await;
                        runs.fetch_add(1, Ordering::SeqCst)
                    })
                    .await
            }
        };
        let all = futures::future::join_all((0..10).map(|_| go())).await;
        assert!(all.iter().all(|v| *v == Some(0)));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(lock(&flights.running).is_empty());
    }

    #[tokio::test]
    async fn the_last_waiter_to_leave_cancels_the_run() {
        struct Flag(Arc<tokio::sync::Notify>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let flights = Flights::<u8, ()>::default();
        let gone = Arc::new(tokio::sync::Notify::new());
        let flag = Flag(gone.clone());
        let mut waiter = Box::pin(flights.join(1, || async move {
            let _flag = flag;
            std::future::pending::<()>().await;
        }));
        assert!(futures::poll!(&mut waiter).is_pending());
        tokio::task::yield_now().await;
        drop(waiter);
        gone.notified().await;
        assert!(lock(&flights.running).is_empty());
    }
}
