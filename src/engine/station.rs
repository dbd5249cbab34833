//! A slot's post: the pools that have timers there, and what came for its VMs from elsewhere.
//!
//! Answers to calls and items of queues arrive on threads that must not enter a VM. They wait here for the slot's own
//! thread, which is called once, however many of them there are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::answer::News;
use crate::pool::Pool;

/// What the thread of a slot is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// Timers changed: [`Runtime::run_timers`](crate::Runtime::run_timers) is due.
    Timers,
    /// Something came: [`Runtime::deliver`](crate::Runtime::deliver) is due.
    Deliveries,
}

/// Calls the thread of a slot. Runs on any thread, with no lock of the engine's held.
pub(crate) type Call = Box<dyn Fn(Errand) + Send + Sync>;

/// Something for a plugin context.
pub(crate) struct Delivery {
    pub(crate) address: Address,
    /// The plugin context in that VM.
    pub(crate) root: u32,
    pub(crate) news: News,
}

/// Where a VM is found: its pool, its place there, and which of those that come to stand there it is.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) pool: Weak<Pool>,
    pub(crate) slot: usize,
    /// Never the same for two VMs of a process.
    pub(crate) vm: u64,
}

/// The post of one slot.
pub(crate) struct Station {
    /// With the place that the slot has in each.
    timers: Mutex<Vec<(Weak<Pool>, usize)>>,
    waiting: Mutex<VecDeque<Delivery>>,
    /// The thread has been called for what waits, and has not looked yet.
    called: AtomicBool,
    call: Call,
}

impl std::fmt::Debug for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Station").field("waiting", &self.waiting.lock().len()).finish_non_exhaustive()
    }
}

impl Station {
    pub(crate) fn new(call: Call) -> Arc<Self> {
        Arc::new(Station { timers: Mutex::default(), waiting: Mutex::default(), called: AtomicBool::new(false), call })
    }

    /// Notes that a pool's VM of this slot has timers.
    pub(crate) fn timers_changed(&self, pool: &Arc<Pool>, slot: usize) {
        let mut pools = self.timers.lock();
        pools.retain(|(known, _)| known.strong_count() > 0);
        if !pools.iter().any(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(pool))) {
            pools.push((Arc::downgrade(pool), slot));
        }
        drop(pools);
        (self.call)(Errand::Timers);
    }

    /// Runs a tick of every pool that has one due, and says when the next one is. On the slot's thread, which serves
    /// others before it comes back for more.
    pub(crate) fn run_timers(&self) -> Option<Instant> {
        let live = |(pool, slot): &(Weak<Pool>, usize)| Some((pool.upgrade()?, *slot));
        let pools: Vec<_> = self.timers.lock().iter().filter_map(live).collect();
        pools.iter().filter_map(|(pool, slot)| pool.run_timers(*slot)).min()
    }

    /// Leaves something for the slot's thread. From any thread.
    pub(crate) fn post(&self, delivery: Delivery) {
        self.waiting.lock().push_back(delivery);
        if !self.called.swap(true, Ordering::SeqCst) {
            (self.call)(Errand::Deliveries);
        }
    }

    /// Delivers what waits, for about as long as `time` says. On the slot's thread. True if something is left, and then
    /// this is to be called again: the thread has others to serve meanwhile.
    pub(crate) fn deliver(&self, time: Duration) -> bool {
        let begin = Instant::now();
        loop {
            let next = self.waiting.lock().pop_front();
            let Some(delivery) = next else {
                // Whoever posts from here on calls again; whoever posted just before may not have.
                self.called.store(false, Ordering::SeqCst);
                let idle = self.waiting.lock().is_empty() || self.called.swap(true, Ordering::SeqCst);
                if idle {
                    return false;
                }
                continue;
            };
            if let Some(pool) = delivery.address.pool.upgrade() {
                pool.deliver(delivery);
            }
            if begin.elapsed() >= time && !self.waiting.lock().is_empty() {
                return true;
            }
        }
    }
}
