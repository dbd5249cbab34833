//! What happened, in numbers that only grow.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Totals since the start of the process.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Counters {
            /// Every counter with its name, in a fixed order.
            #[must_use]
            pub const fn list(&self) -> [(&'static str, u64); counters!(@count $($name)+)] {
                [$((stringify!($name), self.$name)),+]
            }
        }

        impl Counters {
            /// Every counter with its name and what it counts, in the same order.
            #[must_use]
            pub const fn described(&self) -> [(&'static str, &'static str, u64); counters!(@count $($name)+)] {
                [$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name)),+]
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }

        /// The counters of one slot: written under the slot's lock alone, read by anybody.
        #[derive(Debug, Default)]
        pub(crate) struct SlotCounters { $(pub(crate) $name: Tally,)+ }

        impl SlotCounters {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.0.load(Ordering::Relaxed),)+ }
            }
        }
    };
    (@count) => { 0 };
    (@count $head:ident $($tail:ident)*) => { 1 + counters!(@count $($tail)*) };
}

counters! {
    /// VMs instantiated, the first of a slot and rebuilt ones alike.
    vms_built,
    /// VMs thrown away: trapped, or no longer wanted.
    vms_dropped,
    /// Plugin contexts created.
    roots_created,
    /// Plugin contexts deleted, or gone with their VM.
    roots_deleted,
    /// Stream contexts created.
    streams_created,
    /// Stream contexts deleted, or gone with their VM.
    streams_deleted,
    /// Guests that trapped, for whatever reason.
    traps,
    /// Guests that trapped because a deadline passed.
    deadlines,
    /// Streams held by a filter.
    pauses,
    /// Local responses sent by filters.
    local_responses,
    /// Ticks run.
    ticks,
}

/// A counter with one writer at a time: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    /// Counts `n`. Callers hold the slot's lock.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }
}
