//! How the plugin contexts of a VM that was lost come back: those that are needed at once, all others in the background, and
//! those that cannot be made again without harm to others.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Chain, Stream, Verdict};
use support::{Bench, request};

const IMPORTS: &str = r#"
  (import "env" "proxy_get_shared_data" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#;

/// A request traps while the shared data "die" are there. A configuration of three bytes traps while "bad" are, and is
/// refused while "off" are; one of four ticks.
const GUEST: &str = r#"
  (data (i32.const 16) "diebadoff")
  (func $there (param i32) (result i32)
    (i32.eqz (call $get (local.get 0) (i32.const 3) (i32.const 32) (i32.const 36) (i32.const 40))))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (if (i32.eq (local.get 1) (i32.const 4)) (then (drop (call $tick (i32.const 1)))))
    (if (i32.ne (local.get 1) (i32.const 3)) (then (return (i32.const 1))))
    (if (call $there (i32.const 19)) (then unreachable))
    (i32.eqz (call $there (i32.const 22))))
  (func (export "proxy_on_tick") (param i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (if (call $there (i32.const 16)) (then unreachable))
    (i32.const 0))"#;

fn bench() -> Bench {
    let bench = Bench::new(1);
    bench.module("guest.wasm", IMPORTS, GUEST);
    bench
}

fn filter(bench: &Bench, configuration: &str) -> Arc<Chain> {
    let text = format!("filters: [{{name: f, module: guest.wasm, vm_id: v, configuration: {configuration}}}]");
    bench.chain(&text).unwrap()
}

fn set(bench: &Bench, key: &str) {
    bench.runtime.shared().data.set("v", key.as_bytes(), b"1", 0).unwrap();
}

fn unset(bench: &Bench, key: &str) {
    bench.runtime.shared().data.delete("v", key.as_bytes(), 0).unwrap();
}

/// Whether a request passes; else it is answered 503.
fn passes(bench: &Bench, chain: &Arc<Chain>) -> bool {
    match bench.stream(chain, &request()).request_headers(true) {
        Verdict::Continue => true,
        Verdict::Respond(response) if response.status == 503 => false,
        other => panic!("{other:?}"),
    }
}

/// A trap ends the VM of slot 0.
fn lose_vm(bench: &Bench, chain: &Arc<Chain>) {
    set(bench, "die");
    assert!(!passes(bench, chain));
    unset(bench, "die");
}

/// Plugin contexts that there are.
fn alive(bench: &Bench) -> u64 {
    let counters = bench.runtime.counters();
    counters.roots_created - counters.roots_deleted
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_is_needed_is_there_at_once_and_the_rest_follows_without_a_request() {
    const PLUGINS: u64 = 10_000;
    let bench = bench();
    let chains: Vec<_> = (0..PLUGINS).map(|index| filter(&bench, &format!("number {index}"))).collect();
    assert_eq!(alive(&bench), PLUGINS);
    // Each with a time of its own: the first request behind the loss is to find the least of others' contexts made.
    let mut before_it = Vec::new();
    for round in 0..5 {
        lose_vm(&bench, &chains[0]);
        assert!(passes(&bench, &chains[7_777 + round]), "the VM and its own context are made for it");
        before_it.push(alive(&bench));
        wait("all others come back", || alive(&bench) == PLUGINS);
    }
    assert!(before_it.iter().any(|&made| made < PLUGINS / 2), "the request waited for others' contexts: {before_it:?}");
    let counters = bench.runtime.counters();
    assert_eq!((counters.traps, counters.vms_built, counters.vms_dropped), (5, 6, 5));
    assert!(chains.iter().all(|chain| passes(&bench, chain)));
    assert_eq!(bench.runtime.counters().roots_created, 6 * PLUGINS, "each was made once a VM");
}

#[test]
fn requests_go_on_while_the_rest_follows() {
    let bench = bench();
    let chains: Vec<_> = (0..5_000).map(|index| filter(&bench, &format!("number {index}"))).collect();
    lose_vm(&bench, &chains[0]);
    let begin = Instant::now();
    let mut during = 0;
    while alive(&bench) < 5_000 {
        assert!(begin.elapsed() < Duration::from_secs(30));
        assert!(passes(&bench, &chains[during % chains.len()]));
        during += 1;
    }
    assert!(during > 10, "{during} requests in {:?}", begin.elapsed());
}

#[test]
fn what_ticks_comes_back_first() {
    let bench = bench();
    let mut chains: Vec<_> = (0..5_000).map(|index| filter(&bench, &format!("number {index}"))).collect();
    chains.push(filter(&bench, "tick"));
    // The last one by number, and no request asks for it.
    let mut at_the_tick = Vec::new();
    for _ in 0..5 {
        lose_vm(&bench, &chains[0]);
        let ticks = bench.runtime.counters().ticks;
        wait("a tick", || {
            bench.runtime.run_timers(0);
            bench.runtime.counters().ticks > ticks
        });
        at_the_tick.push(alive(&bench));
        wait("the others", || alive(&bench) == 5_001);
    }
    assert!(at_the_tick.iter().any(|&made| made < 4_000), "it had to wait for the others: {at_the_tick:?}");
    let counters = bench.runtime.counters();
    assert_eq!((counters.traps, counters.vms_built), (5, 6));
}

/// One plugin context cannot be made again: `why` is the shared data that say so.
fn harms_only_itself(why: &str, traps: bool) {
    let bench = bench();
    let (one, odd, two) = (filter(&bench, "first one"), filter(&bench, "odd"), filter(&bench, "second one"));
    set(&bench, why);
    lose_vm(&bench, &one);
    let end = Instant::now() + Duration::from_secs(2);
    let mut passed = 0;
    let mut refused = 0;
    while Instant::now() < end {
        let (good, bad) = (passes(&bench, &one) && passes(&bench, &two), passes(&bench, &odd));
        assert!(!bad, "the failure policy speaks for it");
        // The first attempt may take the VM from under them, no later one does: that is tried on a VM of its own.
        refused += u32::from(!good);
        passed += u32::from(good);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(refused <= 1 && passed > 20, "{refused} of {passed}");
    let counters = bench.runtime.counters();
    assert_eq!(counters.traps, 1 + u64::from(traps), "{counters:?}");
    assert_eq!(counters.vms_built, 2 + u64::from(traps), "{counters:?}");
    unset(&bench, why);
    wait("it comes back without a request", || alive(&bench) == 3);
    assert!(passes(&bench, &one) && passes(&bench, &odd) && passes(&bench, &two));
    assert_eq!(bench.runtime.counters().traps, counters.traps);
}

#[test]
fn a_context_that_traps_when_it_is_made_again_harms_only_itself() {
    harms_only_itself("bad", true);
}

#[test]
fn a_context_that_refuses_when_it_is_made_again_harms_only_itself() {
    harms_only_itself("off", false);
}

#[test]
fn a_plugin_that_ends_while_its_context_is_missing_is_not_made_again() {
    let bench = bench();
    let (one, odd) = (filter(&bench, "first one"), filter(&bench, "odd"));
    set(&bench, "bad");
    lose_vm(&bench, &one);
    wait("it is refused", || bench.runtime.counters().traps == 2);
    drop(odd);
    unset(&bench, "bad");
    std::thread::sleep(Duration::from_millis(700));
    assert!(passes(&bench, &one));
    assert_eq!(alive(&bench), 1);
    // The place is another one's now, which nothing speaks against.
    let next = filter(&bench, "another");
    assert!(passes(&bench, &next));
    lose_vm(&bench, &one);
    assert!(passes(&bench, &next));
}

#[test]
fn streams_of_a_lost_vm_do_not_meet_the_next_one() {
    let bench = bench();
    let (one, two) = (filter(&bench, "first one"), filter(&bench, "second one"));
    let mut stream = Stream::new(Arc::clone(&two), 0, request().host());
    assert_eq!(stream.request_headers(true), Verdict::Continue);
    lose_vm(&bench, &one);
    assert!(passes(&bench, &two));
    stream.finish();
    let counters = bench.runtime.counters();
    assert_eq!(counters.streams_created, counters.streams_deleted);
}
