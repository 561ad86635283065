//! When to collect: a while after it is asked for, not too often, one collection at a time.

use std::time::Duration;

use tokio::time::Instant;

/// How long after a session a collection begins.
const AFTER: Duration = Duration::from_secs(1);
/// The shortest time between the beginnings of two collections.
const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Idle,
    Waiting,
    Running,
    /// Running, and asked for again.
    Again,
}

/// What is planned, and what was.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    phase: Phase,
    last: Option<Instant>,
}

impl Schedule {
    /// A collection is asked for: when to begin one. `None` when that is taken care of.
    pub(super) fn request(&mut self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Idle => {
                self.phase = Phase::Waiting;
                Some(self.due(now))
            }
            Phase::Running => {
                self.phase = Phase::Again;
                None
            }
            Phase::Waiting | Phase::Again => None,
        }
    }

    /// The collection begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.phase = Phase::Running;
        self.last = Some(now);
    }

    /// The collection is over: when to begin the next.
    pub(super) fn end(&mut self, now: Instant) -> Option<Instant> {
        let again = self.phase == Phase::Again;
        self.phase = if again { Phase::Waiting } else { Phase::Idle };
        again.then(|| self.due(now))
    }

    fn due(&self, now: Instant) -> Instant {
        let soon = now + AFTER;
        self.last.map_or(soon, |last| soon.max(last + EVERY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_second_after_the_session_and_once_a_minute() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        assert_eq!(schedule.request(start), Some(at(start, 1)));
        assert_eq!(schedule.request(start), None);
        schedule.begin(at(start, 1));
        assert_eq!(schedule.end(at(start, 2)), None);
        assert_eq!(schedule.request(at(start, 3)), Some(at(start, 61)));
        schedule.begin(at(start, 61));
        assert_eq!(schedule.end(at(start, 62)), None);
        assert_eq!(schedule.request(at(start, 500)), Some(at(start, 501)));
    }

    #[test]
    fn one_at_a_time_and_none_forgotten() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.request(start);
        schedule.begin(at(start, 1));
        assert_eq!(schedule.request(at(start, 2)), None);
        assert_eq!(schedule.request(at(start, 3)), None);
        assert_eq!(schedule.end(at(start, 100)), Some(at(start, 101)));
        assert_eq!(schedule.request(at(start, 100)), None);
    }
}
