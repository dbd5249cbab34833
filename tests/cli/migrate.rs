//! `wasm-remap migrate`.

use std::fs;

use crate::{Place, texts};

const CPP: &str = "config:\n  name: keys\n  rootId: r\n  configuration: '{\"keys\": {\"k\": \"a\"}}'\n  fail_open: false\n  vmConfig:\n    \
                   vmId: v\n    runtime: ats.wasm.runtime.wamr\n    code: {local: {filename: '{guest:api-key}'}}\n";
const SECOND: &str = "config:\n  name: headers\n  configuration: '{\"request\": {\"set\": {\"a\": \"b\"}}}'\n  vm_config:\n    code: \
                      {local: {filename: '{guest:headers}'}}\n";

fn envoy(name: &str, listener: &str) -> String {
    format!(
        "  - name: {listener}\n    filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        \
         typed_config:\n          '@type': \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         http_filters:\n          - name: envoy.filters.http.jwt_authn\n          - name: envoy.filters.http.wasm\n            \
         typed_config:\n              '@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n              \
         config:\n                name: {name}\n                configuration: {{'@type': google.protobuf.Struct, value: \
         {{request: {{set: {{a: b}}}}}}}}\n                vm_config: {{code: {{local: {{filename: \
         '{{guest:headers}}'}}}}}}\n          - name: envoy.filters.http.router\n"
    )
}

#[test]
fn a_plugin_config_becomes_one_filter_file() {
    let place = Place::new()
        .file("etc/plugin.config", "stats_over_http.so\nwasm.so a.yaml {}/b.yaml\n# wasm.so off.yaml\n")
        .file("etc/a.yaml", CPP)
        .file("b.yaml", SECOND);
    let path = place.path().join("etc/plugin.config");
    let text = fs::read_to_string(&path).unwrap().replace("{}", place.path().to_str().unwrap());
    fs::write(&path, text).unwrap();
    let ran = place.run(&["migrate", "etc/plugin.config", "--output", "all.yaml"]).status(0);
    assert_eq!(
        ran.out,
        "all.yaml: 2 filters\nmap http://HOST/ http://ORIGIN/ @plugin=wasm_remap.so @pparam=all.yaml\n"
    );
    for part in ["etc/plugin.config: take out line 2", "etc/plugin.config: 1 line of other plugins stay as they are"] {
        assert!(ran.err.contains(part), "{part:?} is not in\n{}", ran.err);
    }
    let written = fs::read_to_string(place.path().join("all.yaml")).unwrap();
    for part in [
        "# Made by `wasm-remap migrate` of etc/plugin.config.\n",
        "#   map http://HOST/ http://ORIGIN/ @plugin=wasm_remap.so @pparam=all.yaml\n",
        "# wasm.so ran for every request:",
        "# `at: origin` is what wasm.so does:",
        "filters:\n",
        "  - name: keys\n",
        "    at: origin\n",
    ] {
        assert!(written.contains(part), "{part:?} is not in\n{written}");
    }
    // As the sources, in the order of the line.
    let of = |files: &[&str]| {
        let report = place.run(&[&["check", "--format", "json"], files].concat()).status(0).json();
        let filters = report["rules"][0]["filters"].as_array().unwrap().clone();
        let keys = ["name", "module", "root_id", "vm_id", "failure_policy", "configuration_bytes", "callbacks"];
        filters.iter().map(|filter| keys.map(|key| filter[key].clone())).collect::<Vec<_>>()
    };
    assert_eq!(of(&["all.yaml"]), of(&["etc/a.yaml", "b.yaml"]));
}

#[test]
fn an_envoys_listener_is_picked_and_what_is_left_out_is_told() {
    let listeners = format!("static_resources:\n  listeners:\n{}{}", envoy("one", "a"), envoy("two", "b"));
    let place = Place::new().file("envoy.yaml", &listeners);
    let refused = place.run(&["check", "envoy.yaml"]).status(1);
    assert!(refused.out.contains("is no Wasm filter") || refused.err.contains("is no Wasm filter"), "{}", refused.out);
    let both = place.run(&["migrate", "envoy.yaml"]).status(1);
    assert!(both.err.contains("`wasm-remap migrate --listener NAME` writes one of them"), "{}", both.err);
    let one = place.run(&["migrate", "envoy.yaml", "--listener", "b"]).status(0);
    assert!(one.out.contains("  - name: two\n") && !one.out.contains("name: one"), "{}", one.out);
    assert!(
        one.err.contains("envoy.yaml:26:13: ")
            && !one.err.contains("envoy.yaml:10:13: ")
            && one.err.contains("'envoy.filters.http.jwt_authn' is no Wasm filter"),
        "{}",
        one.err
    );
    fs::write(place.path().join("two.yaml"), &one.out).unwrap();
    place.run(&["check", "two.yaml"]).status(0);
    let json = place.run(&["migrate", "envoy.yaml", "--listener", "b", "--format", "json"]).status(0).json();
    assert_eq!(json["file"]["filters"][0]["configuration"]["request"]["set"]["a"], "b");
    assert_eq!(json["rule"], "map http://HOST/ http://ORIGIN/ @plugin=wasm_remap.so @pparam=FILE.yaml");
    assert_eq!(texts(&json["from"]), ["envoy.yaml"]);
    assert_eq!(texts(&json["notes"]).len(), 1);
}

#[test]
fn code_within_a_configuration_is_written_beside_the_file() {
    let place =
        Place::new().file("plugin.yaml", "name: in line\nvm_config: {code: {local: {inline_bytes: AGFzbQEAAAA=}}}\n");
    let ran = place.run(&["migrate", "plugin.yaml", "-o", "out.yaml"]).status(0);
    assert!(ran.err.contains("in-line.wasm: 8 bytes written"), "{}", ran.err);
    assert_eq!(fs::read(place.path().join("in-line.wasm")).unwrap(), b"\0asm\x01\0\0\0");
    let text = place.run(&["migrate", "plugin.yaml"]).status(0);
    assert!(text.err.contains("--output writes it too"), "{}", text.err);
}

#[test]
fn what_cannot_be_turned_is_status_1_with_its_place() {
    let place = Place::new()
        .file("ours.yaml", "filters: []\n")
        .file("wrong.yaml", "config:\n  name: a\n  vm_config:\n    runtime: v8\n")
        .file("plugin.config", "other.so\n")
        .file("missing.config", "wasm.so gone.yaml\n");
    for (file, expected) in [
        ("ours.yaml", "ours.yaml: is in no other spelling"),
        ("wrong.yaml", "wrong.yaml:4:14: config.vm_config.runtime: 'v8' is no runtime of the plugin wasm.so"),
        ("plugin.config", "plugin.config: no line loads wasm.so"),
        ("missing.config", "gone.yaml: cannot be read"),
        ("nothing.yaml", "nothing.yaml: cannot be read"),
    ] {
        let ran = place.run(&["migrate", file]).status(1);
        assert!(ran.err.contains(expected) && ran.out.is_empty(), "{file}: {}", ran.err);
    }
}
