//! Files of Istio.

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
    for (text, expected) in
        [("file://a.wasm", "/etc/ts/a.wasm"), ("./x/a", "/etc/ts/./x/a"), ("m/a.wasm", "/etc/ts/m/a.wasm")]
    {
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
    for key in ["selector", "targetRef", "targetRefs", "match", "imagePullPolicy", "imagePullSecret", "verificationKey"]
    {
        let found = warnings(&plugin("a", &format!("  {key}: x\n")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("{FILE}:9:3: spec: '{key}' is ignored")), "{found:?}");
    }
}

#[test]
fn mistakes_have_their_place() {
    for (text, expected) in [
        ("apiVersion: v1\nkind: List\nitems: []\n".to_owned(), ":1:1: there is no WasmPlugin in it"),
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
