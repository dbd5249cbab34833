//! Shared queues: bounded, first in first out, by vm_id and name.
//!
//! Guests hold a queue's number, so a queue stays for the life of the process. Items wait in an unbounded
//! lock-free queue whose bounds are kept beside it as two totals, so that an idle queue takes no memory.
//!
//! Who consumes is told by `consumers.rs`. The total of items is what it goes by: it is raised before an item goes
//! in and lowered after one came out, so zero means that nothing waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam::queue::SegQueue;
use parking_lot::{Mutex, RwLock};

use super::consumers::{Consumers, QueueConsumer};
use super::slots::Slots;
use crate::error::Error;

/// What an item is charged with beyond its bytes: its place in the queue, and the allocator's share.
const OVERHEAD: usize = 56;

/// Queues a process may have.
const MAX_QUEUES: usize = 4096;

/// What becomes of an item that a queue has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// It is refused and its producer told, by the one status other than "ok" that every SDK survives here.
    #[default]
    Reject,
    /// The oldest items leave to make room, and are counted.
    DropOldest,
}

/// The bounds of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueueLimits {
    /// Items that may wait.
    pub items: usize,
    /// Bytes that they may take, 56 an item included for what holds it.
    pub bytes: usize,
    /// What happens beyond.
    pub overflow: Overflow,
}

impl Default for QueueLimits {
    /// 65,536 items, 64 MiB, and refusal beyond.
    fn default() -> Self {
        QueueLimits { items: 65_536, bytes: 64 << 20, overflow: Overflow::Reject }
    }
}

/// A queue's depth and losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Items that wait.
    pub items: usize,
    /// Bytes charged for them.
    pub bytes: usize,
    /// Items refused, since the start.
    pub rejected: u64,
    /// Items that left to make room, since the start.
    pub dropped: u64,
}

struct Queue {
    vm_id: Box<str>,
    name: Box<[u8]>,
    max_items: AtomicUsize,
    max_bytes: AtomicUsize,
    /// [`Overflow::DropOldest`].
    drops: AtomicBool,
    consumers: Consumers,
    waiting: SegQueue<Box<[u8]>>,
    /// Items that were taken and came back; older than all that wait.
    returned: Mutex<VecDeque<Box<[u8]>>>,
    /// The length of `returned`, so that its lock is taken only if there is anything.
    returned_len: AtomicUsize,
    items: AtomicUsize,
    bytes: AtomicUsize,
    rejected: AtomicU64,
    dropped: AtomicU64,
}

impl Queue {
    fn new(vm_id: &str, name: &[u8], limits: QueueLimits) -> Self {
        let queue = Queue {
            vm_id: vm_id.into(),
            name: name.into(),
            max_items: AtomicUsize::new(0),
            max_bytes: AtomicUsize::new(0),
            drops: AtomicBool::new(false),
            consumers: Consumers::default(),
            waiting: SegQueue::new(),
            returned: Mutex::default(),
            returned_len: AtomicUsize::new(0),
            items: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            rejected: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        };
        queue.configure(limits);
        queue
    }

    /// Other bounds, from now on. Where they are lower, a queue that drops does so now; one that refuses keeps what
    /// it has, and takes no more until there is room.
    fn configure(&self, limits: QueueLimits) {
        self.max_items.store(limits.items, Ordering::Relaxed);
        self.max_bytes.store(limits.bytes, Ordering::Relaxed);
        self.drops.store(limits.overflow == Overflow::DropOldest, Ordering::Relaxed);
        let beyond =
            || self.items.load(Ordering::Relaxed) > limits.items || self.bytes.load(Ordering::Relaxed) > limits.bytes;
        while limits.overflow == Overflow::DropOldest && beyond() {
            self.drop_oldest();
        }
    }

    fn enqueue(&self, bytes: &[u8]) -> Result<(), Error> {
        let cost = bytes.len() + OVERHEAD;
        // Bounds may change at any time: they are looked at anew each time.
        let fits = || self.max_items.load(Ordering::Relaxed) > 0 && cost <= self.max_bytes.load(Ordering::Relaxed);
        loop {
            if fits() && self.reserve(cost) {
                self.waiting.push(bytes.into());
                return Ok(());
            }
            if !fits() || !self.drops.load(Ordering::Relaxed) {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                return Err(Error::TooLarge("shared queue"));
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&self) {
        if self.take().is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            // The room is reserved for items that other threads are pushing this instant.
            std::thread::yield_now();
        }
    }

    /// Whether anything waits, or is being pushed this instant.
    fn is_waiting(&self) -> bool {
        self.items.load(Ordering::SeqCst) > 0
    }

    fn reserve(&self, cost: usize) -> bool {
        let add = |total: usize, more: usize, limit: usize| total.checked_add(more).filter(|&sum| sum <= limit);
        let relaxed = Ordering::Relaxed;
        let (max_items, max_bytes) = (self.max_items.load(relaxed), self.max_bytes.load(relaxed));
        // In one order with what `consumers.rs` does, see there.
        if self.items.fetch_update(Ordering::SeqCst, relaxed, |items| add(items, 1, max_items)).is_err() {
            return false;
        }
        if self.bytes.fetch_update(relaxed, relaxed, |bytes| add(bytes, cost, max_bytes)).is_err() {
            self.items.fetch_sub(1, relaxed);
            return false;
        }
        true
    }

    fn take(&self) -> Option<Box<[u8]>> {
        let item = self.take_returned().or_else(|| self.waiting.pop())?;
        self.items.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(item.len() + OVERHEAD, Ordering::Relaxed);
        Some(item)
    }

    fn take_returned(&self) -> Option<Box<[u8]>> {
        if self.returned_len.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut returned = self.returned.lock();
        let item = returned.pop_front();
        self.returned_len.store(returned.len(), Ordering::Release);
        item
    }

    fn give_back(&self, item: Box<[u8]>) {
        self.items.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(item.len() + OVERHEAD, Ordering::Relaxed);
        let mut returned = self.returned.lock();
        returned.push_front(item);
        self.returned_len.store(returned.len(), Ordering::Release);
    }

    fn stats(&self) -> QueueStats {
        QueueStats {
            items: self.items.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

/// What there is of a vm_id.
#[derive(Default)]
struct Namespace {
    limits: QueueLimits,
    ids: HashMap<Box<[u8]>, u32>,
}

/// The shared queues of the process.
pub(in crate::shared) struct Queues {
    namespaces: RwLock<HashMap<Box<str>, Namespace>>,
    queues: Slots<Queue>,
}

impl Default for Queues {
    fn default() -> Self {
        Queues { namespaces: RwLock::default(), queues: Slots::new(MAX_QUEUES) }
    }
}

impl Queues {
    /// Gives the queues of a vm_id other bounds than [`QueueLimits::default`], those that are there and those to
    /// come.
    pub(in crate::shared) fn configure(&self, vm_id: &str, limits: QueueLimits) {
        let mut namespaces = self.namespaces.write();
        let namespace = namespaces.entry(vm_id.into()).or_default();
        namespace.limits = limits;
        for queue in namespace.ids.values().filter_map(|&id| self.queue(id).ok()) {
            queue.configure(limits);
        }
    }

    /// The number of the queue `name` of `vm_id`, made if there is none. Never zero, and never another one later.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there are 4,096 queues.
    pub(in crate::shared) fn register(&self, vm_id: &str, name: &[u8]) -> Result<u32, Error> {
        if let Some(id) = self.resolve(vm_id, name) {
            return Ok(id);
        }
        let mut namespaces = self.namespaces.write();
        let namespace = namespaces.entry(vm_id.into()).or_default();
        // Another thread may have been first.
        if let Some(id) = namespace.ids.get(name) {
            return Ok(*id);
        }
        let full = || Error::TooLarge("the number of shared queues");
        let index = self.queues.push(Queue::new(vm_id, name, namespace.limits)).ok_or_else(full)?;
        let id = u32::try_from(index + 1).map_err(|_| full())?;
        namespace.ids.insert(name.into(), id);
        Ok(id)
    }

    /// The number of a queue that is there.
    pub(in crate::shared) fn resolve(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        self.namespaces.read().get(vm_id)?.ids.get(name).copied()
    }

    /// Appends an item, and tells a consumer unless one is told already.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue. [`Error::TooLarge`] if it is full and refuses, or if the
    /// item is larger than the whole queue may be.
    pub(in crate::shared) fn enqueue(&self, id: u32, bytes: &[u8]) -> Result<(), Error> {
        let queue = self.queue(id)?;
        queue.enqueue(bytes)?;
        if let Some(consumer) = queue.consumers.arrived() {
            consumer.ready(id);
        }
        Ok(())
    }

    /// Takes the oldest item. Whoever cannot deliver it calls [`Queues::give_back`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue; [`Error::Empty`] if nothing waits.
    pub(in crate::shared) fn take(&self, id: u32) -> Result<Box<[u8]>, Error> {
        self.queue(id)?.take().ok_or(Error::Empty)
    }

    /// Puts an item back in front of all others, also into a queue that is full by now: it was there before.
    pub(in crate::shared) fn give_back(&self, id: u32, item: Box<[u8]>) {
        if let Ok(queue) = self.queue(id) {
            queue.give_back(item);
            if let Some(consumer) = queue.consumers.came_back() {
                consumer.ready(id);
            }
        }
    }

    /// Registers a consumer and tells its number. It is told at once if items wait and nobody else is registered.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue.
    pub(in crate::shared) fn subscribe(&self, id: u32, consumer: Arc<dyn QueueConsumer>) -> Result<u64, Error> {
        let queue = self.queue(id)?;
        let (number, told) = queue.consumers.subscribe(consumer, || queue.is_waiting());
        if let Some(consumer) = told {
            consumer.ready(id);
        }
        Ok(number)
    }

    /// A consumer that was told has taken what it takes: so many items. Nothing happens if it was not told.
    pub(in crate::shared) fn served(&self, id: u32, number: u64, took: u64) {
        if let Ok(queue) = self.queue(id)
            && let Some(consumer) = queue.consumers.served(number, took, || queue.is_waiting())
        {
            consumer.ready(id);
        }
    }

    /// Forgets a consumer. If it was told and items wait, the next one is told.
    pub(in crate::shared) fn unsubscribe(&self, id: u32, number: u64) {
        if let Ok(queue) = self.queue(id) {
            let (_gone, told) = queue.consumers.unsubscribe(number, || queue.is_waiting());
            if let Some(consumer) = told {
                consumer.ready(id);
            }
        }
    }

    /// Tells the consumers of queues whose last consumer took nothing, a second ago or longer.
    pub(in crate::shared) fn remind(&self, now: Instant) {
        for (id, queue) in (1..).zip(self.queues.iter()) {
            if let Some(consumer) = queue.consumers.remind(now, || queue.is_waiting()) {
                consumer.ready(id);
            }
        }
    }

    /// Depth and losses of a queue.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue.
    pub(in crate::shared) fn stats(&self, id: u32) -> Result<QueueStats, Error> {
        self.queue(id).map(Queue::stats)
    }

    /// Shows every queue: vm_id, name, depth and losses.
    pub(in crate::shared) fn for_each(&self, mut visit: impl FnMut(&str, &[u8], QueueStats)) {
        for queue in self.queues.iter() {
            visit(&queue.vm_id, &queue.name, queue.stats());
        }
    }

    fn queue(&self, id: u32) -> Result<&Queue, Error> {
        // Zero, which no queue has, wraps to an index beyond all.
        self.queues.get(id.wrapping_sub(1) as usize).ok_or(Error::NotFound)
    }
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
