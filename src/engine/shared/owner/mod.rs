//! The state itself, in the one copy of this library that owns it. Nobody but [`super::table`] comes here.

mod consumers;
mod data;
mod metrics;
mod namespace;
mod queues;
mod shard;
mod slots;

use std::time::Instant;

pub use consumers::QueueConsumer;
pub use namespace::{DataStats, NamespaceLimits};
pub use queues::{Overflow, QueueLimits, QueueStats};

pub(super) use metrics::{MAX_NAME, Metrics, Reading};

/// Everything that is shared.
#[derive(Default)]
pub(super) struct Owner {
    pub(super) data: data::Data,
    pub(super) queues: queues::Queues,
    pub(super) metrics: Metrics,
}

impl Owner {
    /// What has to be done every now and then, more than once a second.
    pub(super) fn upkeep(&self, now: Instant) {
        self.queues.remind(now);
        self.data.sweep();
    }
}
