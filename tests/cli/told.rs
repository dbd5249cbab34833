//! What `check` and `inspect` tell besides what loads: why, who shares, and what to write.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use wasm_remap_tests::artifacts;

use crate::{Place, texts};

/// A module that exports these callbacks, and imports these calls.
fn module(callbacks: &[&str], imports: &str) -> String {
    let export = |name: &&str| {
        let (params, result) = match *name {
            "proxy_on_tick" => ("i32", ""),
            "proxy_on_done" => ("i32", "(result i32) (i32.const 1)"),
            _ => ("i32 i32 i32", "(result i32) (i32.const 0)"),
        };
        format!("(func (export \"{name}\") (param {params}) {result})\n")
    };
    let exports: String = callbacks.iter().map(export).collect();
    format!(
        r#"(module {imports} (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 0)) {exports})"#
    )
}

const REQUEST: &str = "proxy_on_request_headers";
const RESPONSE: &str = "proxy_on_response_headers";

#[test]
fn each_hook_says_whom_it_is_for_and_why() {
    let place = Place::new()
        .module("requests.wasm", &module(&[REQUEST, "proxy_on_request_body"], ""))
        .module("responses.wasm", &module(&[RESPONSE, "proxy_on_done"], ""))
        .file(
            "f.yaml",
            "filters:\n  - {name: a, module: requests.wasm, body: request, request_body: buffer}\n  \
             - {name: b, module: responses.wasm, at: origin}\n  - {name: c, module: requests.wasm, body: none}\n",
        );
    let report = place.run(&["check", "f.yaml", "--format", "json"]).status(0).json();
    let why: Vec<(&str, Vec<String>)> = report["rules"][0]["hooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hook| {
            let reason = |why: &Value| {
                let (exports, keys) = (texts(&why["exports"]).join(" "), texts(&why["keys"]).join(" "));
                format!("{}: {exports}; {keys}", why["filter"].as_str().unwrap())
            };
            (hook["hook"].as_str().unwrap(), hook["why"].as_array().unwrap().iter().map(reason).collect())
        })
        .collect();
    let body = "a: proxy_on_request_body; body: request";
    let expected: [(&str, &[&str]); 7] = [
        (
            "TSRemapDoRemap",
            &[
                "a: proxy_on_request_headers proxy_on_request_body; ",
                "b: proxy_on_response_headers proxy_on_done; ",
                "c: proxy_on_request_headers; ",
            ],
        ),
        ("REQUEST_BUFFER_READ_COMPLETE", &["a: proxy_on_request_body; body: request request_body: buffer"]),
        ("REQUEST_TRANSFORM", &[body]),
        ("SEND_REQUEST_HDR", &[body]),
        ("READ_RESPONSE_HDR", &["b: proxy_on_response_headers; at: origin"]),
        ("SEND_RESPONSE_HDR", &["b: proxy_on_response_headers; "]),
        ("TXN_CLOSE", &["b: proxy_on_done; "]),
    ];
    assert_eq!(why.len(), expected.len(), "{why:#?}");
    for ((hook, why), (name, reasons)) in why.iter().zip(expected) {
        assert_eq!((*hook, why.iter().map(String::as_str).collect::<Vec<_>>().as_slice()), (name, reasons));
    }
    let text = place.run(&["check", "f.yaml"]).status(0).out;
    for part in [
        "  why        TSRemapDoRemap for a: request_headers, request_body; for b: response_headers, done; for c:\n             \
         request_headers\n",
        "             REQUEST_BUFFER_READ_COMPLETE for a: request_body (body: request, request_body: buffer)\n",
        "             READ_RESPONSE_HDR for b: response_headers (at: origin)\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn rules_that_share_vms_are_named() {
    let place = Place::new()
        .module("m.wasm", &module(&[REQUEST], ""))
        .file("one.yaml", "filters: [{name: one, module: m.wasm, configuration: a}]")
        .file(
            "two.yaml",
            "filters: [{name: two, module: m.wasm, configuration: b}, {name: own, module: m.wasm, vm_id: v}]",
        )
        .file("log.yaml", "filters: [{name: one, module: m.wasm, configuration: a, log: {level: warn, file: own}}]")
        .file(
            "remap.config",
            "map http://a.test/ http://o/ @plugin=wasm_remap.so @pparam=one.yaml\n\
             map http://b.test/ http://o/ @plugin=wasm_remap.so @pparam=one.yaml @pparam=two.yaml\n\
             map http://c.test/ http://o/ @plugin=wasm_remap.so @pparam=log.yaml\n",
        );
    let report = place.run(&["check", "--remap-config", "remap.config", "--format", "json"]).status(0).json();
    let shared = report["shared"].as_array().unwrap();
    assert_eq!(shared.len(), 1, "the one with a vm_id of its own is alone: {shared:#?}");
    let numbers = ["filters", "rules", "plugin_contexts"].map(|key| shared[0][key].as_u64().unwrap());
    assert_eq!(numbers, [4, 3, 3], "another log is another plugin context, and no other VM");
    assert_eq!(shared[0]["memory_bytes"], 65_536);
    let users: Vec<_> = shared[0]["users"].as_array().unwrap().iter().collect();
    let user = |at: usize| (users[at]["rule"].as_str().unwrap(), users[at]["filter"].as_str().unwrap());
    assert_eq!(user(0), ("http://a.test/ -> http://o/", "one"));
    assert_eq!(user(2), ("http://b.test/ -> http://o/", "two"));
    assert_eq!(users[0]["plugin_context"], users[1]["plugin_context"], "equal filters of two rules");
    let totals = &report["totals"];
    assert_eq!(
        (&totals["vms_per_thread"], &totals["memory_bytes_per_thread"]),
        (&2.into(), &(2 * (65_536 + 46_080)).into())
    );
    let own = &report["rules"][2]["filters"][0]["log"];
    assert_eq!(
        (&own["level"], &own["file"], &own["lines_per_second"]),
        (&"warn".into(), &"own.log".into(), &100.into())
    );
    let text = place.run(&["check", "--remap-config", "remap.config"]).status(0).out;
    for part in [
        "4 filters of 3 rules, 3 plugin contexts; 64 KiB of",
        "two of http://b.test/ -> http://o/, plugin context 2\n",
        "log        warn and above to own.log, 100 lines a second\n",
        "\nmemory: 218 KiB for each event thread once all is configured",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn what_loads_and_surprises_is_warned_about() {
    let place = Place::new()
        .module("m.wasm", &module(&[REQUEST], ""))
        .module("ticks.wasm", &module(&["proxy_on_tick"], ""))
        .file("names.yaml", "filters: [{name: a, module: m.wasm, configuration: x}, {name: a, module: m.wasm}]")
        .file("twice.yaml", "filters: [{name: a, module: m.wasm}, {name: a, module: m.wasm}]")
        .file("service.yaml", "services: [{name: s, module: ticks.wasm, limits: {pause_ms: 5}}]")
        .file("spaces.yaml", "filters: [{name: a, module: m.wasm, vm_id: x}]\nnamespaces: [{vm_id: y, entries: 1}]")
        .file(
            "logs.yaml",
            "filters:\n  - {name: a, module: m.wasm, log: {file: l, rolling: {size_mib: 10}}}\n  \
             - {name: b, module: m.wasm, log: {file: l.log, rolling: {size_mib: 20}}}\n",
        );
    for (file, expected) in [
        ("names.yaml", &["2 filters of the chain are called 'a': log lines and metrics do not tell them apart"][..]),
        ("twice.yaml", &["2 filters of the chain are called 'a'", "filter 'a' stands in the chain more than once"]),
        ("service.yaml", &["service 's': the key 'limits.pause_ms' means nothing here"]),
        ("spaces.yaml", &["namespace 'y': no filter and no service of this rule has this 'vm_id'"]),
        ("logs.yaml", &["the log file 'l.log' is rolled in two ways, by 'a' and by 'b'"]),
    ] {
        let err = place.run(&["check", "-q", file]).status(0).err;
        assert_eq!(err.lines().count(), expected.len(), "{file}\n{err}");
        for (line, part) in err.lines().zip(expected) {
            assert!(line.starts_with("warning: ") && line.contains(part), "{file}: {part:?} is not in\n{line}");
        }
    }
}

/// remap.config as servers have it: what is ours is found among what is not.
#[test]
fn a_remap_config_of_many_kinds_is_read_as_the_server_reads_it() {
    let place = Place::new()
        .file("etc/filters/a b.yaml", "filters: [{name: a, module: m.wasm}]")
        .module("etc/filters/m.wasm", &module(&[REQUEST], ""))
        .file("etc/filters/b.yaml", "filters: [{name: b, module: m.wasm}]")
        .file("etc/more.config", "\tmap_with_referer http://r.test/ http://o/ http://e/ x @plugin=wasm_remap.so @pparam=filters/b.yaml\n")
        .file(
            "etc/remap.config",
            ".definefilter deny @action=deny @src_ip=10.0.0.0-10.255.255.255\n.useflt deny\n.include more.config\n\
             regex_map_with_recv_port http://(a|b).test:8080/ http://$1.o/ @action=allow @plugin=conf_remap.so \
             @pparam=proxy.config.x=1 @pparam=--odd @plugin=wasm_remap.so @pparam=filters/b.yaml @plugin=header_rewrite.so \
             @pparam=missing.conf\n\
             map http://twice.test/ http://o/ @plugin=wasm_remap.so @pparam=filters/b.yaml @plugin=regex_remap.so @pparam=none \
             @plugin=wasm_remap.so @pparam=filters/b.yaml @pparam=filters/b.yaml\n\
             reverse_map http://o/ http://a.test/\nmap http://other.test/ http://o/ @plugin=wasm_remap.so.old @pparam=x\n.unuseflt deny\n",
        );
    let report = place.run(&["check", "--remap-config", "etc/remap.config", "--format", "json"]).status(0).json();
    let rules: Vec<_> = report["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (rule["rule"]["kind"].as_str().unwrap(), rule["filters"].as_array().unwrap().len()))
        .collect();
    let expected = [("map_with_referer", 1), ("regex_map_with_recv_port", 1), ("map", 1), ("map", 2)];
    assert_eq!(rules, expected);
    assert_eq!(report["totals"]["other_rules"], 2);
    // Quotes keep a word together, and stay in it: as the server, which then finds no such file.
    let place = place.file(
        "etc/quoted.config",
        "map http://a.test/ http://o/ @plugin=wasm_remap.so \"@pparam=filters/a b.yaml\"\n\
         map http://b.test/ http://o/ @plugin=wasm_remap.so @pparam=\"filters/a b.yaml\"\n",
    );
    let err = place.run(&["check", "--remap-config", "etc/quoted.config"]).status(1).err;
    assert!(err.contains("etc/quoted.config:2: rule http://b.test/ -> http://o/: "), "{err}");
    assert!(err.contains("/etc/\"filters/a b.yaml\": cannot be read"), "{err}");
}

/// Scripts rely on the keys, and people find them in the documentation.
#[test]
fn every_key_of_the_json_is_documented() {
    fn keys(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => object.iter().for_each(|(key, value)| {
                found.insert(key.clone());
                keys(value, found);
            }),
            Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    let text = fs::read_to_string(artifacts::repository("docs/check.md")).unwrap();
    let place = Place::new()
        .module("m.wasm", &module(&[REQUEST], ""))
        .file("f.yaml", "filters: [{name: a, module: m.wasm}, {name: b, module: m.wasm}]")
        .file("remap.config", "map http://a.test/ http://o/ @plugin=wasm_remap.so @pparam=f.yaml\n");
    let mut found = BTreeSet::new();
    let mut report = place.run(&["check", "--remap-config", "remap.config", "--format", "json"]).status(0).json();
    for filter in report["rules"][0]["filters"].as_array_mut().unwrap() {
        // Those of the configuration are in docs/configuration.md.
        for key in ["limits", "bodies", "breaker"] {
            assert!(filter.as_object_mut().unwrap().remove(key).is_some());
        }
    }
    keys(&report, &mut found);
    keys(&place.run(&["inspect", "m.wasm", "--format", "json"]).status(0).json(), &mut found);
    assert!(found.len() > 60, "{found:?}");
    let missing: Vec<_> = found
        .iter()
        .filter(|key| !text.contains(&format!("`{key}`")) && !text.contains(&format!("[].{key}`")))
        .filter(|key| *key != "limits" && *key != "bodies" && *key != "breaker")
        .collect();
    assert!(missing.is_empty(), "not in docs/check.md: {missing:?}");
}

#[test]
fn a_filter_file_is_written_that_loads() {
    let http =
        r#"(import "env" "proxy_http_call" (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;
    let read = r#"(import "env" "proxy_get_buffer_bytes" (func (param i32 i32 i32 i32 i32) (result i32)))"#;
    let both = &[REQUEST, "proxy_on_request_body", "proxy_on_response_body"];
    let place = Place::new()
        .module("blind.wasm", &module(both, ""))
        .module("reads it.wasm", &module(both, read))
        .module("calls.wasm", &module(&[REQUEST], http))
        .module("ticks.wasm", &module(&["proxy_on_tick"], ""))
        .module(
            "big.wasm",
            &module(&[REQUEST], "").replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 1600)"),
        );
    for (name, parts) in [
        ("blind", &["    body: none\n", "  - name: blind\n"][..]),
        ("reads it", &["    # It can read bodies.\n    body: both\n", "    module: 'reads it.wasm'\n"]),
        ("calls", &["clusters:\n", "  upstream: {endpoints: ['upstream.example.com:80']}\n", "proxy_http_call"]),
        ("ticks", &["services:\n  - name: ticks\n"]),
        ("big", &["    limits: {memory_mib: 200}\n"]),
    ] {
        let file = place.run(&["inspect", &format!("{name}.wasm"), "--filter-file"]).status(0).out;
        for part in parts {
            assert!(file.contains(part), "{part:?} is not in\n{file}");
        }
        fs::write(place.path().join("suggested.yaml"), &file).unwrap();
        let checked = place.run(&["check", "suggested.yaml"]).status(0);
        let json = place.run(&["inspect", &format!("{name}.wasm"), "--format", "json"]).status(0).json();
        assert_eq!(json["filter_file"], file.as_str());
        // Nothing that it asks for is taken away.
        assert!(
            !checked.out.contains("refused for want of them") || checked.out.contains("; 0 imports refused"),
            "{}",
            checked.out
        );
    }
    // One that an SDK made.
    let guest = artifacts::guest("headers");
    fs::copy(&guest, place.path().join("headers.wasm")).unwrap();
    let file = place.run(&["inspect", "headers.wasm", "--filter-file"]).status(0).out;
    assert!(file.contains("Its SDK exports and imports all of that, used or not"), "{file}");
    let file = file.replace("# configuration: {}", "configuration: {request: {set: {a: b}}}");
    fs::write(place.path().join("suggested.yaml"), file).unwrap();
    place.run(&["check", "suggested.yaml"]).status(0);
    // No file loads what does not load.
    let place = place.module("bad.wasm", &module(&[], r#"(import "env" "proxy_shout" (func))"#));
    let bad = place.run(&["inspect", "bad.wasm", "--filter-file"]).status(1);
    assert!(bad.err.contains("proxy_shout"), "{}", bad.err);
}

#[test]
fn a_module_is_told_by_its_sections() {
    let lines = artifacts::guest("c-lines");
    let report = Place::new().run(&["inspect", lines.to_str().unwrap(), "--format", "json"]).status(0).json();
    assert_eq!((&report["debug_information"], &report["function_names"]), (&true.into(), &true.into()));
    assert!(texts(&report["producers"]).iter().any(|name| name.contains("clang ")), "{}", report["producers"]);
    assert_eq!(report["memory"]["stack_bytes"], 65_536, "the linker's default");
    assert!(report["memory"]["data_bytes"].as_u64().unwrap() > 0);
    let sections: Vec<_> =
        report["custom_sections"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(sections.contains(&".debug_line") && sections.contains(&"name"), "{sections:?}");
    let code = ["functions", "bytes", "compiled_bytes"].map(|key| report["code"][key].as_u64().unwrap());
    assert!(code[0] >= 7 && code[1] > 100 && code[2] > code[1], "{code:?}");
    // Rust puts its stack first, of 1 MiB.
    let rust = artifacts::guest("headers");
    let report = Place::new().run(&["inspect", rust.to_str().unwrap(), "--format", "json"]).status(0).json();
    assert_eq!((&report["memory"]["stack_bytes"], &report["debug_information"]), (&(1 << 20).into(), &false.into()));
    assert!(texts(&report["producers"]).iter().any(|name| name.starts_with("rustc ")), "{}", report["producers"]);
    let text = Place::new().run(&["inspect", lines.to_str().unwrap()]).status(0).out;
    for part in
        ["of data and 64 KiB of stack\n", "  made by    ", "it carries source lines, by which traps will be reported"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}
