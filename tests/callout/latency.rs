//! What a callout costs beyond a client that does nothing else.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use callout::Protocol;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use wasm_remap_tests::Upstream;

use crate::support::*;

const CALLS: usize = 2000;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A bare client on a thread of its own: it is asked through a channel and answers through one, as ours has to.
fn bare(port: u16) -> Vec<Duration> {
    let (ask, mut asked) = mpsc::unbounded_channel::<()>();
    let (answer, answered) = channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
            stream.set_nodelay(true).expect("an option");
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
            tokio::spawn(connection);
            while asked.recv().await.is_some() {
                let request = Request::get("/status/200").header("host", "asked.test").body(Empty::<Bytes>::new());
                let response = sender.send_request(request.expect("a request")).await.expect("a response");
                let body = response.into_body().collect().await.expect("a body").to_bytes();
                let _ = answer.send(body);
                sender.ready().await.expect("a connection");
            }
        });
    });
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        ask.send(()).expect("the thread lives");
        answered.recv_timeout(PATIENCE).expect("an answer");
        times.push(start.elapsed());
    }
    drop(ask);
    thread.join().expect("the thread ends");
    times
}

#[test]
fn a_call_takes_little_longer_than_with_a_bare_client() {
    let upstream = Upstream::start();
    // In turns, so that a busy machine is as busy for both.
    let (mut theirs, mut ours, mut over_http2) = (Vec::new(), Vec::new(), Vec::new());
    let clusters = BOTH.map(|protocol| cluster(&settings(protocol, upstream.port())));
    for _ in 0..3 {
        theirs.extend(bare(upstream.port()));
        for (cluster, times) in clusters.iter().zip([&mut ours, &mut over_http2]) {
            let (sender, receiver) = channel();
            for _ in 0..CALLS {
                let sender = sender.clone();
                let start = Instant::now();
                let done = Box::new(move |answer| {
                    let _ = sender.send(answer);
                });
                let call = cluster.http_call(request("GET", "/status/200", ""), Some(PATIENCE), done).expect("a call");
                wait(&receiver).expect("a response");
                times.push(start.elapsed());
                drop(call);
            }
        }
    }
    let (bare, ours, over_http2) = (median(theirs), median(ours), median(over_http2));
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    println!("bare hyper {bare:?}, callout {ours:?} ({ratio:.2} times), {:?} {over_http2:?}", Protocol::Http2);
    assert!(ours < bare + Duration::from_micros(100), "a callout takes {ours:?}, a bare client {bare:?}");
}
