use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// Notes which consumers are told.
#[derive(Default)]
struct Log(Arc<Mutex<Vec<u64>>>);

struct Named(u64, Arc<Mutex<Vec<u64>>>);

impl QueueConsumer for Named {
    fn ready(&self, _queue: u32) {
        self.1.lock().push(self.0);
    }
}

impl Log {
    fn consumer(&self, name: u64) -> Arc<dyn QueueConsumer> {
        Arc::new(Named(name, Arc::clone(&self.0)))
    }

    /// Tells who is to be told, and which name that is.
    fn tell(&self, next: Next) -> Option<u64> {
        next?.ready(1);
        self.0.lock().pop()
    }
}

#[test]
fn consumers_take_turns() {
    let (consumers, log) = (Consumers::default(), Log::default());
    assert!(consumers.arrived().is_none(), "nobody to tell");
    let numbers: Vec<u64> = (0..3).map(|name| consumers.subscribe(log.consumer(name), || name == 0).0).collect();
    // The first one was told when it came, since something waited. Its turn ends when it says so.
    assert!(consumers.arrived().is_none());
    assert!(consumers.served(numbers[1], 9, || true).is_none(), "it was not told");
    assert_eq!(log.tell(consumers.served(numbers[0], 1, || true)), Some(1));
    assert_eq!(log.tell(consumers.served(numbers[1], 1, || true)), Some(2));
    assert_eq!(log.tell(consumers.served(numbers[2], 1, || false)), None);
    assert!(consumers.served(numbers[2], 1, || true).is_none(), "its turn is over");
    assert_eq!(log.tell(consumers.arrived()), Some(0));
    assert!(consumers.arrived().is_none());
}

#[test]
fn the_first_consumer_of_a_queue_that_is_not_empty_is_told_at_once() {
    let (consumers, log) = (Consumers::default(), Log::default());
    let (number, told) = consumers.subscribe(log.consumer(7), || true);
    assert_eq!(log.tell(told), Some(7));
    let (gone, told) = consumers.unsubscribe(number, || true);
    assert!(gone.is_some() && told.is_none());
    assert!(consumers.arrived().is_none(), "nobody is there again");
    let (_, told) = consumers.subscribe(log.consumer(8), || true);
    assert_eq!(log.tell(told), Some(8));
    let (_, told) = consumers.subscribe(log.consumer(9), || true);
    assert!(told.is_none(), "one is told already");
}

#[test]
fn a_consumer_that_dies_while_told_hands_on() {
    let (consumers, log) = (Consumers::default(), Log::default());
    let numbers: Vec<u64> = (0..3).map(|name| consumers.subscribe(log.consumer(name), || false).0).collect();
    assert_eq!(log.tell(consumers.arrived()), Some(0));
    assert_eq!(log.tell(consumers.unsubscribe(numbers[0], || true).1), Some(1));
    // One that is not told takes nothing along.
    assert_eq!(log.tell(consumers.unsubscribe(numbers[2], || true).1), None);
    assert!(consumers.arrived().is_none());
    assert_eq!(log.tell(consumers.served(numbers[1], 1, || true)), Some(1));
    assert!(consumers.unsubscribe(numbers[0], || true).0.is_none(), "gone already");
}

#[test]
fn who_takes_nothing_is_told_no_sooner_than_there_is_more_or_a_second_has_passed() {
    let (consumers, log) = (Consumers::default(), Log::default());
    let (number, told) = consumers.subscribe(log.consumer(0), || true);
    assert_eq!(log.tell(told), Some(0));
    assert_eq!(log.tell(consumers.served(number, 0, || true)), None);
    let now = Instant::now();
    assert!(consumers.remind(now + REST / 2, || true).is_none());
    assert!(consumers.came_back().is_none(), "what comes back is no news");
    assert_eq!(log.tell(consumers.remind(now + REST, || true)), Some(0));
    assert!(consumers.remind(now + REST, || true).is_none(), "it is told already");
    // An item that came while it was told, and looked too early.
    assert!(consumers.arrived().is_none());
    assert_eq!(log.tell(consumers.served(number, 0, || true)), Some(0));
    assert_eq!(log.tell(consumers.served(number, 0, || true)), None);
    assert_eq!(log.tell(consumers.arrived()), Some(0), "a new item ends the rest");
    // What waited was taken by somebody else meanwhile.
    assert_eq!(log.tell(consumers.served(number, 0, || true)), None);
    assert!(consumers.remind(now + 3 * REST, || false).is_none());
    assert_eq!(log.tell(consumers.came_back()), Some(0));
}

#[derive(Debug, Clone)]
enum Step {
    Enqueue,
    Subscribe,
    /// Of the consumer at this index, as far as there are any.
    Unsubscribe(usize),
    /// The one that was told takes so many items.
    Serve(u64),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Enqueue),
        1 => Just(Step::Subscribe),
        1 => (0..4usize).prop_map(Step::Unsubscribe),
        4 => (0..3u64).prop_map(Step::Serve),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    /// Against the rules: at most one is told, and somebody is whenever items wait, unless the last one took nothing.
    #[test]
    fn somebody_is_told_whenever_items_wait(steps in proptest::collection::vec(step(), 1..100)) {
        let (consumers, log) = (Consumers::default(), Log::default());
        let mut there: VecDeque<(u64, u64)> = VecDeque::new();
        let (mut items, mut told, mut rests, mut names, mut now) = (0u64, None::<u64>, false, 0, Instant::now());
        for step in steps {
            let waiting = |items: u64| move || items > 0;
            let mut next = None;
            match step {
                Step::Enqueue => {
                    items += 1;
                    rests = false;
                    next = log.tell(consumers.arrived());
                }
                Step::Subscribe => {
                    names += 1;
                    let (number, told) = consumers.subscribe(log.consumer(names), waiting(items));
                    there.push_back((names, number));
                    rests = rests && there.len() > 1;
                    next = log.tell(told);
                }
                Step::Unsubscribe(index) => {
                    if let Some((name, number)) = there.remove(index) {
                        if told == Some(name) {
                            told = None;
                        }
                        next = log.tell(consumers.unsubscribe(number, waiting(items)).1);
                    }
                }
                Step::Serve(want) => {
                    let Some(name) = told.take() else { continue };
                    let number = there.iter().find(|(other, _)| *other == name).unwrap().1;
                    let took = want.min(items);
                    items -= took;
                    next = log.tell(consumers.served(number, took, waiting(items)));
                    rests = took == 0 && next.is_none();
                }
                Step::Wait => {
                    now += 2 * REST;
                    next = log.tell(consumers.remind(now, waiting(items)));
                    rests = false;
                }
            }
            if let Some(name) = next {
                prop_assert_eq!(told, None, "two are told");
                prop_assert!(there.iter().any(|(other, _)| *other == name), "one that is gone is told");
                told = Some(name);
            }
            if items > 0 && !there.is_empty() && !rests {
                prop_assert!(told.is_some(), "nobody is told of {} items", items);
            }
        }
    }
}
