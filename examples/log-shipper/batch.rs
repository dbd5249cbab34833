//! Lines on their way: one batch that fills, and one that is sent until it has arrived or is given up. Memory is bounded by
//! these two. No hostcall is made here; times are nanoseconds since 1970.

use crate::config::Shipper;

/// The two batches.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    filling: Batch,
    /// When the first line of it came.
    since: u64,
    sending: Option<Sending>,
}

#[derive(Debug, Default)]
struct Batch {
    body: Vec<u8>,
    lines: u64,
}

#[derive(Debug)]
struct Sending {
    batch: Batch,
    failures: u32,
    /// When it is sent again; `None` while an answer is waited for.
    due: Option<u64>,
}

/// What became of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// So many lines have arrived.
    Arrived(u64),
    /// They are sent again later.
    Again,
    /// So many lines are given up.
    GivenUp(u64),
    /// Nobody waited for it.
    Nothing,
}

impl Batches {
    /// Whether a line may be taken. If not, it had better stay in the queue.
    pub(crate) fn has_room(&self, config: &Shipper) -> bool {
        self.filling.body.len() < config.batch_bytes() && self.filling.lines < config.batch_lines as u64
    }

    /// Adds a line. False if it is longer than a batch may be.
    pub(crate) fn add(&mut self, config: &Shipper, line: &[u8], now: u64) -> bool {
        if line.len() >= config.batch_bytes() {
            return false;
        }
        if self.filling.lines == 0 {
            self.since = now;
        }
        self.filling.body.extend_from_slice(line);
        self.filling.body.push(b'\n');
        self.filling.lines += 1;
        true
    }

    /// What is to be sent now, and then is waited for: a batch that is full or has waited long enough, any batch at all with
    /// `flush`, or again the one that failed.
    pub(crate) fn next(&mut self, config: &Shipper, now: u64, flush: bool) -> Option<&[u8]> {
        if self.sending.is_none() {
            let waited = now.saturating_sub(self.since);
            let due = flush || !self.has_room(config) || u128::from(waited) >= config.flush().as_nanos();
            if self.filling.lines == 0 || !due {
                return None;
            }
            let batch = std::mem::take(&mut self.filling);
            self.sending = Some(Sending { batch, failures: 0, due: Some(now) });
        }
        let sending = self.sending.as_mut()?;
        if sending.due.is_some_and(|due| flush || due <= now) {
            sending.due = None;
            Some(&sending.batch.body)
        } else {
            None
        }
    }

    /// Whether anything is left to send or to wait for.
    pub(crate) fn is_empty(&self) -> bool {
        self.filling.lines == 0 && self.sending.is_none()
    }

    /// What was sent has been answered, or not.
    pub(crate) fn answered(&mut self, config: &Shipper, arrived: bool, now: u64) -> Outcome {
        let Some(sending) = self.sending.as_mut().filter(|sending| sending.due.is_none()) else {
            return Outcome::Nothing;
        };
        let lines = sending.batch.lines;
        if arrived {
            self.sending = None;
            return Outcome::Arrived(lines);
        }
        sending.failures += 1;
        if sending.failures >= config.attempts {
            self.sending = None;
            return Outcome::GivenUp(lines);
        }
        let wait = u64::try_from(config.retry(sending.failures).as_nanos()).unwrap_or(u64::MAX);
        sending.due = Some(now.saturating_add(wait));
        Outcome::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn config() -> Shipper {
        let json = br#"{"queue": "q", "cluster": "c", "batch_lines": 3, "batch_kib": 1, "flush_ms": 100, "attempts": 3, "retry_ms": 10}"#;
        Shipper::parse(json).unwrap()
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_has_waited() {
        let (config, mut batches) = (config(), Batches::default());
        assert_eq!(batches.next(&config, 0, true), None);
        assert!(batches.add(&config, b"one", 5 * MS));
        assert_eq!(batches.next(&config, 104 * MS, false), None);
        assert_eq!(batches.next(&config, 105 * MS, false), Some(&b"one\n"[..]));
        // Meanwhile the next one fills, and waits.
        for line in [b"2", b"3", b"4"] {
            assert!(batches.has_room(&config) && batches.add(&config, line, 106 * MS));
        }
        assert!(!batches.has_room(&config));
        assert_eq!(batches.next(&config, 900 * MS, true), None);
        assert_eq!(batches.answered(&config, true, 900 * MS), Outcome::Arrived(1));
        assert_eq!(batches.next(&config, 107 * MS, false), Some(&b"2\n3\n4\n"[..]));
        assert!(batches.has_room(&config) && !batches.is_empty());
        assert_eq!(batches.answered(&config, true, 0), Outcome::Arrived(3));
        assert!(batches.is_empty());
    }

    #[test]
    fn what_fails_is_sent_again_and_given_up_at_last() {
        let (config, mut batches) = (config(), Batches::default());
        assert!(batches.add(&config, b"one", 0));
        assert_eq!(batches.next(&config, 0, true), Some(&b"one\n"[..]));
        assert_eq!(batches.answered(&config, false, 0), Outcome::Again);
        assert_eq!(batches.answered(&config, false, 0), Outcome::Nothing);
        assert_eq!(batches.next(&config, 9 * MS, false), None);
        assert_eq!(batches.next(&config, 10 * MS, false), Some(&b"one\n"[..]));
        assert_eq!(batches.answered(&config, false, 10 * MS), Outcome::Again);
        assert_eq!(batches.next(&config, 29 * MS, false), None);
        assert_eq!(batches.next(&config, 30 * MS, false), Some(&b"one\n"[..]));
        assert_eq!(batches.answered(&config, false, 30 * MS), Outcome::GivenUp(1));
        assert!(batches.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let (config, mut batches) = (config(), Batches::default());
        assert!(!batches.add(&config, &[b'x'; 1024], 0));
        assert!(batches.add(&config, &[b'x'; 1023], 0));
        assert!(!batches.has_room(&config), "a full one in bytes");
        assert_eq!(batches.next(&config, 0, false).map(<[u8]>::len), Some(1024));
    }
}
