//! Numbers of the whole process, without labels: short enough a list for a proxy's own statistics.

use std::sync::atomic::Ordering;

use super::collect::{Family, Kind, Value};
use super::filter::CalloutOutcome;
use crate::runtime::Runtime;

/// One number of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// Without prefix, and without `_total`.
    pub name: &'static str,
    /// What it means; one line.
    pub help: &'static str,
    /// A counter or a gauge.
    pub kind: Kind,
    /// Now.
    pub value: u64,
}

impl Total {
    /// A number that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Total { name, help, kind: Kind::Counter, value }
    }

    /// A number that goes up and down.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Total { name, help, kind: Kind::Gauge, value }
    }

    /// The same number as a family of its own.
    #[must_use]
    pub fn family(&self) -> Family {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        let mut family = Family::new(self.kind, format!("wasm_remap_{}{suffix}", self.name), self.help);
        family.add(&[], Value::Integer(self.value));
        family
    }
}

impl Runtime {
    /// The totals, in a fixed order. Any thread.
    #[must_use]
    pub fn totals(&self) -> Vec<Total> {
        let mut totals: Vec<_> =
            self.counters().described().into_iter().map(|(name, help, n)| Total::counter(name, help, n)).collect();
        let process = &self.0.registry.process;
        let callouts: [u64; CalloutOutcome::ALL.len()] =
            std::array::from_fn(|outcome| process.callouts[outcome].load(Ordering::Relaxed));
        let (mut vms, mut memory) = (0, 0);
        for pool in self.pools() {
            vms += pool.gauge().vms();
            memory += pool.gauge().bytes();
        }
        let (mut entries, mut evicted, mut expired) = (0, 0, 0);
        self.shared().data.for_each(|_, stats| {
            entries += stats.entries as u64;
            evicted += stats.evicted;
            expired += stats.expired;
        });
        let (mut queued, mut lost) = (0, 0);
        self.shared().queues.for_each(|_, _, stats| {
            queued += stats.items as u64;
            lost += stats.rejected + stats.dropped;
        });
        let mut defined = 0;
        self.shared().metrics.for_each(|_, _| defined += 1);
        let all: u64 = callouts.iter().sum();
        totals.extend([
            Total::counter("rebuilds", "VMs built in place of lost ones.", process.rebuilds.load(Ordering::Relaxed)),
            Total::counter("failures", "Transactions that a filter failed.", process.failures.load(Ordering::Relaxed)),
            Total::counter(
                "limit_breaches",
                "Times that a filter met a limit.",
                process.breaches.load(Ordering::Relaxed),
            ),
            Total::gauge("filters_set_aside", "Filters that are set aside.", process.open.load(Ordering::Relaxed)),
            Total::counter(
                "breaker_opens",
                "Times that a filter was set aside.",
                process.opened.load(Ordering::Relaxed),
            ),
            Total::counter(
                "breaker_rejected",
                "Transactions decided without a filter that was set aside.",
                process.rejected.load(Ordering::Relaxed),
            ),
            Total::counter("callouts", "Callouts that ended.", all),
            Total::counter(
                "callouts_failed",
                "Callouts that ended without a response.",
                all - callouts[CalloutOutcome::Ok as usize],
            ),
            Total::counter(
                "log_lines_dropped",
                "Lines of filters beyond their limits.",
                process.log_dropped.load(Ordering::Relaxed),
            ),
            Total::gauge("vms", "VMs that there are.", vms),
            Total::gauge("vm_memory_bytes", "Linear memory of all guests.", memory),
            Total::gauge("data_entries", "Entries of shared data.", entries),
            Total::counter("data_evictions", "Entries of shared data that left to make room.", evicted),
            Total::counter("data_expirations", "Entries of shared data that were found expired.", expired),
            Total::gauge("queued_items", "Items that wait in shared queues.", queued),
            Total::counter("queue_losses", "Items that full queues refused or dropped.", lost),
            Total::gauge("metrics_defined", "Metrics that filters have defined.", defined),
            Total::counter(
                "metrics_refused",
                "Definitions of metrics for which there was no room.",
                self.shared().metrics.refused(),
            ),
        ]);
        totals
    }
}
