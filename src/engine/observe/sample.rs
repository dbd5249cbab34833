//! Which callbacks of streams are measured.
//!
//! Reading a clock twice takes as long as half an empty callback. So each VM measures the callbacks of so many visits of
//! streams in an epoch of 10 ms, and none beyond: a server with little to do has exact histograms, and on a busy one
//! measuring takes a fixed part of a thread's time, however short callbacks are. Which ones are left out depends on when
//! they come, not on how long they take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// Visits that a VM measures in one epoch: 32 times three callbacks times 60 ns are less than a thousandth of it.
const PER_EPOCH: u32 = 32;

/// Counts epochs. Written a hundred times a second and read by all, so that every processor keeps a copy.
#[derive(Debug, Default)]
pub(crate) struct Clock(CachePadded<AtomicU64>);

impl Clock {
    /// An epoch has passed.
    pub(crate) fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One VM's share of an epoch.
#[derive(Debug)]
pub(crate) struct Sampler {
    clock: Arc<Clock>,
    epoch: u64,
    left: u32,
}

impl Sampler {
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        let epoch = clock.now();
        Sampler { clock, epoch, left: PER_EPOCH }
    }

    /// Whether to measure the callbacks of the visit that begins now.
    #[inline]
    pub(crate) fn take(&mut self) -> bool {
        let now = self.clock.now();
        if now != self.epoch {
            self.epoch = now;
            self.left = PER_EPOCH;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_an_epoch() {
        let clock = Arc::new(Clock::default());
        let mut sampler = Sampler::new(Arc::clone(&clock));
        assert_eq!((0..1000).filter(|_| sampler.take()).count(), 32);
        clock.tick();
        assert_eq!((0..10).filter(|_| sampler.take()).count(), 10);
        clock.tick();
        assert_eq!((0..1000).filter(|_| sampler.take()).count(), 32, "what was left over is not added");
    }
}
