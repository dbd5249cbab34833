//! `isolation`: what is shared with whom, and that a VM of one transaction knows of no other.

mod support;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{At, Chain, Options, Runtime, Stream, Verdict, config};
use support::{Bench, request};

const STREAMS: &str = r#"
  (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_register_shared_queue" (func $register (param i32 i32 i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#;

/// Traps at the second request that it sees.
const ONCE: &str = r#"
  (global $seen (mut i32) (i32.const 0))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (if (global.get $seen) (then unreachable))
    (global.set $seen (i32.const 1))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (if (i32.eqz (global.get $seen)) (then unreachable))
    (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32))"#;

/// Holds the request until the second tick. A response traps.
const HOLDS: &str = r#"
  (data (i32.const 16) "q")
  (global $held (mut i32) (i32.const 0))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $register (i32.const 16) (i32.const 1) (i32.const 32)))
    (drop (call $tick (i32.const 1)))
    (i32.const 1))
  (func (export "proxy_on_queue_ready") (param i32 i32) unreachable)
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (global.set $held (local.get 0)) (i32.const 1))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) unreachable)
  (func (export "proxy_on_tick") (param i32)
    (if (global.get $held) (then
      (drop (call $effective (global.get $held)))
      (drop (call $continue (i32.const 0)))
      (global.set $held (i32.const 0)))))"#;

fn chain(runtime: &Runtime, bench: &Bench, rule: &str, module: &str, isolation: &str) -> Arc<Chain> {
    let text = format!("filters: [{{name: f, module: {module}, vm_id: v, isolation: {isolation}}}]");
    let config = config::parse(&bench.path().join("filters.yaml"), &text).unwrap();
    Chain::load(runtime, rule, &config).unwrap()
}

fn bench(options: Options) -> Bench {
    let bench = Bench::with(options);
    bench.module("once.wasm", "", ONCE);
    bench.module("holds.wasm", STREAMS, HOLDS);
    bench
}

fn stream(chain: &Arc<Chain>) -> Stream {
    Stream::new(Arc::clone(chain), 0, request().host())
}

/// The process's resident memory in KiB.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size() / 1024
}

#[test]
fn rules_share_vms_as_their_filters_say() {
    for (isolation, vms) in [("shared", 1), ("rule", 2)] {
        let bench = bench(Options::with_slots(1));
        let load = |rule| chain(&bench.runtime, &bench, rule, "once.wasm", isolation);
        let chains = [load("rule a -> b"), load("rule a -> b"), load("rule c -> b")];
        assert_eq!(bench.runtime.counters().vms_built, vms, "{isolation}");
        assert_eq!(stream(&chains[0]).request_headers(true), Verdict::Continue);
        let same = matches!(stream(&chains[2]).request_headers(true), Verdict::Respond(_));
        assert_eq!(same, isolation == "shared", "whether it met the memory of the other rule");
    }
}

#[test]
fn nothing_goes_from_one_transaction_to_the_next_and_memory_stays() {
    const TRANSACTIONS: u64 = 100_000;
    let bench = bench(Options::with_slots(2));
    let chain = chain(&bench.runtime, &bench, "rule a -> b", "once.wasm", "transaction");
    let mut early = 0;
    for number in 0..TRANSACTIONS {
        let mut stream = Stream::new(Arc::clone(&chain), (number % 2) as usize, request().host());
        assert_eq!(stream.request_headers(true), Verdict::Continue, "transaction {number}");
        assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue, "it is in one VM all the time");
        if number == TRANSACTIONS / 10 {
            early = resident();
        }
    }
    let late = resident();
    assert!(late < early + 8 * 1024, "{early} KiB, then {late} KiB");
    drop(chain);
    // What the rebuilder was building when the plugin ended goes, too.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let counters = bench.runtime.counters();
        let even = counters.vms_built == counters.vms_dropped && counters.roots_created == counters.roots_deleted;
        if even {
            assert_eq!((counters.streams_created, counters.streams_deleted), (TRANSACTIONS, TRANSACTIONS));
            assert!(counters.vms_built >= TRANSACTIONS && counters.traps == 0, "{counters:?}");
            break;
        }
        assert!(Instant::now() < end, "{counters:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn each_filter_of_a_transaction_has_its_own() {
    let bench = bench(Options::with_slots(1));
    let filter = "{name: f, module: once.wasm, isolation: transaction}";
    let chain = bench.chain(&format!("filters: [{filter}, {filter}, {filter}]")).unwrap();
    for _ in 0..20 {
        let mut stream = bench.stream(&chain, &request());
        assert_eq!(stream.request_headers(true), Verdict::Continue);
    }
}

/// Runs ticks until the stream goes on, or for a while.
fn ticks(bench: &Bench, stream: &mut Stream) -> Verdict {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        bench.runtime.run_timers(0);
        let verdict = stream.resume();
        if verdict != Verdict::Pause || Instant::now() > end {
            return verdict;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn pauses_and_ticks_are_each_vms_own_and_a_trap_is_nobody_elses() {
    let bench = bench(Options::with_slots(1));
    let chain = chain(&bench.runtime, &bench, "rule a -> b", "holds.wasm", "transaction");
    let mut streams: Vec<_> = (0..20).map(|_| stream(&chain)).collect();
    for stream in &mut streams {
        assert_eq!(stream.request_headers(true), Verdict::Pause);
    }
    for (at, stream) in streams.iter_mut().enumerate() {
        assert_eq!(ticks(&bench, stream), Verdict::Continue, "stream {at}");
        // It is over with this VM; the others hold what they hold.
        let answer = stream.response_headers(At::Client, true);
        assert!(matches!(answer, Verdict::Respond(response) if response.status == 503));
    }
    let counters = bench.runtime.counters();
    assert_eq!(counters.traps, 20);
    drop(streams);
    drop(chain);
    // No VM of a transaction waits for items.
    let queues = &bench.runtime.shared().queues;
    let queue = queues.resolve("v", b"q").expect("it may be filled all the same");
    queues.enqueue(queue, b"item").unwrap();
    assert!(!bench.runtime.deliver(0));
    assert_eq!((queues.stats(queue).unwrap().items, bench.runtime.counters().traps), (1, 20));
}

#[test]
fn there_are_no_more_than_the_ceiling_allows() {
    let bench = bench(Options { max_vms: 16, ..Options::with_slots(1) });
    let chain = chain(&bench.runtime, &bench, "rule a -> b", "once.wasm", "transaction");
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..30 {
        let mut stream = stream(&chain);
        match stream.request_headers(true) {
            Verdict::Continue => held.push(stream),
            Verdict::Respond(response) if response.status == 503 => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((held.len(), refused), (8, 22), "half of what the process may have");
    held.pop();
    assert_eq!(stream(&chain).request_headers(true), Verdict::Continue, "the room of one that is over is free again");
}

#[test]
fn a_vm_that_cannot_be_made_is_its_transactions_failure() {
    let bench = bench(Options::with_slots(1));
    bench.module(
        "fails.wasm",
        r#"(import "env" "proxy_get_shared_data" (func $get (param i32 i32 i32 i32 i32) (result i32)))"#,
        r#"(data (i32.const 16) "bad")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (if (i32.eqz (call $get (i32.const 16) (i32.const 3) (i32.const 32) (i32.const 36) (i32.const 40)))
            (then unreachable))
          (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#,
    );
    let failing = chain(&bench.runtime, &bench, "rule a -> b", "fails.wasm", "transaction");
    let fine = chain(&bench.runtime, &bench, "rule c -> d", "once.wasm", "transaction");
    bench.runtime.shared().data.set("v", b"bad", b"1", 0).unwrap();
    // The stock is not touched by it, and its end is noticed.
    let passed = (0..50).filter(|_| stream(&failing).request_headers(true) == Verdict::Continue).count();
    assert!(passed < 50);
    let traps = bench.runtime.counters().traps;
    assert!((1..10).contains(&traps), "it is not tried for each transaction: {traps}");
    for _ in 0..20 {
        assert_eq!(stream(&fine).request_headers(true), Verdict::Continue);
    }
    bench.runtime.shared().data.delete("v", b"bad", 0).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while stream(&failing).request_headers(true) != Verdict::Continue {
        assert!(Instant::now() < end, "it is tried again");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(chain_refuses(&bench), "and a configuration that fails from the beginning does not load");
}

fn chain_refuses(bench: &Bench) -> bool {
    bench.module("no.wasm", "", r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))"#);
    bench.chain("filters: [{name: f, module: no.wasm, isolation: transaction}]").is_err()
}
