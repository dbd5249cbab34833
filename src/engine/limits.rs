//! What one filter may use, with defaults that suit a proxy.

use std::time::Duration;

use crate::abi::pairs::PairsLimits;

/// The guest's stack where nothing is said: a quarter of what ATS's event threads have.
pub(crate) const DEFAULT_STACK: usize = 256 << 10;

/// Ceilings of a VM and its callbacks. Part of the VM key: filters with other limits have other VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The most bytes of linear memory. First touch costs about a millisecond a MiB, and cannot be interrupted.
    pub memory_bytes: usize,
    /// The guest's stack, taken from that of the thread that enters it.
    pub stack_bytes: usize,
    /// The most elements of a table.
    pub table_elements: usize,
    /// The processor time that one callback of a stream or a tick may take, to within two epochs of 10 ms.
    pub callback: Duration,
    /// The processor time that the start function, `proxy_on_vm_start` and `proxy_on_configure` may take each.
    pub configure: Duration,
    /// How long a stream may be paused.
    pub pause: Duration,
    /// How many bytes of one body a filter may hold by pausing it.
    pub body_bytes: usize,
    /// What one encoded map may hold.
    pub pairs: PairsLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 64 << 20,
            stack_bytes: DEFAULT_STACK,
            table_elements: 100_000,
            callback: Duration::from_millis(100),
            configure: Duration::from_secs(10),
            pause: Duration::from_secs(30),
            body_bytes: 1 << 20,
            pairs: PairsLimits::default(),
        }
    }
}

/// The resolution of every deadline: one tick of the engine's epoch.
pub(crate) const EPOCH: Duration = Duration::from_millis(10);

/// Holds a callback to its time.
///
/// Measured in processor time of the thread, not by the clock on the wall: on a server that has more to do than
/// processors, a callback may stand still for longer than it is allowed to run, through no fault of its own. But
/// asking the kernel for it costs more than most callbacks take, so nobody asks before the first epoch has passed.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    limit: Duration,
    /// Processor time of the thread when the first epoch of the callback had passed.
    first: Option<Duration>,
}

/// After how many epochs a callback is looked at for the first time: the current one may be as good as over.
pub(crate) const FIRST_LOOK: u64 = 2;

impl Stopwatch {
    /// A callback begins that may take `limit`.
    #[inline]
    pub(crate) fn start(&mut self, limit: Duration) {
        self.limit = limit;
        self.first = None;
    }

    /// An epoch's end found the callback running. `None` ends it, else it is looked at again after so many epochs.
    pub(crate) fn look(&mut self) -> Option<u64> {
        let now = thread_time();
        // What came before the first look is at least one epoch of the wall's, and counts as one.
        let used = EPOCH + now.saturating_sub(*self.first.get_or_insert(now));
        let left = self.limit.checked_sub(used).filter(|left| !left.is_zero())?;
        Some(u64::try_from(left.as_nanos().div_ceil(EPOCH.as_nanos())).unwrap_or(u64::MAX))
    }
}

/// The processor time that this thread has used.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_still_costs_nothing() {
        let mut watch = Stopwatch::default();
        watch.start(Duration::from_millis(30));
        assert_eq!(watch.look(), Some(2));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(watch.look(), Some(2), "asleep is not at work");
    }

    #[test]
    fn work_does() {
        let mut watch = Stopwatch::default();
        watch.start(Duration::from_millis(30));
        assert!(watch.look().is_some());
        let begin = thread_time();
        while thread_time() - begin < Duration::from_millis(21) {
            std::hint::black_box(0);
        }
        assert_eq!(watch.look(), None);
        watch.start(Duration::from_millis(5));
        assert_eq!(watch.look(), None, "less than an epoch is over when the first one is");
    }
}
