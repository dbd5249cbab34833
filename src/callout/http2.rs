//! HTTP/2: many calls on a connection, and another connection only where the server allows no more streams.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Method, Request, Response};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::body::{Gathered, TooLarge};
use super::call::HttpResponse;
use super::connect::{Counted, Stream, connect, too_slow};
use super::failure::{Again, Broken, FailureKind, chain, kind_of_h2, unprocessed};
use super::http1::too_large;
use super::request::{Outgoing, pairs};
use super::target::{Progress, Stage, Target};

/// What a server may send on one stream before it was read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// All streams of a connection together: enough that one that is not read never holds up others.
const CONNECTION_WINDOW: u32 = 1 << 30;
const HEADER_LIST: u32 = 64 * 1024;
/// The server's limit on streams may grow without a word to us.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Connections found dead by one call before it gives up.
const DEAD: usize = 8;

/// A connection in the pool. Its task does not hold it: dropped, it is closed once its streams have ended.
struct Connection {
    sender: SendRequest<Bytes>,
    /// Calls on it.
    active: AtomicUsize,
    idle_since: Mutex<Instant>,
    /// Something hangs: is anybody there?
    suspect: Arc<Notify>,
}

#[derive(Default)]
struct State {
    connections: Vec<Arc<Connection>>,
    connecting: bool,
    /// How many attempts to connect have ended, and what the last of them came to if it failed.
    attempts: u64,
    failure: Option<(FailureKind, String)>,
    reaping: bool,
}

/// The connections to one address.
#[derive(Default)]
pub(crate) struct Http2 {
    state: Mutex<State>,
    /// A stream ended, or an attempt to connect.
    changed: Notify,
}

enum Pick {
    Found(Lease),
    Failed(Broken),
    Connecting,
    Busy,
}

/// A call's place on a connection.
pub(crate) struct Lease {
    connection: Arc<Connection>,
    target: Arc<Target>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let pool = &self.target.http2;
        *self.connection.idle_since.lock() = Instant::now();
        self.connection.active.fetch_sub(1, Ordering::AcqRel);
        pool.changed.notify_one();
    }
}

impl Http2 {
    fn pick(&self, target: &Arc<Target>, seen: u64) -> Pick {
        let mut state = self.state.lock();
        for connection in &state.connections {
            // Only ever counted up under the lock.
            if connection.active.load(Ordering::Acquire) < connection.sender.current_max_send_streams() {
                connection.active.fetch_add(1, Ordering::AcqRel);
                return Pick::Found(Lease { connection: Arc::clone(connection), target: Arc::clone(target) });
            }
        }
        if state.connecting {
            return Pick::Connecting;
        }
        // Whoever waited for an attempt that failed shares its failure, instead of trying one after the other.
        if state.attempts > seen
            && state.connections.is_empty()
            && let Some((kind, message)) = &state.failure
        {
            return Pick::Failed(Broken::new(*kind, Again::Always, message.clone()));
        }
        if state.connections.len() < target.shared.settings.max_connections {
            state.connecting = true;
            tokio::spawn(open(Arc::clone(target)));
            return Pick::Connecting;
        }
        Pick::Busy
    }

    fn remove(&self, connection: &Arc<Connection>) {
        self.state.lock().connections.retain(|other| !Arc::ptr_eq(other, connection));
        self.changed.notify_waiters();
    }

    fn opened(&self, target: &Arc<Target>, made: Result<Arc<Connection>, Broken>) {
        let mut state = self.state.lock();
        state.connecting = false;
        state.attempts += 1;
        match made {
            Ok(connection) => {
                state.failure = None;
                state.connections.push(connection);
                if !state.reaping {
                    state.reaping = true;
                    tokio::spawn(reap(Arc::downgrade(target)));
                }
            }
            Err(broken) => state.failure = Some((broken.failure.kind, broken.failure.message)),
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Drops what had no stream for too long; answers when to look again.
    fn expire(&self, limit: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let left = |connection: &Connection| match connection.active.load(Ordering::Acquire) {
            0 => limit.saturating_sub(now.duration_since(*connection.idle_since.lock())),
            _ => limit.max(Duration::from_millis(1)),
        };
        state.connections.retain(|connection| !left(connection).is_zero());
        let next = state.connections.iter().map(|connection| left(connection)).min();
        state.reaping = next.is_some();
        next
    }
}

async fn reap(target: Weak<Target>) {
    loop {
        let wait = target.upgrade().and_then(|target| target.http2.expire(target.shared.settings.idle_timeout));
        match wait {
            Some(wait) => tokio::time::sleep(wait + Duration::from_millis(5)).await,
            None => return,
        }
    }
}

/// Connects for all calls that wait, whatever becomes of them.
async fn open(target: Arc<Target>) {
    let made = async {
        match connect(&target).await? {
            Stream::Plain(stream) => handshake(&target, stream).await,
            Stream::Tls(stream) => handshake(&target, stream).await,
        }
    };
    let limit = target.shared.settings.connect_timeout;
    let made = timeout(limit, made).await.unwrap_or_else(|_| Err(too_slow(&target)));
    target.http2.opened(&target, made);
}

async fn handshake<T>(target: &Arc<Target>, io: T) -> Result<Arc<Connection>, Broken>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .enable_push(false);
    let made = builder.handshake::<_, Bytes>(io).await;
    let (sender, mut driver) = made.map_err(|error| ended(target, Err(error)))?;
    let mut ping = driver.ping_pong();
    // The server's limit on streams comes before its answer to this, and whoever does not speak HTTP/2 is found out.
    if let Some(ping) = &mut ping {
        let answered = tokio::select! {
            biased;
            pong = ping.ping(Ping::opaque()) => pong.is_ok(),
            end = &mut driver => return Err(ended(target, end)),
        };
        if !answered {
            // The connection's own end says why.
            return Err(ended(target, driver.await));
        }
    }
    let suspect = Arc::new(Notify::new());
    let connection = Arc::new(Connection {
        sender,
        active: AtomicUsize::new(0),
        idle_since: Mutex::new(Instant::now()),
        suspect: Arc::clone(&suspect),
    });
    let limit = target.shared.settings.connect_timeout;
    let (counted, weak) = (Counted::new(&target.shared), (Arc::downgrade(target), Arc::downgrade(&connection)));
    tokio::spawn(async move {
        let _counted = counted;
        tokio::select! {
            // The calls on it learn of errors themselves.
            _ = driver => {}
            () = lost(ping, &suspect, limit) => {}
        }
        if let (Some(target), Some(connection)) = (weak.0.upgrade(), weak.1.upgrade()) {
            target.http2.remove(&connection);
        }
    });
    Ok(connection)
}

/// A connection that ended before it could be used.
fn ended(target: &Target, end: Result<(), h2::Error>) -> Broken {
    match end {
        Err(error) => broken(target, &error, Again::Always, "no HTTP/2 connection"),
        Ok(()) => {
            let what = target.says("no HTTP/2 connection: the server closed it");
            Broken::new(FailureKind::Reset, Again::Always, what)
        }
    }
}

/// Ends when the peer is gone. It is asked whenever a call on the connection timed out, for new calls would go the same
/// way until TCP gives up, which takes a quarter of an hour.
async fn lost(ping: Option<PingPong>, suspect: &Notify, limit: Duration) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        suspect.notified().await;
        match timeout(limit, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection's own end says more.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

pub(crate) fn broken(target: &Target, error: &h2::Error, again: Again, what: &str) -> Broken {
    let again = if unprocessed(error) { Again::Always } else { again };
    let kind = kind_of_h2(error, target.shared.tls.is_some());
    let broken = Broken::new(kind, again, target.says(format_args!("{what}: {}", chain(error))));
    // A server that stops in good order is no worse than others.
    if unprocessed(error) { broken.blameless() } else { broken }
}

/// A stream on which the request's head was sent.
pub(crate) struct Begun {
    pub(crate) response: ResponseFuture,
    pub(crate) stream: SendStream<Bytes>,
    pub(crate) lease: Lease,
}

/// Finds a connection and sends the request's head; `head` makes it anew each time.
pub(crate) async fn begin(
    target: &Arc<Target>,
    head: impl Fn() -> Request<()>,
    end: bool,
    progress: &mut Progress,
) -> Result<Begun, Broken> {
    let pool = &target.http2;
    let seen = pool.state.lock().attempts;
    let mut dead = 0;
    loop {
        let changed = pool.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let lease = match pool.pick(target, seen) {
            Pick::Found(lease) => lease,
            Pick::Failed(broken) => return Err(broken),
            Pick::Connecting => {
                progress.stage = Stage::Connecting;
                changed.await;
                continue;
            }
            Pick::Busy => {
                progress.stage = Stage::Waiting;
                let _ = timeout(LOOK_AGAIN, changed).await;
                continue;
            }
        };
        if lease.connection.active.load(Ordering::Acquire) == 1 {
            // As over HTTP/1: its end may have come and not been looked at.
            tokio::task::yield_now().await;
        }
        progress.stage = Stage::Responding;
        let sent = match lease.connection.sender.clone().ready().await {
            Ok(mut sender) => sender.send_request(head(), end),
            Err(error) => Err(error),
        };
        match sent {
            Ok((response, stream)) => {
                progress.connection = Some(Arc::clone(&lease.connection.suspect));
                return Ok(Begun { response, stream, lease });
            }
            Err(error) if error.is_io() || error.is_go_away() || error.is_remote() => {
                // It ended while it waited, or takes no more streams. Nothing of this request went out on it.
                pool.remove(&lease.connection);
                dead += 1;
                if dead > DEAD {
                    return Err(broken(target, &error, Again::Always, "no HTTP/2 stream"));
                }
            }
            Err(error) => {
                return Err(broken(target, &error, Again::Never, "the request cannot be sent").blameless());
            }
        }
    }
}

/// Sends bytes as the server takes them.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), h2::Error> {
    if data.is_empty() {
        return if end { stream.send_data(data, true) } else { Ok(()) };
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(capacity) => capacity?,
                None => return Err(h2::Reason::CANCEL.into()),
            };
        }
        let piece = data.split_to(stream.capacity().min(data.len()));
        stream.send_data(piece, end && data.is_empty())?;
    }
    Ok(())
}

/// Sends the request and reads the response.
pub(crate) async fn call(
    target: &Arc<Target>,
    request: &Outgoing,
    progress: &mut Progress,
) -> Result<HttpResponse, Broken> {
    let end = request.body.is_empty() && request.trailers.is_empty();
    let begun = begin(target, || request.head(()), end, progress).await?;
    let Begun { response, mut stream, lease } = begun;
    let upload = async {
        if !end {
            let last = request.trailers.is_empty();
            send(&mut stream, request.body.clone(), last).await?;
            if !last {
                stream.send_trailers(request.trailers.clone())?;
            }
        }
        Ok::<(), h2::Error>(())
    };
    let download = async {
        let response = response.await.map_err(|error| broken(target, &error, Again::Idempotent, "no response"))?;
        progress.stage = Stage::Reading;
        read(target, response, request.method == Method::HEAD).await
    };
    tokio::pin!(upload, download);
    let mut uploading = !end;
    let response = loop {
        tokio::select! {
            biased;
            response = &mut download => break response,
            // What stopped it stops the response too, or else does not matter: a server may answer early.
            _ = &mut upload, if uploading => uploading = false,
        }
    };
    drop(lease);
    response
}

async fn read(target: &Arc<Target>, response: Response<RecvStream>, bodiless: bool) -> Result<HttpResponse, Broken> {
    let (head, mut body) = response.into_parts();
    let limit = |_: TooLarge| too_large(target);
    let off = |error: h2::Error| Broken {
        again: Again::Never,
        ..broken(target, &error, Again::Never, "the response broke off")
    };
    let announced = head.headers.get(http::header::CONTENT_LENGTH).filter(|_| !bodiless);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut gathered = Gathered::new(target.shared.settings.response_bytes, announced).map_err(limit)?;
    while let Some(data) = body.data().await {
        let data = data.map_err(off)?;
        let length = data.len();
        gathered.push(data).map_err(limit)?;
        body.flow_control().release_capacity(length).map_err(off)?;
    }
    let trailers = body.trailers().await.map_err(off)?;
    Ok(HttpResponse {
        status: head.status.as_u16(),
        headers: pairs(Some(head.status), &head.headers),
        body: gathered.finish(),
        trailers: trailers.map(|trailers| pairs(None, &trailers)).unwrap_or_default(),
    })
}
