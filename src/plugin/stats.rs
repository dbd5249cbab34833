//! Our counters as ATS statistics: `traffic_ctl metric match wasm_remap`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ats::cont::{ContRef, Continuation, Edata, Handler};
use ats::event::Event;
use ats::schedule::Pool;
use ats::stats::Stat;
use parking_lot::Mutex;

use crate::process;

/// How often the statistics are brought up to date.
const PERIOD: Duration = Duration::from_secs(1);

/// Copies the engine's counters into ATS's statistics.
///
/// After an upgrade in place two copies of this plugin live in one process, with the same statistics. So a copy writes
/// while it has rules, and once more when something changed after that; the statistics then are the new copy's.
struct Exporter {
    stats: Vec<Stat>,
    written: Mutex<Vec<(&'static str, u64)>>,
}

/// Kept for the life of the process.
static EXPORTER: Mutex<Option<Continuation<Exporter>>> = Mutex::new(None);

/// Every counter of ours with its name, in a fixed order.
fn values() -> Vec<(&'static str, u64)> {
    let process = process::get();
    let mut values = vec![
        ("transactions", process.entered()),
        ("rules_created", process.rules_created.load(Ordering::Relaxed)),
        ("rules_deleted", process.rules_deleted.load(Ordering::Relaxed)),
        ("reloads_refused", process.reloads_refused.load(Ordering::Relaxed)),
        ("panics", ats::guard::panic_count()),
    ];
    values.extend(process.runtime.counters().list());
    values
}

/// Registers the statistics and begins to update them. Where ATS has no room for them, the log says so, and
/// everything else works.
pub(crate) fn start() {
    let mut stats = Vec::new();
    for (name, _) in values() {
        match Stat::find_or_create(&format!("wasm_remap.{name}")) {
            Ok(stat) => stats.push(stat),
            Err(error) => {
                log::warn!("statistics are not exported: wasm_remap.{name}: {error}");
                return;
            }
        }
    }
    match Continuation::new(Exporter { stats, written: Mutex::default() }) {
        Ok(cont) => {
            let _ = cont.as_ref().schedule_on_pool(PERIOD, Pool::Task);
            *EXPORTER.lock() = Some(cont);
        }
        Err(error) => log::warn!("statistics are not exported: {error}"),
    }
}

impl Handler for Exporter {
    const NAME: &'static str = "wasm_remap statistics";

    fn handle(&self, cont: ContRef<'_, Self>, _event: Event, _edata: Edata) {
        let process = process::get();
        let serving = process.rules_created.load(Ordering::Relaxed) > process.rules_deleted.load(Ordering::Relaxed);
        let values = values();
        let mut written = self.written.lock();
        if serving || *written != values {
            for (stat, (_, value)) in self.stats.iter().zip(&values) {
                stat.set(i64::try_from(*value).unwrap_or(i64::MAX));
            }
            *written = values;
        }
        drop(written);
        let _ = cont.schedule_on_pool(PERIOD, Pool::Task);
    }
}
