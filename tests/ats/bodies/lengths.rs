//! When the length of what filters make of a response is known before its head is sent.

use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Ask, Client};

use super::{KIB, MB, builder, expected, origin};

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
