//! Clients that leave while a call is under way.

use std::time::{Duration, Instant};

use wasm_remap_tests::{Client, Origin, Reply, Upstream};

use crate::support::*;

/// ATS does not end a transaction that a hook holds: it ends when the answer comes. Until then the call goes on, since it
/// belongs to the plugin context and not to the transaction.
#[test]
fn a_call_outlives_its_client_and_ends_the_transaction() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    origin.route("/*", Reply::new(200).generated(7, 50_000));
    let clusters = upstream(&upstream_server) + &cluster("h2", &upstream_server.address(), "protocol: http2");
    let server = start(&origin, &clusters, "limits: {pause_ms: 60000}");
    let mut calls = 0;
    for name in ["upstream", "h2"] {
        for (at, method, answer) in [
            ("request_headers", "GET", ""),
            ("request_headers", "GET", "answer=403"),
            ("request_headers", "POST", ""),
            ("request_body", "POST", ""),
            ("response_headers", "GET", ""),
            ("response_headers", "GET", "answer=403"),
            ("response_body", "GET", ""),
        ] {
            let mut client = Client::connect(server.port());
            let program = format!("call at={at} cluster={name} path=/hold timeout=60000 {answer}");
            let body = if method == "POST" { &b"abcdef"[..] } else { b"" };
            client.send_request(method, "call.test", "/", &[("x-callout", &program)], body);
            calls += 1;
            asked(&upstream_server, "/hold", calls);
            client.abort();
        }
    }
    // They are still asked.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((upstream_server.requests_to("/hold"), upstream_server.given_up()), (calls, 0));
    upstream_server.release(calls);
    let counters = nothing_is_left(&server, calls as i64);
    assert_eq!((counters["callouts"], counters["callouts_failed"]), (calls as i64, 0), "{counters:?}");
    assert_eq!(counters["failures"], 0);
    assert_eq!(ask(&server, "").status, 200);
}

/// One that nobody waits for ends at its own time limit, and the upstream is told.
#[test]
fn calls_without_a_client_end_at_their_limit() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let server = start(&origin, &upstream(&upstream_server), "limits: {pause_ms: 60000}");
    let begin = Instant::now();
    for count in 1..=5 {
        let mut client = Client::connect(server.port());
        send(&mut client, "call path=/hang timeout=1500");
        asked(&upstream_server, "/hang", count);
        client.abort();
    }
    let counters = nothing_is_left(&server, 5);
    assert!(begin.elapsed() >= Duration::from_millis(1500), "{:?}", begin.elapsed());
    assert_eq!((counters["callouts"], counters["callouts_failed"]), (5, 5));
    assert_eq!(upstream_server.given_up(), 5);
}

/// Those that are not waited for do not hold the transaction, and find no stream.
#[test]
fn an_answer_for_a_transaction_that_is_over_is_for_nobody() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let server = start(&origin, &upstream(&upstream_server), "");
    let response = ask(&server, "call nowait path=/hold n=10");
    assert_eq!((response.status, reports(&response).len()), (200, 0));
    nothing_is_left(&server, 1);
    asked(&upstream_server, "/hold", 10);
    upstream_server.release(10);
    let counters = server.counters("the ends of the calls", |counters| counters["callouts"] == 10);
    assert_eq!((counters["callouts_failed"], counters["traps"]), (0, 0));
    assert_eq!(server.diags().matches("nobody made call").count(), 0);
}
