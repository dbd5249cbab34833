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
    let normally = normal * 3 + Duration::from_millis(5);
    assert!(plain < normally && filtered < normally, "{plain:?} and {filtered:?}, {normal:?} before");
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    upstream_server.release(HANGING);
    for client in &mut hanging {
        assert_eq!(reports(&client.read_response())[0].get("status"), "200");
    }
    nothing_is_left(&server, 1);
}

/// The bar is 150 µs, which `ats-bench --only callouts` measures with care. On a machine that does other things, too, the best
/// of several rounds finds out whoever waits for a timer on the way, and the slowest calls whoever does so now and then: ATS
/// looks again after 10 ms for a lock that it found taken.
#[test]
fn a_pause_for_a_call_adds_little_to_the_call() {
    const ROUNDS: usize = 10;
    const REQUESTS: usize = 200;
    let (upstream_server, origin) = (Upstream::start(), Origin::start());
    origin.route("/*", Reply::new(200).body("x"));
    let server = start(&origin, &upstream(&upstream_server), "");
    let mut client = Client::connect(upstream_server.port());
    let (mut added, mut late) = (Vec::new(), [0, 0]);
    for _ in 0..ROUNDS {
        let without = times(server.port(), "call.test", &[], REQUESTS);
        let with = times(server.port(), "call.test", &[("x-callout", "call path=/status/200")], REQUESTS);
        let direct = (0..REQUESTS).map(|_| {
            let begin = Instant::now();
            assert_eq!(client.get("callout.test", "/status/200").status, 200);
            begin.elapsed()
        });
        let direct = median(direct.collect());
        for (late, times) in late.iter_mut().zip([&without, &with]) {
            *late += times.iter().filter(|time| **time > Duration::from_millis(9)).count();
        }
        added.push(median(with).saturating_sub(median(without)).saturating_sub(direct));
    }
    added.sort_unstable();
    let [without, with] = late;
    println!("added {added:?}; of {} requests, {without} took 9 ms without a call, {with} with one", ROUNDS * REQUESTS);
    assert!(added[0] < Duration::from_millis(1), "{added:?}");
    assert!(with <= 2 * without + ROUNDS * REQUESTS / 100, "{with} calls came late, {without} requests without one");
}
