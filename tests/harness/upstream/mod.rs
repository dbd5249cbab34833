//! Servers that callouts are sent to: real ones, over HTTP/1.1 and HTTP/2, in cleartext and over TLS, and one of gRPC.
//!
//! They run on threads of their own and are driven from blocking tests. Each keeps its port for as long as it lives, and
//! may be stopped and started again on it.

mod grpc;
mod identity;
mod routes;
mod serve;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::ports::Lease;
use serve::{Acceptor, Counters, Running, Service};

pub use grpc::{GrpcUpstream, Message};
pub use identity::{Fault, Identities};

/// A server of HTTP. Its routes:
///
/// | path | answers |
/// | --- | --- |
/// | `/status/N` | this status |
/// | `/slow/MS` | 200 after so many milliseconds |
/// | `/hang` | nothing |
/// | `/hold` | 200 when the test [releases](Server::release) it |
/// | `/reset` | 200 and a body that breaks off in the middle |
/// | `/stall` | 200 and a body that comes to a stop in the middle |
/// | `/body/BYTES` | 200 and so many bytes |
/// | `/echo` | what was asked: method, target, version, headers, body and trailers, a line each; in short in the header `x-upstream`, as `method:bytes:trailers` |
/// | `/trailers` | 200, a body and the trailers `x-sum` and `x-more`; HTTP/1 clients must send `te: trailers` |
/// | anything else | 404 |
#[derive(Debug)]
pub struct Upstream {
    server: Server,
}

/// How an [`Upstream`] is to be.
#[derive(Clone, Debug, Default)]
pub struct UpstreamBuilder {
    tls: bool,
    fault: Option<Fault>,
    client_certificate: bool,
    max_streams: Option<u32>,
}

impl UpstreamBuilder {
    /// Speaks TLS, and the version of HTTP that ALPN comes to.
    pub fn tls(mut self) -> UpstreamBuilder {
        self.tls = true;
        self
    }

    /// Speaks TLS and shows a certificate with something wrong.
    pub fn fault(mut self, fault: Fault) -> UpstreamBuilder {
        self.fault = Some(fault);
        self.tls()
    }

    /// Speaks TLS and takes only clients that show a certificate of [`Server::client_certificate_file`]'s authority.
    pub fn require_client_certificate(mut self) -> UpstreamBuilder {
        self.client_certificate = true;
        self.tls()
    }

    /// Streams that an HTTP/2 connection may have at once.
    pub fn max_streams(mut self, most: u32) -> UpstreamBuilder {
        self.max_streams = Some(most);
        self
    }

    /// Starts it on a port of the loopback address.
    #[track_caller]
    pub fn start(self) -> Upstream {
        let acceptor = self.tls.then(|| identity::acceptor(self.fault, self.client_certificate));
        Upstream { server: Server::start(acceptor, self.max_streams, Arc::new(routes::answer)) }
    }
}

impl Upstream {
    /// In cleartext: HTTP/1.1, and HTTP/2 with prior knowledge.
    #[track_caller]
    pub fn start() -> Upstream {
        Upstream::builder().start()
    }

    /// Anything else.
    pub fn builder() -> UpstreamBuilder {
        UpstreamBuilder::default()
    }
}

impl std::ops::Deref for Upstream {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl std::ops::DerefMut for Upstream {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// What all servers here have: a port, counters, and an end.
pub struct Server {
    lease: Lease,
    files: TempDir,
    acceptor: Option<Acceptor>,
    max_streams: Option<u32>,
    service: Service,
    counters: Arc<Counters>,
    running: Option<Running>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("port", &self.port()).finish_non_exhaustive()
    }
}

impl Server {
    #[track_caller]
    fn start(acceptor: Option<Acceptor>, max_streams: Option<u32>, service: Service) -> Server {
        let files = tempfile::tempdir().expect("a temporary directory");
        let identities = Identities::get();
        for (name, text) in [
            ("ca.pem", &identities.ca),
            ("client.pem", &identities.client.certificate),
            ("client.key", &identities.client.key),
        ] {
            std::fs::write(files.path().join(name), text).expect("a file in a new directory");
        }
        let (lease, counters) = (Lease::take(), Arc::default());
        let mut server = Server { lease, files, acceptor, max_streams, service, counters, running: None };
        server.start_again();
        server
    }

    /// Its port, whether it runs or not.
    pub fn port(&self) -> u16 {
        self.lease.port()
    }

    /// `127.0.0.1:port`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The authority that signed its certificate, in PEM. The same for all servers of a process.
    pub fn ca_pem(&self) -> &'static str {
        &Identities::get().ca
    }

    /// A file with [`ca_pem`](Server::ca_pem).
    pub fn ca_file(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    /// A file with a certificate for clients.
    pub fn client_certificate_file(&self) -> PathBuf {
        self.files.path().join("client.pem")
    }

    /// The file with its key.
    pub fn client_key_file(&self) -> PathBuf {
        self.files.path().join("client.key")
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        self.counters.requests.load(Ordering::SeqCst)
    }

    /// How many requests came for a path.
    pub fn requests_to(&self, path: &str) -> usize {
        self.counters.paths().get(path).copied().unwrap_or_default()
    }

    /// How many requests were given up by their client before they were answered.
    pub fn given_up(&self) -> usize {
        self.counters.given_up.load(Ordering::SeqCst)
    }

    /// Lets so many requests for `/hold` be answered, those that wait or those that come.
    pub fn release(&self, count: usize) {
        self.counters.held.0.add_permits(count);
    }

    /// How many messages a [`GrpcUpstream`] sent on its streams.
    pub fn messages(&self) -> usize {
        self.counters.messages.load(Ordering::SeqCst)
    }

    /// How many streams of a [`GrpcUpstream`]'s methods `ServerStream` and `Bidi` are open.
    pub fn open_streams(&self) -> usize {
        self.counters.streams.load(Ordering::SeqCst)
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.counters.connections.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub fn open_connections(&self) -> usize {
        self.counters.open.load(Ordering::SeqCst)
    }

    /// Ends it with all its connections. Its port is then closed.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Starts it on the same port; ends it before if it runs.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.stop();
        let (acceptor, service) = (self.acceptor.clone(), Arc::clone(&self.service));
        let counters = Arc::clone(&self.counters);
        self.running = Some(Running::start(self.port(), acceptor, self.max_streams, service, counters));
    }
}
