//! A scripted origin server: it answers what the test says and remembers every byte it was sent.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use super::http::{self, Body, Cut, Fields, Framing, Head, Wire, WireError};
use super::payload::Stream;

/// A request as the origin received it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// Which request of that connection it was, from 0.
    pub sequence: usize,
    /// The method.
    pub method: String,
    /// The target, as it stood.
    pub target: String,
    /// `HTTP/1.1`
    pub version: String,
    /// The fields in order, with their case and duplicates.
    pub headers: Fields,
    /// The head's bytes, the empty line included.
    pub head: Vec<u8>,
    /// The body without framing; empty if the origin does not keep bodies.
    pub body: Vec<u8>,
    /// The body with framing; empty likewise.
    pub raw_body: Vec<u8>,
    /// Its length, kept or not.
    pub body_len: u64,
    /// Its [`payload::hash_of`](super::payload::hash_of), kept or not.
    pub body_hash: u64,
    /// How its end was told.
    pub framing: Framing,
    /// Why the body did not come whole.
    pub broken: Option<String>,
}

impl Request {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name)
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What answers a request: a [`Reply`], or a closure that makes one.
pub trait Handler: Send + Sync + 'static {
    /// Makes the reply.
    fn reply(&self, request: &Request) -> Reply;
}

impl Handler for Reply {
    fn reply(&self, _: &Request) -> Reply {
        self.clone()
    }
}

impl<F: Fn(&Request) -> Reply + Send + Sync + 'static> Handler for F {
    fn reply(&self, request: &Request) -> Reply {
        self(request)
    }
}

#[derive(Clone, Debug)]
enum Content {
    Bytes(Arc<Vec<u8>>),
    Seed { seed: u64, len: u64 },
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Seed { len, .. } => *len,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Length,
    Chunked,
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Reset,
    Close,
    Hang,
}

/// A response that the origin is to give.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    reason: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    content: Content,
    sent: Sent,
    piece: usize,
    pause: Duration,
    delay: Duration,
    interim: Vec<u8>,
    trailers: Vec<(String, String)>,
    broken: Option<(Break, u64)>,
    close: bool,
    raw: Option<Vec<u8>>,
}

impl Reply {
    /// An empty response with a Content-Length and no other field.
    pub fn new(status: u16) -> Reply {
        Reply {
            status,
            reason: None,
            headers: Vec::new(),
            content: Content::Bytes(Arc::default()),
            sent: Sent::Length,
            piece: 64 * 1024,
            pause: Duration::ZERO,
            delay: Duration::ZERO,
            interim: Vec::new(),
            trailers: Vec::new(),
            broken: None,
            close: false,
            raw: None,
        }
    }

    /// Exactly these bytes and then the connection's end.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply { raw: Some(bytes.into()), close: true, ..Reply::new(0) }
    }

    /// The request's head and body as the body: what a route that nobody set answers.
    pub fn echo(request: &Request) -> Reply {
        Reply::new(200).body([request.head.as_slice(), &request.body].concat())
    }

    /// The reason phrase, which is else the usual one.
    pub fn reason(mut self, reason: &str) -> Reply {
        self.reason = Some(reason.to_owned());
        self
    }

    /// One more field, after those already there.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// `Cache-Control: max-age`.
    pub fn cacheable(self, seconds: u32) -> Reply {
        self.header("Cache-Control", format!("max-age={seconds}"))
    }

    /// The body.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Reply {
        self.content = Content::Bytes(Arc::new(bytes.into()));
        self
    }

    /// A body of `len` bytes of [`payload::Stream`](super::payload::Stream), made as it is sent.
    pub fn generated(mut self, seed: u64, len: u64) -> Reply {
        self.content = Content::Seed { seed, len };
        self
    }

    /// Sends the body chunked, `size` bytes at a time.
    pub fn chunked(mut self, size: usize) -> Reply {
        self.sent = Sent::Chunked;
        self.piece = size.max(1);
        self
    }

    /// Sends the body without length; the connection's end is its end.
    pub fn until_close(mut self) -> Reply {
        self.sent = Sent::UntilClose;
        self.close = true;
        self
    }

    /// A field after the last chunk.
    pub fn trailer(mut self, name: &str, value: &str) -> Reply {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits before the head.
    pub fn delay(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    /// Sends the body `size` bytes at a time and waits between them.
    pub fn trickle(mut self, size: usize, pause: Duration) -> Reply {
        self.piece = size.max(1);
        self.pause = pause;
        self
    }

    /// Bytes to send before the head, such as a 103 response.
    pub fn interim(mut self, bytes: impl Into<Vec<u8>>) -> Reply {
        self.interim = bytes.into();
        self
    }

    /// Says `Connection: close` and does.
    pub fn close(mut self) -> Reply {
        self.close = true;
        self.header("Connection", "close")
    }

    /// Resets the connection after so many bytes of body.
    pub fn reset_after(mut self, bytes: u64) -> Reply {
        self.broken = Some((Break::Reset, bytes));
        self
    }

    /// Closes the connection in good order after so many bytes of body.
    pub fn close_after(mut self, bytes: u64) -> Reply {
        self.broken = Some((Break::Close, bytes));
        self
    }

    /// Sends no more after so many bytes of body, and does not close either.
    pub fn hang_after(mut self, bytes: u64) -> Reply {
        self.broken = Some((Break::Hang, bytes));
        self
    }
}

#[derive(Clone)]
struct Route {
    pattern: String,
    early: bool,
    handler: Arc<dyn Handler>,
}

#[derive(Default)]
struct Recorded {
    requests: Vec<Request>,
    /// Of each connection, everything it sent.
    bytes: Vec<Vec<u8>>,
}

struct Shared {
    routes: Mutex<Vec<Route>>,
    recorded: Mutex<Recorded>,
    arrived: Condvar,
    open: Mutex<HashMap<usize, Arc<TcpStream>>>,
    connections: AtomicUsize,
    requests: AtomicUsize,
    keep: AtomicBool,
    refuse_expect: AtomicBool,
    read_size: AtomicUsize,
    read_pause: AtomicU64,
    stop: AtomicBool,
}

/// A server on a loopback port, for as long as the value lives.
pub struct Origin {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Origin {
    /// Starts one; until a route says otherwise it echoes.
    #[track_caller]
    pub fn start() -> Origin {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback address has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            routes: Mutex::default(),
            recorded: Mutex::default(),
            arrived: Condvar::new(),
            open: Mutex::default(),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            keep: AtomicBool::new(true),
            refuse_expect: AtomicBool::new(false),
            read_size: AtomicUsize::new(usize::MAX),
            read_pause: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Origin { port, shared, accepting: Some(accepting) }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`, as a rule's target names it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Answers a path; one that ends with `*` stands for all that begin so. The latest route that fits counts.
    pub fn route(&self, pattern: &str, handler: impl Handler) -> &Origin {
        self.add(pattern, false, handler)
    }

    /// As [`route`](Origin::route), but answers on the head alone, leaves the body unread and closes.
    pub fn route_early(&self, pattern: &str, handler: impl Handler) -> &Origin {
        self.add(pattern, true, handler)
    }

    fn add(&self, pattern: &str, early: bool, handler: impl Handler) -> &Origin {
        lock(&self.shared.routes).push(Route { pattern: pattern.to_owned(), early, handler: Arc::new(handler) });
        self
    }

    /// Keeps no bytes, for loads and large bodies: heads and bodies are counted, measured and hashed alone.
    pub fn discard(&self) -> &Origin {
        self.shared.keep.store(false, Ordering::Relaxed);
        self
    }

    /// Answers `Expect: 100-continue` with 417 instead of 100.
    pub fn refuse_expect(&self) -> &Origin {
        self.shared.refuse_expect.store(true, Ordering::Relaxed);
        self
    }

    /// Reads at most `size` bytes at a time, and waits between.
    pub fn slow_reader(&self, size: usize, pause: Duration) -> &Origin {
        self.shared.read_size.store(size.max(1), Ordering::Relaxed);
        self.shared.read_pause.store(pause.as_micros() as u64, Ordering::Relaxed);
        self
    }

    /// The requests so far, in the order in which their bodies ended.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.recorded).requests.clone()
    }

    /// As [`requests`](Origin::requests), and forgets them.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.shared.recorded).requests)
    }

    /// The last request.
    #[track_caller]
    pub fn last(&self) -> Request {
        lock(&self.shared.recorded).requests.last().cloned().expect("the origin had a request")
    }

    /// Waits until there are `count` requests.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize, timeout: Duration) -> Vec<Request> {
        let recorded = lock(&self.shared.recorded);
        let (recorded, result) = self
            .shared
            .arrived
            .wait_timeout_while(recorded, timeout, |recorded| recorded.requests.len() < count)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            !result.timed_out(),
            "{} requests of {count} reached the origin in {timeout:?}",
            recorded.requests.len()
        );
        recorded.requests.clone()
    }

    /// How many requests came, kept or not.
    pub fn request_count(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How many connections came.
    pub fn connection_count(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many of them are open.
    pub fn open_connections(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// Everything that a connection sent, parsed or not.
    pub fn connection_bytes(&self, connection: usize) -> Vec<u8> {
        lock(&self.shared.recorded).bytes.get(connection).cloned().unwrap_or_default()
    }

    /// Ends every open connection, as an origin that restarts does.
    pub fn close_connections(&self) {
        for stream in lock(&self.shared.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        self.close_connections();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
        lock(&shared.recorded).bytes.push(Vec::new());
        let stream = Arc::new(stream);
        lock(&shared.open).insert(connection, Arc::clone(&stream));
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // The client going away is no fault of the origin's.
            let _ = stream.set_nodelay(true);
            let ending = serve(&stream, connection, &shared);
            if ending == Ending::Reset {
                let _ = set_socket_linger(&*stream, Some(Duration::ZERO));
            }
            // The last reference closes the socket.
            lock(&shared.open).remove(&connection);
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    KeepAlive,
    Close,
    Reset,
}

fn serve(stream: &Arc<TcpStream>, connection: usize, shared: &Shared) -> Ending {
    let mut wire = Wire::new(Tap { stream: Arc::clone(stream), connection, shared });
    for sequence in 0.. {
        let head = match wire.head() {
            Ok(Some(head)) => head,
            Ok(None) => return Ending::Close,
            Err(WireError::Malformed(what)) => {
                let body = format!("the origin cannot read this: {what}\n");
                let _ = send(stream, &Reply::new(400).body(body).close(), "GET", shared);
                return Ending::Close;
            }
            Err(_) => return Ending::Close,
        };
        let route = find_route(shared, &head);
        let early = route.as_ref().is_some_and(|route| route.early);
        let expects = head.fields.has_token("expect", "100-continue");
        let refused = expects && shared.refuse_expect.load(Ordering::Relaxed);
        let body = if early || refused {
            Ok(Body::none())
        } else {
            if expects && (&**stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                return Ending::Close;
            }
            read_body(&mut wire, &head, shared)
        };
        let (body, broken) = match body {
            Ok(body) => (body, None),
            Err(cut) => (cut.body, Some(cut.error.to_string())),
        };
        let keep_alive = head.first[2] != "HTTP/1.0" && !head.fields.has_token("connection", "close");
        let cut = broken.is_some();
        let request = record(shared, connection, sequence, head, body, broken);
        if cut {
            return Ending::Close;
        }
        let reply = match &route {
            _ if refused => Reply::new(417).close(),
            Some(route) => route.handler.reply(&request),
            None => Reply::echo(&request),
        };
        match send(stream, &reply, &request.method, shared) {
            Ok(Ending::KeepAlive) if keep_alive && !early => {}
            Ok(Ending::Reset) => return Ending::Reset,
            _ => return Ending::Close,
        }
    }
    Ending::Close
}

fn read_body(wire: &mut Wire<Tap<'_>>, head: &Head, shared: &Shared) -> Result<Body, Box<Cut>> {
    let framing = http::announced(&head.fields).map_err(|error| Box::new(Cut { error, body: Body::none() }))?;
    wire.body(framing.unwrap_or(Framing::None), shared.keep.load(Ordering::Relaxed))
}

fn find_route(shared: &Shared, head: &Head) -> Option<Route> {
    let target = head.first[1].as_str();
    let path = target.split('?').next().unwrap_or_default();
    let fits = |route: &&Route| match route.pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => route.pattern == path,
    };
    lock(&shared.routes).iter().rev().find(fits).cloned()
}

fn record(
    shared: &Shared,
    connection: usize,
    sequence: usize,
    head: Head,
    body: Body,
    broken: Option<String>,
) -> Request {
    let [method, target, version] = head.first;
    let request = Request {
        connection,
        sequence,
        method,
        target,
        version,
        headers: head.fields,
        head: head.raw,
        body: body.bytes,
        raw_body: body.raw,
        body_len: body.len,
        body_hash: body.hash,
        framing: body.framing,
        broken,
    };
    shared.requests.fetch_add(1, Ordering::Relaxed);
    if shared.keep.load(Ordering::Relaxed) {
        lock(&shared.recorded).requests.push(request.clone());
        shared.arrived.notify_all();
    }
    request
}

fn send(stream: &TcpStream, reply: &Reply, method: &str, shared: &Shared) -> io::Result<Ending> {
    sleep(shared, reply.delay);
    let mut out = stream;
    if let Some(raw) = &reply.raw {
        out.write_all(raw)?;
        return Ok(Ending::Close);
    }
    let bodiless = method == "HEAD" || matches!(reply.status, 100..=199 | 204 | 304);
    let mut first = reply.interim.clone();
    first.extend_from_slice(&head_of(reply));
    let len = if bodiless { 0 } else { reply.content.len() };
    let limit = reply.broken.map_or(len, |(_, bytes)| bytes.min(len));
    let mut generated = match reply.content {
        Content::Seed { seed, .. } => Some(Stream::new(seed)),
        Content::Bytes(_) => None,
    };
    // The head goes with the first piece, so that a small response is one packet.
    let mut pending = first;
    let mut position: u64 = 0;
    while position < limit {
        if !reply.pause.is_zero() {
            out.write_all(&std::mem::take(&mut pending))?;
            sleep(shared, reply.pause);
        }
        let size = (limit - position).min(reply.piece as u64) as usize;
        if reply.sent == Sent::Chunked {
            pending.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        }
        match (&reply.content, &mut generated) {
            (Content::Bytes(bytes), _) => {
                pending.extend_from_slice(&bytes[position as usize..position as usize + size])
            }
            (Content::Seed { .. }, Some(stream)) => {
                let old = pending.len();
                pending.resize(old + size, 0);
                stream.fill(&mut pending[old..]);
            }
            (Content::Seed { .. }, None) => unreachable!("a seed has its stream"),
        }
        if reply.sent == Sent::Chunked {
            pending.extend_from_slice(b"\r\n");
        }
        position += size as u64;
        if !reply.pause.is_zero() || pending.len() >= 64 * 1024 {
            out.write_all(&std::mem::take(&mut pending))?;
        }
    }
    if let Some((how, _)) = reply.broken {
        out.write_all(&pending)?;
        // What was written is to be read and passed on before the connection ends.
        sleep(shared, Duration::from_millis(50));
        match how {
            Break::Reset => return Ok(Ending::Reset),
            Break::Close => return Ok(Ending::Close),
            Break::Hang => {
                sleep(shared, Duration::from_secs(3600));
                return Ok(Ending::Close);
            }
        }
    }
    if reply.sent == Sent::Chunked && !bodiless {
        pending.extend_from_slice(b"0\r\n");
        for (name, value) in &reply.trailers {
            pending.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        pending.extend_from_slice(b"\r\n");
    }
    out.write_all(&pending)?;
    Ok(if reply.close { Ending::Close } else { Ending::KeepAlive })
}

fn head_of(reply: &Reply) -> Vec<u8> {
    let reason = reply.reason.as_deref().unwrap_or_else(|| usual_reason(reply.status));
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", reply.status).into_bytes();
    for (name, value) in &reply.headers {
        head.extend_from_slice(format!("{name}: ").as_bytes());
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    let has_length = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let without_body = matches!(reply.status, 100..=199 | 204 | 304);
    match reply.sent {
        Sent::Length if !has_length && !without_body => {
            head.extend_from_slice(format!("Content-Length: {}\r\n", reply.content.len()).as_bytes());
        }
        Sent::Chunked if !without_body => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn usual_reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        417 => "Expectation Failed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// Sleeps in small steps, so that a dropped origin does not keep its threads.
fn sleep(shared: &Shared, duration: Duration) {
    let end = Instant::now() + duration;
    while !shared.stop.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Keeps a copy of what a connection sends.
struct Tap<'a> {
    stream: Arc<TcpStream>,
    connection: usize,
    shared: &'a Shared,
}

impl Read for Tap<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let limit = self.shared.read_size.load(Ordering::Relaxed).min(out.len());
        let pause = self.shared.read_pause.load(Ordering::Relaxed);
        if pause > 0 {
            sleep(self.shared, Duration::from_micros(pause));
        }
        let count = (&*self.stream).read(&mut out[..limit])?;
        if self.shared.keep.load(Ordering::Relaxed)
            && let Some(bytes) = lock(&self.shared.recorded).bytes.get_mut(self.connection)
        {
            bytes.extend_from_slice(&out[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::{Client, Connection};
    use super::*;

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
        origin.route(
            "/close",
            Reply::new(299).reason("Odd One").header("A", "1").header("a", "2").body("x").until_close(),
        );
        origin.route("/none", Reply::new(204));
        origin.route("/big", Reply::new(200).generated(3, 300_000));
        let mut client = Client::connect(origin.port()).discard_bodies();
        let response = client.get("a", "/big");
        assert_eq!((response.body_len, response.body_hash), (300_000, super::super::payload::hash(3, 300_000)));
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
        super::super::wait_until(Duration::from_secs(5), "the bytes arrive", || {
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
}
