//! Metrics: the ABI's side of [`crate::shared::MetricRegistry`].
//!
//! The Rust SDK traps its VM on every status that it does not expect (`proxy-wasm` 0.2.5, `hostcalls.rs`; C++
//! and Go take any):
//!
//! | call | statuses that the Rust SDK survives |
//! | --- | --- |
//! | `define_metric` | Ok |
//! | `record_metric` | Ok, NotFound |
//! | `increment_metric` | Ok, NotFound, BadArgument |
//! | `get_metric` | Ok, NotFound, BadArgument |
//!
//! So a metric that there is no room for is defined all the same, and what is recorded to it goes nowhere: a
//! filter must not die of its statistics. One name with two types is a mistake in a filter that only its author
//! can mend, and is refused.

use crate::abi::MetricType;
use crate::error::Error;
use crate::journal::{self, Place};
use crate::memory::{self, Guest};

pub(super) fn define_metric(
    guest: &mut Guest<'_>,
    metric_type: i32,
    name: i32,
    name_size: i32,
    id: i32,
) -> Result<(), Error> {
    let metric_type = MetricType::from_wire(metric_type).ok_or_else(|| Error::BadArgument("metric type"))?;
    let (memory, state) = memory::split(guest)?;
    let name = memory::bytes(memory, name, name_size)?;
    let name = std::str::from_utf8(name).map_err(|_| Error::BadArgument("metric name"))?;
    let metrics = &state.shared.metrics;
    let metric = match metrics.define(metric_type, name) {
        Ok(metric) => metric,
        Err(Error::TooLarge(what)) => {
            let refused = metrics.refused();
            // A filter that invents names as it goes would fill the log.
            if refused.is_power_of_two() {
                log::warn!("metric {:.100}: {what} is too large; {refused} metrics are not kept by now", name);
            }
            metrics.sink(metric_type)
        }
        Err(error) => {
            let place = Place { txn: None, ..state.place(None) };
            journal::told(log::Level::Warn, "refused metric", place, format_args!("metric {name:.100}: {error}"));
            return Err(error);
        }
    };
    memory::write_u32(memory, id, metric)
}

pub(super) fn record_metric(guest: &mut Guest<'_>, id: i32, value: i64) -> Result<(), Error> {
    guest.data().shared.metrics.record(id.cast_unsigned(), value)
}

pub(super) fn increment_metric(guest: &mut Guest<'_>, id: i32, offset: i64) -> Result<(), Error> {
    guest.data().shared.metrics.increment(id.cast_unsigned(), offset)
}

pub(super) fn get_metric(guest: &mut Guest<'_>, id: i32, out: i32) -> Result<(), Error> {
    let value = guest.data().shared.metrics.get(id.cast_unsigned())?;
    let (memory, _) = memory::split(guest)?;
    memory::write_u64(memory, out, value)
}
