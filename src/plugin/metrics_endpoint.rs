//! Metrics for Prometheus, over HTTP on a port of their own.
//!
//! One thread a port, with its own runtime: a scrape is answered whatever ATS's threads do, and takes nothing of their
//! time. It reads counters, and calls nothing of ATS but the log.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use engine::observe::{Family, prometheus};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::{process, stats};

/// The one path that there is.
const PATH: &str = "/metrics";

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 16;

/// How long a client may take to send a request, or stay idle.
const HEADER_TIME: Duration = Duration::from_secs(30);

/// How long a connection may last, so that clients that read slowly do not keep others away.
const CONNECTION_TIME: Duration = Duration::from_secs(300);

/// Between attempts to listen.
const RETRY: Duration = Duration::from_secs(1);

/// The first attempts come quickly: a port that was just given up is free in a moment.
const QUICK_RETRY: Duration = Duration::from_millis(100);

/// A port on which metrics are served, until the last handle goes.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Dropped with the handle: that is what the thread waits for.
    _stop: oneshot::Sender<()>,
}

static LISTENERS: Mutex<BTreeMap<SocketAddr, Weak<Listener>>> = Mutex::new(BTreeMap::new());

/// Serves metrics on this address. Whoever asks for an address that is served shares its listener.
///
/// An address that is taken, by an older copy of this plugin or by somebody else, is no error: it is tried again each
/// second until it is free, and the log says so once.
///
/// # Errors
/// An address that other machines reach, unless `any` permits it; a thread that cannot start.
pub(crate) fn listen(address: SocketAddr, any: bool) -> Result<Arc<Listener>, String> {
    if !any && !address.ip().is_loopback() {
        return Err(format!(
            "metrics are served on loopback addresses, which {address} is not, unless any address is allowed"
        ));
    }
    let mut listeners = LISTENERS.lock();
    if let Some(listener) = listeners.get(&address).and_then(Weak::upgrade) {
        return Ok(listener);
    }
    let fail = |error: std::io::Error| format!("metrics cannot be served on {address}: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    let (stop, stopped) = oneshot::channel();
    let body = move || {
        ats::guard::run("wasm-metrics", (), || {
            runtime.block_on(async {
                tokio::select! {
                    // Also when it is dropped: nothing is ever sent.
                    _ = stopped => {}
                    () = serve(address) => {}
                }
            });
        });
    };
    std::thread::Builder::new().name("wasm-metrics".to_owned()).spawn(body).map_err(fail)?;
    let listener = Arc::new(Listener { _stop: stop });
    listeners.retain(|_, known| known.strong_count() > 0);
    listeners.insert(address, Arc::downgrade(&listener));
    Ok(listener)
}

/// Serves, for as long as it is polled.
async fn serve(address: SocketAddr) {
    let listener = bind(address).await;
    log::info!("metrics are served on http://{address}{PATH}");
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => _ = connections.spawn(connection(stream)),
                // Out of descriptors, most likely: that passes.
                Err(error) => {
                    log::debug!("metrics: a connection could not be accepted: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            },
        }
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    for attempt in 0u64.. {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if attempt == 3 => {
                log::warn!("metrics cannot be served on {address} yet: {error}; it is tried again each second");
            }
            Err(_) => {}
        }
        tokio::time::sleep(if attempt < 3 { QUICK_RETRY } else { RETRY }).await;
    }
    unreachable!("the attempts do not end")
}

async fn connection(stream: TcpStream) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // A client that breaks off, or is too slow, has nobody to be told.
    let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = |status, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    if request.uri().path() != PATH {
        return Ok(text(StatusCode::NOT_FOUND, "there is /metrics and nothing else\n"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let Some(metrics) = ats::guard::run("metrics", None, || Some(metrics())) else {
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "the log says why\n"));
    };
    let mut response = Response::new(Full::new(Bytes::from(metrics)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::CONTENT_TYPE));
    Ok(response)
}

/// Everything there is to show.
fn metrics() -> String {
    let mut families: Vec<Family> = stats::totals().iter().map(engine::observe::Total::family).collect();
    families.extend(process::get().runtime.families());
    prometheus::render(&families)
}
