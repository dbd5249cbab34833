//! Servers that fail, and what is tried again.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use callout::{Callouts, ClusterSettings, FailureKind, Options, Protocol, Refused};
use wasm_remap_tests::Upstream;

use crate::support::*;

#[test]
fn a_slow_server_is_timed_out() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let cluster = cluster(&settings(protocol, upstream.port()));
        for path in ["/slow/5000", "/hang"] {
            let start = Instant::now();
            let message = fails_in(&cluster, path, Duration::from_millis(100), FailureKind::Timeout);
            assert!(message.contains("timed out after 100ms before it answered"), "{message}");
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(2), "{took:?}");
        }
        assert_eq!(get(&cluster, "/status/200").status, 200);
        assert_eq!(cluster.stats().failed(FailureKind::Timeout), 2);
    }
    until("the server sees them end", || upstream.given_up() == 4);
}

#[test]
fn nobody_listens() {
    for protocol in BOTH {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let cluster = cluster(&ClusterSettings { retries: 2, ..settings(protocol, port) });
        let message = fails(&cluster, "/", FailureKind::Connect);
        assert!(message.contains(&format!("127.0.0.1:{port}: cannot connect: Connection refused")), "{message}");
        let stats = cluster.stats();
        assert_eq!((stats.retries, stats.connections), (2, 0));
    }
}

#[test]
fn a_connection_that_is_never_made_has_a_time_of_its_own() {
    // A backlog that is full drops what comes.
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).expect("a socket");
    rustix::net::bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    rustix::net::listen(&socket, 0).expect("listening");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("an address");
    let _taken: Vec<_> =
        (0..3).map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100))).collect();
    for protocol in BOTH {
        let cluster = cluster(&ClusterSettings {
            connect_timeout: Duration::from_millis(200),
            ..settings(protocol, address.port())
        });
        let message = fails(&cluster, "/", FailureKind::Connect);
        assert!(message.contains("no connection in 200ms (connect_timeout)"), "{message}");
    }
}

#[test]
fn a_response_that_breaks_off_is_never_asked_for_again() {
    let upstream = Upstream::start();
    for (index, protocol) in BOTH.into_iter().enumerate() {
        let cluster = cluster(&ClusterSettings { retries: 3, ..settings(protocol, upstream.port()) });
        let message = fails(&cluster, "/reset", FailureKind::Reset);
        assert!(message.contains("broke off"), "{message}");
        assert_eq!(upstream.requests_to("/reset"), index + 1);
        assert_eq!(cluster.stats().retries, 0);
    }
}

/// A server that ends each connection when it has read something of a request.
fn closing() -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = std::io::Read::read(&mut stream, &mut [0; 1000]);
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    (port, count)
}

#[test]
fn only_idempotent_requests_are_sent_again_after_a_reset() {
    let load = |count: &std::sync::atomic::AtomicUsize| count.load(std::sync::atomic::Ordering::SeqCst);
    let (port, count) = closing();
    let cluster = cluster(&ClusterSettings { retries: 2, ..settings(Protocol::Http1, port) });
    fails(&cluster, "/", FailureKind::Reset);
    assert_eq!(load(&count), 3);
    let failure = call(&cluster, request("POST", "/", "x"), Some(PATIENCE)).expect_err("a failure");
    assert_eq!(failure.kind, FailureKind::Reset, "{failure}");
    assert_eq!(load(&count), 4);
    assert_eq!(cluster.stats().retries, 2);
}

#[test]
fn the_timeout_covers_all_attempts() {
    let (port, _) = closing();
    let cluster = cluster(&ClusterSettings { retries: 1000, ..settings(Protocol::Http1, port) });
    let message = fails_in(&cluster, "/", Duration::from_millis(300), FailureKind::Timeout);
    assert!(message.contains("the attempt before"), "{message}");
    assert!(cluster.stats().retries >= 3);
}

#[test]
fn what_is_not_http_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = std::io::Read::read(&mut stream, &mut [0; 1000]);
            let _ = std::io::Write::write_all(&mut stream, b"220 mail.test ESMTP ready\r\n\r\n");
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let http1 = cluster(&settings(Protocol::Http1, port));
    fails(&http1, "/", FailureKind::Protocol);
    let http2 = cluster(&settings(Protocol::Http2, port));
    fails(&http2, "/", FailureKind::Protocol);
}

#[test]
fn the_circuit_limits_calls() {
    let upstream = Upstream::start();
    let cluster = cluster(&ClusterSettings { max_in_flight: 3, ..settings(Protocol::Http2, upstream.port()) });
    let calls: Vec<_> = (0..3).map(|_| begin(&cluster, request("GET", "/hang", ""), None).expect("a call")).collect();
    match begin(&cluster, request("GET", "/status/200", ""), None) {
        Err(Refused::Overflow(what)) => assert!(what.contains("max_in_flight"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.stats().overflows, 1);
    drop(calls);
    until("they are gone", || cluster.stats().in_flight == 0);
    assert_eq!(get(&cluster, "/status/200").status, 200);
}

#[test]
fn a_panic_in_an_answer_harms_nobody_else() {
    let upstream = Upstream::start();
    let cluster = cluster(&settings(Protocol::Http1, upstream.port()));
    let panics = Box::new(|_| panic!("on purpose"));
    cluster.http_call(request("GET", "/status/200", ""), Some(PATIENCE), panics).expect("a call").detach();
    until("it is over", || cluster.stats().in_flight == 0 && cluster.stats().calls == 1);
    assert_eq!(get(&cluster, "/status/200").status, 200);
}

#[test]
fn threads_begin_with_the_first_call_and_end_with_the_last_owner() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (started, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = |counter: &Arc<AtomicUsize>| -> Option<callout::Hook> {
        let counter = Arc::clone(counter);
        Some(Arc::new(move || {
            assert!(std::thread::current().name().is_some_and(|name| name.starts_with("wasm-callout-")));
            counter.fetch_add(1, Ordering::SeqCst);
        }))
    };
    let upstream = Upstream::start();
    let callouts =
        Callouts::new(Options { threads: 3, on_thread_start: count(&started), on_thread_stop: count(&stopped) });
    let cluster = callouts.cluster(&settings(Protocol::Http1, upstream.port())).expect("a cluster");
    assert_eq!(started.load(Ordering::SeqCst), 0);
    for _ in 0..10 {
        get(&cluster, "/status/200");
    }
    until("they start", || started.load(Ordering::SeqCst) == 3);
    drop(callouts);
    get(&cluster, "/status/200");
    assert_eq!(stopped.load(Ordering::SeqCst), 0);
    drop(cluster);
    until("they stop", || stopped.load(Ordering::SeqCst) == 3);
    until("the server sees it", || upstream.open_connections() == 0);
}
