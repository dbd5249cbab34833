//! What is done seldom: VMs built, and built again after a trap; modules compiled, and found compiled.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::testing::{SharedTransaction, Transaction};
use engine::{Chain, Compiler, Stream, Verdict, config};

use crate::args::Args;
use crate::cases::guests::{Bed, guests, is_built};
use crate::cases::transactions;
use crate::stats::Spread;
use crate::synthetic::{load, synthetic};

/// The lines that bars are about.
pub(crate) const REBUILT: &str = "a VM rebuilt after a trap, by the next request";
pub(crate) const CACHED: &str = "synthetic module, 14 MB: from the cache, its VM included";

/// One line of the table, in microseconds.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) time: Spread,
}

fn line(name: &str, times: impl IntoIterator<Item = Duration>) -> Line {
    Line { name: name.to_owned(), time: Spread::of(times.into_iter().map(|time| time.as_secs_f64() * 1e6)) }
}

pub(crate) fn run(args: &Args) -> Vec<Line> {
    let mut lines = Vec::new();
    let times = if args.quick { 30 } else { 100 };
    if is_built("bench-headers.wasm") {
        lines.push(line("a rule whose module is known: its VM built and configured", built(times)));
    }
    if is_built("trap.wasm") {
        let (rebuilt, after) = rebuilt(times);
        // None, where that thread always came first.
        if !rebuilt.is_empty() {
            lines.push(line(REBUILT, rebuilt));
            lines.push(line("the request after that", after));
        }
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let dir = place.path();
    std::fs::write(dir.join("small.wasm"), synthetic(100)).expect("a module");
    if is_built("bench-headers.wasm") {
        let rounds = if args.quick { 2 } else { 5 };
        let module = guests().join("bench-headers.wasm");
        for compiler in Compiler::ALL {
            let times = (0..rounds).map(|_| load(dir, &module, compiler, false)[0]);
            lines.push(line(&format!("the Rust-SDK filter compiled by {compiler}, its VM included"), times));
        }
        lines.push(line("the Rust-SDK filter from the cache, its VM included", cached(dir, &module, 20)));
    }
    let large = dir.join("synthetic.wasm");
    std::fs::write(&large, synthetic(14_000_000)).expect("a module");
    lines.push(line(CACHED, cached(dir, &large, 20)));
    lines
}

/// Rules that share no VM.
fn built(times: usize) -> Vec<Duration> {
    let bed = Bed::new(1);
    let module = guests().join("bench-headers.wasm").display().to_string();
    let load = |id: usize| {
        let yaml = format!("filters: [{{name: f, module: \"{module}\", vm_id: built-{id}}}]\n");
        let config = config::parse(Path::new("bench.yaml"), &yaml).expect("a filter file");
        let begun = Instant::now();
        let chain = Chain::load(&bed.runtime, "bench", &config).expect("a chain");
        (begun.elapsed(), chain)
    };
    let _first = load(0);
    (1..=times).map(|id| load(id).0).collect()
}

/// The request after one that trapped, less what one takes in a VM that is there; and the one after that. Where the thread that
/// rebuilds came first, there is nothing to see, and it is tried again.
fn rebuilt(times: usize) -> (Vec<Duration>, Vec<Duration>) {
    let bed = Bed::new(1);
    let chain =
        bed.chain("filters: [{name: f, module: \"{guests}/trap.wasm\", breaker: 'off', log: {level: 'off'}}]\n");
    let timed = |chain: &Arc<Chain>| {
        let begun = Instant::now();
        transactions::one(chain);
        begun.elapsed()
    };
    (0..100).for_each(|_| transactions::one(&chain));
    // What filters do wrong is told; here it is meant.
    log::set_max_level(log::LevelFilter::Off);
    let request = Transaction::get("a.test", "/").header("x-trap", "on_request_headers");
    let trapping = SharedTransaction::new(request.header("x-trap-kind", "unreachable"));
    let mut pairs = Vec::new();
    for _ in 0..10 * times {
        let usual = timed(&chain);
        let built = bed.runtime.counters().vms_built;
        let mut stream = Stream::new(Arc::clone(&chain), 0, trapping.host());
        assert!(matches!(stream.request_headers(true), Verdict::Respond(_)), "it did not trap");
        drop(stream);
        let late = bed.runtime.counters().vms_built > built;
        let first = timed(&chain);
        let second = timed(&chain);
        if !late && first > usual {
            pairs.push((first - usual, second));
        }
        if pairs.len() == times {
            break;
        }
        // The thread that rebuilds is done as well, and no limit on traps a second is met.
        std::thread::sleep(Duration::from_millis(6));
    }
    log::set_max_level(log::LevelFilter::Warn);
    pairs.into_iter().unzip()
}

/// A module that is in the cache, in runtimes that know nothing.
fn cached(dir: &Path, module: &Path, times: usize) -> Vec<Duration> {
    let cranelift = Compiler::ALL[0];
    // A file that changed just now is not taken for known.
    std::thread::sleep(Duration::from_millis(100));
    load(dir, module, cranelift, true);
    std::thread::sleep(Duration::from_millis(100));
    load(dir, module, cranelift, true);
    (0..times).map(|_| load(dir, module, cranelift, true)[0]).collect()
}
