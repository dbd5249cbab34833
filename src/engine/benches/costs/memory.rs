//! What a VM takes that waits for its first transaction.

use crate::cases::guests::{Bed, is_built};
use crate::stats::Spread;

/// VMs that are built at a time: enough that the allocator's own granularity does not count.
const VMS: usize = 500;

/// KiB of each VM.
pub(crate) struct Idle {
    /// Memory of its own and page tables.
    pub(crate) own: Spread,
    /// The same, with pages that it shares with others of its module.
    pub(crate) resident: Spread,
}

/// Measures VMs of the Rust-SDK header filter. `None` if that is not built.
pub(crate) fn idle() -> Option<Idle> {
    is_built("bench-headers.wasm").then(|| {
        let bed = Bed::new(VMS);
        let load = |id: usize| {
            let module = "\"{guests}/bench-headers.wasm\"";
            bed.chain(&format!("filters: [{{name: f, module: {module}, vm_id: memory-{id}}}]\n"))
        };
        // Compiles the module, and starts the threads that build VMs.
        let mut chains = vec![load(0)];
        let (mut own, mut resident) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            let before = taken();
            chains.push(load(id));
            let after = taken();
            let each = |which: usize| (after[which] - before[which]) / VMS as f64;
            own.push(each(0) + each(2));
            resident.push(each(1) + each(2));
        }
        Idle { own: Spread::of(own), resident: Spread::of(resident) }
    })
}

/// KiB of this process: of its own (a shared page counts by its share), resident, and page tables.
fn taken() -> [f64; 3] {
    let of = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
    };
    let rollup = "/proc/self/smaps_rollup";
    [of(rollup, "Pss"), of(rollup, "Rss"), of("/proc/self/status", "VmPTE")]
}
