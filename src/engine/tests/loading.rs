//! What keeps a chain from loading, and that each reason is one readable line.

mod support;

use support::Bench;

fn refusal(bench: &Bench, yaml: &str) -> String {
    let message = bench.chain(yaml).unwrap_err().to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    message
}

#[test]
fn modules_that_cannot_be_used() {
    let bench = Bench::new(1);
    bench.write("text.wasm", b"  (module)");
    bench.write("noise.wasm", b"#!/bin/sh");
    bench.write("cut.wasm", b"\0asm\x01\0\0\0\x07");
    bench.write("no_abi.wasm", &wat::parse_str("(module (memory (export \"memory\") 1))").unwrap());
    bench.write(
        "no_alloc.wasm",
        &wat::parse_str("(module (memory (export \"memory\") 1) (func (export \"proxy_abi_version_0_2_1\")))").unwrap(),
    );
    bench.module("unknown.wasm", r#"(import "env" "proxy_nonexistent" (func))"#, "");
    bench.module(
        "type.wasm",
        "",
        r#"(func (export "proxy_on_request_headers") (param i64) (result i32) (i32.const 0))"#,
    );
    bench.module("trap.wasm", "", r#"(func (export "_initialize") unreachable)"#);
    bench.module(
        "false.wasm",
        "",
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))"#,
    );
    bench.module(
        "vm_false.wasm",
        "",
        r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 0))"#,
    );
    bench.module(
        "bomb.wasm",
        "",
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (loop $l (br $l)) (i32.const 1))"#,
    );
    let cases = [
        ("absent.wasm", "cannot be read: No such file"),
        ("text.wasm", "this is WebAssembly text: translate it with wat2wasm"),
        ("noise.wasm", "not a WebAssembly module: 9 bytes"),
        ("cut.wasm", "does not compile"),
        ("no_abi.wasm", "not a Proxy-Wasm module"),
        ("no_alloc.wasm", "exports neither proxy_on_memory_allocate nor malloc"),
        ("unknown.wasm", "unknown import: `env::proxy_nonexistent`"),
        ("type.wasm", "export proxy_on_request_headers has another type"),
        ("trap.wasm", "_initialize"),
        ("false.wasm", "proxy_on_configure returned false"),
        ("vm_false.wasm", "proxy_on_vm_start returned false"),
        ("bomb.wasm", "the callback ran longer than its deadline (limits.configure_ms: 30) in proxy_on_configure"),
    ];
    for (file, expected) in cases {
        let message = refusal(&bench, &format!("filters: [{{name: f, module: {file}, limits: {{configure_ms: 30}}}}]"));
        assert!(message.contains(expected), "{file}\n  got {message}\n  not {expected}");
        assert!(message.contains("filters.yaml: filter 'f': module "), "names file and filter: {message}");
        assert!(message.contains(file), "names the module: {message}");
    }
    let counters = bench.runtime.counters();
    assert_eq!(counters.roots_created, counters.roots_deleted);
    assert_eq!(counters.vms_built, counters.vms_dropped);
}

#[test]
fn a_filter_that_traps_while_it_is_added_harms_no_vm_in_use() {
    let bench = Bench::new(1);
    // Traps if its configuration is longer than three bytes.
    bench.module(
        "f.wasm",
        "",
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
        (if (i32.gt_u (local.get 1) (i32.const 3)) (then unreachable)) (i32.const 1))"#,
    );
    let good = bench.chain("filters: [{name: f, module: f.wasm, configuration: abc}]").unwrap();
    let before = bench.runtime.counters();
    refusal(&bench, "filters: [{name: f, module: f.wasm, configuration: abcd}]");
    let after = bench.runtime.counters();
    assert_eq!((before.vms_built, after.vms_dropped), (1, 0));
    drop(good);
}

#[test]
fn restricted_hostcalls_trap_during_the_start_function() {
    let bench = Bench::new(1);
    bench.module(
        "s.wasm",
        r#"(import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#,
        r#"(func (export "_initialize") (drop (call $tick (i32.const 1))))"#,
    );
    let message = refusal(&bench, "filters: [{name: s, module: s.wasm}]");
    assert!(message.contains("proxy_set_tick_period_milliseconds may not be called from here"), "{message}");
}
