//! Filter files of the C++ plugin, of Envoy and of Istio: they load unchanged, and a filter does the same whichever
//! spelling it is configured in.

use std::fs;

use wasm_remap_tests::{Builder, Client, Origin, Reply, Response, Rule, TrafficServer, artifacts};

/// One filter.
struct Filter {
    guest: &'static str,
    /// JSON, or nothing.
    configuration: &'static str,
    open: bool,
}

const SPELLINGS: [&str; 4] = ["ours", "cpp", "envoy", "istio"];

/// The file of a filter. What tells filters apart to the guest is the same in each; the namespaces differ, so that no VM
/// is shared.
fn spelled(spelling: &str, filter: &Filter) -> String {
    let Filter { guest, configuration, open } = filter;
    let vm_id = format!("{guest}-{open}-{spelling}");
    match spelling {
        "ours" => format!(
            "filters:\n  - name: shop\n    module: {{guest:{guest}}}\n    root_id: root\n    vm_id: {vm_id}\n    configuration: \
             '{configuration}'\n    environment: {{GREETING: hello}}\n    host_environment: [WASM_REMAP_SPELLING]\n    failure_policy: {}\n",
            if *open { "open" } else { "closed" }
        ),
        "cpp" => format!(
            "config:\n  name: shop\n  rootId: root\n  configuration: '{configuration}'\n{}  vmConfig:\n    vmId: {vm_id}\n    \
             runtime: ats.wasm.runtime.wamr\n    environment_variables: {{host_env_keys: [WASM_REMAP_SPELLING], key_values: \
             {{GREETING: hello}}}}\n    code: {{local: {{filename: {{guest:{guest}}}}}}}\n",
            if *open { "" } else { "  fail_open: false\n" }
        ),
        "envoy" => format!(
            "http_filters:\n- name: envoy.filters.http.wasm\n  typed_config:\n    '@type': \
             type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n    config:\n      name: shop\n      rootId: \
             root\n      configuration: {{'@type': type.googleapis.com/google.protobuf.StringValue, value: \
             '{configuration}'}}\n      failurePolicy: {}\n      vmConfig:\n        vmId: {vm_id}\n        runtime: \
             envoy.wasm.runtime.v8\n        environmentVariables: {{hostEnvKeys: [WASM_REMAP_SPELLING], keyValues: {{GREETING: hello}}}}\n        \
             code: {{local: {{filename: '{{guest:{guest}}}'}}}}\n- name: envoy.filters.http.router\n",
            if *open { "FAIL_OPEN" } else { "FAIL_CLOSED" }
        ),
        // No namespace: the name is the resource's alone. There is no vm_id either; the environment keeps the VMs apart.
        "istio" => format!(
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: shop}}\nspec:\n  url: \
             file://{{guest:{guest}}}\n  pluginName: root\n{}  failStrategy: {}\n  vmConfig:\n    env:\n    - {{name: GREETING, \
             value: hello}}\n    - {{name: WASM_REMAP_SPELLING, valueFrom: HOST}}\n",
            if configuration.is_empty() { String::new() } else { format!("  pluginConfig: {configuration}\n") },
            if *open { "FAIL_OPEN" } else { "FAIL_CLOSE" }
        ),
        other => panic!("no spelling {other}"),
    }
}

/// A rule for each spelling of each filter, `<spelling>-<name>.test`.
fn start(origin: &Origin, filters: &[(&str, Filter)]) -> TrafficServer {
    origin.route("/*", Reply::new(200).header("X-Secret", "s").header("X-Kept", "1").body("from the origin"));
    let mut builder: Builder =
        TrafficServer::builder().origin(origin).stats().threads(1).env("WASM_REMAP_SPELLING", "seen");
    for (name, filter) in filters {
        for spelling in SPELLINGS {
            let file = format!("{spelling}-{name}.yaml");
            builder = builder
                .rule(Rule::new(&format!("{spelling}-{name}.test"), "http://{origin}/").wasm([file.as_str()]))
                .file(&file, &spelled(spelling, filter));
        }
    }
    builder.start()
}

/// Status, reason, fields and body.
type Seen = (u16, String, Vec<(String, Vec<u8>)>, Vec<u8>);

/// All that a client sees, but for the clock, for names that VMs give themselves, and for whether the connection is kept:
/// an answer on the origin's side of the cache, where the C++ plugin's filters stand, closes it.
fn seen(response: &Response) -> Seen {
    let Response { status, reason, headers, body, .. } = response;
    let mut fields: Vec<_> = headers.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    fields.retain(|(name, _)| name != "date" && name != "connection" && !name.starts_with("x-vm-"));
    fields.sort();
    (*status, reason.clone(), fields, body.clone())
}

/// Sends one request to each spelling; what comes back is the same from all, and returned.
#[track_caller]
fn alike(server: &TrafficServer, name: &str, headers: &[(&str, &str)]) -> Response {
    let responses = SPELLINGS.map(|spelling| {
        let response =
            Client::connect(server.port()).request("GET", &format!("{spelling}-{name}.test"), "/x", headers, b"");
        (spelling, response)
    });
    let (_, first) = &responses[0];
    for (spelling, response) in &responses[1..] {
        assert_eq!(seen(response), seen(first), "{spelling} of {name}");
    }
    let [(_, first), ..] = responses;
    first
}

#[test]
fn a_filter_does_the_same_in_every_spelling() {
    let origin = Origin::start();
    let headers =
        r#"{"request": {"set": {"x-from": "shop"}}, "response": {"set": {"x-rule": "A"}, "remove": ["x-secret"]}}"#;
    let answer = r#"{"status": 403, "headers": [["x-why", "a"], ["x-why", "b"]], "body": "no"}"#;
    let filters = [
        ("headers", Filter { guest: "headers", configuration: headers, open: false }),
        ("answer", Filter { guest: "local-response", configuration: answer, open: false }),
        ("probe", Filter { guest: "probe", configuration: "", open: false }),
        ("closed", Filter { guest: "trap", configuration: "", open: false }),
        ("open", Filter { guest: "trap", configuration: "", open: true }),
    ];
    let server = start(&origin, &filters);
    let changed = alike(&server, "headers", &[]);
    assert_eq!((changed.status, changed.text().as_str()), (200, "from the origin"));
    assert_eq!(changed.header("x-rule").as_deref(), Some("A"));
    assert_eq!((changed.header("x-secret"), changed.header("x-kept").as_deref()), (None, Some("1")));
    assert_eq!(origin.last().header("x-from").as_deref(), Some("shop"));

    let before = origin.request_count();
    let answered = alike(&server, "answer", &[]);
    assert_eq!((answered.status, answered.text().as_str()), (403, "no"));
    assert_eq!(answered.headers.all("x-why"), ["a", "b"]);
    assert_eq!(origin.request_count(), before);

    let asked =
        alike(&server, "probe", &[("x-probe", "get_property plugin_name; get_property plugin_root_id; environ")]);
    let text = asked.text();
    for part in ["\"shop\"", "\"root\"", r#"["GREETING","hello"]"#, r#"["WASM_REMAP_SPELLING","seen"]"#] {
        assert!(text.replace(", ", ",").contains(part), "{part} is not in {text}");
    }

    for at in ["on_request_headers", "on_response_headers"] {
        let closed = alike(&server, "closed", &[("x-trap", at)]);
        assert_eq!((closed.status, closed.text().as_str()), (503, "Service Unavailable\n"), "{at}");
        let open = alike(&server, "open", &[("x-trap", at)]);
        assert_eq!((open.status, open.text().as_str()), (200, "from the origin"), "{at}");
    }
    assert_eq!(alike(&server, "closed", &[]).status, 200, "and they all go on");
    let traps = server.counters("traps", |counters| counters["traps"] >= 16);
    assert_eq!(traps["traps"], 16, "two callbacks, two policies, four spellings");
}

/// A sample, as it is but for the modules' paths.
fn sample(name: &str) -> String {
    fs::read_to_string(artifacts::repository(&format!("tests/ats/samples/{name}"))).expect("a readable sample")
}

#[test]
fn samples_load_as_they_are() {
    let origin = Origin::start();
    let mut builder = TrafficServer::builder().origin(&origin);
    let samples = [
        ("plain", "cpp/plain.yaml"),
        ("configured", "cpp/configured.yaml"),
        ("bootstrap", "envoy/bootstrap.yaml"),
        ("plugins", "istio/plugins.yaml"),
    ];
    for (name, path) in samples {
        let file = format!("filters/{name}.yaml");
        builder = builder
            .rule(Rule::new(&format!("{name}.test"), "http://{origin}/").wasm([file.as_str()]))
            .file(&file, &sample(path));
    }
    let server = builder.start();
    let mut client = Client::connect(server.port());
    let program = "get_property plugin_name; get_property plugin_root_id; get_property plugin_vm_id; context";
    for (name, parts) in [
        ("plain", ["\"test\"", "\"myproject\"", "\"test\""]),
        ("configured", ["\"rules\"", "\"test\"", "\"rules_vm_id\""]),
        ("bootstrap", ["\"test\"", "\"myproject\"", "\"test\""]),
    ] {
        let asked = client.request("GET", &format!("{name}.test"), "/", &[("x-probe", program)], b"").text();
        for part in parts {
            assert!(asked.contains(part), "{part} is not in {asked}");
        }
        let configured = asked.contains("programs");
        assert_eq!(configured, name == "configured", "{asked}");
    }
    let configured = client.get("configured.test", "/");
    let result = configured.header("x-probe-result").expect("the program of the configuration ran");
    assert!(result.contains("\"rules\""), "{result}");
    client.get("plugins.test", "/");
    assert_eq!(origin.last().headers.all("x-way"), ["first", "last"], "by priority, whatever their order in the file");

    // What is not taken over is said where the rules are loaded.
    let log = server.diags();
    for part in [
        "filters/bootstrap.yaml:60:3: static_resources: Envoy's clusters are not taken over",
        "filters/plugins.yaml:7:3: spec: 'selector' is ignored",
    ] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
}

#[test]
fn paths_of_the_cpp_plugin_begin_at_the_configuration_directory() {
    let origin = Origin::start();
    let module = fs::read(artifacts::guest("headers")).expect("a built guest");
    let server = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["filters/deep/a.yaml"]))
        .file(
            "filters/deep/a.yaml",
            "config:\n  configuration: '{\"response\": {\"set\": {\"x-rule\": \"A\"}}}'\n  vm_config:\n    code: {local: \
             {filename: wasm/mine.wasm}}\n",
        )
        .file_bytes("wasm/mine.wasm", module)
        .start();
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("a.test", "/").header("x-rule").as_deref(), Some("A"));
}

/// The C++ plugin sees responses when the origin sends them, and the cache keeps what its filters made of them.
#[test]
fn responses_are_seen_on_the_side_of_the_cache_where_the_cpp_plugin_sees_them() {
    let origin = Origin::start();
    origin.route("/*", Reply::new(200).header("Cache-Control", "max-age=600").body("cached"));
    let count = r#"{"response": {"add": {"x-seen": "1"}}}"#;
    let file = |spelling| spelled(spelling, &Filter { guest: "headers", configuration: count, open: false });
    let server = TrafficServer::builder()
        .origin(&origin)
        .cache(true)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["cpp.yaml"]))
        .rule(Rule::new("a.test", "http://{origin}/").path("/twice/").wasm(["cpp.yaml", "cpp.yaml"]))
        .file("cpp.yaml", &file("cpp"))
        .start();
    let mut client = Client::connect(server.port());
    for _ in 0..3 {
        assert_eq!(client.get("a.test", "/x").headers.all("x-seen"), ["1"]);
    }
    assert_eq!(origin.request_count(), 1, "the others were hits, and the cache has the field once");
}
