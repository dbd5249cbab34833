//! Calls hold nobody up but those who wait for them.

use std::time::{Duration, Instant};

use wasm_remap_tests::{Client, Origin, Reply, Rule, Upstream};

use crate::support::*;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Times of requests, one after the other on one connection.
fn times(port: u16, host: &str, headers: &[(&str, &str)], count: usize) -> Vec<Duration> {
    let mut client = Client::connect(port);
    let mut once = || {
        let begin = Instant::now();
        assert_eq!(client.request("GET", host, "/", headers, b"").status, 200);
        begin.elapsed()
    };
    once();
    (0..count).map(|_| once()).collect()
}

#[test]
fn event_threads_do_not_wait_for_calls() {
    const HANGING: usize = 50;
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    origin.route("/*", Reply::new(200).body("x"));
    // One event thread: whoever blocks it blocks all.
    let builder =
        rule(builder(&origin).threads(1), "call.test", &file(&upstream(&upstream_server), "limits: {pause_ms: 60000}"));
    let server = builder.rule(Rule::new("plain.test", "http://{origin}/")).start();
    let normal = times(server.port(), "plain.test", &[], 300);
    let mut hanging: Vec<Client> = (0..HANGING).map(|_| Client::connect(server.port()).timeout(PATIENCE)).collect();
    for client in &mut hanging {
        send(client, "call path=/hold timeout=60000");
    }
    asked(&upstream_server, "/hold", HANGING);
    let plain = times(server.port(), "plain.test", &[], 300);
    let filtered = times(server.port(), "call.test", &[], 300);
    let calling = times(server.port(), "call.test", &[("x-callout", "call path=/status/200")], 300);
    assert_eq!((upstream_server.requests_to("/hold"), upstream_server.given_up()), (HANGING, 0), "they hang");
    let worst = plain.iter().max().copied().unwrap_or_default();
    let [normal, plain, filtered, calling] = [normal, plain, filtered, calling].map(median);
    println!(
        "median of a request: {normal:?} before, with {HANGING} calls hanging {plain:?} (worst {worst:?}), with a filter \
         {filtered:?}, with a call of its own {calling:?}"
    );
    let normally = normal * 3 + Duration::from_millis(2);
    assert!(plain < normally && filtered < normally, "{plain:?} and {filtered:?}, {normal:?} before");
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    upstream_server.release(HANGING);
    for client in &mut hanging {
        assert_eq!(reports(&client.read_response())[0].get("status"), "200");
    }
    nothing_is_left(&server, 1);
}

/// The bar is 150 µs, which `ats-bench --callouts` measures with care. On a machine that does other things, too, this finds
/// out whoever waits for a timer on the way.
#[test]
fn a_pause_for_a_call_adds_little_to_the_call() {
    const ROUNDS: usize = 5;
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    origin.route("/*", Reply::new(200).body("x"));
    let server = start(&origin, &upstream(&upstream_server), "");
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.extend(times(server.port(), "call.test", &[], 100));
        with.extend(times(server.port(), "call.test", &[("x-callout", "call path=/status/200")], 100));
    }
    let mut client = Client::connect(upstream_server.port());
    let direct = (0..500).map(|_| {
        let begin = Instant::now();
        assert_eq!(client.get("callout.test", "/status/200").status, 200);
        begin.elapsed()
    });
    let [with, without, direct] = [with, without, direct.collect()].map(median);
    let added = with.saturating_sub(without).saturating_sub(direct);
    println!("with a call {with:?}, without {without:?}, the call alone {direct:?}: added {added:?}");
    assert!(added < Duration::from_millis(2), "{added:?}");
}
