//! A token bucket in whole numbers; no hostcall is made here.
//!
//! A bucket is counted in units so small that nothing is ever rounded: one nanosecond brings [`Rate::rate`] of them, and
//! one request takes [`Rate::cost`]. Over any time, no request more and none less is let through than the rate says.

/// How large a bucket is and how fast it fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Requests in [`Rate::window`].
    pub(crate) limit: u64,
    /// Nanoseconds.
    pub(crate) window: u64,
    /// Requests that a full bucket holds.
    pub(crate) burst: u64,
    /// Units that a request takes.
    cost: u64,
    /// Units that come each nanosecond.
    rate: u64,
    /// Units that a full bucket holds.
    capacity: u64,
}

/// A bucket as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Units in it.
    level: u64,
    /// When it held them, in nanoseconds since 1970.
    at: u64,
}

/// What becomes of a request, and what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Whether there was a token for it.
    pub(crate) passes: bool,
    /// What is to be stored before the decision counts. Nothing, where a request is refused: so refusals cost no write.
    pub(crate) store: Option<Bucket>,
    /// Whole requests that are left.
    pub(crate) remaining: u64,
    /// Nanoseconds until the bucket is full again.
    pub(crate) full_in: u64,
    /// Nanoseconds until there is a token, if there is none now.
    pub(crate) token_in: u64,
}

impl Rate {
    /// `limit` requests in `window` nanoseconds, and `burst` at once. `None` if a number is zero or the product of window and
    /// burst is beyond what is counted with.
    pub(crate) fn new(limit: u64, window: u64, burst: u64) -> Option<Rate> {
        if limit == 0 || window == 0 || burst == 0 {
            return None;
        }
        let divisor = greatest_common_divisor(limit, window);
        let (cost, rate) = (window / divisor, limit / divisor);
        let capacity = cost.checked_mul(burst)?;
        Some(Rate { limit, window, burst, cost, rate, capacity })
    }

    /// Takes a token at `now`, if there is one. A bucket that nobody has stored yet, and a value that is no bucket, are full.
    ///
    /// `now` has to be read after `stored` was: then it is earlier than what is stored only if the clock was set back. The
    /// bucket then keeps what it holds and fills from there, instead of waiting until the clock is where it was.
    pub(crate) fn take(&self, stored: Option<&[u8]>, now: u64) -> Decision {
        let (level, set_back) = match stored.and_then(Bucket::decode) {
            Some(Bucket { level, at }) => {
                let since = now.saturating_sub(at);
                (level.saturating_add(since.saturating_mul(self.rate)).min(self.capacity), now < at)
            }
            None => (self.capacity, false),
        };
        let left = level.checked_sub(self.cost);
        let now_in_it = left.unwrap_or(level);
        Decision {
            passes: left.is_some(),
            store: (left.is_some() || set_back).then_some(Bucket { level: now_in_it, at: now }),
            remaining: now_in_it / self.cost,
            full_in: (self.capacity - now_in_it).div_ceil(self.rate),
            token_in: if left.is_some() { 0 } else { (self.cost - level).div_ceil(self.rate) },
        }
    }

    /// Nanoseconds in which an empty bucket fills.
    pub(crate) fn fills_in(&self) -> u64 {
        self.capacity.div_ceil(self.rate)
    }
}

impl Bucket {
    /// As it is stored: two numbers, little endian.
    pub(crate) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.level.to_le_bytes());
        bytes[8..].copy_from_slice(&self.at.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Bucket> {
        let (level, at) = bytes.split_first_chunk::<8>()?;
        Some(Bucket { level: u64::from_le_bytes(*level), at: u64::from_le_bytes(at.try_into().ok()?) })
    }
}

/// Whole seconds, rounded up.
pub(crate) fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(1_000_000_000)
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Takes at each of these times, from a new bucket on; tells which were let through.
    fn run(rate: &Rate, times: impl IntoIterator<Item = u64>) -> Vec<bool> {
        let mut stored: Option<[u8; 16]> = None;
        let mut story = Vec::new();
        for now in times {
            let decision = rate.take(stored.as_ref().map(<[u8; 16]>::as_slice), now);
            if let Some(bucket) = decision.store {
                stored = Some(bucket.encode());
            }
            story.push(decision.passes);
        }
        story
    }

    fn passed(story: &[bool]) -> u64 {
        story.iter().filter(|passed| **passed).count() as u64
    }

    #[test]
    fn a_new_bucket_is_full_and_no_fuller() {
        let rate = Rate::new(10, SECOND, 25).unwrap();
        assert_eq!(passed(&run(&rate, [0; 100])), 25);
        // After an hour as well.
        let mut times = vec![0];
        times.extend([3600 * SECOND; 100]);
        assert_eq!(passed(&run(&rate, times)), 26);
    }

    #[test]
    fn over_any_time_the_number_is_exact() {
        // Three in a second do not divide a second's nanoseconds: the error would add up if anything was rounded.
        for (limit, window, burst) in
            [(3, SECOND, 2), (7, 60 * SECOND, 5), (1_000, SECOND, 50), (999_983, SECOND, 3), (1, 3600 * SECOND, 2)]
        {
            let rate = Rate::new(limit, window, burst).unwrap();
            let step = (window / limit / 7).max(1);
            let start = 1_800_000_000 * SECOND;
            // Several times as many as the limit; the last asks at `end`.
            let count = 20_000;
            let end = step * (count - 1);
            let story = run(&rate, (0..count).map(|n| start + n * step));
            let exact = u128::from(burst) + u128::from(end) * u128::from(limit) / u128::from(window);
            assert_eq!(u128::from(passed(&story)), exact, "{limit} in {window}");
        }
    }

    #[test]
    fn what_is_left_is_told_and_when_there_is_more() {
        let rate = Rate::new(2, SECOND, 3).unwrap();
        let one = rate.take(None, 5);
        assert_eq!((one.remaining, one.full_in, one.token_in), (2, SECOND / 2, 0));
        let empty = Bucket { level: 0, at: 5 }.encode();
        let none = rate.take(Some(&empty), 5);
        assert_eq!((none.passes, none.store), (false, None));
        assert_eq!((none.remaining, none.full_in, none.token_in), (0, 3 * SECOND / 2, SECOND / 2));
        // A nanosecond before there is one, and then.
        assert_eq!(rate.take(Some(&empty), 5 + SECOND / 2 - 1).token_in, 1);
        assert!(rate.take(Some(&empty), 5 + SECOND / 2).passes);
        assert_eq!(rate.fills_in(), 3 * SECOND / 2);
        assert_eq!((seconds(0), seconds(1), seconds(SECOND), seconds(SECOND + 1)), (0, 1, 1, 2));
    }

    #[test]
    fn a_clock_that_is_set_back_gives_nothing_and_takes_nothing() {
        let rate = Rate::new(1, SECOND, 2).unwrap();
        let story = run(&rate, [100, 100, 50, 51, 51, 52].map(|seconds| seconds * SECOND));
        assert_eq!(story, [true, true, false, true, false, true]);
        let one = Bucket { level: SECOND, at: 100 * SECOND }.encode();
        assert_eq!(rate.take(Some(&one), 40 * SECOND).store, Some(Bucket { level: 0, at: 40 * SECOND }));
    }

    #[test]
    fn what_is_no_bucket_counts_as_a_full_one() {
        let rate = Rate::new(1, SECOND, 2).unwrap();
        for value in [&b""[..], b"8 bytes.", b"seventeen bytes.."] {
            assert_eq!(rate.take(Some(value), 7), rate.take(None, 7));
        }
    }

    #[test]
    fn numbers_that_cannot_be_counted_with_are_refused() {
        assert_eq!(Rate::new(0, SECOND, 1), None);
        assert_eq!(Rate::new(1, SECOND, 0), None);
        assert_eq!(Rate::new(1, 0, 1), None);
        assert_eq!(Rate::new(1, 86_400 * SECOND, 1_000_000), None);
        assert!(Rate::new(1_000_000, 86_400 * SECOND, 1_000_000).is_some());
        assert!(Rate::new(u64::MAX, SECOND, u64::MAX / SECOND).is_some());
    }
}
