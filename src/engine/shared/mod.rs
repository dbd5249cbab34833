//! What belongs to the process: shared data, shared queues and metrics.
//!
//! One [`Shared`] serves every rule, filter and thread and outlives all of them, reloads included. Nothing here
//! knows WebAssembly: the hostcalls in `hostcalls/shared.rs` and `hostcalls/metrics.rs` are thin callers.

mod data;
mod metrics;
mod namespace;
mod queues;
mod shard;
mod slots;

pub use data::SharedData;
pub use metrics::{Histogram, MetricRegistry, MetricValue};
pub use namespace::{DataLimits, DataStats, Namespace};
pub use queues::{Overflow, QueueLimits, QueueStats, SharedQueues};

/// The state that all rules and threads share.
#[derive(Debug, Default)]
pub struct Shared {
    /// `proxy_get_shared_data` and its kin.
    pub data: SharedData,
    /// `proxy_enqueue_shared_queue` and its kin.
    pub queues: SharedQueues,
    /// `proxy_define_metric` and its kin.
    pub metrics: MetricRegistry,
}
// TEMPORARY-FOR-COMPILING
#[allow(missing_docs)]
pub trait QueueConsumer: Send + Sync {
    fn ready(&self, queue: u32);
}
#[allow(missing_docs)]
#[derive(Debug)]
pub struct Subscription;
impl Subscription {
    pub fn served(&self, _t: u64) {}
}
#[allow(missing_docs)]
impl SharedQueues {
    pub fn subscribe(&self, _q: u32, _c: std::sync::Arc<dyn QueueConsumer>) -> Subscription {
        Subscription
    }
    pub fn configure(&self, _v: &str, _l: QueueLimits) {}
}
#[allow(missing_docs)]
impl SharedData {
    pub fn configure(&self, _v: &str, _l: DataLimits) {}
}
