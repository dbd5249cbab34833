//! The heap stays as it is: over a million transactions, counted by the allocator of this program.
//!
//! A program for this alone: what all threads hold is looked at, and the runner of other tests would allocate meanwhile.

#[path = "../benches/costs/cases/mod.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest of it")]
mod cases;
#[path = "allocations/counting.rs"]
#[allow(dead_code, reason = "the other test uses the rest of it")]
mod counting;

use cases::guests::Bed;
use cases::{host, transactions};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Runs before counting begins: buffers have their size then.
const WARM_UP: u64 = 300;

#[test]
fn the_heap_does_not_grow_over_a_million_transactions() {
    let runs = std::env::var("WASM_REMAP_TRANSACTIONS").map_or(1_000_000, |text| text.parse().expect("a number"));
    let bed = Bed::new(1);
    for name in [transactions::RUST, transactions::C] {
        let case = cases::all().into_iter().find(|case| case.name == name).expect("`make guests` has built it");
        let mut run = case.make(&bed);
        run(WARM_UP);
        let (writes, live) = (host::writes(), counting::live());
        let count = counting::count(|| run(runs));
        let of_all = counting::live() - live;
        assert_eq!(host::writes() - writes, runs, "{name}: it adds one header");
        assert_eq!((count.grown, of_all), (0, 0), "{name}: bytes after {runs} transactions, of this thread, of all");
    }
}
