//! What is measured: by the clock and by instructions (the benchmark), and by allocations (tests/allocations).

pub(crate) mod bodies;
pub(crate) mod guests;
pub(crate) mod host;
pub(crate) mod hostcalls;
pub(crate) mod transactions;

use guests::Bed;

/// What makes so many runs.
pub(crate) type Run = Box<dyn FnMut(u64)>;

/// One thing that is measured.
pub(crate) struct Case {
    /// Under which heading it stands.
    pub(crate) group: Group,
    /// What it is. Unique: the baseline of instructions knows it by this.
    pub(crate) name: String,
    /// How many of that thing one run makes.
    pub(crate) things: u32,
    make: Box<dyn FnOnce(&Bed) -> Run>,
}

/// A heading of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Whole transactions.
    Transactions,
    /// Single hostcalls.
    Hostcalls,
    /// Bodies, by size.
    Bodies,
}

impl Case {
    pub(crate) fn new<R: FnMut(u64) + 'static>(
        group: Group,
        name: impl Into<String>,
        make: impl FnOnce(&Bed) -> R + 'static,
    ) -> Self {
        Case { group, name: name.into(), things: 1, make: Box::new(|bed| Box::new(make(bed))) }
    }

    /// Each run makes so many of the thing that is measured.
    pub(crate) fn of(self, things: u32) -> Self {
        Case { things, ..self }
    }

    /// Loads what it needs. That takes address space, of which valgrind has little, until the result is dropped.
    pub(crate) fn make(self, bed: &Bed) -> Run {
        (self.make)(bed)
    }
}

/// Every case, in the order of the report.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = transactions::cases();
    cases.extend(hostcalls::cases());
    cases.extend(bodies::cases());
    cases
}
