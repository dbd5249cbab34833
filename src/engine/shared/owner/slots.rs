//! A vector that only grows and is read without locks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Items a chunk: chunks are allocated as they are reached, and never move.
const CHUNK: usize = 256;

type Chunk<T> = OnceLock<Box<[OnceLock<T>]>>;

/// Items by index, for tables whose indices guests hold: an item stays where it is for the life of the process,
/// so a reader needs neither a lock nor a reference count.
pub(super) struct Slots<T> {
    chunks: Box<[Chunk<T>]>,
    capacity: usize,
    len: AtomicUsize,
}

impl<T> Slots<T> {
    /// Room for `capacity` items; only pointers to chunks are allocated now.
    pub(super) fn new(capacity: usize) -> Self {
        let chunks = (0..capacity.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Slots { chunks, capacity, len: AtomicUsize::new(0) }
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)?.get()
    }

    /// Appends an item and tells its index; `None` if there is no room.
    pub(super) fn push(&self, value: T) -> Option<usize> {
        let claim = |len: usize| (len < self.capacity).then_some(len + 1);
        let index = self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).ok()?;
        let chunk = self.chunks[index / CHUNK].get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        // The index is this call's alone, so the slot is empty.
        let _ = chunk[index % CHUNK].set(value);
        Some(index)
    }

    /// Every item that is there, in the order of the indices.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len.load(Ordering::Relaxed)).filter_map(|index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_capacity_and_no_further() {
        let slots = Slots::new(CHUNK + 1);
        assert!(slots.get(0).is_none());
        for index in 0..=CHUNK {
            assert_eq!(slots.push(index), Some(index));
        }
        assert_eq!(slots.push(0), None);
        assert_eq!(slots.get(CHUNK), Some(&CHUNK));
        assert!(slots.get(CHUNK + 1).is_none());
        assert!(slots.get(usize::MAX).is_none());
        assert_eq!(slots.iter().count(), CHUNK + 1);
    }

    #[test]
    fn pushes_of_many_threads_all_stay() {
        let slots = Slots::new(10_000);
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let slots = &slots;
                scope.spawn(move || {
                    for item in 0..1000 {
                        let index = slots.push(thread * 1000 + item).unwrap();
                        assert_eq!(slots.get(index), Some(&(thread * 1000 + item)));
                    }
                });
            }
        });
        let mut all: Vec<_> = slots.iter().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..4000).collect::<Vec<_>>());
    }
}
