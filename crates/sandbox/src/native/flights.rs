//! Children between their clone and their program. Each holds copies of all of the engine's descriptors until then, so a
//! container that ended meanwhile may still be mounted.

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// No end waits longer for other starts: what is left then is harmless, as nobody uses it.
const PATIENCE: Duration = Duration::from_millis(250);

/// The starts under way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    state: Mutex<State>,
    landed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    under_way: BTreeSet<u64>,
}

/// One start under way, until dropped.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Arc<Flights>,
    number: u64,
}

impl Flights {
    /// Notes a start.
    pub(super) fn depart(self: &Arc<Self>) -> Flight {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number);
        Flight {
            flights: Arc::clone(self),
            number,
        }
    }

    /// Waits until every start that is under way now has come to its program.
    pub(super) fn let_land(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.next;
        while state.under_way.first().is_some_and(|first| *first < last) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .landed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .under_way
            .remove(&self.number);
        self.flights.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_earlier_starts_are_waited_for() {
        let flights = Arc::new(Flights::default());
        flights.let_land();
        let first = flights.depart();
        let waiter = Arc::clone(&flights);
        let (done, is_done) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            waiter.let_land();
            done.send(()).unwrap();
        });
        drop(first);
        is_done.recv().unwrap();
        thread.join().unwrap();
        let _long = flights.depart();
        let before = Instant::now();
        flights.let_land();
        assert!(before.elapsed() >= PATIENCE, "patience has an end");
    }
}
