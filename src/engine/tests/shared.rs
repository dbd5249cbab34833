//! Shared data under load, in a process of its own: what it takes of memory and of time.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use engine::shared::{DataStats, NamespaceLimits, QueueConsumer, Shared};
use parking_lot::Mutex;

/// One of these tests at a time: each measures.
static ALONE: Mutex<()> = Mutex::new(());

/// The process's resident memory in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size()
}

fn stats(shared: &Shared, vm_id: &str) -> DataStats {
    let mut found = None;
    shared.data.for_each(|name, stats| {
        if name == vm_id {
            found = Some(stats);
        }
    });
    found.expect("the namespace is there")
}

/// Ten million keys go where 400,000 have room.
#[test]
fn ten_million_keys_stay_within_64_mib() {
    const KEYS: u32 = 10_000_000;
    const CEILING: usize = 64 << 20;
    /// What the process may take beyond: the allocator's own, and what is in flight.
    const MARGIN: usize = 4 << 20;
    let _alone = ALONE.lock();
    let shared = Shared::default();
    shared.data.configure("vm", NamespaceLimits { bytes: CEILING, entries: usize::MAX });
    let key = |n: u32| format!("session/{n:08}").into_bytes();
    let value = [0x5A; 32];
    // The test's own buffers are there before it measures.
    shared.data.set("other", &key(0), &value, 0).unwrap();
    let before = resident();
    let mut most = before;
    let begun = Instant::now();
    for n in 0..KEYS {
        // Sizes that the allocator has to fit into each other.
        shared.data.set("vm", &key(n), &value[..(n % 33) as usize], 0).unwrap();
        if n % 50_000 == 0 {
            most = most.max(resident());
            let stats = stats(&shared, "vm");
            assert!(stats.bytes <= CEILING, "{stats:?}");
            assert_eq!(stats.entries as u64 + stats.evicted, u64::from(n) + 1, "each has its place or is counted");
        }
    }
    let took = begun.elapsed();
    let grown = most - before;
    let stats = stats(&shared, "vm");
    assert_eq!(stats.entries as u64 + stats.evicted, u64::from(KEYS));
    assert_eq!(stats.expired, 0);
    // Full: the next one of the largest size would not fit.
    assert!(stats.bytes > CEILING - 1024 && stats.bytes <= CEILING, "{stats:?}");
    println!(
        "{KEYS} keys in {took:?}: {} entries, {} MiB charged, {} MiB taken at most, {} evicted",
        stats.entries,
        stats.bytes >> 20,
        grown >> 20,
        stats.evicted
    );
    assert!(grown <= CEILING + MARGIN, "{grown} bytes for a ceiling of {CEILING}");

    // The oldest have left. The order is exact to 1.5 % of the entries, see `namespace.rs`.
    let slack = u32::try_from(stats.entries / 50).unwrap();
    let kept = u32::try_from(stats.entries).unwrap();
    let mut there = 0;
    let mut out = Vec::new();
    for n in 0..KEYS {
        out.clear();
        let found = shared.data.get("vm", &key(n), &mut out).is_some();
        there += u32::from(found);
        let age = KEYS - n;
        assert!(found || age > kept - slack, "{n} left too early");
        assert!(!found || age <= kept + slack, "{n} stayed too long");
        assert!(!found || out == value[..(n % 33) as usize]);
    }
    assert_eq!(there, kept);

    // The same from several threads, each of which the allocator gives a heap of its own.
    thread::scope(|scope| {
        for thread in 0..4 {
            let (shared, key) = (&shared, &key);
            scope.spawn(move || {
                for n in 0..500_000u32 {
                    shared.data.set("vm", &key(KEYS + 4 * n + thread), &value[..(n % 33) as usize], 0).unwrap();
                }
            });
        }
    });
    let grown = resident().saturating_sub(before);
    println!("2000000 more keys from 4 threads: {} MiB taken", grown >> 20);
    assert!(grown <= CEILING + MARGIN, "{grown} bytes for a ceiling of {CEILING}");
    let after = self::stats(&shared, "vm");
    assert_eq!(after.entries as u64 + after.evicted, u64::from(KEYS) + 2_000_000);
}

/// Runs `count` so often in each thread, all at once, and tells how many there were a second.
fn rate(threads: usize, each: u32, count: impl Fn(&mut Vec<u8>) + Sync) -> f64 {
    let start = Barrier::new(threads + 1);
    let begun = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut out = Vec::new();
                start.wait();
                for _ in 0..each {
                    count(&mut out);
                }
            });
        }
        start.wait();
        Instant::now()
    });
    (threads as f64) * f64::from(each) / begun.elapsed().as_secs_f64()
}

/// One key that every thread wants: what hostcalls do, without the guest.
#[test]
fn increments_of_all_threads_at_once_are_exact_and_fast() {
    const EACH: u32 = 500_000;
    /// Far below what two cores do, so that a machine that is busy with other things passes.
    const LEAST: f64 = 200_000.0;
    let _alone = ALONE.lock();
    let threads = thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2);
    let total = u64::from(EACH) * threads as u64;
    let shared = Shared::default();
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    shared.data.set("vm", b"swapped", &0u64.to_le_bytes(), 0).unwrap();
    let lost = AtomicU64::new(0);
    let swapped = rate(threads, EACH, |out| {
        loop {
            out.clear();
            let version = shared.data.get("vm", b"swapped", out).unwrap();
            match shared.data.set("vm", b"swapped", &(number(out) + 1).to_le_bytes(), version) {
                Ok(()) => break,
                Err(_) => _ = lost.fetch_add(1, Ordering::Relaxed),
            }
        }
    });
    // Each attempt is two calls, won or lost.
    let attempts = lost.load(Ordering::Relaxed) + total;
    let swaps = swapped * attempts as f64 / total as f64;
    let added = rate(threads, EACH, |_| _ = shared.data.increment("vm", b"added", 1, None).unwrap());
    println!(
        "{threads} threads, one key: {swapped:.0} increments by compare-and-swap a second, {swaps:.0} attempts, \
         {:.0} calls; {added:.0} increments in one step",
        2.0 * swaps
    );
    for key in [&b"swapped"[..], b"added"] {
        let mut out = Vec::new();
        shared.data.get("vm", key, &mut out).unwrap();
        assert_eq!(number(&out), total);
    }
    assert!(2.0 * swaps > LEAST && added > LEAST);
    assert!(added > swapped, "one step is less work than two and what is lost");
}

struct Deaf;

impl QueueConsumer for Deaf {
    fn ready(&self, _queue: u32) {}
}

/// A producer pays for consumers once a turn of theirs, not for each item.
#[test]
fn an_item_costs_no_more_where_a_consumer_is_told_already() {
    const ITEMS: u32 = 1_000_000;
    let _alone = ALONE.lock();
    let shared = Shared::default();
    let through = |queue: u32| {
        let begun = Instant::now();
        for _ in 0..ITEMS {
            shared.queues.enqueue(queue, b"item").unwrap();
            shared.queues.take(queue).unwrap();
        }
        begun.elapsed() / ITEMS
    };
    let nobody = shared.queues.register("vm", b"nobody").unwrap();
    let told = shared.queues.register("vm", b"told").unwrap();
    let _consumer = shared.queues.subscribe(told, Arc::new(Deaf)).unwrap();
    shared.queues.enqueue(told, b"the consumer is told").unwrap();
    let (nobody, told) = (through(nobody), through(told));
    println!("in and out of a queue: {nobody:?} with no consumer, {told:?} with one that is told");
    assert!(told < 3 * nobody, "{told:?} and {nobody:?}");
}
