//! Sets a filter aside that fails again and again, and takes it back when it has recovered.
//!
//! One breaker a plugin context: all threads, and all rules with this filter and configuration, see the same. While it is
//! closed and nothing fails, a transaction reads one word. The first failure opens a window, in which transactions and
//! failures are counted; a window in which too much fails opens the breaker.
//!
//! ```text
//!             a failure                too many of them, or too long ones
//!   QUIET ───────────────▶ WATCHING ─────────────────────────────────────▶ OPEN ◀─────────┐
//!     ▲                       │                                              │ its pause  │ a probe failed:
//!     │      window is over   │                                              ▼ is over    │ a longer pause
//!     ├───────────────────────┘                                          HALF_OPEN ───────┘
//!     └────────────────────────────────────────────────────────────────────┘
//!                              enough probes went well
//! ```

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::BreakerSettings;
use crate::limits::EPOCH;

/// What a [`Breaker`] says of a transaction that is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The filter takes part.
    Go,
    /// The filter takes part, and how it does decides whether it is taken back. To be returned by
    /// [`Breaker::passed`], [`Breaker::failed`] or [`Breaker::returned`].
    Probe,
    /// The filter is set aside.
    SetAside,
}

/// What changed, for whoever writes the log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// The filter is set aside.
    Opened {
        /// For so long.
        pause: Duration,
        /// So many failures...
        failures: u32,
        /// ... of so many transactions...
        transactions: u32,
        /// ... which took so much processor time...
        lost: Duration,
        /// ... within so long; or a probe failed.
        within: Option<Duration>,
    },
    /// The filter is taken back.
    Closed {
        /// It was away for so long.
        after: Duration,
        /// So many transactions were decided without it.
        rejected: u64,
    },
}

/// As a log line has it, behind the filter's name.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Opened { pause, within: None, .. } => {
                write!(f, "failed on trial, and is set aside for another {pause:.1?}")
            }
            Change::Opened { pause, failures, transactions, lost, within: Some(within) } => {
                write!(
                    f,
                    "is set aside for {pause:.1?}: {failures} of {transactions} transactions failed within {within:.1?}"
                )?;
                if *lost >= EPOCH { write!(f, ", which took {lost:.1?} of processor time") } else { Ok(()) }
            }
            Change::Closed { after, rejected } => {
                write!(
                    f,
                    "went well on trial, and is taken back after {after:.1?}; {rejected} transactions were decided without it"
                )
            }
        }
    }
}

/// The states, as metrics show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

/// Nothing failed of late.
const QUIET: u8 = 0;
/// Something failed, and transactions are counted.
const WATCHING: u8 = 1;
/// No transaction enters.
const OPEN: u8 = 2;
/// A few try.
const HALF_OPEN: u8 = 3;

/// What a breaker has from its first failure on: most filters of ten thousand rules have none.
#[derive(Debug, Default)]
struct Watch {
    /// Transactions that began in this window.
    seen: AtomicU32,
    /// When the window is over, in microseconds after [`BEGIN`].
    over: AtomicU64,
    /// When the next one may try, in microseconds after the same.
    retry: AtomicU64,
    /// Transactions that were decided without the filter since it was set aside.
    rejected: AtomicU64,
    inner: Mutex<Inner>,
}

/// From when on breakers count time.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

static DEFAULT: LazyLock<BreakerSettings> = LazyLock::new(BreakerSettings::default);

/// What its lock protects; nobody takes it while nothing fails.
#[derive(Debug, Default)]
struct Inner {
    /// When the window began, and what failed in it.
    window: Option<Instant>,
    failures: u32,
    lost: Duration,
    /// How often it opened in a row: with too little time between to call it recovered.
    streak: u32,
    /// When it opened for the first time since it was closed.
    since: Option<Instant>,
    /// When it closed.
    closed: Option<Instant>,
    /// Probes that are under way, and since when; and those that went well.
    probing: u32,
    probed: Option<Instant>,
    passed: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: AtomicU8,
    /// `None` is the default.
    settings: Option<Box<BreakerSettings>>,
    watch: OnceLock<Box<Watch>>,
    /// Breakers of the process that are not closed.
    open: Arc<AtomicU64>,
}

/// Fewer overruns than this open no breaker, however long they are.
const FEWEST_OVERRUNS: u32 = 3;

/// A probe that nobody has heard of for so long is not waited for.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

impl Breaker {
    /// A closed one. `open` counts those of the process that are not.
    pub(crate) fn new(settings: BreakerSettings, open: Arc<AtomicU64>) -> Self {
        Breaker {
            state: AtomicU8::new(QUIET),
            settings: (settings != *DEFAULT).then(|| Box::new(settings)),
            watch: OnceLock::new(),
            open,
        }
    }

    fn settings(&self) -> &BreakerSettings {
        self.settings.as_deref().unwrap_or(&DEFAULT)
    }

    fn watch(&self) -> &Watch {
        self.watch.get_or_init(Box::default)
    }

    /// What metrics show.
    pub(crate) fn state(&self) -> BreakerState {
        match self.state.load(Ordering::Relaxed) {
            OPEN => BreakerState::Open,
            HALF_OPEN => BreakerState::HalfOpen,
            _ => BreakerState::Closed,
        }
    }

    /// Whether the filter may be entered for a new transaction.
    #[inline]
    pub(crate) fn admit(&self) -> Admission {
        if self.state.load(Ordering::Relaxed) == QUIET { Admission::Go } else { self.admit_slowly(Instant::now()) }
    }

    #[cold]
    fn admit_slowly(&self, now: Instant) -> Admission {
        let (state, watch) = (self.state.load(Ordering::Relaxed), self.watch());
        if state < OPEN {
            watch.seen.fetch_add(1, Ordering::Relaxed);
            if state == WATCHING && micros(now) >= watch.over.load(Ordering::Relaxed) {
                // Nothing is counted any more until something fails. Should that be just now, it opens another window.
                let _ = self.state.compare_exchange(WATCHING, QUIET, Ordering::Relaxed, Ordering::Relaxed);
            }
            return Admission::Go;
        }
        // A refusal takes no lock: there may be many of them.
        if state == OPEN && micros(now) < watch.retry.load(Ordering::Relaxed) {
            watch.rejected.fetch_add(1, Ordering::Relaxed);
            return Admission::SetAside;
        }
        let mut guard = watch.inner.lock();
        let inner = &mut *guard;
        match self.state.load(Ordering::Relaxed) {
            OPEN if micros(now) >= watch.retry.load(Ordering::Relaxed) => {
                self.state.store(HALF_OPEN, Ordering::Relaxed);
                (inner.probing, inner.passed) = (1, 0);
                inner.probed = Some(now);
                Admission::Probe
            }
            HALF_OPEN => {
                let forgotten = inner.probed.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_PATIENCE);
                if inner.probing < self.settings().probes || forgotten {
                    inner.probing = if forgotten { 1 } else { inner.probing + 1 };
                    inner.probed = Some(now);
                    return Admission::Probe;
                }
                watch.rejected.fetch_add(1, Ordering::Relaxed);
                Admission::SetAside
            }
            OPEN => {
                watch.rejected.fetch_add(1, Ordering::Relaxed);
                Admission::SetAside
            }
            _ => Admission::Go,
        }
    }

    /// The filter failed, which took so much processor time. `probe` says that it was on trial.
    #[cold]
    pub(crate) fn failed(&self, cost: Duration, probe: bool) -> Option<Change> {
        self.failed_at(Instant::now(), cost, probe)
    }

    fn failed_at(&self, now: Instant, cost: Duration, probe: bool) -> Option<Change> {
        let settings = self.settings();
        if settings.failures == 0 {
            return None;
        }
        let watch = self.watch();
        let mut guard = watch.inner.lock();
        let inner = &mut *guard;
        match self.state.load(Ordering::Relaxed) {
            OPEN => None,
            HALF_OPEN if probe => Some(self.open(inner, now, None)),
            // It was let in before the breaker opened.
            HALF_OPEN => None,
            state => {
                let begun = inner.window.filter(|at| now.saturating_duration_since(*at) < settings.window);
                if state == QUIET || begun.is_none() {
                    (inner.window, inner.failures, inner.lost) = (Some(now), 0, Duration::ZERO);
                    // This one has begun already.
                    watch.seen.store(1, Ordering::Relaxed);
                    watch.over.store(micros(now + settings.window), Ordering::Relaxed);
                    self.state.store(WATCHING, Ordering::Relaxed);
                }
                inner.failures = inner.failures.saturating_add(1);
                inner.lost += cost;
                // Transactions that began before the window may fail in it.
                let seen = watch.seen.load(Ordering::Relaxed).max(inner.failures);
                let share = u64::from(inner.failures) * 100 >= u64::from(settings.percent) * u64::from(seen);
                let often = inner.failures >= settings.failures && share;
                let long = !settings.lost.is_zero() && inner.lost >= settings.lost && inner.failures >= FEWEST_OVERRUNS;
                let within = inner.window.map(|at| now.saturating_duration_since(at));
                (often || long).then(|| self.open(inner, now, within))
            }
        }
    }

    fn open(&self, inner: &mut Inner, now: Instant, within: Option<Duration>) -> Change {
        let (settings, watch) = (self.settings(), self.watch());
        if inner.since.is_none() {
            // One that failed soon after it was taken back has not recovered.
            let recovered = inner.closed.is_none_or(|at| now.saturating_duration_since(at) >= settings.window);
            if recovered {
                inner.streak = 0;
            }
            inner.since = Some(now);
            watch.rejected.store(0, Ordering::Relaxed);
            self.open.fetch_add(1, Ordering::Relaxed);
        }
        let doubled = settings.pause.saturating_mul(1 << inner.streak.min(20)).min(settings.max_pause);
        inner.streak = inner.streak.saturating_add(1);
        // Servers that fail together are not to try together.
        let pause = doubled.mul_f64(0.8 + 0.4 * random());
        watch.retry.store(micros(now + pause), Ordering::Relaxed);
        self.state.store(OPEN, Ordering::Relaxed);
        let (failures, lost) = (inner.failures, inner.lost);
        let transactions = watch.seen.load(Ordering::Relaxed).max(failures);
        (inner.window, inner.failures, inner.lost) = (None, 0, Duration::ZERO);
        Change::Opened { pause, failures, transactions, lost, within }
    }

    /// A probe went well.
    #[cold]
    pub(crate) fn passed(&self) -> Option<Change> {
        self.passed_at(Instant::now())
    }

    fn passed_at(&self, now: Instant) -> Option<Change> {
        let inner = &mut *self.watch().inner.lock();
        if self.state.load(Ordering::Relaxed) != HALF_OPEN {
            return None;
        }
        inner.probing = inner.probing.saturating_sub(1);
        inner.passed += 1;
        if inner.passed < self.settings().probes {
            return None;
        }
        self.state.store(QUIET, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
        inner.closed = Some(now);
        let since = inner.since.take().unwrap_or(now);
        let rejected = self.watch().rejected.load(Ordering::Relaxed);
        Some(Change::Closed { after: now.saturating_duration_since(since), rejected })
    }

    /// A probe ended without showing anything: another one may try.
    #[cold]
    pub(crate) fn returned(&self) {
        let inner = &mut *self.watch().inner.lock();
        inner.probing = inner.probing.saturating_sub(1);
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if *self.state.get_mut() >= OPEN {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn micros(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*BEGIN).as_micros()).unwrap_or(u64::MAX)
}

/// From 0 to 1.
fn random() -> f64 {
    let number = getrandom::u32().unwrap_or(u32::MAX / 2);
    f64::from(number) / f64::from(u32::MAX)
}

/// A breaker in what is compared to decide whether two filters are one: by its settings.
#[derive(Debug, Clone)]
pub(crate) struct SharedBreaker(pub(crate) Arc<Breaker>);

impl std::ops::Deref for SharedBreaker {
    type Target = Breaker;

    fn deref(&self) -> &Breaker {
        &self.0
    }
}

impl PartialEq for SharedBreaker {
    fn eq(&self, other: &Self) -> bool {
        self.settings() == other.settings()
    }
}

impl Eq for SharedBreaker {}

impl Hash for SharedBreaker {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.settings().hash(state);
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
