//! Nothing is allocated for a transaction, once the first ones have been: counted by the allocator of this program.
//!
//! The host allocates nothing, so what is counted is the engine's. With `WASM_REMAP_ALLOCATIONS=tell` each allocation of one
//! transaction is told with its backtrace.

#[path = "../../benches/costs/cases/mod.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest of it")]
mod cases;
#[allow(dead_code, reason = "the test of the heap uses the rest of it")]
mod counting;

use cases::guests::Bed;
use cases::transactions::ISOLATED;
use cases::{Case, Group, Run, host, transactions};
use counting::Count;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Runs before counting begins: buffers have their size then.
const WARM_UP: u64 = 300;

fn is_told() -> bool {
    std::env::var_os("WASM_REMAP_ALLOCATIONS").is_some_and(|value| value == "tell")
}

/// What `runs` runs of a case allocate.
fn allocations(name: &str, run: &mut Run, runs: u64) -> Count {
    run(WARM_UP);
    if is_told() {
        eprintln!("== {name}");
        counting::tell(|| run(1));
    }
    counting::count(|| run(runs))
}

/// A hundred runs are counted. A run is a transaction; of the cases named `two` it is two, and of hostcalls one with a thousand
/// calls.
const RUNS: u64 = 100;

/// What cases allocate in so many runs, exactly: what a queue keeps, an answer in place of the origin's, and whom to wake when
/// another transaction is acted on. Of those that are not here, nothing is allowed.
const KNOWN: &[(&str, u64)] = &[
    ("two, of which one waits for the other", 100),
    ("a filter that answers 403", 200),
    ("proxy_enqueue_shared_queue and proxy_dequeue_shared_queue, 16 bytes", 203_226),
];

#[test]
fn nothing_is_allocated_for_a_transaction() {
    let bed = Bed::new(1);
    let mut wrong = Vec::new();
    let mut all = cases::all();
    all.push(sdk_calls());
    // A VM each: those are made of memory.
    for case in all.into_iter().filter(|case| case.name != ISOLATED) {
        let name = case.name.clone();
        let mut run = case.make(&bed);
        let count = allocations(&name, &mut run, RUNS);
        let known = KNOWN.iter().find(|known| known.0 == name).map_or(0, |known| known.1);
        if count != (Count { allocations: known, grown: 0 }) {
            wrong.push(format!("{name}: {count:?} in {RUNS} runs, and {known} allocations are known"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A filter of the Rust SDK that makes, for each request, the calls that filters make.
fn sdk_calls() -> Case {
    Case::new(Group::Transactions, "Rust-SDK filter with ten kinds of calls", |bed| {
        let calls = concat!(
            r#"[["get_header_map_value", 0, "user-agent"], ["add_header_map_value", 0, "x-a", "1"],"#,
            r#" ["replace_header_map_value", 0, "x-b", "2"], ["remove_header_map_value", 0, "x-c"],"#,
            r#" ["get_property", "request.path"], ["get_property", "plugin_name"], ["set_shared_data", "k", "v", 0],"#,
            r#" ["get_shared_data", "k"], ["log", 0, "below the level"], ["get_current_time_nanoseconds"]]"#,
        );
        let configuration = format!(r#"{{"programs": {{"on_request_headers": {calls}}}, "to": "header"}}"#);
        let chain = bed.chain(&format!(
            "filters: [{{name: f, module: \"{{guests}}/probe.wasm\", configuration: '{configuration}'}}]\n"
        ));
        move |runs| {
            for _ in 0..runs {
                let before = host::writes();
                transactions::one(&chain);
                // Three calls, and the results as a response header.
                assert_eq!(host::writes() - before, 4);
            }
        }
    })
}
