use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::*;
use crate::abi::MetricType;
use crate::runtime::{Options, Runtime};
use crate::shared::{Overflow, QueueConsumer, QueueLimits, Shared};

/// A copy that owns the state, and one that joined it.
fn two_copies() -> (Shared, Shared) {
    let owner = Shared::default();
    let published = owner.publish().unwrap();
    // SAFETY: told by `as_raw` in this very copy.
    let found = unsafe { Published::from_raw(published.as_raw()) };
    let joined = Shared::join(found).unwrap();
    assert!(joined.publish().is_none() && joined.upkeep().is_none(), "it owns nothing");
    (owner, joined)
}

#[test]
fn a_table_of_another_version_or_too_short_is_refused() {
    let (owner, _) = two_copies();
    let size = u32::try_from(size_of::<SharedTable>()).unwrap();
    for (version, size) in [(VERSION + 1, size), (0, size), (VERSION, size - 8), (VERSION, 8)] {
        let mut table = owner.data.0.table;
        table.head = Head { version, size };
        let published = Published(NonNull::from(&table).cast());
        let error = Shared::join(published).unwrap_err().to_string();
        assert!(error.contains(&format!("has version {version} and {size} bytes")), "{error}");
    }
    // A later build's, with something appended.
    #[repr(C)]
    struct Longer(SharedTable, [usize; 4]);
    let mut longer = Longer(owner.data.0.table, [0; 4]);
    longer.0.head.size = u32::try_from(size_of::<Longer>()).unwrap();
    let joined = Shared::join(Published(NonNull::from(&longer).cast())).unwrap();
    joined.data.set("vm", b"k", b"v", 0).unwrap();
    assert!(owner.data.get("vm", b"k", &mut Vec::new()).is_some());
}

#[test]
fn a_runtime_joins_what_is_published_or_keeps_its_own() {
    let (owner, _) = two_copies();
    owner.data.set("vm", b"k", b"v", 0).unwrap();
    let mut foreign = owner.data.0.table;
    foreign.head.version = VERSION + 1;
    let foreign = Published(NonNull::from(&foreign).cast());
    for (published, joins) in [(owner.publish().unwrap(), true), (foreign, false)] {
        let options = Options { shared: Some(published), ..Options::with_slots(1) };
        let runtime = Runtime::new(options).unwrap();
        assert_eq!(runtime.shared().data.get("vm", b"k", &mut Vec::new()).is_some(), joins);
        assert_eq!(runtime.shared().publish().is_none(), joins, "who owns a state publishes it");
    }
}

#[test]
fn copies_share_data() {
    let (owner, joined) = two_copies();
    owner.data.set("vm", b"k", b"of the owner", 0).unwrap();
    let mut value = b"kept ".to_vec();
    let version = joined.data.get("vm", b"k", &mut value).unwrap();
    assert_eq!(value, b"kept of the owner");
    joined.data.set("vm", b"k", b"joined", version).unwrap();
    assert!(matches!(owner.data.set("vm", b"k", b"late", version), Err(Error::CasMismatch)));
    assert!(matches!(joined.data.increment("vm", b"k", 1, None), Err(Error::BadArgument(_))));
    assert_eq!(joined.data.increment("vm", b"n", -3, None).unwrap(), -3);
    assert_eq!(owner.data.increment("vm", b"n", 5, Some(Duration::MAX)).unwrap(), 2);
    assert_eq!(joined.data.keys_with_prefix("vm", b"", 10), [b"k"[..].into(), b"n"[..].into()]);
    joined.data.delete("vm", b"k", 0).unwrap();
    assert!(matches!(owner.data.delete("vm", b"k", 0), Err(Error::NotFound)));
    joined.data.set_with_ttl("vm", b"gone", b"", 0, Some(Duration::ZERO)).unwrap();
    assert_eq!(owner.data.get("vm", b"gone", &mut Vec::new()), None);
    joined.data.configure("vm", crate::shared::NamespaceLimits { bytes: 1000, entries: 0 });
    assert!(matches!(owner.data.set("vm", b"k", b"", 0), Err(Error::TooLarge(_))));
    let mut seen = Vec::new();
    joined.data.for_each(|vm_id, stats| seen.push((vm_id.to_owned(), stats)));
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].0.as_str(), seen[0].1.entries, seen[0].1.expired, seen[0].1.evicted), ("vm", 0, 1, 2));
}

#[test]
fn copies_share_metrics() {
    let (owner, joined) = two_copies();
    let counter = owner.metrics.define(MetricType::Counter, "c").unwrap();
    assert_eq!(joined.metrics.define(MetricType::Counter, "c").unwrap(), counter);
    assert!(matches!(joined.metrics.define(MetricType::Gauge, "c"), Err(Error::BadArgument(_))));
    let large = joined.metrics.define(MetricType::Gauge, &"x".repeat(2000)).unwrap_err();
    assert_eq!(large.to_string(), "metric name is too large");
    assert_eq!((owner.metrics.refused(), joined.metrics.refused()), (1, 1));
    joined.metrics.record(joined.metrics.sink(MetricType::Gauge), 1).unwrap();
    let gauge = joined.metrics.define(MetricType::Gauge, "g").unwrap();
    let histogram = joined.metrics.define(MetricType::Histogram, "h").unwrap();
    owner.metrics.increment(counter, 2).unwrap();
    joined.metrics.increment(counter, 3).unwrap();
    assert!(matches!(joined.metrics.increment(counter, -3), Err(Error::BadArgument(_))));
    owner.metrics.record(gauge, -7).unwrap();
    assert_eq!(joined.metrics.get(gauge).unwrap().cast_signed(), -7);
    assert!(matches!(joined.metrics.get(histogram), Err(Error::BadArgument(_))));
    assert!(matches!(joined.metrics.get(0), Err(Error::NotFound)));
    for value in [0, 3, 100, 101] {
        owner.metrics.record(histogram, value).unwrap();
    }
    let mut seen = Vec::new();
    joined.metrics.for_each(|name, value| {
        let text = match value {
            MetricValue::Counter(value) => value.to_string(),
            MetricValue::Gauge(value) => value.to_string(),
            MetricValue::Histogram(histogram) => {
                format!("{} {:?}", histogram.sum(), histogram.buckets().collect::<Vec<_>>())
            }
        };
        seen.push((name.to_owned(), value.metric_type(), text));
    });
    let expected = [
        ("c", MetricType::Counter, "5"),
        ("g", MetricType::Gauge, "-7"),
        ("h", MetricType::Histogram, "204 [(0, 1), (3, 1), (111, 2)]"),
    ];
    assert_eq!(seen, expected.map(|(name, kind, text)| (name.to_owned(), kind, text.to_owned())));
}

/// Sends a word whenever it is told; counts how many of its kind live.
struct Bell(Sender<u32>, Arc<AtomicU64>);

impl QueueConsumer for Bell {
    fn ready(&self, queue: u32) {
        let _ = self.0.try_send(queue);
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

fn bell(alive: &Arc<AtomicU64>) -> (Arc<Bell>, Receiver<u32>) {
    let (sender, receiver) = bounded(4);
    alive.fetch_add(1, Ordering::Relaxed);
    (Arc::new(Bell(sender, Arc::clone(alive))), receiver)
}

#[test]
fn copies_share_queues_and_tell_each_others_consumers() {
    let (owner, joined) = two_copies();
    let alive = Arc::new(AtomicU64::new(0));
    let queue = joined.queues.register("vm", b"q").unwrap();
    assert_eq!(owner.queues.register("vm", b"q").unwrap(), queue);
    assert_eq!((owner.queues.resolve("vm", b"q"), joined.queues.resolve("vm", b"x")), (Some(queue), None));
    let (first, rings_first) = bell(&alive);
    let (second, rings_second) = bell(&alive);
    let first = joined.queues.subscribe(queue, first).unwrap();
    let second = owner.queues.subscribe(queue, second).unwrap();
    assert!(matches!(joined.queues.subscribe(99, bell(&alive).0), Err(Error::NotFound)));
    assert_eq!(alive.load(Ordering::Relaxed), 2, "what is refused is dropped");
    owner.queues.enqueue(queue, b"1").unwrap();
    joined.queues.enqueue(queue, b"2").unwrap();
    assert_eq!(rings_first.try_recv(), Ok(queue));
    assert_eq!(&*joined.queues.take(queue).unwrap(), b"1");
    first.served(1);
    assert_eq!(rings_second.try_recv(), Ok(queue), "the next one is told of what is left");
    assert_eq!(&*owner.queues.take(queue).unwrap(), b"2");
    owner.queues.give_back(queue, b"2");
    // The other copy's consumer dies while it is told.
    drop(second);
    assert_eq!(rings_first.try_recv(), Ok(queue));
    assert_eq!(&*joined.queues.take(queue).unwrap(), b"2");
    assert!(matches!(joined.queues.take(queue), Err(Error::Empty)));
    first.served(1);
    assert!(rings_first.is_empty() && rings_second.is_empty());
    drop(first);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    owner.queues.enqueue(queue, b"3").unwrap();
    let limits = QueueLimits { items: 1, bytes: 1000, overflow: Overflow::DropOldest };
    joined.queues.configure("vm", limits);
    owner.queues.enqueue(queue, b"4").unwrap();
    let mut seen = Vec::new();
    joined.queues.for_each(|vm_id, name, stats| seen.push((vm_id.to_owned(), name.to_vec(), stats)));
    assert_eq!(seen, [("vm".to_owned(), b"q".to_vec(), owner.queues.stats(queue).unwrap())]);
    assert_eq!((seen[0].2.items, seen[0].2.dropped), (1, 1));
}

#[test]
fn a_consumer_that_took_nothing_is_told_again_after_a_second() {
    let shared = Shared::default();
    std::thread::spawn(shared.upkeep().unwrap());
    let queue = shared.queues.register("vm", b"q").unwrap();
    shared.queues.enqueue(queue, b"heavy").unwrap();
    let (consumer, rings) = bell(&Arc::new(AtomicU64::new(0)));
    let subscription = shared.queues.subscribe(queue, consumer).unwrap();
    assert_eq!(rings.try_recv(), Ok(queue));
    let told = Instant::now();
    subscription.served(0);
    assert_eq!(rings.recv_timeout(Duration::from_secs(20)), Ok(queue));
    assert!(told.elapsed() >= Duration::from_secs(1), "{:?}", told.elapsed());
}

#[test]
fn no_panic_crosses_the_table() {
    struct Panics;
    impl QueueConsumer for Panics {
        fn ready(&self, _queue: u32) {
            panic!("in a consumer");
        }
    }
    let (owner, joined) = two_copies();
    owner.data.set("a", b"k", b"v", 0).unwrap();
    owner.data.set("b", b"k", b"v", 0).unwrap();
    let queue = owner.queues.register("vm", b"q").unwrap();
    let consumer = joined.queues.subscribe(queue, Arc::new(Panics)).unwrap();
    owner.queues.enqueue(queue, b"1").unwrap();
    consumer.served(0);
    // A visitor's panic ends the visit and goes on where the visitor is.
    let mut visits = 0;
    let visited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        joined.data.for_each(|_, _| {
            visits += 1;
            panic!("in a visitor");
        });
    }));
    assert!(visited.is_err());
    assert_eq!(visits, 1);
    // The owner's comes as a code, and goes on at the caller.
    let code = wire::guarded(|| panic!("in the owner"));
    assert!(std::panic::catch_unwind(|| wire::outcome(code, "", "")).is_err());
}

/// Four producers; four consumers in two copies, of which one dies now and then while it is told. Nobody reminds
/// anybody here: a lost wake-up would leave items in the queue for good.
#[test]
fn a_million_items_are_delivered_once_each() {
    const EACH: u64 = 250_000;
    const ALL: u64 = 4 * EACH;
    let (owner, joined) = two_copies();
    let queue = owner.queues.register("vm", b"q").unwrap();
    owner.queues.configure("vm", QueueLimits { items: 10_000, bytes: 1 << 30, overflow: Overflow::Reject });
    let delivered: Vec<AtomicBool> = (0..ALL).map(|_| AtomicBool::new(false)).collect();
    let (count, deaths, tells) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    let late = || begun.elapsed() > Duration::from_secs(120);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let shared = if thread % 2 == 0 { &owner } else { &joined };
            scope.spawn(move || {
                for n in thread * EACH..(thread + 1) * EACH {
                    while shared.queues.enqueue(queue, &n.to_le_bytes()).is_err() {
                        std::thread::yield_now();
                    }
                    // Every now and then the queue runs dry, so that consumers are idle when the next item comes.
                    while n % 32 == 0 && shared.queues.stats(queue).unwrap().items > 0 && !late() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        for thread in 0..4u64 {
            let shared = if thread % 2 == 0 { &joined } else { &owner };
            let (count, deaths, tells, delivered) = (&count, &deaths, &tells, &delivered);
            scope.spawn(move || {
                let alive = Arc::new(AtomicU64::new(0));
                let (mut consumer, mut rings) = bell(&alive);
                let mut subscription = Some(shared.queues.subscribe(queue, consumer).unwrap());
                while count.load(Ordering::Relaxed) < ALL && !late() {
                    if rings.recv_timeout(Duration::from_millis(50)).is_err() {
                        continue;
                    }
                    let told = tells.fetch_add(1, Ordering::Relaxed);
                    let mut took = 0;
                    while took < 1 + told % 100 {
                        let Ok(item) = shared.queues.take(queue) else { break };
                        let n = u64::from_le_bytes((*item).try_into().unwrap());
                        assert!(
                            !delivered[usize::try_from(n).unwrap()].swap(true, Ordering::Relaxed),
                            "{n} came twice"
                        );
                        took += 1;
                    }
                    count.fetch_add(took, Ordering::Relaxed);
                    if thread == 0 && told % 7 == 0 {
                        deaths.fetch_add(1, Ordering::Relaxed);
                        drop(subscription.take());
                        (consumer, rings) = bell(&alive);
                        subscription = Some(shared.queues.subscribe(queue, consumer).unwrap());
                    } else if let Some(subscription) = &subscription {
                        subscription.served(took);
                    }
                }
            });
        }
    });
    let left = owner.queues.stats(queue).unwrap().items;
    println!(
        "{} of {ALL} items in {:?}; consumers were told {} times and died {} times; {left} are left",
        count.load(Ordering::Relaxed),
        begun.elapsed(),
        tells.load(Ordering::Relaxed),
        deaths.load(Ordering::Relaxed)
    );
    assert_eq!((count.load(Ordering::Relaxed), left), (ALL, 0));
    assert!(delivered.iter().all(|delivered| delivered.load(Ordering::Relaxed)));
    assert!(deaths.load(Ordering::Relaxed) > 0);
}
