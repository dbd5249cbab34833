//! Shared queues across the table.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use super::wire::{Sink, Slice, State, Visit, guarded, outcome};
use super::{Link, owner};
use crate::error::Error;
use crate::shared::owner::{Overflow, QueueConsumer, QueueLimits, QueueStats};

/// [`QueueStats`].
#[repr(C)]
struct Stats {
    items: u64,
    bytes: u64,
    rejected: u64,
    dropped: u64,
}

/// A consumer of any copy.
#[repr(C)]
#[derive(Clone, Copy)]
struct Consumer {
    /// [`QueueConsumer::ready`].
    ready: unsafe extern "C" fn(of: *const c_void, queue: u32),
    /// Called once, when nobody will call `ready` any more.
    release: unsafe extern "C" fn(of: *const c_void),
    of: *const c_void,
}

/// A consumer as the owner has it.
struct Registered(Consumer);

// SAFETY: `ready` may be called from all threads at once, and `release` from any: a `QueueConsumer` is both `Send` and
// `Sync`, in every copy.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

impl QueueConsumer for Registered {
    fn ready(&self, queue: u32) {
        // SAFETY: it has not been released, and its code is never unloaded.
        unsafe { (self.0.ready)(self.0.of, queue) }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: as above; this is the one call.
        unsafe { (self.0.release)(self.0.of) }
    }
}

type VisitQueue = unsafe extern "C" fn(to: *mut c_void, vm_id: Slice, name: Slice, stats: *const Stats);

/// The part of the table that is shared queues.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct QueueTable {
    register: unsafe extern "C" fn(State, vm_id: Slice, name: Slice, queue: *mut u32) -> i32,
    resolve: unsafe extern "C" fn(State, vm_id: Slice, name: Slice, queue: *mut u32) -> i32,
    enqueue: unsafe extern "C" fn(State, queue: u32, item: Slice) -> i32,
    take: unsafe extern "C" fn(State, queue: u32, item: Sink) -> i32,
    give_back: unsafe extern "C" fn(State, queue: u32, item: Slice) -> i32,
    /// `overflow` is 0 for [`Overflow::Reject`] and 1 for [`Overflow::DropOldest`].
    configure: unsafe extern "C" fn(State, vm_id: Slice, items: u64, bytes: u64, overflow: u32) -> i32,
    stats: unsafe extern "C" fn(State, queue: u32, stats: *mut Stats) -> i32,
    each: unsafe extern "C" fn(State, visit: VisitQueue, to: *mut c_void) -> i32,
    /// The consumer is the owner's from then on, also where this fails.
    subscribe: unsafe extern "C" fn(State, queue: u32, consumer: Consumer, number: *mut u64) -> i32,
    served: unsafe extern "C" fn(State, queue: u32, number: u64, took: u64) -> i32,
    unsubscribe: unsafe extern "C" fn(State, queue: u32, number: u64) -> i32,
}

impl QueueTable {
    /// The functions of a copy that owns the queues.
    pub(super) const OF_OWNER: Self = QueueTable {
        register,
        resolve,
        enqueue,
        take,
        give_back,
        configure,
        stats,
        each,
        subscribe,
        served,
        unsubscribe,
    };
}

// The owner's functions. SAFETY, for all of them: `state` is that of the table which they were called by; slices,
// sinks and places for results are lent for the call.

unsafe extern "C" fn register(state: State, vm_id: Slice, name: Slice, queue: *mut u32) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id, name) = unsafe { (owner(state), vm_id.text()?, name.bytes()) };
        let id = owner.queues.register(vm_id, name)?;
        // SAFETY: as above.
        unsafe { queue.write(id) };
        Ok(())
    })
}

unsafe extern "C" fn resolve(state: State, vm_id: Slice, name: Slice, queue: *mut u32) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id, name) = unsafe { (owner(state), vm_id.text()?, name.bytes()) };
        let id = owner.queues.resolve(vm_id, name).ok_or_else(|| Error::NotFound)?;
        // SAFETY: as above.
        unsafe { queue.write(id) };
        Ok(())
    })
}

unsafe extern "C" fn enqueue(state: State, queue: u32, item: Slice) -> i32 {
    // SAFETY: see above.
    guarded(|| unsafe { owner(state).queues.enqueue(queue, item.bytes()) })
}

unsafe extern "C" fn take(state: State, queue: u32, item: Sink) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let taken = unsafe { owner(state) }.queues.take(queue)?;
        // SAFETY: as above.
        unsafe { item.put(&taken) };
        Ok(())
    })
}

unsafe extern "C" fn give_back(state: State, queue: u32, item: Slice) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        unsafe { owner(state).queues.give_back(queue, item.bytes().into()) };
        Ok(())
    })
}

unsafe extern "C" fn configure(state: State, vm_id: Slice, items: u64, bytes: u64, overflow: u32) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id) = unsafe { (owner(state), vm_id.text()?) };
        let overflow = if overflow == 0 { Overflow::Reject } else { Overflow::DropOldest };
        owner.queues.configure(vm_id, QueueLimits { items: to_usize(items), bytes: to_usize(bytes), overflow });
        Ok(())
    })
}

unsafe extern "C" fn stats(state: State, queue: u32, stats: *mut Stats) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let found = unsafe { owner(state) }.queues.stats(queue)?;
        // SAFETY: as above.
        unsafe { stats.write(stats_to_wire(found)) };
        Ok(())
    })
}

unsafe extern "C" fn each(state: State, visit: VisitQueue, to: *mut c_void) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        unsafe { owner(state) }.queues.for_each(|vm_id, name, stats| {
            let stats = stats_to_wire(stats);
            // SAFETY: as above.
            unsafe { visit(to, Slice::of(vm_id.as_bytes()), Slice::of(name), &raw const stats) };
        });
        Ok(())
    })
}

unsafe extern "C" fn subscribe(state: State, queue: u32, consumer: Consumer, number: *mut u64) -> i32 {
    let consumer = Registered(consumer);
    guarded(move || {
        // SAFETY: see above.
        let given = unsafe { owner(state) }.queues.subscribe(queue, Arc::new(consumer))?;
        // SAFETY: as above.
        unsafe { number.write(given) };
        Ok(())
    })
}

unsafe extern "C" fn served(state: State, queue: u32, number: u64, took: u64) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        unsafe { owner(state) }.queues.served(queue, number, took);
        Ok(())
    })
}

unsafe extern "C" fn unsubscribe(state: State, queue: u32, number: u64) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        unsafe { owner(state) }.queues.unsubscribe(queue, number);
        Ok(())
    })
}

fn stats_to_wire(stats: QueueStats) -> Stats {
    let QueueStats { items, bytes, rejected, dropped } = stats;
    Stats { items: items as u64, bytes: bytes as u64, rejected, dropped }
}

fn stats_from_wire(stats: &Stats) -> QueueStats {
    let &Stats { items, bytes, rejected, dropped } = stats;
    QueueStats { items: to_usize(items), bytes: to_usize(bytes), rejected, dropped }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The shared queues of the process. Any thread.
pub struct SharedQueues(pub(in crate::shared) Arc<Link>);

impl std::fmt::Debug for SharedQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedQueues").finish_non_exhaustive()
    }
}

// SAFETY, for all of the calls below: the table is one that `Link` made or checked; its state lives as long as the
// link, or for the life of the process; what is lent outlives the call.
impl SharedQueues {
    /// Gives the queues of a vm_id other bounds than [`QueueLimits::default`], those that are there and those to
    /// come. A queue that is beyond them drops its oldest items now, or takes no more until there is room.
    pub fn configure(&self, vm_id: &str, limits: QueueLimits) {
        let table = &self.0.table;
        let overflow = match limits.overflow {
            Overflow::Reject => 0,
            Overflow::DropOldest => 1,
        };
        let (vm_id, items, bytes) = (Slice::of(vm_id.as_bytes()), limits.items as u64, limits.bytes as u64);
        // SAFETY: see above.
        let code = unsafe { (table.queues.configure)(table.state, vm_id, items, bytes, overflow) };
        // It takes any limits and any text.
        let _ = outcome(code, "vm_id", "vm_id");
    }

    /// The number of the queue `name` of `vm_id`, made if there is none. Never zero, and never another one later.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there are 4,096 queues.
    pub fn register(&self, vm_id: &str, name: &[u8]) -> Result<u32, Error> {
        let table = &self.0.table;
        let mut queue = 0;
        let (vm_id, name) = (Slice::of(vm_id.as_bytes()), Slice::of(name));
        // SAFETY: see above.
        let code = unsafe { (table.queues.register)(table.state, vm_id, name, ptr::from_mut(&mut queue)) };
        outcome(code, "queue", "the number of shared queues").map(|()| queue)
    }

    /// The number of a queue that is there.
    #[must_use]
    pub fn resolve(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        let table = &self.0.table;
        let mut queue = 0;
        let (vm_id, name) = (Slice::of(vm_id.as_bytes()), Slice::of(name));
        // SAFETY: see above.
        let code = unsafe { (table.queues.resolve)(table.state, vm_id, name, ptr::from_mut(&mut queue)) };
        outcome(code, "queue", "queue").ok().map(|()| queue)
    }

    /// Appends an item, and tells a consumer unless one is told already.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue. [`Error::TooLarge`] if it is full and refuses, or if the
    /// item is larger than the whole queue may be.
    pub fn enqueue(&self, queue: u32, item: &[u8]) -> Result<(), Error> {
        let table = &self.0.table;
        // SAFETY: see above.
        let code = unsafe { (table.queues.enqueue)(table.state, queue, Slice::of(item)) };
        outcome(code, "queue", "shared queue")
    }

    /// Takes the oldest item. Whoever cannot deliver it calls [`SharedQueues::give_back`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue; [`Error::Empty`] if nothing waits.
    pub fn take(&self, queue: u32) -> Result<Box<[u8]>, Error> {
        let table = &self.0.table;
        let mut taken = Box::default();
        let mut item = Visit::new(|bytes: &[u8]| taken = bytes.into());
        // SAFETY: see above.
        let code = unsafe { (table.queues.take)(table.state, queue, Sink::to(&mut item)) };
        item.finish();
        outcome(code, "queue", "queue").map(|()| taken)
    }

    /// Puts an item back in front of all others, also into a queue that is full by now: it was there before.
    pub fn give_back(&self, queue: u32, item: &[u8]) {
        let table = &self.0.table;
        // SAFETY: see above.
        let code = unsafe { (table.queues.give_back)(table.state, queue, Slice::of(item)) };
        // A queue that gave an item is there.
        let _ = outcome(code, "queue", "queue");
    }

    /// Depth and losses of a queue.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue.
    pub fn stats(&self, queue: u32) -> Result<QueueStats, Error> {
        let table = &self.0.table;
        let mut stats = Stats { items: 0, bytes: 0, rejected: 0, dropped: 0 };
        // SAFETY: see above.
        let code = unsafe { (table.queues.stats)(table.state, queue, ptr::from_mut(&mut stats)) };
        outcome(code, "queue", "queue").map(|()| stats_from_wire(&stats))
    }

    /// Shows every queue: vm_id, name, depth and losses.
    pub fn for_each(&self, visit: impl FnMut(&str, &[u8], QueueStats)) {
        unsafe extern "C" fn show<F: FnMut(&str, &[u8], QueueStats)>(
            to: *mut c_void,
            vm_id: Slice,
            name: Slice,
            stats: *const Stats,
        ) {
            // SAFETY: `to` is the visitor below, which is used by this call alone; the others are lent for the call.
            let (visit, vm_id, name, stats) =
                unsafe { (&mut *to.cast::<Visit<F>>(), vm_id.text(), name.bytes(), &*stats) };
            visit.run(|visit| visit(vm_id.unwrap_or_default(), name, stats_from_wire(stats)));
        }
        fn with<F: FnMut(&str, &[u8], QueueStats)>(link: &Link, visit: F) {
            let mut visit = Visit::new(visit);
            // SAFETY: see above.
            let code = unsafe { (link.table.queues.each)(link.table.state, show::<F>, visit.address()) };
            visit.finish();
            // Showing cannot fail.
            let _ = outcome(code, "visitor", "visitor");
        }
        with(&self.0, visit);
    }

    /// Registers a consumer. Consumers of a queue are told in turns, one at a time; the first one of a queue in which
    /// items wait is told before this returns.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such queue.
    pub fn subscribe(&self, queue: u32, consumer: Arc<dyn QueueConsumer>) -> Result<Subscription, Error> {
        let table = &self.0.table;
        let consumer = Consumer {
            ready,
            release,
            // A trait object's pointer is two words wide, so it goes behind one that is not.
            of: Box::into_raw(Box::new(consumer)).cast_const().cast(),
        };
        let mut number = 0;
        // SAFETY: see above. The consumer is handed over.
        let code = unsafe { (table.queues.subscribe)(table.state, queue, consumer, ptr::from_mut(&mut number)) };
        outcome(code, "queue", "queue")?;
        Ok(Subscription { link: Arc::clone(&self.0), queue, number })
    }
}

unsafe extern "C" fn ready(of: *const c_void, queue: u32) {
    // SAFETY: made in `subscribe` and not released yet; shared between threads, as the trait permits.
    let consumer = unsafe { &*of.cast::<Arc<dyn QueueConsumer>>() };
    // It has been logged; the producer, which may be another copy's, has nothing to do with it.
    let _ = catch_unwind(AssertUnwindSafe(|| consumer.ready(queue)));
}

unsafe extern "C" fn release(of: *const c_void) {
    // SAFETY: made in `subscribe`, and released once.
    let consumer = unsafe { Box::from_raw(of.cast_mut().cast::<Arc<dyn QueueConsumer>>()) };
    // As above.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(consumer)));
}

/// A consumer's place among those of its queue. Dropping it gives the place up; where the consumer was told, the next
/// one is. Any thread.
pub struct Subscription {
    link: Arc<Link>,
    queue: u32,
    number: u64,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Subscription {
    /// The queue.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The consumer was told and has taken what it takes: so many items. If items are left, the next one is told
    /// before this returns, which may be the same one; but if it took nothing, then not before the next item arrives
    /// or a second later. To be called once for each [`QueueConsumer::ready`]; calls beyond that do nothing.
    pub fn served(&self, took: u64) {
        let table = &self.link.table;
        // SAFETY: as all calls above.
        let code = unsafe { (table.queues.served)(table.state, self.queue, self.number, took) };
        // It cannot fail.
        let _ = outcome(code, "queue", "queue");
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let table = &self.link.table;
        // The code is of no use: a panic of the owner's must not go on in a drop, and there is no other failure.
        // SAFETY: as all calls above.
        let _ = unsafe { (table.queues.unsubscribe)(table.state, self.queue, self.number) };
    }
}
