//! The example filter `ext-auth` with an authoriser.

use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::{Client, Origin, Reply, Request, Response, TrafficServer};

use crate::support::*;

const CONFIGURATION: &str = "cluster: auth, path: /verify, timeout_ms: 300, headers: [authorization], to_origin: [x-user], \
                             to_client: [x-plan], refusal_headers: [content-type, www-authenticate, set-cookie]";

/// An authoriser by `authorization`.
fn authoriser() -> Origin {
    let authoriser = Origin::start();
    authoriser.route("/verify", |request: &Request| {
        match request.header("authorization").unwrap_or_default().as_str() {
            "alice" => {
                Reply::new(200).header("x-user", "alice").header("x-plan", "gold").header("x-secret", "s").body("ok")
            }
            "slow" => Reply::new(200).delay(Duration::from_millis(2000)),
            "broken" => Reply::raw(""),
            "error" => Reply::new(500).header("content-type", "text/plain").body("out of order"),
            _ => Reply::new(401)
                .header("content-type", "application/json")
                .header("www-authenticate", "Bearer")
                .header("set-cookie", "a=1")
                .header("set-cookie", "b=2")
                .header("x-secret", "s")
                .body("{\"error\":\"who are you?\"}"),
        }
    });
    authoriser
}

fn start(authoriser: &Origin, origin: &Origin) -> TrafficServer {
    let clusters = cluster("auth", &authoriser.address(), "retries: 0, ejection: {failures: 0, seconds: 1}");
    let text = |more: &str| {
        format!(
            "clusters:\n{clusters}filters:\n  - name: ext-auth\n    module: {{guest:ext-auth}}\n    vm_id: auth\n    body: none\n    \
             configuration: {{{CONFIGURATION}{more}}}\n    limits: {{pause_ms: 10000}}\n"
        )
    };
    let mut builder = builder(origin);
    for (host, more) in [
        ("deny.test", ""),
        ("allow.test", ", on_failure: allow"),
        ("cached.test", ", cache: {key: [authorization], ttl_ms: 1500, refusal_ttl_ms: 700}"),
    ] {
        builder = rule(builder, host, &text(more));
    }
    builder.start()
}

fn get(server: &TrafficServer, host: &str, who: &str) -> Response {
    let headers = [("authorization", who), ("x-user", "root")];
    let headers = if who.is_empty() { &headers[1..] } else { &headers[..] };
    Client::connect(server.port()).request("GET", host, "/page?q=1", headers, b"")
}

#[test]
fn an_authoriser_decides() {
    let (authoriser, origin) = (authoriser(), Origin::start());
    let server = start(&authoriser, &origin);
    let allowed = get(&server, "deny.test", "alice");
    assert_eq!((allowed.status, allowed.header("x-plan").as_deref()), (200, Some("gold")));
    assert_eq!(allowed.header("x-secret"), None);
    let seen = origin.last();
    assert_eq!(seen.headers.all("x-user"), ["alice"], "what the client says of it does not count");
    let asked = authoriser.last();
    for (name, value) in [
        ("host", "auth"),
        ("x-forwarded-method", "GET"),
        ("x-forwarded-host", "deny.test"),
        ("x-forwarded-uri", "/page?q=1"),
        ("authorization", "alice"),
    ] {
        assert_eq!(asked.header(name).as_deref(), Some(value), "{name}");
    }
    for who in ["mallory", ""] {
        let denied = get(&server, "deny.test", who);
        assert_eq!((denied.status, denied.text().as_str()), (401, "{\"error\":\"who are you?\"}"));
        assert_eq!(denied.header("content-type").as_deref(), Some("application/json"));
        assert_eq!(denied.header("www-authenticate").as_deref(), Some("Bearer"));
        assert_eq!(denied.headers.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!((denied.header("x-secret"), denied.header("cache-control").as_deref()), (None, Some("no-store")));
    }
    let error = get(&server, "deny.test", "error");
    assert_eq!((error.status, error.text().as_str()), (500, "out of order"), "an answer like any other");
    assert_eq!((origin.request_count(), authoriser.request_count()), (1, 4));
    nothing_is_left(&server, 4);
}

#[test]
fn without_a_verdict_the_configuration_decides() {
    let (authoriser, origin) = (authoriser(), Origin::start());
    let server = start(&authoriser, &origin);
    for who in ["slow", "broken"] {
        let begin = Instant::now();
        let denied = get(&server, "deny.test", who);
        let text = "the authorization service does not answer\n";
        assert_eq!((denied.status, denied.text().as_str()), (503, text), "{who}");
        let allowed = get(&server, "allow.test", who);
        assert_eq!((allowed.status, origin.last().header("x-user")), (200, None), "{who}");
        if who == "slow" {
            assert!(begin.elapsed() >= Duration::from_millis(600), "{:?}", begin.elapsed());
        }
        assert!(begin.elapsed() < Duration::from_millis(3800), "{who}: {:?}", begin.elapsed());
    }
    assert_eq!(origin.request_count(), 2);
    drop(authoriser);
    assert_eq!(get(&server, "deny.test", "alice").status, 503);
    assert_eq!(get(&server, "allow.test", "alice").status, 200);
    nothing_is_left(&server, 6);
}

#[test]
fn a_verdict_is_kept_for_its_time() {
    let (authoriser, origin) = (authoriser(), Origin::start());
    let server = start(&authoriser, &origin);
    let begin = Instant::now();
    let twenty = |who: &str, status: u16| {
        for _ in 0..20 {
            let response = get(&server, "cached.test", who);
            assert_eq!(response.status, status, "{who}");
            if status == 200 {
                assert_eq!(origin.last().headers.all("x-user"), ["alice"], "also of a verdict that was kept");
                assert_eq!(response.header("x-plan").as_deref(), Some("gold"));
            } else {
                assert_eq!(response.headers.all("set-cookie"), ["a=1", "b=2"]);
            }
        }
    };
    twenty("alice", 200);
    twenty("mallory", 401);
    // Each once, on both threads together, unless the machine took longer than they are kept.
    let most = if begin.elapsed() < Duration::from_millis(700) { 2 } else { 20 };
    let asked = authoriser.request_count();
    assert!((2..=most).contains(&asked), "{asked} in {:?}", begin.elapsed());
    thread::sleep(Duration::from_millis(1600));
    let _ = (get(&server, "cached.test", "alice"), get(&server, "cached.test", "mallory"));
    assert_eq!(authoriser.request_count(), asked + 2, "their time is over");
    // An authoriser that has an error may be well again by the next request.
    for count in 1..=3 {
        assert_eq!(get(&server, "cached.test", "error").status, 500);
        assert_eq!(authoriser.request_count(), asked + 2 + count);
    }
    nothing_is_left(&server, 45);
}
