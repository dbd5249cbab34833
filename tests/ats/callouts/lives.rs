//! Calls that are under way while VMs and configurations come and go.

use std::time::Duration;

use wasm_remap_tests::{Client, Origin, Upstream, wait_until};

use crate::support::*;

/// More than a guest's memory holds: the guest that is told to send it traps.
const TRAP: &str = "call nowait method=POST body=3000000000";

#[test]
fn calls_of_a_vm_that_traps_are_cancelled() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let clusters = upstream(&upstream_server) + &cluster("h2", &upstream_server.address(), "protocol: http2");
    let of = |policy: &str| {
        let filter = format!("failure_policy: {policy}\nlimits: {{pause_ms: 60000}}");
        file(&clusters, &filter).replace("vm_id: callout", &format!("vm_id: {policy}"))
    };
    // One thread, so that all are in one VM.
    let builder = rule(builder(&origin).threads(1), "closed.test", &of("closed"));
    let server = rule(builder, "open.test", &of("open")).start();
    let program = |text: &str| [("x-callout", text.to_owned())];
    let (mut called, mut traps) = (0, 0);
    for (host, status) in [("closed.test", 503), ("open.test", 200)] {
        for name in ["upstream", "h2"] {
            let mut waiting = Client::connect(server.port()).timeout(PATIENCE);
            let text = program(&format!("call cluster={name} n=3 path=/hold timeout=60000"));
            waiting.send_request("GET", host, "/", &[(text[0].0, &text[0].1)], b"");
            called += 3;
            asked(&upstream_server, "/hold", called);
            let trapped = Client::connect(server.port()).request("GET", host, "/", &[("x-callout", TRAP)], b"");
            traps += 1;
            assert_eq!(trapped.status, status, "{host}: the one that trapped");
            let response = waiting.read_response();
            assert_eq!((response.status, reports(&response).len()), (status, 0), "{host}: the one that waited");
            wait_until(PATIENCE, "the ends of the calls", || (upstream_server.given_up() == called).then_some(()));
            // The next VM calls, and hears of its own calls alone.
            let text = program(&format!("call cluster={name} path=/status/200"));
            wait_until(PATIENCE, "a VM that was built anew", || {
                let response =
                    Client::connect(server.port()).request("GET", host, "/", &[(text[0].0, &text[0].1)], b"");
                let all = reports(&response);
                (response.status == 200 && all.len() == 1 && all[0].get("status") == "200").then_some(())
            });
        }
    }
    upstream_server.release(called);
    std::thread::sleep(Duration::from_millis(200));
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["streams_created"] == counters["streams_deleted"] && counters["callouts_failed"] >= called as i64
    });
    assert_eq!((counters["traps"], counters["panics"]), (traps, 0));
    assert_eq!(counters["callouts_failed"], called as i64);
    assert_eq!(server.diags().matches("nobody made call").count(), 0);
}

#[test]
fn transactions_that_wait_finish_under_their_configuration() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let text = |mark: &str| {
        file(&upstream(&upstream_server), "limits: {pause_ms: 120000}")
            + &format!(
                "  - name: mark\n    module: {{guest:headers}}\n    configuration: {{response: {{set: {{x-mark: {mark}}}}}}}\n"
            )
    };
    let server = rule(builder(&origin).manager(), "call.test", &text("old")).start();
    let mut waiting: Vec<Client> = (0..10).map(|_| Client::connect(server.port()).timeout(PATIENCE)).collect();
    for (index, client) in waiting.iter_mut().enumerate() {
        send(client, &format!("call n=2 path=/hold timeout=120000 header=x-index:{index}"));
    }
    asked(&upstream_server, "/hold", 20);
    // The filter that waits is another one afterwards, too: its limit changed.
    server.write_text("call.test.yaml", &text("new").replace("120000", "110000"));
    server.reload().expect("the new configuration loads");
    assert_eq!(ask(&server, "call path=/status/200").header("x-mark").as_deref(), Some("new"));
    assert_eq!(upstream_server.given_up(), 0);
    upstream_server.release(20);
    for mut client in waiting {
        let response = client.read_response();
        let all = reports(&response);
        assert_eq!((response.status, response.header("x-mark").as_deref()), (200, Some("old")));
        assert!(all.len() == 2 && all.iter().all(|report| report.get("status") == "200"), "{all:?}");
    }
    let counters = nothing_is_left(&server, 11);
    assert_eq!(counters["failures"], 0);
}

/// Equal clusters are one, whichever rules' files they stand in, also after a reload.
#[test]
fn rules_with_equal_clusters_share_connections() {
    let upstreams = [Upstream::start(), Upstream::start()];
    let origin = Origin::start();
    let clusters =
        cluster("upstream", &upstreams[0].address(), "") + &cluster("h2", &upstreams[1].address(), "protocol: http2");
    // Other VMs, other plugin contexts.
    let text = |vm: &str| file(&clusters, "").replace("vm_id: callout", &format!("vm_id: {vm}"));
    let mut builder = builder(&origin).manager();
    for host in ["one.test", "two.test", "call.test"] {
        builder = rule(builder, host, &text(host));
    }
    let server = builder.start();
    let all = || {
        for host in ["one.test", "two.test", "call.test"] {
            for name in ["upstream", "h2"] {
                let program = format!("call cluster={name} path=/status/200");
                let response =
                    Client::connect(server.port()).request("GET", host, "/", &[("x-callout", &program)], b"");
                assert_eq!(reports(&response)[0].get("status"), "200", "{host} {name}");
            }
        }
    };
    all();
    all();
    let connections = || upstreams.each_ref().map(|upstream| upstream.connections());
    assert_eq!(connections(), [1, 1]);
    server.write_text("two.test.yaml", &text("three"));
    server.reload().expect("the new configuration loads");
    all();
    assert_eq!(connections(), [1, 1]);
    assert_eq!(upstreams[0].requests(), 9);
}
