//! An allocator that counts: for the tests that prove what a transaction allocates. In nothing that is installed.
//!
//! What counts is what an event thread that asked for it allocates inside a callback of ours: what ATS allocates on the
//! same thread does not come by here, and threads of our own are not transactions.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::guard;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, and a count: for `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

/// From now on what this thread allocates in callbacks is counted.
pub fn count_this_thread() {
    COUNTED.set(true);
}

/// Allocations so far, growth of what was there included.
#[must_use]
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

fn note() {
    // Neither thread-local is made or destroyed, so this allocates nothing, and works on a thread that ends.
    if COUNTED.get() && guard::is_active() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: the system's allocator, to which everything goes as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_threads_are_counted_in_callbacks() {
        let layout = Layout::new::<u64>();
        let once = || {
            let before = allocations();
            // SAFETY: a layout that is not empty; freed with the same one.
            unsafe { Counting.dealloc(Counting.alloc(layout), layout) };
            allocations() - before
        };
        // Nothing else in this process counts.
        assert_eq!(guard!("counting", on_panic = 9, { once() }), 0, "it did not ask for it");
        count_this_thread();
        assert_eq!(once(), 0, "outside of callbacks");
        assert_eq!(guard!("counting", on_panic = 9, { once() }), 1);
    }
}
