//! Who is told that a queue has items: one consumer at a time, in turns.
//!
//! | state | meaning | an item arrives |
//! | --- | --- | --- |
//! | nobody | no consumer is registered | nothing happens |
//! | idle | nobody is told, and nothing waited when that began | the next consumer is told |
//! | told | a consumer is told and has not served yet | it is noted: the state is "again" |
//! | again | … and items arrived since it was told | nothing happens |
//! | resting | items wait, and the last consumer took none of them | the next consumer is told |
//!
//! **Why no wake-up is lost.** A producer raises the queue's total of items, pushes its item, then reads the state.
//! Whoever makes the state idle (or registers the first consumer) writes the state, then reads the total. All four
//! accesses are sequentially consistent, so at least one of the two sees what the other wrote: the producer sees
//! "idle" and tells, or the other sees the item and tells. A consumer that was told before an item was pushed and
//! looked too early meets the state "again" when it has served, and is told once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

/// How long a queue rests whose consumer took nothing.
const REST: Duration = Duration::from_secs(1);

/// Who takes items out of a queue.
pub trait QueueConsumer: Send + Sync {
    /// Items wait in this queue, and it is this consumer's turn: until it says that it has served, or unsubscribes,
    /// nobody else is told.
    ///
    /// Called from any thread, that of a producer above all, with no lock of the queues held. It must not block and
    /// must not serve here and now: it notes the fact for a thread of its own. It may come once more to a consumer
    /// that is unsubscribing at this moment.
    fn ready(&self, queue: u32);
}

const NOBODY: u8 = 0;
const IDLE: u8 = 1;
const TOLD: u8 = 2;
const AGAIN: u8 = 3;
const RESTING: u8 = 4;

/// The one to tell, by whoever gets it, once the lock is released.
type Next = Option<Arc<dyn QueueConsumer>>;

/// See the module's documentation.
pub(super) struct Consumers {
    /// Written under the lock alone, but for the step from "told" to "again".
    state: AtomicU8,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    registered: Vec<(u64, Arc<dyn QueueConsumer>)>,
    /// The number given last.
    last: u64,
    /// Whose turn is next, as an index that may be one too far.
    next: usize,
    told: Option<u64>,
    resting_since: Option<Instant>,
}

impl Default for Consumers {
    fn default() -> Self {
        Consumers { state: AtomicU8::new(NOBODY), list: Mutex::default() }
    }
}

impl Consumers {
    /// An item has been pushed.
    #[inline]
    pub(super) fn arrived(&self) -> Next {
        loop {
            match self.state.load(SeqCst) {
                NOBODY | AGAIN => return None,
                TOLD => {
                    if self.state.compare_exchange(TOLD, AGAIN, SeqCst, SeqCst).is_ok() {
                        return None;
                    }
                }
                _ => return self.tell_if(&[IDLE, RESTING]),
            }
        }
    }

    /// An item that had been taken is back. That is no reason to end a rest: whoever gave it back may take it again
    /// and again.
    pub(super) fn came_back(&self) -> Next {
        if self.state.load(SeqCst) == IDLE { self.tell_if(&[IDLE]) } else { None }
    }

    /// Adds a consumer and tells its number, which is never zero.
    pub(super) fn subscribe(&self, consumer: Arc<dyn QueueConsumer>, waiting: impl Fn() -> bool) -> (u64, Next) {
        let mut list = self.list.lock();
        list.last += 1;
        let number = list.last;
        list.registered.push((number, consumer));
        let first = self.state.load(SeqCst) == NOBODY;
        let next = if first { self.idle(&mut list, &waiting) } else { None };
        (number, next)
    }

    /// Removes a consumer, which is the first of the results: to be dropped with no lock held.
    pub(super) fn unsubscribe(&self, number: u64, waiting: impl Fn() -> bool) -> (Next, Next) {
        let mut list = self.list.lock();
        let Some(index) = list.registered.iter().position(|(other, _)| *other == number) else {
            return (None, None);
        };
        let (_, gone) = list.registered.remove(index);
        if index < list.next {
            list.next -= 1;
        }
        let was_told = list.told == Some(number);
        if was_told {
            list.told = None;
        }
        let next = if list.registered.is_empty() {
            self.state.store(NOBODY, SeqCst);
            None
        } else if was_told {
            self.idle(&mut list, &waiting)
        } else {
            None
        };
        (Some(gone), next)
    }

    /// The consumer that was told has taken so many items.
    pub(super) fn served(&self, number: u64, took: u64, waiting: impl Fn() -> bool) -> Next {
        let mut list = self.list.lock();
        if list.told != Some(number) {
            return None;
        }
        list.told = None;
        let again = self.state.swap(IDLE, SeqCst) == AGAIN;
        if !waiting() {
            return None;
        }
        if took > 0 || again {
            return self.tell(&mut list);
        }
        list.resting_since = Some(Instant::now());
        self.state.store(RESTING, SeqCst);
        None
    }

    /// Ends a rest that is over at `now`.
    pub(super) fn remind(&self, now: Instant, waiting: impl Fn() -> bool) -> Next {
        if self.state.load(SeqCst) != RESTING {
            return None;
        }
        let mut list = self.list.lock();
        let over = list.resting_since.is_some_and(|since| now.saturating_duration_since(since) >= REST);
        if self.state.load(SeqCst) == RESTING && over { self.idle(&mut list, &waiting) } else { None }
    }

    /// Nobody is told now: somebody is if anything waits.
    fn idle(&self, list: &mut MutexGuard<'_, List>, waiting: &impl Fn() -> bool) -> Next {
        self.state.store(IDLE, SeqCst);
        if waiting() { self.tell(list) } else { None }
    }

    #[cold]
    fn tell_if(&self, states: &[u8]) -> Next {
        let mut list = self.list.lock();
        // If another thread was faster, it told somebody after this thread's item was there.
        if states.contains(&self.state.load(SeqCst)) { self.tell(&mut list) } else { None }
    }

    fn tell(&self, list: &mut MutexGuard<'_, List>) -> Next {
        if list.next >= list.registered.len() {
            list.next = 0;
        }
        let (number, consumer) = list.registered.get(list.next)?;
        let (number, consumer) = (*number, Arc::clone(consumer));
        list.next += 1;
        list.told = Some(number);
        self.state.store(TOLD, SeqCst);
        Some(consumer)
    }
}

#[cfg(test)]
#[path = "consumers_tests.rs"]
mod tests;
