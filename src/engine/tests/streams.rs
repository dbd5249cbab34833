//! The life of a stream in a chain, with guests in WebAssembly text: order, policies, pausing, answers.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::abi::Callback;
use engine::testing::Transaction;
use engine::{At, FailurePolicy, Stream, Verdict};
use support::{Bench, request, within};

const ADD: &str = r#"(import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))"#;
const STREAMS: &str = r#"
  (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#;
const REPLY: &str = r#"
  (import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;

/// A guest that adds a field `name` with the value `value` to the request and to the response.
fn marker(bench: &Bench, file: &str, name: &str, value: &str) {
    let body = format!(
        r#"(data (i32.const 16) "{name}") (data (i32.const 64) "{value}")
        (func $mark (param i32) (drop (call $add (local.get 0) (i32.const 16) (i32.const {}) (i32.const 64) (i32.const {}))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $mark (i32.const 0)) (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $mark (i32.const 2)) (i32.const 0))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
        (func (export "proxy_on_log") (param i32))
        (func (export "proxy_on_delete") (param i32))"#,
        name.len(),
        value.len()
    );
    bench.module(file, ADD, &body);
}

#[test]
fn requests_run_first_to_last_and_responses_last_to_first() {
    let bench = Bench::new(1);
    marker(&bench, "a.wasm", "x-by", "a");
    marker(&bench, "b.wasm", "x-by", "b");
    let chain = bench.chain("filters:\n- {name: a, module: a.wasm}\n- {name: b, module: b.wasm}\n").unwrap();
    let transaction = request();
    let mut stream = bench.stream(&chain, &transaction);
    assert_eq!(stream.request_headers(true), Verdict::Continue);
    let by = |fields: &engine::testing::Fields| -> Vec<String> {
        let fields = fields.iter().filter(|(name, _)| name == b"x-by");
        fields.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).collect()
    };
    assert_eq!(by(&transaction.0.lock().request), ["a", "b"]);
    transaction.0.lock().response = Some(vec![]);
    assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
    assert_eq!(by(transaction.0.lock().response.as_ref().unwrap()), ["b", "a"]);
    stream.finish();
    use Callback::*;
    assert_eq!(
        transaction.0.lock().callbacks,
        [
            ContextCreate,
            RequestHeaders,
            ContextCreate,
            RequestHeaders,
            ResponseHeaders,
            ResponseHeaders,
            Done,
            Log,
            Delete,
            Done,
            Log,
            Delete
        ]
    );
    let counters = bench.runtime.counters();
    assert_eq!((counters.streams_created, counters.streams_deleted), (2, 2));
}

#[test]
fn dropping_a_stream_ends_its_contexts() {
    let bench = Bench::new(1);
    marker(&bench, "a.wasm", "x", "y");
    let chain = bench.chain("filters: [{name: a, module: a.wasm}]").unwrap();
    let mut stream = bench.stream(&chain, &request());
    let _ = stream.request_headers(true);
    stream.finish();
    drop(stream);
    let counters = bench.runtime.counters();
    assert_eq!((counters.streams_created, counters.streams_deleted), (1, 1), "ended once, by whichever came first");
}

const TRAPPER: &str = r#"
  (global $count (mut i32) (i32.const 0))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (if (i32.eq (global.get $count) (i32.const 2)) (then unreachable))
    (i32.const 0))"#;

#[test]
fn a_trap_is_answered_503_and_the_next_request_has_a_new_vm() {
    let bench = Bench::new(1);
    bench.module("t.wasm", "", TRAPPER);
    let chain = bench.chain("filters: [{name: t, module: t.wasm}]").unwrap();
    for round in 0..6 {
        let transaction = request();
        let mut stream = bench.stream(&chain, &transaction);
        let verdict = stream.request_headers(true);
        if round % 2 == 1 {
            let Verdict::Respond(response) = verdict else { panic!("round {round}: {verdict:?}") };
            assert_eq!(response.status, 503);
            assert!(stream.failed());
            transaction.0.lock().response = Some(vec![]);
            assert_eq!(
                stream.response_headers(At::Client, true),
                Verdict::Continue,
                "no filter sees a failure's answer"
            );
        } else {
            assert_eq!(verdict, Verdict::Continue, "round {round}");
        }
    }
    let counters = bench.runtime.counters();
    assert_eq!(counters.traps, 3);
    assert_eq!(counters.streams_created, counters.streams_deleted);
    assert!(counters.vms_built >= 3, "{counters:?}");
}

#[test]
fn failure_policy_open_goes_on_without_the_filter() {
    let bench = Bench::new(1);
    bench.module(
        "t.wasm",
        "",
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) unreachable)"#,
    );
    marker(&bench, "a.wasm", "x-by", "a");
    let chain = bench
        .chain("filters:\n- {name: t, module: t.wasm, failure_policy: open}\n- {name: a, module: a.wasm}\n")
        .unwrap();
    assert_eq!(chain.filters()[0].policy(), FailurePolicy::Open);
    let transaction = request();
    let mut stream = bench.stream(&chain, &transaction);
    assert_eq!(stream.request_headers(true), Verdict::Continue);
    assert_eq!(Transaction::find(&transaction.0.lock().request, "x-by"), Some("a"));
}

#[test]
fn an_endless_loop_meets_its_deadline() {
    let bench = Bench::new(1);
    bench.module("l.wasm", "", r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (loop $l (br $l)) (i32.const 0))"#);
    let chain = bench.chain("filters: [{name: l, module: l.wasm, limits: {callback_ms: 20}}]").unwrap();
    let mut stream = bench.stream(&chain, &request());
    let begin = Instant::now();
    assert!(matches!(stream.request_headers(true), Verdict::Respond(response) if response.status == 503));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(bench.runtime.counters().deadlines, 1);
}

#[test]
fn endless_recursion_ends_in_a_trap() {
    let bench = Bench::new(1);
    bench.module(
        "r.wasm",
        "",
        r#"(func $f (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (i32.add (i32.const 1) (call $f (local.get 0) (local.get 1) (local.get 2))))"#,
    );
    let chain = bench.chain("filters: [{name: r, module: r.wasm}]").unwrap();
    let mut stream = bench.stream(&chain, &request());
    assert!(matches!(stream.request_headers(true), Verdict::Respond(response) if response.status == 503));
}

/// Counts how often the stream asks to be resumed.
fn count_wakes(stream: &Stream) -> Arc<AtomicUsize> {
    let wakes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&wakes);
    stream.set_waker(Box::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    wakes
}

/// Holds the request; the tick of the plugin context resumes the stream context that the request remembered.
const PAUSER: &str = r#"
  (global $held (mut i32) (i32.const 0))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $tick (i32.const 1))) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (global.set $held (local.get 0)) (i32.const 1))
  (func (export "proxy_on_tick") (param i32)
    (if (global.get $held) (then
      (drop (call $effective (global.get $held)))
      (drop (call $continue (i32.const 0)))
      (global.set $held (i32.const 0)))))"#;

#[test]
fn a_tick_resumes_a_paused_stream() {
    let bench = Bench::new(1);
    bench.module("p.wasm", STREAMS, PAUSER);
    marker(&bench, "a.wasm", "x-by", "a");
    let chain = bench.chain("filters:\n- {name: p, module: p.wasm}\n- {name: a, module: a.wasm}\n").unwrap();
    let transaction = request();
    let mut stream = bench.stream(&chain, &transaction);
    assert_eq!(stream.request_headers(true), Verdict::Pause);
    assert_eq!(stream.pause_limit(), Duration::from_secs(30));
    assert_eq!(stream.resume(), Verdict::Pause, "nobody asked for it yet");
    let wakes = count_wakes(&stream);
    std::thread::sleep(Duration::from_millis(5));
    assert!(bench.runtime.run_timers(0).is_some());
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
    assert_eq!(Transaction::find(&transaction.0.lock().request, "x-by"), None);
    assert_eq!(stream.resume(), Verdict::Continue);
    assert_eq!(Transaction::find(&transaction.0.lock().request, "x-by"), Some("a"), "the next filter had its turn");
}

#[test]
fn a_pause_that_lasts_too_long_is_a_failure() {
    let bench = Bench::new(1);
    bench.module(
        "p.wasm",
        "",
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))"#,
    );
    for (policy, answered) in [("closed", true), ("open", false)] {
        let chain = bench
            .chain(&format!(
                "filters: [{{name: p, module: p.wasm, failure_policy: {policy}, limits: {{pause_ms: 50}}}}]"
            ))
            .unwrap();
        let mut stream = bench.stream(&chain, &request());
        assert_eq!(stream.request_headers(true), Verdict::Pause);
        assert_eq!(stream.pause_limit(), Duration::from_millis(50));
        assert_eq!(matches!(stream.pause_expired(), Verdict::Respond(_)), answered);
    }
}

#[test]
fn a_trap_elsewhere_wakes_the_paused_stream_and_its_policy_decides() {
    let bench = Bench::new(1);
    bench.module(
        "p.wasm",
        "",
        r#"
      (global $count (mut i32) (i32.const 0))
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (if (i32.eq (global.get $count) (i32.const 2)) (then unreachable))
        (i32.const 1))"#,
    );
    let chain = bench.chain("filters: [{name: p, module: p.wasm}]").unwrap();
    let mut first = bench.stream(&chain, &request());
    assert_eq!(first.request_headers(true), Verdict::Pause);
    let wakes = count_wakes(&first);
    let mut second = bench.stream(&chain, &request());
    assert!(matches!(second.request_headers(true), Verdict::Respond(_)));
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
    assert!(matches!(first.resume(), Verdict::Respond(response) if response.status == 503));
}

#[test]
fn a_local_response_ends_the_chain_whatever_the_filter_returns() {
    let bench = Bench::new(1);
    bench.module("r.wasm", REPLY, r#"
      (data (i32.const 16) "no\00body")
      (data (i32.const 32) "\01\00\00\00\03\00\00\00\01\00\00\00x-a\00b\00")
      (data (i32.const 64) "Not Today")
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $reply (i32.const 299) (i32.const 64) (i32.const 9) (i32.const 16) (i32.const 7) (i32.const 32) (i32.const 18) (i32.const -1)))
        (i32.const 0))"#);
    marker(&bench, "a.wasm", "x-by", "a");
    let chain = bench.chain("filters:\n- {name: r, module: r.wasm}\n- {name: a, module: a.wasm}\n").unwrap();
    let transaction = request();
    let mut stream = bench.stream(&chain, &transaction);
    let Verdict::Respond(response) = stream.request_headers(true) else { panic!() };
    assert_eq!((response.status, response.body.as_slice()), (299, &b"no\0body"[..]));
    assert_eq!(response.headers, [(b"x-a".to_vec(), b"b".to_vec())]);
    assert_eq!(response.details, b"Not Today");
    assert_eq!(response.grpc_status, None);
    assert!(!stream.failed());
    // The second filter never met the request, so it does not meet the response either.
    transaction.0.lock().response = Some(vec![]);
    assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
    assert_eq!(transaction.0.lock().response.as_ref().unwrap().len(), 0);
}

#[test]
fn equal_filters_share_a_plugin_context_and_other_configurations_do_not() {
    let bench = Bench::new(2);
    marker(&bench, "a.wasm", "x", "y");
    let one = bench.chain("filters: [{name: a, module: a.wasm, configuration: one}]").unwrap();
    let again = bench.chain("filters: [{name: a, module: a.wasm, configuration: one}]").unwrap();
    assert_eq!(bench.runtime.counters().roots_created, 2, "one a slot");
    let two = bench.chain("filters: [{name: a, module: a.wasm, configuration: two}]").unwrap();
    assert_eq!(bench.runtime.counters().roots_created, 4);
    assert_eq!(bench.runtime.counters().vms_built, 2, "one a slot, shared by both configurations");
    drop(one);
    assert_eq!(bench.runtime.counters().roots_deleted, 0, "still in use");
    drop(again);
    assert_eq!(bench.runtime.counters().roots_deleted, 2);
    drop(two);
    // The rebuilder may just look whether the VM in which configurations are tried is still needed.
    within("nothing is left", || {
        let counters = bench.runtime.counters();
        let roots = (counters.roots_created, counters.roots_deleted);
        (roots == (4, 4) && (counters.vms_built, counters.vms_dropped) == (2, 2)).then_some(())
    });
}

#[test]
fn beyond_the_ceiling_on_vms_threads_share_them() {
    let bench = Bench::with(engine::Options { max_vms: 6, ..engine::Options::with_slots(4) });
    marker(&bench, "a.wasm", "x-by", "a");
    let file = |vm_id: &str| format!("filters: [{{name: a, module: a.wasm, vm_id: {vm_id}}}]");
    let mut chains = vec![bench.chain(&file("one")).unwrap()];
    assert_eq!(bench.runtime.counters().vms_built, 4);
    chains.push(bench.chain(&file("two")).unwrap());
    assert_eq!(bench.runtime.counters().vms_built, 6, "what was left");
    chains.push(bench.chain(&file("three")).unwrap());
    assert_eq!(bench.runtime.counters().vms_built, 7, "one at the least");
    for chain in &chains {
        for slot in 0..4 {
            let transaction = request();
            let mut stream = Stream::new(Arc::clone(chain), slot, transaction.host());
            assert_eq!(stream.request_headers(true), Verdict::Continue);
            assert_eq!(Transaction::find(&transaction.0.lock().request, "x-by"), Some("a"));
        }
    }
    chains.clear();
    chains.push(bench.chain(&file("four")).unwrap());
    assert_eq!(bench.runtime.counters().vms_built, 11, "the room of those that are gone is free again");
}

#[test]
fn a_configuration_that_only_a_vm_in_use_refuses_costs_that_vm_and_nothing_else() {
    let bench = Bench::new(1);
    // Traps at the second configuration that one VM sees: the trial on a VM of its own cannot show that.
    bench.module(
        "s.wasm",
        "",
        r#"(global $count (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (global.set $count (i32.add (global.get $count) (i32.const 1)))
          (if (i32.eq (global.get $count) (i32.const 2)) (then unreachable))
          (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))"#,
    );
    let chain = bench.chain("filters: [{name: s, module: s.wasm, configuration: one}]").unwrap();
    let mut held = bench.stream(&chain, &request());
    assert_eq!(held.request_headers(true), Verdict::Pause);
    let wakes = count_wakes(&held);
    bench.chain("filters: [{name: s, module: s.wasm, configuration: two}]").unwrap_err();
    assert_eq!(wakes.load(Ordering::Relaxed), 1, "what waited in the VM is told");
    assert!(matches!(held.resume(), Verdict::Respond(response) if response.status == 503));
    let mut next = bench.stream(&chain, &request());
    assert_eq!(next.request_headers(true), Verdict::Pause, "a new VM, at once");
}
