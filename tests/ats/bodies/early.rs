//! Bodies that end before their end: nobody is to take a part for the whole.

use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::{Ask, Client, Http2, Reply, Request, Sending, wait_until};

use super::{MB, PATIENCE, body, builder, origin};

/// The origin goes away in the middle of a response.
#[test]
fn a_response_that_breaks_off_is_not_taken_for_whole() {
    let origin = origin();
    origin.route("/cut/*", |request: &Request| {
        let reply = Reply::new(200).payload(body(300_000)).cacheable(600);
        let reply = if request.path().contains("chunked") { reply.chunked(10_000) } else { reply };
        if request.path().contains("reset") { reply.reset_after(150_000) } else { reply.close_after(150_000) }
    });
    let server = builder(&origin).start();
    let mut failures = Vec::new();
    for http2 in [false, true] {
        for framing in ["cl", "chunked"] {
            for how in ["reset", "close"] {
                for operation in ["pass", "append", "hold", "replace"] {
                    let what = format!("{framing}, {how}, {operation}, HTTP/2 {http2}");
                    let mark = server.mark();
                    let ask = Ask::get("stream.test", &format!("/cut/{framing}/{how}?{operation}"));
                    let ask = ask.header("x-op", &format!("response:{operation}")).header("x-story", "1");
                    let whole = if http2 {
                        Http2::connect(server.tls_port())
                            .patience(PATIENCE / 5)
                            .exchange(&ask)
                            .map(|response| response.status)
                            .ok()
                    } else {
                        Client::connect(server.port())
                            .timeout(PATIENCE / 5)
                            .exchange(&ask)
                            .map(|response| response.status)
                            .ok()
                    };
                    // A body of which nothing was sent may become an error.
                    if whole.is_some_and(|status| status < 500) {
                        failures.push(format!("{what}: a whole response, {whole:?}"));
                    }
                    let begin = Instant::now();
                    let lines = loop {
                        let lines = server.lines_since(mark);
                        if lines.iter().any(|line| line.contains(" info: body: delete")) {
                            break lines;
                        }
                        if begin.elapsed() > PATIENCE / 5 {
                            failures.push(format!("{what}: the transaction does not end"));
                            break lines;
                        }
                        thread::sleep(Duration::from_millis(5));
                    };
                    if lines.iter().any(|line| line.contains("response_body") && line.contains(" eos")) {
                        failures.push(format!("{what}: the filter was told that this was the end"));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Nothing of it is in the cache.
    let before = origin.request_count();
    let _ = Client::connect(server.port()).exchange(&Ask::get("stream.test", "/cut/cl/reset?pass"));
    assert!(origin.request_count() > before, "a part was served from the cache");
    assert_eq!(Client::connect(server.port()).get("stream.test", "/up").text(), "got it");
}

/// The client goes away in the middle of its request.
#[test]
fn a_request_that_breaks_off_is_not_taken_for_whole() {
    let origin = origin();
    let server = builder(&origin).start();
    for host in ["stream.test", "buffer.test"] {
        for sending in [Sending::Length, Sending::Chunked(10_000)] {
            for operation in ["pass", "append", "hold", "replace"] {
                for end in ["reset", "close", "HTTP/2 reset", "HTTP/2 connection"] {
                    // For time's sake.
                    if end.starts_with("HTTP/2") && !matches!(operation, "pass" | "hold") {
                        continue;
                    }
                    let what = format!("{host}, {sending:?}, {operation}, {end}");
                    origin.take_requests();
                    let mark = server.mark();
                    let ask = Ask::post(host, "/up", body(MB)).sending(sending.clone());
                    let ask = ask.header("x-op", &format!("request:{operation}")).header("x-story", "1");
                    let part = 50_000;
                    if end.starts_with("HTTP/2") {
                        let mut client = Http2::connect(server.tls_port());
                        let mut exchange = client.open(&ask).expect("a stream");
                        client.send(&mut exchange, part).expect("room");
                        client.wait(Duration::from_millis(20));
                        if end == "HTTP/2 reset" {
                            client.reset(exchange, 8);
                        } else {
                            drop(exchange);
                        }
                        client.abort();
                    } else {
                        let mut client = Client::connect(server.port());
                        client.send(ask.head());
                        ask.write_body(&mut client.writer(), part).expect("room");
                        thread::sleep(Duration::from_millis(20));
                        if end == "reset" {
                            client.abort();
                        }
                    }
                    let lines = wait_until(PATIENCE, &format!("the transaction's end: {what}"), || {
                        let lines = server.lines_since(mark);
                        lines.iter().any(|line| line.contains(" info: body: delete")).then_some(lines)
                    });
                    let told = lines.iter().any(|line| line.contains("request_body") && line.contains(" eos"));
                    assert!(!told, "{what}: the filter was told that this was the end");
                    let whole = origin.take_requests().into_iter().find(|request| request.broken.is_none());
                    assert!(whole.is_none(), "{what}: {whole:?}");
                }
            }
        }
    }
    assert_eq!(Client::connect(server.port()).get("stream.test", "/up").text(), "got it");
}

/// An origin that does not want the body answers on the head, and closes or does not: ATS takes the answer, or says 502.
#[test]
fn an_origin_that_answers_before_the_body_does_no_harm() {
    let origin = origin();
    origin.route_early("/early/close", Reply::new(200).body("early").close());
    origin.route_early("/early/keep", Reply::new(200).body("early"));
    let server = builder(&origin).start();
    for path in ["/early/close", "/early/keep"] {
        for host in ["none.test", "request.test", "stream.test", "buffer.test"] {
            for operation in ["pass", "append", "hold"] {
                for sending in [Sending::Length, Sending::Chunked(1000)] {
                    let what = format!("{path}, {host}, {operation}, {sending:?}");
                    for _ in 0..20 {
                        let Ok(mut client) = Client::try_connect(server.port()) else {
                            panic!("the server is gone, by {what}");
                        };
                        // Content-Length stays where the filter does not see the body.
                        let ask = Ask::post(host, path, body(600_000)).sending(sending.clone());
                        let ask = ask.header("x-op", &format!("request:{operation}"));
                        let ask = if host == "none.test" { ask.header("x-keep-cl", "1") } else { ask };
                        // While the body is still on its way, an answer may be lost with the connection.
                        if let Ok(response) = client.exchange(&ask) {
                            let answer = (response.status, response.text());
                            assert!(answer.0 == 502 || answer == (200, "early".to_owned()), "{what}: {answer:?}");
                        }
                        assert!(server.is_alive(), "the server is gone, by {what}");
                    }
                }
            }
        }
    }
}

/// The client goes away in the middle of a response: the cache may have the rest, a filter need not.
#[test]
fn a_client_that_leaves_a_response_leaves_nothing() {
    let origin = origin();
    let server = builder(&origin).start();
    for framing in ["cl", "chunked"] {
        for operation in ["pass", "append", "hold"] {
            for http2 in [false, true] {
                let mark = server.mark();
                let path = format!("/down/{framing}/30000000?{operation}");
                let ask = Ask::get("wide.test", &path).header("x-op", &format!("response:{operation}"));
                let ask = ask.header("x-story", "1");
                if http2 {
                    let mut client = Http2::try_connect(server.tls_port(), 65_535).expect("a connection");
                    let mut exchange = client.open(&ask).expect("a stream");
                    assert_eq!(client.head(&mut exchange).expect("a head"), 200, "{framing} {operation}");
                    client.read(&mut exchange, 100_000).expect("some of it");
                    client.reset(exchange, 8);
                    client.abort();
                } else {
                    let mut client = Client::connect(server.port()).small_window(65_536);
                    client.send(ask.head());
                    wait_until(PATIENCE, "the response begins", || (!client.is_open()).then_some(()));
                    client.abort();
                }
                wait_until(PATIENCE, &format!("the transaction's end: {framing} {operation} {http2}"), || {
                    server.lines_since(mark).iter().any(|line| line.contains(" info: body: delete")).then_some(())
                });
            }
        }
    }
    assert_eq!(Client::connect(server.port()).get("stream.test", "/up").text(), "got it");
}

/// The client stops sending what a filter holds: ATS answers when its time is up, and the answer does not wait for a body
/// that nobody will continue.
#[test]
fn a_client_that_stops_sending_what_a_filter_holds_is_timed_out() {
    let origin = origin();
    let server = builder(&origin).stats().record("proxy.config.http.transaction_no_activity_timeout_in", 1).start();
    let mut ends = Vec::new();
    for sending in [Sending::Length, Sending::Chunked(5000)] {
        let ask = Ask::post("stream.test", "/up", body(100_000)).sending(sending).header("x-op", "request:hold");
        let mut client = Client::connect(server.port()).timeout(PATIENCE);
        client.send(ask.head());
        ask.write_body(&mut client.writer(), 50_000).expect("a part of the body");
        ends.push(client.try_response_to("POST").map(|response| response.status).map_err(|error| error.to_string()));
    }
    assert_eq!(ends, [Ok(408), Ok(408)]);
    let counters = server.counters("the ends of both contexts", |counters| counters["streams_deleted"] == 2);
    assert_eq!((counters["pauses"] > 0, counters["traps"]), (true, 0));
}
