//! What has its own rules: HEAD, 204, 304, ranges, old clients, encodings, expectations, the two sides of the cache.

use std::time::Instant;

use wasm_remap_tests::{
    Ask, Client, Framing, Http2, Mark, Origin, Payload, Reply, Rule, Sending, TrafficServer, wait_until,
};

use super::{PATIENCE, body, builder, expected, filter, origin};

const APPEND: (&str, &str) = ("x-op", "response:append");

/// The text that guest `body` appends, behind this.
fn appended(text: &str) -> String {
    format!("{text}<appended>")
}

#[test]
fn heads_and_empty_responses_have_no_body_to_show() {
    let origin = origin();
    let head = Reply::new(200).cacheable(600).body("0123456789").header("ETag", "\"e\"");
    origin.route("/miss", head.clone());
    origin.route("/page", head);
    origin.route("/204", Reply::new(204).header("X-Is", "empty"));
    origin.route("/304", Reply::new(304).header("ETag", "\"e\""));
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    for operation in ["response:pass", "response:append", "response:hold", "response:replace"] {
        let order = [("x-op", operation)];
        assert_eq!(client.request("GET", "stream.test", "/page", &order, b"").status, 200, "{operation}");
        for path in ["/miss", "/page"] {
            let head = client.request("HEAD", "stream.test", path, &order, b"");
            assert_eq!((head.status, head.body_len), (200, 0), "{operation} {path}");
            // Where a filter has taken it away, ATS puts it back for HEAD, whatever the filter.
            let length = head.header("content-length");
            let taken = !matches!(operation, "response:pass" | "response:hold");
            assert!(length.as_deref() == Some("10") || (taken && length.is_none()), "{operation} {path}: {length:?}");
            assert!(client.is_open(), "{operation} {path}");
        }
        let empty = client.request("GET", "stream.test", "/204", &order, b"");
        assert_eq!((empty.status, empty.framing.clone(), empty.body_len), (204, Framing::None, 0), "{operation}");
        assert_eq!(empty.header("content-length"), None, "{operation}");
        // Of the origin's, and of the cache's making.
        for (path, tag) in [("/304", "\"other\""), ("/page", "\"e\"")] {
            let headers = [("x-op", operation), ("If-None-Match", tag)];
            let unchanged = client.request("GET", "stream.test", path, &headers, b"");
            assert_eq!((unchanged.status, unchanged.body_len), (304, 0), "{operation} {path}");
            assert!(!unchanged.headers.contains("transfer-encoding"), "{operation} {path}");
            assert!(client.is_open(), "{operation} {path}");
        }
    }
}

/// A part of a body means nothing to a filter that sees the whole: it gets the whole, and so does the client.
#[test]
fn ranges_are_of_the_whole_or_not_at_all() {
    let origin = origin();
    origin.route("/page", Reply::new(200).cacheable(600).header("ETag", "\"e\"").body("0123456789"));
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    let headers = [("Range", "bytes=2-5"), APPEND];
    for turn in ["miss", "hit", "hit again"] {
        let part = client.request("GET", "stream.test", "/page", &headers, b"");
        assert_eq!((part.status, part.text()), (200, appended("0123456789")), "{turn}");
        assert_eq!(part.header("content-range"), None, "{turn}");
    }
    assert_eq!(origin.request_count(), 1);
    assert!(!origin.last().headers.contains("range"), "the origin is asked for the whole");
    let part = client.request("GET", "none.test", "/page", &headers, b"");
    assert_eq!((part.status, part.text().as_str()), (206, "2345"), "without bodies, ranges are ATS's own");
    assert_eq!(part.header("content-range").as_deref(), Some("bytes 2-5/10"));
}

#[test]
fn old_clients_get_no_chunks() {
    let origin = origin();
    let server = builder(&origin).start();
    for framing in ["cl", "chunked", "close"] {
        for operation in ["pass", "append", "hold", "replace"] {
            for turn in ["miss", "hit"] {
                let what = format!("{framing} {operation} {turn}");
                let mut client = Client::connect(server.port());
                let ask = Ask::get("stream.test", &format!("/down/{framing}/100000?{operation}")).http10();
                let ask = ask.header("x-op", &format!("response:{operation}"));
                let response = client.exchange(&ask).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(!matches!(response.framing, Framing::Chunked { .. }), "{what}");
                let expected = expected(operation, 100_000);
                assert_eq!((response.body_len, response.body_hash), (expected.len(), expected.hash()), "{what}");
            }
        }
    }
}

/// An origin that does not say how long its body is.
#[test]
fn bodies_until_the_connections_end_are_framed_anew() {
    let origin = origin();
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    for operation in ["pass", "append", "inject", "hold", "replace"] {
        let order = format!("response:{operation}:50000");
        let ask = Ask::get("stream.test", &format!("/down/close/100000?{operation}")).header("x-op", &order);
        let response = client.exchange(&ask).unwrap_or_else(|error| panic!("{operation}: {error}"));
        let expected = expected(operation, 100_000);
        assert_eq!((response.body_len, response.body_hash), (expected.len(), expected.hash()), "{operation}");
        assert!(!matches!(response.framing, Framing::Close) && client.is_open(), "{operation}");
    }
}

#[test]
fn an_encoded_body_passes_as_it_is() {
    // `gzip -n` of "hello\n".
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcbH\xcd\xc9\xc9\xe7\x02\0 0:6\x06\0\0\0".as_slice();
    let origin = origin();
    let reply = Reply::new(200).cacheable(600).header("Content-Encoding", "gzip").header("Vary", "Accept-Encoding");
    origin.route("/gzip", reply.body(gzip));
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    for operation in ["pass", "read", "hold"] {
        let order = format!("response:{operation}");
        let headers = [("Accept-Encoding", "gzip"), ("x-op", order.as_str())];
        let response = client.request("GET", "stream.test", "/gzip", &headers, b"");
        assert_eq!((response.status, response.body.as_slice()), (200, gzip), "{operation}");
        assert_eq!(response.header("content-encoding").as_deref(), Some("gzip"), "{operation}");
    }
}

/// `at: client`: the cache keeps what the origin sent. `at: origin`: what the filter made of it. Never twice.
#[test]
fn a_body_is_changed_once_on_either_side_of_the_cache() {
    let origin = origin();
    for path in ["/client", "/origin", "/range"] {
        origin.route(path, Reply::new(200).cacheable(600).body("0123456789"));
    }
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    for (count, host, path) in [(1, "stream.test", "/client"), (2, "origin.test", "/origin")] {
        for turn in 0..4 {
            let response = client.request("GET", host, path, &[APPEND], b"");
            assert_eq!((response.status, response.text()), (200, appended("0123456789")), "{host}, turn {turn}");
            assert!(client.is_open(), "{host}, turn {turn}");
            assert_eq!(origin.request_count(), count, "{host}, turn {turn}");
        }
    }
    // A rule without filters sees what the cache has.
    assert_eq!(client.get("plain.test", "/client").text(), "0123456789");
    assert_eq!(client.get("plain.test", "/origin").text(), appended("0123456789"));
    // And the next filter changes that.
    let again = client.request("GET", "stream.test", "/origin", &[APPEND], b"");
    assert_eq!(again.text(), appended(&appended("0123456789")));
    assert_eq!(origin.request_count(), 2, "all of them hits");
    // What the cache has already changed may be served in parts.
    let range = client.request("GET", "origin.test", "/origin", &[("Range", "bytes=8-12")], b"");
    match range.status {
        206 => assert_eq!(range.text(), "89<ap"),
        status => assert_eq!((status, range.text()), (200, appended("0123456789"))),
    }
}

/// What a filter does not ask for it does not see, and it is as if there were no filter.
#[test]
fn a_filter_that_declines_bodies_is_not_in_their_way() {
    let origin = origin();
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    for (host, up, down) in [("none.test", false, false), ("request.test", true, false), ("response.test", false, true)]
    {
        // Content-Length is kept by hand, since the guest takes it away where it means to append.
        let order = [("x-op", "request:append"), ("x-keep-cl", "1")];
        if !up {
            let response = client.request("POST", host, "/up", &order, b"0123456789");
            assert_eq!(response.header("x-request-seen").as_deref(), Some("chunks=0 bytes=0 eos=0"), "{host}");
            assert_eq!((origin.last().body_len, origin.last().framing), (10, Framing::Length(10)), "{host}");
        } else {
            let response = client.request("POST", host, "/up", &[("x-op", "request:append")], b"0123456789");
            assert_eq!((response.status, origin.last().body_len), (200, 20), "{host}");
        }
        let order = [("x-op", "response:append"), ("x-keep-cl", "1")];
        if !down {
            let response = client.request("GET", host, "/down/cl/100000", &order, b"");
            assert_eq!((response.body_len, response.body_hash), (100_000, body(100_000).hash()), "{host}");
            assert_eq!(response.framing, Framing::Length(100_000), "{host}");
        } else {
            let response = client.request("GET", host, "/down/cl/100000", &[APPEND], b"");
            assert_eq!(response.body_len, 100_010, "{host}");
        }
        assert!(client.is_open());
    }
}

/// Whoever expects is told at once to go on, and a filter that answers can spare him the body.
#[test]
fn expectations_are_met_before_the_body_is_sent() {
    let origin = origin();
    let server = builder(&origin).start();
    for host in ["stream.test", "buffer.test"] {
        for operation in ["pass", "append", "hold"] {
            for sending in [Sending::Length, Sending::Chunked(1000)] {
                let what = format!("{host} {operation} {sending:?}");
                let mut client = Client::connect(server.port());
                let ask = Ask::post(host, "/up", body(10_000)).sending(sending).expect_continue();
                let ask = ask.header("x-op", &format!("request:{operation}"));
                let begin = Instant::now();
                let response = client.exchange(&ask).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!((response.status, response.interim.len()), (200, 1), "{what}");
                assert!(begin.elapsed() < PATIENCE / 5, "{what}: {:?}", begin.elapsed());
                let expected = expected(operation, 10_000);
                let last = origin.last();
                assert_eq!((last.body_len, last.body_hash), (expected.len(), expected.hash()), "{what}");
                assert!(client.is_open(), "{what}");
            }
        }
    }
}

/// Trailers and chunk extensions end at the proxy; the body is what counts.
#[test]
fn chunk_extensions_and_trailers_are_no_part_of_a_body() {
    let origin = origin();
    origin.route("/down-trailers", Reply::new(200).payload(body(50_000)).chunked(777).trailer("X-T", "v"));
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    for host in ["stream.test", "buffer.test"] {
        for operation in ["pass", "append", "hold", "replace"] {
            let ask = Ask::post(host, "/up", body(50_000)).sending(Sending::Chunked(777)).extension(";a=\"b;c\"");
            let ask = ask.trailer("X-T", "v").header("x-op", &format!("request:{operation}"));
            let response = client.exchange(&ask).unwrap_or_else(|error| panic!("{host} {operation}: {error}"));
            assert_eq!(response.status, 200, "{host} {operation}");
            let (expected, last) = (expected(operation, 50_000), origin.last());
            assert_eq!((last.body_len, last.body_hash), (expected.len(), expected.hash()), "{host} {operation}");
            assert!(client.is_open(), "{host} {operation}");
        }
    }
    for operation in ["pass", "append", "hold"] {
        let order = format!("response:{operation}");
        let response = client.request("GET", "stream.test", "/down-trailers", &[("x-op", &order)], b"");
        let expected = expected(operation, 50_000);
        assert_eq!((response.body_len, response.body_hash), (expected.len(), expected.hash()), "{operation}");
        assert!(client.is_open(), "{operation}");
    }
}

/// The callbacks of one transaction, several of a body taken for one, with the sum of their sizes.
fn story(server: &TrafficServer, mark: Mark) -> Vec<String> {
    let lines = wait_until(PATIENCE, "the transaction's end", || {
        let lines: Vec<String> = server.lines_since(mark);
        lines.iter().any(|line| line.contains(" info: body: delete")).then_some(lines)
    });
    let mut story: Vec<(String, u64, bool)> = Vec::new();
    for line in &lines {
        let Some((_, event)) = line.split_once(" info: body: ") else { continue };
        let mut words = event.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        if name == "seen" {
            continue;
        }
        let rest: Vec<&str> = words.collect();
        let size = rest.first().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let end = rest.contains(&"eos");
        match story.last_mut() {
            Some((last, sum, ended)) if *last == name => {
                assert!(!*ended, "{name} after its end: {lines:#?}");
                *sum += size;
                *ended = end;
            }
            _ => story.push((name, size, end)),
        }
    }
    let tell = |(name, size, end): (String, u64, bool)| match (name.ends_with("_body"), end) {
        (true, true) => format!("{name} {size} eos"),
        (true, false) => format!("{name} {size}"),
        (false, true) => format!("{name} eos"),
        (false, false) => name,
    };
    story.into_iter().map(tell).collect()
}

#[test]
fn callbacks_of_bodies_come_in_order() {
    let origin = origin();
    origin.route("/204", Reply::new(204));
    let server = builder(&origin).start();
    let end = ["done", "log", "delete"];
    let cases: [(&str, Ask, &[&str]); 7] = [
        (
            "a body each way",
            Ask::post("stream.test", "/up", body(200_000)),
            &["request_headers", "request_body 200000 eos", "response_headers", "response_body 6 eos"],
        ),
        (
            "a chunked one",
            Ask::post("stream.test", "/up", body(200_000)).sending(Sending::Chunked(1000)),
            &["request_headers", "request_body 200000 eos", "response_headers", "response_body 6 eos"],
        ),
        (
            "buffered",
            Ask::post("buffer.test", "/up", body(200_000)),
            &["request_headers", "request_body 200000 eos", "response_headers", "response_body 6 eos"],
        ),
        (
            "buffered, chunked",
            Ask::post("buffer.test", "/up", body(200_000)).sending(Sending::Chunked(1000)),
            &["request_headers", "request_body 200000 eos", "response_headers", "response_body 6 eos"],
        ),
        (
            "no body from the client",
            Ask::get("stream.test", "/down/cl/100000"),
            &["request_headers eos", "response_headers", "response_body 100000 eos"],
        ),
        (
            "from the cache",
            Ask::get("stream.test", "/down/cl/100000"),
            &["request_headers eos", "response_headers", "response_body 100000 eos"],
        ),
        ("no body at all", Ask::get("stream.test", "/204"), &["request_headers eos", "response_headers eos"]),
    ];
    for http2 in [false, true] {
        for (what, ask, expected) in &cases {
            let mark = server.mark();
            let ask = ask.clone().header("x-story", "1");
            let status = if http2 {
                Http2::connect(server.tls_port()).exchange(&ask).map(|response| response.status).ok()
            } else {
                Client::connect(server.port()).exchange(&ask).map(|response| response.status).ok()
            };
            assert!(matches!(status, Some(200 | 204)), "{what}: {status:?}");
            let expected: Vec<&str> = expected.iter().chain(&end).copied().collect();
            assert_eq!(story(&server, mark), expected, "{what}, HTTP/2: {http2}");
        }
    }
}

/// In a chain each filter sees what the one before it made: requests first to last, responses last to first.
#[test]
fn a_chain_hands_bodies_on() {
    let origin = Origin::start();
    origin.route("/up", Reply::new(200).body("0123456789"));
    let one = filter("").replace("name: body", "name: one");
    let two = filter("configuration: {request: 'hold', response: 'inject:5'}").replace("name: body", "name: two");
    let server = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("chain.test", "http://{origin}/").wasm(["one.yaml", "two.yaml"]))
        .file(
            "one.yaml",
            &one.replace("limits:", "configuration: {request: 'append', response: 'prepend'}\n    limits:"),
        )
        .file("two.yaml", &two)
        .start();
    let mut client = Client::connect(server.port());
    for sending in [Sending::Length, Sending::Chunked(3)] {
        let ask = Ask::post("chain.test", "/up", Payload::bytes("abcdefghij")).sending(sending.clone());
        let response = client.exchange(&ask).unwrap_or_else(|error| panic!("{sending:?}: {error}"));
        assert_eq!(response.text(), "<prepended>01234<injected>56789", "{sending:?}");
        assert_eq!(String::from_utf8_lossy(&origin.last().body), "abcdefghij<appended>", "{sending:?}");
        assert!(origin.last().header("x-hold").is_some_and(|held| held.starts_with("20 ")), "{:?}", origin.last());
        assert!(client.is_open());
    }
}

/// A filter that keeps the bytes itself: a module without the SDK, whose callbacks return 3 until the end, and then
/// put `<end>` in place of the rest.
#[test]
fn what_a_filter_takes_without_buffering_is_gone() {
    const MODULE: &str = r#"(module
        (import "env" "proxy_set_buffer_bytes" (func $set (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "<end>content-length")
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $remove (i32.const 0) (i32.const 5) (i32.const 14))) (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
            (drop (call $remove (i32.const 2) (i32.const 5) (i32.const 14))) (i32.const 0))
        (func $body (param $buffer i32) (param $end i32) (result i32)
            (if (result i32) (local.get $end)
                (then
                    (drop (call $set (local.get $buffer) (i32.const 0) (i32.const 0x7fffffff) (i32.const 0) (i32.const 5)))
                    (i32.const 0))
                (else (i32.const 3))))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
            (call $body (i32.const 0) (local.get 2)))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
            (call $body (i32.const 1) (local.get 2))))"#;
    let origin = Origin::start();
    origin.route("/up", Reply::new(200).payload(body(300_000)));
    let server = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("taken.test", "http://{origin}/").wasm(["taken.yaml"]))
        .file("taken.yaml", "filters:\n  - name: taken\n    module: {etc}/taken.wasm\n")
        .file_bytes("taken.wasm", wat::parse_str(MODULE).expect("the module is well-formed"))
        .start();
    let mut client = Client::connect(server.port());
    for sending in [Sending::Length, Sending::Chunked(1000)] {
        // More than one may hold: nothing is held.
        let ask = Ask::post("taken.test", "/up", body(3_000_000)).sending(sending.clone());
        let response = client.exchange(&ask).unwrap_or_else(|error| panic!("{sending:?}: {error}"));
        assert_eq!((response.status, response.text().as_str()), (200, "<end>"), "{sending:?}");
        assert_eq!(String::from_utf8_lossy(&origin.last().body), "<end>", "{sending:?}");
        assert!(client.is_open());
    }
}
