//! Ten thousand rules with a configuration each: that adding, reloading and removing them is linear, and what does not change
//! is not made anew.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Chain, config};
use support::Bench;

const RULES: usize = 10_000;
const SLOTS: u64 = 3;

const GUEST: &str = r#"
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32))"#;

fn load(bench: &Bench, rule: usize, configuration: &str) -> Arc<Chain> {
    let text = format!("filters: [{{name: f, module: guest.wasm, configuration: {configuration}}}]");
    let config = config::parse(&bench.path().join("filters.yaml"), &text).unwrap();
    Chain::load(&bench.runtime, format!("rule http://r{rule}.test/ -> http://origin/"), &config).unwrap()
}

/// Runs `each` for all rules, and says how long the first and the last tenth took.
fn tenths<T>(mut each: impl FnMut(usize) -> T) -> (Vec<T>, [Duration; 2], Duration) {
    let begin = Instant::now();
    let mut times = Vec::with_capacity(RULES);
    let all = (0..RULES)
        .map(|rule| {
            let done = each(rule);
            times.push(begin.elapsed());
            done
        })
        .collect();
    let tenth = RULES / 10;
    (all, [times[tenth - 1], times[RULES - 1] - times[RULES - tenth]], begin.elapsed())
}

#[test]
fn what_did_not_change_is_not_made_anew() {
    let bench = Bench::new(SLOTS as usize);
    bench.module("guest.wasm", "", GUEST);
    let (mut old, [first, last], all) = tenths(|rule| load(&bench, rule, &format!("number {rule}")));
    println!("{RULES} rules: {all:?}; the first tenth {first:?}, the last {last:?}");
    assert!(last < first * 4 + Duration::from_millis(100), "a rule costs more the more there are: {first:?}, {last:?}");
    let before = bench.runtime.counters();
    assert_eq!((before.roots_created, before.vms_built), (SLOTS * RULES as u64, SLOTS));

    // A reload that changes one rule: all are made while the old ones are there, which go then.
    let changed = RULES / 2;
    let configuration = |rule| if rule == changed { "another".to_owned() } else { format!("number {rule}") };
    let (new, _, loading) = tenths(|rule| load(&bench, rule, &configuration(rule)));
    let begin = Instant::now();
    drop(std::mem::replace(&mut old, new));
    let removing = begin.elapsed();
    println!("a reload that changes one: {loading:?} to read and load, {removing:?} to let go of the old ones");
    let after = bench.runtime.counters();
    assert_eq!(after.roots_created - before.roots_created, SLOTS, "the one that changed, once a thread");
    assert_eq!(after.roots_deleted - before.roots_deleted, SLOTS, "and its former one");
    assert_eq!((after.vms_built, after.vms_dropped), (SLOTS, 0));

    let mut old = old.into_iter();
    let (_, [first, last], all) = tenths(|_| drop(old.next()));
    println!("removing all: {all:?}; the first tenth {first:?}, the last {last:?}");
    // With the last one go the VMs.
    assert!(last < first * 8 + Duration::from_millis(100), "{first:?}, {last:?}");
    // The rebuilder may have held the pool for a moment.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let counters = bench.runtime.counters();
        if (counters.roots_created, counters.vms_built) == (counters.roots_deleted, counters.vms_dropped) {
            break;
        }
        assert!(Instant::now() < end, "{counters:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn places_of_rules_that_are_gone_are_taken_again() {
    let bench = Bench::new(1);
    bench.module("guest.wasm", "", GUEST);
    let kept = load(&bench, 0, "kept");
    for round in 0..2_000 {
        let (one, two) = (load(&bench, 1, &format!("one {round}")), load(&bench, 2, &format!("two {round}")));
        drop(one);
        let three = load(&bench, 3, &format!("three {round}"));
        drop((two, three));
    }
    let counters = bench.runtime.counters();
    assert_eq!(counters.roots_created - counters.roots_deleted, 1);
    assert_eq!(counters.vms_built, 1);
    drop(kept);
}
