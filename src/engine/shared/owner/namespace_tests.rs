use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn value(data: &Namespace, key: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut out = Vec::new();
    data.get(key, |bytes| out.extend_from_slice(bytes)).map(|cas| (out, cas))
}

#[test]
fn compare_and_swap_is_that_of_cpp_host() {
    let data = Namespace::new(NamespaceLimits::default());
    assert_eq!(value(&data, b"k"), None);
    // A version given for a key that is not there does no harm.
    data.set(b"k", b"1", 77, None).unwrap();
    let (_, first) = value(&data, b"k").unwrap();
    assert_ne!(first, 0);
    assert!(matches!(data.set(b"k", b"2", first + 1, None), Err(Error::CasMismatch)));
    data.set(b"k", b"2", first, None).unwrap();
    assert!(matches!(data.set(b"k", b"3", first, None), Err(Error::CasMismatch)));
    data.set(b"k", b"", 0, None).unwrap();
    let (bytes, second) = value(&data, b"k").unwrap();
    assert_eq!(bytes, b"");
    assert_ne!(second, first);
    assert!(matches!(data.delete(b"k", first), Err(Error::CasMismatch)));
    data.delete(b"k", second).unwrap();
    assert!(matches!(data.delete(b"k", 0), Err(Error::NotFound)));
    // A version held from before the key went and came back does not match by chance.
    data.set(b"k", b"new", 0, None).unwrap();
    assert!(matches!(data.set(b"k", b"4", second, None), Err(Error::CasMismatch)));
}

#[test]
fn a_value_larger_than_the_ceiling_is_refused_and_takes_the_old_one_along() {
    let data = Namespace::new(NamespaceLimits { bytes: 1000, entries: 10 });
    data.set(b"k", b"small", 0, None).unwrap();
    assert!(matches!(data.set(b"k", &[0; 900], 0, None), Err(Error::TooLarge(_))));
    assert_eq!(value(&data, b"k"), None);
    assert_eq!(data.stats(), DataStats { entries: 0, bytes: 0, evicted: 1, expired: 0 });
    let none = Namespace::new(NamespaceLimits { bytes: 1000, entries: 0 });
    assert!(matches!(none.set(b"k", b"", 0, None), Err(Error::TooLarge(_))));
}

#[test]
fn small_namespaces_evict_in_the_exact_order_of_writes() {
    let data = Namespace::new(NamespaceLimits { bytes: 1 << 20, entries: 100 });
    for n in 0..100u32 {
        data.set(&n.to_le_bytes(), b"", 0, None).unwrap();
    }
    // Written again, hence young.
    data.set(&0u32.to_le_bytes(), b"", 0, None).unwrap();
    for n in 100..150u32 {
        data.set(&n.to_le_bytes(), b"", 0, None).unwrap();
        assert_eq!(value(&data, &(n - 99).to_le_bytes()), None, "{n}");
        assert_eq!(data.stats().entries, 100);
    }
    assert!(value(&data, &0u32.to_le_bytes()).is_some());
    assert_eq!(data.stats().evicted, 50);
}

#[test]
fn large_namespaces_evict_nearly_in_order() {
    let entries = 100_000;
    let data = Namespace::new(NamespaceLimits { bytes: 1 << 30, entries });
    let written = 3 * entries as u32;
    for n in 0..written {
        data.set(&n.to_le_bytes(), b"", 0, None).unwrap();
    }
    let slack = 5_000;
    for n in 0..written {
        let age = (written - n) as usize;
        let there = value(&data, &n.to_le_bytes()).is_some();
        assert!(there || age > entries - slack, "{n} left too early");
        assert!(!there || age <= entries + slack, "{n} stayed too long");
    }
}

#[test]
fn expiry_hides_and_removes() {
    let hour = Duration::from_secs(3600);
    let mut data = Namespace::new(NamespaceLimits::default());
    data.set(b"short", b"1", 0, Some(hour)).unwrap();
    data.set(b"long", b"1", 0, Some(Duration::MAX)).unwrap();
    data.set(b"renewed", b"1", 0, Some(hour)).unwrap();
    data.set(b"renewed", b"1", 0, None).unwrap();
    assert_eq!(data.increment(b"window", 1, Some(hour)).unwrap(), 1);
    assert_eq!(data.increment(b"window", 1, Some(Duration::MAX)).unwrap(), 2);
    assert!(data.get(b"short", |_| ()).is_some());
    data.started -= 2 * hour;
    assert_eq!(data.keys_with_prefix(b"", 10), [b"long"[..].into(), b"renewed"[..].into()]);
    assert!(data.get(b"short", |_| ()).is_none());
    assert!(data.get(b"long", |_| ()).is_some());
    assert!(data.get(b"renewed", |_| ()).is_some());
    // The first increment's time counts, and it is over.
    assert_eq!(data.increment(b"window", 1, None).unwrap(), 1);
    assert_eq!((data.stats().expired, data.stats().entries), (2, 3));
}

/// All of it.
fn sweep(data: &Namespace) {
    for _ in 0..SWEEPS {
        data.sweep();
    }
}

#[test]
fn what_has_expired_is_freed_without_being_asked_for() {
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    let mut data = Namespace::new(NamespaceLimits::default());
    for n in 0..10_000u32 {
        let ttl = [None, Some(minute), Some(hour)][n as usize % 3];
        data.set(&n.to_le_bytes(), b"value", 0, ttl).unwrap();
    }
    sweep(&data);
    assert_eq!((data.stats().entries, data.stats().expired), (10_000, 0));
    data.started -= 2 * minute;
    sweep(&data);
    let stats = data.stats();
    assert_eq!((stats.entries, stats.expired, stats.evicted), (6_667, 3_333, 0));
    let stored: usize = data.shards.iter().map(|shard| shard.lock().entries().len()).sum();
    assert_eq!(stored, 6_667, "freed, not hidden");
    assert_eq!(stats.bytes, 6_667 * (OVERHEAD + 4 + 5));
    for n in 0..10_000u32 {
        assert_eq!(value(&data, &n.to_le_bytes()).is_some(), n % 3 != 1);
    }
    data.started -= hour;
    sweep(&data);
    assert_eq!((data.stats().entries, data.stats().expired), (3_334, 6_666));
    assert!(data.shards.iter().all(|shard| shard.lock().soonest() == u64::MAX), "nothing more will expire");
}

#[test]
fn what_leaves_expired_to_make_room_is_not_counted_as_evicted() {
    let mut data = Namespace::new(NamespaceLimits { bytes: 1 << 20, entries: 2 });
    data.set(b"short", b"", 0, Some(Duration::from_secs(60))).unwrap();
    data.set(b"long", b"", 0, None).unwrap();
    data.started -= Duration::from_secs(120);
    data.set(b"third", b"", 0, None).unwrap();
    assert_eq!((data.stats().expired, data.stats().evicted), (1, 0));
    data.set(b"fourth", b"", 0, None).unwrap();
    assert_eq!((data.stats().expired, data.stats().evicted), (1, 1));
}

#[test]
fn lower_ceilings_take_effect_at_once_and_the_oldest_leave() {
    let data = Namespace::new(NamespaceLimits { bytes: 1 << 20, entries: 100 });
    for n in 0..100u32 {
        data.set(&n.to_le_bytes(), b"", 0, None).unwrap();
    }
    data.configure(NamespaceLimits { bytes: 1 << 20, entries: 40 });
    assert_eq!((data.stats().entries, data.stats().evicted), (40, 60));
    for n in 0..100u32 {
        assert_eq!(value(&data, &n.to_le_bytes()).is_some(), n >= 60, "{n}");
    }
    data.configure(NamespaceLimits { bytes: 10 * (OVERHEAD + 4), entries: 1000 });
    assert_eq!((data.stats().entries, data.stats().evicted), (10, 90));
    assert!(matches!(data.set(b"large", &[0; 10 * OVERHEAD], 0, None), Err(Error::TooLarge(_))));
    data.configure(NamespaceLimits { bytes: 1 << 20, entries: 1000 });
    data.set(b"large", &[0; 10 * OVERHEAD], 0, None).unwrap();
    assert_eq!(data.stats().entries, 11);
    data.configure(NamespaceLimits { bytes: 0, entries: 0 });
    assert_eq!((data.stats().entries, data.stats().bytes), (0, 0));
}

/// Ceilings that jump about while others write: nothing hangs, and the last ones hold.
#[test]
fn ceilings_change_under_contention() {
    let data = Namespace::new(NamespaceLimits::default());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3u32 {
            let (data, done) = (&data, &done);
            scope.spawn(move || {
                for n in 0u32.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let stored = data.set(&(n % 1000).to_le_bytes(), &[0; 500][..(n % 500) as usize], 0, None);
                    assert!(matches!(stored, Ok(()) | Err(Error::TooLarge(_))), "{thread}");
                }
            });
        }
        for n in 0..2_000usize {
            data.configure(NamespaceLimits { bytes: (n % 7) * 10_000, entries: n % 5 * 100 });
        }
        done.store(true, Ordering::Relaxed);
    });
    data.configure(NamespaceLimits { bytes: 50_000, entries: 50 });
    let stats = data.stats();
    assert!(stats.bytes <= 50_000 && stats.entries <= 50, "{stats:?}");
    let stored: usize = data.shards.iter().map(|shard| shard.lock().entries().len()).sum();
    assert_eq!(stats.entries, stored);
}

#[test]
fn increments_want_eight_bytes() {
    let data = Namespace::new(NamespaceLimits::default());
    assert_eq!(data.increment(b"n", -5, None).unwrap(), -5);
    assert_eq!(value(&data, b"n").unwrap().0, (-5i64).to_le_bytes());
    assert_eq!(data.increment(b"n", i64::MIN, None).unwrap(), i64::MAX - 4);
    data.set(b"text", b"12", 0, None).unwrap();
    assert!(matches!(data.increment(b"text", 1, None), Err(Error::BadArgument(_))));
}

#[test]
fn keys_are_found_by_prefix() {
    let data = Namespace::new(NamespaceLimits::default());
    for key in ["a:2", "b:1", "a:1", "a:3"] {
        data.set(key.as_bytes(), b"", 0, None).unwrap();
    }
    let keys = |prefix: &[u8], max| data.keys_with_prefix(prefix, max);
    assert_eq!(keys(b"a:", 10), [b"a:1"[..].into(), b"a:2"[..].into(), b"a:3"[..].into()]);
    assert_eq!(keys(b"a:", 2), [b"a:1"[..].into(), b"a:2"[..].into()], "the first ones");
    assert_eq!(keys(b"", 0).len(), 0);
    assert_eq!(keys(b"c", 10).len(), 0);
}

#[test]
fn no_update_is_lost_between_threads() {
    const EACH: u64 = 50_000;
    let data = Namespace::new(NamespaceLimits::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut out = Vec::new();
                for _ in 0..EACH {
                    loop {
                        out.clear();
                        let cas = data.get(b"swapped", |bytes| out.extend_from_slice(bytes)).unwrap_or(0);
                        let old = out.as_slice().try_into().map_or(0, u64::from_le_bytes);
                        // A first write is by increment: a swap of an absent key always succeeds.
                        if cas == 0 {
                            let _ = data.increment(b"swapped", 0, None).unwrap();
                        } else if data.set(b"swapped", &(old + 1).to_le_bytes(), cas, None).is_ok() {
                            break;
                        }
                    }
                    data.increment(b"added", 1, None).unwrap();
                }
            });
        }
    });
    assert_eq!(value(&data, b"swapped").unwrap().0, (4 * EACH).to_le_bytes());
    assert_eq!(value(&data, b"added").unwrap().0, (4 * EACH).to_le_bytes());
}

/// Threads that write more than there is room for, values of all sizes, while another watches the totals.
#[test]
fn ceilings_hold_under_contention_and_nothing_leaks() {
    let limits = NamespaceLimits { bytes: 200_000, entries: 500 };
    let data = Namespace::new(limits);

    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4u32)
            .map(|thread| {
                let namespace = &data;
                scope.spawn(move || {
                    let bytes = vec![0u8; 60_000];
                    for n in 0..20_000u32 {
                        let key = (n.wrapping_mul(2_654_435_761) >> 8) % 1500;
                        let len = if n % 97 == thread { 60_000 } else { (n % 300) as usize };
                        match n % 7 {
                            0 => drop(namespace.delete(&key.to_le_bytes(), 0)),
                            _ => namespace.set(&key.to_le_bytes(), &bytes[..len], 0, None).unwrap(),
                        }
                    }
                })
            })
            .collect();
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let stats = data.stats();
                assert!(stats.bytes <= limits.bytes && stats.entries <= limits.entries, "{stats:?}");
                let stored: usize = data.shards.iter().map(|shard| shard.lock().entries().len()).sum();
                // Shards are counted one after the other, while entries come and go.
                assert!(stored <= limits.entries + 100, "{stored}");
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
    });
    let entries: Vec<usize> =
        data.shards.iter().flat_map(|s| s.lock().entries().iter().map(|e| e.cost()).collect::<Vec<_>>()).collect();
    let stats = data.stats();
    assert_eq!(stats.entries, entries.len());
    assert_eq!(stats.bytes, entries.iter().sum::<usize>());
    assert!(stats.evicted > 0);
}

proptest! {
    /// Against a map, with a ceiling that is never reached.
    #[test]
    fn behaves_like_a_map(operations in proptest::collection::vec((0..4u8, 0..12u8, 0..20usize), 1..100)) {
        let data = Namespace::new(NamespaceLimits::default());
        let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for (operation, key, len) in operations {
            let bytes = vec![key; len];
            match operation {
                0 => data.set(&[key], &bytes, 0, None).unwrap(),
                1 => {
                    let cas = value(&data, &[key]).map_or(1, |(_, cas)| cas);
                    data.set(&[key], &bytes, cas, None).unwrap();
                }
                2 => {
                    let deleted = data.delete(&[key], 0).is_ok();
                    prop_assert_eq!(deleted, model.remove(&key).is_some());
                    continue;
                }
                _ => {
                    prop_assert_eq!(value(&data, &[key]).map(|(bytes, _)| bytes), model.get(&key).cloned());
                    continue;
                }
            }
            model.insert(key, bytes);
        }
        let cost: usize = model.values().map(|value| OVERHEAD + 1 + value.len()).sum();
        prop_assert_eq!(data.stats().bytes, cost);
        prop_assert_eq!(data.stats().entries, model.len());
    }
}
