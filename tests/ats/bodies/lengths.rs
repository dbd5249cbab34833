//! When the length of a body is known before its head is sent: of what filters make of a response, and of a request that
//! has come before its filter is called.

use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Ask, Client, Http2, Sending};

use super::{KIB, MB, body, builder, expected, origin};

/// A cache hit is in memory: what is not too long is transformed at once, and goes out with its length. A longer one goes
/// out while it is transformed.
#[test]
fn what_has_come_as_a_whole_goes_out_with_its_length() {
    let origin = origin();
    let server = builder(&origin).start();
    for len in [300 * KIB, 1000 * KIB, 3 * MB] {
        let path = format!("/down/cl/{len}?whole");
        let get = |host: &str, order: &str| {
            let ask = Ask::get(host, &path).header("x-op", order);
            let response = Client::connect(server.port()).exchange(&ask);
            response.unwrap_or_else(|error| panic!("{len} bytes, {order}: {error}"))
        };
        // In the cache, and from there in memory.
        for _ in 0..3 {
            assert_eq!(get("plain.test", "").status, 200);
            thread::sleep(Duration::from_millis(50));
        }
        for operation in ["pass", "append", "prepend", "inject", "partial", "replace", "drop"] {
            let response = get("response.test", &format!("response:{operation}:{}", len / 2));
            let expected = expected(operation, len);
            let got = (response.status, response.body_len, response.body_hash);
            assert_eq!(got, (200, expected.len(), expected.hash()), "{operation}, {len} bytes");
            let length = response.header("content-length");
            if len <= 1024 * KIB {
                let right = expected.len().to_string();
                assert_eq!(length.as_deref(), Some(right.as_str()), "{operation}, {len} bytes");
            } else if !expected.is_empty() {
                // Of nothing, the length is known when all of it has come.
                assert_eq!(length.as_deref(), None, "{operation}, {len} bytes");
            }
        }
        assert_eq!(origin.take_requests().len(), 1, "the others were cache hits, {len} bytes");
    }
}

/// Then ATS knows how long it is, framing included.
#[test]
fn the_framing_of_a_request_that_has_come_as_a_whole_does_not_count() {
    let origin = origin();
    let server = builder(&origin).start();
    for http2 in [false, true] {
        for host in ["stream.test", "request.test", "buffer.test"] {
            for len in [1, 40_000, 150_000, 300_000, 900_000].repeat(8) {
                let sent = body(len);
                let hash = sent.hash();
                let what = format!("{host}, {len} bytes, HTTP/2 {http2}");
                let ask = Ask::post(host, "/up", sent).sending(Sending::Chunked(5000)).header("x-op", "request:pass");
                let status = if http2 {
                    Http2::connect(server.tls_port()).exchange(&ask).map(|response| response.status).ok()
                } else {
                    let mut bytes = ask.head();
                    ask.write_body(&mut bytes, u64::MAX).expect("it is written to memory");
                    let mut client = Client::connect(server.port());
                    client.send(bytes);
                    Some(client.read_response().status)
                };
                assert_eq!(status, Some(200), "{what}");
                let came = origin.last();
                assert_eq!((came.broken.as_deref(), came.body_len, came.body_hash), (None, len, hash), "{what}");
            }
        }
    }
}
