//! The breaker in a server: it opens, tries and closes by itself, and is seen; and a storm of traps leaves nothing behind.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::harness::ports::Lease;
use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer, get, load, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A number of the filter `guard`, as the endpoint shows it.
fn metric(lease: &Lease, name: &str) -> Option<f64> {
    wait_until(PATIENCE, "the endpoint", || Client::try_connect(lease.port()).ok());
    let text = get(lease.port(), "localhost", "/metrics", &[]).text();
    let prefix = format!("wasm_remap_rule_{name}{{");
    let line = text.lines().find(|line| line.starts_with(&prefix) && line.contains("filter=\"guard\""))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_breaker_in_a_server_opens_probes_and_closes_by_itself() {
    let origin = Origin::start();
    origin.route("/*", Reply::new(200).body("from the origin"));
    let lease = Lease::take();
    let server = TrafficServer::builder()
        .origin(&origin)
        .stats()
        .variable("metrics", &lease.port().to_string())
        .rule(Rule::new("guarded.test", "http://{origin}/").wasm(["guard.yaml"]))
        .rule(Rule::new("also.test", "http://{origin}/").wasm(["guard.yaml"]))
        .file(
            "guard.yaml",
            "metrics: {listen: '127.0.0.1:{metrics}'}\nfilters:\n  - name: guard\n    module: {guest:trap}\n    \
             failure_policy: {status: 503, body: \"the guard is away\\n\", content_type: text/x-guard, headers: {retry-after: '1'}}\n    \
             breaker: {failures: 10, pause_ms: 400, max_pause_ms: 400}\n",
        )
        .start();
    let bad = [("x-trap", "on_request_headers"), ("x-trap-kind", "unreachable")];
    let ask =
        |host: &str, headers: &[(&str, &str)]| Client::connect(server.port()).request("GET", host, "/", headers, b"");
    let is_refused = |response: &wasm_remap_tests::Response| {
        assert_eq!((response.status, response.reason.as_str()), (503, "Service Unavailable"));
        assert_eq!(response.text(), "the guard is away\n");
        assert_eq!(response.header("content-type").as_deref(), Some("text/x-guard"));
        assert_eq!(response.header("retry-after").as_deref(), Some("1"));
    };
    assert_eq!(ask("guarded.test", &[]).status, 200);
    assert_eq!(metric(&lease, "breaker_state"), Some(0.0));
    // A bad request among good ones is that and no more.
    for _ in 0..3 {
        is_refused(&ask("guarded.test", &bad));
        assert_eq!(ask("guarded.test", &[]).status, 200);
    }
    assert_eq!((metric(&lease, "breaker_state"), metric(&lease, "breaker_opens_total")), (Some(0.0), Some(0.0)));
    // A storm of them is more. Both threads, and both rules.
    let mut sent = 0;
    while metric(&lease, "breaker_state") != Some(2.0) {
        sent += 1;
        assert!(sent < 100, "it does not open");
        is_refused(&ask(if sent % 2 == 0 { "guarded.test" } else { "also.test" }, &bad));
    }
    let reached = origin.request_count();
    is_refused(&ask("also.test", &[]));
    is_refused(&ask("guarded.test", &[]));
    assert_eq!(origin.request_count(), reached, "nobody reaches the origin past a guard that is set aside");
    let line = server.wait_for_log("is set aside for", PATIENCE);
    assert!(line.contains("filter 'guard'") && line.contains("transactions are answered 503"), "{line}");
    let counters = server.counters("a filter set aside", |counters| counters["filters_set_aside"] == 1);
    assert!(counters["breaker_opens"] >= 1 && counters["breaker_rejected"] >= 1, "{counters:?}");
    // On trial it fails, and is away again; then it is well.
    let before = counters["traps"];
    let begin = Instant::now();
    while server.metric("wasm_remap.traps").is_none_or(|traps| traps <= before) {
        assert!(begin.elapsed() < PATIENCE, "nobody tries");
        is_refused(&ask("guarded.test", &bad));
        thread::sleep(Duration::from_millis(20));
    }
    wait_until(PATIENCE, "an end of the pause", || (ask("also.test", &[]).status == 200).then_some(()));
    wait_until(PATIENCE, "a closed breaker", || (metric(&lease, "breaker_state") == Some(0.0)).then_some(()));
    let line = server.wait_for_log("went well on trial, and is taken back", PATIENCE);
    assert!(line.contains("filter 'guard'"), "{line}");
    server.wait_for_log("filter 'guard' is on trial", PATIENCE);
    for _ in 0..10 {
        assert_eq!((ask("guarded.test", &[]).status, ask("also.test", &[]).status), (200, 200));
    }
    let counters = server.counters("nobody set aside", |counters| {
        counters["filters_set_aside"] == 0 && counters["streams_created"] == counters["streams_deleted"]
    });
    println!(
        "opened {} times, {} transactions were decided without the filter, {} traps",
        counters["breaker_opens"], counters["breaker_rejected"], counters["traps"]
    );
    assert!(counters["breaker_opens"] >= 2);
}

/// As many requests as `WASM_REMAP_STORM` says, each of which traps: one half with the breaker off, the other with it on.
#[test]
fn a_storm_of_traps_in_a_server_leaks_nothing() {
    let requests: u64 = env::var("WASM_REMAP_STORM").map_or(20_000, |count| count.parse().expect("a number"));
    let origin = Origin::start();
    origin.discard();
    let file = |breaker: &str| {
        format!(
            "filters:\n  - name: storm\n    module: {{guest:trap}}\n    vm_id: {breaker}\n    breaker: {breaker}\n    \
             configuration: {{at: on_request_headers, kind: unreachable}}\n"
        )
    };
    let server = TrafficServer::builder()
        .origin(&origin)
        .stats()
        .rule(Rule::new("off.test", "http://{origin}/").wasm(["off.yaml"]))
        .rule(Rule::new("on.test", "http://{origin}/").wasm(["on.yaml"]))
        .file("off.yaml", &file("off"))
        .file("on.yaml", &file("on"))
        .start();
    let storm = |host: &str, count: u64| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let report = load::requests(server.port(), request.as_bytes(), count, 8, &[503]);
        assert_eq!((report.requests, report.errors.total()), (count, 0), "{host}: {:?}", report.errors);
        report
    };
    // The statistics are brought up to date once a second: those of all transactions are waited for.
    let settled = |transactions: u64| {
        let transactions = i64::try_from(transactions).expect("a number of requests");
        server.counters("quiet", |counters| {
            counters["transactions"] == transactions
                && counters["streams_created"] == counters["streams_deleted"]
                && counters["vms"] == 4
                && counters["vms_built"] - counters["vms_dropped"] == 4
        })
    };
    // What grows once: buffers, the allocator's arenas.
    let warm = requests / 10;
    storm("off.test", warm);
    storm("on.test", warm);
    let before = settled(2 * warm);
    let (rss, mappings) = (server.rss_kib(), server.mappings());
    let off = storm("off.test", requests / 2);
    let middle = settled(2 * warm + requests / 2);
    let on = storm("on.test", requests / 2);
    let after = settled(2 * warm + requests / 2 * 2);
    let (grown, mapped) = (server.rss_kib().saturating_sub(rss), server.mappings());
    let trapped = middle["traps"] - before["traps"];
    println!(
        "{requests} requests that trap. Breaker off: {trapped} traps at {:.0} requests/s; on: {} traps, {} rejected at {:.0} \
         requests/s. RSS {rss} KiB and {grown} more, {mappings} mappings and then {mapped}",
        off.rate,
        after["traps"] - middle["traps"],
        after["breaker_rejected"],
        on.rate
    );
    let half = i64::try_from(requests / 2).expect("a number of requests");
    assert!(trapped * 100 >= half * 99, "{trapped} of {half} trapped");
    assert!(after["traps"] - middle["traps"] < half / 10 + 100, "the breaker lets few in: {after:?}");
    assert!(after["breaker_rejected"] >= half * 9 / 10 - 100, "{after:?}");
    assert_eq!(after["roots_created"] - after["roots_deleted"], 4, "one a thread and filter");
    assert_eq!(after["panics"], 0);
    assert!(grown < 32 << 10, "{grown} KiB more");
    assert!(mapped < mappings + 100, "{mappings} mappings, and then {mapped}");
}
