//! Files of Envoy.

use super::*;

const STRING: &str = "{'@type': type.googleapis.com/google.protobuf.StringValue, value: text}";

/// A `PluginConfig` with these further lines.
fn plugin(more: &str) -> String {
    format!("name: shop\nvm_config:\n  runtime: envoy.wasm.runtime.v8\n  code: {{local: {{filename: a.wasm}}}}\n{more}")
}

fn indented(text: &str, indent: usize) -> String {
    text.lines().map(|line| format!("{:indent$}{line}\n", "")).collect()
}

/// The same within a `Wasm` filter's entry.
fn entry(plugin: &str) -> String {
    format!(
        "- name: envoy.filters.http.wasm\n  typed_config:\n    '@type': \
         type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n    config:\n{}",
        indented(plugin, 6)
    )
}

const ROUTER: &str = "- name: envoy.filters.http.router\n  typed_config: {'@type': \
                      type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}\n";
const JWT: &str =
    "- name: envoy.filters.http.jwt_authn\n  typed_config: {'@type': type.googleapis.com/x.JwtAuthentication}\n";

fn listener(name: &str, filters: &str) -> String {
    format!(
        "- name: {name}\n  address: {{}}\n  filter_chains:\n  - filters:\n    - name: \
         envoy.filters.network.http_connection_manager\n      typed_config:\n        '@type': \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n        \
         stat_prefix: x\n        http_filters:\n{}",
        indented(filters, 8)
    )
}

fn bootstrap(listeners: &str) -> String {
    format!("admin: {{}}\nstatic_resources:\n  listeners:\n{}", indented(listeners, 2))
}

#[test]
fn a_plugin_config_in_full() {
    let text = "name: shop\nroot_id: r\nconfiguration:\n  '@type': type.googleapis.com/google.protobuf.Struct\n  value: \
                {a: [1, true]}\nfail_open: true\ncapability_restriction_config:\n  allowed_capabilities: \
                {proxy_log: {}, proxy_on_request_headers: }\nvm_config:\n  vm_id: v\n  runtime: \
                envoy.wasm.runtime.v8\n  allow_precompiled: true\n  nack_on_code_cache_miss: true\n  configuration: \
                {'@type': google.protobuf.StringValue, value: start}\n  environment_variables:\n    host_env_keys: \
                [PATH]\n    key_values: {A: b}\n  code: {local: {filename: lib/a.wasm}}\n";
    let spec = one(text);
    assert_eq!((spec.name.as_str(), spec.root_id.as_str(), spec.vm_id.as_str()), ("shop", "r", "v"));
    assert_eq!(&*spec.configuration, br#"{"a":[1,true]}"#);
    assert_eq!(&*spec.vm_configuration, b"start");
    assert!(is_open(&spec));
    assert_eq!(spec.at, At::Client);
    assert_eq!(path(&spec), Path::new("/etc/ts/lib/a.wasm"));
    assert_eq!(spec.allowed_capabilities.as_ref().unwrap().names().count(), 2);
    assert_eq!(spec.environment[0], ("A".to_owned(), "b".to_owned()));
    assert_eq!(spec.environment.len(), 2);
    let camel = text
        .replace("root_id", "rootId")
        .replace("fail_open", "failOpen")
        .replace("capability_restriction_config", "capabilityRestrictionConfig")
        .replace("allowed_capabilities", "allowedCapabilities")
        .replace("vm_config", "vmConfig")
        .replace("vm_id", "vmId")
        .replace("allow_precompiled", "allowPrecompiled")
        .replace("nack_on_code_cache_miss", "nackOnCodeCacheMiss")
        .replace("environment_variables", "environmentVariables")
        .replace("host_env_keys", "hostEnvKeys")
        .replace("key_values", "keyValues");
    assert_eq!(one(&camel), spec);
    let json = serde_json::to_string(&serde_yaml::from_str::<serde_json::Value>(text).unwrap()).unwrap();
    assert_eq!(one(&json), spec, "{json}");
}

#[test]
fn wherever_it_stands() {
    let bare = one(&plugin("root_id: r\n"));
    let own = plugin("root_id: r\n");
    let list = format!("{}{ROUTER}", entry(&own));
    let structured = format!(
        "name: w\ntyped_config:\n  '@type': type.googleapis.com/udpa.type.v1.TypedStruct\n  type_url: \
         type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n  value:\n    config:\n{}",
        indented(&own, 6)
    );
    let message = format!("config:\n{}", indented(&own, 2));
    let manager = listener("x", &list);
    let manager = manager.split_once("  - filters:\n").unwrap().1;
    let manager: String = manager.lines().map(|line| line.get(6..).unwrap_or_default().to_owned() + "\n").collect();
    for text in [
        list.clone(),
        entry(&own).replace("- name", "  name"),
        structured.clone(),
        structured.replace("udpa.type.v1", "xds.type.v3"),
        message.clone(),
        format!("'@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n{message}"),
        format!("name: envoy.filters.http.wasm\nconfig:\n{}", indented(&message, 2)),
        format!("http_filters:\n{list}"),
        format!("httpFilters:\n{list}"),
        format!("listeners:\n{}", listener("a", &list)),
        listener("a", &list).replacen("- name", "  name", 1),
        bootstrap(&listener("a", &list)),
        // The same filters on two listeners, and one without any Wasm.
        bootstrap(&format!("{}{}{}", listener("a", &list), listener("b", &list), listener("c", JWT))),
        format!("resources:\n{}", listener("a", &list)),
        manager.clone(),
    ] {
        let found = parse(Path::new(FILE), &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(found.filters, std::slice::from_ref(&bare), "{text}");
    }
}

#[test]
fn lists_keep_their_order() {
    let two = format!("{}{}{ROUTER}", entry(&plugin("root_id: one\n")), entry(&plugin("root_id: two\n")));
    let names: Vec<_> = file(&two).filters.into_iter().map(|spec| spec.root_id).collect();
    assert_eq!(names, ["one", "two"]);
    let disabled = format!("{}{}  disabled: true\n", entry(&plugin("")), entry(&plugin("")));
    let found = file(&disabled);
    assert_eq!(found.filters.len(), 1);
    assert!(found.warnings[0].to_string().contains("is disabled"), "{:?}", found.warnings);
}

#[test]
fn what_is_no_wasm_is_not_left_out_in_silence() {
    let text = format!("http_filters:\n{JWT}{}{ROUTER}", entry(&plugin("")));
    refused(&text, &format!("{FILE}:2:3: http_filters[0]: 'envoy.filters.http.jwt_authn' is no Wasm filter"));
    refused(&format!("http_filters:\n{ROUTER}"), "there is no Wasm filter in it");
    refused(&JWT.replacen("- name", "  name", 1), "there is no Wasm filter in it");
    let two = bootstrap(&format!(
        "{}{}",
        listener("a", &entry(&plugin("root_id: one\n"))),
        listener("b", &entry(&plugin("root_id: two\n")))
    ));
    refused(&two, "'a', 'b'. A rule has one chain: `wasm-remap migrate --listener NAME`");
    let migrated = |text: &str, listener| {
        Migration::read(Path::new(FILE), text, None, listener, Path::new("/etc/ts")).map(|found| found.yaml().unwrap())
    };
    assert!(migrated(&two, Some("b")).unwrap().contains("root_id: two"));
    assert!(migrated(&two, Some("c")).unwrap_err().to_string().contains("no listener 'c' with Wasm filters: 'a', 'b'"));
    assert!(migrated(&text, None).unwrap().starts_with("filters:\n  - name: shop\n    module: a.wasm\n"));
}

#[test]
fn services() {
    let service = |more: &str| {
        format!(
            "bootstrap_extensions:\n- name: envoy.bootstrap.wasm\n  typed_config:\n    '@type': \
             type.googleapis.com/envoy.extensions.wasm.v3.WasmService\n{more}    config:\n{}",
            indented(&plugin(""), 6)
        )
    };
    let found = file(&service("    singleton: true\n"));
    assert_eq!((found.filters.len(), found.services.len(), found.warnings.len()), (0, 1, 0));
    assert_eq!(found.services[0].name, "shop");
    assert!(warnings(&service(""))[0].contains("runs a service in each of its threads"));
    let bare = format!("singleton: true\nconfig:\n{}", indented(&plugin(""), 2));
    assert_eq!(file(&bare).services.len(), 1);
}

#[test]
fn failure_policies() {
    let policy = |text: &str| is_open(&one(&plugin(text)));
    assert!(!policy("") && !policy("fail_open: false\n") && policy("fail_open: true\n"));
    assert!(policy("failure_policy: FAIL_OPEN\n") && policy("failurePolicy: 3\n"));
    assert!(!policy("failure_policy: FAIL_CLOSED\n") && !policy("failure_policy: UNSPECIFIED\n"));
    refused(&plugin("failure_policy: FAIL\n"), "failure_policy: unknown variant `FAIL`, expected one of `FAIL_CLOSED`");
    refused(&plugin("fail_open: true\nfailure_policy: FAIL_OPEN\n"), ":6:1: `fail_open` is the old spelling");
    let reload =
        plugin("failure_policy: FAIL_RELOAD\nreload_config: {backoff: {base_interval: 1s, max_interval: 60s}}\n");
    if !RELOAD {
        assert!(!policy("failure_policy: FAIL_RELOAD\n"));
        assert!(warnings(&reload)[0].contains("`backoff` is ignored"));
    } else {
        assert_eq!(warnings(&reload), [""; 0]);
    }
    refused(
        &plugin("reload_config: {backoff: {base_interval: 1}}\n"),
        "base_interval: invalid type: number `1`, expected a duration",
    );
}

#[test]
fn code() {
    let with = |code: &str| plugin("").replace("{local: {filename: a.wasm}}", code);
    let inline = one(&with("{local: {inline_bytes: AGFzbQEAAAA=}}"));
    assert_eq!(inline.code.source, Source::Inline(b"\0asm\x01\0\0\0"[..].into()));
    let text = one(&with("{local: {inline_string: \"\\0asm\\x01\\0\\0\\0\"}}"));
    assert_eq!(text.code.source, inline.code.source);
    let remote =
        with("{remote: {http_uri: {uri: 'https://x.test/m/shop.wasm?v=1', cluster: c, timeout: 1s}, sha256: abc}}");
    refused(&remote, "vm_config.code.remote: code is not fetched from 'https://x.test/m/shop.wasm?v=1'");
    refused(&remote, "curl -fo shop.wasm 'https://x.test/m/shop.wasm?v=1'");
    refused(&remote, "Its SHA-256 is to be abc");
    for (code, expected) in [
        ("{}", "vm_config.code: 'local' is missing"),
        ("{local: {}}", "vm_config.code.local: 'filename' is missing"),
        ("{local: {file: a}}", "unknown key 'file'"),
        ("{local: {filename: a, inline_bytes: b}}", "from `filename` and `inline_bytes`"),
        ("{local: {inline_bytes: '*'}}", "inline_bytes: is no base64"),
        ("{local: {environment_variable: A}}", "code from `environment_variable` is not read"),
        ("{local: {filename: a}, remote: {http_uri: {uri: b}}}", "either `local` or `remote`"),
        ("{remote: {sha256: a}}", "'http_uri' is missing"),
    ] {
        refused(&with(code), expected);
    }
    let watched = warnings(&with("{local: {filename: a, watched_directory: {path: /x}}}"));
    assert!(watched[0].contains("`watched_directory` is ignored"), "{watched:?}");
}

#[test]
fn mistakes_have_their_place() {
    for (text, expected) in [
        (plugin("rot_id: r\n"), ":5:1: unknown key 'rot_id' in \"»rot_id«: r\"; did you mean 'root_id'? Keys here: "),
        (plugin("root_id: [r]\n"), ":5:10: root_id: invalid type: a sequence, expected a string"),
        (plugin("").replace("runtime:", "runtim:"), ":3:3: vm_config: unknown key 'runtim'"),
        (plugin("").replace("v8", "v9"), ":3:12: vm_config.runtime: 'envoy.wasm.runtime.v9' is no runtime of Envoy"),
        (plugin("").replace("v8", "null"), "compiled into Envoy"),
        (plugin("configuration: {a: 1}\n"), ":5:16: configuration: '@type' is missing"),
        (plugin("configuration: {'@type': a.B}\n"), ":5:26: configuration.@type: a configuration of type 'a.B'"),
        (plugin("capability_restriction_config: {allowed_capabilities: {proxy_lag: {}}}\n"), "the nearest name is 'proxy_log'"),
        (plugin("capability_restriction_config: {allowed_capabilities: {proxy_log: {a: 1}}}\n"), "unknown key 'a'"),
        ("name: x\nvm_config: {}\n".to_owned(), "vm_config: 'code' is missing"),
        ("typed_config: {'@type': x/envoy.extensions.filters.http.wasm.v3.Wasm}\n".to_owned(), "'config' is missing"),
        (plugin("fail_open: maybe\n"), "fail_open: invalid type: string \"maybe\", expected `true` or `false`"),
        ("- name: a\n  config_discovery: {type_urls: [x/envoy.extensions.filters.http.wasm.v3.Wasm]}\n  typed_config:\n".to_owned(), "discovery service"),
    ] {
        refused(&text, expected);
    }
    let twice = plugin("")
        .replace("runtime: envoy.wasm.runtime.v8", "environment_variables: {host_env_keys: [A], key_values: {A: b}}");
    refused(&twice, "host_env_keys[0]: 'A' stands in `key_values` too");
    assert!(warnings(&plugin("allow_on_headers_stop_iteration: true\n"))[0].contains("shown no body"));
    assert_eq!(warnings(&plugin("allow_on_headers_stop_iteration: {value: false}\n")), [""; 0]);
    assert_eq!(&*one(&plugin(&format!("configuration: {STRING}\n"))).configuration, b"text");
}
