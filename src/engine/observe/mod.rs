//! What is known of how filters do: numbers by rule and filter, and those that filters define themselves.
//!
//! [`FilterStats`] is where the engine counts; [`Totals`](totals) and [`families`](collect) are what is shown, each
//! made from the same counters, so that whoever shows totals and whoever shows families shows equal numbers.
//! [`prometheus`] writes families as text. Nothing here takes a lock that a callback waits for.

mod collect;
mod defined;
mod filter;
pub mod labels;
mod latency;
mod memory;
mod meter;
pub mod prometheus;
mod sample;
mod totals;

pub use collect::{Buckets, Family, Kind, Sample, Value};
pub use defined::{Defined, DefinedValue};
pub use filter::{CalloutOutcome, FilterStats};
pub use totals::Total;

pub(crate) use filter::Registry;
pub(crate) use memory::{MeasuredLimits, Refused, VmGauge};
pub(crate) use meter::Meter;
pub(crate) use sample::Clock;

use std::sync::Arc;

/// What a VM is given to report to.
#[derive(Clone)]
pub(crate) struct Observer {
    pub(crate) clock: Arc<Clock>,
    pub(crate) gauge: Arc<VmGauge>,
}
