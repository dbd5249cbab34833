//! Calls to others, as a guest makes them. This VM only tries things out: nothing is sent.

use bytes::Bytes;
use callout::{HttpResponse, Pairs};

use super::super::calls::{BAD_ARGUMENT, NOT_FOUND, OK, OUTSIDE, SERIALIZATION_FAILURE, Scene, encoded};
use crate::abi::{MapType, Status};
use crate::answer::Answer;

const PARSE_FAILURE: i32 = Status::ParseFailure as i32;
/// Where the token is written.
const TOKEN: i64 = 16;

/// The headers that every call has.
const HEADERS: &[(&[u8], &[u8])] = &[(b":method", b"GET"), (b":path", b"/"), (b":authority", b"a")];

fn http_call(scene: &mut Scene, upstream: &[u8], headers: &[(&[u8], &[u8])], timeout: i64) -> i32 {
    let ([upstream, upstream_size], [headers, headers_size]) = (scene.put(upstream), scene.put(&encoded(headers)));
    let args = [upstream, upstream_size, headers, headers_size, 0, 0, 0, 0, timeout, TOKEN];
    scene.guest.call("proxy_http_call", &args)
}

#[test]
fn a_call_has_a_token_an_upstream_and_what_http_needs() {
    let mut scene = Scene::usual();
    assert_eq!(http_call(&mut scene, b"cluster", HEADERS, 100), OK);
    assert_eq!(scene.guest.u32_at(16), 4, "the kind is in the lowest bits");
    assert!(scene.guest.store.data().reached_out, "its answer may act on streams");
    assert_eq!(http_call(&mut scene, b"cluster", HEADERS, 0), OK, "without a limit of time");
    assert_eq!(scene.guest.u32_at(16), 8);
    assert_eq!(http_call(&mut scene, b"cluster", HEADERS, 0xFFFF_FFFF), BAD_ARGUMENT, "below zero");
    for missing in 0..HEADERS.len() {
        let headers: Vec<_> = HEADERS.iter().copied().enumerate().filter(|(at, _)| *at != missing).collect();
        let headers: Vec<_> = headers.into_iter().map(|(_, header)| header).collect();
        assert_eq!(http_call(&mut scene, b"cluster", &headers, 0), BAD_ARGUMENT, "{headers:?}");
    }
    let [upstream, size] = scene.put(b"cluster");
    let [headers, headers_size] = scene.put(&encoded(HEADERS));
    let mut with = |at: usize, value: i64| {
        let mut args = [upstream, size, headers, headers_size, 0, 0, 0, 0, 0, TOKEN];
        args[at] = value;
        scene.guest.call("proxy_http_call", &args)
    };
    for place in [0, 2] {
        assert_eq!(with(place, OUTSIDE), BAD_ARGUMENT);
    }
    assert_eq!(with(9, OUTSIDE), BAD_ARGUMENT, "no place for the token");
    assert_eq!(with(3, headers_size - 1), SERIALIZATION_FAILURE);
    assert_eq!(http_call(&mut Scene::in_root(), b"cluster", HEADERS, 0), OK, "a plugin context calls, too");
}

#[test]
fn an_upstream_is_a_cluster_or_an_address_that_is_allowed() {
    let mut scene = Scene::usual();
    assert_eq!(http_call(&mut scene, b"nobody", HEADERS, 0), BAD_ARGUMENT);
    assert_eq!(http_call(&mut scene, b"a.example:80", HEADERS, 0), OK);
    assert_eq!(http_call(&mut scene, b"A.Example:80", HEADERS, 0), OK);
    for not_allowed in [&b"a.example:81"[..], b"b.example:80", b"a.example", b"a.example:0", b"\xff"] {
        assert_eq!(http_call(&mut scene, not_allowed, HEADERS, 0), BAD_ARGUMENT, "{not_allowed:?}");
    }
    assert_eq!(scene.guest.store.data().complaints.len(), 6, "each is said once");
    assert_eq!(http_call(&mut scene, b"nobody", HEADERS, 0), BAD_ARGUMENT);
    assert_eq!(scene.guest.store.data().complaints.len(), 6);
}

#[test]
fn grpc_names_a_cluster_or_describes_it_as_envoy_does() {
    let mut scene = Scene::usual();
    let call = |scene: &mut Scene, upstream: &[u8], timeout: i64| {
        let ([upstream, upstream_size], [name, size]) = (scene.put(upstream), scene.put(b"name"));
        let names = [upstream, upstream_size, name, size, name, size, 0, 0];
        let call = [&names[..], &[0, 0, timeout, TOKEN]].concat();
        let stream = [&names[..], &[TOKEN]].concat();
        (scene.guest.call("proxy_grpc_call", &call), scene.guest.call("proxy_grpc_stream", &stream))
    };
    assert_eq!(call(&mut scene, b"cluster", 50), (OK, OK));
    assert_eq!(scene.guest.u32_at(16) % 4, 2, "the stream's token");
    // GrpcService { envoy_grpc { cluster_name: "cluster" } }
    assert_eq!(call(&mut scene, b"\x0a\x09\x0a\x07cluster", 50), (OK, OK));
    assert_eq!(call(&mut scene, b"\x0a\x09\x0a\x07another", 50), (PARSE_FAILURE, PARSE_FAILURE));
    assert_eq!(call(&mut scene, b"nobody", 50), (PARSE_FAILURE, PARSE_FAILURE));
    assert_eq!(call(&mut scene, b"cluster", 0xFFFF_FFFF).0, PARSE_FAILURE, "no SDK bears anything else");
    let [message, size] = scene.put(b"message");
    assert_eq!(scene.guest.call("proxy_grpc_send", &[10, message, size, 0]), OK, "nobody has it, and nobody is told");
    assert_eq!(scene.guest.call("proxy_grpc_send", &[4, message, size, 0]), BAD_ARGUMENT, "not a stream's");
    assert_eq!(scene.guest.call("proxy_grpc_send", &[10, OUTSIDE, 32, 0]), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_grpc_close", &[10]), OK);
    assert_eq!(scene.guest.call("proxy_grpc_cancel", &[10]), OK);
}

#[test]
fn what_came_back_is_there_while_its_callback_runs() {
    let mut scene = Scene::in_root();
    let pairs = |pairs: &[(&'static str, &'static str)]| -> Pairs {
        pairs.iter().map(|(name, value)| (Bytes::from_static(name.as_bytes()), Bytes::from(*value))).collect()
    };
    let [headers, trailers] = [MapType::HttpCallResponseHeaders as i64, MapType::HttpCallResponseTrailers as i64];
    assert_eq!(scene.value(headers, ":status").unwrap_err(), NOT_FOUND);
    scene.guest.store.data_mut().answer = Answer::http(Ok(HttpResponse {
        status: 201,
        headers: pairs(&[(":status", "201"), ("a", "1"), ("a", "2")]),
        body: Bytes::from_static(b"the body"),
        trailers: pairs(&[("t", "3")]),
    }));
    assert_eq!(scene.value(headers, ":status").unwrap(), b"201");
    assert_eq!(scene.value(headers, "A").unwrap(), b"1", "the first, as of any map");
    assert_eq!(scene.value(trailers, "t").unwrap(), b"3");
    assert_eq!(
        scene.returned("proxy_get_header_map_pairs", &[headers]).unwrap(),
        encoded(&[(b":status", b"201"), (b"a", b"1"), (b"a", b"2")])
    );
    assert_eq!(scene.returned("proxy_get_buffer_bytes", &[4, 4, 4]).unwrap(), b"body");
    assert_eq!(scene.guest.call("proxy_get_buffer_status", &[4, 24, 28]), OK);
    assert_eq!(scene.guest.u32_at(24), 8);
    assert_eq!(scene.guest.call("proxy_set_buffer_bytes", &[4, 0, 0, 0, 1]), BAD_ARGUMENT, "read-only");
    assert_eq!(scene.write("proxy_add_header_map_value", headers, b"a", b"3"), BAD_ARGUMENT);
    scene.guest.store.data_mut().answer = Answer::close(14, "nobody is there".to_owned());
    assert_eq!(scene.value(headers, ":status").unwrap_err(), NOT_FOUND);
    assert_eq!(scene.guest.call("proxy_get_status", &[24, 0, 4]), OK);
    let (at, len) = (scene.guest.u32_at(0), scene.guest.u32_at(4));
    assert_eq!((scene.guest.u32_at(24), scene.guest.read(at, len)), (14, b"nobody is there".to_vec()));
    assert_eq!(scene.guest.call("proxy_get_status", &[OUTSIDE, 0, 4]), BAD_ARGUMENT);
}
