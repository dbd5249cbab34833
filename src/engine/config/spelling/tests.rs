//! Each key of each spelling: what it means in ours, or what is said of it.

use std::path::Path;

use proptest::prelude::*;

use super::ours::RELOAD;
use super::{Migration, Spelling, detect, node};
use crate::capabilities::Capabilities;
use crate::config::{At, ConfigFile, FailurePolicy, FilterSpec, Source, parse};

const FILE: &str = "/etc/ts/shop.yaml";

#[track_caller]
fn file(text: &str) -> ConfigFile {
    parse(Path::new(FILE), text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The one filter of a file.
#[track_caller]
fn one(text: &str) -> FilterSpec {
    let mut filters = file(text).filters;
    assert_eq!(filters.len(), 1, "{text}");
    filters.remove(0)
}

#[track_caller]
fn error(text: &str) -> String {
    match parse(Path::new(FILE), text) {
        Ok(file) => panic!("loads: {:?}\n{text}", file.filters),
        Err(error) => error.to_string(),
    }
}

/// Ends the test unless this file is refused with these words, at this place.
#[track_caller]
fn refused(text: &str, expected: &str) {
    let message = error(text);
    assert!(message.contains(expected), "for\n{text}\n  got {message}\n  not {expected}");
}

fn warnings(text: &str) -> Vec<String> {
    file(text).warnings.iter().map(ToString::to_string).collect()
}

fn is_open(spec: &FilterSpec) -> bool {
    spec.failure_policy == FailurePolicy::Open
}

fn path(spec: &FilterSpec) -> &Path {
    spec.code.source.path().expect("a file")
}

mod cpp {
    use super::*;

    const CODE: &str = "  vm_config:\n    code: {local: {filename: a.wasm}}\n";

    #[test]
    fn a_file_in_full() {
        let text = "config:\n  name: shop\n  rootId: my_root\n  configuration: |\n    {\"a\": 1}\n  fail_open: false\n  \
                    capability_restriction_config:\n    allowed_capabilities: [proxy_log, proxy_on_request_headers]\n  \
                    vmConfig:\n    vmId: v\n    runtime: ats.wasm.runtime.wamr\n    configuration: start\n    \
                    allow_precompiled: true\n    environment_variables:\n      host_env_keys: [PATH, NOT_SET_ANYWHERE]\n      \
                    key_values: {A: 1.50, B: ~}\n    code:\n      local:\n        filename: wasm/a.wasm\n";
        let spec = one(text);
        assert_eq!((spec.name.as_str(), spec.root_id.as_str(), spec.vm_id.as_str()), ("shop", "my_root", "v"));
        assert_eq!(&*spec.configuration, b"{\"a\": 1}\n");
        assert_eq!(&*spec.vm_configuration, b"start");
        assert!(!is_open(&spec));
        assert_eq!(spec.at, At::Origin);
        assert_eq!(path(&spec), Path::new("/etc/ts/wasm/a.wasm"));
        let expected = Capabilities::new(["proxy_log", "proxy_on_request_headers"]).unwrap();
        assert_eq!(spec.allowed_capabilities, Some(expected));
        let own = std::env::var("PATH").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(spec.environment, [pair("A", "1.50"), pair("B", "null"), pair("PATH", &own)]);
        assert_eq!(warnings(text), [""; 0]);
        // The other case of the same keys.
        let other = text.replace("rootId", "root_id").replace("vmConfig", "vm_config").replace("vmId", "vm_id");
        assert_eq!(one(&other), spec);
    }

    #[test]
    fn paths_begin_at_the_configuration_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, format!("config:\n  name: a\n{CODE}")).unwrap();
        let load = |config_dir| crate::config::load(&path, config_dir).unwrap().filters.remove(0);
        assert_eq!(super::path(&load(Some(Path::new("/etc/elsewhere")))), Path::new("/etc/elsewhere/a.wasm"));
        assert_eq!(super::path(&load(None)), dir.path().join("a.wasm"));
    }

    #[test]
    fn defaults_are_those_of_the_plugin() {
        let spec = one(&format!("config:\n{CODE}"));
        assert!(is_open(&spec));
        assert_eq!((spec.name.as_str(), spec.root_id.as_str(), spec.allowed_capabilities), ("shop", "", None));
        assert!(spec.configuration.is_empty() && spec.environment.is_empty());
        assert_eq!(one(&format!("config:\n  root_id: r\n{CODE}")).name, "r");
    }

    #[test]
    fn scalars_are_handed_over_as_they_stand() {
        for (text, expected) in [("1.0", "1.0"), ("0x10", "0x10"), ("yes", "yes"), ("'a: b'", "a: b"), ("~", "")] {
            let spec = one(&format!("config:\n  configuration: {text}\n{CODE}"));
            assert_eq!(std::str::from_utf8(&spec.configuration), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_the_plugin_passes_over_is_told() {
        for (lines, place, expected) in [
            ("  failOpen: false\n", "2:3", "does not read 'failOpen' (it reads 'fail_open')"),
            ("  fail_open: no\n", "2:14", "'no' is true for the plugin wasm.so"),
            ("  configuration: {a: 1}\n", "2:18", "'configuration' is a mapping"),
            ("  capability_restriction_config: {allowed_capabilities: {proxy_log: {}}}\n", "2:57", "reads it only if it is a list"),
            ("  capability_restriction_config: [proxy_log]\n", "2:34", "reads it only if it is a mapping"),
            ("  capability_restriction_config: {allowed_capabilities: [proxy_log, proxy_lag]}\n", "2:69", "the nearest name is 'proxy_log'"),
        ] {
            let text = format!("config:\n{lines}{CODE}");
            let found = warnings(&text);
            assert_eq!(found.len(), 1, "{lines}: {found:?}");
            assert!(found[0].starts_with(&format!("{FILE}:{place}: config")), "{lines}: {}", found[0]);
            assert!(found[0].contains(expected), "{lines}: {}", found[0]);
        }
        let spec = one(&format!("config:\n  configuration: {{a: 1}}\n  fail_open: no\n{CODE}"));
        assert!(spec.configuration.is_empty() && is_open(&spec));
        let list = |names: &str| {
            one(&format!("config:\n  capability_restriction_config: {{allowed_capabilities: {names}}}\n{CODE}"))
                .allowed_capabilities
        };
        assert_eq!(list("[]"), None, "an empty list allows everything");
        assert_eq!(list("{proxy_log: {}}"), None, "a mapping is not read");
        assert_eq!(list("[proxy_lag]"), Some(Capabilities::new([]).unwrap()), "a name that nobody has");
        for (more, expected) in [
            ("other: 1\n", "'other' stands behind 'config'"),
            ("---\nconfig: {}\n", "document 2: the plugin wasm.so reads the first document"),
        ] {
            let found = warnings(&format!("config:\n{CODE}{more}"));
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn what_the_plugin_refuses_is_refused() {
        refused("config: []\n", "config: invalid type: a sequence, expected a mapping");
        refused("config:\n  name: a\n", "'vm_config.code.local.filename' is missing");
        let runtime = "config:\n  vm_config:\n    runtime: ats.wasm.runtime.v8\n    code: {local: {filename: a}}\n";
        refused(runtime, &format!("{FILE}:3:14: config.vm_config.runtime: 'ats.wasm.runtime.v8' is no runtime"));
        let name = format!("config:\n  name: \"a\\nb\"\n{CODE}");
        refused(&name, &format!("{FILE}:2:9: config.name: 'name' must be printable"));
        let variable = "config:\n  vm_config:\n    environment_variables:\n      key_values: {\"a=b\": c}\n    code: {local: {filename: a}}\n";
        refused(variable, &format!("{FILE}:4:19: config.vm_config.environment_variables.key_values: environment variable 'a=b'"));
    }
}

mod envoy {
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
    const JWT: &str = "- name: envoy.filters.http.jwt_authn\n  typed_config: {'@type': type.googleapis.com/x.JwtAuthentication}\n";

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
        let reload = plugin("failure_policy: FAIL_RELOAD\nreload_config: {backoff: {base_interval: 1s, max_interval: 60s}}\n");
        if !RELOAD {
            assert!(!policy("failure_policy: FAIL_RELOAD\n"));
            assert!(warnings(&reload)[0].contains("`backoff` is ignored"));
        } else {
            assert_eq!(warnings(&reload), [""; 0]);
        }
        refused(&plugin("reload_config: {backoff: {base_interval: 1}}\n"), "base_interval: invalid type: number `1`, expected a duration");
    }

    #[test]
    fn code() {
        let with = |code: &str| plugin("").replace("{local: {filename: a.wasm}}", code);
        let inline = one(&with("{local: {inline_bytes: AGFzbQEAAAA=}}"));
        assert_eq!(inline.code.source, Source::Inline(b"\0asm\x01\0\0\0"[..].into()));
        let text = one(&with("{local: {inline_string: \"\\0asm\\x01\\0\\0\\0\"}}"));
        assert_eq!(text.code.source, inline.code.source);
        let remote = with("{remote: {http_uri: {uri: 'https://x.test/m/shop.wasm?v=1', cluster: c, timeout: 1s}, sha256: abc}}");
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
        let twice = plugin("").replace("runtime: envoy.wasm.runtime.v8", "environment_variables: {host_env_keys: [A], key_values: {A: b}}");
        refused(&twice, "host_env_keys[0]: 'A' stands in `key_values` too");
        assert!(warnings(&plugin("allow_on_headers_stop_iteration: true\n"))[0].contains("shown no body"));
        assert_eq!(warnings(&plugin("allow_on_headers_stop_iteration: {value: false}\n")), [""; 0]);
        assert_eq!(&*one(&plugin(&format!("configuration: {STRING}\n"))).configuration, b"text");
    }
}

mod istio {
    use super::*;

    fn plugin(name: &str, spec: &str) -> String {
        format!(
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata:\n  name: {name}\n  namespace: shop\n  \
             labels: {{a: b}}\nspec:\n  url: file:///opt/{name}.wasm\n{spec}"
        )
    }

    #[test]
    fn a_plugin_in_full() {
        let digest = "ab".repeat(32);
        let text = plugin(
            "auth",
            &format!(
                "  sha256: {digest}\n  pluginConfig: {{a: [1, x]}}\n  pluginName: root\n  failStrategy: FAIL_OPEN\n  phase: \
                 AUTHN\n  priority: 10\n  type: HTTP\n  vmConfig:\n    env:\n    - {{name: A, value: b}}\n    - {{name: \
                 PATH, valueFrom: HOST}}\n"
            ),
        );
        let spec = one(&text);
        assert_eq!((spec.name.as_str(), spec.root_id.as_str()), ("shop.auth", "root"));
        assert_eq!(path(&spec), Path::new("/opt/auth.wasm"));
        assert_eq!(spec.code.sha256.unwrap().to_string(), digest);
        assert_eq!(&*spec.configuration, br#"{"a":[1,"x"]}"#);
        assert!(is_open(&spec));
        assert_eq!(spec.environment.len(), 2);
        assert_eq!(warnings(&text), [""; 0]);
        let snake = text
            .replace("pluginConfig", "plugin_config")
            .replace("pluginName", "plugin_name")
            .replace("failStrategy", "fail_strategy")
            .replace("vmConfig", "vm_config")
            .replace("valueFrom", "value_from");
        assert_eq!(one(&snake), spec);
    }

    #[test]
    fn phases_and_priorities_order_several() {
        let of = |name: &str, spec: &str| plugin(name, spec);
        let documents = [
            of("plain", ""),
            of("stats", "  phase: STATS\n"),
            of("low", "  phase: AUTHN\n  priority: -5\n"),
            of("none", "  phase: AUTHN\n"),
            of("high", "  phase: AUTHN\n  priority: 10\n"),
            of("same", "  phase: AUTHN\n  priority: 10\n"),
            of("authz", "  phase: AUTHZ\n  priority: 1000\n"),
        ];
        let names = |text: &str| file(text).filters.into_iter().map(|spec| spec.name[5..].to_owned()).collect::<Vec<_>>();
        let expected = ["high", "same", "low", "none", "authz", "stats", "plain"];
        assert_eq!(names(&documents.join("---\n")), expected);
        let items: String =
            documents.iter().map(|text| format!("- {}", text.replace('\n', "\n  ").trim_end()) + "\n").collect();
        assert_eq!(names(&format!("apiVersion: v1\nkind: List\nitems:\n{items}")), expected);
    }

    #[test]
    fn urls() {
        let url = |url: &str| plugin("a", "").replace("file:///opt/a.wasm", url);
        for (text, expected) in [("file://a.wasm", "/etc/ts/a.wasm"), ("./x/a", "/etc/ts/./x/a"), ("m/a.wasm", "/etc/ts/m/a.wasm")] {
            assert_eq!(path(&one(&url(text))), Path::new(expected));
        }
        refused(&url("oci://r.test/auth:v1"), "spec.url: code is not fetched from 'oci://r.test/auth:v1'");
        refused(&url("r.test/auth:v1"), "oras pull 'r.test/auth:v1'");
        refused(&url("https://r.test/a.wasm"), "curl -fo a.wasm 'https://r.test/a.wasm'");
        refused(&url("file://"), "the path of a Wasm file is expected");
        refused(&plugin("a", "  sha256: abc\n"), ":9:11: spec.sha256: 'abc' is no SHA-256");
    }

    #[test]
    fn what_rules_say_is_told_and_ignored() {
        for key in ["selector", "targetRef", "targetRefs", "match", "imagePullPolicy", "imagePullSecret", "verificationKey"] {
            let found = warnings(&plugin("a", &format!("  {key}: x\n")));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(&format!("{FILE}:9:3: spec: '{key}' is ignored")), "{found:?}");
        }
    }

    #[test]
    fn mistakes_have_their_place() {
        for (text, expected) in [
            (plugin("a", "  plugiName: x\n"), ":9:3: spec: unknown key 'plugiName'"),
            (plugin("a", "  failStrategy: CLOSE\n"), "failStrategy: unknown variant `CLOSE`"),
            (plugin("a", "  phase: EARLY\n"), "phase: unknown variant `EARLY`"),
            (plugin("a", "  priority: high\n"), "priority: invalid type: string \"high\", expected a whole number"),
            (plugin("a", "  type: NETWORK\n"), "'NETWORK' is no filter of HTTP"),
            (plugin("a", "  pluginConfig: text\n"), "pluginConfig: invalid type: string \"text\", expected a mapping"),
            (plugin("a", "  vmConfig: {env: [{name: A, valueFrom: FILE}]}\n"), "env[0].valueFrom: unknown variant `FILE`"),
            (plugin("a", "  vmConfig: {env: [{name: A}, {name: A}]}\n"), "'A' is there twice"),
            (plugin("a", "").replace("WasmPlugin", "Gateway"), ":2:7: kind: a 'Gateway' is no filter"),
            (plugin("a", "").replace("extensions.istio.io/v1alpha1", "v1"), "apiVersion: 'v1' has no WasmPlugin"),
            (plugin("a", "").replace("  url: file:///opt/a.wasm\n", "  sha256: ''\n"), "spec: 'url' is missing"),
            (format!("{}---\n{}", plugin("a", ""), plugin("b", "  x: 1\n")), ":18:3: document 2: spec: unknown key 'x'"),
        ] {
            refused(&text, expected);
        }
        if !RELOAD {
            assert!(!is_open(&one(&plugin("a", "  failStrategy: FAIL_RELOAD\n"))));
        }
    }
}

#[test]
fn spellings_are_told_apart() {
    let of = |text: &str| detect(&node::documents(text).unwrap());
    for text in ["filters: []", "services: []", "clusters: {}", "nothing: 1", "[1]", "5", "", "{filters: [], config: {}}"] {
        assert_eq!(of(text), None, "{text}");
    }
    assert_eq!(of("config: {name: a}"), Some(Spelling::Cpp));
    assert_eq!(of("config: {vm_config: {runtime: ats.wasm.runtime.wamr}}"), Some(Spelling::Cpp));
    assert_eq!(of("config: {vm_config: {runtime: envoy.wasm.runtime.v8}}"), Some(Spelling::Envoy));
    assert_eq!(of("{name: envoy.filters.http.wasm, config: {}}"), Some(Spelling::Envoy));
    assert_eq!(of("{staticResources: {}}"), Some(Spelling::Envoy));
    assert_eq!(of("{apiVersion: v1, kind: X}"), Some(Spelling::Istio));
}

/// What is migrated loads again as what it was.
#[test]
fn migrated_files_mean_the_same() {
    let cpp = "config:\n  name: shop\n  rootId: r\n  configuration: |\n    {\n      \"a\": [\n        1\n      ]\n    }\n\n  \
               fail_open: false\n  capability_restriction_config: {allowed_capabilities: [proxy_log]}\n  vm_config:\n    vm_id: \
               v\n    environment_variables: {host_env_keys: [PATH], key_values: {A: ' b '}}\n    code: {local: {filename: \
               wasm/a.wasm}}\n";
    let envoy = "http_filters:\n- name: envoy.filters.http.wasm\n  typed_config:\n    '@type': \
                 type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n    config:\n      name: one\n      \
                 configuration: {'@type': google.protobuf.Struct, value: {a: 'x: y', b: [1.5, ~, {c: d}]}}\n      fail_open: \
                 true\n      vm_config:\n        code: {local: {filename: /opt/a.wasm}}\n- name: \
                 envoy.filters.http.wasm\n  typed_config:\n    '@type': \
                 type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n    config:\n      name: two\n      \
                 configuration: {'@type': google.protobuf.BytesValue, value: '/wA='}\n      vm_config:\n        code: {local: \
                 {filename: b.wasm}}\n";
    let istio = format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: 'on'}}\nspec:\n  url: \
         file:///opt/a.wasm\n  sha256: {}\n  pluginConfig: {{}}\n  selector: {{}}\n",
        "0a".repeat(32)
    );
    for text in [cpp, envoy, istio.as_str()] {
        let original = file(text);
        for home in ["/etc/ts", "/etc", "/somewhere/else"] {
            let migration = Migration::read(Path::new(FILE), text, None, None, Path::new(home)).unwrap();
            let yaml = migration.yaml().unwrap();
            let path = Path::new(home).join("shop.yaml");
            let mut again = parse(&path, &yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
            for spec in &mut again.filters {
                spec.source = FILE.to_owned();
            }
            assert_eq!(again.filters, original.filters, "{yaml}");
            assert_eq!(detect(&node::documents(&yaml).unwrap()), None);
            if text != envoy {
                let json = migration.json().unwrap().to_string();
                let again = parse(&path, &json).unwrap();
                assert_eq!(again.filters[0].configuration, original.filters[0].configuration);
            }
        }
    }
    assert!(Migration::read(Path::new(FILE), envoy, None, None, Path::new("/")).unwrap().json().unwrap_err().contains("no JSON form"));
    let own = Migration::read(Path::new(FILE), "filters: []", None, None, Path::new("/")).unwrap_err();
    assert!(own.to_string().contains("is in no other spelling"), "{own}");
}

#[test]
fn migrated_code_is_fetched_and_taken_out_by_hand() {
    let envoy = |code: &str| format!("name: my filter\nvm_config: {{code: {code}}}\n");
    let read = |text: &str| Migration::read(Path::new(FILE), text, None, None, Path::new("/etc/ts")).unwrap();
    let remote = envoy(&format!("{{remote: {{http_uri: {{uri: 'https://x.test/m/a%20b.wasm'}}, sha256: {}}}}}", "0b".repeat(32)));
    let migration = read(&remote);
    let yaml = migration.yaml().unwrap();
    assert!(yaml.contains("  # The module is not fetched: put it here as a-20b.wasm (curl -fo"), "{yaml}");
    assert!(migration.notes[0].to_string().contains("curl"), "{:?}", migration.notes);
    let spec = parse(Path::new(FILE), &yaml).unwrap().filters.remove(0);
    assert_eq!((path(&spec), spec.code.sha256.is_some()), (Path::new("/etc/ts/a-20b.wasm"), true));
    let inline = read(&envoy("{local: {inline_bytes: AGFzbQ==}}"));
    let modules: Vec<_> = inline.modules().collect();
    assert_eq!((modules.len(), modules[0].0, &**modules[0].1), (1, "my-filter.wasm", &b"\0asm"[..]));
    assert!(inline.yaml().unwrap().contains("module: my-filter.wasm"));
}

/// Mappings with keys that the spellings know, and anything behind them.
fn anything() -> impl Strategy<Value = serde_yaml::Value> {
    let word = prop::sample::select(vec![
        "config", "vm_config", "vmConfig", "code", "local", "filename", "inline_bytes", "remote", "http_uri", "uri", "sha256",
        "runtime", "ats.wasm.runtime.wamr", "envoy.wasm.runtime.v8", "configuration", "@type", "value", "kind", "WasmPlugin",
        "apiVersion", "spec", "url", "pluginConfig", "failStrategy", "vmConfig", "env", "name", "valueFrom", "HOST", "priority",
        "phase", "http_filters", "typed_config", "type_url", "static_resources", "listeners", "filter_chains", "filters",
        "bootstrap_extensions", "environment_variables", "host_env_keys", "key_values", "fail_open", "failure_policy",
        "reload_config", "backoff", "base_interval", "1s", "capability_restriction_config", "allowed_capabilities", "items",
        "metadata", "singleton", "disabled", "config_discovery", "google.protobuf.Struct", "google.protobuf.BytesValue",
        "x/envoy.extensions.filters.http.wasm.v3.Wasm", "x/envoy.extensions.wasm.v3.WasmService", "x/udpa.type.v1.TypedStruct",
        "x/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "\u{fc}\u{0}", "a=b", "",
    ]);
    let leaf = prop_oneof![
        word.clone().prop_map(serde_yaml::Value::from),
        any::<bool>().prop_map(serde_yaml::Value::from),
        any::<i64>().prop_map(serde_yaml::Value::from),
        any::<f64>().prop_map(serde_yaml::Value::from),
        Just(serde_yaml::Value::Null),
        ".{0,8}".prop_map(serde_yaml::Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_yaml::Value::Sequence),
            prop::collection::vec((word.clone(), inner), 0..8).prop_map(|entries| {
                let pair = |(key, value): (&str, serde_yaml::Value)| (serde_yaml::Value::from(key), value);
                serde_yaml::Value::Mapping(entries.into_iter().map(pair).collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in a file: it is loaded, or refused with a place inside of it; what is migrated loads.
    #[test]
    fn nothing_panics(value in anything()) {
        let Ok(text) = serde_yaml::to_string(&value) else { return Ok(()) };
        let lines = text.lines().count() + 1;
        match parse(Path::new(FILE), &text) {
            Ok(file) => prop_assert!(file.filters.iter().all(|spec| !spec.name.is_empty())),
            Err(error) => {
                prop_assert!(!error.message.is_empty());
                prop_assert!(error.at.is_none_or(|(line, column)| line <= lines && column > 0), "{error}");
            }
        }
        if let Ok(migration) = Migration::read(Path::new(FILE), &text, None, None, Path::new("/etc/ts")) {
            let yaml = migration.yaml().unwrap();
            let again = parse(Path::new(FILE), &yaml);
            prop_assert!(again.is_ok(), "{:?}\n{yaml}\n{text}", again.err());
        }
    }
}
