//! HTTP calls: attempts, retries and the timeout over all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::failure::{Again, Broken, Failure, FailureKind, Refused};
use super::request::{HttpRequest, Outgoing, Pairs};
use super::settings::Protocol;
use super::stats::count;
use super::target::{Progress, Stage};
use super::{http1, http2};

/// The wait before an attempt at an address that has just failed; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status, which is also the first header.
    pub status: u16,
    /// `:status` first, then the headers as they came: names in lower case, the values of a name together and in order.
    pub headers: Pairs,
    /// Without framing.
    pub body: Bytes,
    /// What came behind the body.
    pub trailers: Pairs,
}

/// Takes the answer of a call, on a thread of this crate.
pub type Done = Box<dyn FnOnce(Result<HttpResponse, Failure>) + Send>;

/// A call under way. Dropped, it is cancelled: the server sees its connection or its stream end. An answer that comes
/// at that very moment, on another thread, may still be delivered while the drop runs and shortly after it.
#[derive(Debug)]
#[must_use = "a call that is dropped is cancelled; detach it to let it run"]
pub struct Call {
    task: Option<AbortHandle>,
}

impl Call {
    /// Lets it run, whatever becomes of this value.
    pub fn detach(mut self) {
        self.task = None;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Cluster {
    /// Begins a call and returns at once. `done` is called once, on a thread of this crate, unless the [`Call`] is
    /// dropped before. `timeout` covers everything: the name's lookup, connecting, waiting and all attempts.
    ///
    /// # Errors
    /// A request that cannot be sent, and a circuit that is full. `done` is then not called.
    pub fn http_call(
        self: &Arc<Self>,
        request: HttpRequest,
        timeout: Option<Duration>,
        done: Done,
    ) -> Result<Call, Refused> {
        let request = Outgoing::new(request, self.settings().protocol, self.shared.tls.is_some())?;
        let admitted = self.admit()?;
        let thread = self.thread()?;
        let task = thread.spawn(async move {
            let answer = call(&admitted.cluster, &request, timeout).await;
            admitted.end(answer.as_ref().map(drop).map_err(|failure| failure.kind));
            done(answer);
        });
        Ok(Call { task: Some(task.abort_handle()) })
    }
}

async fn call(cluster: &Cluster, request: &Outgoing, limit: Option<Duration>) -> Result<HttpResponse, Failure> {
    let mut progress = Progress::default();
    let Some(limit) = limit else { return attempts(cluster, request, &mut progress).await };
    match timeout(limit, attempts(cluster, request, &mut progress)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::new(FailureKind::Timeout, progress.timed_out(&cluster.settings().name, limit))),
    }
}

async fn attempts(cluster: &Cluster, request: &Outgoing, progress: &mut Progress) -> Result<HttpResponse, Failure> {
    let mut retrying = Retrying::new(cluster);
    loop {
        let target = match cluster.pick(&retrying.tried, progress).await {
            Ok(target) => target,
            Err(broken) => return Err(broken.failure),
        };
        progress.target = Some(Arc::clone(&target));
        let answer = match cluster.settings().protocol {
            Protocol::Http1 => http1::call(&target, request, progress).await,
            Protocol::Http2 => http2::call(&target, request, progress).await,
        };
        match answer {
            Ok(response) => {
                // A gateway says so that nobody is there.
                if matches!(response.status, 502..=504) {
                    target.failed(format_args!("status {}", response.status));
                } else {
                    target.succeeded();
                }
                return Ok(response);
            }
            Err(broken) => {
                if broken.blame {
                    target.failed(&broken.failure);
                }
                retrying.again(target.address, broken, request.idempotent(), progress).await?;
            }
        }
    }
}

/// The attempts of one call so far.
pub(crate) struct Retrying<'a> {
    cluster: &'a Cluster,
    left: u32,
    pause: Duration,
    pub(crate) tried: Vec<SocketAddr>,
}

impl<'a> Retrying<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Retrying<'a> {
        Retrying { cluster, left: cluster.settings().retries, pause: FIRST_PAUSE, tried: Vec::new() }
    }

    /// Returns when the next attempt is due, or with the failure if there is to be none.
    pub(crate) async fn again(
        &mut self,
        address: SocketAddr,
        broken: Broken,
        idempotent: bool,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let may = match broken.again {
            Again::Always => true,
            Again::Idempotent => idempotent,
            Again::Never => false,
        };
        if !may || self.left == 0 {
            return Err(broken.failure);
        }
        self.left -= 1;
        count(&self.cluster.shared.counters.retries);
        progress.last = Some(broken.failure);
        progress.connection = None;
        if self.tried.contains(&address) || self.cluster.has_one_address() {
            progress.stage = Stage::Pausing;
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.tried.push(address);
        Ok(())
    }
}
