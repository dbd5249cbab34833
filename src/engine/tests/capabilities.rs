//! `allowed_capabilities`: what a filter may call and be called for.

mod support;

use std::sync::{Mutex, Once};

use support::{Bench, request};

/// Error lines of this process.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Error
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// The error lines that name this filter.
fn lines(filter: &str) -> Vec<String> {
    let name = format!("filter '{filter}'");
    LINES.lock().unwrap().iter().filter(|line| line.contains(&name)).cloned().collect()
}

/// A bench, and a logger behind it.
fn bench(slots: usize) -> Bench {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(log::LevelFilter::Error);
    });
    Bench::new(slots)
}

/// Imports and callbacks. Each of the latter adds a request field; the configuration is taken only if the calls are
/// refused.
const CALLS: (&str, &str) = (
    r#"(import "env" "proxy_get_log_level" (func $level (param i32) (result i32)))
       (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
       (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
       (import "env" "proxy_continue_request" (func $continue))
       (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))"#,
    r#"(data (i32.const 100) "x-seen")
       (func $saw (drop (call $add (i32.const 0) (i32.const 100) (i32.const 6) (i32.const 100) (i32.const 6))))
       (func (export "proxy_on_configure") (param i32 i32) (result i32)
         (if (i32.ne (call $level (i32.const 0)) (i32.const 10)) (then (return (i32.const 0))))
         (if (i32.ne (call $level (i32.const 0)) (i32.const 10)) (then (return (i32.const 0))))
         (if (i32.ne (call $yield) (i32.const 76)) (then (return (i32.const 0))))
         (call $exit (i32.const 3))
         (call $continue)
         (i32.const 1))
       (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $saw) (i32.const 0))
       (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $saw) (i32.const 0))
       (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $saw) (i32.const 0))
       (func (export "proxy_on_log") (param i32) (call $saw))"#,
);

#[test]
fn restricted_calls_refuse_and_say_so_once() {
    let bench = bench(2);
    bench.module("m.wasm", CALLS.0, CALLS.1);
    let yaml = "filters: [{name: calls, module: m.wasm, allowed_capabilities: [proxy_on_configure]}]";
    let chain = bench.chain(yaml).expect("the module's configuration is taken if its calls were refused");
    let lines = lines("calls");
    for (name, answer) in [
        ("proxy_get_log_level", "InternalFailure"),
        ("sched_yield", "ENOTCAPABLE"),
        ("proc_exit", "ENOTCAPABLE"),
        ("proxy_continue_request", "InternalFailure"),
    ] {
        let expected = format!(
            "filter 'calls': {name} is not among its allowed_capabilities: answered {answer}, now and from now on"
        );
        assert_eq!(lines.iter().filter(|line| **line == expected).count(), 1, "told once, of two VMs: {lines:?}");
    }
    assert_eq!(lines.len(), 4);
    drop(chain);
    let error = bench.chain("filters: [{name: f, module: m.wasm}]").unwrap_err().to_string();
    assert!(
        error.contains("proxy_on_configure returned false"),
        "with everything allowed, calls are answered: {error}"
    );
}

#[test]
fn restricted_callbacks_are_as_good_as_not_exported() {
    let bench = bench(1);
    bench.module("m.wasm", CALLS.0, CALLS.1);
    let filter = |list: &str| {
        bench.chain(&format!("filters: [{{name: f, module: m.wasm, allowed_capabilities: {list}}}]")).unwrap()
    };
    let seen = |list: &str| {
        let chain = filter(list);
        let transaction = request();
        transaction.0.lock().response = Some(Vec::new());
        let mut stream = bench.stream(&chain, &transaction);
        stream.request_headers(true);
        stream.response_headers(engine::At::Client, true);
        drop(stream);
        let fields = transaction.0.lock().request.clone();
        fields.iter().filter(|(name, _)| name == b"x-seen").count()
    };
    assert_eq!(seen("[proxy_on_request_headers, proxy_add_header_map_value]"), 1);
    assert_eq!(seen("[proxy_on_response_headers, proxy_on_log, proxy_add_header_map_value]"), 2);
    assert_eq!(seen("[proxy_on_request_headers]"), 0, "called, and may not add");
    assert_eq!(seen("{proxy_on_request_headers: {}, proxy_add_header_map_value: {}}"), 1, "Envoy's form");
    let chain = filter("[]");
    let exported = chain.filters()[0].exported();
    assert_eq!(exported, engine::Exported::default());
    assert_eq!(chain.needs(), engine::Needs::default(), "nothing is hooked");
    assert!(chain.filters()[0].module().callbacks().is_empty());
    let exported = filter("[proxy_on_response_body]").filters()[0].exported();
    assert!(exported.response_body && !exported.response_headers && !exported.end && !exported.changes_bodies);
}

#[test]
fn the_list_is_part_of_the_vm_key_and_its_order_is_not() {
    let bench = bench(1);
    bench.module("m.wasm", "", "");
    let chain = bench
        .chain(
            "filters:\n  - {name: a, module: m.wasm}\n  - {name: b, module: m.wasm, allowed_capabilities: []}\n  \
             - {name: c, module: m.wasm, allowed_capabilities: [proxy_log, proxy_on_log]}\n  \
             - {name: d, module: m.wasm, allowed_capabilities: {proxy_on_log: {}, proxy_log: {}}}\n",
        )
        .unwrap();
    let vms: Vec<_> = chain.filters().iter().map(engine::Filter::vm_identity).collect();
    assert_ne!(vms[0], vms[1]);
    assert_ne!(vms[1], vms[2]);
    assert_ne!(vms[0], vms[2]);
    assert_eq!(vms[2], vms[3]);
    assert_eq!(bench.runtime.counters().vms_built, 3);
}

#[test]
fn memory_allocator_and_start_are_never_restricted() {
    let bench = bench(1);
    // Starts, and then reads its configuration, for which the allocator runs.
    bench.module(
        "m.wasm",
        r#"(import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))"#,
        r#"(global $started (mut i32) (i32.const 0))
           (func (export "_initialize") (global.set $started (i32.const 1)))
           (func (export "proxy_on_configure") (param i32 i32) (result i32)
             (if (call $get (i32.const 7) (i32.const 0) (local.get 1) (i32.const 0) (i32.const 4)) (then unreachable))
             (i32.and (global.get $started) (i32.eq (i32.load (i32.const 4)) (i32.const 3))))"#,
    );
    let list = "allowed_capabilities: [proxy_get_buffer_bytes, proxy_on_configure]";
    bench.chain(&format!("filters: [{{name: f, module: m.wasm, configuration: abc, {list}}}]")).unwrap();
    bench.chain("filters: [{name: f, module: m.wasm, allowed_capabilities: []}]").unwrap();
}

#[test]
fn a_restricted_module_is_compiled_once() {
    let bench = bench(1);
    bench.module("m.wasm", "", "");
    let chain = bench.chain("filters: [{name: f, module: m.wasm, allowed_capabilities: []}]").unwrap();
    let bytes = std::fs::read(bench.path().join("m.wasm")).unwrap();
    // Nobody but the filter holds it: what comes back each time is what the filter keeps.
    if module_path!().starts_with("winch::") {
        // `Runtime::module` compiles with Cranelift, so it is not one of this chain's.
        return;
    }
    let whole = std::sync::Arc::downgrade(&bench.runtime.module(&bytes).unwrap());
    assert!(whole.upgrade().is_some());
    drop(chain);
    assert!(whole.upgrade().is_none());
}
