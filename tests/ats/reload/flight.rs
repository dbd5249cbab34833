//! Transactions that are under way when their rule's chain is swapped, and rules that go meanwhile.

use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Client, Origin};

use crate::support::{PATIENCE, file, message, reload, rules, stamp, version, watched};

fn pausing(version: &str) -> String {
    format!("filters:\n  - name: pause\n    module: {{guest:pause}}\n{}", stamp("a", "{guest:headers}", version))
}

/// Before and behind its pause, a transaction is the old chain's; others are the new one's meanwhile.
#[test]
fn transactions_in_flight_finish_on_the_old_chain() {
    let origin = Origin::start();
    let server = rules(&origin, &["one"]).file("one.yaml", &pausing("old")).manager().stats().start();
    assert_eq!(version(&server, "one"), "old");
    let begin = |at: &str| {
        let mut client = Client::connect(server.port()).timeout(PATIENCE);
        client.send_request("GET", "one.test", "/", &[("x-pause-ms", "6000"), ("x-pause-at", at)], b"");
        client
    };
    let mut held = [begin("request_headers"), begin("response_headers")];
    // The second one has reached the origin under the old chain.
    origin.wait_for_requests(2, PATIENCE);
    server.write_text("one.yaml", &pausing("new").replace("name: pause", "name: another"));
    reload(&server, "");
    assert_eq!(version(&server, "one"), "new");
    let counters = server.counters("the old chain, which is used", |counters| counters["chains_retired"] == 1);
    assert_eq!((counters["rules_created"], counters["rules_deleted"]), (1, 0));
    for client in &mut held {
        let response = client.read_response();
        assert_eq!(response.status, 200);
        assert_eq!(response.header("x-to-a").as_deref(), Some("old"));
        assert!(
            response.text().contains("x-at-a: old"),
            "the origin was asked under the old chain: {}",
            response.text()
        );
        let paused: u64 = response.header("x-paused-ms").and_then(|text| text.parse().ok()).unwrap_or_default();
        assert!(paused >= 5900 || response.header("x-paused-ms").as_deref() == Some("0"), "{paused}");
    }
    let counters = server.counters("the end of the old chain", |counters| {
        counters["chains_retired"] == 0
            && counters["streams_created"] == counters["streams_deleted"]
            && counters["roots_created"] - counters["roots_deleted"] == 4
    });
    assert_eq!((counters["vms_built"], counters["vms_dropped"], counters["traps"]), (4, 0, 0));
    assert_eq!(held[0].get("one.test", "/").header("x-to-a").as_deref(), Some("new"), "on the same connection");
}

/// A chain whose VMs nobody else uses gives them back with its last transaction.
#[test]
fn the_vms_of_a_chain_that_is_replaced_go_with_its_last_transaction() {
    let origin = Origin::start();
    let of = |vm_id: &str| file(vm_id) + &format!("    vm_id: {vm_id}\n");
    let server = rules(&origin, &["one"]).file("one.yaml", &of("v1")).manager().stats().start();
    let start = server.mappings();
    for n in 2..12 {
        server.write_text("one.yaml", &of(&format!("v{n}")));
        reload(&server, "");
        assert_eq!(version(&server, "one"), format!("v{n}"));
    }
    let counters = server.counters("two VMs", |counters| counters["vms_built"] == 22 && counters["vms_dropped"] == 20);
    assert_eq!((counters["chains_retired"], counters["roots_created"] - counters["roots_deleted"]), (0, 2));
    // ATS takes some of its own.
    let now = server.mappings();
    assert!(now < start + 60, "{start} mappings at first, {now} now");
}

/// ATS deletes a rule whose next chain is on its way: what is configured there takes its time, and fails.
#[test]
fn a_rule_that_is_deleted_while_its_chain_loads() {
    let origin = Origin::start();
    let server = rules(&origin, &["one", "two"])
        .file("one.yaml", &watched("1"))
        .file("two.yaml", &file("1"))
        .manager()
        .stats()
        .start();
    for round in 0..2 {
        assert_eq!([version(&server, "one"), version(&server, "two")], ["1", "1"]);
        let before = server.mark();
        let slow = "watch: true\nfilters:\n  - name: a\n    module: {guest:loop}\n    configuration: {at: on_configure}\n    \
                    limits: {configure_ms: 3000}\n";
        server.write_text("one.yaml", slow);
        thread::sleep(Duration::from_millis(400));
        // It is on its way: for three seconds of processor time, during which the rule serves.
        assert_eq!(version(&server, "one"), "1");
        server.rewrite_remap("map http://two.test/ http://{origin}/ @plugin=wasm_remap.so @pparam=two.yaml");
        server.reload().expect("a good configuration loads");
        server.wait_for_log_since(
            before,
            "the callback ran longer than its deadline (limits.configure_ms: 3000) in proxy_on_configure",
            PATIENCE,
        );
        assert_eq!(Client::connect(server.port()).get("one.test", "/").status, 404);
        server.counters("the end of the rule, and of what it had", |counters| {
            counters["rules_created"] - counters["rules_deleted"] == 1
                && counters["roots_created"] - counters["roots_deleted"] == 2
                && counters["rules_failing"] == 0
        });
        message(&server, "status", "status: 1 rules, 0 replaced chains");
        if round == 0 {
            server.write_text("one.yaml", &watched("1"));
            server.rewrite_remap(
                "map http://one.test/ http://{origin}/ @plugin=wasm_remap.so @pparam=one.yaml\n\
                 map http://two.test/ http://{origin}/ @plugin=wasm_remap.so @pparam=two.yaml",
            );
            server.reload().expect("a good configuration loads");
        }
    }
}
