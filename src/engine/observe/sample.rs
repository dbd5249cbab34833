//! Which callbacks of streams are measured.
//!
//! Reading a clock twice takes as long as half an empty callback. So a VM that has more than a few visits of streams in
//! an epoch of 10 ms measures the callbacks of a few of them, spread over the epoch at random distances: a server with
//! little to do has exact histograms, and on one with more to do measuring takes a fixed part of a thread's time,
//! however short callbacks are. Which ones are left out depends on nothing that they do.
//!
//! At random, since a transaction makes as many visits each time: at equal distances it might always be the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// Visits that a VM measures in one epoch under steady load: 4 times three callbacks times 60 ns are less than a ten
/// thousandth of it.
const STEADY: u64 = 4;

/// Visits in an epoch that need not be saved: 16 times three callbacks times 60 ns are less than a thousandth of it.
const QUIET: u64 = 16;

/// Epochs with more visits than that, one after the other, after which the load is taken to be steady.
const PATIENCE: u32 = 10;

/// Visits that a VM measures in one epoch at most: until it is known that there are many.
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
    /// Visits in this epoch.
    visits: u64,
    /// Epochs with many visits before this one, one after the other, as far as that matters.
    busy: u32,
    /// How many may still be measured in it.
    left: u32,
    /// How many are not to be measured before the next that is.
    skip: u64,
    /// How many that is on average.
    distance: u64,
    /// State of the pseudo-random numbers.
    random: u64,
}

impl Sampler {
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        let epoch = clock.now();
        Sampler {
            clock,
            epoch,
            visits: 0,
            busy: 0,
            left: PER_EPOCH,
            skip: 0,
            distance: 0,
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }

    /// Whether to measure the callbacks of the visit that begins now.
    #[inline]
    pub(crate) fn take(&mut self) -> bool {
        let now = self.clock.now();
        if now != self.epoch {
            self.turn(now);
        }
        self.visits += 1;
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.measure()
    }

    /// Another epoch has begun: it is taken to be like the last.
    fn turn(&mut self, now: u64) {
        let visits = self.visits / now.wrapping_sub(self.epoch).max(1);
        self.busy = if visits > QUIET { (self.busy + 1).min(PATIENCE) } else { 0 };
        self.distance = if self.busy == PATIENCE { visits / STEADY } else { 0 };
        // What was put off in a time of many visits is not put off for long in one of few.
        self.skip = self.skip.min(2 * self.distance);
        (self.epoch, self.visits, self.left) = (now, 0, PER_EPOCH);
    }

    #[cold]
    fn measure(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        if self.distance > 0 {
            // Marsaglia's xorshift.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.skip = self.random % (2 * self.distance + 1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(sampler: &mut Sampler, visits: usize) -> usize {
        (0..visits).filter(|_| sampler.take()).count()
    }

    #[test]
    fn few_are_all_measured_and_of_many_so_many() {
        let clock = Arc::new(Clock::default());
        let mut sampler = Sampler::new(Arc::clone(&clock));
        for _ in 0..10 {
            assert_eq!(measured(&mut sampler, 16), 16);
            clock.tick();
        }
        for _ in 0..PATIENCE {
            assert_eq!(measured(&mut sampler, 1000), 32, "until it is known that there are many");
            clock.tick();
        }
        assert!(measured(&mut sampler, 1000) < 32);
        let mut sum = 0;
        for _ in 0..100 {
            clock.tick();
            let count = measured(&mut sampler, 1000);
            assert!(count <= 32, "{count}");
            sum += count;
        }
        assert!((300..600).contains(&sum), "about {STEADY} an epoch: {sum} in 100");
        clock.tick();
        assert!(measured(&mut sampler, 1) <= 1);
        for _ in 0..4 {
            clock.tick();
        }
        assert_eq!(measured(&mut sampler, 8), 8, "after a time of few");
    }

    #[test]
    fn each_visit_of_a_transaction_has_its_share() {
        let clock = Arc::new(Clock::default());
        let mut sampler = Sampler::new(Arc::clone(&clock));
        let mut shares = [0; 3];
        for _ in 0..1000 {
            clock.tick();
            // The distance would be a multiple of three.
            for visit in 0..STEADY * 6 {
                let at = usize::try_from(visit % 3).expect("small");
                shares[at] += usize::from(sampler.take());
            }
        }
        let all: usize = shares.iter().sum();
        for share in shares {
            assert!(share * 4 > all, "a third, about: {shares:?}");
        }
    }
}
