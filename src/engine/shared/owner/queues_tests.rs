use super::*;

fn with(items: usize, bytes: usize, overflow: Overflow) -> (Queues, u32) {
    let queues = Queues::default();
    queues.configure("vm", QueueLimits { items, bytes, overflow });
    let id = queues.register("vm", b"q").unwrap();
    (queues, id)
}

fn drain(queues: &Queues, id: u32) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| queues.take(id).ok().map(Vec::from)).collect()
}

#[test]
fn names_and_numbers_stay_together() {
    let queues = Queues::default();
    let id = queues.register("a", b"q").unwrap();
    assert_ne!(id, 0);
    assert_eq!(queues.register("a", b"q").unwrap(), id);
    assert_ne!(queues.register("b", b"q").unwrap(), id);
    assert_eq!(queues.resolve("a", b"q"), Some(id));
    assert_eq!(queues.resolve("a", b"other"), None);
    assert_eq!(queues.resolve("c", b"q"), None);
    for unknown in [0, 3, u32::MAX] {
        assert!(matches!(queues.enqueue(unknown, b""), Err(Error::NotFound)));
        assert!(matches!(queues.take(unknown), Err(Error::NotFound)));
    }
    let mut seen = Vec::new();
    queues.for_each(|vm_id, name, stats| seen.push((vm_id.to_owned(), name.to_vec(), stats.items)));
    assert_eq!(seen, [("a".to_owned(), b"q".to_vec(), 0), ("b".to_owned(), b"q".to_vec(), 0)]);
}

#[test]
fn there_are_only_so_many_queues() {
    let queues = Queues::default();
    for n in 0..MAX_QUEUES {
        queues.register("vm", &n.to_le_bytes()).unwrap();
    }
    assert!(matches!(queues.register("vm", b"one more"), Err(Error::TooLarge(_))));
    queues.register("vm", &0usize.to_le_bytes()).unwrap();
}

#[test]
fn first_in_first_out_and_empty_items_are_items() {
    let (queues, id) = with(10, 10_000, Overflow::Reject);
    for item in [&b"1"[..], b"", b"3"] {
        queues.enqueue(id, item).unwrap();
    }
    assert_eq!(*queues.take(id).unwrap(), b"1"[..]);
    assert_eq!(drain(&queues, id), [b"".to_vec(), b"3".to_vec()]);
    assert!(matches!(queues.take(id), Err(Error::Empty)));
    assert_eq!(queues.stats(id).unwrap(), QueueStats::default());
}

#[test]
fn what_comes_back_comes_first() {
    let (queues, id) = with(2, 10_000, Overflow::Reject);
    queues.enqueue(id, b"1").unwrap();
    queues.enqueue(id, b"2").unwrap();
    let item = queues.take(id).unwrap();
    queues.enqueue(id, b"3").unwrap();
    queues.give_back(id, item);
    assert_eq!(queues.stats(id).unwrap().items, 3);
    assert!(queues.enqueue(id, b"4").is_err());
    assert_eq!(drain(&queues, id), [b"1", b"2", b"3"]);
    assert_eq!(queues.stats(id).unwrap().bytes, 0);
}

#[test]
fn overflow_is_refused_or_drops_the_oldest() {
    let (queues, id) = with(2, 10_000, Overflow::Reject);
    for item in [b"1", b"2"] {
        queues.enqueue(id, item).unwrap();
    }
    assert!(matches!(queues.enqueue(id, b"3"), Err(Error::TooLarge(_))));
    assert_eq!(queues.stats(id).unwrap().rejected, 1);
    assert_eq!(drain(&queues, id), [b"1", b"2"]);

    let (queues, id) = with(100, 3 * OVERHEAD, Overflow::DropOldest);
    for n in 0..10u8 {
        queues.enqueue(id, &[n]).unwrap();
    }
    assert!(matches!(queues.enqueue(id, &[0; 200]), Err(Error::TooLarge(_))));
    assert_eq!(queues.stats(id).unwrap(), QueueStats { items: 2, bytes: 2 * (OVERHEAD + 1), rejected: 1, dropped: 8 });
    assert_eq!(drain(&queues, id), [[8], [9]]);
}

#[test]
fn bounds_apply_to_queues_that_are_there_and_to_those_to_come() {
    let queues = Queues::default();
    let (old, other) = (queues.register("vm", b"old").unwrap(), queues.register("other", b"q").unwrap());
    for n in 0..10u8 {
        queues.enqueue(old, &[n]).unwrap();
        queues.enqueue(other, &[n]).unwrap();
    }
    queues.configure("vm", QueueLimits { items: 4, bytes: 10_000, overflow: Overflow::Reject });
    assert_eq!(queues.stats(old).unwrap().items, 10, "what waits is not lost");
    assert!(queues.enqueue(old, b"more").is_err());
    queues.configure("vm", QueueLimits { items: 4, bytes: 3 * (OVERHEAD + 1), overflow: Overflow::DropOldest });
    assert_eq!(queues.stats(old).unwrap(), QueueStats { items: 3, bytes: 3 * (OVERHEAD + 1), rejected: 1, dropped: 7 });
    assert_eq!(drain(&queues, old), [[7], [8], [9]]);
    let new = queues.register("vm", b"new").unwrap();
    for n in 0..10u8 {
        queues.enqueue(new, &[n]).unwrap();
    }
    assert_eq!(drain(&queues, new), [[7], [8], [9]]);
    assert_eq!(queues.stats(other).unwrap().items, 10);
}

#[test]
fn bounds_change_under_contention() {
    let (queues, id) = with(100, 100_000, Overflow::DropOldest);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = queues.enqueue(id, b"item");
                }
            });
        }
        for n in 0..2_000usize {
            let overflow = [Overflow::Reject, Overflow::DropOldest][n % 2];
            queues.configure("vm", QueueLimits { items: n % 50, bytes: n % 7 * 1000, overflow });
        }
        done.store(true, Ordering::Relaxed);
    });
    let stats = queues.stats(id).unwrap();
    assert_eq!(drain(&queues, id).len(), stats.items);
    assert_eq!(queues.stats(id).unwrap().bytes, 0);
}

/// Four producers, four consumers that give every hundredth item back once, a queue far smaller than the load.
#[test]
fn every_item_arrives_exactly_once() {
    const EACH: u32 = 25_000;
    let (queues, id) = with(100, 100_000, Overflow::Reject);
    let done = AtomicBool::new(false);
    let (queues, done) = (&queues, &done);
    let mut all: Vec<u32> = std::thread::scope(|scope| {
        let producers: Vec<_> = (0..4)
            .map(|thread| {
                scope.spawn(move || {
                    for n in 0..EACH {
                        while queues.enqueue(id, &(thread * EACH + n).to_le_bytes()).is_err() {
                            std::thread::yield_now();
                        }
                        // One more than the bound for each consumer that may be giving an item back.
                        assert!(queues.stats(id).unwrap().items <= 104);
                    }
                })
            })
            .collect();
        let consumers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let mut got = Vec::new();
                    let mut taken = 0u32;
                    loop {
                        let last = done.load(Ordering::Acquire);
                        match queues.take(id) {
                            Ok(item) => {
                                taken += 1;
                                if taken.is_multiple_of(100) {
                                    queues.give_back(id, item);
                                } else {
                                    got.push(u32::from_le_bytes((*item).try_into().unwrap()));
                                }
                            }
                            Err(Error::Empty) if last => return got,
                            Err(_) => std::thread::yield_now(),
                        }
                    }
                })
            })
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        done.store(true, Ordering::Release);
        consumers.into_iter().flat_map(|consumer| consumer.join().unwrap()).collect()
    });
    // A consumer may see the queue empty and leave while another gives an item back.
    all.extend(drain(queues, id).iter().map(|item| u32::from_le_bytes(item.as_slice().try_into().unwrap())));
    all.sort_unstable();
    assert_eq!(all, (0..4 * EACH).collect::<Vec<_>>());
    assert_eq!((queues.stats(id).unwrap().items, queues.stats(id).unwrap().bytes), (0, 0));
}

#[test]
fn dropping_the_oldest_loses_only_what_it_counts() {
    const EACH: u32 = 20_000;
    let (queues, id) = with(64, 1 << 20, Overflow::DropOldest);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..EACH {
                    queues.enqueue(id, &n.to_le_bytes()).unwrap();
                }
            });
        }
    });
    let stats = queues.stats(id).unwrap();
    assert_eq!(stats.items, 64);
    assert_eq!(stats.dropped + 64, u64::from(4 * EACH));
    assert_eq!(drain(&queues, id).len(), 64);
}
