//! What is measured: by the clock and by instructions (the benchmark), and by allocations (tests/allocations).

pub(crate) mod bodies;
pub(crate) mod guests;
pub(crate) mod host;
pub(crate) mod hostcalls;
pub(crate) mod transactions;

/// One thing that is measured.
pub(crate) struct Case {
    /// Under which heading it stands.
    pub(crate) group: Group,
    /// What it is. Unique: the baseline of instructions knows it by this.
    pub(crate) name: String,
    /// How many of that thing one run makes.
    pub(crate) things: u32,
    /// Makes so many runs.
    pub(crate) run: Box<dyn FnMut(u64)>,
}

/// A heading of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Whole transactions.
    Transactions,
    /// Single hostcalls.
    Hostcalls,
    /// Bodies, by size.
    Bodies,
}

impl Case {
    pub(crate) fn new(group: Group, name: impl Into<String>, run: impl FnMut(u64) + 'static) -> Self {
        Case { group, name: name.into(), things: 1, run: Box::new(run) }
    }

    /// Each run makes so many of the thing that is measured.
    pub(crate) fn of(self, things: u32) -> Self {
        Case { things, ..self }
    }
}

/// Every case that takes part in both kinds of measurement, in the order of the report.
pub(crate) fn all(bed: &guests::Bed) -> Vec<Case> {
    let mut cases = transactions::cases(bed);
    cases.extend(hostcalls::cases(bed));
    cases.extend(bodies::cases(bed));
    cases
}
