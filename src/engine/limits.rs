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
    /// The processor time that one callback of a stream or a tick may take, to within an epoch of 10 ms.
    pub callback: Duration,
    /// The processor time that all callbacks of one stream context may take together.
    pub transaction: Duration,
    /// The processor time that the start function and `proxy_on_vm_start` may take each.
    pub start: Duration,
    /// The processor time that `proxy_on_configure` may take.
    pub configure: Duration,
    /// How long a stream may be paused.
    pub pause: Duration,
    /// How many bytes of one body a filter may hold by pausing it.
    pub body_bytes: usize,
    /// What one encoded map may hold.
    pub pairs: PairsLimits,
    /// The most lines that a plugin context may log in a second, on all threads together.
    pub log_lines: u32,
    /// How many bytes one callback may move over the boundary by hostcalls, both ways together.
    pub hostcall_bytes: u64,
    /// How many calls to others one plugin context may have under way in one VM.
    pub callouts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 64 << 20,
            stack_bytes: DEFAULT_STACK,
            table_elements: 100_000,
            callback: Duration::from_millis(100),
            transaction: Duration::from_secs(10),
            start: Duration::from_secs(10),
            configure: Duration::from_secs(10),
            pause: Duration::from_secs(30),
            body_bytes: 1 << 20,
            pairs: PairsLimits::default(),
            log_lines: 100,
            hostcall_bytes: 64 << 20,
            callouts: 1024,
        }
    }
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $variant:ident = $key:literal,)+) => {
        /// A limit, to say which one was met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Limit { $($(#[doc = $doc])+ $variant,)+ }

        impl Limit {
            /// Every limit, in the order of its number.
            pub const ALL: &[Limit] = &[$(Limit::$variant),+];

            /// Its key under `limits`, which is its name in log lines and metrics, too.
            #[must_use]
            pub const fn key(self) -> &'static str {
                match self { $(Limit::$variant => $key),+ }
            }
        }
    };
}

limits! {
    /// Linear memory of one VM.
    Memory = "memory_mib",
    /// Elements of a table.
    Table = "table_elements",
    /// The guest's stack.
    Stack = "stack_kib",
    /// The time of one callback.
    Callback = "callback_ms",
    /// The time of one stream context's callbacks together.
    Transaction = "transaction_ms",
    /// The time of the start function, and of `proxy_on_vm_start`.
    Start = "start_ms",
    /// The time of `proxy_on_configure`.
    Configure = "configure_ms",
    /// Bytes that one callback moves by hostcalls.
    Hostcall = "hostcall_kib",
    /// Calls to others under way.
    Callouts = "callouts",
    /// For how long a transaction is held.
    Pause = "pause_ms",
    /// How much of a body is held.
    Body = "body_kib",
}

impl Limits {
    /// What this limit is set to, as a filter file has it. `None` for one that no file sets.
    pub(crate) fn value(&self, limit: Limit) -> Option<u128> {
        let time = |time: Duration| Some(time.as_millis());
        match limit {
            Limit::Memory => Some((self.memory_bytes >> 20) as u128),
            Limit::Table => Some(self.table_elements as u128),
            Limit::Stack => None,
            Limit::Callback => time(self.callback),
            Limit::Transaction => time(self.transaction),
            Limit::Start => time(self.start),
            Limit::Configure => time(self.configure),
            Limit::Hostcall => Some(u128::from(self.hostcall_bytes >> 10)),
            Limit::Callouts => Some(self.callouts as u128),
            Limit::Pause => time(self.pause),
            Limit::Body => Some((self.body_bytes >> 10) as u128),
        }
    }
}

/// A length of time in nanoseconds. A [`Duration`] in one word: what each callback computes with is computed in one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Nanos(u64);

impl Nanos {
    pub(crate) const ZERO: Self = Nanos(0);
    /// Without end: 584 years.
    pub(crate) const MAX: Self = Nanos(u64::MAX);

    #[inline]
    pub(crate) fn saturating_sub(self, other: Self) -> Self {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl From<Duration> for Nanos {
    fn from(time: Duration) -> Self {
        Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(time: Nanos) -> Self {
        Duration::from_nanos(time.0)
    }
}

/// How long an entry into a guest may take, and by which limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) time: Nanos,
    pub(crate) limit: Limit,
}

/// The resolution of every deadline: one tick of the engine's epoch.
pub(crate) const EPOCH: Duration = Duration::from_millis(10);

/// Holds a callback to its time, and says what it took.
///
/// Measured in processor time of the thread, not by the clock on the wall: on a server that has more to do than
/// processors, a callback may stand still for longer than it is allowed to run, through no fault of its own. But
/// asking the kernel for it costs more than most callbacks take, so nobody asks before an epoch has ended during the
/// callback: its time is counted from there. So a callback may take its limit and what it took up to that end, which is
/// less than an epoch.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    limit: Nanos,
    /// Whether an epoch ended that found the callback running; `first` says nothing else.
    looked: bool,
    /// Processor time of the thread when the first one did.
    first: Duration,
}

/// After how many epochs a callback is looked at for the first time: at the end of the current one.
pub(crate) const FIRST_LOOK: u64 = 1;

impl Stopwatch {
    /// A callback begins that may take `limit`.
    #[inline]
    pub(crate) fn start(&mut self, limit: Nanos) {
        self.limit = limit;
        self.looked = false;
    }

    /// What the callback may take.
    pub(crate) fn limit(&self) -> Nanos {
        self.limit
    }

    /// An epoch's end found the callback running. `None` ends it, else it is looked at again after so many epochs.
    pub(crate) fn look(&mut self) -> Option<u64> {
        let now = thread_time();
        if !self.looked {
            (self.looked, self.first) = (true, now);
        }
        let used = now.saturating_sub(self.first);
        let left = Duration::from(self.limit).checked_sub(used).filter(|left| !left.is_zero())?;
        Some(u64::try_from(left.as_nanos().div_ceil(EPOCH.as_nanos())).unwrap_or(u64::MAX))
    }

    /// Whether an epoch's end found the callback running. Nobody knows what others took, and it is little.
    #[inline]
    pub(crate) fn has_looked(&self) -> bool {
        self.looked
    }

    /// What a callback that is over took, if an epoch ended meanwhile.
    ///
    /// What came before that end is not known, but for being less than an epoch. The end comes at any moment of a callback,
    /// so on average as much is before it as behind it.
    pub(crate) fn used(&self) -> Duration {
        if !self.looked {
            return Duration::ZERO;
        }
        let behind = thread_time().saturating_sub(self.first);
        behind + behind.min(EPOCH)
    }
}

/// The processor time that this thread has used.
pub(crate) fn thread_time() -> Duration {
    // Not by rustix, which looks for the kernel's vDSO itself, and under valgrind finds one that is not mapped.
    cpu_time::ThreadTime::now().as_duration()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(time: Duration) {
        let begin = thread_time();
        while thread_time() - begin < time {
            std::hint::black_box(0);
        }
    }

    #[test]
    fn standing_still_costs_nothing() {
        let mut watch = Stopwatch::default();
        watch.start(Nanos::from(Duration::from_millis(30)));
        assert_eq!(watch.look(), Some(3));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(watch.look(), Some(3), "asleep is not at work");
        assert!(watch.used() < Duration::from_millis(10));
    }

    #[test]
    fn work_does() {
        let mut watch = Stopwatch::default();
        watch.start(Nanos::from(Duration::from_millis(30)));
        assert_eq!(watch.used(), Duration::ZERO);
        assert!(watch.look().is_some() && watch.has_looked());
        work(Duration::from_millis(5));
        assert!(watch.used() >= Duration::from_millis(10), "as much again before the first look");
        work(Duration::from_millis(26));
        assert_eq!(watch.look(), None);
        let used = watch.used();
        assert!(used >= Duration::from_millis(41), "an epoch at most before the first look: {used:?}");
        watch.start(Nanos::from(Duration::from_millis(30)));
        assert!(!watch.has_looked());
        assert_eq!(watch.used(), Duration::ZERO, "of another callback nothing is known");
        watch.start(Nanos::from(Duration::ZERO));
        assert_eq!(watch.look(), None, "nothing left");
    }

    #[test]
    fn every_limit_has_a_key_of_its_own() {
        let mut keys: Vec<_> = Limit::ALL.iter().map(|limit| limit.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), Limit::ALL.len());
        assert_eq!(Limits::default().value(Limit::Memory), Some(64));
        assert_eq!(Limits::default().value(Limit::Hostcall), Some(65_536));
    }
}
