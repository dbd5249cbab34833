//! A client that sends exactly the bytes it is given and hides none of those that come back.

use std::error::Error;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::net::{AddressFamily, SocketType};

use super::http::{self, Body, Fields, Framing, Head, Wire, WireError};

/// One connection to a server on the loopback address.
#[derive(Debug)]
pub struct Client {
    wire: Wire<Timed>,
    stream: Arc<TcpStream>,
    keep_bodies: bool,
    /// Heads that [`Client::continued`] came across.
    interim: Vec<Vec<u8>>,
    early: Option<Head>,
}

/// A response, as it stood on the wire. Of one by HTTP/2 there are no raw bytes and no reason, and the framing is
/// [`Framing::Close`] where it had no Content-Length.
#[derive(Clone, Debug)]
pub struct Response {
    /// `HTTP/1.1`
    pub version: String,
    /// The status code.
    pub status: u16,
    /// The reason phrase, which may be empty.
    pub reason: String,
    /// The fields in order, with their case and duplicates.
    pub headers: Fields,
    /// The head's bytes, the empty line included.
    pub raw_head: Vec<u8>,
    /// The body without framing; empty if the client does not keep bodies.
    pub body: Vec<u8>,
    /// The body with framing; empty likewise.
    pub raw_body: Vec<u8>,
    /// Its length, kept or not.
    pub body_len: u64,
    /// Its [`payload::hash_of`](super::payload::hash_of), kept or not.
    pub body_hash: u64,
    /// How its end was told.
    pub framing: Framing,
    /// The heads of 1xx responses that came before.
    pub interim: Vec<Vec<u8>>,
}

impl Response {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name)
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The trailers of a chunked body.
    pub fn trailers(&self) -> Fields {
        match &self.framing {
            Framing::Chunked { trailers, .. } => trailers.clone(),
            _ => Fields::default(),
        }
    }

    /// Whether the server said that it would close.
    pub fn says_close(&self) -> bool {
        self.headers.has_token("connection", "close")
    }
}

/// Why no whole response came.
#[derive(Debug)]
pub struct ClientError {
    /// What happened.
    pub error: WireError,
    /// What did come: its head, and its body as far as it went.
    pub partial: Option<Box<Response>>,
    /// Bytes that did not make a head.
    pub unparsed: Vec<u8>,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if let Some(partial) = &self.partial {
            write!(
                f,
                "; before that came {} {} with {} bytes of body",
                partial.status, partial.reason, partial.body_len
            )?;
        }
        if !self.unparsed.is_empty() {
            write!(f, "; unparsed: {:?}", String::from_utf8_lossy(&self.unparsed))?;
        }
        Ok(())
    }
}

impl Error for ClientError {}

/// What can be seen of a connection without reading from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Open and silent.
    Open,
    /// The server ended it.
    Closed,
    /// The server reset it.
    Reset,
    /// Bytes came that no response accounts for.
    Data,
}

/// One request and its response on a connection of its own.
#[track_caller]
pub fn get(port: u16, host: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    Client::connect(port).request("GET", host, path, headers, b"")
}

impl Client {
    /// Connects, with 10 seconds of patience for each step and two minutes for a response.
    #[track_caller]
    pub fn connect(port: u16) -> Client {
        Client::try_connect(port).unwrap_or_else(|error| panic!("cannot connect to port {port}: {error}"))
    }

    /// As [`connect`](Client::connect), for a server that may refuse.
    pub fn try_connect(port: u16) -> io::Result<Client> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Client::over(TcpStream::connect_timeout(&address, Duration::from_secs(10))?)
    }

    /// Connects from another address of this machine's own, such as 127.0.0.2.
    #[track_caller]
    pub fn connect_from(own: Ipv4Addr, port: u16) -> Client {
        let connect = || {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            rustix::net::bind(&socket, &SocketAddrV4::new(own, 0))?;
            rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
            Client::over(TcpStream::from(socket))
        };
        connect().unwrap_or_else(|error: io::Error| panic!("cannot connect from {own} to port {port}: {error}"))
    }

    fn over(stream: TcpStream) -> io::Result<Client> {
        let stream = Arc::new(stream);
        stream.set_nodelay(true)?;
        let timed = Timed {
            stream: Arc::clone(&stream),
            step: Duration::from_secs(10),
            whole: Duration::from_secs(120),
            end: None,
            most: usize::MAX,
            pause: Duration::ZERO,
        };
        let mut client = Client { wire: Wire::new(timed), stream, keep_bodies: true, interim: Vec::new(), early: None };
        client.set_timeout(Duration::from_secs(10));
        Ok(client)
    }

    /// How long to wait for the next bytes, either way.
    pub fn timeout(mut self, step: Duration) -> Client {
        self.set_timeout(step);
        self
    }

    /// How long a whole response may take.
    pub fn deadline(mut self, whole: Duration) -> Client {
        self.wire.inner.whole = whole;
        self
    }

    /// Keeps length and hash of bodies alone.
    pub fn discard_bodies(mut self) -> Client {
        self.keep_bodies = false;
        self
    }

    /// Shrinks the socket's receive buffer, so that a client that does not read is soon felt.
    #[track_caller]
    pub fn small_window(self, bytes: usize) -> Client {
        set_socket_recv_buffer_size(&*self.stream, bytes).expect("the socket takes a buffer size");
        self
    }

    /// Reads at most `size` bytes at a time, and waits before each.
    pub fn slow_reader(mut self, size: usize, pause: Duration) -> Client {
        self.wire.inner.most = size.max(1);
        self.wire.inner.pause = pause;
        self
    }

    fn set_timeout(&mut self, step: Duration) {
        self.wire.inner.step = step;
        self.stream.set_write_timeout(Some(step)).expect("a timeout above 0");
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.try_send(bytes) {
            panic!("cannot send: {error}");
        }
    }

    /// As [`send`](Client::send), for a server that may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&*self.stream).write_all(bytes.as_ref())
    }

    /// The sending side, for a thread that sends while this one reads.
    pub fn writer(&self) -> Writer {
        Writer { stream: Arc::clone(&self.stream) }
    }

    /// Sends one request. A body brings its Content-Length, unless the fields frame it themselves.
    #[track_caller]
    pub fn send_request(&mut self, method: &str, host: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let framed = headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        });
        if !body.is_empty() && !framed {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.send(bytes);
    }

    /// Sends one request and reads its response.
    #[track_caller]
    pub fn request(&mut self, method: &str, host: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send_request(method, host, path, headers, body);
        self.read_response_to(method)
    }

    /// The plainest request.
    #[track_caller]
    pub fn get(&mut self, host: &str, path: &str) -> Response {
        self.request("GET", host, path, &[], b"")
    }

    /// Reads exactly one response to a method that is not HEAD.
    #[track_caller]
    pub fn read_response(&mut self) -> Response {
        self.read_response_to("GET")
    }

    /// Reads exactly one response to `method`.
    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).unwrap_or_else(|error| panic!("no response to {method}: {error}"))
    }

    /// As [`read_response_to`](Client::read_response_to), for a response that may not come whole.
    pub fn try_response_to(&mut self, method: &str) -> Result<Response, ClientError> {
        self.wire.inner.end = Some(Instant::now() + self.wire.inner.whole);
        let result = self.response(method);
        self.wire.inner.end = None;
        result
    }

    /// Waits for an interim response, as one who expects it does; false if the final one has begun.
    pub fn continued(&mut self) -> Result<bool, ClientError> {
        match self.wire.head() {
            Ok(Some(head)) if head.first[1].starts_with('1') => self.interim.push(head.raw),
            Ok(Some(head)) => self.early = Some(head),
            Ok(None) => return Err(self.failed(WireError::Closed)),
            Err(error) => return Err(self.failed(error)),
        }
        Ok(self.early.is_none())
    }

    fn response(&mut self, method: &str) -> Result<Response, ClientError> {
        let mut interim = std::mem::take(&mut self.interim);
        let head = loop {
            let head = match self.early.take().map_or_else(|| self.wire.head(), |head| Ok(Some(head))) {
                Ok(Some(head)) => head,
                Ok(None) => return Err(self.failed(WireError::Closed)),
                Err(error) => return Err(self.failed(error)),
            };
            match head.first[1].as_str() {
                "101" => break head,
                status if status.starts_with('1') => interim.push(head.raw),
                _ => break head,
            }
        };
        let Ok(status) = head.first[1].parse::<u16>() else {
            return Err(self.failed(WireError::Malformed(format!("the status {:?}", head.first[1]))));
        };
        let [version, _, reason] = head.first;
        let mut response = Response {
            version,
            status,
            reason,
            headers: head.fields,
            raw_head: head.raw,
            body: Vec::new(),
            raw_body: Vec::new(),
            body_len: 0,
            body_hash: Body::none().hash,
            framing: Framing::None,
            interim,
        };
        let framing = if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            Framing::None
        } else {
            match http::announced(&response.headers) {
                Ok(framing) => framing.unwrap_or(Framing::Close),
                Err(error) => {
                    return Err(ClientError { error, partial: Some(Box::new(response)), unparsed: Vec::new() });
                }
            }
        };
        let (body, error) = match self.wire.body(framing, self.keep_bodies) {
            Ok(body) => (body, None),
            Err(cut) => (cut.body, Some(cut.error)),
        };
        response.body = body.bytes;
        response.raw_body = body.raw;
        response.body_len = body.len;
        response.body_hash = body.hash;
        response.framing = body.framing;
        match error {
            None => Ok(response),
            Some(error) => {
                Err(ClientError { error, partial: Some(Box::new(response)), unparsed: self.wire.pending().to_vec() })
            }
        }
    }

    fn failed(&self, error: WireError) -> ClientError {
        ClientError { error, partial: None, unparsed: self.wire.pending().to_vec() }
    }

    /// What the connection shows at this moment.
    pub fn connection(&self) -> Connection {
        if !self.wire.pending().is_empty() {
            return Connection::Data;
        }
        if self.stream.set_nonblocking(true).is_err() {
            return Connection::Reset;
        }
        let seen = self.stream.peek(&mut [0]);
        let _ = self.stream.set_nonblocking(false);
        match seen {
            Ok(0) => Connection::Closed,
            Ok(_) => Connection::Data,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Connection::Open,
            Err(_) => Connection::Reset,
        }
    }

    /// Whether the connection can take another request.
    pub fn is_open(&self) -> bool {
        self.connection() == Connection::Open
    }

    /// Waits for the server to end the connection; false if it still stands after `timeout`.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        super::poll(timeout, || matches!(self.connection(), Connection::Closed | Connection::Reset).then_some(()))
            .is_some()
    }

    /// Ends the sending side and goes on reading.
    pub fn finish_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Resets the connection: the server meets an error, not an end.
    pub fn abort(self) {
        let _ = set_socket_linger(&*self.stream, Some(Duration::ZERO));
    }

    /// The client's own port, as the server's logs and the origin's headers may show it.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().map_or(0, |address| address.port())
    }
}

/// The sending side of a [`Client`].
#[derive(Debug)]
pub struct Writer {
    stream: Arc<TcpStream>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream whose reads have both a step's and a whole response's time limit.
#[derive(Debug)]
struct Timed {
    stream: Arc<TcpStream>,
    step: Duration,
    whole: Duration,
    end: Option<Instant>,
    most: usize,
    pause: Duration,
}

impl Read for Timed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.end.map_or(self.step, |end| end.saturating_duration_since(Instant::now()).min(self.step));
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !self.pause.is_zero() {
            std::thread::sleep(self.pause);
        }
        self.stream.set_read_timeout(Some(left))?;
        let most = out.len().min(self.most);
        (&*self.stream).read(&mut out[..most])
    }
}
