//! Large bodies, from an origin through traffic_server to a client, by several ways in turn: no plugin, a transform in
//! C that does nothing (tests/native/null_transform.c), and filters that let bodies pass.
//!
//! All ways are rules of one server, so that all have its memory layout; each round goes round all of them, every
//! second one backwards. Origin and client cost as little as can be: the one sends the same bytes again and again, the
//! other has the kernel drop what it receives. That the bytes are right is proved before.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use wasm_remap_tests::{Client, Rule, TrafficServer};

use crate::native;

/// A body of this many bytes goes through in a turn.
pub(crate) const SIZE: u64 = 1 << 30;
/// One that comes in chunks is so much smaller: ATS may need minutes for it, whatever the transform.
pub(crate) const SMALLER: u64 = 8;
/// What ours may be slower than a transform that does nothing.
pub(crate) const BAR: f64 = 0.9;

/// How a body comes from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
}

/// A way through the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) title: &'static str,
    /// The rule.
    host: &'static str,
    pub(crate) framing: Framing,
    /// The same with no plugin, by its place in [`WAYS`].
    pub(crate) none: usize,
    /// What it must not be much slower than.
    pub(crate) null: Option<usize>,
}

const NONE: &str = "none.test";
const NULL: &str = "null.test";
const NULL_LENGTH: &str = "null-length.test";
const PASS: &str = "pass.test";
const BODY: &str = "body.test";

/// A filter that sees response bodies, lets them pass, and has no means to change them. It tells that it was there.
const FILTER: &str = r#"(module
    (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "x-pass1")
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
        (call $add (i32.const 2) (i32.const 0) (i32.const 6) (i32.const 6) (i32.const 1)))
    (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 0)))"#;

const fn way(title: &'static str, host: &'static str, framing: Framing, none: usize, null: Option<usize>) -> Way {
    Way { title, host, framing, none, null }
}

/// All of them.
pub(crate) const WAYS: &[Way] = &[
    way("content-length: no plugin", NONE, Framing::Length, 0, None),
    way("content-length, kept: null transform", NULL_LENGTH, Framing::Length, 0, None),
    way("content-length, kept: ours, a filter that cannot change bodies", PASS, Framing::Length, 0, Some(1)),
    way("content-length, to chunks: null transform, as ATS's example", NULL, Framing::Length, 0, None),
    way("content-length, to chunks: ours (`body`, pass)", BODY, Framing::Length, 0, Some(3)),
    way("chunks: no plugin", NONE, Framing::Chunked, 5, None),
    way("chunks: null transform", NULL, Framing::Chunked, 5, None),
    way("chunks: ours (`body`, pass)", BODY, Framing::Chunked, 5, Some(6)),
];

/// What one body took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Turn {
    pub(crate) wall: Duration,
    /// The server's processor time, its own and the kernel's for it.
    pub(crate) cpu: Duration,
}

/// The origin and the server with all the ways.
#[derive(Debug)]
pub(crate) struct Bodies {
    server: TrafficServer,
}

impl Bodies {
    /// Starts both, and proves that each way passes every byte and that ours has its filter.
    pub(crate) fn start() -> Bodies {
        let origin = origin();
        let null = "{etc}/null_transform.so";
        let rule = |host| Rule::new(host, &format!("http://127.0.0.1:{origin}/"));
        let server = TrafficServer::builder()
            .threads(1)
            .cache(false)
            .record("proxy.config.config_update_interval_ms", 600_000)
            .record("proxy.config.log.logging_enabled", 0)
            .rule(rule(NONE))
            .rule(rule(NULL).plugin(null, [""; 0]))
            .rule(rule(NULL_LENGTH).plugin(null, ["length"]))
            .rule(rule(PASS).wasm(["pass.yaml"]))
            .rule(rule(BODY).wasm(["body.yaml"]))
            .file_bytes("null_transform.so", native::compile("null_transform", &["-shared", "-fPIC"]))
            .file_bytes("pass.wasm", wat::parse_str(FILTER).expect("a module"))
            .file("pass.yaml", "filters:\n  - name: pass\n    module: {etc}/pass.wasm\n")
            .file("body.yaml", "filters:\n  - name: body\n    module: {guest:body}\n")
            .start();
        let bodies = Bodies { server };
        for way in WAYS {
            bodies.prove(way);
        }
        bodies
    }

    /// The server, to be pinned to a core, say.
    pub(crate) fn server(&self) -> &TrafficServer {
        &self.server
    }

    fn prove(&self, way: &Way) {
        const LEN: usize = 5_000_011;
        let mut client = Client::connect(self.server.port());
        let response = client.get(way.host, &way.path(LEN as u64));
        assert_eq!(response.status, 200, "{}: {}", way.title, response.text());
        let pattern = pattern();
        let right = response.body.len() == LEN && response.body.chunks(PIECE).all(|piece| pattern.starts_with(piece));
        assert!(right, "{}: not the body that the origin sent, or not all of it", way.title);
        let kept = way.framing == Framing::Length && matches!(way.host, NONE | NULL_LENGTH | PASS);
        assert_eq!(response.header("content-length").is_some(), kept, "{}: {:?}", way.title, response.headers);
        for (field, host) in [("x-pass", PASS), ("x-request-seen", BODY)] {
            assert_eq!(response.header(field).is_some(), way.host == host, "{}: {:?}", way.title, response.headers);
        }
    }

    /// Sends one body this way, and reads it as fast as it comes.
    fn turn(&self, way: &Way, size: u64) -> Turn {
        let size = if way.framing == Framing::Length { size } else { size / SMALLER };
        let before = self.server.cpu_time();
        let begin = Instant::now();
        let read = fetch(self.server.port(), way, size);
        let wall = begin.elapsed();
        let cpu = self.server.cpu_time().saturating_sub(before);
        // What frames it came with it.
        assert!(read >= size && read < size + size / 500 + 2000, "{}: {read} bytes came", way.title);
        Turn { wall, cpu }
    }

    /// One turn for each of these ways, which stands at the way's place.
    pub(crate) fn round(&self, number: usize, size: u64, ways: &[usize]) -> Vec<Turn> {
        let mut turns = vec![Turn { wall: Duration::ZERO, cpu: Duration::ZERO }; WAYS.len()];
        for step in 0..ways.len() {
            let at = ways[if number.is_multiple_of(2) { step } else { ways.len() - 1 - step }];
            turns[at] = self.turn(&WAYS[at], size);
        }
        turns
    }
}

impl Way {
    fn path(&self, size: u64) -> String {
        format!("/{}/{size}", if self.framing == Framing::Length { "length" } else { "chunked" })
    }
}

/// How many bytes came, the head left out.
fn fetch(port: u16, way: &Way, size: u64) -> u64 {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout above 0");
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", way.path(size), way.host);
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut buffer = vec![0; 1 << 20];
    let (mut read, mut head) = (0, None);
    while head.is_none() {
        let count = stream.read(&mut buffer[read..]).expect("a response");
        assert!(count > 0, "{}: no response", way.title);
        read += count;
        head = buffer[..read].windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
    }
    let mut total = (read - head.unwrap_or_default()) as u64;
    loop {
        // What is received is dropped, and not copied.
        let received = recv(&stream, &mut buffer[..], RecvFlags::TRUNC);
        let (_, count) = received.unwrap_or_else(|error| panic!("{}: after {total} bytes: {error}", way.title));
        if count == 0 {
            return total;
        }
        total += count as u64;
    }
}

/// What the origin repeats.
const PIECE: usize = 64 << 10;

fn pattern() -> Vec<u8> {
    (0..PIECE).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Starts an origin that lasts as long as this process: `/length/<bytes>`, `/chunked/<bytes>`.
fn origin() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback address has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            // Who leaves early has been seen by the client.
            thread::spawn(move || drop(serve(stream)));
        }
    });
    port
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(['/', ' ']).skip(2);
    let chunked = words.next() == Some("chunked");
    let mut left: usize = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let length = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {left}") };
    stream.write_all(format!("HTTP/1.1 200 OK\r\n{length}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let piece = pattern();
    let chunk = [format!("{PIECE:x}\r\n").as_bytes(), &piece, b"\r\n"].concat();
    while left > 0 {
        let size = left.min(PIECE);
        match (chunked, size == PIECE) {
            (false, _) => stream.write_all(&piece[..size])?,
            (true, true) => stream.write_all(&chunk)?,
            (true, false) => {
                stream.write_all(&[format!("{size:x}\r\n").as_bytes(), &piece[..size], b"\r\n"].concat())?;
            }
        }
        left -= size;
    }
    if chunked { stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
}
