//! A panic of ours, forced inside each callback: it answers as its guard names, is told in the log and counted, and
//! the server lives. With a build of the plugin that panics on demand (`src/plugin/fault.rs`).

use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Connection, Origin, Reply, Response, Rule, TrafficServer, artifacts};

const PATIENCE: Duration = Duration::from_secs(10);

fn faulty(origin: &Origin) -> Builder {
    origin.route("/*", Reply::new(200).header("X-Origin", "yes").body("from the origin"));
    let filter = |guest: &str, policy: &str| {
        format!(
            "filters:\n  - name: {guest}\n    module: {{guest:{guest}}}\n    vm_id: {policy}\n    failure_policy: {policy}\n"
        )
    };
    TrafficServer::builder()
        .origin(origin)
        .plugin_build(artifacts::fault_plugin())
        .threads(1)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["closed.yaml"]))
        .rule(Rule::new("open.test", "http://{origin}/").wasm(["open.yaml"]))
        .rule(Rule::new("pause.test", "http://{origin}/").wasm(["pause.yaml"]))
        .rule(Rule::new("counter.test", "http://{origin}/").wasm(["counter.yaml"]))
        .rule(Rule::new("plain.test", "http://{origin}/"))
        .file("closed.yaml", &filter("trap", "closed"))
        .file("open.yaml", &filter("trap", "open"))
        .file("pause.yaml", &filter("pause", "closed"))
        .file("counter.yaml", &filter("counter", "closed"))
}

fn ask(client: &mut Client, host: &str, headers: &[(&str, &str)]) -> Response {
    client.request("GET", host, "/x", headers, b"")
}

fn is_fine(client: &mut Client, host: &str) {
    let response = ask(client, host, &[]);
    assert_eq!((response.status, response.text().as_str()), (200, "from the origin"), "{host}");
}

#[test]
fn a_panic_at_the_start_refuses_the_configuration() {
    for callback in ["TSRemapInit", "TSRemapNewInstance"] {
        let exit = faulty(&Origin::start()).env("WASM_REMAP_PANIC", callback).start_expecting_failure();
        assert!(exit.line(&format!("panic in {callback}")).contains(&format!("fault injected into {callback}")));
        assert!(exit.line("remap.config failed to load").contains("FATAL") && !exit.status.success());
        assert_eq!(exit.crash, None, "{callback}");
    }
}

#[test]
fn a_panic_in_a_transaction_is_an_error_answer() {
    let origin = Origin::start();
    let server = faulty(&origin).stats().start();

    // DoRemap: 503, as a filter that fails closed, for a filter may be what protects the origin.
    let mut client = Client::connect(server.port());
    for host in ["a.test", "open.test"] {
        let response = ask(&mut client, host, &[("x-panic", "TSRemapDoRemap")]);
        assert_eq!((response.status, response.text().as_str()), (503, "Service Unavailable\n"), "{host}");
        assert_eq!(client.connection(), Connection::Open);
        is_fine(&mut client, host);
    }
    assert_eq!(origin.request_count(), 2, "the two that did not panic");

    // POST_REMAP: the transaction ends there with an error.
    let before = origin.request_count();
    let mut client = Client::connect(server.port());
    let response = ask(&mut client, "pause.test", &[("x-panic", "POST_REMAP"), ("x-pause-ms", "10")]);
    assert_eq!(response.status, 500);
    assert!(client.wait_closed(PATIENCE));
    assert_eq!(origin.request_count(), before);

    // SEND_RESPONSE_HDR: nothing of a response that the chain has not seen to its end goes out.
    let mut client = Client::connect(server.port());
    let response = ask(&mut client, "a.test", &[("x-panic", "SEND_RESPONSE_HDR")]);
    assert_eq!((response.status, response.header("x-origin")), (500, None));
    assert!(!response.text().contains("from the origin"));
    is_fine(&mut Client::connect(server.port()), "a.test");

    // TXN_CLOSE: the client has its response already.
    let mut client = Client::connect(server.port());
    let response = ask(&mut client, "a.test", &[("x-panic", "TXN_CLOSE")]);
    assert_eq!((response.status, response.text().as_str()), (200, "from the origin"));
    is_fine(&mut Client::connect(server.port()), "a.test");

    for (callback, count) in [("TSRemapDoRemap", 2), ("wasm_remap transaction hook", 3)] {
        let lines = server.diags().lines().filter(|line| line.contains(&format!("panic in {callback}"))).count();
        assert_eq!(lines, count, "{callback}");
    }
    // Nothing is left behind by any of them.
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["panics"] >= 5 && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!((counters["panics"], counters["transactions"], counters["traps"]), (5, 9, 0));
    assert_eq!(counters["streams_created"], 7, "all but those that never came to their filter");
    is_fine(&mut Client::connect(server.port()), "plain.test");
}

/// The contexts of a transaction end while it is still there, whichever hook panicked.
#[test]
fn the_contexts_of_a_panicked_transaction_end_in_order() {
    let origin = Origin::start();
    let server = faulty(&origin).start();
    for (callback, seen) in [
        ("TRANSFORM", &["create", "request-headers", "done", "log", "delete"][..]),
        (
            "SEND_RESPONSE_HDR",
            &["create", "request-headers", "response-headers", "response-body", "done", "log", "delete"],
        ),
        ("TXN_CLOSE", &["create", "request-headers", "response-headers", "response-body", "done", "log", "delete"]),
    ] {
        let mark = server.mark();
        ask(&mut Client::connect(server.port()), "counter.test", &[("x-panic", callback)]);
        server.wait_for_log_since(mark, "lifecycle delete", PATIENCE);
        let lines = server.lines_since(mark);
        let events: Vec<&str> =
            lines.iter().filter_map(|line| line.split_once("lifecycle ")?.1.split(' ').next()).collect();
        assert_eq!(events, seen, "{callback}");
    }
}

/// In a hostcall, a panic of ours is a trap of the filter's: its policy answers, and its VM is built anew.
#[test]
fn a_panic_in_a_hostcall_is_a_trap() {
    let origin = Origin::start();
    let server = faulty(&origin).stats().start();
    let mut client = Client::connect(server.port());
    let name = |client: &mut Client, host: &str| ask(client, host, &[]).header("x-vm-name").expect("the VM's name");
    for (host, status) in [("a.test", 503), ("open.test", 200)] {
        let before = name(&mut client, host);
        assert_eq!(name(&mut client, host), before);
        let response = ask(&mut client, host, &[("x-panic", "hostcall")]);
        assert_eq!((response.status, response.header("x-vm-name")), (status, None), "{host}");
        assert_ne!(name(&mut client, host), before, "{host}");
        assert_eq!(client.connection(), Connection::Open);
    }
    server.wait_for_log("the host panicked in a hostcall: fault injected into hostcall", PATIENCE);
    let counters = server.counters("the traps", |counters| {
        counters["traps"] >= 2 && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!((counters["traps"], counters["panics"], counters["streams_created"]), (2, 0, 8));
}

#[test]
fn panics_around_a_reload_do_not_stop_it() {
    let origin = Origin::start();
    let callbacks = ["TSRemapPreConfigReload", "TSRemapPostConfigReload", "TSRemapDeleteInstance"];
    let server = faulty(&origin).env("WASM_REMAP_PANIC", &callbacks.join(",")).manager().start();
    is_fine(&mut Client::connect(server.port()), "a.test");
    let mark = server.mark();
    server.reload().expect("the new configuration loads");
    for callback in callbacks {
        let line = server.wait_for_log_since(mark, &format!("panic in {callback}"), PATIENCE);
        assert!(line.contains(&format!("fault injected into {callback}")), "{line}");
    }
    is_fine(&mut Client::connect(server.port()), "a.test");
}

/// A panic of the thread that swaps chains costs what it was about to do.
#[test]
fn a_panic_while_chains_are_swapped_leaves_the_old_one() {
    let origin = Origin::start();
    let server = faulty(&origin).env("WASM_REMAP_PANIC", "wasm-reload").manager().start();
    for _ in 0..2 {
        let mark = server.mark();
        server.traffic_ctl(&["plugin", "msg", "wasm_remap", "reload"]);
        server.wait_for_log_since(mark, "panic in wasm-reload", PATIENCE);
        is_fine(&mut Client::connect(server.port()), "a.test");
    }
    server.reload().expect("the other way is open");
    is_fine(&mut Client::connect(server.port()), "a.test");
}

/// An upgrade in place to a version that panics as it starts is refused, and the old one goes on serving.
#[test]
fn a_new_version_that_panics_is_refused() {
    let origin = Origin::start();
    for callback in ["TSRemapInit", "TSRemapNewInstance"] {
        let builder = faulty(&origin).plugin_build(artifacts::plugin()).env("WASM_REMAP_PANIC", callback);
        let mut server = builder.manager().start();
        is_fine(&mut Client::connect(server.port()), "a.test");
        server.replace_plugin(artifacts::fault_plugin());
        let lines = server.reload().expect_err("the new version is refused");
        assert!(lines.iter().any(|line| line.contains(&format!("panic in {callback}"))), "{lines:#?}");
        is_fine(&mut Client::connect(server.port()), "a.test");
        server.replace_plugin(artifacts::plugin());
        server.reload().expect("the old version loads again");
        is_fine(&mut Client::connect(server.port()), "a.test");
    }
}
