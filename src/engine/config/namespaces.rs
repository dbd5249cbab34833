//! The key `namespaces`: ceilings of what filters with one `vm_id` share.

use serde::Deserialize;

use crate::shared::{NamespaceLimits, Overflow, QueueLimits};

/// One entry of `namespaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// The `vm_id` of the filters that share it.
    pub vm_id: String,
    /// Ceilings of its shared data.
    pub data: NamespaceLimits,
    /// Ceilings of each of its queues.
    pub queues: QueueLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNamespace {
    vm_id: String,
    memory_mib: Option<u32>,
    entries: Option<u32>,
    queue_mib: Option<u32>,
    queue_items: Option<u32>,
    queue_overflow: Option<RawOverflow>,
}

/// What becomes of an item that a full queue is given.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum RawOverflow {
    Reject,
    DropOldest,
}

impl RawNamespace {
    /// # Errors
    /// The key that is wrong.
    pub(super) fn resolve(self) -> Result<Namespace, String> {
        let (mut data, mut queues) = (NamespaceLimits::default(), QueueLimits::default());
        for (key, value, limit, unit) in [
            ("memory_mib", self.memory_mib, &mut data.bytes, 1 << 20),
            ("entries", self.entries, &mut data.entries, 1),
            ("queue_mib", self.queue_mib, &mut queues.bytes, 1 << 20),
            ("queue_items", self.queue_items, &mut queues.items, 1),
        ] {
            match value {
                Some(0) => return Err(format!("{key}: must be at least 1")),
                Some(value) => *limit = usize::try_from(value).unwrap_or(usize::MAX).saturating_mul(unit),
                None => {}
            }
        }
        match self.queue_overflow {
            Some(RawOverflow::Reject) => queues.overflow = Overflow::Reject,
            Some(RawOverflow::DropOldest) => queues.overflow = Overflow::DropOldest,
            None => {}
        }
        Ok(Namespace { vm_id: self.vm_id, data, queues })
    }
}
