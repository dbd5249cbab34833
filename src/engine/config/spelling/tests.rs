//! Each key of each spelling: what it means in ours, or what is said of it.

mod cpp;
mod envoy;
mod istio;

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

#[test]
fn spellings_are_told_apart() {
    let of = |text: &str| detect(&node::documents(text).unwrap());
    for text in
        ["filters: []", "services: []", "clusters: {}", "nothing: 1", "[1]", "5", "", "{filters: [], config: {}}"]
    {
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
    assert!(
        Migration::read(Path::new(FILE), envoy, None, None, Path::new("/"))
            .unwrap()
            .json()
            .unwrap_err()
            .contains("no JSON form")
    );
    let own = Migration::read(Path::new(FILE), "filters: []", None, None, Path::new("/")).unwrap_err();
    assert!(own.to_string().contains("is in no other spelling"), "{own}");
}

#[test]
fn migrated_code_is_fetched_and_taken_out_by_hand() {
    let envoy = |code: &str| format!("name: my filter\nvm_config: {{code: {code}}}\n");
    let read = |text: &str| Migration::read(Path::new(FILE), text, None, None, Path::new("/etc/ts")).unwrap();
    let remote = envoy(&format!(
        "{{remote: {{http_uri: {{uri: 'https://x.test/m/a%20b.wasm'}}, sha256: {}}}}}",
        "0b".repeat(32)
    ));
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
        "config",
        "vm_config",
        "vmConfig",
        "code",
        "local",
        "filename",
        "inline_bytes",
        "remote",
        "http_uri",
        "uri",
        "sha256",
        "runtime",
        "ats.wasm.runtime.wamr",
        "envoy.wasm.runtime.v8",
        "configuration",
        "@type",
        "value",
        "kind",
        "WasmPlugin",
        "apiVersion",
        "spec",
        "url",
        "pluginConfig",
        "failStrategy",
        "vmConfig",
        "env",
        "name",
        "valueFrom",
        "HOST",
        "priority",
        "phase",
        "http_filters",
        "typed_config",
        "type_url",
        "static_resources",
        "listeners",
        "filter_chains",
        "filters",
        "bootstrap_extensions",
        "environment_variables",
        "host_env_keys",
        "key_values",
        "fail_open",
        "failure_policy",
        "reload_config",
        "backoff",
        "base_interval",
        "1s",
        "capability_restriction_config",
        "allowed_capabilities",
        "items",
        "metadata",
        "singleton",
        "disabled",
        "config_discovery",
        "google.protobuf.Struct",
        "google.protobuf.BytesValue",
        "x/envoy.extensions.filters.http.wasm.v3.Wasm",
        "x/envoy.extensions.wasm.v3.WasmService",
        "x/udpa.type.v1.TypedStruct",
        "x/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "\u{fc}\u{0}",
        "a=b",
        "",
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
            Ok(file) => {
                prop_assert!(file.filters.len() + file.services.len() > 0);
                prop_assert!(file.filters.iter().all(|spec| !spec.name.is_empty()));
            }
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
