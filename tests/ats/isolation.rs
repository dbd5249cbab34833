//! `isolation`: whose memory a transaction meets, on a real traffic_server.

use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Origin, Reply, Rule, TrafficServer};

fn file(name: &str, guest: &str, isolation: &str, more: &str) -> String {
    format!("filters:\n  - name: {name}\n    module: {{guest:{guest}}}\n    isolation: {isolation}\n{more}")
}

/// A server with this file for its rule `a.test`.
fn builder(origin: &Origin, file: &str) -> Builder {
    let rule = Rule::new("a.test", "http://{origin}/").wasm(["a.yaml"]);
    TrafficServer::builder().origin(origin).stats().rule(rule).file("a.yaml", file)
}

/// Runs `each` for so many requests of several clients at once.
fn clients(server: &TrafficServer, each: impl Fn(&mut Client, usize) + Sync) {
    thread::scope(|scope| {
        for worker in 0..6 {
            let each = &each;
            let port = server.port();
            scope.spawn(move || {
                let mut client = Client::connect(port);
                (0..40).for_each(|turn| each(&mut client, worker * 40 + turn));
            });
        }
    });
}

/// Every context that was made is gone, and no VM is left but those in stock: at most eight a thread and filter.
fn nothing_is_left(server: &TrafficServer, filters: i64) {
    let counters = server.counters("every stream ends", |counters| {
        let streams = counters["streams_created"] >= 240 && counters["streams_created"] == counters["streams_deleted"];
        streams && counters["vms_built"] - counters["vms_dropped"] <= 8 * 2 * filters
    });
    let left = counters["vms_built"] - counters["vms_dropped"];
    assert_eq!(left, counters["roots_created"] - counters["roots_deleted"], "{counters:#?}");
    assert!(counters["vms_built"] >= 240, "{counters:#?}");
}

#[test]
fn each_transaction_has_a_vm_that_did_nothing_before() {
    let origin = Origin::start();
    origin.discard();
    let counts = file("counts", "counter", "transaction", "    limits: {log_lines_per_second: 100000}\n");
    let server = builder(&origin, &counts).start();
    clients(&server, |client, _| assert_eq!(client.get("a.test", "/").status, 200));
    nothing_is_left(&server, 1);
    let diags = server.diags();
    let ids = |event: &str| -> Vec<u32> {
        let mark = format!("lifecycle {event} ");
        let number = |rest: &str| rest.split(" | ").next()?.trim().parse().ok();
        let lines = diags.lines().filter_map(|line| number(line.split_once(&mark)?.1));
        lines.collect()
    };
    let (roots, streams) = (ids("create-root"), ids("create"));
    assert_eq!(streams.len(), 240);
    // Numbers count up in a VM, where some are left out: the first context of each is the plugin's, the next the one stream that
    // it ever has, which has one number in all of them.
    assert!(roots.len() >= 240 && roots.iter().all(|&id| id == 1), "{roots:?}");
    assert!(streams.iter().all(|&id| id == streams[0] && id > 1), "{streams:?}");
    assert_eq!(ids("delete").len(), 240);
    assert!(ids("delete-root").len() >= 240, "the plugin context is told of its end, too");
}

#[test]
fn pauses_ticks_and_calls_work_in_a_vm_of_a_transaction() {
    let origin = Origin::start();
    origin.route("/x", Reply::new(200).body("hi"));
    origin.route("/called", Reply::new(207).body("answer"));
    let clusters = "clusters:\n  upstream: {endpoints: [\"{origin}\"]}\n";
    let server = TrafficServer::builder()
        .origin(&origin)
        .stats()
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["pause.yaml", "callout.yaml"]))
        .file("pause.yaml", &file("pause", "pause", "transaction", "    configuration: {tick_ms: 1}\n"))
        .file("callout.yaml", &format!("{}{clusters}", file("callout", "callout", "transaction", "    body: none\n")))
        .start();
    clients(&server, |client, turn| {
        let wait = (turn % 5).to_string();
        let headers = [("x-pause-ms", wait.as_str()), ("x-callout", "call path=/called")];
        let response = client.request("GET", "a.test", "/x", &headers, b"");
        assert_eq!((response.status, response.body.as_slice()), (200, &b"hi"[..]), "{turn}");
        let result = response.header("x-callout-result").unwrap_or_default();
        assert!(result.contains("status=207") && result.contains("call=0 "), "its own first call: {result}");
    });
    nothing_is_left(&server, 2);
    assert!(server.counters("ticks", |counters| counters["ticks"] > 0)["traps"] == 0);
}

#[test]
fn a_trap_is_one_transactions_alone() {
    let origin = Origin::start();
    origin.discard();
    let server = builder(&origin, &file("traps", "trap", "transaction", "    body: none\n"))
        .rule(Rule::new("b.test", "http://{origin}/").wasm(["b.yaml"]))
        .file("b.yaml", &file("pause", "pause", "transaction", "    configuration: {tick_ms: 1}\n    body: none\n"))
        .start();
    clients(&server, |client, turn| {
        let held = client.request("GET", "b.test", "/", &[("x-pause-ms", "5")], b"");
        assert_eq!(held.status, 200, "{turn}");
        let (headers, status): (&[_], _) =
            if turn % 2 == 0 { (&[("x-trap", "on_request_headers")], 503) } else { (&[], 200) };
        let response = client.request("GET", "a.test", "/", headers, b"");
        assert_eq!(response.status, status, "{turn}");
        let count = response.header("x-vm-count");
        assert_eq!(count.as_deref(), Some("1").filter(|_| status == 200), "the first request that its VM sees");
    });
    nothing_is_left(&server, 2);
    let counters = server.counters("the traps", |counters| counters["traps"] >= 120);
    assert_eq!((counters["traps"], counters["failures"]), (120, 120));
    // It leaves no trace on what comes next.
    server.wait_for_log("failure_policy closed", Duration::from_secs(5));
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("a.test", "/").status, 200);
}

#[test]
fn rules_have_vms_of_their_own_where_their_filters_say_so() {
    let origin = Origin::start();
    let set = "    configuration: {response: {set: {x-rule: a}}}\n";
    let rule = |host: &str, name: &str| Rule::new(host, "http://{origin}/").wasm([name]);
    let server = TrafficServer::builder()
        .origin(&origin)
        .stats()
        .rule(rule("a.test", "own.yaml"))
        .rule(rule("b.test", "own.yaml"))
        .rule(rule("c.test", "shared.yaml"))
        .rule(rule("d.test", "shared.yaml"))
        .file("own.yaml", &file("headers", "headers", "rule", set))
        .file("shared.yaml", &file("headers", "headers", "shared", set))
        .start();
    let counters = server.counters("the first export", |counters| counters["vms"] > 0);
    assert_eq!((counters["vms_built"], counters["roots_created"]), (6, 6), "three VM keys on two threads");
    let mut client = Client::connect(server.port());
    for host in ["a.test", "b.test", "c.test", "d.test"] {
        assert_eq!(client.get(host, "/").status, 200);
    }
}
