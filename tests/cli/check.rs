//! `wasm-remap check`.

use std::fs;

use serde_json::{Value, json};
use wasm_remap_tests::{Upstream, artifacts};

use crate::{Place, texts};

const HEADERS: &str =
    "filters:\n  - {name: headers, module: '{guest:headers}', configuration: {request: {set: {a: b}}}}\n";
const API_KEY: &str = "filters:\n  - name: api-key\n    module: '{guest:api-key}'\n    configuration: {keys: {k: a}}\n    \
                       failure_policy: open\n    limits: {memory_mib: 8, callback_ms: 20}\n";

fn place() -> Place {
    Place::new().file("headers.yaml", HEADERS).file("api-key.yaml", API_KEY)
}

#[test]
fn several_files_are_one_chain_in_order() {
    let place = place();
    let report = place.run(&["check", "api-key.yaml", "headers.yaml", "--format", "json"]).status(0).json();
    assert_eq!(report["ok"], true);
    let chain = &report["rules"][0];
    assert_eq!(texts(&chain["files"]), ["api-key.yaml", "headers.yaml"]);
    let (first, second) = (&chain["filters"][0], &chain["filters"][1]);
    assert_eq!((first["name"].as_str(), second["name"].as_str()), (Some("api-key"), Some("headers")));
    assert_eq!((first["failure_policy"].as_str(), second["failure_policy"].as_str()), (Some("open"), Some("closed")));
    assert_eq!((&first["limits"]["memory_mib"], &first["limits"]["callback_ms"]), (&8.into(), &20.into()));
    assert_eq!(first["module"]["abi"], "0.2.1");
    assert!(texts(&first["callbacks"]).contains(&"proxy_on_request_headers"));
    let hooks: Vec<_> = chain["hooks"].as_array().unwrap().iter().map(|hook| hook["hook"].as_str().unwrap()).collect();
    let expected = [
        "TSRemapDoRemap",
        "REQUEST_TRANSFORM",
        "SEND_REQUEST_HDR",
        "READ_RESPONSE_HDR",
        "RESPONSE_TRANSFORM",
        "SEND_RESPONSE_HDR",
        "TXN_CLOSE",
    ];
    assert_eq!(hooks, expected);
    let inspected =
        place.run(&["inspect", artifacts::guest("api-key").to_str().unwrap(), "--format", "json"]).status(0).json();
    assert_eq!(first["module"]["sha256"], inspected["sha256"]);

    let text = place.run(&["check", "api-key.yaml", "headers.yaml"]).status(0);
    for part in [
        "filter 1: api-key\n",
        "filter 2: headers\n",
        "open: a transaction in which it fails goes on without it\n",
        "memory 8 MiB, stack 256 KiB, callback 20 ms,",
        first["module"]["sha256"].as_str().unwrap(),
        "\nok: 2 filters of 2 modules, in 2 VMs a thread with 2 plugin contexts\n",
    ] {
        assert!(text.out.contains(part), "{part:?} is not in\n{}", text.out);
    }
    assert_eq!(text.err, "");
    let quiet = place.run(&["check", "-q", "headers.yaml"]).status(0);
    assert_eq!(quiet.out, "ok: 1 filter of 1 module, in 1 VM a thread with 1 plugin context\n");
}

#[test]
fn what_a_filter_may_not_call_is_counted() {
    let module = artifacts::guest("headers");
    let inspected = Place::new().run(&["inspect", module.to_str().unwrap(), "--format", "json"]).status(0).json();
    let imports = &inspected["imports"];
    let names = |of: &str| imports[of].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap());
    let calls: Vec<_> = texts(&imports["supported"]).into_iter().chain(names("refused")).chain(names("wasi")).collect();
    let without = "proxy_remove_header_map_value";
    assert!(calls.contains(&without));
    let allowed: Vec<_> = calls.into_iter().filter(|call| *call != without).collect();
    let list =
        format!("[proxy_on_context_create, proxy_on_configure, proxy_on_request_headers, {}]", allowed.join(", "));
    let place =
        Place::new().file("f.yaml", &HEADERS.replace("}}}}\n", &format!("}}}}}}, allowed_capabilities: {list}}}\n")));
    let report = place.run(&["check", "f.yaml", "--format", "json"]).status(0).json();
    let filter = &report["rules"][0]["filters"][0];
    assert_eq!(texts(&filter["restricted_calls"]), [without]);
    assert_eq!(texts(&filter["allowed_capabilities"]).len(), allowed.len() + 3);
    let callbacks = texts(&filter["callbacks"]);
    assert_eq!(callbacks, ["proxy_on_context_create", "proxy_on_configure", "proxy_on_request_headers"]);
    let text = place.run(&["check", "f.yaml"]).status(0).out;
    let line = format!("{} allowed; 1 import refused for want of them\n", allowed.len() + 3);
    assert!(text.contains(&line), "{line:?} is not in\n{text}");
}

#[test]
fn filters_with_equal_vm_keys_share_vms_and_equal_ones_their_context() {
    let place = Place::new().file(
        "f.yaml",
        "filters:\n  - {name: a, module: '{guest:headers}', configuration: {request: {set: {a: b}}}}\n  \
         - {name: a, module: '{guest:headers}', configuration: {request: {set: {a: c}}}}\n  \
         - {name: a, module: '{guest:headers}', configuration: {request: {set: {a: b}}}}\n  \
         - {name: a, module: '{guest:headers}', vm_id: other, configuration: {request: {set: {a: b}}}}\n",
    );
    let report = place.run(&["check", "f.yaml", "--format", "json"]).status(0).json();
    let filters = report["rules"][0]["filters"].as_array().unwrap();
    let numbers: Vec<_> = filters
        .iter()
        .map(|filter| (filter["vm"].as_u64().unwrap(), filter["plugin_context"].as_u64().unwrap()))
        .collect();
    assert_eq!(numbers, [(1, 1), (1, 2), (1, 1), (2, 3)]);
    let shared = report["shared"].as_array().unwrap();
    assert_eq!(shared.len(), 1);
    assert_eq!((&shared[0]["filters"], &shared[0]["plugin_contexts"]), (&3.into(), &2.into()));
    let totals = &report["totals"];
    assert_eq!((&totals["modules"], &totals["vms_per_thread"]), (&1.into(), &2.into()));
    let text = place.run(&["check", "f.yaml"]).status(0);
    assert!(text.out.contains("1, shared with 2 other filters; plugin context 2\n"), "{}", text.out);
    assert!(text.out.contains("2 (vm_id other), its own; plugin context 3\n"), "{}", text.out);
}

#[test]
fn every_mistake_is_told_in_the_plugins_words() {
    let place = Place::new()
        .file("key.yaml", "filters:\n  - name: a\n    modul: a.wasm\n")
        .file(
            "start.yaml",
            "filters:\n  - {name: refuses, module: '{guest:configure-false}', configuration: {message: 'I will not'}}\n  \
             - {name: gone, module: gone.wasm}\n",
        )
        .file("text.yaml", "filters: [{name: text, module: text.yaml}]\n");
    let files = ["key.yaml", "start.yaml", "text.yaml", "none.yaml"];
    let ran = place.run(&[&["check"], &files[..]].concat()).status(1);
    for part in [
        "error: key.yaml:3:5: filters[0]: unknown key 'modul'\n  3 |     modul: a.wasm\n    |     ^^^^^ did you mean 'module'?\n    = keys here: ",
        "error: none.yaml: cannot be read: No such file or directory (os error 2)\n",
        "configure-false.wasm: proxy_on_configure returned false: the module refuses its configuration\n  \
         log        [refuses] #1 error: I will not\n",
        "error: start.yaml: filter 'gone': module gone.wasm cannot be read: No such file or directory (os error 2)\n",
        "error: text.yaml: filter 'text': module text.yaml: not a WebAssembly module: 43 bytes",
        "5 mistakes found",
    ] {
        assert!(ran.err.contains(part), "{part:?} is not in\n{}", ran.err);
    }
    assert_eq!(ran.out, "");
    let report = place.run(&[&["check", "--format", "json"], &files[..]].concat()).status(1).json();
    assert_eq!(report["ok"], false);
    let errors = report["rules"][0]["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 5);
    let key = errors.iter().find(|error| error["file"] == "key.yaml").unwrap();
    assert_eq!((&key["line"], &key["column"], &key["length"]), (&3.into(), &5.into(), &5.into()));
    assert_eq!(key["suggestion"], "module");
    let message = key["message"].as_str().unwrap();
    assert!(
        message.starts_with("key.yaml:3:5: filters[0]: unknown key 'modul' in \"»modul«: a.wasm\"; did you"),
        "{message}"
    );
    let refused = errors.iter().find(|error| error["message"].as_str().unwrap().contains("returned false")).unwrap();
    assert_eq!(texts(&refused["log"]), ["[refuses] #1 error: I will not"]);
}

#[test]
fn variables_are_given_on_the_command_line() {
    let yaml = "substitute: [SITE]\nfilters: [{name: 'headers-${SITE}', module: '{guest:headers}', configuration: {response: \
                {set: {x-site: '${SITE}'}}}}]\n";
    let place = Place::new().file("f.yaml", yaml);
    let report = place.run(&["check", "f.yaml", "--env", "SITE=shop", "--format", "json"]).status(0).json();
    assert_eq!(report["rules"][0]["filters"][0]["name"], "headers-shop");
    let unset = place.run(&["check", "f.yaml"]).status(1);
    assert!(
        unset.err.contains("f.yaml:2:18: filters[0].name: the environment variable SITE is not set"),
        "{}",
        unset.err
    );
    place.run(&["check", "f.yaml", "--env", "SITE"]).status(2);
}

#[test]
fn a_remap_config_is_checked_rule_by_rule() {
    let place = Place::new()
        .file("etc/filters/headers.yaml", HEADERS)
        .file("etc/filters/api-key.yaml", API_KEY)
        .file(
            "etc/more/shop.config",
            "map_with_recv_port http://Shop.test:8080/ http://10.0.0.5/ @plugin=wasm_remap.so @pparam=filters/headers.yaml\n",
        )
        .file(
            "etc/remap.config",
            "# @plugin=wasm_remap.so in a comment\n\
             .definefilter no_delete @action=deny @method=delete\n\
             .activatefilter no_delete\n\
             map http://a.test/ http://10.0.0.1/ \\\n    @plugin=conf_remap.so @pparam=x=y \\\n    \
             @plugin=/usr/lib/wasm_remap.so @pparam=filters/headers.yaml @pparam=filters/api-key.yaml\n\
             .include more\n\
             map http://c.test/ http://10.0.0.3/\n\
             regex_map http://(.*).test/ http://10.0.0.1/ @plugin=wasm_remap.so @pparam=filters/headers.yaml\n",
        );
    let ran = place.run(&["check", "--remap-config", "etc/remap.config"]).status(0);
    assert!(ran.out.contains("map http://a.test/ -> http://10.0.0.1/  (etc/remap.config:4)\n"), "{}", ran.out);
    assert!(ran.out.contains("\nok: 3 rules, 1 other without the plugin; 4 filters of 2 modules"), "{}", ran.out);
    let report = place.run(&["check", "--remap-config", "etc/remap.config", "--format", "json"]).status(0).json();
    let rules: Vec<_> = report["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (rule["rule"]["from"].as_str().unwrap(), rule["filters"].as_array().unwrap().len()))
        .collect();
    assert_eq!(rules, [("http://a.test/", 2), ("http://shop.test:8080/", 1), ("http://(.*).test/", 1)]);
    assert_eq!(report["shared"][0]["filters"], 3, "three rules use one VM key");
    assert_eq!(report["shared"][0]["plugin_contexts"], 1, "and one configuration");
    let file = report["rules"][1]["files"][0].as_str().unwrap();
    assert_eq!(file, place.path().join("etc/filters/headers.yaml").to_str().unwrap(), "absolute, as in the plugin");
}

#[test]
fn mistakes_of_rules_name_the_line_and_the_rule() {
    let place = Place::new().file("etc/bad.yaml", "filters: []\n").file("etc/headers.yaml", HEADERS).file(
        "rules/remap.config",
        "map http://a.test http://b.test @plugin=wasm_remap.so @pparam=bad.yaml\n\
             map http://c.test http://b.test @plugin=wasm_remap.so\n\
             map http://d.test http://b.test @plugin=wasm_remap.so @pparam=--hot\n\
             redirect http://e.test/ http://b.test/ @plugin=wasm_remap.so @pparam=headers.yaml\n\
             mop http://f.test/ http://b.test/\n",
    );
    let ran = place.run(&["check", "--remap-config", "rules/remap.config", "--config-dir", "etc"]).status(1);
    let bad = place.path().join("etc/bad.yaml");
    for part in [
        &format!(
            "error: rules/remap.config:1: rule http://a.test/ -> http://b.test/: {}:1:10: filters: the list is empty: name at least one filter, or drop the key\n  1 | filters: []\n    |          ^^\n",
            bad.display()
        ),
        "error: rules/remap.config:2: rule http://c.test/ -> http://b.test/: no filter file: add @pparam=FILE.yaml\n",
        "error: rules/remap.config:3: rule http://d.test/ -> http://b.test/: @pparam=--hot: there are no options",
        "warning: rules/remap.config:4: rule http://e.test/ -> http://b.test/: Traffic Server loads no plugin for 'redirect'",
        "error: rules/remap.config:5: unknown kind of rule 'mop'",
        "4 mistakes found",
    ] {
        assert!(ran.err.contains(part), "{part:?} is not in\n{}", ran.err);
    }
    let missing = place.run(&["check", "--remap-config", "nowhere/remap.config"]).status(1);
    assert!(missing.err.contains("nowhere/remap.config: cannot be read"), "{}", missing.err);
}

/// A module with these imports, callbacks for headers of requests, and for bodies.
fn with_bodies(imports: &str) -> String {
    format!(
        r#"(module {imports} (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 0))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 0)))"#
    )
}

const READ: &str = r#"(import "env" "proxy_get_buffer_bytes" (func (param i32 i32 i32 i32 i32) (result i32)))"#;
const WRITE: &str = r#"(import "env" "proxy_set_buffer_bytes" (func (param i32 i32 i32 i32 i32) (result i32)))"#;

fn bodies_place() -> Place {
    Place::new()
        .module("blind.wasm", &with_bodies(""))
        .module("reads.wasm", &with_bodies(READ))
        .module("writes.wasm", &with_bodies(WRITE))
}

#[test]
fn who_is_shown_bodies_is_told_and_what_it_would_save_not_to() {
    let place = bodies_place()
        .file(
            "chain.yaml",
            "filters:\n  - {name: blind, module: blind.wasm, body: request}\n  - {name: r, module: reads.wasm}\n  \
             - {name: w, module: writes.wasm, body: request, request_body: buffer, limits: {body_kib: 64}}\n  \
             - {name: out, module: writes.wasm, body: none}\n",
        )
        .file("alone.yaml", "filters: [{name: alone, module: reads.wasm, at: origin}]\n")
        .file("none.yaml", "filters: [{name: out, module: writes.wasm, body: none}]\n");
    let report = place.run(&["check", "chain.yaml", "--format", "json"]).status(0).json();
    let bodies = &report["rules"][0]["bodies"];
    assert_eq!((texts(&bodies["request"]), texts(&bodies["response"])), (vec!["blind", "r", "w"], vec!["r"]));
    assert_eq!((texts(&bodies["buffered_for"]), &bodies["buffered_kib"]), (vec!["w"], &1024.into()));
    assert_eq!((&bodies["request_may_change"], &bodies["response_may_change"]), (&true.into(), &false.into()));
    assert_eq!(bodies["response_at"], "client");
    let filters = report["rules"][0]["filters"].as_array().unwrap();
    let shown: Vec<_> = filters
        .iter()
        .map(|filter| {
            let bodies = &filter["bodies"];
            ["request", "response", "reads", "changes"].map(|key| bodies[key].as_bool().unwrap())
        })
        .collect();
    let (yes, no) = (true, false);
    assert_eq!(shown, [[yes, no, no, no], [yes, yes, yes, no], [yes, no, yes, yes], [no, no, no, no]]);
    assert_eq!(filters[3]["bodies"]["why_not"], "body: none");
    assert_eq!(filters[2]["limits"]["body_kib"], 64);
    let advice = texts(&bodies["advice"]);
    assert!(advice[0].starts_with("filter 'blind' is shown bodies that it cannot look at"), "{advice:?}");
    assert!(advice[0].contains("imports neither proxy_get_buffer_bytes nor proxy_set_buffer_bytes"), "{advice:?}");
    assert!(
        advice[1].starts_with("filter 'r' sees bodies (its module exports proxy_on_request_body and"),
        "{advice:?}"
    );
    assert!(advice[1].ends_with("`body: none` spares each response a transform"), "{advice:?}");
    assert!(advice[2].starts_with("requests' bodies are gathered when the connection"), "{advice:?}");
    assert_eq!(advice.len(), 3, "whoever chose is not advised: {advice:?}");

    let text = place.run(&["check", "chain.yaml"]).status(0);
    assert_eq!(text.err, "");
    for part in [
        "REQUEST_BUFFER_READ_COMPLETE (blind r w; requests with a body)",
        "requests', whole, up to 1024 KiB, before the origin gets anything (w: request_body: buffer):",
        "responses', at the client's side of the cache: r; stay as they are: no proxy_set_buffer_bytes\n",
        "bodies     requests' and responses', which it cannot change\n",
        "bodies     requests', which it cannot look at (body: request)\n",
        "held of a body 64 KiB",
    ] {
        assert!(text.out.contains(part), "{part:?} is not in\n{}", text.out);
    }
    let alone = place.run(&["check", "alone.yaml"]).status(0);
    for part in [
        "CACHE_LOOKUP_COMPLETE (alone; not HEAD)",
        "responses', once, at the origin's side of the cache: alone;",
        "none` spares each response and each",
    ] {
        assert!(alone.out.contains(part), "{part:?} is not in\n{}", alone.out);
    }
    let none = place.run(&["check", "none.yaml"]).status(0).out;
    assert!(none.contains("  bodies     none: they pass at full speed\n") && !none.contains("advice"), "{none}");
}

#[test]
fn keys_for_bodies_that_do_nothing_are_warned_about() {
    let place = bodies_place()
        .file(
            "f.yaml",
            "filters:\n  - {name: a, module: reads.wasm, body: response, request_body: buffer}\n  \
             - {name: b, module: reads.wasm, body: request, at: origin}\n  \
             - {name: c, module: reads.wasm, request_body: buffer, allowed_capabilities: [proxy_on_request_headers]}\n",
        )
        .file(
            "mixed.yaml",
            "filters:\n  - {name: a, module: reads.wasm, at: origin}\n  - {name: b, module: reads.wasm}\n",
        )
        .file("remap.config", "map http://a.test/ http://b.test/ @plugin=wasm_remap.so @pparam=f.yaml\n");
    let ran = place.run(&["check", "--remap-config", "remap.config"]).status(0);
    let buffers = "'request_body: buffer' buffers nothing, for it is shown no requests' bodies";
    for part in [
        format!("warning: remap.config:1: filter 'a': {buffers} (body: response)\n"),
        "warning: remap.config:1: filter 'b': 'at: origin' means nothing, for it has no callback for responses\n"
            .into(),
        format!("filter 'c': {buffers} (proxy_on_request_body is not among its allowed_capabilities)\n"),
    ] {
        assert!(ran.err.contains(&part), "{part:?} is not in\n{}", ran.err);
    }
    let mixed = place.run(&["check", "mixed.yaml"]).status(1);
    assert!(mixed.err.contains("error: filters 'a' and 'b' both see response bodies"), "{}", mixed.err);
}

#[test]
fn a_filter_without_callbacks_for_transactions_is_warned_about() {
    let place = Place::new()
        .module(
            "idle.wasm",
            r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
               (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#,
        )
        .file("idle.yaml", "filters: [{name: idle, module: idle.wasm}]\n");
    let ran = place.run(&["check", "idle.yaml"]).status(0);
    assert!(ran.err.contains("warning: no filter of the chain has a callback for transactions"), "{}", ran.err);
    assert!(!ran.out.contains("hooks"), "{}", ran.out);
}

#[test]
fn clusters_services_namespaces_and_metrics_are_reported() {
    let place = Place::new()
        .file(
            "clusters.yaml",
            "clusters:\n  auth: {endpoints: ['10.0.0.1:80', '[::1]:81', auth.test:82], max_in_flight: 7}\n  \
             rates:\n    endpoints: [rates.test:443]\n    protocol: http2\n    tls: {server_name: r.test}\n    \
             ejection: {failures: 0, seconds: 1}\nmetrics: {listen: '127.0.0.1:9151'}\n",
        )
        .file(
            "f.yaml",
            "filters:\n  - {name: asks, module: '{guest:callout}', body: none, callout_hosts: ['*.test:443', '[::1]:*']}\n\
             services:\n  - {name: counts, module: '{guest:service}', root_id: service, vm_id: v, limits: {memory_mib: 8}}\n\
             namespaces:\n  - {vm_id: v, memory_mib: 2, queue_items: 10, queue_overflow: drop_oldest}\n",
        );
    let report = place.run(&["check", "clusters.yaml", "f.yaml", "--format", "json"]).status(0).json();
    let rule = &report["rules"][0];
    let (auth, rates) = (&rule["clusters"][0], &rule["clusters"][1]);
    assert_eq!((&auth["name"], &auth["protocol"], &auth["tls"]), (&"auth".into(), &"http1".into(), &Value::Null));
    assert_eq!(texts(&auth["endpoints"]), ["10.0.0.1:80", "[::1]:81", "auth.test:82"]);
    assert_eq!((&auth["max_in_flight"], &auth["ejection"]["failures"]), (&7.into(), &5.into()));
    assert_eq!(texts(&auth["callers"]), ["asks", "counts"]);
    let tls = (&rates["tls"]["verify"], &rates["tls"]["ca_file"], &rates["tls"]["server_name"]);
    assert_eq!(tls, (&true.into(), &Value::Null, &"r.test".into()));
    assert_eq!((&rates["protocol"], &rates["ejection"]), (&"http2".into(), &Value::Null));
    assert_eq!(texts(&rule["filters"][0]["callout_hosts"]), ["*.test:443", "[::1]:*"]);
    let service = &rule["services"][0];
    assert_eq!((&service["name"], &service["vm_id"]), (&"counts".into(), &"v".into()));
    assert_eq!((&service["limits"]["memory_mib"], &service["module"]["abi"]), (&8.into(), &"0.2.1".into()));
    let callbacks = texts(&service["callbacks"]);
    assert!(callbacks.contains(&"proxy_on_tick") && !callbacks.contains(&"proxy_on_request_headers"), "{callbacks:?}");
    let expected = json!({"vm_id": "v", "memory_mib": 2, "entries": 1 << 20, "queue_mib": 64, "queue_items": 10, "queue_overflow": "drop_oldest"});
    assert_eq!(rule["namespaces"], json!([expected]));
    assert_eq!(rule["metrics"], json!([{"listen": "127.0.0.1:9151", "any_address": false}]));
    assert_eq!((&report["totals"]["filters"], &report["totals"]["services"]), (&1.into(), &1.into()));
    assert_eq!(rule["warnings"], json!([]));

    let text = place.run(&["check", "clusters.yaml", "f.yaml"]).status(0);
    for part in [
        "  cluster    auth: http1 to 10.0.0.1:80, [::1]:81, auth.test:82; 64 connections each, 7 calls,",
        "  cluster    rates: http2, TLS (trusts the system's authorities) to rates.test:443;",
        "  namespace  v: 2 MiB and 1048576 entries of data; 64 MiB and 10 items a queue (drop_oldest)\n",
        "  metrics    served on http://127.0.0.1:9151/metrics\n",
        "    may call   *.test:443, [::1]:*\n",
        "  service 1: counts\n",
        "    VM         one in the process, with a thread of its own (vm_id v)\n",
        "with 1 plugin context; 1 service\n",
    ] {
        assert!(text.out.contains(part), "{part:?} is not in\n{}", text.out);
    }
    assert_eq!(text.err, "");
}

#[test]
fn calls_and_services_that_come_to_nothing_are_warned_about() {
    const HTTP: &str =
        r#"(import "env" "proxy_http_call" (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;
    const GRPC: &str =
        r#"(import "env" "proxy_grpc_stream" (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;
    let module = |imports: &str, exports: &str| {
        format!(
            r#"(module {imports} (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
               (func (export "malloc") (param i32) (result i32) (i32.const 0)) {exports})"#
        )
    };
    let headers = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let tick = r#"(func (export "proxy_on_tick") (param i32))"#;
    let place = Place::new()
        .module("http.wasm", &module(HTTP, headers))
        .module("grpc.wasm", &module(GRPC, headers))
        .module("still.wasm", &module("", headers))
        .module("ticks.wasm", &module("", tick))
        .file("http.yaml", "filters: [{name: h, module: http.wasm}]\n")
        .file("hosts.yaml", "filters: [{name: h, module: http.wasm, callout_hosts: ['a.test:80']}]\n")
        .file(
            "held.yaml",
            "filters: [{name: h, module: http.wasm, allowed_capabilities: [proxy_on_request_headers]}]\n",
        )
        .file("grpc.yaml", "filters: [{name: g, module: grpc.wasm}]\n")
        .file("still.yaml", "filters: [{name: s, module: still.wasm}]\n")
        .file("one.yaml", "clusters: {one: {endpoints: ['a.test:80']}}\n")
        .file("two.yaml", "clusters: {two: {endpoints: ['a.test:80'], protocol: http2}}\n")
        .file("open.yaml", "clusters: {open: {endpoints: ['a.test:80'], tls: {verify: false}}}\n")
        .file("idle.yaml", "services: [{name: idle, module: still.wasm}, {name: ticks, module: ticks.wasm}]\n")
        .file("sdk.yaml", HEADERS);
    let nobody =
        "filter 'h' sends HTTP requests (its module imports proxy_http_call), and there is nobody whom it may call";
    let no_http2 = "no cluster of the rule has 'protocol: http2'";
    let unused = "is of no use here: no module of the rule imports a call that it could be sent";
    for (files, expected) in [
        (&["http.yaml"][..], &[nobody][..]),
        (&["http.yaml", "one.yaml"], &[]),
        (&["http.yaml", "two.yaml"], &[]),
        (&["hosts.yaml"], &[]),
        (&["held.yaml"], &[]),
        (&["held.yaml", "one.yaml"], &[unused]),
        (&["grpc.yaml"], &[no_http2]),
        (&["grpc.yaml", "one.yaml"], &[no_http2, "cluster 'one' is of no use"]),
        (&["grpc.yaml", "two.yaml"], &[]),
        (&["still.yaml", "one.yaml"], &[unused]),
        (&["http.yaml", "open.yaml"], &["cluster 'open': with 'verify: false' whoever stands between can read"]),
        (&["still.yaml", "idle.yaml"], &["service 'idle' does nothing once it is configured"]),
        // An SDK that imports all calls into all modules says nothing by that.
        (&["sdk.yaml"], &[]),
        (&["sdk.yaml", "one.yaml"], &[]),
    ] {
        let err = place.run(&[&["check", "-q"], files].concat()).status(0).err;
        assert_eq!(err.lines().count(), expected.len(), "{files:?}\n{err}");
        for (line, part) in err.lines().zip(expected) {
            assert!(line.starts_with("warning: ") && line.contains(part), "{files:?}: {part:?} is not in\n{line}");
        }
    }
}

#[test]
fn files_and_services_that_are_wrong_are_told_with_the_rest() {
    let place = Place::new()
        .file("one.yaml", "clusters: {c: {endpoints: ['a.test:80']}}\n")
        .file("other.yaml", "clusters: {c: {endpoints: ['a.test:81']}}\n")
        .file("ca.yaml", "clusters: {tls: {endpoints: ['a.test:443'], tls: {ca_file: ca.pem}}}\n")
        .file(
            "service.yaml",
            "services: [{name: no, module: '{guest:service}', root_id: service, configuration: {refuse: true}}]\n",
        )
        .file("headers.yaml", HEADERS);
    for (files, expected) in [
        (&["one.yaml"][..], "no filter: none of its files has 'filters' or 'services' (one.yaml)"),
        (
            &["headers.yaml", "one.yaml", "other.yaml"],
            "error: other.yaml:1:12: clusters.c: the cluster is described in two files of the rule, and not alike",
        ),
        (&["headers.yaml", "ca.yaml"], "ca.pem cannot be read: No such file or directory"),
        (&["headers.yaml", "service.yaml"], "service.yaml: service 'no': module "),
    ] {
        let err = place.run(&[&["check"], files].concat()).status(1).err;
        assert!(err.contains(expected), "{files:?}: {expected:?} is not in\n{err}");
    }
}

#[test]
fn the_examples_load() {
    let mut count = 0;
    for example in fs::read_dir(artifacts::repository("examples")).unwrap().filter_map(Result::ok) {
        let Ok(yaml) = fs::read_to_string(example.path().join("filter.yaml")) else { continue };
        let name = example.file_name().into_string().unwrap();
        let place = Place::new().file("filter.yaml", &yaml);
        fs::copy(artifacts::guest(&name), place.path().join(format!("{name}.wasm"))).unwrap();
        let ran = place.run(&["check", "filter.yaml"]).status(0);
        assert_eq!(ran.err, "", "{name}");
        count += 1;
    }
    assert!(count >= 2, "only {count} examples found");
}

/// Calls that the configuration makes are accepted, and stay here.
#[test]
fn calls_are_not_sent() {
    let upstream = Upstream::start();
    let file = format!(
        "clusters:\n  upstream: {{endpoints: ['{0}']}}\n  h2: {{endpoints: ['{0}'], protocol: http2}}\nfilters:\n  - name: a\n    \
         module: '{{guest:callout}}'\n    callout_hosts: ['{0}']\n    configuration: {{configure: 'call path=/status/200; \
         call cluster=h2; call cluster={0}'}}\n    vm_configuration: {{vm_start: 'call path=/status/200'}}\n",
        upstream.address()
    );
    let place = Place::new().file("f.yaml", &file);
    let checked = place.run(&["check", "f.yaml"]).status(0);
    assert!(!checked.err.contains("call"), "{}", checked.err);
    assert_eq!(upstream.connections(), 0);
    // The same file, run.
    let args = ["run", "f.yaml", "-r", "http://a.test/", "-H", "x-callout: call path=/status/500"];
    let ran = place.run(&args).status(0);
    assert!(ran.out.contains("status=500"), "{}", ran.out);
    assert!(upstream.requests_to("/status/500") == 1, "{}", ran.out);
}

/// A service is tried out, as far as its configuration, and does not run.
#[test]
fn a_check_runs_no_service() {
    let file = |configuration: &str| {
        format!(
            "services:\n  - name: background\n    module: '{{guest:service}}'\n    root_id: service\n    \
             configuration: {configuration}\n"
        )
    };
    // Its first tick would never return.
    let place = Place::new()
        .file("spins.yaml", &file("{tick_ms: 1, spin_at: 1}"))
        .file("refuses.yaml", &file("{refuse: true}"));
    place.run(&["check", "spins.yaml"]).status(0);
    let refused = place.run(&["check", "refuses.yaml"]).status(1);
    let told = refused.out + &refused.err;
    assert!(told.contains("service 'background'") && told.contains("proxy_on_configure returned false"), "{told}");
}
