//! Clusters of test servers, and calls that are waited for.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use callout::{
    Call, Callouts, Cluster, ClusterSettings, Endpoint, Failure, FailureKind, HttpRequest, HttpResponse, Options,
    Pairs, Protocol, Refused, Tls,
};

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn callouts() -> Callouts {
    Callouts::new(Options::default())
}

pub(crate) fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint { host: host.to_owned(), port }
}

/// One server, no retries, no ejection.
pub(crate) fn settings(protocol: Protocol, port: u16) -> ClusterSettings {
    ClusterSettings {
        name: "test".to_owned(),
        endpoints: vec![endpoint("127.0.0.1", port)],
        protocol,
        retries: 0,
        ejection: None,
        ..ClusterSettings::default()
    }
}

pub(crate) fn trusting(ca: &Path) -> Tls {
    Tls { ca_file: Some(ca.to_owned()), ..Tls::default() }
}

#[track_caller]
pub(crate) fn cluster(settings: &ClusterSettings) -> Arc<Cluster> {
    callouts().cluster(settings).expect("a cluster")
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(name, value)| (Bytes::from(name.to_string()), Bytes::from(value.to_string()))).collect()
}

pub(crate) fn request(method: &str, path: &str, body: impl Into<Bytes>) -> HttpRequest {
    let headers = pairs(&[(":method", method), (":path", path), (":authority", "asked.test")]);
    HttpRequest { headers, body: body.into(), trailers: Vec::new() }
}

pub(crate) type Answer = Result<HttpResponse, Failure>;

/// Begins a call; the answer comes through the channel.
pub(crate) fn begin(
    cluster: &Arc<Cluster>,
    request: HttpRequest,
    timeout: Option<Duration>,
) -> Result<(Call, Receiver<Answer>), Refused> {
    let (sender, receiver) = channel();
    let done = Box::new(move |answer| {
        let _ = sender.send(answer);
    });
    Ok((cluster.http_call(request, timeout, done)?, receiver))
}

#[track_caller]
pub(crate) fn wait(receiver: &Receiver<Answer>) -> Answer {
    receiver.recv_timeout(PATIENCE).expect("an answer")
}

#[track_caller]
pub(crate) fn call(cluster: &Arc<Cluster>, request: HttpRequest, timeout: Option<Duration>) -> Answer {
    let (_call, receiver) = begin(cluster, request, timeout).expect("a call");
    let answer = wait(&receiver);
    // Never a second one.
    assert_eq!(receiver.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    answer
}

#[track_caller]
pub(crate) fn get(cluster: &Arc<Cluster>, path: &str) -> HttpResponse {
    call(cluster, request("GET", path, ""), Some(PATIENCE)).unwrap_or_else(|failure| panic!("{failure}"))
}

#[track_caller]
pub(crate) fn fails(cluster: &Arc<Cluster>, path: &str, kind: FailureKind) -> String {
    fails_in(cluster, path, PATIENCE, kind)
}

#[track_caller]
pub(crate) fn fails_in(cluster: &Arc<Cluster>, path: &str, timeout: Duration, kind: FailureKind) -> String {
    let failure = call(cluster, request("GET", path, ""), Some(timeout)).expect_err("a failure");
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(failure.message.contains("cluster `test`"), "{failure}");
    failure.message
}

pub(crate) fn text(response: &HttpResponse) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

pub(crate) fn values(pairs: &Pairs, name: &str) -> Vec<String> {
    let found = pairs.iter().filter(|(key, _)| key == name);
    found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

pub(crate) const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// Waits until it is so.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    wasm_remap_tests::harness::wait_until(PATIENCE, what, || condition().then_some(()));
}

/// What the log said, all tests of this program together.
pub(crate) fn logged(part: &str) -> bool {
    LINES.get().is_some_and(|lines| {
        lines.lock().unwrap_or_else(|error| error.into_inner()).iter().any(|line| line.contains(part))
    })
}

static LINES: OnceLock<std::sync::Mutex<Vec<String>>> = OnceLock::new();

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("callout")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let lines = LINES.get_or_init(Default::default);
            lines.lock().unwrap_or_else(|error| error.into_inner()).push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

pub(crate) fn keep_log() {
    static LOGGER: Logger = Logger;
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
