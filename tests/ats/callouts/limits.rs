//! Calls that are refused, and pauses that are shorter than calls.

use std::time::{Duration, Instant};

use wasm_remap_tests::{Client, Origin, Upstream};

use crate::support::*;

#[test]
fn whom_a_filter_may_not_call_it_does_not() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let address = upstream_server.address();
    let clusters = upstream(&upstream_server);
    let mut builder = builder(&origin);
    for (host, filter) in [
        ("none.test", String::new()),
        ("this.test", format!("callout_hosts: [\"{address}\"]")),
        ("port.test", "callout_hosts: [\"127.0.0.1:1\"]".to_owned()),
        ("every.test", "callout_hosts: [\"127.0.0.1:*\", \"*.example.com:443\"]".to_owned()),
    ] {
        // VMs of their own, so that each complains for itself.
        builder = rule(builder, host, &file(&clusters, &filter).replace("vm_id: callout", &format!("vm_id: {host}")));
    }
    let server = builder.start();
    let mut client = Client::connect(server.port());
    let mut told = |host: &str, program: &str| {
        let response = client.request("GET", host, "/", &[("x-callout", program)], b"");
        let mut all = reports(&response);
        assert_eq!((response.status, all.len()), (200, 1), "{host}: {program}: {all:?}");
        all.remove(0)
    };
    let direct = format!("call cluster={address} path=/status/200");
    for (host, allowed) in [("none.test", false), ("this.test", true), ("port.test", false), ("every.test", true)] {
        let report = told(host, &direct);
        let expected = if allowed { ("200", "") } else { ("", "BadArgument") };
        assert_eq!((report.get("status"), report.get("refused")), expected, "{host}: {report:?}");
    }
    assert_eq!(upstream_server.requests(), 2);
    let line = format!("filter 'callout' calls {address}, which its callout_hosts do not allow");
    server.wait_for_log(&line, PATIENCE);
    for program in ["call cluster=nobody", "call cluster=nobody:1x", "call cluster="] {
        assert_eq!(told("every.test", program).get("refused"), "BadArgument", "{program}");
    }
    server.wait_for_log("filter 'callout' calls the cluster 'nobody', which is not defined", PATIENCE);
    for missing in ["method=", "path=", "authority="] {
        assert_eq!(told("every.test", &format!("call {missing}")).get("refused"), "BadArgument", "{missing}");
    }
    for _ in 0..20 {
        told("none.test", &direct);
    }
    // Once a VM, of which there is one a thread.
    assert!(server.diags().matches(&line).count() <= 4, "{}", server.diags());
    assert_eq!(upstream_server.requests(), 2, "nobody else was asked");
}

#[test]
fn a_full_circuit_refuses_at_once() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let clusters = [("http1", "upstream"), ("http2", "h2")].map(|(protocol, name)| {
        cluster(name, &upstream_server.address(), &format!("protocol: {protocol}, max_in_flight: 2"))
    });
    let server = start(&origin, &clusters.concat(), "limits: {pause_ms: 60000}");
    for name in ["upstream", "h2"] {
        let before = upstream_server.requests_to("/hold");
        let mut waiting = Client::connect(server.port()).timeout(PATIENCE);
        send(&mut waiting, &format!("call cluster={name} n=2 path=/hold timeout=60000"));
        asked(&upstream_server, "/hold", before + 2);
        let begin = Instant::now();
        let refused = report(&server, &format!("call cluster={name} path=/status/200"));
        assert_eq!(refused.get("refused"), "InternalFailure", "{name}: {refused:?}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{name}: {:?}", begin.elapsed());
        upstream_server.release(2);
        assert_eq!(reports(&waiting.read_response()).len(), 2, "{name}");
        assert_eq!(report(&server, &format!("call cluster={name} path=/status/200")).get("status"), "200", "{name}");
    }
    assert_eq!(upstream_server.requests_to("/status/200"), 2);
    nothing_is_left(&server, 6);
}

#[test]
fn a_filter_has_so_many_calls_under_way() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let server = start(&origin, &upstream(&upstream_server), "limits: {pause_ms: 60000, callouts: 2}");
    for _ in 0..2 {
        let before = upstream_server.requests_to("/hold");
        let mut waiting = Client::connect(server.port()).timeout(PATIENCE);
        send(&mut waiting, "call n=3 path=/hold timeout=60000");
        asked(&upstream_server, "/hold", before + 2);
        upstream_server.release(2);
        let reports = reports(&waiting.read_response());
        let refused = reports.iter().filter(|report| report.get("refused") == "InternalFailure").count();
        assert_eq!((reports.len(), refused), (3, 1), "{reports:?}");
        assert_eq!(upstream_server.requests_to("/hold"), before + 2, "the third was not sent");
    }
    let counters = server.counters("the limit", |counters| counters["limit_breaches"] == 2);
    assert!(counters["callouts_failed"] >= 2, "{counters:?}");
    nothing_is_left(&server, 2);
}

/// Calls beyond `max_connections` wait for one; they are not refused.
#[test]
fn calls_wait_for_a_connection() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let server = start(&origin, &cluster("upstream", &upstream_server.address(), "max_connections: 2"), "");
    let begin = Instant::now();
    let all = reports(&ask(&server, "call n=8 path=/slow/50"));
    assert!(all.len() == 8 && all.iter().all(|report| report.get("status") == "200"), "{all:?}");
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    assert_eq!(upstream_server.connections(), 2);
    let all = reports(&ask(&server, "call n=3 path=/hang timeout=200"));
    assert!(all.len() == 3 && all.iter().all(|report| report.status().1.starts_with("timeout:")), "{all:?}");
}

#[test]
fn a_pause_shorter_than_the_call_ends_by_the_policy() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let clusters = upstream(&upstream_server);
    let limited =
        |policy: &str| file(&clusters, &format!("failure_policy: {policy}\nbody: none\nlimits: {{pause_ms: 300}}"));
    let builder = rule(builder(&origin), "closed.test", &limited("closed"));
    let server = rule(builder, "open.test", &limited("open")).start();
    let mut calls = 0;
    for at in ["request_headers", "response_headers"] {
        for (host, expected) in [("closed.test", 503), ("open.test", 200)] {
            let mut client = Client::connect(server.port());
            let begin = Instant::now();
            let program = format!("call at={at} path=/hold timeout=60000");
            let response = client.request("GET", host, "/", &[("x-callout", &program)], b"");
            calls += 1;
            assert_eq!((response.status, reports(&response).len()), (expected, 0), "{host} at {at}");
            assert!(begin.elapsed() >= Duration::from_millis(300), "{host} at {at}: {:?}", begin.elapsed());
        }
    }
    assert_eq!(origin.request_count(), 3, "at the request, the closed one kept it from the origin");
    nothing_is_left(&server, calls);
    // The answers come, and find no stream.
    assert_eq!((upstream_server.requests_to("/hold"), upstream_server.given_up()), (calls as usize, 0));
    upstream_server.release(calls as usize);
    let counters = server.counters("the ends of the calls", |counters| counters["callouts"] == calls);
    // The guest that goes on, though it failed at the request, waits at the response again.
    assert_eq!((counters["failures"], counters["callouts_failed"], counters["traps"]), (calls + 1, 0, 0));
    assert_eq!(server.diags().matches("nobody made call").count(), 0);
}
