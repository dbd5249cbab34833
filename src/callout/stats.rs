//! Counters of a cluster.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::failure::FailureKind;

/// What a cluster's calls came to, since it was made. Calls and gRPC streams alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStats {
    /// Begun.
    pub calls: u64,
    /// Ended with a response, whatever its status.
    pub responses: u64,
    /// Ended without one, by [`FailureKind::ALL`].
    pub failures: [u64; FailureKind::ALL.len()],
    /// Given up by the caller.
    pub cancelled: u64,
    /// Refused because of `max_in_flight`.
    pub overflows: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Connections that were made.
    pub connects: u64,
    /// How often an address was left out of the rotation.
    pub ejections: u64,
    /// Under way now.
    pub in_flight: usize,
    /// Connections open now.
    pub connections: usize,
    /// Addresses left out of the rotation now.
    pub ejected: usize,
}

impl ClusterStats {
    /// The failures of one kind.
    pub fn failed(&self, kind: FailureKind) -> u64 {
        self.failures[kind.index()]
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls: AtomicU64,
    pub(crate) responses: AtomicU64,
    pub(crate) failures: [AtomicU64; FailureKind::ALL.len()],
    pub(crate) cancelled: AtomicU64,
    pub(crate) overflows: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) ejections: AtomicU64,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) connections: AtomicUsize,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn failed(&self, kind: FailureKind) {
        count(&self.failures[kind.index()]);
    }

    pub(crate) fn read(&self, ejected: usize) -> ClusterStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClusterStats {
            calls: read(&self.calls),
            responses: read(&self.responses),
            failures: std::array::from_fn(|index| read(&self.failures[index])),
            cancelled: read(&self.cancelled),
            overflows: read(&self.overflows),
            retries: read(&self.retries),
            connects: read(&self.connects),
            ejections: read(&self.ejections),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
            ejected,
        }
    }
}
