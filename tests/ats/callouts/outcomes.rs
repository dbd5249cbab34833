//! What a filter is told of each way in which a call can end, and that its transaction ends rightly.

use std::time::{Duration, Instant};

use wasm_remap_tests::harness::upstream::Fault;
use wasm_remap_tests::{Client, Origin, TrafficServer, Upstream, payload};

use crate::support::*;

/// Servers for every way in which a call can end.
struct Matrix {
    plain: Upstream,
    secure: Upstream,
    faulty: [Upstream; 3],
    nobody: Upstream,
    origin: Origin,
    server: TrafficServer,
}

const LARGE: usize = 10 << 20;

fn matrix(filter: &str) -> Matrix {
    let (plain, secure) = (Upstream::start(), Upstream::builder().tls().start());
    let faulty = [Fault::WrongName, Fault::Expired, Fault::UnknownAuthority]
        .map(|fault| Upstream::builder().fault(fault).start());
    let mut nobody = Upstream::start();
    nobody.stop();
    let origin = Origin::start();
    let at = |name: &str, upstream: &Upstream, more: &str| cluster(name, &upstream.address(), more);
    // No ejection: what each call meets is not to depend on those before it.
    let clusters = [
        at("upstream", &plain, "response_kib: 20480, ejection: {failures: 0, seconds: 1}"),
        at("h2", &plain, "protocol: http2, response_kib: 20480"),
        at("small", &plain, "response_kib: 64"),
        at("small2", &plain, "protocol: http2, response_kib: 64"),
        at("tls", &secure, "tls: {ca_file: ca.pem}"),
        at("tls2", &secure, "protocol: http2, tls: {ca_file: ca.pem}"),
        at("untrusted", &secure, "tls: {}"),
        at("trusting", &secure, "tls: {verify: false}"),
        at("wrong_name", &faulty[0], "tls: {ca_file: ca.pem}"),
        at("expired", &faulty[1], "tls: {ca_file: ca.pem}"),
        at("unknown_authority", &faulty[2], "tls: {ca_file: ca.pem}"),
        at("no_tls", &plain, "tls: {ca_file: ca.pem}, connect_timeout_ms: 1000"),
        at("nobody", &nobody, ""),
        cluster("localhost", &format!("localhost:{}", plain.port()), ""),
        cluster("no_name", "unknown.invalid:80", ""),
    ]
    .concat();
    let text = file(&clusters, filter);
    let server = rule(builder(&origin), "call.test", &text).file("ca.pem", plain.ca_pem()).start();
    Matrix { plain, secure, faulty, nobody, origin, server }
}

/// More time than the largest body takes, also on a machine that does much else.
const GENEROUS: &str = "limits: {callback_ms: 10000, pause_ms: 60000}";

/// Calls that are answered: the words of the program, the headers with `:status`, the status, and the body.
fn answered() -> Vec<(&'static str, usize, &'static str, Vec<u8>)> {
    let large = vec![b'x'; LARGE];
    vec![
        ("path=/status/200", 3, "200", b"status 200".to_vec()),
        ("path=/status/500", 3, "500", b"status 500".to_vec()),
        ("path=/status/204", 2, "204", Vec::new()),
        ("method=HEAD path=/status/200", 3, "200", Vec::new()),
        ("path=/slow/300", 3, "200", b"after 300 ms".to_vec()),
        ("path=/body/10485760 timeout=60000", 3, "200", large.clone()),
        ("cluster=h2 path=/status/200", 3, "200", b"status 200".to_vec()),
        ("cluster=h2 path=/status/500", 3, "500", b"status 500".to_vec()),
        ("cluster=h2 path=/body/10485760 timeout=60000", 3, "200", large),
        ("cluster=small path=/body/65536", 3, "200", vec![b'x'; 65_536]),
        ("cluster=tls path=/status/200", 3, "200", b"status 200".to_vec()),
        ("cluster=tls2 path=/status/200", 3, "200", b"status 200".to_vec()),
        ("cluster=trusting path=/status/200", 3, "200", b"status 200".to_vec()),
        ("cluster=localhost path=/status/200", 3, "200", b"status 200".to_vec()),
    ]
}

/// Calls that fail: the words of the program, the number, and what the text begins with.
const FAILING: [(&str, &str, &str); 13] = [
    ("path=/hang timeout=300", "4", "timeout:"),
    ("cluster=h2 path=/hang timeout=300", "4", "timeout:"),
    ("path=/slow/10000 timeout=300", "4", "timeout:"),
    ("path=/reset", "14", "reset:"),
    ("cluster=h2 path=/reset", "14", "reset:"),
    ("cluster=small path=/body/10485760", "8", "too_large:"),
    ("cluster=small2 path=/body/65537", "8", "too_large:"),
    ("cluster=nobody", "14", "connect:"),
    ("cluster=no_name timeout=60000", "14", "dns:"),
    ("cluster=untrusted", "14", "tls:"),
    ("cluster=wrong_name", "14", "tls:"),
    ("cluster=expired", "14", "tls:"),
    ("cluster=unknown_authority", "14", "tls:"),
];

#[test]
fn every_outcome_is_told_and_the_transaction_goes_on() {
    let matrix = matrix(GENEROUS);
    let mut client = Client::connect(matrix.server.port()).timeout(PATIENCE);
    let mut requests = 0;
    for (words, headers, status, body) in answered() {
        send(&mut client, &format!("call {words}"));
        let response = client.read_response();
        requests += 1;
        let all = reports(&response);
        assert_eq!((response.status, all.len()), (200, 1), "{words}: {all:?}");
        let report = &all[0];
        let hash = format!("{}:{:016x}", body.len(), payload::hash_of(&body));
        assert_eq!(report.get("headers"), headers.to_string(), "{words}: {report:?}");
        assert_eq!((report.get("status"), report.get("body")), (status, hash.as_str()), "{words}: {report:?}");
        assert_eq!((report.get("trailers"), report.status()), ("0", ("0", "")), "{words}: {report:?}");
        assert!(client.is_open(), "{words}");
    }
    for (words, code, text) in FAILING {
        let begin = Instant::now();
        send(&mut client, &format!("call {words}"));
        let response = client.read_response();
        requests += 1;
        let all = reports(&response);
        assert_eq!((response.status, all.len()), (200, 1), "{words}: {all:?}");
        let report = &all[0];
        assert_eq!((report.get("headers"), report.get("status")), ("0", "-"), "{words}: {report:?}");
        assert_eq!(report.get("body"), format!("0:{:016x}", payload::hash_of(b"")), "{words}: {report:?}");
        let (told, message) = report.status();
        assert!(
            report.get("trailers") == "0" && told == code && message.starts_with(text),
            "{words}: expected {code} {text}, got {report:?}"
        );
        if text == "timeout:" {
            assert!(begin.elapsed() >= Duration::from_millis(300), "{words}: {:?}", begin.elapsed());
        }
        assert!(client.is_open(), "{words}");
    }
    // What is no TLS fails in its handshake.
    send(&mut client, "call cluster=no_tls path=/status/200");
    let report = reports(&client.read_response()).remove(0);
    assert!(report.get("headers") == "0" && report.status().0 == "14", "{report:?}");
    requests += 1;

    let counters = nothing_is_left(&matrix.server, requests);
    assert_eq!(matrix.origin.request_count() as i64, requests, "each went on to the origin");
    assert_eq!(counters["streams_created"], requests);
    assert_eq!((counters["callouts"], counters["callouts_failed"]), (requests, FAILING.len() as i64 + 1));
    assert_eq!(matrix.nobody.connections(), 0);
    assert!(matrix.faulty.iter().all(|upstream| upstream.requests() == 0), "nothing was sent to whom is not trusted");
    // A body that broke off is no reason to ask again, a timeout neither.
    for path in ["/reset", "/hang"] {
        assert_eq!(matrix.plain.requests_to(path), 2, "{path}");
    }
    assert!(matrix.secure.requests() >= 3);
}

/// The client leaves as soon as its request is sent. The call goes on, for it is the plugin context's, and the callback
/// finds the transaction or it does not: nothing is left of it either way.
#[test]
fn every_outcome_without_the_client_leaves_nothing() {
    let matrix = matrix("limits: {callback_ms: 10000, pause_ms: 5000}");
    let mut sent = 0_i64;
    for round in 0..2 {
        let words = answered().into_iter().map(|(words, ..)| words).chain(FAILING.map(|(words, ..)| words));
        for words in words {
            let mut client = Client::connect(matrix.server.port());
            send(&mut client, &format!("call {words}"));
            if round == 1 {
                // At once, the request itself may go away with its client.
                std::thread::sleep(Duration::from_millis(50));
            }
            client.abort();
            sent += 1;
        }
    }
    assert_eq!(report(&matrix.server, "call path=/status/200").get("status"), "200");
    // One call for each transaction; of the clients that left at once, ATS may not have seen the request.
    let counters = matrix.server.counters("the ends of all transactions and calls", |counters| {
        let [created, deleted, calls] = ["streams_created", "streams_deleted", "callouts"].map(|name| counters[name]);
        created > sent / 2 && created == deleted && created == calls
    });
    assert_eq!((counters["failures"], counters["traps"], counters["panics"]), (0, 0, 0));
    assert_eq!(matrix.server.diags().matches("nobody made call").count(), 0);
}

/// An endpoint that dies is a failure for as long as it is dead, and not longer.
#[test]
fn an_endpoint_that_dies_and_comes_back_is_used_again() {
    let mut upstream = Upstream::start();
    let origin = Origin::start();
    let clusters = [("http1", "upstream"), ("http2", "h2")].map(|(protocol, name)| {
        cluster(name, &upstream.address(), &format!("protocol: {protocol}, ejection: {{failures: 0, seconds: 1}}"))
    });
    let server = start(&origin, &clusters.concat(), "");
    for name in ["upstream", "h2"] {
        let ask = || report(&server, &format!("call cluster={name} path=/status/200"));
        for _ in 0..3 {
            assert_eq!(ask().get("status"), "200", "{name}");
            upstream.stop();
            for _ in 0..3 {
                let report = ask();
                assert_eq!((report.get("headers"), report.status().0), ("0", "14"), "{name}: {report:?}");
                assert!(report.status().1.starts_with("connect:"), "{name}: {report:?}");
            }
            upstream.start_again();
        }
        assert_eq!(ask().get("status"), "200", "{name}");
    }
    // In the middle of a call, too: then it is a reset. What may not be repeated is not.
    for name in ["upstream", "h2"] {
        let mut client = Client::connect(server.port());
        let before = upstream.requests_to("/hang");
        send(&mut client, &format!("call cluster={name} method=POST path=/hang timeout=20000"));
        asked(&upstream, "/hang", before + 1);
        upstream.stop();
        let all = reports(&client.read_response());
        assert_eq!((all.len(), all[0].status().0), (1, "14"), "{name}: {all:?}");
        assert!(all[0].status().1.starts_with("reset:"), "{name}: {all:?}");
        upstream.start_again();
        assert_eq!(upstream.requests_to("/hang"), before + 1, "{name}");
    }
    nothing_is_left(&server, 1);
}
