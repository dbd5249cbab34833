//! Names, several endpoints, and those that fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use callout::{ClusterSettings, Ejection, FailureKind, Protocol};
use wasm_remap_tests::Upstream;

use crate::support::*;

#[test]
fn a_name_is_looked_up() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let endpoints = vec![endpoint("localhost", upstream.port())];
        // The name may have an IPv6 address too, where nobody listens.
        let cluster = cluster(&ClusterSettings { endpoints, retries: 1, ..settings(protocol, 1) });
        for _ in 0..4 {
            assert_eq!(get(&cluster, "/status/200").status, 200);
        }
    }
}

#[test]
fn a_name_that_is_unknown_fails_at_once_for_all_that_wait() {
    let cluster =
        cluster(&ClusterSettings { endpoints: vec![endpoint("unknown.invalid", 80)], ..settings(Protocol::Http1, 1) });
    let calls: Vec<_> =
        (0..50).map(|_| begin(&cluster, request("GET", "/", ""), Some(PATIENCE)).expect("a call")).collect();
    for (_call, receiver) in &calls {
        let failure = wait(receiver).expect_err("no such name");
        assert_eq!(failure.kind, FailureKind::Dns, "{failure}");
        assert!(failure.message.contains("`unknown.invalid`"), "{failure}");
    }
    assert_eq!(cluster.stats().failed(FailureKind::Dns), 50);
}

#[test]
fn names_that_are_known_serve_beside_those_that_are_not() {
    let upstream = Upstream::start();
    let endpoints = vec![endpoint("unknown.invalid", 80), endpoint("127.0.0.1", upstream.port())];
    let cluster = cluster(&ClusterSettings { endpoints, ..settings(Protocol::Http1, 1) });
    for _ in 0..4 {
        assert_eq!(get(&cluster, "/status/200").status, 200);
    }
}

#[test]
fn a_name_is_looked_up_again_and_its_connections_stay() {
    let upstream = Upstream::start();
    let endpoints = vec![endpoint("localhost", upstream.port())];
    let dns_refresh = Duration::from_millis(20);
    let cluster = cluster(&ClusterSettings { endpoints, dns_refresh, retries: 1, ..settings(Protocol::Http1, 1) });
    for _ in 0..10 {
        assert_eq!(get(&cluster, "/status/200").status, 200);
        std::thread::sleep(Duration::from_millis(15));
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn endpoints_take_turns() {
    let upstreams: Vec<_> = (0..3).map(|_| Upstream::start()).collect();
    let endpoints = upstreams.iter().map(|upstream| endpoint("127.0.0.1", upstream.port())).collect();
    let cluster = cluster(&ClusterSettings { endpoints, ..settings(Protocol::Http2, 1) });
    for _ in 0..30 {
        get(&cluster, "/status/200");
    }
    for upstream in &upstreams {
        assert_eq!(upstream.requests(), 10);
    }
}

#[test]
fn an_endpoint_that_dies_is_left_out_and_comes_back() {
    for protocol in BOTH {
        let (steady, mut dying) = (Upstream::start(), Upstream::start());
        let endpoints = vec![endpoint("127.0.0.1", steady.port()), endpoint("127.0.0.1", dying.port())];
        let ejection = Some(Ejection { failures: 3, duration: Duration::from_millis(300) });
        let cluster = cluster(&ClusterSettings { endpoints, ejection, retries: 1, ..settings(protocol, 1) });
        for _ in 0..10 {
            get(&cluster, "/status/200");
        }
        assert_eq!((steady.requests(), dying.requests()), (5, 5));
        dying.stop();
        // The retry finds the other one: nobody notices.
        for _ in 0..20 {
            get(&cluster, "/status/200");
        }
        let stats = cluster.stats();
        assert_eq!((stats.ejected, stats.ejections), (1, 1), "{stats:?}");
        assert!(stats.retries >= 3 && stats.retries < 10, "{stats:?}");
        dying.start_again();
        let start = Instant::now();
        until("it serves again", || {
            get(&cluster, "/status/200");
            dying.requests() > 10
        });
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(cluster.stats().ejected, 0);
    }
}

#[test]
fn gateways_that_say_that_nobody_is_there_are_left_out_and_all_left_out_are_all_used() {
    let upstream = Upstream::start();
    let ejection = Some(Ejection { failures: 2, duration: Duration::from_secs(60) });
    let cluster = cluster(&ClusterSettings { ejection, ..settings(Protocol::Http1, upstream.port()) });
    for status in [500, 503, 500, 503, 404, 502, 504] {
        assert_eq!(get(&cluster, &format!("/status/{status}")).status, status);
    }
    assert_eq!(cluster.stats().ejected, 1);
    assert_eq!(get(&cluster, "/status/200").status, 200);
    assert_eq!(cluster.stats().ejected, 0, "a success brings it back");
}

#[test]
fn equal_settings_are_the_same_cluster_while_it_is_in_use() {
    let upstream = Upstream::builder().tls().start();
    let callouts = callouts();
    let tls = Some(trusting(&upstream.ca_file()));
    let settings = ClusterSettings { tls, ..settings(Protocol::Http1, upstream.port()) };
    let first = callouts.cluster(&settings).expect("a cluster");
    get(&first, "/status/200");
    let second = callouts.cluster(&settings.clone()).expect("a cluster");
    assert!(Arc::ptr_eq(&first, &second));
    let other = callouts.cluster(&ClusterSettings { retries: 9, ..settings.clone() }).expect("a cluster");
    assert!(!Arc::ptr_eq(&first, &other));
    // A file with other contents is another cluster.
    let more = format!("{}{}", upstream.ca_pem(), upstream.ca_pem());
    std::fs::write(upstream.ca_file(), more).expect("written");
    let changed = callouts.cluster(&settings).expect("a cluster");
    assert!(!Arc::ptr_eq(&first, &changed));
    drop((first, second, changed, other));
    assert_eq!(callouts.cluster(&settings).expect("a cluster").stats().calls, 0);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let good = settings(Protocol::Http1, 80);
    let told = |settings: ClusterSettings| callouts().cluster(&settings).expect_err("an error").to_string();
    assert!(told(ClusterSettings { endpoints: Vec::new(), ..good.clone() }).contains("no endpoints"));
    assert!(told(ClusterSettings { endpoints: vec![endpoint("a b", 80)], ..good.clone() }).contains("`a b`"));
    assert!(told(ClusterSettings { endpoints: vec![endpoint("a", 0)], ..good.clone() }).contains("a port"));
    assert!(told(ClusterSettings { max_connections: 0, ..good.clone() }).contains("max_connections"));
    assert!(told(ClusterSettings { name: String::new(), ..good }).contains("no name"));
}
