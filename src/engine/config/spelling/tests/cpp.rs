//! Files of the C++ plugin.

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
    let load = |config_dir| {
        crate::config::load_with(&path, &crate::config::Variables::default(), config_dir).unwrap().filters.remove(0)
    };
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
        (
            "  capability_restriction_config: {allowed_capabilities: {proxy_log: {}}}\n",
            "2:57",
            "reads it only if it is a list",
        ),
        ("  capability_restriction_config: [proxy_log]\n", "2:34", "reads it only if it is a mapping"),
        (
            "  capability_restriction_config: {allowed_capabilities: [proxy_log, proxy_lag]}\n",
            "2:69",
            "the nearest name is 'proxy_log'",
        ),
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
    refused(&name, &format!("{FILE}:2:9: config.name: name: must be printable"));
    let variable = "config:\n  vm_config:\n    environment_variables:\n      key_values: {\"a=b\": c}\n    code: {local: {filename: a}}\n";
    refused(
        variable,
        &format!(
            "{FILE}:4:19: config.vm_config.environment_variables.key_values: environment.a=b: a name is not empty"
        ),
    );
}
