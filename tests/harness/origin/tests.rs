use std::time::Duration;

use super::super::client::{Client, Connection};
use super::super::http::Framing;
use super::super::{payload, wait_until};
use super::{Origin, Reply};

#[test]
fn two_requests_on_one_connection_are_told_apart() {
    let origin = Origin::start();
    let mut client = Client::connect(origin.port());
    let first = client.request("POST", "a.test", "/x?y", &[("X-One", "1")], b"body");
    assert_eq!(first.text(), "POST /x?y HTTP/1.1\r\nHost: a.test\r\nX-One: 1\r\nContent-Length: 4\r\n\r\nbody");
    client.send("POST /z HTTP/1.1\r\nhost: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    let requests = origin.requests();
    assert_eq!((requests[1].connection, requests[1].sequence), (0, 1));
    assert_eq!(
        (requests[1].body.as_slice(), requests[1].raw_body.as_slice()),
        (b"hi".as_slice(), b"2\r\nhi\r\n0\r\n\r\n".as_slice())
    );
    let whole = [requests[0].head.as_slice(), &requests[0].body, &requests[1].head, &requests[1].raw_body].concat();
    assert_eq!(origin.connection_bytes(0), whole);
}

#[test]
fn replies_are_framed_as_asked() {
    let origin = Origin::start();
    origin.route("/chunked", Reply::new(200).body("abcde").chunked(2).trailer("T", "v"));
    origin.route("/close", Reply::new(299).reason("Odd One").header("A", "1").header("a", "2").body("x").until_close());
    origin.route("/none", Reply::new(204));
    origin.route("/big", Reply::new(200).generated(3, 300_000));
    let mut client = Client::connect(origin.port()).discard_bodies();
    let response = client.get("a", "/big");
    assert_eq!((response.body_len, response.body_hash), (300_000, payload::hash(3, 300_000)));
    let mut client = Client::connect(origin.port());
    let response = client.get("a", "/chunked");
    assert_eq!(response.text(), "abcde");
    assert_eq!(response.trailers().get("t").as_deref(), Some("v"));
    assert!(matches!(response.framing, Framing::Chunked { ref chunks, .. } if chunks == &[2, 2, 1]));
    let response = client.request("HEAD", "a", "/chunked", &[], b"");
    assert_eq!((response.status, response.body_len, response.framing), (200, 0, Framing::None));
    assert_eq!(client.get("a", "/none").raw_head, b"HTTP/1.1 204 No Content\r\n\r\n");
    let response = client.get("a", "/close");
    assert_eq!(response.raw_head, b"HTTP/1.1 299 Odd One\r\nA: 1\r\na: 2\r\n\r\n");
    assert_eq!((response.framing, response.body.as_slice()), (Framing::Close, b"x".as_slice()));
    assert!(client.wait_closed(Duration::from_secs(5)));
}

#[test]
fn broken_replies_break_as_asked() {
    let origin = Origin::start();
    origin.route("/reset", Reply::new(200).body("abcdef").reset_after(3));
    origin.route("/cut", Reply::new(200).body("abcdef").close_after(2));
    origin.route("/hang", Reply::new(200).body("abcdef").hang_after(1));
    let outcome = |path: &str| {
        let mut client = Client::connect(origin.port()).timeout(Duration::from_millis(300));
        client.send_request("GET", "a", path, &[], b"");
        let error = client.try_response_to("GET").unwrap_err();
        (error.partial.unwrap().body, format!("{}", error.error))
    };
    assert_eq!(outcome("/reset"), (b"abc".to_vec(), "the connection was reset".to_owned()));
    assert_eq!(outcome("/cut"), (b"ab".to_vec(), "the connection ended in the middle".to_owned()));
    assert_eq!(outcome("/hang"), (b"a".to_vec(), "nothing came in time".to_owned()));
}

#[test]
fn an_abort_is_seen_and_recorded() {
    let origin = Origin::start();
    let mut client = Client::connect(origin.port());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    wait_until(Duration::from_secs(5), "the bytes arrive", || {
        (origin.connection_bytes(0).ends_with(b"abc")).then_some(())
    });
    client.abort();
    let request = &origin.wait_for_requests(1, Duration::from_secs(5))[0];
    assert_eq!(
        (request.body.as_slice(), request.broken.as_deref()),
        (b"abc".as_slice(), Some("the connection was reset"))
    );
}

#[test]
fn an_idle_connection_shows_open_and_then_closed() {
    let origin = Origin::start();
    let mut client = Client::connect(origin.port());
    client.get("a", "/");
    assert_eq!(client.connection(), Connection::Open);
    drop(origin);
    assert!(client.wait_closed(Duration::from_secs(5)));
}

#[test]
fn an_expectation_is_met_or_refused() {
    let origin = Origin::start();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut client = Client::connect(origin.port());
    client.send(request);
    client.send("hi");
    let response = client.read_response();
    assert_eq!((response.status, response.interim.len()), (200, 1));
    origin.refuse_expect();
    client.send(request);
    assert_eq!(client.read_response().status, 417);
}
