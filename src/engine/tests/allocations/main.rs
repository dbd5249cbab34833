//! Nothing is allocated for a transaction, once the first ones have been: counted by the allocator of this program.
//!
//! The host allocates nothing, so what is counted is the engine's. With `WASM_REMAP_ALLOCATIONS=tell` each allocation of one
//! transaction is told with its backtrace.

#[path = "../../benches/costs/cases/mod.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest of it")]
mod cases;
mod counting;

use cases::guests::Bed;
use cases::{Case, host};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Runs before counting begins: buffers have their size then.
const WARM_UP: u64 = 300;

fn is_told() -> bool {
    std::env::var_os("WASM_REMAP_ALLOCATIONS").is_some_and(|value| value == "tell")
}

/// Allocations of `runs` runs.
fn allocations(case: &mut Case, runs: u64) -> counting::Count {
    (case.run)(WARM_UP);
    if is_told() {
        eprintln!("== {}", case.name);
        counting::tell(|| (case.run)(1));
    }
    counting::count(|| (case.run)(runs))
}

#[test]
fn nothing_is_allocated_for_a_transaction() {
    const RUNS: u64 = 100;
    let bed = Bed::new(1);
    let writes = host::writes();
    let mut found = Vec::new();
    for mut case in cases::all(&bed) {
        let count = allocations(&mut case, RUNS);
        println!("{:>6} allocations, {:>6} bytes more in {RUNS} runs: {}", count.allocations, count.grown, case.name);
        found.push((case.name, count));
    }
    assert!(host::writes() > writes, "no filter did anything");
}
