//! Configurations that are wrong are refused with one line that says where and why; at a reload, the old one goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Origin, Rule, TrafficServer};

const PATIENCE: Duration = Duration::from_secs(20);

/// A file that is wrong, or what it names.
struct Mistake {
    /// The contents of `shop.yaml`; none for a file that is missing.
    yaml: Option<&'static str>,
    /// What the line says behind the rule; `{file}` is the path of the file, `{etc}` its directory.
    says: &'static str,
}

const fn mistake(yaml: &'static str, says: &'static str) -> Mistake {
    Mistake { yaml: Some(yaml), says }
}

const MISTAKES: &[Mistake] = &[
    mistake(
        "filters:\n  - name: headers\n    modul: {guest:headers}\n",
        "{file}:3:5: filters[0]: unknown key 'modul' in \"»modul«: ",
    ),
    mistake(
        "filters:\n  - name: [headers]\n    module: {guest:headers}\n",
        "{file}:2:11: filters[0].name: text is expected, not a list in \"- name: »[headers]«\"",
    ),
    mistake(
        "filters:\n  - name: headers\n    module: {guest:headers}\n    limits: {callback_ms: soon}\n",
        "{file}:4:27: filters[0].limits.callback_ms: a whole number from 1 to 4294967295 is expected, not the text 'soon'",
    ),
    mistake("filters:\n  - name: headers\n  module: x\n", "{file}:3:3: not YAML: the line fits nothing before it"),
    mistake("filters:\n  - name: headers\n", "{file}:2:5: filters[0]: the key 'module' is missing"),
    mistake("filters: []\n", "{file}:1:10: filters: the list is empty: name at least one filter, or drop the key"),
    mistake(
        "",
        "{file}:1:1: has neither 'filters' nor 'services', 'clusters', 'namespaces', 'metrics' or 'code_cache'",
    ),
    mistake(
        "clusters: {a: {endpoints: ['a.test:80']}}\n",
        "no filter: none of its files has 'filters' or 'services' (",
    ),
    Mistake { yaml: None, says: "{file}: cannot be read: No such file or directory" },
    mistake(
        "filters:\n  - name: gone\n    module: gone.wasm\n",
        "{file}: filter 'gone': module {etc}/gone.wasm cannot be read: No such file or directory",
    ),
    mistake(
        "filters:\n  - name: text\n    module: shop.yaml\n",
        "{file}: filter 'text': module {etc}/shop.yaml: not a WebAssembly module: ",
    ),
    mistake("filters:\n  - name: empty\n    module: empty.wasm\n", "{file}: filter 'empty': module {etc}/empty.wasm: "),
    mistake("filters:\n  - name: cut\n    module: cut.wasm\n", "{file}: filter 'cut': module {etc}/cut.wasm: "),
    mistake(
        "filters:\n  - name: no\n    module: {guest:configure-false}\n",
        "proxy_on_configure returned false: the module refuses its configuration",
    ),
    mistake(
        "filters:\n  - name: no\n    module: {guest:configure-false}\n    vm_configuration: {accept: false}\n",
        "proxy_on_vm_start returned false: the module refuses to run",
    ),
    mistake(
        "filters:\n  - name: traps\n    module: {guest:trap}\n    configuration: {at: on_configure}\n",
        "proxy_on_configure",
    ),
    mistake(
        "filters:\n  - name: loops\n    module: {guest:loop}\n    configuration: {at: on_configure}\n    limits: {configure_ms: 100}\n",
        "the callback ran longer than its deadline (limits.configure_ms: 100) in proxy_on_configure",
    ),
    mistake(
        "clusters:\n  auth:\n    endpoints: [auth.test]\n",
        "{file}:3:17: clusters.auth.endpoints[0]: 'auth.test' is no address: host:port is expected",
    ),
    mistake(
        "clusters:\n  auth:\n    endpoints: ['*.test:80']\n",
        "{file}:3:17: clusters.auth.endpoints[0]: '*.test:80' is a pattern: an endpoint is one host and one port",
    ),
    mistake(
        "clusters: {auth: {endpoints: []}}\n",
        "{file}:1:30: clusters.auth.endpoints: name at least one, as host:port",
    ),
    mistake(
        "clusters:\n  auth:\n    endpoints: ['a.test:80']\n    protocol: http3\n",
        "{file}:4:15: clusters.auth.protocol: 'http1' or 'http2' is expected, not 'http3' in \"protocol: »http3«\"; did you mean 'http1'?",
    ),
    mistake(
        "filters:\n  - {name: h, module: '{guest:headers}'}\nclusters: {auth: {endpoints: ['a.test:80'], tls: {ca_file: ca.pem}}}\n",
        "{file}: filter 'h': cluster 'auth': ",
    ),
    mistake("namespaces: [{vm_id: a, queue_items: 0}]\n", "{file}:1:38: namespaces[0].queue_items: must be at least 1"),
    mistake(
        "services:\n  - name: counts\n    module: {guest:service}\n    root_id: service\n    configuration: {refuse: true}\n",
        "{file}: service 'counts': module {wasm}/service.wasm: proxy_on_configure returned false",
    ),
    mistake(
        "services:\n  - {name: s, module: x, request_body: buffer}\n",
        "{file}:2:26: services[0].request_body: a service has no transactions, so no 'request_body'",
    ),
    // The first filter is fine.
    mistake(
        "filters:\n  - name: headers\n    module: {guest:headers}\n  - name: headers\n    module: {guest:headers}\n    configuration: {requests: {}}\n",
        "{file}: filter 'headers': module {wasm}/headers.wasm: proxy_on_configure returned false",
    ),
];

/// What is said of every configuration that is refused while another one serves.
const REFUSED: &str = "the new configuration was refused; the old one goes on serving";

const GOOD: &str =
    "filters:\n  - name: headers\n    module: {guest:headers}\n    configuration: {response: {set: {x-rule: NAME}}}\n";

fn good(name: &str) -> String {
    GOOD.replace("NAME", name)
}

fn with(origin: &Origin, yaml: Option<&str>) -> Builder {
    let builder = TrafficServer::builder()
        .origin(origin)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["filters/shop.yaml"]))
        .file("filters/cut.wasm", "\0asm")
        .file("filters/empty.wasm", "");
    match yaml {
        Some(yaml) => builder.file("filters/shop.yaml", yaml),
        None => builder,
    }
}

/// What the one line says that tells what is wrong, behind the rule. ATS writes it, and names the line of remap.config.
fn complaint<'l>(lines: impl Iterator<Item = &'l str>, at: usize, rule: &str) -> String {
    // Without the words of the filter itself, whose name stands in brackets.
    let of_plugin = |line: &str| line.contains("[wasm_remap] ") && !line.contains("[wasm_remap] [");
    let bad = |line: &str| line.contains("ERROR: ") || line.contains("WARNING: ");
    let ours: Vec<&str> = lines
        .filter(|line| line.contains("failed to create instance") || (of_plugin(line) && bad(line)))
        // A trap has its call stack on a line of its own.
        .filter(|line| !line.contains(REFUSED) && !line.contains(" does not start: "))
        .collect();
    assert_eq!(ours.len(), 1, "{ours:#?}");
    let place =
        format!("/etc/remap.config line {at}: failed to create instance for plugin wasm_remap.so: rule {rule}: ");
    let text = ours[0].split_once(&place);
    text.unwrap_or_else(|| panic!("{} does not name {place}", ours[0])).1.to_owned()
}

#[test]
fn a_mistake_stops_the_start_with_one_line() {
    let origin = Origin::start();
    let rule = format!("http://a.test/ -> http://{}/", origin.address());
    for mistake in MISTAKES {
        let exit = with(&origin, mistake.yaml).start_expecting_failure();
        let text = complaint(exit.diags.lines(), 1, &rule);
        assert!(!exit.diags.contains(REFUSED), "there is no old one");
        // Its directory is gone, and with it the means to expand the names.
        let etc = text.split_once("/filters/").map_or("", |(etc, _)| etc.rsplit(' ').next().unwrap_or_default());
        let root = etc.strip_suffix("/etc").unwrap_or_default();
        let says = mistake
            .says
            .replace("{file}", &format!("{etc}/filters/shop.yaml"))
            .replace("{etc}", &format!("{etc}/filters"))
            .replace("{wasm}", &format!("{root}/wasm"));
        assert!(text.contains(&says), "for {:?}\n  got {text}\n  not {says}", mistake.yaml);
        if mistake.says.starts_with("{file}") {
            assert!(text.starts_with(&says), "for {:?}\n  got {text}\n  not {says}", mistake.yaml);
        }
        assert!(text.len() < 500 && !text.contains("\\n"), "one readable line: {text}");
        exit.line("remap.config failed to load");
        assert!(!exit.status.success() && exit.crash.is_none(), "{:?}", exit.crash);
    }
    println!("{} mistakes, each refused with one line", MISTAKES.len());
}

#[test]
fn parameters_of_the_rule_that_are_wrong_stop_the_start() {
    let origin = Origin::start();
    let target = format!("http://{}/", origin.address());
    let rule = format!("http://a.test/ -> {target}");
    for (params, says) in [
        ("", "no filter file: add @pparam=FILE.yaml"),
        ("@pparam=--help", "@pparam=--help: there are no options; a path to a filter file is expected"),
        ("@pparam=filters", "/etc/filters: cannot be read: Is a directory"),
        ("@pparam=/nowhere/shop.yaml", "/nowhere/shop.yaml: cannot be read: No such file or directory"),
    ] {
        let exit = TrafficServer::builder()
            .remap(&format!("map http://a.test/ {target} @plugin=wasm_remap.so {params}"))
            .file("filters/other.yaml", "")
            .start_expecting_failure();
        let text = complaint(exit.diags.lines(), 1, &rule);
        assert!(text.contains(says), "{params}: {text}");
        assert_eq!(exit.crash, None);
    }
}

/// Two files of one rule that say different things of a cluster; what they say alike is one.
#[test]
fn a_cluster_that_two_files_describe_differently_stops_the_start() {
    let origin = Origin::start();
    let target = format!("http://{}/", origin.address());
    let cluster = |port: u16| format!("clusters: {{auth: {{endpoints: ['127.0.0.1:{port}']}}}}\n");
    let server = |second: u16| {
        let rule = format!("map http://a.test/ {target} @plugin=wasm_remap.so @pparam=shop.yaml");
        TrafficServer::builder()
            .remap(&format!("{rule} @pparam=one.yaml @pparam=two.yaml"))
            .file("shop.yaml", &good("a"))
            .file("one.yaml", &cluster(9000))
            .file("two.yaml", &cluster(second))
    };
    let exit = server(9001).start_expecting_failure();
    let text = complaint(exit.diags.lines(), 1, &format!("http://a.test/ -> {target}"));
    let says = "/etc/two.yaml:1:12: clusters.auth: the cluster is described in two files of the rule, and not alike";
    assert!(text.contains(says), "{text}");
    let server = server(9000).start();
    assert_eq!(Client::connect(server.port()).get("a.test", "/").header("x-rule").as_deref(), Some("a"));
}

/// One server, and one bad configuration after another: each is refused, counted, and changes nothing.
#[test]
fn a_mistake_at_a_reload_leaves_the_old_rules_serving() {
    let origin = Origin::start();
    let server = with(&origin, Some(&good("first"))).manager().stats().start();
    let served_by = || Client::connect(server.port()).get("a.test", "/").header("x-rule");
    assert_eq!(served_by().as_deref(), Some("first"));
    let before = server.counters("the first rules", |counters| counters["rules_created"] >= 1);
    let rule = format!("http://a.test/ -> http://{}/", origin.address());

    // One of each class: a reload takes seconds.
    let classes = [0, 9, 10, 13];
    for (done, mistake) in classes.into_iter().map(|at| &MISTAKES[at]).enumerate() {
        server.write_text("filters/shop.yaml", mistake.yaml.expect("these have a file"));
        let lines = server.reload().expect_err("a wrong file is refused");
        assert!(lines.iter().any(|line| line.contains(REFUSED)), "{lines:#?}");
        let text = complaint(lines.iter().map(String::as_str), 1, &rule);
        let (file, etc) = (server.expand("{etc}/filters/shop.yaml"), server.expand("{etc}/filters"));
        let says = mistake.says.replace("{file}", &file).replace("{etc}", &etc);
        assert!(text.contains(&says), "{text}");
        assert_eq!(served_by().as_deref(), Some("first"), "after {says}");
        let refused = done as i64 + 1;
        let counters = server.counters("the refusal", |counters| counters["reloads_refused"] >= refused);
        assert_eq!(counters["reloads_refused"], refused);
        assert_eq!(counters["rules_created"] - counters["rules_deleted"], 1);
    }
    // A wrong rule takes a good one down with it, and leaves nothing of it behind.
    server.write_text("filters/shop.yaml", &good("second"));
    server.rewrite_remap(
        "map http://a.test/ http://{origin}/ @plugin=wasm_remap.so @pparam=filters/shop.yaml\n\
         map http://b.test/ http://{origin}/ @plugin=wasm_remap.so @pparam=filters/none.yaml",
    );
    server.reload().expect_err("a wrong rule is refused");
    assert_eq!(served_by().as_deref(), Some("first"));
    assert_eq!(Client::connect(server.port()).get("b.test", "/").status, 404);
    let counters = server.counters("the end of the good rule of the bad configuration", |counters| {
        counters["reloads_refused"] >= 5 && counters["rules_created"] - counters["rules_deleted"] == 1
    });
    assert_eq!(counters["rules_created"], before["rules_created"] + 1);

    // And when it is put right, it counts.
    server.write_text("filters/none.yaml", &good("third"));
    server.reload().expect("a good configuration loads");
    assert_eq!(served_by().as_deref(), Some("second"));
    assert_eq!(Client::connect(server.port()).get("b.test", "/").header("x-rule").as_deref(), Some("third"));
    let counters = server.counters("the end of the first rule", |counters| {
        counters["rules_created"] - counters["rules_deleted"] == 2
            && counters["roots_created"] - counters["roots_deleted"] == 4
            && counters["vms_built"] - counters["vms_dropped"] == 2
    });
    assert_eq!((counters["reloads_refused"], counters["panics"]), (5, 0));
}

/// A transaction keeps the configuration that it began under, and that one lives until its last transaction ends.
#[test]
fn a_transaction_finishes_under_the_configuration_it_began_with() {
    let origin = Origin::start();
    let hold = origin.hold("/held");
    let server = with(&origin, Some(&good("old"))).manager().stats().start();
    let mut held = Client::connect(server.port()).timeout(Duration::from_secs(60));
    held.send_request("GET", "a.test", "/held", &[], b"");
    origin.wait_for_requests(1, PATIENCE);

    server.write_text("filters/shop.yaml", &good("new"));
    server.reload().expect("a good configuration loads");
    let mut fresh = Client::connect(server.port());
    assert_eq!(fresh.get("a.test", "/").header("x-rule").as_deref(), Some("new"));
    // Long enough for the counters to be exported: the old rule is still there.
    let counters = server.counters("the new rule", |counters| counters["transactions"] >= 2);
    assert_eq!((counters["rules_created"], counters["rules_deleted"]), (2, 0));

    hold.open();
    assert_eq!(held.read_response().header("x-rule").as_deref(), Some("old"));
    let counters = server.counters("the end of the old rule", |counters| {
        counters["rules_deleted"] >= 1 && counters["roots_created"] - counters["roots_deleted"] == 2
    });
    assert_eq!((counters["rules_created"], counters["rules_deleted"]), (2, 1));
    assert_eq!((counters["vms_built"], counters["vms_dropped"]), (2, 0), "one module, the VMs of both");
    assert_eq!(held.get("a.test", "/").header("x-rule").as_deref(), Some("new"), "on the same connection");
}

/// Reloads under load: no request fails, none is without its filter, and everything that was loaded is unloaded.
#[test]
fn reloads_under_load_lose_nothing() {
    let origin = Origin::start();
    origin.discard();
    let server = with(&origin, Some(&good("n-0"))).manager().stats().start();
    let stop = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(server.port());
                    let mut served = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let response = client.get("a.test", "/");
                        assert_eq!(response.status, 200);
                        let rule = response.header("x-rule").expect("every response passes the filter");
                        assert!(rule.starts_with("n-"), "{rule}");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for n in 1..=4 {
            // Another configuration, and every other time another VM.
            let vm_id = n / 2;
            server.write_text("filters/shop.yaml", &format!("{}    vm_id: v{vm_id}\n", good(&format!("n-{n}"))));
            server.reload().expect("a good configuration loads");
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("no request failed")).sum::<i64>()
    });
    assert_eq!(Client::connect(server.port()).get("a.test", "/").header("x-rule").as_deref(), Some("n-4"));
    let counters = server.counters("one rule, and what belongs to it", |counters| {
        counters["transactions"] > served
            && counters["rules_created"] - counters["rules_deleted"] == 1
            && counters["roots_created"] - counters["roots_deleted"] == 2
            && counters["vms_built"] - counters["vms_dropped"] == 2
    });
    assert_eq!((counters["rules_created"], counters["traps"], counters["panics"]), (5, 0, 0));
    println!("{served} requests during 4 reloads");
}
