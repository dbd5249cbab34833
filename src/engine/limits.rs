//! What one filter may use, with defaults that suit a proxy.

use std::time::Duration;

use crate::abi::pairs::PairsLimits;

/// Ceilings of a VM and its callbacks. Part of the VM key: filters with other limits have other VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The most bytes of linear memory. First touch costs about a millisecond a MiB, and cannot be interrupted.
    pub memory_bytes: usize,
    /// The most elements of a table.
    pub table_elements: usize,
    /// The time that one callback of a stream or a tick may take. Counted in ticks of 10 ms, rounded up.
    pub callback: Duration,
    /// The time that the start function, `proxy_on_vm_start` and `proxy_on_configure` may take each.
    pub configure: Duration,
    /// How long a stream may be paused.
    pub pause: Duration,
    /// What one encoded map may hold.
    pub pairs: PairsLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 64 << 20,
            table_elements: 100_000,
            callback: Duration::from_millis(100),
            configure: Duration::from_secs(10),
            pause: Duration::from_secs(30),
            pairs: PairsLimits::default(),
        }
    }
}

/// The resolution of every deadline: one tick of the engine's epoch.
pub(crate) const EPOCH: Duration = Duration::from_millis(10);

/// How many epochs a time takes, rounded up, and one more because the current one has begun already.
pub(crate) fn epochs(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(EPOCH.as_nanos())).unwrap_or(u64::MAX - 1) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early() {
        assert_eq!(epochs(Duration::from_millis(1)), 2);
        assert_eq!(epochs(Duration::from_millis(10)), 2);
        assert_eq!(epochs(Duration::from_millis(11)), 3);
        assert_eq!(epochs(Duration::ZERO), 1);
    }
}
