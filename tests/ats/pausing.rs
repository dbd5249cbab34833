//! Filters that hold a transaction: where it waits, what resumes it, and what ends the wait.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wasm_remap_tests::{Client, Connection, Origin, Reply, Request, Rule, TrafficServer, payload};

const PATIENCE: Duration = Duration::from_secs(10);

/// The longest pause that the filters are allowed, in milliseconds.
const LIMIT: u64 = 300;

fn filter(name: &str, policy: &str, limit: u64) -> String {
    format!(
        "  - name: {name}\n    module: {{guest:pause}}\n    failure_policy: {policy}\n    limits: {{pause_ms: {limit}}}\n"
    )
}

fn start(origin: &Origin) -> TrafficServer {
    let one = |policy: &str, limit: u64| format!("filters:\n{}", filter("pause", policy, limit));
    let two = |first: &str, second: &str| {
        format!("filters:\n{}{}", filter("first", first, LIMIT), filter("second", second, LIMIT))
    };
    let mut builder = TrafficServer::builder().origin(origin).stats();
    for (host, file) in [
        ("long.test", one("closed", 60_000)),
        ("closed.test", one("closed", LIMIT)),
        ("open.test", one("open", LIMIT)),
        ("two-open.test", two("open", "open")),
        ("open-closed.test", two("open", "closed")),
    ] {
        let name = format!("{host}.yaml");
        builder = builder.rule(Rule::new(host, "http://{origin}/").wasm([name.as_str()])).file(&name, &file);
    }
    builder.start()
}

/// An origin that notes when each request came.
fn clocked() -> (Origin, Arc<Mutex<Vec<Instant>>>) {
    let origin = Origin::start();
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&arrivals);
    origin.route("/*", move |request: &Request| {
        noted.lock().expect("nobody panicked").push(Instant::now());
        Reply::echo(request)
    });
    (origin, arrivals)
}

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

#[test]
fn a_paused_request_reaches_the_origin_when_it_is_resumed_and_not_before() {
    let (origin, arrivals) = clocked();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    let body = payload::bytes(3, 100_000);
    for (method, body) in [("GET", &b""[..]), ("POST", &body), ("HEAD", b"")] {
        let sent = Instant::now();
        let response = client.request(method, "long.test", "/x", &[("x-pause-ms", "200")], body);
        assert_eq!(response.status, 200);
        let arrived = arrivals.lock().expect("nobody panicked").pop().expect("it reached the origin");
        assert!(arrived - sent >= ms(200), "{method}: the origin had it after {:?}", arrived - sent);
        let held: u64 = response.header("x-paused-ms").and_then(|value| value.parse().ok()).expect("a number");
        assert!(held >= 200, "{method}: {held}");
        assert!(origin.last().body == body, "{method}: the body is the client's");
        assert_eq!(client.connection(), Connection::Open);
    }
    // No pause, no wait.
    assert_eq!(client.get("long.test", "/x").header("x-paused-ms").as_deref(), Some("0"));
    assert_eq!(origin.connection_count(), 1);
}

#[test]
fn requests_behind_a_paused_one_are_answered_in_their_order() {
    let (origin, _) = clocked();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    let request =
        |path: &str, pause: u32| format!("GET {path} HTTP/1.1\r\nHost: long.test\r\nx-pause-ms: {pause}\r\n\r\n");
    client.send([request("/1", 150), request("/2", 0), request("/3", 50), request("/4", 0)].concat());
    for path in ["/1", "/2", "/3", "/4"] {
        let response = client.read_response();
        assert!(response.text().starts_with(&format!("GET {path} ")), "{}", response.text());
    }
}

#[test]
fn paused_response_headers_wait() {
    let (origin, _) = clocked();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    for method in ["GET", "HEAD"] {
        let sent = Instant::now();
        let headers = [("x-pause-ms", "150"), ("x-pause-at", "response_headers")];
        let response = client.request(method, "long.test", "/x", &headers, b"");
        assert_eq!(response.status, 200);
        assert!(sent.elapsed() >= ms(150), "{:?}", sent.elapsed());
        assert_eq!(client.connection(), Connection::Open);
    }
    let headers = [("x-pause-answer", "503"), ("x-pause-at", "response_headers")];
    let response = client.request("GET", "long.test", "/x", &headers, b"");
    assert_eq!((response.status, response.text().as_str()), (503, "answered from a tick\n"));
}

#[test]
fn an_answer_from_a_tick_keeps_the_request_from_the_origin() {
    let (origin, _) = clocked();
    let server = start(&origin);
    let headers = [("x-pause-answer", "429"), ("x-pause-ms", "50")];
    let response = Client::connect(server.port()).request("GET", "long.test", "/x", &headers, b"");
    assert_eq!((response.status, response.text().as_str()), (429, "answered from a tick\n"));
    assert_eq!(origin.connection_count(), 0);
}

#[test]
fn a_pause_ends_at_its_limit_and_the_policy_decides() {
    let (origin, _) = clocked();
    let server = start(&origin);
    let begin = Instant::now();
    for at in ["request_headers", "response_headers"] {
        // More than once: ATS's timers are early or late by its clock's state.
        for _ in 0..4 {
            let ask = |host: &str| {
                let (before, sent) = (origin.request_count(), Instant::now());
                let headers = [("x-pause-forever", "1"), ("x-pause-at", at)];
                let response = Client::connect(server.port()).request("GET", host, "/x", &headers, b"");
                assert!(sent.elapsed() >= ms(LIMIT), "{host} at {at}: {:?}", sent.elapsed());
                (response.status, origin.request_count() - before)
            };
            let reached = usize::from(at == "response_headers");
            assert_eq!(ask("closed.test"), (503, reached), "at {at}");
            assert_eq!(ask("open.test"), (200, 1), "at {at}");
        }
    }
    println!("16 pauses ended by their limit of {LIMIT} ms: {:.0?} each", begin.elapsed() / 16);
    server.wait_for_log("filter 'pause': it held the transaction for more than 300ms", PATIENCE);
}

/// Each filter of a chain has its own time, also after another one used its own up.
#[test]
fn every_filter_has_its_own_limit() {
    let (origin, _) = clocked();
    let server = start(&origin);
    let ask = |host: &str, headers: &[(&str, &str)]| {
        let sent = Instant::now();
        let status = Client::connect(server.port()).request("GET", host, "/x", headers, b"").status;
        (status, sent.elapsed())
    };
    for at in ["request_headers", "response_headers"] {
        // Two pauses below the limit, together above it.
        let (status, time) = ask("open-closed.test", &[("x-pause-ms", "200"), ("x-pause-at", at)]);
        assert_eq!(status, 200, "at {at}");
        assert!(time >= ms(400), "at {at}: {time:?}");
        let (status, time) = ask("two-open.test", &[("x-pause-forever", "1"), ("x-pause-at", at)]);
        assert_eq!(status, 200, "at {at}");
        assert!(time >= ms(2 * LIMIT), "at {at}: {time:?}");
        // Responses pass the filters from the last to the first, and the last is the closed one.
        let (status, time) = ask("open-closed.test", &[("x-pause-forever", "1"), ("x-pause-at", at)]);
        assert_eq!(status, 503, "at {at}");
        assert!(time >= ms(if at == "request_headers" { 2 * LIMIT } else { LIMIT }), "at {at}: {time:?}");
    }
}

#[test]
fn many_transactions_wait_at_once() {
    const CLIENTS: usize = 100;
    let (origin, _) = clocked();
    let server = start(&origin);
    let sent = Instant::now();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(server.port())).collect();
    for client in &mut clients {
        client.send_request("GET", "long.test", "/x", &[("x-pause-ms", "500")], b"");
    }
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
    let time = sent.elapsed();
    assert!(time >= ms(500) && time < ms(500) * (CLIENTS as u32 / 4), "{time:?}");
    println!("{CLIENTS} pauses of 500 ms at once: {time:.0?}");
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["pauses"] >= CLIENTS as i64 && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!(counters["streams_created"], CLIENTS as i64);
}

/// ATS does not end a transaction that a hook holds: it ends when it is resumed, or at its limit.
#[test]
fn clients_that_go_away_meanwhile_leave_nothing() {
    let (origin, _) = clocked();
    let server = start(&origin);
    let mut count = 0;
    for at in ["request_headers", "response_headers"] {
        for order in [("x-pause-ms", "200"), ("x-pause-forever", "1"), ("x-pause-answer", "401")] {
            for host in ["closed.test", "open.test"] {
                for _ in 0..5 {
                    let mut client = Client::connect(server.port());
                    client.send_request("GET", host, "/x", &[order, ("x-pause-at", at)], b"");
                    // So that it is not the whole request that goes away.
                    count += 1;
                    let pauses = count;
                    if count % 10 == 0 {
                        server.counters("the pause", |counters| counters["pauses"] >= pauses);
                    }
                    client.abort();
                }
            }
        }
    }
    assert_eq!(Client::connect(server.port()).get("closed.test", "/x").status, 200);
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["streams_created"] > count && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!((counters["streams_created"], counters["traps"], counters["panics"]), (count + 1, 0, 0));
}

/// A filter may resume a context that is no more: it hears that there is none.
#[test]
fn a_context_that_is_gone_is_not_resumed() {
    let (origin, _) = clocked();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    let headers = [("x-pause-ms", "1000"), ("x-pause-keep", "1")];
    assert_eq!(client.request("GET", "closed.test", "/x", &headers, b"").status, 503);
    server.wait_for_log("is gone", PATIENCE);
    assert_eq!(Client::connect(server.port()).get("closed.test", "/x").status, 200);
    assert_eq!(origin.request_count(), 1);
}
