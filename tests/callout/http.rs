//! Requests and responses, over both versions.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use callout::{FailureKind, HttpRequest, Protocol, Refused};
use wasm_remap_tests::Upstream;

use crate::support::*;

#[test]
fn statuses_headers_and_bodies_come_whole() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let cluster = cluster(&settings(protocol, upstream.port()));
        for status in [200, 201, 404, 500] {
            let response = get(&cluster, &format!("/status/{status}"));
            assert_eq!(response.status, status);
            assert_eq!(response.headers[0], pairs(&[(":status", &status.to_string())])[0]);
            assert_eq!(text(&response), format!("status {status}"));
        }
        assert_eq!(get(&cluster, "/status/204").body, "");
        let response = get(&cluster, "/echo");
        assert_eq!(values(&response.headers, "x-twice"), ["first", "second"]);
        assert_eq!(values(&response.headers, "content-type"), ["text/plain"]);
        assert_eq!(cluster.stats().responses, 6);
    }
}

#[test]
fn the_server_has_what_was_asked() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let cluster = cluster(&settings(protocol, upstream.port()));
        let mut asked = request("POST", "/echo?q=1", "the body");
        asked.headers.extend(pairs(&[
            ("X-A", "1"),
            ("x-a", "2"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "3"),
        ]));
        let echo = text(&call(&cluster, asked, Some(PATIENCE)).expect("a response"));
        let first = match protocol {
            Protocol::Http1 => "POST /echo?q=1 HTTP/1.1\n",
            Protocol::Http2 => "POST http://asked.test/echo?q=1 HTTP/2.0\n",
        };
        assert!(echo.starts_with(first), "{echo}");
        assert!(echo.contains("header x-a: 1\nheader x-a: 2\n"), "{echo}");
        assert!(echo.contains("header content-length: 8\n"), "{echo}");
        assert!(echo.contains("body the body\n"), "{echo}");
        assert!(!echo.contains("x-hop"), "{echo}");
        assert_eq!(echo.contains("header host: asked.test\n"), protocol == Protocol::Http1, "{echo}");
    }
}

#[test]
fn trailers_go_both_ways() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let cluster = cluster(&settings(protocol, upstream.port()));
        let mut asked = request("GET", "/trailers", "");
        asked.headers.extend(pairs(&[("te", "trailers")]));
        let response = call(&cluster, asked, Some(PATIENCE)).expect("a response");
        assert_eq!(text(&response), "before the trailers");
        assert_eq!(response.trailers, pairs(&[("x-sum", "1"), ("x-more", "2")]));
        for (method, body) in [("POST", "body"), ("POST", ""), ("GET", "")] {
            let trailers = pairs(&[("x-one", "1"), ("x-two", "2")]);
            let asked = HttpRequest { trailers, ..request(method, "/echo", body) };
            let echo = text(&call(&cluster, asked, Some(PATIENCE)).expect("a response"));
            assert!(echo.ends_with(&format!("body {body}\ntrailer x-one: 1\ntrailer x-two: 2\n")), "{echo}");
        }
    }
}

#[test]
fn long_bodies_go_both_ways() {
    const LENGTH: usize = 10 << 20;
    let upstream = Upstream::start();
    for protocol in BOTH {
        let cluster =
            cluster(&callout::ClusterSettings { response_bytes: 11 << 20, ..settings(protocol, upstream.port()) });
        let response = get(&cluster, &format!("/body/{LENGTH}"));
        assert!(response.body.len() == LENGTH && response.body.iter().all(|&byte| byte == b'x'));
        let asked = request("POST", "/echo", vec![b'y'; LENGTH]);
        let response = call(&cluster, asked, Some(PATIENCE)).expect("a response");
        let echoed = &response.body[response.body.len() - 1 - LENGTH..];
        assert!(echoed.iter().take(LENGTH).all(|&byte| byte == b'y'));
    }
}

#[test]
fn a_body_over_the_limit_is_a_failure() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let cluster =
            cluster(&callout::ClusterSettings { response_bytes: 100_000, ..settings(protocol, upstream.port()) });
        assert_eq!(get(&cluster, "/body/100000").body.len(), 100_000);
        let message = fails(&cluster, "/body/100001", FailureKind::TooLarge);
        assert!(message.contains("100000 bytes (response_kib)"), "{message}");
        // The same connections serve on, or new ones do.
        assert_eq!(get(&cluster, "/body/5").body, "xxxxx");
    }
}

#[test]
fn head_requests_have_no_body() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let cluster = cluster(&callout::ClusterSettings { response_bytes: 10, ..settings(protocol, upstream.port()) });
        for _ in 0..2 {
            let response = call(&cluster, request("HEAD", "/body/100", ""), Some(PATIENCE)).expect("a response");
            assert_eq!((response.status, response.body.len()), (200, 0));
            assert_eq!(values(&response.headers, "content-length"), ["100"]);
        }
        assert_eq!(cluster.stats().connects, 1);
    }
}

#[test]
fn many_calls_at_once() {
    let upstream = Upstream::start();
    for protocol in BOTH {
        let cluster = cluster(&settings(protocol, upstream.port()));
        let calls: Vec<_> = (0..500)
            .map(|number| {
                begin(&cluster, request("POST", "/echo", format!("call {number}.")), Some(PATIENCE)).expect("a call")
            })
            .collect();
        for (number, (_call, receiver)) in calls.iter().enumerate() {
            let echo = text(&wait(receiver).expect("a response"));
            assert!(echo.contains(&format!("body call {number}.\n")), "{echo}");
        }
        let stats = cluster.stats();
        let most = if protocol == Protocol::Http1 { 64 } else { 3 };
        assert!(stats.connects <= most, "{stats:?}");
        assert_eq!((stats.responses, stats.in_flight), (500, 0));
    }
}

#[test]
fn interim_responses_are_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let cluster = cluster(&settings(Protocol::Http1, listener.local_addr().expect("an address").port()));
    let (_call, receiver) = begin(&cluster, request("GET", "/", ""), Some(PATIENCE)).expect("a call");
    let (mut stream, _) = listener.accept().expect("a connection");
    let _ = stream.read(&mut [0; 1000]).expect("a request");
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    stream.write_all(answer).expect("sent");
    let response = wait(&receiver).expect("a response");
    assert_eq!((response.status, text(&response)), (200, "hi".to_owned()));
}

#[test]
fn requests_that_cannot_be_sent_are_refused_at_once() {
    let cluster = cluster(&settings(Protocol::Http1, 1));
    for name in [":method", ":path", ":authority"] {
        let mut asked = request("GET", "/", "");
        asked.headers.retain(|(key, _)| key != name);
        match begin(&cluster, asked, None) {
            Err(Refused::BadRequest(what)) => assert!(what.contains(name), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cluster.stats().calls, 0);
}

#[test]
fn a_call_that_is_dropped_is_cancelled_and_a_detached_one_is_not() {
    let upstream = Upstream::start();
    for (index, protocol) in BOTH.into_iter().enumerate() {
        let cluster = cluster(&settings(protocol, upstream.port()));
        let (call, receiver) = begin(&cluster, request("GET", "/hang", ""), None).expect("a call");
        until("the request arrives", || upstream.requests_to("/hang") == index + 1);
        drop(call);
        until("the server sees it end", || upstream.given_up() == index + 1);
        assert!(receiver.recv().is_err(), "a cancelled call is not answered");
        until("it is counted", || cluster.stats().cancelled == 1 && cluster.stats().in_flight == 0);
        let (call, receiver) =
            begin(&cluster, request("GET", "/slow/50", ""), Some(Duration::from_secs(5))).expect("a call");
        call.detach();
        assert_eq!(wait(&receiver).expect("a response").status, 200);
    }
}
