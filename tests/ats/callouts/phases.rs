//! Calls from every callback, and what callbacks of calls may do.

use std::collections::BTreeSet;

use wasm_remap_tests::{Ask, Client, Origin, Payload, Reply, Upstream, payload, wait_until};

use crate::support::*;

#[test]
fn every_callback_of_a_transaction_can_wait_for_a_call() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    origin.route("/*", Reply::new(200).generated(7, 200_000));
    let server = start(&origin, &upstream(&upstream_server), "");
    let up = payload::bytes(8, 100_000);
    let mut client = Client::connect(server.port()).timeout(PATIENCE);
    let mut calls = 0;
    for (at, mode) in [
        ("request_headers", ""),
        ("request_body", ""),
        ("request_body", "end"),
        ("response_headers", ""),
        ("response_body", ""),
        ("response_body", "end"),
    ] {
        for method in ["GET", "POST"] {
            if at == "request_body" && method == "GET" {
                continue;
            }
            calls += 1;
            let (before, last) = (upstream_server.requests_to("/slow/50"), format!("last{calls}"));
            let to = if at == "response_body" { format!("to={last}") } else { String::new() };
            let program = format!("call at={at} {mode} path=/slow/50 {to}");
            let body = if method == "POST" { &up[..] } else { b"" };
            let response = client.request(method, "call.test", "/", &[("x-callout", &program)], body);
            assert_eq!(response.status, 200, "{method} {program}");
            assert_eq!(
                (response.body_len, response.body_hash),
                (200_000, payload::hash(7, 200_000)),
                "{method} {program}: the response's body is the origin's"
            );
            assert!(origin.last().body == body, "{method} {program}: the request's body is the client's");
            let all = if to.is_empty() { reports(&response) } else { kept(&server, &last, 1) };
            assert_eq!((all.len(), all[0].get("status"), all[0].get("code")), (1, "200", "0"), "{program}: {all:?}");
            assert_eq!(upstream_server.requests_to("/slow/50"), before + 1, "{method} {program}");
        }
    }
    nothing_is_left(&server, calls);
}

/// Before there is a transaction, and after it.
#[test]
fn calls_are_made_with_no_transaction() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let configuration = "configuration: {configure: \"call path=/status/201\", tick: \"call path=/status/202\", tick_ms: 20}\n\
                         vm_configuration: {vm_start: \"call path=/status/203 n=2\"}";
    let server = start(&origin, &upstream(&upstream_server), configuration);
    for (key, status, least) in
        [("callout.configure", "201", 1), ("callout.tick", "202", 1), ("callout.vm_start", "203", 2)]
    {
        let all = kept(&server, key, least);
        assert!(all.iter().all(|report| report.get("status") == status), "{key}: {all:?}");
    }
    // What the log callback asks comes when the context is no more, and is for nobody.
    assert_eq!(ask(&server, "call at=log path=/status/204 n=3").status, 200);
    asked(&upstream_server, "/status/204", 3);
    assert_eq!(ask(&server, "read callout.log").text(), "made=3 refused=0\n");
    let counters = nothing_is_left(&server, 2);
    assert!(counters["callouts"] >= 1 + 1 + 2 + 3, "{counters:?}");
    assert_eq!(counters["callouts_failed"], 0);
    assert_eq!(server.diags().matches("nobody made call").count(), 0);
}

#[test]
fn many_calls_at_once_are_each_answered_once() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let clusters = upstream(&upstream_server) + &cluster("h2", &upstream_server.address(), "protocol: http2");
    let server = start(&origin, &clusters, "");
    for name in ["upstream", "h2"] {
        let response = ask(&server, &format!("call cluster={name} n=30 path=/slow/{{i}}"));
        let all = reports(&response);
        let numbers: BTreeSet<_> = all.iter().map(|report| report.get("call")).collect();
        assert_eq!((response.status, all.len(), numbers.len()), (200, 30, 30), "{name}");
        for report in &all {
            let body = format!("after {} ms", report.get("call"));
            let hash = format!("{}:{:016x}", body.len(), payload::hash_of(body.as_bytes()));
            assert_eq!((report.get("status"), report.get("body")), ("200", hash.as_str()), "{name}: {report:?}");
        }
    }
    // Some that are waited for, some that are not, to several clusters.
    let response =
        ask(&server, "call n=3 path=/slow/20; call nowait path=/hang timeout=200; call cluster=h2 path=/slow/5");
    assert_eq!(reports(&response).len(), 4, "{:?}", reports(&response));
    nothing_is_left(&server, 3);
}

#[test]
fn callbacks_call_again() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let server = start(&origin, &upstream(&upstream_server), "");
    for at in ["request_headers", "response_headers"] {
        let response = ask(&server, &format!("call at={at} chain=9 path=/slow/{{c}}"));
        let all = reports(&response);
        let links: Vec<_> = all.iter().map(|report| report.get("link").to_owned()).collect();
        assert_eq!(links, (0..10).map(|link| link.to_string()).collect::<Vec<_>>(), "{at}");
        assert!(all.iter().all(|report| report.get("status") == "200"), "{at}: {all:?}");
    }
    assert_eq!(
        (upstream_server.requests(), upstream_server.connections()),
        (20, 1),
        "one after the other, on one connection"
    );
    nothing_is_left(&server, 2);
}

#[test]
fn callbacks_answer_the_client() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let server = start(&origin, &upstream(&upstream_server), "");
    for (at, path, reached) in
        [("request_headers", "/slow/20", 0), ("request_headers", "/reset", 0), ("response_headers", "/slow/20", 1)]
    {
        let before = origin.request_count();
        // One for each: after a pause, ATS closes the connection behind the answer.
        let mut client = Client::connect(server.port());
        send(&mut client, &format!("call at={at} n=3 path={path} answer=403"));
        let response = client.read_response();
        let body = response.text();
        assert_eq!((response.status, response.header("x-callout-answered").as_deref()), (403, Some("1")), "{at}");
        assert!(body.starts_with("#0 call=") && body.lines().count() == 1, "{at}: the first one answers: {body}");
        assert_eq!(origin.request_count() - before, reached, "{at}");
        assert!(!response.says_close() || client.wait_closed(PATIENCE), "{at}");
    }
    // While its body is being held.
    let answered = Ask::new("POST", "call.test", "/")
        .header("x-callout", "call at=request_body path=/slow/20 answer=418")
        .body(Payload::seed(1, 50_000));
    let mut client = Client::connect(server.port());
    let response = client.exchange(&answered).expect("an answer");
    assert_eq!(response.status, 418);
    nothing_is_left(&server, 4);
}

#[test]
fn trailers_go_and_come() {
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    let clusters = upstream(&upstream_server) + &cluster("h2", &upstream_server.address(), "protocol: http2");
    let server = start(&origin, &clusters, "");
    for name in ["upstream", "h2"] {
        let come = report(&server, &format!("call cluster={name} path=/trailers header=te:trailers"));
        assert_eq!(come.get("trailers"), "2[x-sum:1,x-more:2]", "{name}: {come:?}");
        let body = b"before the trailers";
        assert_eq!(come.get("body"), format!("{}:{:016x}", body.len(), payload::hash_of(body)), "{name}");
        for size in [0, 5, 300_000] {
            let gone = report(&server, &format!("call cluster={name} method=POST path=/echo body={size} trailers=2"));
            assert_eq!(gone.get("upstream"), format!("POST:{size}:x-trailer-0:0,x-trailer-1:1"), "{name}: {gone:?}");
        }
    }
    wait_until(PATIENCE, "all requests", || (upstream_server.requests() == 8).then_some(()));
}
