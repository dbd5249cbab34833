//! A cluster: who is asked next, and how many may ask at once.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;

use super::failure::{Again, Broken, Failure, FailureKind, Refused};
use super::resolve::Resolver;
use super::settings::{ClusterError, ClusterSettings};
use super::stats::{ClusterStats, Counters, count};
use super::target::{Progress, Shared, Stage, Target};
use super::threads::Threads;
use super::tls::{self, Files};

/// Servers that calls are sent to. Made by [`Callouts::cluster`](crate::Callouts::cluster).
pub struct Cluster {
    pub(crate) shared: Arc<Shared>,
    resolvers: Vec<Arc<Resolver>>,
    next: AtomicUsize,
    threads: Arc<Threads>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("settings", self.settings()).finish_non_exhaustive()
    }
}

impl Cluster {
    pub(crate) fn new(
        settings: &ClusterSettings,
        files: &Files,
        threads: Arc<Threads>,
    ) -> Result<Cluster, ClusterError> {
        let tls = tls::configure(settings, files)?.map(TlsConnector::from);
        let encrypted = tls.is_some();
        let shared = Arc::new(Shared { settings: settings.clone(), tls, counters: Counters::default() });
        let resolvers = settings.endpoints.iter().map(|endpoint| {
            let name = encrypted.then(|| tls::server_name(settings, &endpoint.host)).transpose()?;
            Ok(Arc::new(Resolver::new(&shared, endpoint, name)))
        });
        let resolvers = resolvers.collect::<Result<_, ClusterError>>()?;
        Ok(Cluster { shared, resolvers, next: AtomicUsize::new(0), threads })
    }

    /// What it was made from.
    pub fn settings(&self) -> &ClusterSettings {
        &self.shared.settings
    }

    /// Its counters now. Each is exact; together they are of slightly different moments.
    pub fn stats(&self) -> ClusterStats {
        let now = Instant::now();
        let targets = self.resolvers.iter().flat_map(|resolver| resolver.any());
        self.shared.counters.read(targets.filter(|target| target.health.ejected(now)).count())
    }

    /// Whether a second attempt meets the same address.
    pub(crate) fn has_one_address(&self) -> bool {
        self.resolvers.iter().map(|resolver| resolver.count()).sum::<usize>() <= 1
    }

    /// The thread for the next call.
    pub(crate) fn thread(&self) -> Result<&Handle, Refused> {
        self.threads.next().map_err(Refused::Unavailable)
    }

    /// A place in the circuit.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<InFlight, Refused> {
        let (counters, most) = (&self.shared.counters, self.settings().max_in_flight);
        let more = |now: usize| (now < most).then_some(now + 1);
        if counters.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            count(&counters.overflows);
            return Err(Refused::Overflow(format!(
                "cluster `{}`: {most} calls are under way (max_in_flight)",
                self.settings().name
            )));
        }
        count(&counters.calls);
        Ok(InFlight { cluster: Arc::clone(self), outcome: None })
    }

    /// The next address: those that were not tried come first, and those that are left out come last.
    pub(crate) async fn pick(&self, tried: &[SocketAddr], progress: &mut Progress) -> Result<Arc<Target>, Broken> {
        let mut targets = Vec::with_capacity(self.resolvers.len());
        for resolver in &self.resolvers {
            resolver.recent(&mut targets);
        }
        if targets.is_empty() {
            progress.stage = Stage::Resolving;
            let mut failure = None;
            for resolver in &self.resolvers {
                failure = resolver.settled().await.err().or(failure);
                targets.extend(resolver.any());
            }
            if targets.is_empty() {
                let unknown =
                    || Failure::new(FailureKind::Dns, format!("cluster `{}`: no address", self.settings().name));
                let failure = failure.unwrap_or_else(unknown);
                // Lookups have their own pace; another attempt would find the same.
                return Err(Broken { failure, again: Again::Never, blame: false });
            }
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed) % targets.len();
        let rank = |target: &Target, now| {
            2 * usize::from(target.health.ejected(now)) + usize::from(tried.contains(&target.address))
        };
        let index = if targets.len() == 1 {
            0
        } else {
            let now = Instant::now();
            let order = (0..targets.len()).map(|step| (start + step) % targets.len());
            order.min_by_key(|&index| rank(&targets[index], now)).unwrap_or(start)
        };
        Ok(targets.swap_remove(index))
    }
}

/// A call under way. Dropped without an outcome, it was given up.
pub(crate) struct InFlight {
    pub(crate) cluster: Arc<Cluster>,
    outcome: Option<Result<(), FailureKind>>,
}

impl InFlight {
    pub(crate) fn end(mut self, outcome: Result<(), FailureKind>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let counters = &self.cluster.shared.counters;
        match self.outcome {
            Some(Ok(())) => count(&counters.responses),
            Some(Err(kind)) => counters.failed(kind),
            None => count(&counters.cancelled),
        }
        counters.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
