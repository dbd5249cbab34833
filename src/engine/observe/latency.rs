//! A distribution of times, in buckets that are the same for all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::collect::Buckets;

/// The greatest time of each bucket but the last, in nanoseconds.
const BOUNDS: [u64; 19] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Times counted by any thread: what is recorded here is so rare that threads do not meet.
#[derive(Debug, Default)]
pub(super) struct Latency {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Latency {
    pub(super) fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|&bound| bound < nanos);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// In seconds.
    pub(super) fn read(&self) -> Buckets {
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(BOUNDS.len());
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            cumulative.push((seconds(*bound), count));
        }
        count += self.buckets[BOUNDS.len()].load(Ordering::Relaxed);
        Buckets { cumulative, count, sum: seconds(self.nanos.load(Ordering::Relaxed)) }
    }
}

/// Nanoseconds as seconds. Divided, since a product with 1e-9 shows in the last digit.
#[expect(clippy::cast_precision_loss, reason = "a time to 53 bits")]
pub(super) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_where_it_belongs() {
        let latency = Latency::default();
        for nanos in [0, 500, 501, 1_000_000, 20_000_000_000] {
            latency.record(Duration::from_nanos(nanos));
        }
        let read = latency.read();
        assert_eq!(read.count, 5);
        assert_eq!(read.cumulative.len(), BOUNDS.len());
        assert_eq!(read.cumulative[0], (0.000_000_5, 2));
        assert_eq!(read.cumulative[1], (0.000_001, 3));
        assert_eq!(read.cumulative[10], (0.001, 4));
        assert_eq!(read.cumulative.last(), Some(&(10.0, 4)), "the last is beyond all bounds");
        assert!((read.sum - 20.001_001_001).abs() < 1e-9, "{}", read.sum);
        assert!(BOUNDS.is_sorted());
    }
}
