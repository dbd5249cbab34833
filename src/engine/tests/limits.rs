//! Limits: each is met within itself and a tick, and said by its key.

mod support;

use std::time::Duration;

use engine::observe::Value;
use engine::{Bytes, Runtime, Side, Stream, Verdict};
use support::{Bench, request};

/// The processor time that this thread has used.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

/// A member of a family, found by the values of its labels.
fn metric(runtime: &Runtime, name: &str, values: &[&str]) -> u64 {
    let families = runtime.families();
    let family = families.iter().find(|family| family.name == format!("wasm_remap_rule_{name}"));
    let samples = family.map_or(&[][..], |family| &family.samples);
    let found =
        samples.iter().find(|sample| values.iter().all(|value| sample.labels.iter().any(|(_, own)| own == value)));
    match found.map(|sample| &sample.value) {
        Some(Value::Integer(count)) => *count,
        Some(other) => panic!("{other:?}"),
        None => 0,
    }
}

fn breaches(bench: &Bench, limit: &str) -> u64 {
    metric(&bench.runtime, "limit_breaches_total", &["test rule", limit])
}

fn traps(bench: &Bench, reason: &str) -> u64 {
    metric(&bench.runtime, "traps_total", &["test rule", reason])
}

/// A guest that does this with a request's headers.
fn on_request(bench: &Bench, imports: &str, globals: &str, act: &str) {
    let body = format!(
        r#"{globals} (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {act} (i32.const 0))"#
    );
    bench.module("m.wasm", imports, &body);
}

fn is_refused(verdict: &Verdict) {
    assert!(matches!(verdict, Verdict::Respond(response) if response.status == 503), "{verdict:?}");
}

const SPIN: &str = "(loop $l (br $l))";

/// What a callback may take beyond its limit.
const TICK: Duration = Duration::from_millis(10);

#[test]
fn a_callback_ends_within_its_limit_and_a_tick() {
    let bench = Bench::new(1);
    on_request(&bench, "", "", SPIN);
    for limit in [20, 50] {
        let chain = bench
            .chain(&format!("filters: [{{name: m, module: m.wasm, breaker: off, limits: {{callback_ms: {limit}}}}}]"))
            .unwrap();
        let limit = Duration::from_millis(limit);
        let times: Vec<_> = (0..8)
            .map(|_| {
                let begin = thread_time();
                is_refused(&bench.stream(&chain, &request()).request_headers(true));
                thread_time() - begin
            })
            .collect();
        println!("a loop with callback_ms {limit:?} took {times:.1?} of processor time");
        // Ticks come late where the ticker has to wait for a processor: the least is what the machine does not spoil.
        let least = *times.iter().min().unwrap();
        assert!(times.iter().all(|time| *time >= limit) && least <= limit + TICK + TICK / 2, "{times:?}");
    }
    assert_eq!((traps(&bench, "deadline"), breaches(&bench, "callback_ms")), (16, 16));
    assert_eq!(breaches(&bench, "transaction_ms"), 0);
}

#[test]
fn start_and_configuration_have_limits_of_their_own() {
    let bench = Bench::new(1);
    bench.module("start.wasm", "", &format!(r#"(func (export "_initialize") {SPIN})"#));
    bench.module("section.wasm", "", &format!("(func $start {SPIN}) (start $start)"));
    bench.module(
        "vm.wasm",
        "",
        &format!(r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) {SPIN} (i32.const 1))"#),
    );
    bench.module(
        "conf.wasm",
        "",
        &format!(r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) {SPIN} (i32.const 1))"#),
    );
    for (module, limits, says) in [
        ("start", "{start_ms: 30}", "(limits.start_ms: 30) in _initialize"),
        ("section", "{start_ms: 30}", "(limits.start_ms: 30) in _initialize"),
        ("vm", "{start_ms: 30}", "(limits.start_ms: 30) in proxy_on_vm_start"),
        ("conf", "{configure_ms: 30}", "(limits.configure_ms: 30) in proxy_on_configure"),
    ] {
        let begin = thread_time();
        let error =
            bench.chain(&format!("filters: [{{name: m, module: {module}.wasm, limits: {limits}}}]")).unwrap_err();
        let took = thread_time() - begin;
        let message = error.to_string();
        assert!(message.contains(says), "{module}: {message}");
        println!("{module}: ended after {took:.1?} of processor time, compiling included");
    }
    let counters = bench.runtime.counters();
    assert_eq!((counters.vms_built - counters.vms_dropped, counters.roots_created), (0, 0));
}

/// The callbacks of one filter in one transaction, none of them long: together they are.
#[test]
fn a_transactions_callbacks_have_a_limit_together() {
    let bench = Bench::new(1);
    let body = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
          (local $end i64)
          (drop (call $now (i32.const 8)))
          (local.set $end (i64.add (i64.load (i32.const 8)) (i64.const 25000000)))
          (loop $l
            (drop (call $now (i32.const 8)))
            (br_if $l (i64.lt_u (i64.load (i32.const 8)) (local.get $end))))
          (i32.const 0))"#;
    let imports = r#"(import "env" "proxy_get_current_time_nanoseconds" (func $now (param i32) (result i32)))"#;
    bench.module("m.wasm", imports, body);
    let chain =
        bench.chain("filters: [{name: m, module: m.wasm, limits: {callback_ms: 100, transaction_ms: 100}}]").unwrap();
    let used = |stream: &mut Stream| {
        assert_eq!(stream.request_headers(false), Verdict::Continue);
        let begin = thread_time();
        for chunk in 1..=40 {
            let verdict = stream.body(Side::Request, Some(Box::new(Bytes(b"x".to_vec()))), false);
            if verdict != Verdict::Continue {
                is_refused(&verdict);
                return (chunk, thread_time() - begin);
            }
        }
        panic!("40 callbacks of 25 ms in 100 ms");
    };
    let (chunks, time) = used(&mut bench.stream(&chain, &request()));
    println!("ended after {chunks} callbacks of 25 ms, {time:.1?} of processor time");
    assert!(chunks >= 3 && time <= Duration::from_millis(200), "{chunks} {time:?}");
    assert_eq!((traps(&bench, "transaction_deadline"), breaches(&bench, "transaction_ms")), (1, 1));
    // The next transaction has its own time.
    let mut next = bench.stream(&chain, &request());
    assert_eq!(next.request_headers(false), Verdict::Continue);
    assert_eq!(next.body(Side::Request, Some(Box::new(Bytes(b"x".to_vec()))), true), Verdict::Continue);
}

#[test]
fn what_was_refused_is_what_ended_the_guest() {
    let bench = Bench::new(1);
    let refused = "(unreachable)";
    for (globals, act, reason, limit) in [
        (
            "",
            format!("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) {refused}"),
            "memory",
            "memory_mib",
        ),
        (
            "(table $t 1 funcref)",
            format!(
                "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1)))) {refused}"
            ),
            "table",
            "table_elements",
        ),
    ] {
        on_request(&bench, "", globals, &act);
        let chain = bench
            .chain("filters: [{name: m, module: m.wasm, breaker: off, limits: {memory_mib: 4, table_elements: 1000}}]")
            .unwrap();
        for count in 1..=3 {
            is_refused(&bench.stream(&chain, &request()).request_headers(true));
            // Once for the growth that was refused, once for the end.
            assert_eq!((traps(&bench, reason), breaches(&bench, limit)), (count, 2 * count), "{reason}");
        }
    }
    // Who takes no for an answer goes on, and it is counted all the same; what comes later is not blamed on it.
    let imports = "";
    let body = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (memory.grow (i32.const 10000))) (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) unreachable)"#;
    bench.module("m.wasm", imports, body);
    let chain = bench.chain("filters: [{name: m, module: m.wasm, limits: {memory_mib: 4}}]").unwrap();
    let transaction = request();
    let mut stream = bench.stream(&chain, &transaction);
    assert_eq!(stream.request_headers(true), Verdict::Continue);
    assert_eq!((traps(&bench, "memory"), breaches(&bench, "memory_mib")), (3, 7));
    transaction.0.lock().response = Some(vec![]);
    is_refused(&stream.response_headers(engine::At::Client, true));
    assert_eq!((traps(&bench, "memory"), traps(&bench, "trap")), (3, 1));
}

/// Into the guest, out of it, and by way of WASI.
#[test]
fn bytes_over_the_boundary_have_a_limit() {
    let bench = Bench::new(1);
    let turns = |call: &str| format!("(loop $l (drop {call}) (br $l))");
    for (imports, act) in [
        (
            r#"(import "env" "proxy_log" (func $f (param i32 i32 i32) (result i32)))"#,
            turns("(call $f (i32.const 0) (i32.const 0) (i32.const 16384))"),
        ),
        (
            r#"(import "env" "proxy_get_header_map_value" (func $f (param i32 i32 i32 i32 i32) (result i32)))"#,
            // The allocator only counts up: it begins anew each time.
            turns(
                "(i32.add (call $f (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 0) (i32.const 4)) (block (result i32) (global.set $heap (i32.const 32768)) (i32.const 0)))",
            ),
        ),
        (
            r#"(import "wasi_snapshot_preview1" "fd_write" (func $f (param i32 i32 i32 i32) (result i32)))"#,
            turns("(call $f (i32.const 1) (i32.const 24) (i32.const 1) (i32.const 8))"),
        ),
        (
            r#"(import "wasi_snapshot_preview1" "random_get" (func $f (param i32 i32) (result i32)))"#,
            turns("(call $f (i32.const 32768) (i32.const 1024))"),
        ),
    ] {
        on_request(
            &bench,
            imports,
            r#"(data (i32.const 16) "x-in") (data (i32.const 24) "\00\80\00\00\00\04\00\00")"#,
            &act,
        );
        let chain = bench
            .chain("filters: [{name: m, module: m.wasm, breaker: off, limits: {hostcall_kib: 256, callback_ms: 5000}}]")
            .unwrap();
        let before = (traps(&bench, "hostcall_bytes"), breaches(&bench, "hostcall_kib"));
        let begin = thread_time();
        is_refused(&bench.stream(&chain, &request()).request_headers(true));
        println!("{imports:.60}: 256 KiB after {:.1?}", thread_time() - begin);
        let after = (traps(&bench, "hostcall_bytes"), breaches(&bench, "hostcall_kib"));
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{imports}");
    }
    assert_eq!(traps(&bench, "deadline"), 0);
    // Each callback has its own; and who names memory of nobody's has moved nothing.
    let imports = r#"(import "env" "proxy_log" (func $f (param i32 i32 i32) (result i32)))"#;
    on_request(
        &bench,
        imports,
        "",
        "(drop (call $f (i32.const 0) (i32.const 0) (i32.const 900))) (drop (call $f (i32.const 0) (i32.const -16) (i32.const 0x7fffffff)))",
    );
    let chain = bench.chain("filters: [{name: m, module: m.wasm, limits: {hostcall_kib: 1}}]").unwrap();
    for _ in 0..5 {
        assert_eq!(bench.stream(&chain, &request()).request_headers(true), Verdict::Continue);
    }
}

#[test]
fn recursion_and_holding_are_counted_by_their_limits() {
    let bench = Bench::new(1);
    bench.module(
        "m.wasm",
        "",
        r#"(func $f (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (i32.add (i32.const 1) (call $f (local.get 0) (local.get 1) (local.get 2))))"#,
    );
    let chain = bench.chain("filters: [{name: m, module: m.wasm}]").unwrap();
    is_refused(&bench.stream(&chain, &request()).request_headers(true));
    assert_eq!((traps(&bench, "stack_overflow"), breaches(&bench, "stack_kib")), (1, 1));
    bench.module(
        "p.wasm",
        "",
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))"#,
    );
    let chain = bench.chain("filters: [{name: m, module: p.wasm, limits: {pause_ms: 10}}]").unwrap();
    let mut stream = bench.stream(&chain, &request());
    assert_eq!(stream.request_headers(true), Verdict::Pause);
    is_refused(&stream.pause_expired());
    assert_eq!(breaches(&bench, "pause_ms"), 1);
    let total = bench.runtime.totals().into_iter().find(|total| total.name == "limit_breaches").unwrap();
    assert_eq!(total.value, 2);
}
