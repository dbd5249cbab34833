//! A scripted origin server: it answers what the test says and remembers every byte it was sent.

mod reply;
mod send;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::http::{Fields, Framing};

pub use reply::Reply;

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
    /// Whether bodies and connections' bytes are kept, and whether requests are.
    keep: AtomicBool,
    list: AtomicBool,
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
            list: AtomicBool::new(true),
            refuse_expect: AtomicBool::new(false),
            read_size: AtomicUsize::new(usize::MAX),
            read_pause: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve::accept(&listener, &shared)
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

    /// Holds what is asked at `pattern` until [`Hold::open`], then echoes it.
    pub fn hold(&self, pattern: &str) -> Hold {
        let gate = Arc::new(AtomicBool::new(false));
        let opened = Arc::clone(&gate);
        self.route(pattern, move |request: &Request| {
            while !opened.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(2));
            }
            Reply::echo(request)
        });
        Hold(gate)
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
        self.shared.list.store(false, Ordering::Relaxed);
        self.measure()
    }

    /// Keeps requests without the bytes of their bodies, whose length and hash they have, for large bodies.
    pub fn measure(&self) -> &Origin {
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

/// Requests that an origin holds; see [`Origin::hold`]. Dropped, it lets them go, so that a test that fails ends.
#[derive(Debug)]
pub struct Hold(Arc<AtomicBool>);

impl Hold {
    /// Lets them go, and whatever comes later.
    pub fn open(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.open();
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
