//! An HTTP/2 client over TLS: streams that are read slowly, reset in the middle or abandoned with their connection.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use rustix::net::sockopt::set_socket_linger;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ask::{Ask, Sending};
use super::client::Response;
use super::http::{Fields, Framing};
use super::payload::{Hash, Reader};

/// The name in the servers' certificate, whatever host a request names.
const NAME: &str = "localhost";

/// What servers show for themselves and clients trust, made once a process.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
    der: CertificateDer<'static>,
}

pub(crate) fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate for localhost");
        Identity { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    })
}

fn config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add(identity().der.clone()).expect("our own certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.expect("TLS versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    });
    Arc::clone(config)
}

/// TLS on a connection to a server's [`tls_port`](super::server::TrafficServer::tls_port), for HTTP/2.
///
/// # Errors
/// The handshake fails, or the server does not choose HTTP/2.
pub async fn secure(socket: tokio::net::TcpStream) -> io::Result<TlsStream<tokio::net::TcpStream>> {
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let tls = TlsConnector::from(config()).connect(name, socket).await?;
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("the server does not choose HTTP/2"));
    }
    Ok(tls)
}

/// Why no whole response came.
#[derive(Debug)]
pub struct Http2Error {
    /// What happened.
    pub what: String,
    /// The code of the server's RST_STREAM or GOAWAY, if it was one.
    pub reason: Option<u32>,
    /// What did come.
    pub partial: Option<Box<Response>>,
}

impl Http2Error {
    fn new(what: impl Into<String>) -> Http2Error {
        Http2Error { what: what.into(), reason: None, partial: None }
    }
}

impl From<h2::Error> for Http2Error {
    fn from(error: h2::Error) -> Http2Error {
        Http2Error { what: error.to_string(), reason: error.reason().map(u32::from), partial: None }
    }
}

impl fmt::Display for Http2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(partial) = &self.partial {
            write!(f, "; before that came {} with {} bytes of body", partial.status, partial.body_len)?;
        }
        Ok(())
    }
}

impl Error for Http2Error {}

/// One connection.
pub struct Http2 {
    // The order matters: a runtime that is dropped first takes the connection's task with it.
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    socket: TcpStream,
    patience: Duration,
    keep: bool,
    slow: Option<(usize, Duration)>,
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// A request on its way, its response awaited.
pub struct Exchange {
    response: Option<ResponseFuture>,
    sending: SendStream<Bytes>,
    body: Option<Reader>,
    trailers: Vec<(String, String)>,
    receiving: Option<RecvStream>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

impl Http2 {
    /// Connects to a server's [`tls_port`](super::server::TrafficServer::tls_port).
    #[track_caller]
    pub fn connect(port: u16) -> Http2 {
        Http2::try_connect(port, 1 << 20).unwrap_or_else(|error| panic!("no HTTP/2 on port {port}: {error}"))
    }

    /// As [`connect`](Http2::connect), with windows of this size: the least that one who reads slowly can do.
    pub fn try_connect(port: u16, window: u32) -> Result<Http2, Http2Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Http2Error::new(error.to_string()))?;
        let patience = Duration::from_secs(60);
        let connect = async {
            let failed = |error: io::Error| Http2Error::new(error.to_string());
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let socket = TcpStream::connect(address).map_err(failed)?;
            socket.set_nodelay(true).map_err(failed)?;
            let copy = socket.try_clone().map_err(failed)?;
            socket.set_nonblocking(true).map_err(failed)?;
            let stream = tokio::net::TcpStream::from_std(socket).map_err(failed)?;
            let tls = secure(stream).await.map_err(failed)?;
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
            let (sender, connection) = builder.handshake::<_, Bytes>(tls).await?;
            tokio::spawn(async move {
                let _ = connection.await;
            });
            Ok::<_, Http2Error>((sender, copy))
        };
        let connected = runtime.block_on(async { timeout(Duration::from_secs(10), connect).await });
        let (sender, socket) = connected.map_err(|_| Http2Error::new("no connection in 10 seconds"))??;
        Ok(Http2 { runtime, sender, socket, patience, keep: true, slow: None })
    }

    /// How long a whole exchange may take, a minute if nothing is said.
    pub fn patience(mut self, patience: Duration) -> Http2 {
        self.patience = patience;
        self
    }

    /// Keeps length and hash of bodies alone.
    pub fn discard_bodies(mut self) -> Http2 {
        self.keep = false;
        self
    }

    /// Gives back windows for `size` bytes at a time, and waits before each.
    pub fn slow_reader(mut self, size: usize, pause: Duration) -> Http2 {
        self.slow = Some((size.max(1), pause));
        self
    }

    /// Sends a request and reads its response meanwhile.
    pub fn exchange(&mut self, ask: &Ask) -> Result<Response, Http2Error> {
        let mut exchange = self.open(ask)?;
        let (keep, slow) = (self.keep, self.slow);
        let body = exchange.body.take();
        let trailers = std::mem::take(&mut exchange.trailers);
        let Exchange { response, mut sending, .. } = exchange;
        let work = async {
            let send = async {
                if let Some(mut body) = body {
                    // The response says what became of it.
                    let _ = send_body(&mut sending, &mut body, u64::MAX, &trailers).await;
                }
                std::future::pending::<()>().await;
            };
            let receive = async {
                let response = response.expect("a new exchange awaits its response").await?;
                let (head, mut body) = response.into_parts();
                read_body(response_of(&head), &mut body, keep, slow).await
            };
            tokio::select! {
                () = send => unreachable!("it waits for the response"),
                response = receive => response,
            }
        };
        let done = self.runtime.block_on(async { timeout(self.patience, work).await });
        done.unwrap_or_else(|_| Err(Http2Error::new(format!("no whole response in {:?}", self.patience))))
    }

    /// Sends a request's head alone.
    pub fn open(&mut self, ask: &Ask) -> Result<Exchange, Http2Error> {
        let mut request = http::Request::builder().method(ask.method.as_str());
        request = request.uri(format!("https://{}{}", ask.host, ask.path));
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if ask.expect {
            request = request.header("expect", "100-continue");
        }
        if let (Some(body), Sending::Length) = (&ask.body, &ask.sending) {
            request = request.header("content-length", body.len());
        }
        // As clients do: a body has a type.
        let typed = ask.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !typed && ask.body.as_ref().is_some_and(|body| !body.is_empty()) {
            request = request.header("content-type", "application/octet-stream");
        }
        let request = request.body(()).map_err(|error| Http2Error::new(error.to_string()))?;
        let end = ask.body.as_ref().is_none_or(|body| body.is_empty() && ask.trailers.is_empty());
        let sender = self.sender.clone();
        let opened = self.runtime.block_on(async {
            let mut sender =
                timeout(self.patience, sender.ready()).await.map_err(|_| Http2Error::new("not ready"))??;
            let (response, sending) = sender.send_request(request, end)?;
            Ok::<_, Http2Error>((response, sending))
        });
        let (response, sending) = opened?;
        let body = if end { None } else { ask.body.as_ref().map(super::payload::Payload::reader) };
        Ok(Exchange { response: Some(response), sending, body, trailers: ask.trailers.clone(), receiving: None })
    }

    /// Sends the next bytes of the body, all that there are if so few; the end with the last.
    pub fn send(&mut self, exchange: &mut Exchange, bytes: u64) -> Result<(), Http2Error> {
        let Some(body) = &mut exchange.body else { return Ok(()) };
        let work = send_body(&mut exchange.sending, body, bytes, &exchange.trailers);
        let done = self.runtime.block_on(async { timeout(self.patience, work).await });
        done.unwrap_or_else(|_| Err(Http2Error::new("the server takes no more")))
    }

    /// Waits for the response's head, and gives its status.
    pub fn head(&mut self, exchange: &mut Exchange) -> Result<u16, Http2Error> {
        let Some(response) = exchange.response.take() else { return Err(Http2Error::new("the head was read")) };
        let done = self.runtime.block_on(async { timeout(self.patience, response).await });
        let (head, body) = done.map_err(|_| Http2Error::new("no head"))??.into_parts();
        exchange.receiving = Some(body);
        Ok(head.status.as_u16())
    }

    /// Reads at least so many bytes of the response's body, or to its end, and says how many.
    pub fn read(&mut self, exchange: &mut Exchange, bytes: u64) -> Result<u64, Http2Error> {
        let Some(body) = &mut exchange.receiving else { return Err(Http2Error::new("the head was not read")) };
        let mut count = 0;
        let work = async {
            while count < bytes {
                let Some(data) = body.data().await else { break };
                let data = data?;
                count += data.len() as u64;
                body.flow_control().release_capacity(data.len())?;
            }
            Ok::<_, Http2Error>(())
        };
        let done = self.runtime.block_on(async { timeout(self.patience, work).await });
        done.map_err(|_| Http2Error::new("no more came"))??;
        Ok(count)
    }

    /// Ends a stream by RST_STREAM with this code, 8 (CANCEL) as a rule; the connection stays.
    pub fn reset(&mut self, mut exchange: Exchange, code: u32) {
        exchange.sending.send_reset(Reason::from(code));
        drop(exchange);
        // The frame leaves when the connection's task runs.
        self.wait(Duration::from_millis(1));
    }

    /// Lets the connection's task run: pings are answered, windows of what is read are given back.
    pub fn wait(&mut self, duration: Duration) {
        self.runtime.block_on(async { sleep(duration).await });
    }

    /// Resets the connection with all that is on it.
    pub fn abort(self) {
        let _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}

async fn send_body(
    sending: &mut SendStream<Bytes>,
    body: &mut Reader,
    mut limit: u64,
    trailers: &[(String, String)],
) -> Result<(), Http2Error> {
    while limit > 0 && !body.is_empty() {
        let wanted = limit.min(16 * 1024) as usize;
        sending.reserve_capacity(wanted);
        let granted = match poll_fn(|context| sending.poll_capacity(context)).await {
            Some(granted) => granted?,
            None => return Err(Http2Error::new("the stream takes no more")),
        };
        let mut piece = vec![0; granted.min(wanted)];
        let count = body.fill(&mut piece);
        piece.truncate(count);
        limit -= count as u64;
        sending.send_data(piece.into(), body.is_empty() && trailers.is_empty())?;
        // Frames leave when the connection's task runs.
        tokio::task::yield_now().await;
    }
    if body.is_empty() && !trailers.is_empty() {
        let mut map = http::HeaderMap::new();
        for (name, value) in trailers {
            let name = http::HeaderName::from_bytes(name.as_bytes());
            let value = http::HeaderValue::from_str(value);
            if let (Ok(name), Ok(value)) = (name, value) {
                map.append(name, value);
            }
        }
        sending.send_trailers(map)?;
    }
    Ok(())
}

fn response_of(head: &http::response::Parts) -> Response {
    let field =
        |(name, value): (&http::HeaderName, &http::HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
    let headers = Fields(head.headers.iter().map(field).collect());
    let framing =
        headers.get("content-length").and_then(|text| text.parse().ok()).map_or(Framing::Close, Framing::Length);
    Response {
        version: "HTTP/2".to_owned(),
        status: head.status.as_u16(),
        reason: String::new(),
        headers,
        raw_head: Vec::new(),
        body: Vec::new(),
        raw_body: Vec::new(),
        body_len: 0,
        body_hash: 0,
        framing,
        interim: Vec::new(),
    }
}

async fn read_body(
    mut response: Response,
    body: &mut RecvStream,
    keep: bool,
    slow: Option<(usize, Duration)>,
) -> Result<Response, Http2Error> {
    let mut hash = Hash::default();
    let mut result = Ok(());
    while let Some(data) = body.data().await {
        let data = match data {
            Ok(data) => data,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        hash.update(&data);
        response.body_len += data.len() as u64;
        if keep {
            response.body.extend_from_slice(&data);
        }
        let (size, pause) = slow.unwrap_or((usize::MAX, Duration::ZERO));
        let mut left = data.len();
        while left > 0 {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let part = left.min(size);
            let _ = body.flow_control().release_capacity(part);
            left -= part;
        }
    }
    response.body_hash = hash.value();
    match result {
        Ok(()) => Ok(response),
        Err(error) => Err(Http2Error { partial: Some(Box::new(response)), ..Http2Error::from(error) }),
    }
}
