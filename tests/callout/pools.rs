//! Connections: kept, limited, found dead, and closed.

use std::sync::mpsc::channel;
use std::time::Duration;

use callout::{ClusterSettings, Options, Protocol};
use wasm_remap_tests::Upstream;

use crate::support::*;

#[test]
fn connections_are_kept_and_closed_when_idle() {
    let upstream = Upstream::start();
    for (index, protocol) in BOTH.into_iter().enumerate() {
        let idle_timeout = Duration::from_millis(200);
        let cluster = cluster(&ClusterSettings { idle_timeout, ..settings(protocol, upstream.port()) });
        for _ in 0..20 {
            get(&cluster, "/status/200");
        }
        assert_eq!(upstream.connections(), index + 1);
        until("it is closed", || upstream.open_connections() == 0 && cluster.stats().connections == 0);
    }
}

#[test]
fn calls_beyond_the_connections_wait_their_turn() {
    let upstream = Upstream::start();
    let cluster = cluster(&ClusterSettings { max_connections: 2, ..settings(Protocol::Http1, upstream.port()) });
    let calls: Vec<_> =
        (0..10).map(|_| begin(&cluster, request("GET", "/slow/20", ""), Some(PATIENCE)).expect("a call")).collect();
    for (_call, receiver) in &calls {
        assert_eq!(wait(receiver).expect("a response").status, 200);
    }
    assert_eq!(upstream.connections(), 2);
    let _hanging: Vec<_> =
        (0..2).map(|_| begin(&cluster, request("GET", "/hang", ""), None).expect("a call")).collect();
    until("they hang", || upstream.requests_to("/hang") == 2);
    let timeout = Duration::from_millis(50);
    let message = fails_in(&cluster, "/status/200", timeout, callout::FailureKind::Timeout);
    assert!(message.contains("max_connections"), "{message}");
}

#[test]
fn streams_beyond_the_servers_limit_have_another_connection() {
    let upstream = Upstream::builder().max_streams(4).start();
    let cluster = cluster(&ClusterSettings { max_connections: 3, ..settings(Protocol::Http2, upstream.port()) });
    // By then the server has said its limit.
    get(&cluster, "/status/200");
    let calls: Vec<_> =
        (0..30).map(|_| begin(&cluster, request("GET", "/slow/30", ""), Some(PATIENCE)).expect("a call")).collect();
    for (_call, receiver) in &calls {
        assert_eq!(wait(receiver).expect("a response").status, 200);
    }
    assert_eq!(upstream.connections(), 3);
}

#[test]
fn a_connection_that_died_in_the_pool_is_not_the_calls_trouble() {
    for protocol in BOTH {
        let mut upstream = Upstream::start();
        let cluster = cluster(&settings(protocol, upstream.port()));
        for _ in 0..50 {
            // Not idempotent, and there are no retries.
            let answer = call(&cluster, request("POST", "/echo", "x"), Some(PATIENCE));
            assert_eq!(answer.expect("a response").status, 200);
            upstream.start_again();
        }
        assert_eq!(cluster.stats().retries, 0);
    }
}

#[test]
fn thousands_of_calls_leave_nothing_behind() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let callouts = callout::Callouts::new(Options::default());
        let idle_timeout = Duration::from_millis(100);
        let settings = ClusterSettings { idle_timeout, ..settings(protocol, upstream.port()) };
        let cluster = callouts.cluster(&settings).expect("a cluster");
        let (sender, receiver) = channel();
        for _ in 0..10_000 {
            let sender = sender.clone();
            let done = Box::new(move |answer| {
                let _ = sender.send(answer);
            });
            cluster.http_call(request("GET", "/status/200", ""), Some(PATIENCE), done).expect("a call").detach();
            assert_eq!(wait(&receiver).expect("a response").status, 200);
        }
        let stats = cluster.stats();
        assert_eq!((stats.connects, stats.responses), (1, 10_000));
        assert!(callouts.tasks() <= 4, "{} tasks", callouts.tasks());
        until("nothing is left", || callouts.tasks() == 0 && cluster.stats().connections == 0);
        until("nothing is open at the server", || upstream.open_connections() == 0);
    }
}
