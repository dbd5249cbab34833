//! Ejection: an address that fails again and again is left out for a while.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::settings::Ejection;

/// The longest ejection, in multiples of the first.
const LONGEST: u32 = 10;

#[derive(Debug, Default)]
struct State {
    /// Failures since the last success.
    failures: u32,
    /// Set until a success.
    until: Option<Instant>,
    /// Ejections in a row, which decide how long the next one is.
    times: u32,
}

/// What one address's calls came to.
#[derive(Debug)]
pub(crate) struct Health {
    ejection: Option<Ejection>,
    state: Mutex<State>,
}

impl Health {
    pub(crate) fn new(ejection: Option<Ejection>) -> Health {
        Health { ejection, state: Mutex::default() }
    }

    /// Whether it is left out at this moment.
    pub(crate) fn ejected(&self, now: Instant) -> bool {
        self.ejection.is_some() && self.state.lock().until.is_some_and(|until| now < until)
    }

    /// A response came.
    pub(crate) fn succeeded(&self, now: Instant) {
        let Some(ejection) = self.ejection else { return };
        let mut state = self.state.lock();
        state.failures = 0;
        // One that comes and goes is left out for longer each time, until it has held for a while.
        if let Some(until) = state.until
            && now < until + ejection.duration.saturating_mul(LONGEST)
        {
            if now < until {
                state.until = Some(now);
            }
            return;
        }
        state.until = None;
        state.times = 0;
    }

    /// None came, or one that says that nobody is there. Answers for how long it is now left out, if it is.
    pub(crate) fn failed(&self, now: Instant) -> Option<Duration> {
        let ejection = self.ejection?;
        let mut state = self.state.lock();
        if state.until.is_some_and(|until| now < until) {
            // Calls that were under way, or nobody else was left.
            return None;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures < ejection.failures {
            return None;
        }
        state.times = (state.times + 1).min(LONGEST);
        let duration = ejection.duration.saturating_mul(state.times);
        state.until = now.checked_add(duration);
        Some(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health() -> Health {
        Health::new(Some(Ejection { failures: 3, duration: SECOND }))
    }

    #[test]
    fn failures_in_a_row_eject_and_others_do_not() {
        let health = health();
        let now = Instant::now();
        for _ in 0..5 {
            assert_eq!(health.failed(now), None);
            assert_eq!(health.failed(now), None);
            health.succeeded(now);
        }
        health.failed(now);
        health.failed(now);
        assert_eq!(health.failed(now), Some(SECOND));
        assert!(health.ejected(now));
        assert!(!health.ejected(now + SECOND));
    }

    #[test]
    fn each_ejection_is_longer_up_to_ten_times() {
        let health = health();
        let mut now = Instant::now();
        health.failed(now);
        health.failed(now);
        for time in 1..15 {
            // After the first, one failure is enough.
            let expected = SECOND * time.min(10);
            assert_eq!(health.failed(now), Some(expected));
            assert_eq!(health.failed(now), None, "calls that were under way do not count");
            now += expected;
        }
    }

    #[test]
    fn a_success_brings_it_back_and_a_relapse_is_remembered_for_a_while() {
        let health = health();
        let mut now = Instant::now();
        let fail = |now| (0..3).filter_map(|_| health.failed(now)).next_back();
        assert_eq!(fail(now), Some(SECOND));
        health.succeeded(now);
        assert!(!health.ejected(now));
        assert_eq!(fail(now), Some(2 * SECOND));
        now += 20 * SECOND;
        health.succeeded(now);
        assert_eq!(fail(now), Some(SECOND));
    }
}
