//! skeleton
#![allow(missing_docs)]
pub use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub struct Options {
    pub threads: usize,
    pub on_thread_start: Option<Arc<dyn Fn() + Send + Sync>>,
    pub on_thread_stop: Option<Arc<dyn Fn() + Send + Sync>>,
}
#[derive(Clone)]
pub struct Callouts(Arc<()>);
impl Callouts {
    pub fn new(_: Options) -> Self {
        panic!()
    }
    pub fn cluster(&self, _s: &ClusterSettings) -> Result<Arc<Cluster>, ClusterError> {
        panic!()
    }
}
#[derive(Debug)]
pub struct ClusterError;
impl std::fmt::Display for ClusterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("")
    }
}
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http1,
    Http2,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    pub verify: bool,
    pub ca_file: Option<PathBuf>,
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub server_name: Option<String>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ejection {
    pub failures: u32,
    pub duration: Duration,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterSettings {
    pub name: String,
    pub endpoints: Vec<Endpoint>,
    pub protocol: Protocol,
    pub tls: Option<Tls>,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_connections: usize,
    pub max_in_flight: usize,
    pub retries: u32,
    pub ejection: Option<Ejection>,
    pub response_bytes: usize,
    pub dns_refresh: Duration,
}
impl Default for ClusterSettings {
    fn default() -> Self {
        panic!()
    }
}
#[derive(Debug)]
pub struct Cluster;
pub type Pairs = Vec<(Bytes, Bytes)>;
pub struct HttpRequest {
    pub headers: Pairs,
    pub body: Bytes,
    pub trailers: Pairs,
}
pub struct HttpResponse {
    pub headers: Pairs,
    pub body: Bytes,
    pub trailers: Pairs,
}
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Timeout,
    Connect,
    Dns,
    Tls,
    Reset,
    Protocol,
    TooLarge,
    Overflow,
}
#[derive(Debug)]
pub enum Refused {
    BadRequest(String),
    Overflow,
}
pub struct Call;
impl Call {
    pub fn detach(self) {}
}
pub struct GrpcRequest {
    pub service: Bytes,
    pub method: Bytes,
    pub metadata: Pairs,
}
pub struct GrpcMessage {
    pub bytes: Bytes,
}
pub enum GrpcEvent {
    InitialMetadata(Pairs),
    Message(GrpcMessage),
    TrailingMetadata(Pairs),
    Close { status: u32, message: String },
}
pub struct GrpcStream;
#[derive(Debug)]
pub struct SendError;
impl GrpcStream {
    pub fn send(&self, _m: Bytes, _e: bool) -> Result<(), SendError> {
        panic!()
    }
    pub fn close(&self) {}
    pub fn cancel(&self) {}
}
impl Cluster {
    pub fn http_call(
        self: &Arc<Self>,
        _r: HttpRequest,
        _t: Option<Duration>,
        _d: Box<dyn FnOnce(Result<HttpResponse, Failure>) + Send>,
    ) -> Result<Call, Refused> {
        panic!()
    }
    pub fn grpc(
        self: &Arc<Self>,
        _r: GrpcRequest,
        _t: Option<Duration>,
        _e: Box<dyn FnMut(GrpcEvent) + Send>,
    ) -> Result<GrpcStream, Refused> {
        panic!()
    }
}
impl Default for Options {
    fn default() -> Self {
        panic!()
    }
}
impl Default for Tls {
    fn default() -> Self {
        panic!()
    }
}
