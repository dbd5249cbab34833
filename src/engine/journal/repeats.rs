//! Events that occur again and again: told once, then counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::line::Line;
use super::{Place, Thread};

/// How many kinds of events are told apart. Beyond that, new ones are counted together.
const MAX_KINDS: usize = 512;

/// After this time, somebody wants to know how often the event has occurred.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// And each time after that. An event that has not occurred for so long is a new one when it does.
const WINDOW: Duration = Duration::from_secs(60);

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It is told.
    First,
    /// It is counted, and somebody has to sum up one day.
    Counted,
}

#[derive(Debug)]
struct Kind {
    what: String,
    filter: String,
    rule: String,
    since: Instant,
    until: Instant,
    count: u64,
    thread: Thread,
    txn: Option<u64>,
}

/// What occurred again, and how often.
#[derive(Debug)]
pub(super) struct Summary {
    kind: Kind,
    window: Duration,
}

/// The kinds of events that have been told.
#[derive(Debug)]
pub(super) struct Repeats {
    kinds: Option<HashMap<u64, Kind>>,
    /// Those for which there was no room.
    others: Option<Kind>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self::new()
    }
}

impl Kind {
    fn new(now: Instant, what: &str, place: Place<'_>) -> Self {
        Kind {
            what: what.to_owned(),
            filter: place.filter.to_owned(),
            rule: place.rule.to_owned(),
            since: now,
            until: now + FIRST_LOOK,
            count: 0,
            thread: place.thread,
            txn: place.txn,
        }
    }

    fn again(&mut self, place: Place<'_>) {
        self.count += 1;
        (self.thread, self.txn) = (place.thread, place.txn);
    }

    /// What has been counted, if anything; counts anew from now on.
    fn sum_up(&mut self, now: Instant) -> Option<Summary> {
        let window = now.saturating_duration_since(self.since);
        let count = std::mem::take(&mut self.count);
        (self.since, self.until) = (now, now + WINDOW);
        (count > 0).then(|| Summary {
            kind: Kind {
                count,
                what: self.what.clone(),
                filter: self.filter.clone(),
                rule: self.rule.clone(),
                ..*self
            },
            window,
        })
    }
}

impl Summary {
    pub(super) fn line(&self) -> Line {
        let Kind { what, filter, rule, count, thread, txn, .. } = &self.kind;
        let place = Place { filter, rule, thread: *thread, txn: *txn };
        let times = if *count == 1 { "once".to_owned() } else { format!("{} times", grouped(*count)) };
        let filter = if filter.is_empty() { String::new() } else { format!(" (filter '{filter}')") };
        let seconds = (self.window.as_millis() + 500) / 1000;
        Line::of(format_args!("{what} again: {times} in the last {seconds} s{filter}"), place, None)
    }
}

/// 1204 as 1,204.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Repeats {
    pub(super) const fn new() -> Self {
        Repeats { kinds: None, others: None }
    }

    /// An event occurs.
    pub(super) fn note(&mut self, now: Instant, key: u64, what: &str, place: Place<'_>) -> Told {
        let kinds = self.kinds.get_or_insert_default();
        if let Some(known) = kinds.get_mut(&key) {
            known.again(place);
            return Told::Counted;
        }
        if kinds.len() >= MAX_KINDS {
            // Those that have not occurred again are told anew if they do.
            kinds.retain(|_, kind| kind.count > 0 || kind.until > now);
        }
        if kinds.len() < MAX_KINDS {
            kinds.insert(key, Kind::new(now, what, place));
            return Told::First;
        }
        let others = self.others.get_or_insert_with(|| Kind::new(now, "other failures", Place::default()));
        others.again(place);
        Told::Counted
    }

    /// What is to be said by now. Kinds that have not occurred for long are forgotten.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Summary> {
        let mut summaries = Vec::new();
        if let Some(kinds) = &mut self.kinds {
            kinds.retain(|_, kind| {
                if kind.until > now {
                    return true;
                }
                // One that was quiet in its first seconds is remembered for a whole window.
                let young = kind.count == 0 && kind.until.duration_since(kind.since) < WINDOW;
                let summary = kind.sum_up(now);
                let stays = summary.is_some() || young;
                summaries.extend(summary);
                stays
            });
        }
        if let Some(others) = self.others.as_mut().filter(|others| others.until <= now) {
            summaries.extend(others.sum_up(now));
            self.others = None;
        }
        summaries
    }

    /// When something is to be said, or forgotten.
    pub(super) fn next(&self) -> Option<Instant> {
        self.kinds.iter().flat_map(HashMap::values).chain(&self.others).map(|kind| kind.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(txn: u64) -> Place<'static> {
        Place { filter: "auth", rule: "rule a -> b", thread: Thread::Slot(1), txn: Some(txn) }
    }

    #[test]
    fn repetitions_are_counted_and_summed_up() {
        let begin = Instant::now();
        let mut repeats = Repeats::default();
        assert_eq!(repeats.note(begin, 1, "trap 3f9a", place(1)), Told::First);
        for txn in 2..=1205 {
            assert_eq!(repeats.note(begin, 1, "trap 3f9a", place(txn)), Told::Counted);
        }
        assert_eq!(repeats.note(begin, 2, "trap 77", place(3)), Told::First);
        assert!(repeats.due(begin + FIRST_LOOK / 2).is_empty());
        assert_eq!(repeats.next(), Some(begin + FIRST_LOOK));
        let now = begin + FIRST_LOOK;
        let lines: Vec<_> = repeats.due(now).iter().map(|summary| summary.line().to_string()).collect();
        assert_eq!(lines, ["trap 3f9a again: 1,204 times in the last 10 s (filter 'auth')"]);

        // It goes on: counted, and told of once a minute.
        assert_eq!(repeats.note(now, 1, "trap 3f9a", place(9)), Told::Counted);
        assert!(repeats.due(now + WINDOW / 2).is_empty());
        let lines: Vec<_> = repeats.due(now + WINDOW).iter().map(|summary| summary.line().to_string()).collect();
        assert_eq!(lines, ["trap 3f9a again: once in the last 60 s (filter 'auth')"]);
        // A minute without it: it is forgotten, and new when it comes back.
        assert!(repeats.due(now + 3 * WINDOW).is_empty());
        assert_eq!(repeats.next(), None);
        assert_eq!(repeats.note(now + 4 * WINDOW, 1, "trap 3f9a", place(10)), Told::First);
    }

    #[test]
    fn as_many_kinds_as_anybody_makes_are_bounded() {
        let begin = Instant::now();
        let mut repeats = Repeats::default();
        let first = (0..5_000).filter(|key| repeats.note(begin, *key, "x", place(*key)) == Told::First).count();
        assert_eq!(first, MAX_KINDS);
        assert_eq!(repeats.kinds.as_ref().unwrap().len(), MAX_KINDS);
        let lines: Vec<_> = repeats.due(begin + FIRST_LOOK).iter().map(|summary| summary.line().to_string()).collect();
        assert_eq!(lines, ["other failures again: 4,488 times in the last 10 s"]);
        // Room is made by those that did not come again.
        assert!(repeats.due(begin + FIRST_LOOK + WINDOW).is_empty());
        assert_eq!(repeats.note(begin + 2 * WINDOW, 9_999, "x", place(1)), Told::First);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([1, 999, 1_000, 1_234_567].map(grouped), ["1", "999", "1,000", "1,234,567"]);
    }
}
