//! When a VM that failed may be built again.

use std::time::{Duration, Instant};

use crate::limits::EPOCH;

/// How often a slot's VM may be built.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// Builds that failed in a row.
    failures: u32,
    /// Not before this moment.
    not_before: Option<Instant>,
    /// Traps since `window`.
    traps: u32,
    window: Option<Instant>,
    /// Traps of a service in a row, and when the last of them was.
    falls: u32,
    fallen: Option<Instant>,
    /// Ticks that trapped in a row, when the last of them did, and how long there are none.
    tick_falls: u32,
    tick_fell: Option<Instant>,
    no_ticks: Option<Instant>,
}

/// Ticks that trap again and again come no more seldom than this.
const LONGEST_REST: Duration = Duration::from_secs(5);

impl Backoff {
    /// More traps than this in a second, and the slot pauses: each costs a rebuild, and a guest that always
    /// traps must not turn its slot into a VM factory.
    const TRAPS_PER_SECOND: u32 = 200;

    /// The moment before which no VM is built, if there is one.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Whether a VM may be built now.
    pub(crate) fn open(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// A build failed: the next one waits for half a second, and for twice as long each time.
    pub(crate) fn build_failed(&mut self, now: Instant) {
        self.failures = (self.failures + 1).min(7);
        self.not_before = Some(now + Duration::from_millis(500) * (1 << (self.failures - 1)));
    }

    /// A build succeeded.
    pub(crate) fn built(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    /// A tick trapped after so long. The thread carries traffic: ticks may have a fifth of it, also if each of them is the
    /// end of a VM; and those that do nothing but trap come less and less often.
    pub(crate) fn tick_fell(&mut self, now: Instant, took: Duration) {
        if self.tick_fell.is_some_and(|at| now.duration_since(at) > Duration::from_secs(60)) {
            self.tick_falls = 0;
        }
        let rest = EPOCH * (1 << self.tick_falls.min(9));
        self.tick_falls += 1;
        self.tick_fell = Some(now);
        self.no_ticks = Some(now + rest.min(LONGEST_REST).max(took * 4));
    }

    /// Until when there are no ticks, if that is to come.
    pub(crate) fn no_ticks(&self, now: Instant) -> Option<Instant> {
        self.no_ticks.filter(|until| *until > now)
    }

    /// A VM that traps is left alone for a while, twice as long each time, where that is wanted: a service, or a filter with
    /// `failure_policy: reload`. One that ran well for a minute has a clean sheet.
    pub(crate) fn fell(&mut self, now: Instant) {
        if self.fallen.is_some_and(|at| now.duration_since(at) > Duration::from_secs(60)) {
            self.falls = 0;
        }
        self.falls = (self.falls + 1).min(8);
        self.fallen = Some(now);
        self.not_before = Some(now + Duration::from_millis(250) * (1 << (self.falls - 1)));
    }

    /// A VM that serves transactions trapped outside of them: in a tick, say. In a transaction it is the filter's breaker
    /// that sees to it.
    pub(crate) fn trapped(&mut self, now: Instant) {
        match self.window {
            Some(since) if now.duration_since(since) < Duration::from_secs(1) => self.traps += 1,
            _ => {
                self.window = Some(now);
                self.traps = 1;
            }
        }
        if self.traps > Self::TRAPS_PER_SECOND {
            self.not_before = Some(now + Duration::from_millis(100));
        }
    }
}
