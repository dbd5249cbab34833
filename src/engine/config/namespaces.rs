//! The key `namespaces`: ceilings of what filters with one `vm_id` share.

use schemars::JsonSchema;
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

/// Ceilings of what filters with one `vm_id` share.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Namespace")]
pub(super) struct RawNamespace {
    /// The `vm_id` of the filters and services.
    vm_id: String,
    /// The bytes of shared data, in MiB. Default: 64.
    #[schemars(range(min = 1))]
    memory_mib: Option<u32>,
    /// The entries of shared data. Default: 1048576.
    #[schemars(range(min = 1))]
    entries: Option<u32>,
    /// The bytes of each queue, in MiB. Default: 64.
    #[schemars(range(min = 1))]
    queue_mib: Option<u32>,
    /// The items of each queue. Default: 65536.
    #[schemars(range(min = 1))]
    queue_items: Option<u32>,
    /// What becomes of an item that a full queue is given. Default: reject.
    queue_overflow: Option<RawOverflow>,
}

/// What becomes of an item that a full queue is given.
#[derive(Deserialize, Clone, Copy, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Overflow")]
enum RawOverflow {
    /// It is refused.
    Reject,
    /// The oldest items make room.
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
