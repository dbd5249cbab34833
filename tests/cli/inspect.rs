//! `wasm-remap inspect`.

use std::fs;

use wasm_remap_tests::artifacts;

use crate::{Place, texts};

const BASE: &str = r#"(memory (export "memory") 3 7) (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 0))"#;

#[test]
fn an_sdk_built_module() {
    let guest = artifacts::guest("headers");
    let report = Place::new().run(&["inspect", guest.to_str().unwrap(), "--format", "json"]).status(0).json();
    assert_eq!((&report["loads"], &report["abi"]), (&true.into(), &"0.2.1".into()));
    assert_eq!(report["bytes"], fs::metadata(&guest).unwrap().len());
    assert_eq!(texts(&report["start"]), ["_initialize"]);
    assert_eq!(report["allocator"], "proxy_on_memory_allocate");
    assert!(texts(&report["callbacks"]["called"]).contains(&"proxy_on_response_headers"));
    assert!(texts(&report["imports"]["supported"]).contains(&"proxy_log"));
    assert!(report["imports"]["unknown"].as_array().unwrap().is_empty());
    assert!(report["memory"]["minimum_bytes"].as_u64().unwrap() >= 65536);
}

#[test]
fn imports_are_sorted_into_what_becomes_of_them() {
    let text = format!(
        r#"(module
        (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
        (import "env" "proxy_grpc_cancel" (func (param i32) (result i32)))
        (import "env" "proxy_shout" (func (param i32 i64) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
        (import "wasi_snapshot_preview1" "fd_pread" (func (param i32 i32 i32 i64 i32) (result i32)))
        {BASE})"#
    );
    let place = Place::new().module("m.wasm", &text);
    let ran = place.run(&["inspect", "m.wasm"]).status(1);
    for part in [
        "  loads      no\n",
        "  memory     192 KiB at the start, grows to 448 KiB or the filter's limit\n",
        "  start      none\n",
        "  allocator  malloc\n",
        "    supported  proxy_grpc_cancel, proxy_log\n",
        "    WASI       fd_write, sched_yield\n",
        "    WASI, no   fd_pread (NOSYS)\n",
        "    unknown    env::proxy_shout (i32, i64) -> i32: no ABI version has such a call\n",
    ] {
        assert!(ran.out.contains(part), "{part:?} is not in\n{}", ran.out);
    }
    let checked = place.file("f.yaml", "filters: [{name: f, module: m.wasm}]").run(&["check", "f.yaml"]).status(1);
    let why = ran.err.strip_prefix("error: ").unwrap();
    assert!(checked.err.contains(why), "what inspect says is not what loading says:\n{}\n{}", ran.err, checked.err);
}

/// Every module of the corpus loads or not as `inspect` said it would, as far as that shows without running it.
#[test]
fn what_inspect_says_of_loading_is_what_check_finds() {
    let (mut good, mut bad) = (0, 0);
    for entry in fs::read_dir(artifacts::repository("tests/guests/wat")).unwrap().filter_map(Result::ok) {
        let name = entry.file_name().into_string().unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let place = Place::new()
            .module("m.wasm", &text)
            .file("f.yaml", "filters: [{name: f, module: m.wasm, limits: {start_ms: 50, configure_ms: 50}}]");
        let inspected = place.run(&["inspect", "m.wasm"]);
        let checked = place.run(&["check", "f.yaml"]);
        if inspected.status == 0 {
            good += 1;
            let ran =
                checked.status == 0 || checked.err.contains(" in proxy_on_") || checked.err.contains(" in _initialize");
            assert!(ran, "{name}: inspect sees no obstacle, and yet:\n{}", checked.err);
            assert!(!inspected.out.contains("    unknown "), "{name}:\n{}", inspected.out);
        } else {
            bad += 1;
            checked.status(1);
        }
    }
    assert!(good >= 10 && bad >= 5, "{good} modules load, {bad} do not");
}

#[test]
fn notes_say_what_a_configuration_needs() {
    let place = Place::new().module(
        "big.wasm",
        r#"(module (memory (export "memory") 1600) (func (export "proxy_abi_version_0_2_1"))
           (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#,
    );
    let ran = place.run(&["inspect", "big.wasm"]).status(0);
    assert!(ran.out.contains("set limits.memory_mib to 100 or more"), "{}", ran.out);
    let place = place.module(
        "calls.wasm",
        &format!(
            r#"(module
            (import "env" "proxy_http_call" (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
            (import "env" "proxy_grpc_stream" (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
            {BASE})"#
        ),
    );
    let ran = place.run(&["inspect", "calls.wasm"]).status(0);
    for part in [
        "note: it sends HTTP requests: whom it may call is said by 'clusters' or 'callout_hosts'\n",
        "note: it calls gRPC: that needs a cluster with 'protocol: http2'\n",
    ] {
        assert!(ran.out.contains(part), "{part:?} is not in\n{}", ran.out);
    }
    // The SDK imports every call, whatever the filter does.
    let headers = artifacts::guest("headers");
    let ran = place.run(&["inspect", headers.to_str().unwrap()]).status(0);
    assert!(!ran.out.contains("it calls gRPC"), "{}", ran.out);
}

#[test]
fn what_is_no_module_is_status_1() {
    let place = Place::new().file("f.yaml", "filters: []\n").file("m.wat", "(module)");
    for (file, reason) in [
        ("f.yaml", "error: module f.yaml: not a WebAssembly module: 12 bytes that do not begin with \\0asm\n"),
        ("m.wat", "this is WebAssembly text: translate it with wat2wasm first\n"),
        ("gone.wasm", "error: module gone.wasm cannot be read: No such file or directory (os error 2)\n"),
    ] {
        let ran = place.run(&["inspect", file]).status(1);
        assert!(ran.err.contains(reason), "{}", ran.err);
        assert_eq!(ran.out, "");
    }
}
