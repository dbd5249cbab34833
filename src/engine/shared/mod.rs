//! What belongs to the process: shared data, shared queues and metrics.
//!
//! One state serves every rule, filter and thread and outlives all of them, reloads included, and the replacement of
//! this very library, too: [`table`] says how. Nothing here knows WebAssembly: the hostcalls in
//! `hostcalls/shared.rs` and `hostcalls/metrics.rs` are thin callers.

mod owner;
#[expect(unsafe_code, reason = "C functions are the one way between copies of this library")]
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use table::Link;

pub use owner::{DataStats, NamespaceLimits, Overflow, QueueConsumer, QueueLimits, QueueStats};
pub use table::{Histogram, MetricRegistry, MetricValue, Published, SharedData, SharedQueues, Subscription};

/// How often a copy looks after what it owns.
const UPKEEP: Duration = Duration::from_millis(250);

/// The state that all rules and threads share, as this copy of the library reaches it.
#[derive(Debug)]
pub struct Shared {
    /// `proxy_get_shared_data` and its kin.
    pub data: SharedData,
    /// `proxy_enqueue_shared_queue` and its kin.
    pub queues: SharedQueues,
    /// `proxy_define_metric` and its kin.
    pub metrics: MetricRegistry,
}

impl Default for Shared {
    /// A state of its own, empty.
    fn default() -> Self {
        Shared::over(Link::own())
    }
}

impl Shared {
    /// The state that another copy owns.
    ///
    /// # Errors
    /// [`Error::Start`] if this build does not understand that one's table.
    pub fn join(published: Published) -> Result<Self, Error> {
        Link::join(published).map(Shared::over)
    }

    /// Makes the state known to other copies, and keeps it for the life of the process. `None` if this copy does not
    /// own it.
    #[must_use]
    pub fn publish(&self) -> Option<Published> {
        self.data.0.publish()
    }

    /// What a thread has to run for as long as the state is there: it tells consumers again that rested, and frees
    /// what has expired. `None` if another copy owns the state, and looks after it.
    pub(crate) fn upkeep(&self) -> Option<impl FnOnce() + Send + 'static> {
        let owner = Arc::downgrade(self.data.0.owner()?);
        Some(move || {
            while let Some(owner) = owner.upgrade() {
                owner.upkeep(Instant::now());
                drop(owner);
                std::thread::sleep(UPKEEP);
            }
        })
    }

    fn over(link: Link) -> Self {
        let link = Arc::new(link);
        Shared {
            data: SharedData(Arc::clone(&link)),
            queues: SharedQueues(Arc::clone(&link)),
            metrics: MetricRegistry(link),
        }
    }
}
