//! Nothing is allocated for a transaction, once the first ones have been: counted by the allocator of this program.
//!
//! The host allocates nothing, so what is counted is the engine's. With `WASM_REMAP_ALLOCATIONS=tell` each allocation of one
//! transaction is told with its backtrace.

#[path = "../../benches/costs/cases/mod.rs"]
#[allow(dead_code, reason = "the benchmark uses the rest of it")]
mod cases;
mod counting;

use std::sync::Mutex;

use cases::guests::Bed;
use cases::transactions::ISOLATED;
use cases::{Case, Group, Run, host, transactions};
use counting::Count;

/// Tests go one after the other: what other threads hold is looked at, too.
static ALONE: Mutex<()> = Mutex::new(());

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

/// What cases still allocate in so many runs, exactly. Of those that are not here, nothing is allowed; whoever mends one takes it
/// out.
const KNOWN: &[(&str, u64)] = &[
    // The stream's cell; the body's course and what is held of it; properties; what waits; answers.
    ("a filter without callbacks", 100),
    ("six empty callbacks", 100),
    ("C header filter", 100),
    ("C header filter, 2 in a chain", 100),
    ("C header filter, 5 in a chain", 200),
    ("C header filter, 10 in a chain", 200),
    ("Rust-SDK header filter", 100),
    ("Rust-SDK header filter, 2 in a chain", 100),
    ("Rust-SDK header filter, 5 in a chain", 300),
    ("Rust-SDK header filter, 10 in a chain", 300),
    ("two transactions", 200),
    ("two, of which one waits for the other", 400),
    ("a filter that answers 403", 300),
    ("the loop alone", 100),
    ("proxy_get_header_map_value, the eighth of ten", 100),
    ("proxy_get_header_map_value, not there", 100),
    ("proxy_get_header_map_value, :path", 100),
    ("proxy_add_header_map_value", 100),
    ("proxy_replace_header_map_value", 100),
    ("proxy_remove_header_map_value", 100),
    ("proxy_get_header_map_pairs, ten fields", 400100),
    ("proxy_set_header_map_pairs, ten fields", 100500),
    ("proxy_get_header_map_size", 400100),
    ("proxy_get_property, plugin_name", 100),
    ("proxy_get_property, request.path", 100),
    ("proxy_get_property, set before", 400),
    ("proxy_set_property", 100300),
    ("proxy_get_buffer_bytes, 1 KiB of a body", 300),
    ("proxy_set_buffer_bytes, 1 KiB of a body", 300),
    ("proxy_get_buffer_status", 300),
    ("proxy_log, below the level", 100),
    ("proxy_get_log_level", 100),
    ("proxy_get_current_time_nanoseconds", 100),
    ("proxy_increment_metric", 100),
    ("proxy_record_metric, a histogram", 100),
    ("proxy_get_metric", 100),
    ("proxy_define_metric, one that is there", 100),
    ("proxy_get_shared_data, 16 bytes", 100),
    ("proxy_set_shared_data, 16 bytes", 100),
    ("proxy_get_shared_data and proxy_set_shared_data with its cas", 100),
    ("proxy_enqueue_shared_queue and proxy_dequeue_shared_queue, 16 bytes", 203326),
    ("a body of 1 KiB, passed", 300),
    ("a body of 10 KiB, passed", 300),
    ("a body of 100 KiB, passed", 300),
    ("a body of 1 MiB, passed", 300),
    ("a body of 1 KiB, read", 300),
    ("a body of 10 KiB, read", 300),
    ("a body of 100 KiB, read", 300),
    ("a body of 1 MiB, read", 300),
    ("a body of 1 KiB, rewritten", 300),
    ("a body of 10 KiB, rewritten", 300),
    ("a body of 100 KiB, rewritten", 300),
    ("a body of 1 MiB, rewritten", 300),
    ("Rust-SDK filter with ten kinds of calls", 100),
];

#[test]
fn nothing_is_allocated_for_a_transaction() {
    let _alone = ALONE.lock();
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

#[test]
fn the_heap_does_not_grow_over_a_million_transactions() {
    let _alone = ALONE.lock();
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
