//! Our numbers, and those that filters define, as ATS statistics: `traffic_ctl metric match wasm_remap`.
//!
//! ATS 9 has room for 1,400 statistics of all plugins (`proxy.config.stat_api.max_stats_allowed` is read by nobody), a
//! hundred fewer if records fill up first, and never gives one back. So what has labels without end, by rule and
//! filter, is served by [`crate::metrics_endpoint`] alone; here are totals, and what filters define as far as it goes.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ats::global::GlobalNumber;
use ats::stats::Stat;
use engine::observe::{Defined, DefinedValue, Total};
use parking_lot::Mutex;

use crate::process;
use crate::registry::COUNTS;

/// How often the statistics are brought up to date.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// The most statistics that we take of ATS's, so that other plugins have some.
const MAX_STATS: usize = 1_000;

/// Statistics that ATS has no room for.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Whose the statistics are: the address of [`EXPORTED`] in the copy whose configuration was taken last. After an upgrade in
/// place two copies of this plugin live in one process, with the same statistics, and the old one must not come back with its
/// numbers. Not set if ATS has no slot for it: then a copy writes while it has rules.
static OWNER: OnceLock<GlobalNumber> = OnceLock::new();

/// What stands in ATS's statistics.
#[derive(Default)]
struct Exported {
    /// By name, without prefix; `None` is left out.
    stats: HashMap<String, Option<Stat>>,
    /// ATS has no room for more.
    full: bool,
}

/// From [`start`] on.
static EXPORTED: Mutex<Option<Exported>> = Mutex::new(None);

/// Numbers of the whole process, in a fixed order: what ATS and Prometheus both show.
pub(crate) fn totals() -> Vec<Total> {
    let process = process::get();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let own = [
        ("transactions", "Requests that matched a rule of ours.", process.entered()),
        ("transactions_unmatched", "Those of them in which no filter took part.", process.unmatched()),
        ("rules_created", "Rules loaded.", read(&process.rules_created)),
        ("rules_deleted", "Rules gone, after a reload and their last transaction.", read(&process.rules_deleted)),
        ("reloads_refused", "Reloads whose new rules were not taken.", read(&process.reloads_refused)),
        ("reload_loaded", "Rules for which a reload loaded a chain.", read(&COUNTS.loaded)),
        ("reload_unchanged", "Rules that a reload left as they were.", read(&COUNTS.unchanged)),
        ("reload_failures", "Chains that could not be loaded.", read(&COUNTS.failures)),
        ("panics", "Panics of the plugin itself that its guards caught.", ats::guard::panic_count()),
    ];
    let mut totals: Vec<_> = own.into_iter().map(|(name, help, value)| Total::counter(name, help, value)).collect();
    totals.extend(process.runtime.totals());
    totals.push(Total::gauge("reload_ms", "Our time in the last reload.", read(&COUNTS.milliseconds)));
    totals.push(Total::gauge("rules_failing", "Rules whose files changed and do not load.", read(&COUNTS.failing)));
    totals.push(Total::gauge("chains_retired", "Replaced chains that transactions use.", read(&COUNTS.retired)));
    totals.push(Total::gauge("stats_left_out", "Statistics that ATS has no room for.", read(&LEFT_OUT)));
    if let Some(allocations) = crate::fault::allocations() {
        totals.push(Total::counter("allocations", "Allocations of event threads in our callbacks.", allocations));
    }
    totals
}

/// What filters define, as whole numbers with names.
fn defined() -> Vec<(String, i64)> {
    let mut numbers = Vec::new();
    for Defined { dotted, value } in Defined::all(process::get().runtime.shared()) {
        match value {
            DefinedValue::Counter(count) => numbers.push((format!("filter.{dotted}"), whole(count))),
            DefinedValue::Gauge(value) => numbers.push((format!("filter.{dotted}"), value)),
            DefinedValue::Histogram { buckets, sum } => {
                let count = buckets.iter().map(|&(_, count)| count).sum();
                numbers.push((format!("filter.{dotted}.count"), whole(count)));
                numbers.push((format!("filter.{dotted}.sum"), whole(sum)));
            }
        }
    }
    numbers
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Exported {
    /// The statistic of this name, made if there is room for it.
    fn stat(&mut self, name: &str) -> Option<Stat> {
        if let Some(&known) = self.stats.get(name) {
            return known;
        }
        let made = if self.full {
            None
        } else if self.stats.len() >= MAX_STATS {
            self.fill(name, &format!("this plugin takes no more than {MAX_STATS}"));
            None
        } else {
            match Stat::find_or_create(&format!("wasm_remap.{name}")) {
                Ok(stat) => Some(stat),
                Err(error) => {
                    self.fill(name, &error.to_string());
                    None
                }
            }
        };
        if made.is_none() {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        }
        self.stats.insert(name.to_owned(), made);
        made
    }

    /// There is no room for more. ATS counts each attempt, so there are none after the first that failed.
    fn fill(&mut self, name: &str, why: &str) {
        self.full = true;
        log::warn!(
            "wasm_remap.{name} and what filters define from now on are no ATS statistics: {why}; \
             wasm_remap.stats_left_out counts them, and 'metrics: {{listen: ...}}' in a filter file serves all"
        );
    }

    /// Brings the statistics up to date.
    fn write(&mut self) {
        let defined = defined();
        // First of all, so that what is left out is counted among the totals.
        let mut stats: Vec<_> = defined.iter().map(|(name, value)| (self.stat(name), *value)).collect();
        let totals = totals();
        stats.extend(totals.iter().map(|total| (self.stat(total.name), whole(total.value))));
        for (stat, value) in stats {
            if let Some(stat) = stat {
                stat.set(value);
            }
        }
    }
}

/// Registers the statistics and begins to update them. Where ATS has no room for them, the log says so, and
/// everything else works.
pub(crate) fn start() {
    let mut exported = Exported::default();
    for total in totals() {
        exported.stat(total.name);
    }
    *EXPORTED.lock() = Some(exported);
    match GlobalNumber::find_or_create(c"wasm_remap.statistics", c"which copy of wasm_remap writes the statistics") {
        Ok(owner) => _ = OWNER.set(owner),
        Err(error) => {
            log::warn!("two copies of this plugin, after an upgrade in place, may mix their statistics: {error}")
        }
    }
}

/// What tells this copy from others.
fn own() -> usize {
    (&raw const EXPORTED).addr()
}

/// The configuration that was taken is this copy's, and so are the statistics from now on.
pub(crate) fn take() {
    if let Some(owner) = OWNER.get() {
        owner.set(own());
    }
}

/// Brings the statistics up to date; to be called every [`PERIOD`], from a thread that carries no traffic.
///
/// None of ATS's own: while it starts, ET_TASK is announced before it has threads, and an event that is scheduled in
/// between ends the process. Rules whose modules take a second to compile meet that moment.
pub(crate) fn export() {
    let serving = || {
        let process = process::get();
        process.rules_created.load(Ordering::Relaxed) > process.rules_deleted.load(Ordering::Relaxed)
    };
    if !OWNER.get().map_or_else(serving, |owner| owner.get() == own()) {
        return;
    }
    if let Some(exported) = &mut *EXPORTED.lock() {
        exported.write();
    }
}
