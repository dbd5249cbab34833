//! What is counted of one filter of one rule.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::latency::Latency;
use crate::abi::Callback;
use crate::breaker::{Breaker, BreakerState};
use crate::config::FailurePolicy;
use crate::error::Error;
use crate::limits::Limit;

/// Room for so many callbacks; more than the ABI has.
const CALLBACKS: usize = 32;

/// Filters of rules that are gone are forgotten, the idle ones together, once there are so many of them.
const MAX_IDLE: usize = 10_000;

/// How many more filters there are each time somebody looks for idle ones.
const LOOK: usize = 1_000;

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// How a callout (an HTTP or gRPC call that a filter makes) ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum CalloutOutcome { $($(#[doc = $doc])+ $variant,)+ }

        impl CalloutOutcome {
            /// Every outcome, in the order of its number.
            pub const ALL: [CalloutOutcome; outcomes!(@count $($variant)+)] = [$(CalloutOutcome::$variant),+];

            /// The value of the label `outcome`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(CalloutOutcome::$variant => $name),+ }
            }
        }
    };
    (@count) => { 0 };
    (@count $head:ident $($tail:ident)*) => { 1 + outcomes!(@count $($tail)*) };
}

outcomes! {
    /// A whole response, whatever its status.
    Ok = "ok",
    /// The filter's timeout passed.
    Timeout = "timeout",
    /// No connection could be made.
    Connect = "connect",
    /// The name did not resolve.
    Dns = "dns",
    /// The handshake failed, or the peer's certificate was refused.
    Tls = "tls",
    /// The peer broke the connection off.
    Reset = "reset",
    /// The peer broke its protocol's rules.
    Protocol = "protocol",
    /// The response was larger than allowed.
    TooLarge = "too_large",
    /// There were too many callouts at once.
    Overflow = "overflow",
    /// Refused before anything was sent: an unknown cluster, a malformed request.
    Refused = "refused",
    /// Nobody waits for it any more: the filter or its transaction ended.
    Cancelled = "cancelled",
}

/// What one thread counts for itself. Written by the slot's own thread, mostly.
#[derive(Debug, Default)]
struct FilterSlot {
    streams: AtomicU64,
    pauses: AtomicU64,
    paused_nanos: AtomicU64,
    local_responses: AtomicU64,
}

/// Numbers of the whole process that no pool counts.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) rebuilds: AtomicU64,
    pub(super) callouts: [AtomicU64; CalloutOutcome::ALL.len()],
    pub(super) failures: AtomicU64,
    pub(super) log_dropped: AtomicU64,
    pub(super) breaches: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) rejected: AtomicU64,
    /// Breakers that are not closed.
    pub(super) open: Arc<AtomicU64>,
}

/// What is counted of one filter of one rule, from the first load of that rule on, reloads included.
///
/// What belongs to no rule is counted for the rule with the empty name: plugin contexts are shared by the rules that
/// have equal filters, and with them ticks, configurations and the traps in them.
pub struct FilterStats {
    /// The rule's label, and the filter's name: texts that others have, too.
    label: Arc<str>,
    filter: Arc<str>,
    process: Arc<Process>,
    slot_count: usize,
    /// By slot, made when first used: most rules see little traffic, and few see some on every thread.
    slots: OnceLock<Box<[LazySlot]>>,
    /// Made when first used, for the same reason.
    rare: OnceLock<Box<Rare>>,
    /// Those that there are: of this filter, and of that which takes its place at a reload.
    breakers: Mutex<Breakers>,
}

/// In a label called "rule" the word says nothing.
fn unprefixed(label: &str) -> &str {
    label.strip_prefix("rule ").unwrap_or(label)
}

/// The breakers that there are of a filter. Mostly one, which then takes no memory of its own.
#[derive(Default)]
enum Breakers {
    #[default]
    None,
    One(Weak<Breaker>),
    Many(Vec<Weak<Breaker>>),
}

impl Breakers {
    fn all(&self) -> &[Weak<Breaker>] {
        match self {
            Breakers::None => &[],
            Breakers::One(breaker) => std::slice::from_ref(breaker),
            Breakers::Many(all) => all,
        }
    }

    /// One more, which is not among them. Those that are gone are forgotten.
    fn add(&mut self, breaker: Weak<Breaker>) {
        let mut all: Vec<_> = self.all().iter().filter(|known| known.strong_count() > 0).cloned().collect();
        *self = if all.is_empty() {
            Breakers::One(breaker)
        } else {
            all.push(breaker);
            Breakers::Many(all)
        };
    }
}

type LazySlot = OnceLock<Box<CachePadded<FilterSlot>>>;

/// What most filters of ten thousand rules never need.
#[derive(Default)]
struct Rare {
    /// For threads beyond the number of slots.
    elsewhere: FilterSlot,
    /// By callback. Shared by all threads, since only so many callbacks are measured in any while.
    callbacks: [OnceLock<Box<(Callback, Latency)>>; CALLBACKS],
    /// By reason.
    traps: Mutex<BTreeMap<&'static str, u64>>,
    rebuilds: AtomicU64,
    /// By policy.
    failures: [AtomicU64; FailurePolicy::ALL.len()],
    /// By limit, made when the first one is met.
    breaches: OnceLock<Box<[AtomicU64]>>,
    breaker: BreakerStats,
    callouts: [AtomicU64; CalloutOutcome::ALL.len()],
    callout_times: OnceLock<Box<Latency>>,
    log_dropped: AtomicU64,
}

/// What became of a filter's breaker in this rule.
#[derive(Debug, Default)]
struct BreakerStats {
    opened: AtomicU64,
    probes: AtomicU64,
    rejected: AtomicU64,
}

impl std::fmt::Debug for FilterStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilterStats").field("rule", &self.rule()).field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl FilterStats {
    fn new(label: Arc<str>, filter: Arc<str>, slots: usize, process: Arc<Process>) -> Self {
        FilterStats {
            label,
            filter,
            process,
            slot_count: slots,
            slots: OnceLock::new(),
            rare: OnceLock::new(),
            breakers: Mutex::default(),
        }
    }

    /// The rule, as `FROM -> TO`; empty for what belongs to none.
    #[must_use]
    pub fn rule(&self) -> &str {
        unprefixed(&self.label)
    }

    /// The filter's name.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// [`FilterStats::filter`], to be kept.
    pub(crate) fn filter_name(&self) -> Arc<str> {
        Arc::clone(&self.filter)
    }

    #[inline]
    fn slot(&self, slot: usize) -> &FilterSlot {
        let slots = self.slots.get_or_init(|| (0..self.slot_count).map(|_| OnceLock::new()).collect());
        match slots.get(slot) {
            Some(slot) => slot.get_or_init(Box::default),
            None => &self.rare().elsewhere,
        }
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    /// A stream of this filter begins. To be called on the slot's own thread.
    #[inline]
    pub(crate) fn begin_stream(&self, slot: usize) {
        let streams = &self.slot(slot).streams;
        if slot < self.slot_count {
            // One writer: no locked instruction is needed.
            streams.store(streams.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        } else {
            streams.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The filter holds a transaction, or a body of it.
    pub(crate) fn pause(&self, slot: usize) {
        self.slot(slot).pauses.fetch_add(1, Ordering::Relaxed);
    }

    /// It holds it no longer, after this time.
    pub(crate) fn paused(&self, slot: usize, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.slot(slot).paused_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The filter answers in place of the origin.
    pub(crate) fn local_response(&self, slot: usize) {
        self.slot(slot).local_responses.fetch_add(1, Ordering::Relaxed);
    }

    /// A callback of the filter took this long.
    #[cold]
    pub(crate) fn callback(&self, callback: Callback, time: Duration) {
        if let Some(place) = self.rare().callbacks.get(callback as usize) {
            place.get_or_init(|| Box::new((callback, Latency::default()))).1.record(time);
        }
    }

    /// A VM is thrown away because of what the filter did.
    #[cold]
    pub(crate) fn trap(&self, error: &Error) {
        let reason = match error {
            Error::Trap(trap) => trap.kind.as_str(),
            _ => "refused",
        };
        *self.rare().traps.lock().entry(reason).or_default() += 1;
        if let Some(limit) = error.limit() {
            self.breach(limit, 1);
        }
    }

    /// The filter met this limit, so many times.
    #[cold]
    pub(crate) fn breach(&self, limit: Limit, times: u64) {
        let breaches = self.rare().breaches.get_or_init(|| Limit::ALL.iter().map(|_| AtomicU64::new(0)).collect());
        breaches[limit as usize].fetch_add(times, Ordering::Relaxed);
        self.process.breaches.fetch_add(times, Ordering::Relaxed);
    }

    /// This breaker is the filter's from now on.
    pub(crate) fn watch(&self, breaker: &Arc<Breaker>) {
        let mut live = self.breakers.lock();
        let breaker = Arc::downgrade(breaker);
        if !live.all().iter().any(|known| known.ptr_eq(&breaker)) {
            live.add(breaker);
        }
    }

    /// What the filter did opened its breaker.
    #[cold]
    pub(crate) fn breaker_opened(&self) {
        self.rare().breaker.opened.fetch_add(1, Ordering::Relaxed);
        self.process.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// The filter is on trial in a transaction.
    #[cold]
    pub(crate) fn breaker_probe(&self) {
        self.rare().breaker.probes.fetch_add(1, Ordering::Relaxed);
    }

    /// A transaction was decided without the filter, which is set aside.
    pub(crate) fn breaker_rejected(&self) {
        self.rare().breaker.rejected.fetch_add(1, Ordering::Relaxed);
        self.process.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// The filter's plugin context was made anew, in a VM that replaces one that was lost.
    pub(crate) fn rebuilt(&self) {
        self.rare().rebuilds.fetch_add(1, Ordering::Relaxed);
    }

    /// The filter failed a transaction, and this policy decides.
    #[cold]
    pub(crate) fn failure(&self, policy: FailurePolicy) {
        self.rare().failures[policy as usize].fetch_add(1, Ordering::Relaxed);
        self.process.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// A line of the filter's was one too many.
    pub(crate) fn log_dropped(&self) {
        self.rare().log_dropped.fetch_add(1, Ordering::Relaxed);
        self.process.log_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A callout of this filter ended, so long after it began. Any thread.
    pub fn callout(&self, outcome: CalloutOutcome, time: Duration) {
        self.rare().callouts[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.process.callouts[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.rare().callout_times.get_or_init(Box::default).record(time);
    }

    /// What was counted up to now.
    pub(super) fn read(&self) -> FilterNumbers {
        let mut numbers = FilterNumbers::default();
        let slots = self.slots.get().into_iter().flatten();
        let slots = slots.filter_map(|slot| slot.get().map(|slot| &***slot));
        for slot in slots.chain(self.rare.get().map(|rare| &rare.elsewhere)) {
            numbers.streams += slot.streams.load(Ordering::Relaxed);
            numbers.pauses += slot.pauses.load(Ordering::Relaxed);
            numbers.paused_nanos += slot.paused_nanos.load(Ordering::Relaxed);
            numbers.local_responses += slot.local_responses.load(Ordering::Relaxed);
        }
        numbers.failures = FailurePolicy::ALL.map(|policy| (policy.as_str(), 0));
        numbers.breaker =
            self.breakers.lock().all().iter().filter_map(Weak::upgrade).map(|breaker| breaker.state()).max();
        let Some(rare) = self.rare.get() else { return numbers };
        numbers.log_dropped = rare.log_dropped.load(Ordering::Relaxed);
        numbers.rebuilds = rare.rebuilds.load(Ordering::Relaxed);
        numbers.failures =
            FailurePolicy::ALL.map(|policy| (policy.as_str(), rare.failures[policy as usize].load(Ordering::Relaxed)));
        if let Some(breaches) = rare.breaches.get() {
            let all =
                Limit::ALL.iter().zip(breaches).map(|(limit, count)| (limit.key(), count.load(Ordering::Relaxed)));
            numbers.breaches = all.filter(|&(_, count)| count > 0).collect();
        }
        numbers.opened = rare.breaker.opened.load(Ordering::Relaxed);
        numbers.probes = rare.breaker.probes.load(Ordering::Relaxed);
        numbers.rejected = rare.breaker.rejected.load(Ordering::Relaxed);
        numbers.traps = rare.traps.lock().iter().map(|(&reason, &count)| (reason, count)).collect();
        let outcomes = CalloutOutcome::ALL.into_iter();
        numbers.callouts = outcomes
            .map(|outcome| (outcome.as_str(), rare.callouts[outcome as usize].load(Ordering::Relaxed)))
            .filter(|&(_, count)| count > 0)
            .collect();
        let measured = rare.callbacks.iter().filter_map(OnceLock::get);
        numbers.callbacks = measured.map(|entry| (entry.0.as_str(), entry.1.read())).collect();
        numbers.callout_times = rare.callout_times.get().map(|times| times.read());
        numbers
    }
}

/// [`FilterStats`] at one moment.
#[derive(Debug, Default)]
pub(super) struct FilterNumbers {
    pub(super) streams: u64,
    pub(super) pauses: u64,
    pub(super) paused_nanos: u64,
    pub(super) local_responses: u64,
    pub(super) rebuilds: u64,
    pub(super) log_dropped: u64,
    pub(super) failures: [(&'static str, u64); FailurePolicy::ALL.len()],
    /// Those that were met, by key.
    pub(super) breaches: Vec<(&'static str, u64)>,
    /// `None` where there is no breaker.
    pub(super) breaker: Option<BreakerState>,
    pub(super) opened: u64,
    pub(super) probes: u64,
    pub(super) rejected: u64,
    pub(super) traps: Vec<(&'static str, u64)>,
    pub(super) callouts: Vec<(&'static str, u64)>,
    pub(super) callbacks: Vec<(&'static str, super::Buckets)>,
    pub(super) callout_times: Option<super::Buckets>,
}

/// Every [`FilterStats`] of the runtime.
#[derive(Debug)]
pub(crate) struct Registry {
    slots: usize,
    hasher: RandomState,
    /// By rule and filter, whose names the entries themselves have.
    filters: Mutex<HashTable<Arc<FilterStats>>>,
    pub(super) process: Arc<Process>,
}

impl Registry {
    pub(crate) fn new(slots: usize) -> Self {
        Registry { slots, hasher: RandomState::new(), filters: Mutex::default(), process: Arc::default() }
    }

    /// The statistics of this filter of this rule: those that it had before, if it was ever loaded.
    pub(crate) fn stats(
        &self,
        label: impl AsRef<str> + Into<Arc<str>>,
        filter: impl AsRef<str> + Into<Arc<str>>,
    ) -> Arc<FilterStats> {
        let mut filters = self.filters.lock();
        let hash = |stats: &Arc<FilterStats>| self.hasher.hash_one((stats.rule(), stats.filter()));
        let names = (unprefixed(label.as_ref()), filter.as_ref());
        let own = self.hasher.hash_one(names);
        if let Some(known) = filters.find(own, |stats| (stats.rule(), stats.filter()) == names) {
            return Arc::clone(known);
        }
        if filters.len() >= MAX_IDLE
            && filters.len().is_multiple_of(LOOK)
            && filters.iter().filter(|stats| Arc::strong_count(stats) == 1).count() >= MAX_IDLE
        {
            filters.retain(|stats| Arc::strong_count(stats) > 1);
        }
        let stats = Arc::new(FilterStats::new(label.into(), filter.into(), self.slots, Arc::clone(&self.process)));
        filters.insert_unique(own, Arc::clone(&stats), hash);
        stats
    }

    /// Where breakers that are not closed are counted.
    pub(crate) fn open_breakers(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.process.open)
    }

    /// A VM was built in place of one that was lost.
    pub(crate) fn vm_rebuilt(&self) {
        self.process.rebuilds.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them, by rule and filter.
    pub(super) fn all(&self) -> Vec<Arc<FilterStats>> {
        let mut all: Vec<_> = self.filters.lock().iter().map(Arc::clone).collect();
        all.sort_unstable_by(|a, b| (a.rule(), a.filter()).cmp(&(b.rule(), b.filter())));
        all
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
