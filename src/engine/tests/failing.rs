//! What becomes of transactions whose filters fail: policies, their answers, and breakers.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::observe::Value;
use engine::testing::{SharedTransaction, Transaction};
use engine::{At, Chain, FailurePolicy, Runtime, Stream, Verdict};
use support::{Bench, request, within};

/// Traps in a request's headers if the request has the field `x-bad`.
const SOMETIMES: &str = r#"
  (data (i32.const 16) "x-bad")
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (if (i32.eqz (call $get (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 4))) (then unreachable))
    (i32.const 0))
  (func (export "proxy_on_log") (param i32))"#;
const GET: &str = r#"(import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))"#;

fn bench(slots: usize) -> Bench {
    let bench = Bench::new(slots);
    bench.module("sometimes.wasm", GET, SOMETIMES);
    bench
}

fn ask(chain: &Arc<Chain>, slot: usize, bad: bool) -> Verdict {
    let transaction = Transaction::get("a.test", "/");
    let transaction = if bad { transaction.header("x-bad", "1") } else { transaction };
    let mut stream = Stream::new(Arc::clone(chain), slot, SharedTransaction::new(transaction).host());
    let verdict = stream.request_headers(true);
    stream.finish();
    verdict
}

fn status(verdict: &Verdict) -> u16 {
    match verdict {
        Verdict::Respond(response) => response.status,
        Verdict::Continue => 200,
        other => panic!("{other:?}"),
    }
}

/// The processor time that this thread has used.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

/// Of the filter `f` of the rule of all chains here.
fn metric(runtime: &Runtime, name: &str) -> u64 {
    let families = runtime.families();
    let family = families.iter().find(|family| family.name == format!("wasm_remap_rule_breaker_{name}"));
    let sample = family.and_then(|family| family.samples.iter().find(|sample| sample.labels[0].1 == "test rule"));
    match sample.map(|sample| &sample.value) {
        Some(Value::Integer(count)) => *count,
        other => panic!("{name}: {other:?}"),
    }
}

fn total(runtime: &Runtime, name: &str) -> u64 {
    runtime.totals().into_iter().find(|total| total.name == name).unwrap_or_else(|| panic!("{name}")).value
}

#[test]
fn the_file_says_what_a_failure_is_answered() {
    let bench = bench(1);
    let chain = bench
        .chain(
            "filters:\n- name: f\n  module: sometimes.wasm\n  failure_policy:\n    status: 429\n    body: |\n      later\n    \
             content_type: text/html\n    headers: {retry-after: '1'}\n",
        )
        .unwrap();
    let Verdict::Respond(response) = ask(&chain, 0, true) else { panic!() };
    assert_eq!((response.status, response.body.as_slice()), (429, &b"later\n"[..]));
    assert_eq!(
        response.headers,
        [(b"content-type".to_vec(), b"text/html".to_vec()), (b"retry-after".to_vec(), b"1".to_vec())]
    );
    assert_eq!(chain.filters()[0].policy(), FailurePolicy::Closed);
    // The same where a response fails.
    bench.module(
        "r.wasm",
        "",
        r#"(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) unreachable)"#,
    );
    let chain = bench.chain("filters: [{name: f, module: r.wasm, failure_policy: {status: 502, body: no}}]").unwrap();
    let transaction = request();
    let mut stream = bench.stream(&chain, &transaction);
    assert_eq!(stream.request_headers(true), Verdict::Continue);
    transaction.0.lock().response = Some(vec![]);
    let Verdict::Respond(response) = stream.response_headers(At::Client, true) else { panic!() };
    assert_eq!((response.status, response.body.as_slice()), (502, &b"no"[..]));
}

#[test]
fn a_breaker_opens_tries_and_closes_and_is_seen() {
    let bench = bench(2);
    let file = "filters: [{name: f, module: sometimes.wasm, breaker: {failures: 5, pause_ms: 200, max_pause_ms: 200, \
                while_open: {status: 500}}}]";
    let chain = bench.chain(file).unwrap();
    // Another rule with the same filter: one plugin context, one breaker.
    let other = bench.chain(file).unwrap();
    for count in 0..5 {
        assert_eq!(metric(&bench.runtime, "state"), 0);
        assert_eq!(status(&ask(if count % 2 == 0 { &chain } else { &other }, count % 2, true)), 503);
    }
    assert_eq!((metric(&bench.runtime, "state"), metric(&bench.runtime, "opens_total")), (2, 1));
    assert_eq!(total(&bench.runtime, "filters_set_aside"), 1);
    // Nobody enters a VM, on no thread and in no rule.
    let before = bench.runtime.counters();
    for slot in 0..2 {
        assert_eq!((status(&ask(&chain, slot, false)), status(&ask(&other, slot, true))), (500, 500));
    }
    let after = bench.runtime.counters();
    assert_eq!((after.traps, after.streams_created), (before.traps, before.streams_created));
    assert_eq!((metric(&bench.runtime, "rejected_total"), total(&bench.runtime, "breaker_rejected")), (4, 4));
    // On trial it fails, and then it does not.
    within("a trial", || (status(&ask(&chain, 0, true)) == 503).then_some(()));
    assert_eq!((metric(&bench.runtime, "state"), metric(&bench.runtime, "opens_total")), (2, 2));
    within("a trial", || (status(&ask(&chain, 1, false)) == 200).then_some(()));
    assert_eq!((metric(&bench.runtime, "state"), metric(&bench.runtime, "probes_total")), (0, 2));
    assert_eq!(total(&bench.runtime, "filters_set_aside"), 0);
    assert_eq!(status(&ask(&other, 0, false)), 200);
    let counters = bench.runtime.counters();
    assert_eq!(counters.traps, 6);
    assert_eq!(counters.streams_created, counters.streams_deleted);
    // A filter that is configured anew has a clean sheet.
    for _ in 0..5 {
        ask(&chain, 0, true);
    }
    assert_eq!(status(&ask(&chain, 0, false)), 500);
    let anew = bench.chain(&file.replace("name: f,", "name: f, configuration: other,")).unwrap();
    assert_eq!(status(&ask(&anew, 0, false)), 200);
    drop((chain, other, anew));
    // The rebuilder may be at a VM with it.
    within("what is gone is not set aside", || (total(&bench.runtime, "filters_set_aside") == 0).then_some(()));
}

#[test]
fn a_filter_that_is_set_aside_may_be_passed_by() {
    let bench = bench(1);
    let chain = bench
        .chain(
            "filters: [{name: f, module: sometimes.wasm, breaker: {failures: 2, pause_ms: 60000, while_open: open}}]",
        )
        .unwrap();
    assert_eq!((status(&ask(&chain, 0, true)), status(&ask(&chain, 0, true))), (503, 503));
    assert_eq!((status(&ask(&chain, 0, true)), status(&ask(&chain, 0, false))), (200, 200));
    assert_eq!(bench.runtime.counters().traps, 2);
}

#[test]
fn a_filter_whose_vm_cannot_be_built_is_set_aside() {
    let bench = Bench::new(1);
    // Traps in each request, and at its second start.
    bench.module(
        "once.wasm",
        r#"(import "env" "proxy_set_shared_data" (func $set (param i32 i32 i32 i32 i32) (result i32)))
           (import "env" "proxy_get_shared_data" (func $get (param i32 i32 i32 i32 i32) (result i32)))"#,
        r#"(data (i32.const 16) "been")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (if (i32.eqz (call $get (i32.const 16) (i32.const 4) (i32.const 0) (i32.const 4) (i32.const 8))) (then unreachable))
          (drop (call $set (i32.const 16) (i32.const 4) (i32.const 16) (i32.const 4) (i32.const 0)))
          (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) unreachable)"#,
    );
    let chain =
        bench.chain("filters: [{name: f, module: once.wasm, breaker: {failures: 5, pause_ms: 60000}}]").unwrap();
    for _ in 0..10 {
        assert_eq!(status(&ask(&chain, 0, false)), 503);
    }
    assert_eq!((metric(&bench.runtime, "state"), metric(&bench.runtime, "rejected_total")), (2, 5));
    // The first transaction's, and that of the plugin context that was to follow.
    assert_eq!(bench.runtime.counters().traps, 2);
}

#[test]
fn loops_are_counted_by_their_cost() {
    let bench = Bench::new(1);
    bench.module("l.wasm", "", r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (loop $l (br $l)) (i32.const 0))"#);
    let chain = bench
        .chain("filters: [{name: f, module: l.wasm, limits: {callback_ms: 50}, breaker: {failures: 1000, lost_ms: 200, pause_ms: 60000}}]")
        .unwrap();
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(status(&ask(&chain, 0, false)), 503);
    }
    let loops = bench.runtime.counters().deadlines;
    println!("100 requests that loop for 50 ms: {loops} did, all in {:.1?}", begin.elapsed());
    assert!((3..=5).contains(&loops), "{loops}");
}

#[test]
fn with_reload_a_vm_comes_back_later_each_time() {
    let bench = bench(1);
    let file = |policy: &str| {
        format!(
            "filters: [{{name: f, module: sometimes.wasm, vm_id: {policy}, failure_policy: {policy}, breaker: off}}]"
        )
    };
    let chain = bench.chain(&file("reload")).unwrap();
    assert_eq!(status(&ask(&chain, 0, false)), 200);
    let mut rests = Vec::new();
    for _ in 0..3 {
        let begin = Instant::now();
        assert_eq!(status(&ask(&chain, 0, true)), 503);
        assert_eq!(status(&ask(&chain, 0, false)), 503, "closed, while its VM is away");
        within("the VM", || (status(&ask(&chain, 0, false)) == 200).then_some(()));
        rests.push(begin.elapsed());
    }
    println!("its VM was away for {rests:.0?}");
    for (rest, least) in rests.iter().zip([250, 500, 1000]) {
        assert!(*rest >= Duration::from_millis(least) && *rest < Duration::from_millis(10 * least), "{rests:?}");
    }
    // The others build it at once.
    let chain = bench.chain(&file("closed")).unwrap();
    assert_eq!((status(&ask(&chain, 0, true)), status(&ask(&chain, 0, false))), (503, 200));
}

/// A guest that takes long to start: nobody waits for its VM, and whoever comes meanwhile is decided at once.
#[test]
fn nobody_waits_for_a_vm_that_takes_long_to_build() {
    let bench = Bench::new(1);
    let slow = r#"(func (export "_initialize")
          (local $turns i32)
          (local.set $turns (i32.const 100000000))
          (loop $l
            (global.set $work (i64.add (i64.mul (global.get $work) (i64.const 31)) (i64.const 7)))
            (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
            (br_if $l (local.get $turns))))"#;
    let work = "(global $work (mut i64) (i64.const 0))";
    bench.module("slow.wasm", GET, &format!("{work}{slow}{SOMETIMES}"));
    let chain = bench.chain("filters: [{name: f, module: slow.wasm, breaker: off}]").unwrap();
    assert_eq!((status(&ask(&chain, 0, false)), status(&ask(&chain, 0, true))), (200, 503));
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    let mut refused = 0;
    within("the VM", || {
        let asked = thread_time();
        let status = status(&ask(&chain, 0, false));
        longest = longest.max(thread_time() - asked);
        refused += usize::from(status == 503);
        (status == 200).then_some(())
    });
    println!(
        "the VM took {:.0?}; {refused} were answered meanwhile, with {longest:.1?} of work at most",
        begin.elapsed()
    );
    assert!(refused > 2, "{refused}");
    assert!(longest < Duration::from_millis(20), "{longest:?}");
}

#[test]
fn a_storm_of_traps_leaves_nothing_behind() {
    let bench = bench(1);
    let chain = bench.chain("filters: [{name: f, module: sometimes.wasm, breaker: off}]").unwrap();
    for _ in 0..5_000 {
        assert_eq!(status(&ask(&chain, 0, true)), 503);
    }
    // The rebuilder may be about to put the last one into its place, or to find that a request was faster.
    let counters = within("the last VM", || {
        let counters = bench.runtime.counters();
        let one = counters.vms_built == counters.vms_dropped + 1 && total(&bench.runtime, "vms") == 1;
        one.then_some(counters)
    });
    assert_eq!((counters.traps, counters.streams_created, counters.streams_deleted), (5_000, 5_000, 5_000));
    assert_eq!(counters.roots_created - counters.roots_deleted, 1);
}
