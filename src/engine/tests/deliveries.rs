//! What comes for plugin contexts from elsewhere, by the words of shared queues: to whom it is delivered, and to whom not.

use std::time::{Duration, Instant};

mod support;
use support::Bench;

const IMPORTS: &str = r#"
  (import "env" "proxy_register_shared_queue" (func $register (param i32 i32 i32) (result i32)))
  (import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))"#;

/// Takes an item a callback, of the queues "q" and "r". Traps on one that begins with "b", and on a plugin context that has
/// been deleted; takes its time over one that begins with "s".
const CONSUMER: &str = r#"
  (data (i32.const 16) "qr")
  (global $deleted (mut i32) (i32.const -1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $register (i32.const 16) (i32.const 1) (i32.const 32)))
    (drop (call $register (i32.const 17) (i32.const 1) (i32.const 32)))
    (i32.const 1))
  (func (export "proxy_on_delete") (param i32) (global.set $deleted (local.get 0)))
  (func (export "proxy_on_queue_ready") (param i32 i32) (local $first i32) (local $left i32)
    (if (i32.eq (local.get 0) (global.get $deleted)) (then unreachable))
    (if (call $dequeue (local.get 1) (i32.const 40) (i32.const 44)) (then return))
    (local.set $first (i32.load8_u (i32.load (i32.const 40))))
    (if (i32.eq (local.get $first) (i32.const 98)) (then unreachable))
    (if (i32.ne (local.get $first) (i32.const 115)) (then return))
    (local.set $left (i32.const 200000))
    (loop $on
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $on (local.get $left))))"#;

fn bench() -> Bench {
    let bench = Bench::new(1);
    bench.module("consumer.wasm", IMPORTS, CONSUMER);
    bench
}

fn file(configuration: &str) -> String {
    format!("filters:\n  - {{name: consumer, module: consumer.wasm, vm_id: v, configuration: {configuration}}}\n")
}

/// The queue's number and how many items wait in it.
fn queue(bench: &Bench, name: &str) -> (u32, usize) {
    let queues = &bench.runtime.shared().queues;
    let queue = queues.resolve("v", name.as_bytes()).expect("the consumer has made it");
    (queue, queues.stats(queue).expect("it is there").items)
}

fn enqueue(bench: &Bench, name: &str, item: &str) {
    bench.runtime.shared().queues.enqueue(queue(bench, name).0, item.as_bytes()).expect("there is room");
}

#[test]
fn word_for_a_plugin_context_that_has_ended_goes_to_the_next() {
    let bench = bench();
    let first = bench.chain(&file("first")).unwrap();
    // In the same VM, which goes on.
    let _second = bench.chain(&file("second")).unwrap();
    enqueue(&bench, "q", "item");
    // It was the first one's turn.
    drop(first);
    assert_eq!(queue(&bench, "q").1, 1);
    assert!(!bench.runtime.deliver(0));
    assert_eq!((queue(&bench, "q").1, bench.runtime.counters().traps), (0, 0));
}

#[test]
fn what_is_meant_for_a_vm_that_is_gone_is_not_given_to_the_next() {
    let bench = bench();
    let _chain = bench.chain(&file("only")).unwrap();
    enqueue(&bench, "q", "bad");
    enqueue(&bench, "r", "good");
    // Both words are on their way, and the first ends the VM. The one that is built anew is told by its own subscription.
    let begun = Instant::now();
    while queue(&bench, "r").1 > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody takes the item");
        bench.runtime.deliver(0);
    }
    assert_eq!(queue(&bench, "q").1, 0, "what was taken counts as delivered");
    let counters = bench.runtime.counters();
    assert_eq!((counters.traps, counters.vms_built), (1, 2));
}

#[test]
fn a_thread_that_delivers_comes_back_after_a_while() {
    const ITEMS: usize = 500;
    let bench = bench();
    let _chain = bench.chain(&file("only")).unwrap();
    for _ in 0..ITEMS {
        enqueue(&bench, "q", "slow");
    }
    assert!(bench.runtime.deliver(0), "there is more");
    let left = queue(&bench, "q").1;
    assert!(left > 0 && left < ITEMS, "{left} items are left");
    while bench.runtime.deliver(0) {}
    assert_eq!((queue(&bench, "q").1, bench.runtime.counters().traps), (0, 0));
    assert!(!bench.runtime.deliver(0), "nothing is left");
}

/// Each is the end of a VM, which is built anew though no request asks; but the thread has others to serve.
#[test]
fn ticks_that_trap_come_more_and_more_seldom() {
    let bench = Bench::new(1);
    let imports = r#"(import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#;
    let body = r#"
      (func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $tick (i32.const 1))) (i32.const 1))
      (func (export "proxy_on_tick") (param i32) unreachable)"#;
    bench.module("falls.wasm", imports, body);
    let _chain = bench.chain("filters:\n  - {name: falls, module: falls.wasm}\n").unwrap();
    let begin = Instant::now();
    let mut last = begin;
    let mut rests = Vec::new();
    // 10 ms, 20, 40, ... lie between them.
    while rests.len() < 7 {
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", bench.runtime.counters());
        let before = bench.runtime.counters().traps;
        bench.runtime.run_timers(0);
        if bench.runtime.counters().traps > before {
            rests.push(last.elapsed());
            last = Instant::now();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    for (at, rest) in rests.iter().enumerate().skip(1) {
        assert!(*rest >= Duration::from_millis(10) * (1 << (at - 1)), "{rests:?}");
    }
}
