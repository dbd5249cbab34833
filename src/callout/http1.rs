//! HTTP/1.1: one call at a time on a connection, and a pool of those that wait for the next.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::body::{Gathered, Payload, TooLarge};
use super::call::HttpResponse;
use super::connect::{Counted, Stream, connect};
use super::failure::{Again, Broken, FailureKind, chain, kind_of_hyper};
use super::request::{Outgoing, pairs};
use super::target::{Progress, Shared, Stage, Target};
use super::threads::{ThreadId, here};

/// How long a connection whose response is read may take to be ready for the next request.
const SETTLE: Duration = Duration::from_secs(1);

struct Connection {
    sender: SendRequest<Payload>,
    task: AbortHandle,
    thread: ThreadId,
}

#[derive(Default)]
struct Idle {
    /// The one used last comes last.
    connections: Vec<(Connection, Instant)>,
    reaping: bool,
}

/// The connections to one address.
pub(crate) struct Http1 {
    /// One for each connection that may be in use.
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

impl Http1 {
    pub(crate) fn new(max_connections: usize) -> Http1 {
        Http1 { permits: Arc::new(Semaphore::new(max_connections)), idle: Mutex::default() }
    }

    /// A connection that waits and is alive.
    async fn living(&self) -> Option<Connection> {
        loop {
            let connection = self.take()?;
            // Its end may have come and not been looked at: what the sockets have to say goes first.
            tokio::task::yield_now().await;
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    /// A connection that waits, by preference one of this thread: answers then need not change threads.
    fn take(&self) -> Option<Connection> {
        let thread = here();
        let mut idle = self.idle.lock();
        loop {
            let own = idle.connections.iter().rposition(|(connection, _)| connection.thread == thread);
            let index = own.or_else(|| idle.connections.len().checked_sub(1))?;
            let (connection, _) = idle.connections.remove(index);
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    fn put(&self, target: &Arc<Target>, connection: Connection) {
        let mut idle = self.idle.lock();
        idle.connections.push((connection, Instant::now()));
        if !idle.reaping {
            idle.reaping = true;
            tokio::spawn(reap(Arc::downgrade(target)));
        }
    }

    /// Drops what waited too long; answers when to look again.
    fn expire(&self, limit: Duration) -> Option<Duration> {
        let mut idle = self.idle.lock();
        let now = Instant::now();
        idle.connections
            .retain(|(connection, since)| now.duration_since(*since) < limit && !connection.sender.is_closed());
        let next = idle.connections.iter().map(|(_, since)| limit.saturating_sub(now.duration_since(*since))).min();
        idle.reaping = next.is_some();
        next
    }
}

async fn reap(target: Weak<Target>) {
    loop {
        let wait = target.upgrade().and_then(|target| target.http1.expire(target.shared.settings.idle_timeout));
        match wait {
            // Not for every single one.
            Some(wait) => tokio::time::sleep(wait + Duration::from_millis(5)).await,
            None => return,
        }
    }
}

/// A connection that a call uses. Dropped in the middle, it is closed.
struct Lease {
    connection: Option<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.task.abort();
        }
    }
}

impl Lease {
    /// The response is read: the connection is free for the next call.
    fn finish(mut self, target: &Arc<Target>) {
        let Some(connection) = self.connection.take() else { return };
        if connection.sender.is_ready() {
            target.http1.put(target, connection);
        } else if !connection.sender.is_closed() {
            // The permit goes with it: it is still a connection in use.
            self.connection = Some(connection);
            let target = Arc::clone(target);
            tokio::spawn(async move {
                let Some(connection) = &mut self.connection else { return };
                let ready = tokio::time::timeout(SETTLE, connection.sender.ready()).await;
                if let (Ok(Ok(())), Some(connection)) = (ready, self.connection.take()) {
                    target.http1.put(&target, connection);
                }
            });
        }
    }
}

async fn handshake<T>(shared: &Arc<Shared>, io: T) -> hyper::Result<Connection>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new().handshake::<_, Payload>(TokioIo::new(io)).await?;
    let counted = Counted::new(shared);
    let task = tokio::spawn(async move {
        let _counted = counted;
        // The calls on it learn of errors themselves.
        let _ = connection.await;
    });
    Ok(Connection { sender, task: task.abort_handle(), thread: here() })
}

/// Sends the request and reads the response.
pub(crate) async fn call(
    target: &Arc<Target>,
    request: &Outgoing,
    progress: &mut Progress,
) -> Result<HttpResponse, Broken> {
    let pool = &target.http1;
    progress.stage = Stage::Waiting;
    let mut permit =
        Some(Arc::clone(&pool.permits).acquire_owned().await.map_err(|_| {
            Broken::new(FailureKind::Connect, Again::Never, target.says("its pool is closed")).blameless()
        })?);
    loop {
        let (connection, fresh) = match pool.living().await {
            Some(connection) => (connection, false),
            None => {
                progress.stage = Stage::Connecting;
                let made = match connect(target).await? {
                    Stream::Plain(stream) => handshake(&target.shared, stream).await,
                    Stream::Tls(stream) => handshake(&target.shared, stream).await,
                };
                let failed = |error| broken(target, &error, Again::Always, "no HTTP/1 connection");
                (made.map_err(failed)?, true)
            }
        };
        progress.stage = Stage::Responding;
        let Some(held) = permit.take() else { break };
        let mut lease = Lease { connection: Some(connection), _permit: held };
        let Some(connection) = &mut lease.connection else { break };
        let payload = Payload::new(request.body.clone(), &request.trailers);
        match connection.sender.try_send_request(request.head(payload)).await {
            Ok(response) => {
                progress.stage = Stage::Reading;
                let response = read(target, response).await?;
                lease.finish(target);
                return Ok(response);
            }
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                if unsent && !fresh {
                    // It died while it waited in the pool. Nothing of this request went out on it.
                    permit = Some(renew(pool, lease, target).await?);
                    continue;
                }
                let again = if unsent { Again::Always } else { Again::Idempotent };
                return Err(broken(target, error.error(), again, "no response"));
            }
        }
    }
    Err(Broken::new(FailureKind::Connect, Again::Always, target.says("no connection could be used")).blameless())
}

/// Gives a dead connection up and takes a place for another.
async fn renew(pool: &Http1, lease: Lease, target: &Target) -> Result<OwnedSemaphorePermit, Broken> {
    drop(lease);
    Arc::clone(&pool.permits)
        .acquire_owned()
        .await
        .map_err(|_| Broken::new(FailureKind::Connect, Again::Never, target.says("its pool is closed")).blameless())
}

fn broken(target: &Target, error: &hyper::Error, again: Again, what: &str) -> Broken {
    let kind = kind_of_hyper(error, target.shared.tls.is_some());
    Broken::new(kind, again, target.says(format_args!("{what}: {}", chain(error))))
}

pub(crate) fn too_large(target: &Target) -> Broken {
    let what = format!("the response is longer than {} bytes (response_kib)", target.shared.settings.response_bytes);
    Broken::new(FailureKind::TooLarge, Again::Never, target.says(what)).blameless()
}

async fn read(target: &Arc<Target>, response: Response<Incoming>) -> Result<HttpResponse, Broken> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let what = target.says("it answered 101 although no upgrade was asked for");
        return Err(Broken::new(FailureKind::Protocol, Again::Never, what));
    }
    let (head, mut body) = response.into_parts();
    let limit = |_: TooLarge| too_large(target);
    let mut gathered = Gathered::new(target.shared.settings.response_bytes, body.size_hint().exact()).map_err(limit)?;
    let mut trailers = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| broken(target, &error, Again::Never, "the response broke off"))?;
        match frame.into_data() {
            Ok(data) => gathered.push(data).map_err(limit)?,
            Err(frame) => trailers.extend(frame.trailers_ref().map(|map| pairs(None, map)).unwrap_or_default()),
        }
    }
    Ok(HttpResponse {
        status: head.status.as_u16(),
        headers: pairs(Some(head.status), &head.headers),
        body: gathered.finish(),
        trailers,
    })
}
