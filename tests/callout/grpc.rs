//! gRPC against a server of another make.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use callout::{
    Cluster, ClusterSettings, FailureKind, GrpcEvent, GrpcRequest, GrpcStream, Pairs, Protocol, Refused, SendError,
};
use prost::Message as _;
use wasm_remap_tests::harness::upstream::Message;
use wasm_remap_tests::{GrpcUpstream, Upstream};

use crate::support::*;

fn message(text: &str, number: u32) -> Message {
    Message { text: text.to_owned(), number }
}

fn encoded(text: &str, number: u32) -> Bytes {
    Bytes::from(message(text, number).encode_to_vec())
}

fn asked(method: &str, metadata: Pairs) -> GrpcRequest {
    GrpcRequest { service: Bytes::from("test.Echo"), method: Bytes::from(method.to_owned()), metadata }
}

fn open(cluster: &Arc<Cluster>, method: &str, timeout: Option<Duration>) -> (GrpcStream, Receiver<GrpcEvent>) {
    let (sender, receiver) = channel();
    let events = Box::new(move |event| {
        let _ = sender.send(event);
    });
    (cluster.grpc(asked(method, pairs(&[("x-asked", "this")])), timeout, events).expect("a stream"), receiver)
}

/// All that happened on a stream.
#[derive(Debug, Default)]
struct Told {
    initial: Option<Pairs>,
    messages: Vec<Message>,
    trailing: Option<Pairs>,
    status: u32,
    words: String,
}

#[track_caller]
fn all(receiver: &Receiver<GrpcEvent>) -> Told {
    let mut told = Told::default();
    loop {
        match receiver.recv_timeout(PATIENCE).expect("an event") {
            GrpcEvent::InitialMetadata(metadata) => {
                assert!(told.initial.replace(metadata).is_none() && told.messages.is_empty());
            }
            GrpcEvent::Message(message) => told.messages.push(Message::decode(message.bytes).expect("a message")),
            GrpcEvent::TrailingMetadata(metadata) => assert!(told.trailing.replace(metadata).is_none()),
            GrpcEvent::Close { status, message } => {
                (told.status, told.words) = (status, message);
                break;
            }
        }
    }
    let end = receiver.recv_timeout(PATIENCE).expect_err("nothing follows");
    assert_eq!(end, RecvTimeoutError::Disconnected);
    told
}

#[track_caller]
fn unary(cluster: &Arc<Cluster>, method: &str, text: &str, number: u32, timeout: Option<Duration>) -> Told {
    let (stream, receiver) = open(cluster, method, timeout);
    // A server may answer before it is asked.
    let _ = stream.send(encoded(text, number), true);
    all(&receiver)
}

fn start() -> (GrpcUpstream, Arc<Cluster>) {
    let upstream = GrpcUpstream::start();
    let cluster = cluster(&settings(Protocol::Http2, upstream.port()));
    (upstream, cluster)
}

#[test]
fn a_unary_call() {
    let (_upstream, cluster) = start();
    let told = unary(&cluster, "Unary", "hello", 41, Some(PATIENCE));
    assert_eq!(told.messages, [message("hello", 42)]);
    assert_eq!((told.status, told.words.as_str()), (0, ""));
    let initial = told.initial.expect("metadata");
    assert_eq!(values(&initial, ":status"), ["200"]);
    assert_eq!(values(&initial, "x-asked"), ["this"]);
    assert_eq!(values(&told.trailing.expect("trailers"), "grpc-status"), ["0"]);
    assert_eq!(cluster.stats().responses, 1);
}

#[test]
fn streams_of_each_kind() {
    let (_upstream, cluster) = start();
    let told = unary(&cluster, "ServerStream", "many", 1000, None);
    assert_eq!((told.messages.len(), told.status), (1000, 0));
    assert!(told.messages.iter().enumerate().all(|(index, found)| *found == message("many", index as u32)));

    let (stream, receiver) = open(&cluster, "ClientStream", None);
    for number in 0..100 {
        stream.send(encoded(&number.to_string(), number), false).expect("sent");
    }
    stream.close();
    assert_eq!(stream.send(Bytes::new(), false), Err(SendError::Closed));
    let told = all(&receiver);
    assert_eq!(told.messages[0].number, (0..100).sum());
    assert_eq!(told.messages[0].text.split(',').count(), 100);

    let (stream, receiver) = open(&cluster, "Bidi", None);
    for number in 0..100 {
        stream.send(encoded("ping", number), false).expect("sent");
        loop {
            if let GrpcEvent::Message(found) = receiver.recv_timeout(PATIENCE).expect("an event") {
                assert_eq!(Message::decode(found.bytes).expect("a message"), message("ping", number));
                break;
            }
        }
    }
    stream.close();
    assert_eq!(all(&receiver).status, 0);
    assert_eq!(stream.send(Bytes::new(), false), Err(SendError::Closed));
}

#[test]
fn long_messages_go_both_ways() {
    let upstream = GrpcUpstream::start();
    let cluster = cluster(&ClusterSettings { response_bytes: 4 << 20, ..settings(Protocol::Http2, upstream.port()) });
    let text = "long ".repeat(700_000);
    let told = unary(&cluster, "Unary", &text, 1, Some(PATIENCE));
    assert_eq!(told.messages[0].text, text);
    let told = unary(&cluster, "ServerStream", "bytes:5000000", 1, Some(PATIENCE));
    assert_eq!(told.status, 8);
    assert!(told.words.contains("response_kib"), "{}", told.words);
}

#[test]
fn a_deadline_is_told_and_kept() {
    let (upstream, cluster) = start();
    let told = unary(&cluster, "Slow", "", 1, Some(Duration::from_secs(10)));
    let timeout: u64 = told.messages[0].text.trim_end_matches('u').parse().expect("microseconds");
    assert!(timeout > 9_000_000 && timeout <= 10_000_000, "{timeout}");
    let told = unary(&cluster, "Slow", "", 60_000, Some(Duration::from_millis(100)));
    assert_eq!(told.status, 4, "{told:?}");
    assert!(told.words.contains("timed out after 100ms") || told.words.contains("imeout"), "{}", told.words);
    until("the server ends it", || upstream.given_up() + upstream.requests() >= 2);
    assert_eq!(unary(&cluster, "Unary", "", 1, None).status, 0);
}

#[test]
fn a_stream_that_is_cancelled_ends_without_a_word() {
    let (upstream, cluster) = start();
    for drops in [false, true] {
        let (stream, receiver) = open(&cluster, "Slow", None);
        stream.send(encoded("", 60_000), true).expect("sent");
        let before = upstream.given_up();
        until("it arrives", || upstream.requests_to("/test.Echo/Slow") == 1 + usize::from(drops));
        if drops {
            drop(stream);
        } else {
            stream.cancel();
            assert_eq!(stream.send(Bytes::new(), false), Err(SendError::Closed));
        }
        until("the server sees it", || upstream.given_up() == before + 1);
        assert_eq!(receiver.recv_timeout(PATIENCE).expect_err("no event"), RecvTimeoutError::Disconnected);
    }
    until("they are counted", || cluster.stats().cancelled == 2);
}

#[test]
fn a_stream_may_be_cancelled_by_an_event() {
    let (_upstream, cluster) = start();
    let own: Arc<Mutex<Option<GrpcStream>>> = Arc::default();
    let (sender, receiver) = channel();
    let events = {
        let own = Arc::clone(&own);
        Box::new(move |event| {
            // Whatever it is, it is the last.
            *own.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let _ = sender.send(event);
        })
    };
    let held = own.lock().unwrap_or_else(PoisonError::into_inner);
    let stream = cluster.grpc(asked("ServerStream", Vec::new()), None, events).expect("a stream");
    stream.send(encoded("x", 100), true).expect("sent");
    let mut held = held;
    *held = Some(stream);
    drop(held);
    assert!(matches!(receiver.recv_timeout(PATIENCE).expect("an event"), GrpcEvent::InitialMetadata(_)));
    assert_eq!(receiver.recv_timeout(PATIENCE).expect_err("no event"), RecvTimeoutError::Disconnected);
}

#[test]
fn errors_have_their_status_and_message() {
    let (_upstream, cluster) = start();
    for (number, text) in [(5, "not found"), (13, "größer als 100 %\nzwei Zeilen"), (16, "")] {
        let told = unary(&cluster, "Fail", text, number, None);
        assert_eq!((told.status, told.words.as_str()), (number, text));
        assert_eq!(told.initial.as_deref(), Some(&[][..]), "a response of trailers alone");
        assert_eq!(values(&told.trailing.expect("trailers"), "x-why"), ["asked for"]);
    }
    assert_eq!(unary(&cluster, "Unknown", "", 0, None).status, 12);
}

#[test]
fn what_is_no_grpc_has_a_status_all_the_same() {
    let upstream = Upstream::start();
    let cluster = cluster(&settings(Protocol::Http2, upstream.port()));
    let ask = |service: &str, method: &str| {
        let (sender, receiver) = channel();
        let events = Box::new(move |event| {
            let _ = sender.send(event);
        });
        let request = GrpcRequest {
            service: Bytes::from(service.to_owned()),
            method: Bytes::from(method.to_owned()),
            metadata: Vec::new(),
        };
        let stream = cluster.grpc(request, Some(PATIENCE), events).expect("a stream");
        stream.close();
        all(&receiver)
    };
    for (http, grpc) in [("503", 14), ("401", 16), ("404", 12), ("500", 2)] {
        let told = ask("status", http);
        assert_eq!(told.status, grpc, "{told:?}");
        assert!(told.words.contains(http), "{told:?}");
    }
    let told = ask("status", "200");
    assert_eq!(told.status, 2, "{told:?}");
    let http1 = crate::support::cluster(&settings(Protocol::Http1, upstream.port()));
    let refused = http1.grpc(asked("Unary", Vec::new()), None, Box::new(|_| {}));
    assert!(matches!(refused, Err(Refused::BadRequest(what)) if what.contains("HTTP/2")));
}

#[test]
fn nobody_there_is_unavailable() {
    let (mut upstream, cluster) = start();
    upstream.stop();
    let told = unary(&cluster, "Unary", "x", 1, Some(PATIENCE));
    assert_eq!(told.status, 14);
    assert!(told.words.contains("cannot connect"), "{}", told.words);
    assert_eq!(cluster.stats().failed(FailureKind::Connect), 1);
    upstream.start_again();
    let (stream, receiver) = open(&cluster, "Bidi", None);
    stream.send(encoded("x", 1), false).expect("sent");
    until("it is there", || upstream.messages() == 1);
    upstream.stop();
    let told = all(&receiver);
    assert_eq!(told.status, 14, "{told:?}");
    assert!(told.words.contains("broke off"), "{}", told.words);
}

#[test]
fn a_thousand_streams_at_once() {
    let upstream = GrpcUpstream::start();
    let cluster = cluster(&ClusterSettings { max_connections: 8, ..settings(Protocol::Http2, upstream.port()) });
    let streams: Vec<_> = (0..1000)
        .map(|number| {
            let (stream, receiver) = open(&cluster, "Unary", Some(PATIENCE));
            stream.send(encoded("many", number), true).expect("sent");
            (stream, receiver)
        })
        .collect();
    for (number, (_stream, receiver)) in streams.iter().enumerate() {
        assert_eq!(all(receiver).messages, [message("many", number as u32 + 1)]);
    }
    let stats = cluster.stats();
    assert_eq!((stats.responses, stats.in_flight), (1000, 0));
    assert!(stats.connects <= 8, "{stats:?}");
}

#[test]
fn a_server_waits_while_its_messages_are_held() {
    const SIZE: usize = 100_000;
    const COUNT: u32 = 1000;
    let (upstream, cluster) = start();
    let (stream, receiver) = open(&cluster, "ServerStream", None);
    stream.send(encoded(&format!("bytes:{SIZE}"), COUNT), true).expect("sent");
    let mut held = Vec::new();
    while let Ok(event) = receiver.recv_timeout(Duration::from_millis(500)) {
        held.extend(match event {
            GrpcEvent::Message(message) => Some(message),
            _ => None,
        });
    }
    // 256 KiB held here, as much in the stream's window, and what the server and the kernel keep.
    assert!(held.len() <= 4, "{} messages held", held.len());
    assert!(upstream.messages() < 20, "{} messages sent", upstream.messages());
    // Others are not held up, on the same connection.
    assert_eq!(unary(&cluster, "Unary", "x", 1, Some(PATIENCE)).status, 0);
    assert_eq!(upstream.connections(), 1);
    let before = held.len();
    drop(held);
    let told = all(&receiver);
    assert_eq!((told.messages.len() + before, told.status), (COUNT as usize, 0));
}

#[test]
fn what_waits_to_be_sent_is_bounded() {
    // A server that reads nothing: it does not even accept.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let cluster = cluster(&settings(Protocol::Http2, listener.local_addr().expect("an address").port()));
    let (stream, _receiver) = open(&cluster, "ClientStream", None);
    let piece = Bytes::from(vec![0; 1 << 20]);
    let sent = (0..20).take_while(|_| stream.send(piece.clone(), false).is_ok()).count();
    assert!((4..=6).contains(&sent), "{sent}");
    assert_eq!(stream.send(piece, false), Err(SendError::Full));
}
