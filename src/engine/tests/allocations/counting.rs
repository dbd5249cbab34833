//! An allocator that counts, by thread: what others do meanwhile is not counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};

/// Allocations and bytes of one thread since it began to count.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// Pieces of memory that were asked for, or moved to where there is more room.
    pub(crate) allocations: u64,
    /// Bytes asked for less bytes given back.
    pub(crate) grown: i64,
}

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(Count { allocations: 0, grown: 0 }) };
    static ON: Cell<bool> = const { Cell::new(false) };
    /// How many more allocations are told.
    static TELL: Cell<u32> = const { Cell::new(0) };
}

pub(crate) struct Counting;

/// Bytes that all threads hold.
static LIVE: AtomicI64 = AtomicI64::new(0);

fn note(allocated: bool, grown: i64) {
    LIVE.fetch_add(grown, Ordering::Relaxed);
    if !ON.get() {
        return;
    }
    let count = COUNT.get();
    COUNT.set(Count { allocations: count.allocations + u64::from(allocated), grown: count.grown + grown });
    if allocated && TELL.get() > 0 {
        TELL.set(TELL.get() - 1);
        // What tells allocates, too.
        ON.set(false);
        eprintln!("an allocation of {grown} bytes:\n{}", Backtrace::force_capture());
        ON.set(true);
    }
}

fn bytes(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

// SAFETY: every call goes to the system's allocator as it came; what is counted are numbers of this thread, for which
// nothing is allocated, since they are constants before they are used.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(true, bytes(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(true, bytes(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        note(false, -bytes(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(true, bytes(size) - bytes(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// What `work` allocates on this thread.
pub(crate) fn count(work: impl FnOnce()) -> Count {
    COUNT.set(Count::default());
    ON.set(true);
    work();
    ON.set(false);
    COUNT.get()
}

/// The same, with backtraces of the first allocations on stderr: of no more than these, for a backtrace takes longer than a
/// callback may.
pub(crate) fn tell(work: impl FnOnce()) -> Count {
    TELL.set(12);
    let count = count(work);
    TELL.set(0);
    count
}

/// Bytes that all threads hold now.
pub(crate) fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}
