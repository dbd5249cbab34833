//! Families of metrics: what is shown, put together from what was counted.

use std::borrow::Cow;

use super::latency::seconds;
use super::{defined, filter};
use crate::runtime::Runtime;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A distribution, as Prometheus has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// The greatest value of each bucket, ascending, and how many values are not greater.
    pub cumulative: Vec<(f64, u64)>,
    /// How many values there are.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

/// A number.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of a counter or gauge that is never negative.
    Integer(u64),
    /// Of any gauge.
    Signed(i64),
    /// With a fraction.
    Real(f64),
    /// Of a histogram.
    Histogram(Buckets),
}

/// One member of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names, which Prometheus takes, and values, which may be any text. Always the same names for one member.
    pub labels: Vec<(Cow<'static, str>, String)>,
    /// Now.
    pub value: Value,
}

/// The metrics of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// With prefix, unit and, for a counter, `_total`.
    pub name: Cow<'static, str>,
    /// What it means; one line.
    pub help: Cow<'static, str>,
    /// What it is.
    pub kind: Kind,
    /// In a stable order; no two with equal labels.
    pub samples: Vec<Sample>,
}

impl Family {
    /// A family with nothing in it.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) -> Self {
        Family { name: name.into(), help: help.into(), kind, samples: Vec::new() }
    }

    /// Adds a member.
    pub fn add(&mut self, labels: &[(&'static str, &str)], value: Value) {
        let labels = labels.iter().map(|&(name, value)| (Cow::Borrowed(name), value.to_owned())).collect();
        self.samples.push(Sample { labels, value });
    }
}

impl Runtime {
    /// Everything that has labels: by rule and filter, by VM key, by namespace, and what filters define. The totals are
    /// in [`Runtime::totals`].
    ///
    /// Any thread. Takes some microseconds a filter.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut families = of_filters(self);
        families.extend(of_vms(self));
        families.extend(of_shared(self));
        families.extend(defined::families(self.shared()));
        families.retain(|family| !family.samples.is_empty());
        families
    }
}

fn of_filters(runtime: &Runtime) -> Vec<Family> {
    use Kind::{Counter, Gauge, Histogram};
    let mut streams =
        Family::new(Counter, "wasm_remap_rule_streams_total", "Transactions in which the filter got a context.");
    let mut callbacks = Family::new(
        Histogram,
        "wasm_remap_rule_callback_duration_seconds",
        "Time that callbacks took, on the clock. Of very many callbacks a part is measured.",
    );
    let mut traps = Family::new(Counter, "wasm_remap_rule_traps_total", "VMs lost to the filter, by reason.");
    let mut rebuilds =
        Family::new(Counter, "wasm_remap_rule_rebuilds_total", "Plugin contexts made anew after their VM was lost.");
    let mut failures = Family::new(
        Counter,
        "wasm_remap_rule_failures_total",
        "Transactions that the filter failed, by the policy that decided.",
    );
    let mut breaches =
        Family::new(Counter, "wasm_remap_rule_limit_breaches_total", "Times that the filter met a limit, by its key.");
    let mut breaker = Family::new(
        Gauge,
        "wasm_remap_rule_breaker_state",
        "The filter's breaker: 0 closed, 1 half open, 2 open, which is set aside.",
    );
    let mut opened =
        Family::new(Counter, "wasm_remap_rule_breaker_opens_total", "Times that the filter was set aside.");
    let mut probes =
        Family::new(Counter, "wasm_remap_rule_breaker_probes_total", "Transactions that tried it while it was.");
    let mut rejected = Family::new(
        Counter,
        "wasm_remap_rule_breaker_rejected_total",
        "Transactions that were decided without the filter while it was set aside.",
    );
    let mut pauses =
        Family::new(Counter, "wasm_remap_rule_pauses_total", "Times that the filter held headers or a body.");
    let mut paused = Family::new(
        Counter,
        "wasm_remap_rule_pause_seconds_total",
        "Time for which the filter held transactions, counted when they went on.",
    );
    let mut responses =
        Family::new(Counter, "wasm_remap_rule_local_responses_total", "Answers that the filter gave itself.");
    let mut callouts =
        Family::new(Counter, "wasm_remap_rule_callouts_total", "Callouts of the filter, by how they ended.");
    let mut callout_times =
        Family::new(Histogram, "wasm_remap_rule_callout_duration_seconds", "Time from a callout's begin to its end.");
    let mut lines =
        Family::new(Counter, "wasm_remap_rule_log_lines_dropped_total", "Lines of the filter beyond its limit.");
    for stats in runtime.0.registry.all() {
        let read: filter::FilterNumbers = stats.read();
        let labels = [("rule", stats.rule()), ("filter", stats.filter())];
        let [rule, name] = labels;
        if !stats.rule().is_empty() {
            streams.add(&labels, Value::Integer(read.streams));
            pauses.add(&labels, Value::Integer(read.pauses));
            paused.add(&labels, Value::Real(seconds(read.paused_nanos)));
            responses.add(&labels, Value::Integer(read.local_responses));
            for (policy, count) in read.failures {
                failures.add(&[rule, name, ("policy", policy)], Value::Integer(count));
            }
            if let Some(state) = read.breaker {
                breaker.add(&labels, Value::Integer(state as u64));
            }
            opened.add(&labels, Value::Integer(read.opened));
            probes.add(&labels, Value::Integer(read.probes));
            rejected.add(&labels, Value::Integer(read.rejected));
        } else {
            rebuilds.add(&labels, Value::Integer(read.rebuilds));
            lines.add(&labels, Value::Integer(read.log_dropped));
        }
        for (reason, count) in read.traps {
            traps.add(&[rule, name, ("reason", reason)], Value::Integer(count));
        }
        for (limit, count) in read.breaches {
            breaches.add(&[rule, name, ("limit", limit)], Value::Integer(count));
        }
        for (outcome, count) in read.callouts {
            callouts.add(&[rule, name, ("outcome", outcome)], Value::Integer(count));
        }
        for (callback, times) in read.callbacks {
            callbacks.add(&[rule, name, ("callback", callback)], Value::Histogram(times));
        }
        if let Some(times) = read.callout_times {
            callout_times.add(&labels, Value::Histogram(times));
        }
    }
    let about_transactions = [streams, callbacks, traps, rebuilds, failures, pauses, paused, responses];
    let about_limits = [breaches, breaker, opened, probes, rejected];
    about_transactions.into_iter().chain(about_limits).chain([callouts, callout_times, lines]).collect()
}

fn of_vms(runtime: &Runtime) -> Vec<Family> {
    let mut vms = Family::new(Kind::Gauge, "wasm_remap_key_vms", "VMs of this key.");
    let mut bytes =
        Family::new(Kind::Gauge, "wasm_remap_key_memory_bytes", "Linear memory of all guests of this VM key.");
    let mut plugins = Family::new(
        Kind::Gauge,
        "wasm_remap_key_plugins",
        "Plugin contexts of this filter's name that each VM of this key has.",
    );
    for pool in runtime.pools() {
        let key = pool.spec.key.short();
        let vm_id = pool.spec.settings.vm_id.as_str();
        let labels = [("vm_id", vm_id), ("vm", key.as_str())];
        vms.add(&labels, Value::Integer(pool.gauge().vms()));
        bytes.add(&labels, Value::Integer(pool.gauge().bytes()));
        for (name, count) in pool.plugin_names() {
            plugins.add(&[labels[0], labels[1], ("filter", &name)], Value::Integer(count));
        }
    }
    vec![vms, bytes, plugins]
}

fn of_shared(runtime: &Runtime) -> Vec<Family> {
    use Kind::{Counter, Gauge};
    let mut entries = Family::new(Gauge, "wasm_remap_namespace_entries", "Entries of shared data.");
    let mut bytes = Family::new(Gauge, "wasm_remap_namespace_bytes", "Bytes charged for shared data.");
    let mut evicted =
        Family::new(Counter, "wasm_remap_namespace_evictions_total", "Entries that left to make room for others.");
    let mut expired =
        Family::new(Counter, "wasm_remap_namespace_expirations_total", "Entries that were found expired.");
    runtime.shared().data.for_each(|namespace, stats| {
        let labels = [("namespace", namespace)];
        entries.add(&labels, Value::Integer(stats.entries as u64));
        bytes.add(&labels, Value::Integer(stats.bytes as u64));
        evicted.add(&labels, Value::Integer(stats.evicted));
        expired.add(&labels, Value::Integer(stats.expired));
    });
    let mut depth = Family::new(Gauge, "wasm_remap_queue_items", "Items that wait in a shared queue.");
    let mut queued = Family::new(Gauge, "wasm_remap_queue_bytes", "Bytes charged for them.");
    let mut rejected = Family::new(Counter, "wasm_remap_queue_rejected_total", "Items that a full queue refused.");
    let mut dropped =
        Family::new(Counter, "wasm_remap_queue_dropped_total", "Items that left a full queue to make room.");
    runtime.shared().queues.for_each(|namespace, name, stats| {
        let labels = [("namespace", namespace), ("queue", &*String::from_utf8_lossy(name))];
        depth.add(&labels, Value::Integer(stats.items as u64));
        queued.add(&labels, Value::Integer(stats.bytes as u64));
        rejected.add(&labels, Value::Integer(stats.rejected));
        dropped.add(&labels, Value::Integer(stats.dropped));
    });
    let mut families = vec![entries, bytes, evicted, expired, depth, queued, rejected, dropped];
    for family in &mut families {
        // A map's order is another one each time, and two names of bytes may look alike.
        family.samples.sort_by(|a, b| a.labels.cmp(&b.labels));
        family.samples.dedup_by(|a, b| a.labels == b.labels);
    }
    families
}
