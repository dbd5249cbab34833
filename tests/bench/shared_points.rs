//! What transactions of different threads share, and how much of it a second there can be: the ceilings of growth.
//!
//! Two threads are all that this machine can run at once; how a point behaves between two says what it costs when a cache
//! line is another processor's, which is what it costs each time among many. A point that is written once a transaction
//! cannot be passed more often than that, whatever the number of processors: its ceiling is the throughput that two threads
//! have there together. Whole transactions of the engine come beside it, on one rule and on two.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use engine::abi::{Callback, MapType};
use engine::{At, Chain, Error, Options, PseudoHeader, Runtime, Stream, StreamHost, Verdict, config};
use parking_lot::Mutex;
use wasm_remap_tests::artifacts;

use crate::machine::Machine;
use crate::stats::Spread;

/// What one thread does again and again, told which of the threads it is.
type Work = Arc<dyn Fn(usize) + Send + Sync>;

/// A point, and how it is passed.
struct Case {
    title: &'static str,
    /// How often a transaction of one filter passes it.
    times: &'static str,
    work: Work,
    /// Of each round, passes a second of one thread, and of two together.
    rounds: Vec<[f64; 2]>,
}

/// What was measured.
pub(crate) struct Measured(Vec<Case>);

/// Measures so many rounds.
pub(crate) fn run(rounds: usize) -> Measured {
    let mut cases = cases();
    for round in 0..rounds {
        for case in &mut cases {
            let time = Duration::from_millis(60);
            let figures = [pass(&case.work, 1, time), pass(&case.work, 2, time)];
            case.rounds.push(figures);
        }
        eprintln!("shared points, round {}/{rounds}", round + 1);
    }
    Measured(cases)
}

/// Passes a second of so many threads together.
fn pass(work: &Work, threads: usize, time: Duration) -> f64 {
    let start = Arc::new(Barrier::new(threads));
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let (work, start) = (Arc::clone(work), Arc::clone(&start));
            // Each has a processor to itself, as long as there is nobody else.
            thread::spawn(move || {
                work(number);
                start.wait();
                let begin = Instant::now();
                let mut count = 0_u64;
                while begin.elapsed() < time {
                    for _ in 0..64 {
                        work(number);
                    }
                    count += 64;
                }
                count as f64 / begin.elapsed().as_secs_f64()
            })
        })
        .collect();
    workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).sum()
}

fn cases() -> Vec<Case> {
    let case = |title, times, work: Work| Case { title, times, work, rounds: Vec::new() };
    let counter = AtomicU64::new(0);
    let counted = Arc::new(0_u64);
    let own = [Mutex::new(0_u64), Mutex::new(0_u64)].map(Padded);
    let lock = Mutex::new(0_u64);
    let swapped = arc_swap::ArcSwap::from_pointee(0_u64);
    let runtime = Runtime::new(Options::with_slots(2)).expect("a runtime");
    let [one, left, right] = ["one", "left", "right"].map(|rule| chain(&runtime, rule));
    let two = [left, right];
    let data = Runtime::new(Options::with_slots(2)).expect("a runtime");
    let [reads, writes, apart] = [data.clone(), data.clone(), data].map(|runtime| {
        move |key: &[u8], write: bool| {
            let data = &runtime.shared().data;
            if write {
                data.set("bench", key, b"value", 0).expect("there is room")
            } else {
                _ = data.get("bench", key, &mut Vec::new())
            }
        }
    });
    reads(b"key", true);
    let keys: [&[u8]; 2] = [b"left", b"right"];
    vec![
        case("a VM's lock, which its own thread takes", "3", Arc::new(move |at| *own[at].0.lock() += 1)),
        case(
            "a rule's pointer to its chain, which is swapped rarely",
            "1",
            Arc::new(move |_| _ = black_box(**swapped.load())),
        ),
        case("a chain's count of references", "1 up, 1 down", Arc::new(move |_| drop(black_box(Arc::clone(&counted))))),
        case(
            "a filter's metric (`proxy_increment_metric`)",
            "by the filter",
            Arc::new(move |_| _ = counter.fetch_add(1, Ordering::Relaxed)),
        ),
        case("a lock that all threads take, for comparison", "0", Arc::new(move |_| *lock.lock() += 1)),
        case("shared data: one key read", "by the filter", Arc::new(move |_| reads(b"key", false))),
        case("shared data: one key written", "by the filter", Arc::new(move |_| writes(b"key", true))),
        case("shared data: a key a thread written", "by the filter", Arc::new(move |at| apart(keys[at], true))),
        case("the engine's transaction, a rule a thread", "", Arc::new(move |at| transaction(&two[at], at))),
        case("the engine's transaction, all on one rule", "", Arc::new(move |at| transaction(&one, at))),
    ]
}

/// On a cache line of its own.
#[repr(align(128))]
struct Padded<T>(T);

fn chain(runtime: &Runtime, rule: &str) -> Arc<Chain> {
    let module = artifacts::guest("bench-headers");
    let yaml = format!("filters:\n- {{name: bench, module: {}, body: none}}\n", module.display());
    let config = config::parse(&PathBuf::from("bench.yaml"), &yaml).expect("a filter file");
    Chain::load(runtime, rule, &config).expect("a chain")
}

fn transaction(chain: &Arc<Chain>, slot: usize) {
    let mut stream = Stream::new(Arc::clone(chain), slot, Box::new(Nobody));
    assert_eq!(stream.request_headers(true), Verdict::Continue);
    assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
    stream.finish();
}

/// A host that has no headers and takes any: nothing of it is shared, so that what threads share is the engine's.
struct Nobody;

impl StreamHost for Nobody {
    fn begin(&mut self, _: Callback) {}

    fn header(&mut self, _: MapType, _: &[u8], _: &mut Vec<u8>) -> Result<(), Error> {
        Err(Error::NotFound)
    }

    fn headers(&mut self, _: MapType, _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error> {
        Ok(())
    }

    fn header_count(&mut self, _: MapType) -> Result<usize, Error> {
        Ok(0)
    }

    fn add_header(&mut self, _: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        black_box((name, value));
        Ok(())
    }

    fn set_header(&mut self, _: MapType, _: &[u8], _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn remove_header(&mut self, _: MapType, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn clear_headers(&mut self, _: MapType) -> Result<(), Error> {
        Ok(())
    }

    fn pseudo_header(&mut self, _: PseudoHeader, _: &mut Vec<u8>) -> Result<(), Error> {
        Err(Error::NotFound)
    }

    fn set_pseudo_header(&mut self, _: PseudoHeader, _: &[u8]) -> Result<(), Error> {
        Err(Error::NotFound)
    }

    fn property(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Error> {
        Err(Error::NotFound)
    }

    fn set_property(&mut self, _: &[u8], _: &[u8]) -> Result<(), Error> {
        Err(Error::NotFound)
    }
}

impl Measured {
    /// The table.
    pub(crate) fn markdown(&self, machine: &Machine) -> String {
        let mut out = String::new();
        let Machine { cpu, cores, load, .. } = machine;
        let _ = writeln!(
            out,
            "Machine: {cpu}, {cores} cores; load average when the run began: {load}. Passes of one thread, and of two at once; \
             medians of {} rounds, least and greatest in parentheses. Where two threads together pass a point no more often than \
             one, that is its ceiling, on however many cores.\n",
            self.0.first().map_or(0, |case| case.rounds.len())
        );
        let _ = writeln!(
            out,
            "| point | times a transaction | one thread, million/s | two together, million/s | two to one |"
        );
        let _ = writeln!(out, "| --- | --- | --: | --: | --: |");
        for case in &self.0 {
            let of = |figure: fn(&[f64; 2]) -> f64| Spread::of(case.rounds.iter().map(figure)).show(2);
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                case.title,
                case.times,
                of(|[one, _]| one / 1e6),
                of(|[_, two]| two / 1e6),
                of(|[one, two]| two / one)
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_passed_by_one_and_by_two() {
        let measured = run(1);
        for case in &measured.0 {
            assert!(case.rounds.iter().flatten().all(|rate| *rate > 1000.0), "{}: {:?}", case.title, case.rounds);
        }
        let table = measured.markdown(&Machine::here());
        assert!(table.contains("all on one rule") && table.lines().count() >= 4 + measured.0.len(), "{table}");
    }
}
