//! What is held has a limit, and what is not held takes no memory.

use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Ask, Client, Http2, Reply, Request, Sending, TrafficServer};

use super::{KIB, MB, PATIENCE, body, builder, expected, origin};

#[test]
fn a_request_that_is_held_beyond_the_limit_is_too_large() {
    let origin = origin();
    let server = builder(&origin).start();
    for http2 in [false, true] {
        for sending in [Sending::Length, Sending::Chunked(10_000)] {
            // What comes with the end is not held any more, so that a stream's limit is sharp to a piece of it.
            for (host, operation, len, status) in [
                ("stream.test", "hold", 1024 * KIB, 200),
                ("stream.test", "hold", 2048 * KIB, 413),
                ("stream.test", "hold", 10 * MB, 413),
                ("buffer.test", "pass", 1024 * KIB, 200),
                ("buffer.test", "pass", 1024 * KIB + 1, 413),
                ("buffer.test", "hold", 10 * MB, 413),
            ] {
                let what = format!("{host}, {operation}, {len} bytes, {sending:?}, HTTP/2: {http2}");
                origin.take_requests();
                let ask = Ask::post(host, "/up", body(len)).sending(sending.clone());
                let ask = ask.header("x-op", &format!("request:{operation}"));
                let got = if http2 {
                    Http2::connect(server.tls_port()).exchange(&ask).map_err(|error| error.to_string())
                } else {
                    Client::connect(server.port()).exchange(&ask).map_err(|error| error.to_string())
                };
                let response = got.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(response.status, status, "{what}");
                let whole = origin.take_requests().iter().filter(|request| request.broken.is_none()).count();
                assert_eq!(whole, usize::from(status == 200), "{what}: requests at the origin");
            }
        }
    }
    assert!(Client::connect(server.port()).exchange(&Ask::get("stream.test", "/up")).is_ok());
}

/// 503 in place of a response of which nothing was sent; else what was sent must not look whole.
#[test]
fn a_response_that_is_held_beyond_the_limit_fails() {
    let origin = origin();
    // In pieces: its head has gone out before the limit is met.
    origin.route("/late/*", |request: &Request| {
        let reply = Reply::new(200).payload(body(10 * MB));
        let reply = if request.path().ends_with("chunked") { reply.chunked(10_000) } else { reply };
        reply.trickle(200_000, Duration::from_millis(20))
    });
    let server = builder(&origin).start();
    for framing in ["cl", "chunked"] {
        for (len, status) in [(1024 * KIB, 200), (2048 * KIB, 503), (10 * MB, 503)] {
            for turn in ["miss", "hit"] {
                let what = format!("{framing}, {len} bytes, {turn}");
                let ask = Ask::get("stream.test", &format!("/down/{framing}/{len}")).header("x-op", "response:hold");
                let response = Client::connect(server.port()).exchange(&ask);
                let response = response.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(response.status, status, "{what}");
            }
        }
        for http2 in [false, true] {
            let ask = Ask::get("stream.test", &format!("/late/{framing}"));
            let ask = ask.header("x-op", "response:late:200000");
            let (status, len) = if http2 {
                let error = Http2::connect(server.tls_port()).exchange(&ask);
                // A reset may come to the client before it has read the head.
                let partial = error.expect_err("a response that was cut").partial;
                partial.map_or((200, 0), |partial| (partial.status, partial.body_len))
            } else {
                let error = Client::connect(server.port()).exchange(&ask);
                let partial = error.expect_err("a response that was cut").partial.expect("its head");
                (partial.status, partial.body_len)
            };
            assert!(status == 200 && len < 9_000_000, "{framing}, HTTP/2 {http2}: {status}, {len} bytes");
        }
    }
    // The object is whole all the same.
    let response = Client::connect(server.port()).get("plain.test", "/down/cl/10000000?late");
    assert_eq!((response.body_len, response.body_hash), (10 * MB, body(10 * MB).hash()));
}

/// The most memory that the server has while `stop` does not say so.
fn peak(server: &TrafficServer, time: Duration) -> u64 {
    let begin = std::time::Instant::now();
    let mut most = server.rss_kib();
    while begin.elapsed() < time {
        thread::sleep(Duration::from_millis(20));
        most = most.max(server.rss_kib());
    }
    most
}

/// A filter that passes a body is no reservoir: whoever does not read stops whoever sends.
#[test]
fn a_slow_reader_slows_the_sender() {
    /// Buffers of ATS on the way, sockets not counted.
    const BOUND_KIB: u64 = 24 << 10;
    let origin = origin();
    let server = builder(&origin).start();
    // Buffers that everything needs are there before.
    for http2 in [false, true] {
        for (method, path) in [("GET", "/down/cl/30000000?warm"), ("POST", "/up")] {
            let ask = Ask::new(method, "stream.test", path);
            let ask = if method == "POST" { ask.body(body(30 * MB)) } else { ask };
            let done = if http2 {
                Http2::connect(server.tls_port()).discard_bodies().exchange(&ask).map_err(|error| error.to_string())
            } else {
                Client::connect(server.port()).discard_bodies().exchange(&ask).map_err(|error| error.to_string())
            };
            assert_eq!(done.map(|response| response.status), Ok(200), "{path}, HTTP/2 {http2}");
        }
    }
    for (framing, operation) in [("cl", "pass"), ("chunked", "append")] {
        let before = server.rss_kib();
        let mut client = Client::connect(server.port()).small_window(64 << 10).discard_bodies();
        let order = format!("response:{operation}");
        client.send_request("GET", "stream.test", &format!("/down/{framing}/100000000"), &[("x-op", &order)], b"");
        let most = peak(&server, Duration::from_secs(2));
        let growth = most.saturating_sub(before);
        println!("a response of 100 MB that is not read, {framing}, {operation}: {growth} KiB more");
        let response = client.read_response();
        let expected = expected(operation, 100 * MB);
        assert_eq!((response.body_len, response.body_hash), (expected.len(), expected.hash()));
        assert!(growth < BOUND_KIB, "{growth} KiB");
    }
    for sending in [Sending::Length, Sending::Chunked(10_000)] {
        let before = server.rss_kib();
        origin.slow_reader(4096, Duration::from_millis(50));
        let ask = Ask::post("stream.test", "/up", body(100 * MB)).sending(sending.clone());
        // A connection of its own, which reads slowly from its first byte on.
        let port = server.port();
        let sender = thread::spawn(move || Client::connect(port).timeout(PATIENCE * 3).exchange(&ask));
        let most = peak(&server, Duration::from_secs(2));
        origin.slow_reader(usize::MAX, Duration::ZERO);
        let growth = most.saturating_sub(before);
        println!("a request of 100 MB that is not read, {sending:?}: {growth} KiB more");
        let response = sender.join().expect("the sender ends").expect("a response");
        let last = origin.last();
        assert_eq!((response.status, last.body_len, last.body_hash), (200, 100 * MB, body(100 * MB).hash()));
        assert!(growth < BOUND_KIB, "{growth} KiB");
    }
    // By HTTP/2, where the window is the client's word.
    // Streams share a connection, on which nothing shows how much waits for one of them: here it is ATS that holds back,
    // if it is told to.
    let server = builder(&origin)
        .record("proxy.config.http.flow_control.enabled", 1)
        .record("proxy.config.http.flow_control.high_water", 1 << 20)
        .record("proxy.config.http.flow_control.low_water", 1 << 19)
        .start();
    let before = server.rss_kib();
    let mut client = Http2::try_connect(server.tls_port(), 65_535).expect("a connection");
    let mut exchange = client.open(&Ask::get("stream.test", "/down/cl/100000000")).expect("a stream");
    assert_eq!(client.head(&mut exchange).expect("a head"), 200);
    let most = peak(&server, Duration::from_secs(2));
    let growth = most.saturating_sub(before);
    println!("a response of 100 MB that is not read, HTTP/2: {growth} KiB more");
    assert_eq!(client.read(&mut exchange, 100 * MB).expect("the rest"), 100 * MB);
    assert!(growth < BOUND_KIB, "{growth} KiB");
}
