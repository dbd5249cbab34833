//! What two threads get done beside what one does: with VMs of their own, and with shared data and queues of all.

use std::sync::Barrier;
use std::time::Instant;

use crate::args::Args;
use crate::cases::guests::{Bed, is_built};
use crate::cases::hostcalls::{CALLS, LOOPED};
use crate::cases::{host, transactions};
use crate::rounds::plan;
use crate::stats::Spread;
use engine::{At, Stream, Verdict};

/// One line of the table.
pub(crate) struct Shared {
    pub(crate) name: String,
    /// Nanoseconds for each thing on one thread alone.
    pub(crate) alone: Spread,
    /// What two threads get done in the time in which one does 1.
    pub(crate) together: Spread,
}

/// Calls whose state is everybody's. Those with a `cas` would have to be repeated where another thread was first.
const SHARED: [&str; 3] = ["proxy_get_shared_data", "proxy_set_shared_data", "proxy_enqueue_shared_queue"];

pub(crate) fn run(args: &Args) -> Vec<Shared> {
    let bed = Bed::new(2);
    let mut lines = Vec::new();
    if is_built("bench-headers.wasm") {
        let chain = bed.chain("filters: [{name: f, module: \"{guests}/bench-headers.wasm\"}]\n");
        let thread = |slot| {
            let chain = std::sync::Arc::clone(&chain);
            move || {
                let mut stream = Stream::new(std::sync::Arc::clone(&chain), slot, Box::new(host::Host));
                assert_eq!(stream.request_headers(true), Verdict::Continue);
                assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
                stream.finish();
            }
        };
        let name = format!("{}, whole transactions", transactions::RUST);
        lines.push(measure(name, 1000, 1, args, || [thread(0), thread(1)]));
    }
    for (index, looped) in LOOPED.iter().enumerate() {
        if SHARED.iter().any(|shared| looped.name.starts_with(shared)) && !looped.name.contains("cas") {
            let chain = bed.text(&format!("shared-{index}"), &looped.text());
            let thread = |slot| looped.transaction(std::sync::Arc::clone(&chain), slot);
            let name = format!("{}, one key or queue", looped.name);
            lines.push(measure(name, 20, CALLS, args, || [thread(0), thread(1)]));
        }
    }
    lines
}

/// Runs the first thread alone and both together, in turns.
fn measure<T: FnMut() + Send>(
    name: String,
    runs: u32,
    things: u32,
    args: &Args,
    threads: impl Fn() -> [T; 2],
) -> Shared {
    let (rounds, turn) = plan(args);
    let batches = |count: usize| {
        let barrier = Barrier::new(count);
        let mut work: Vec<_> = threads().into_iter().take(count).collect();
        // How much each thread has done in a turn.
        let rates: Vec<f64> = std::thread::scope(|scope| {
            let handles: Vec<_> = work
                .iter_mut()
                .map(|work| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        (0..runs).for_each(|_| work());
                        barrier.wait();
                        let begun = Instant::now();
                        let mut done = 0u64;
                        while begun.elapsed() < turn {
                            (0..runs).for_each(|_| work());
                            done += u64::from(runs);
                        }
                        done as f64 * f64::from(things) / begun.elapsed().as_secs_f64()
                    })
                })
                .collect();
            handles.into_iter().map(|handle| handle.join().expect("a thread of the benchmark")).collect()
        });
        rates.iter().sum::<f64>()
    };
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let one = batches(1);
        alone.push(1e9 / one);
        together.push(batches(2) / one);
    }
    Shared { name, alone: Spread::of(alone), together: Spread::of(together) }
}
