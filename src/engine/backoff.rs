//! When a VM that failed may be built again.

use std::time::{Duration, Instant};

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
}

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

    /// A service that traps is left alone for a while, twice as long each time; one that ran well for a minute has a
    /// clean sheet.
    pub(crate) fn fell(&mut self, now: Instant) {
        if self.fallen.is_some_and(|at| now.duration_since(at) > Duration::from_secs(60)) {
            self.falls = 0;
        }
        self.falls = (self.falls + 1).min(8);
        self.fallen = Some(now);
        self.not_before = Some(now + Duration::from_millis(250) * (1 << (self.falls - 1)));
    }

    /// A VM that serves transactions trapped.
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
