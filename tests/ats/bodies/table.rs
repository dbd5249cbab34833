//! The table: every operation on every kind of body. A cell that fails names itself.

use std::fmt;
use std::time::Instant;

use wasm_remap_tests::payload::Hash;
use wasm_remap_tests::{Ask, Client, Framing, Http2, Origin, Payload, Response, Sending, TrafficServer};

use super::{KIB, MB, PATIENCE, body, builder, expected, origin};

/// The guest's own hash of a body that it held: of every `step`th byte.
fn held_hash(len: u64, step: usize) -> u64 {
    let mut hash = Hash::default();
    let mut reader = body(len).reader();
    let mut piece = vec![0; step * 1024];
    while let count @ 1.. = reader.fill(&mut piece) {
        let some: Vec<u8> = piece[..count].iter().step_by(step).copied().collect();
        hash.update(&some);
    }
    hash.value()
}

/// So many bytes are read sparsely, within the time that a callback has.
fn step(len: u64) -> usize {
    if len > 20 * MB { 1009 } else { 1 }
}

/// One combination of the table; printed, it says which.
#[derive(Clone, Debug)]
struct Cell {
    request: bool,
    framing: &'static str,
    len: u64,
    operation: &'static str,
    buffer: bool,
    http2: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.request { "request" } else { "response" };
        let mode = if self.buffer { ", buffered" } else { "" };
        let version = if self.http2 { "HTTP/2" } else { "HTTP/1.1" };
        write!(f, "{side}, {}, {} bytes, {}{mode}, {version}", self.framing, self.len, self.operation)
    }
}

impl Cell {
    fn host(&self) -> &'static str {
        // What is buffered is held, whatever the filter does.
        match ((self.operation == "hold" || self.buffer) && self.len > 1024 * KIB, self.buffer) {
            (false, false) => "stream.test",
            (false, true) => "buffer.test",
            (true, false) => "wide.test",
            (true, true) => "widebuffer.test",
        }
    }

    fn order(&self) -> String {
        let side = if self.request { "request" } else { "response" };
        let position = if self.operation == "hold" { step(self.len) as u64 } else { self.len / 2 };
        format!("{side}:{}:{position}", self.operation)
    }
}

/// A server and a connection of each kind, which is kept from cell to cell.
struct Table<'a> {
    origin: &'a Origin,
    server: &'a TrafficServer,
    http1: Option<Client>,
    http2: Option<Http2>,
    cells: usize,
    /// The last cell ended the server.
    gone: bool,
    failures: Vec<String>,
}

impl<'a> Table<'a> {
    fn new(origin: &'a Origin, server: &'a TrafficServer) -> Table<'a> {
        Table { origin, server, http1: None, http2: None, cells: 0, gone: false, failures: Vec::new() }
    }

    fn run(&mut self, cell: &Cell) {
        // Whoever waits for each of hundreds sees nothing at all.
        if self.failures.len() > 20 || self.gone {
            return;
        }
        self.cells += 1;
        self.origin.take_requests();
        let begin = Instant::now();
        let outcome = if cell.request { self.request(cell) } else { self.response(cell) };
        if cell.http2 && cell.request && cell.operation == "answer" {
            // The data behind an early answer are errors to ATS, which ends a connection with many of them: at any time,
            // and without a word to the next stream if that has just begun.
            self.http2 = None;
        }
        if let Err(what) = outcome {
            self.failures.push(format!("{cell} ({:.1?}): {what}", begin.elapsed()));
            (self.http1, self.http2) = (None, None);
            self.gone = Client::try_connect(self.server.port()).is_err();
        }
    }

    #[track_caller]
    fn finish(self, what: &str, begin: Instant) {
        println!("{what}: {} cells in {:.1?}", self.cells, begin.elapsed());
        let count = self.failures.len();
        let end = if self.gone { ", and the last ended the server" } else { "" };
        assert!(count == 0, "{count} cells of {} failed{end}:\n  {}", self.cells, self.failures.join("\n  "));
    }

    fn exchange(&mut self, http2: bool, ask: &Ask) -> Result<Response, String> {
        let server = self.server;
        if http2 {
            let client = match &mut self.http2 {
                Some(client) => client,
                gone => {
                    let client = Http2::try_connect(server.tls_port(), 1 << 20).map_err(|error| error.to_string())?;
                    gone.insert(client.patience(PATIENCE))
                }
            };
            let outcome = client.exchange(ask).map_err(|error| error.to_string());
            // Data that were on their way to a stream that was answered early are errors to ATS, and it ends connections
            // over them: that is the connection's end, and says nothing of this exchange.
            return match outcome {
                Err(error) if error.contains("connection error") => {
                    let client = Http2::try_connect(server.tls_port(), 1 << 20).map_err(|error| error.to_string())?;
                    let client = self.http2.insert(client.patience(PATIENCE));
                    client.exchange(ask).map_err(|error| error.to_string())
                }
                outcome => outcome,
            };
        }
        let client = match &mut self.http1 {
            Some(client) => client,
            gone => gone.insert(Client::try_connect(server.port()).map_err(|error| error.to_string())?),
        };
        client.exchange(ask).map_err(|error| error.to_string())
    }

    /// Whether the connection can be used again, which it is.
    fn keep_alive(&mut self, response: &Response) -> bool {
        let Some(client) = &self.http1 else { return true };
        let kept = !response.says_close() && client.is_open();
        if !kept {
            self.http1 = None;
        }
        kept
    }

    fn request(&mut self, cell: &Cell) -> Result<(), String> {
        let sending = if cell.framing == "length" { Sending::Length } else { Sending::Chunked(10_000) };
        let ask = Ask::post(cell.host(), "/up", body(cell.len)).sending(sending).header("x-op", &cell.order());
        let response = self.exchange(cell.http2, &ask)?;
        let kept = self.keep_alive(&response);
        let reached = self.origin.take_requests();
        // What is known to be empty from the start has no callback that could answer.
        if cell.operation == "answer" && (cell.len > 0 || response.status == 403) {
            is_answer(&response, "request")?;
            // An origin may have been promised a body, and must not take a part for the whole.
            let whole = reached.iter().filter(|request| request.broken.is_none()).count();
            equal("whole requests at the origin", whole, 0)?;
            return if cell.buffer { equal("requests at the origin", reached.len(), 0) } else { Ok(()) };
        }
        equal("status", response.status, 200)?;
        equal("response", response.text(), "got it".to_owned())?;
        equal("connection kept", kept, true)?;
        equal("requests at the origin", reached.len(), 1)?;
        let request = &reached[0];
        let seen = response.header("x-request-seen").ok_or("no x-request-seen")?;
        // What is known to be empty from the start has no callback.
        let shown = cell.len > 0 || !seen.starts_with("chunks=0 ");
        if shown && !seen.ends_with(&format!(" bytes={} eos=1", cell.len)) {
            return Err(format!("the guest saw {seen}"));
        }
        let expected = if shown { expected(cell.operation, cell.len) } else { body(cell.len) };
        is_body("the origin", (request.body_len, request.body_hash), &expected)?;
        equal("broken", request.broken.clone(), None)?;
        let framings = request.headers.all("content-length").len() + request.headers.all("transfer-encoding").len();
        let unchanged = matches!(cell.operation, "pass" | "hold");
        match &request.framing {
            Framing::Length(_) | Framing::Chunked { .. } if framings != 1 => {
                return Err(format!("{framings} framings: {}", String::from_utf8_lossy(&request.head)));
            }
            Framing::Length(_) => {}
            Framing::None if expected.is_empty() => {}
            other if cell.buffer || (cell.framing == "length" && unchanged) => {
                return Err(format!("no Content-Length at the origin but {}", kind(other)));
            }
            _ => {}
        }
        if cell.operation == "hold" && shown {
            let held = format!("{} {:016x}", cell.len, held_hash(cell.len, step(cell.len)));
            equal("x-hold", request.header("x-hold"), Some(held))?;
        }
        Ok(())
    }

    fn response(&mut self, cell: &Cell) -> Result<(), String> {
        // Each its own object, so that each is a miss first.
        let path = format!("/down/{}/{}?{}-{}", cell.framing, cell.len, cell.operation, cell.http2);
        let ask = Ask::get(cell.host(), &path).header("x-op", &cell.order());
        for turn in ["miss", "hit"] {
            if turn == "hit" && cell.len > 20 * MB {
                continue;
            }
            let response = self.exchange(cell.http2, &ask).map_err(|error| format!("{turn}: {error}"))?;
            let kept = self.keep_alive(&response);
            self.one_response(cell, &response, kept).map_err(|what| format!("{turn}: {what}"))?;
        }
        // ATS caches no chunked body that is empty.
        if cell.operation != "answer" && cell.len > 0 {
            equal("requests at the origin", self.origin.take_requests().len(), 1)?;
        }
        Ok(())
    }

    fn one_response(&self, cell: &Cell, response: &Response, kept: bool) -> Result<(), String> {
        if cell.operation == "answer" && (cell.len > 0 || response.status == 403) {
            return is_answer(response, "response");
        }
        equal("status", response.status, 200)?;
        equal("connection kept", kept, true)?;
        let got = (response.body_len, response.body_hash);
        let changed = is_body("the client", got, &expected(cell.operation, cell.len));
        if cell.len > 0 || changed.is_ok() {
            changed?;
        } else {
            // What is known to be empty from the start has no callback.
            is_body("the client", got, &body(0))?;
        }
        match &response.framing {
            Framing::Length(_) | Framing::Chunked { .. } => {}
            Framing::Close if cell.http2 => {}
            other => return Err(format!("framed by {}", kind(other))),
        }
        let lengths = response.headers.all("content-length");
        if lengths.len() > 1 || lengths.first().is_some_and(|text| *text != response.body_len.to_string()) {
            return Err(format!("Content-Length {lengths:?} for {} bytes", response.body_len));
        }
        if cell.operation == "hold" && cell.len > 0 {
            let held = format!("{} {:016x}", cell.len, held_hash(cell.len, step(cell.len)));
            equal("x-hold", response.header("x-hold"), Some(held))?;
            equal("Content-Length", lengths, vec![cell.len.to_string()])?;
        }
        Ok(())
    }
}

fn kind(framing: &Framing) -> &'static str {
    match framing {
        Framing::None => "nothing",
        Framing::Length(_) => "Content-Length",
        Framing::Chunked { .. } => "chunks",
        Framing::Close => "the connection's end",
    }
}

fn equal<T: PartialEq + fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} instead of {wanted:?}")) }
}

fn is_body(who: &str, (len, hash): (u64, u64), wanted: &Payload) -> Result<(), String> {
    match (wanted.len(), wanted.hash()) {
        wanted if wanted == (len, hash) => Ok(()),
        (right, _) if right == len => Err(format!("{who} got other bytes, {len} as it should")),
        (right, _) => Err(format!("{who} got {len} bytes instead of {right}")),
    }
}

fn is_answer(response: &Response, side: &str) -> Result<(), String> {
    let text = format!("answered at the {side} body\n");
    equal("status", response.status, 403)?;
    equal("x-answer", response.headers.all("x-answer"), vec![side.to_owned()])?;
    equal("answer", response.text(), text.clone())?;
    equal("Content-Length", response.header("content-length"), Some(text.len().to_string()))
}

const OPERATIONS: [&str; 6] = ["pass", "append", "inject", "replace", "hold", "answer"];
const LENGTHS: [u64; 6] = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 10 * MB];

#[test]
fn every_operation_on_every_request_body() {
    let origin = origin();
    let server = builder(&origin).start();
    let begin = Instant::now();
    let mut table = Table::new(&origin, &server);
    for http2 in [false, true] {
        for buffer in [false, true] {
            for framing in ["length", "chunked"] {
                for len in LENGTHS {
                    for operation in OPERATIONS {
                        table.run(&Cell { request: true, framing, len, operation, buffer, http2 });
                    }
                }
                for operation in ["prepend", "partial", "read", "drop"] {
                    table.run(&Cell { request: true, framing, len: 200_000, operation, buffer, http2 });
                }
            }
        }
    }
    table.finish("requests", begin);
}

#[test]
fn every_operation_on_every_response_body() {
    let origin = origin();
    let server = builder(&origin).start();
    let begin = Instant::now();
    let mut table = Table::new(&origin, &server);
    for http2 in [false, true] {
        for framing in ["length", "chunked"] {
            for len in LENGTHS {
                for operation in OPERATIONS {
                    table.run(&Cell { request: false, framing, len, operation, buffer: false, http2 });
                }
            }
            for operation in ["prepend", "partial", "read", "drop"] {
                table.run(&Cell { request: false, framing, len: 200_000, operation, buffer: false, http2 });
            }
        }
    }
    table.finish("responses", begin);
}

/// Few, for each takes its second.
#[test]
fn a_hundred_megabytes() {
    let origin = origin();
    let server = builder(&origin).start();
    let begin = Instant::now();
    let mut table = Table::new(&origin, &server);
    let len = 100 * MB;
    for (framing, operation, buffer, http2) in [
        ("length", "pass", false, false),
        ("chunked", "append", false, false),
        ("length", "inject", true, false),
        ("length", "hold", true, false),
        ("chunked", "hold", false, false),
        ("length", "pass", false, true),
        ("length", "answer", false, false),
    ] {
        table.run(&Cell { request: true, framing, len, operation, buffer, http2 });
    }
    for (framing, operation, http2) in [
        ("length", "pass", false),
        ("chunked", "inject", false),
        ("length", "hold", false),
        ("length", "replace", true),
        ("chunked", "append", true),
    ] {
        table.run(&Cell { request: false, framing, len, operation, buffer: false, http2 });
    }
    if !table.gone {
        println!("traffic_server has {} MB at the end", server.rss_kib() / 1024);
    }
    table.finish("100 MB", begin);
}
