//! Shared queues: bounded, first in first out, by vm_id and name.
//!
//! Guests hold a queue's number, so a queue stays for the life of the process. Items wait in an unbounded
//! lock-free queue whose bounds are kept beside it as two totals, so that an idle queue takes no memory.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam::queue::SegQueue;
use parking_lot::{Mutex, RwLock};

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
    limits: QueueLimits,
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
        Queue {
            vm_id: vm_id.into(),
            name: name.into(),
            limits,
            waiting: SegQueue::new(),
            returned: Mutex::default(),
            returned_len: AtomicUsize::new(0),
            items: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            rejected: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn enqueue(&self, bytes: &[u8]) -> Result<(), Error> {
        let cost = bytes.len() + OVERHEAD;
        let fits = self.limits.items > 0 && cost <= self.limits.bytes;
        let mut reserved = fits && self.reserve(cost);
        if fits && self.limits.overflow == Overflow::DropOldest {
            while !reserved {
                if self.take().is_some() {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                } else {
                    // The room is reserved for items that other threads are pushing this instant.
                    std::thread::yield_now();
                }
                reserved = self.reserve(cost);
            }
        }
        if reserved {
            self.waiting.push(bytes.into());
            return Ok(());
        }
        self.rejected.fetch_add(1, Ordering::Relaxed);
        Err(Error::TooLarge("shared queue"))
    }

    fn reserve(&self, cost: usize) -> bool {
        let add = |total: usize, more: usize, limit: usize| total.checked_add(more).filter(|&sum| sum <= limit);
        let (relaxed, limits) = (Ordering::Relaxed, &self.limits);
        if self.items.fetch_update(relaxed, relaxed, |items| add(items, 1, limits.items)).is_err() {
            return false;
        }
        if self.bytes.fetch_update(relaxed, relaxed, |bytes| add(bytes, cost, limits.bytes)).is_err() {
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
        self.items.fetch_add(1, Ordering::Relaxed);
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

type Names = HashMap<Box<str>, HashMap<Box<[u8]>, u32>>;

/// The shared queues of the process.
pub struct SharedQueues {
    limits: QueueLimits,
    names: RwLock<Names>,
    queues: Slots<Queue>,
}

impl std::fmt::Debug for SharedQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedQueues").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Default for SharedQueues {
    fn default() -> Self {
        SharedQueues::new(QueueLimits::default())
    }
}

impl SharedQueues {
    /// No queues yet; `limits` hold for each.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Self {
        SharedQueues { limits, names: RwLock::default(), queues: Slots::new(MAX_QUEUES) }
    }

    /// The number of the queue `name` of `vm_id`, made if there is none. Never zero, and never another one later.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there are 4,096 queues.
    pub fn register(&self, vm_id: &str, name: &[u8]) -> Result<u32, Error> {
        if let Some(id) = self.resolve(vm_id, name) {
            return Ok(id);
        }
        let mut names = self.names.write();
        // Another thread may have been first.
        if let Some(id) = names.get(vm_id).and_then(|names| names.get(name)) {
            return Ok(*id);
        }
        let full = || Error::TooLarge("the number of shared queues");
        let index = self.queues.push(Queue::new(vm_id, name, self.limits)).ok_or_else(full)?;
        let id = u32::try_from(index + 1).map_err(|_| full())?;
        names.entry(vm_id.into()).or_default().insert(name.into(), id);
        Ok(id)
    }

    /// The number of a queue that is there.
    #[must_use]
    pub fn resolve(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        self.names.read().get(vm_id)?.get(name).copied()
    }

    /// Appends an item.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue. [`Error::TooLarge`] if it is full and refuses, or if the
    /// item is larger than the whole queue may be.
    pub fn enqueue(&self, id: u32, bytes: &[u8]) -> Result<(), Error> {
        self.queue(id)?.enqueue(bytes)
    }

    /// Takes the oldest item. Whoever cannot deliver it calls [`SharedQueues::give_back`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue; [`Error::Empty`] if nothing waits.
    pub fn take(&self, id: u32) -> Result<Box<[u8]>, Error> {
        self.queue(id)?.take().ok_or(Error::Empty)
    }

    /// Puts an item back in front of all others, also into a queue that is full by now: it was there before.
    pub fn give_back(&self, id: u32, item: Box<[u8]>) {
        if let Ok(queue) = self.queue(id) {
            queue.give_back(item);
        }
    }

    /// [`SharedQueues::take`], appending the item to `out`.
    ///
    /// # Errors
    /// As there.
    pub fn dequeue(&self, id: u32, out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend_from_slice(&self.take(id)?);
        Ok(())
    }

    /// Depth and losses of a queue.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue.
    pub fn stats(&self, id: u32) -> Result<QueueStats, Error> {
        self.queue(id).map(Queue::stats)
    }

    /// Shows every queue: vm_id, name, depth and losses.
    pub fn for_each(&self, mut visit: impl FnMut(&str, &[u8], QueueStats)) {
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
