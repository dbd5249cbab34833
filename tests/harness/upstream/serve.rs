//! A thread that accepts connections and serves them until it is told to end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;

pub(super) type Fault = Box<dyn Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, Fault>;
pub(super) type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
pub(super) type Service = Arc<dyn Fn(Request<Incoming>, Arc<Counters>) -> Answer + Send + Sync>;
pub(super) type Acceptor = TlsAcceptor;

/// What came, since the first start.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicUsize,
    pub(super) given_up: AtomicUsize,
    pub(super) messages: AtomicUsize,
    pub(super) streams: AtomicUsize,
    pub(super) connections: AtomicUsize,
    pub(super) open: AtomicUsize,
    pub(super) held: Held,
    paths: Mutex<HashMap<String, usize>>,
}

/// Has a permit for each answer that may go.
pub(super) struct Held(pub(super) Semaphore);

impl Default for Held {
    fn default() -> Held {
        Held(Semaphore::new(0))
    }
}

impl Counters {
    pub(super) fn paths(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts down when a connection ends, however it does.
struct Open(Arc<Counters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts a stream as long as it is there.
pub(super) struct OpenStream(Arc<Counters>);

impl OpenStream {
    pub(super) fn new(counters: Arc<Counters>) -> OpenStream {
        counters.streams.fetch_add(1, Ordering::SeqCst);
        OpenStream(counters)
    }

    /// It has sent a message.
    pub(super) fn sent(&self) {
        self.0.messages.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts a request that was given up before it had its answer.
struct Asked {
    counters: Arc<Counters>,
    answered: bool,
}

impl Asked {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.answered {
            self.counters.given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A server at work; dropped, it ends with all its connections.
pub(super) struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    #[track_caller]
    pub(super) fn start(
        port: u16,
        acceptor: Option<Acceptor>,
        max_streams: Option<u32>,
        service: Service,
        counters: Arc<Counters>,
    ) -> Running {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // Bound here, so that the port is open when this returns.
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port))).expect("a port of our own");
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, acceptor, max_streams, service, counters) => {}
                    _ = stopped => {}
                }
            });
        });
        Running { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    max_streams: Option<u32>,
    service: Service,
    counters: Arc<Counters>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        counters.connections.fetch_add(1, Ordering::SeqCst);
        counters.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&counters));
        let (acceptor, service) = (acceptor.clone(), Arc::clone(&service));
        tokio::spawn(async move {
            match acceptor {
                None => serve(stream, max_streams, service, &open.0).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, max_streams, service, &open.0).await;
                    }
                }
            }
        });
    }
}

async fn serve<T>(io: T, max_streams: Option<u32>, service: Service, counters: &Arc<Counters>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(max_streams);
    let answer = service_fn(|request: Request<Incoming>| {
        counters.requests.fetch_add(1, Ordering::SeqCst);
        *counters.paths().entry(request.uri().path().to_owned()).or_default() += 1;
        let asked = Asked { counters: Arc::clone(counters), answered: false };
        let answer = service(request, Arc::clone(counters));
        async move {
            let response = answer.await;
            asked.answered();
            Ok::<_, Infallible>(response)
        }
    });
    // A client that breaks off is what some tests are about.
    let _ = builder.serve_connection(TokioIo::new(io), answer).await;
}
