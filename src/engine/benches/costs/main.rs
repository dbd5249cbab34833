//! What the engine costs: whole transactions, hostcalls, chains, bodies, two threads, VMs, code, memory.
//!
//! Times on shared machines mean little, so all are multiples of an empty call into Wasm in the same run: every case has a
//! turn in every round, and medians over the rounds count. Where times are too noisy, `--instructions` counts under
//! callgrind, and compares with what is committed.

mod args;

#[allow(dead_code, reason = "tests/allocations uses the rest of it")]
mod cases;
mod instructions;
mod loading;
mod memory;
mod optimised;
mod report;
mod rounds;
#[path = "../../../../tests/bench/stats.rs"]
#[allow(dead_code, unused_imports, reason = "the benchmark on traffic_server uses the rest of it")]
mod stats;
mod synthetic;
mod threads;

use std::process::ExitCode;

use args::{Args, Mode};

/// Filters that fail say why.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{}", record.args());
        }
    }

    fn flush(&self) {}
}

fn main() -> ExitCode {
    // An error would mean that there is a logger already.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(log::LevelFilter::Warn);
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
    let outcome = match &args.mode {
        Mode::Help => {
            println!("{}", args::HELP);
            Ok(())
        }
        Mode::Times => times(&args),
        Mode::Instructions { write } => optimised::require().and_then(|()| instructions::run(&args, *write)),
        Mode::Counted => {
            instructions::counted(&args);
            Ok(())
        }
        Mode::Profile(runs) => profile(&args, *runs),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Everything by the clock.
fn times(args: &Args) -> Result<(), String> {
    if let Err(message) = optimised::require() {
        if args.check || args.write.is_some() {
            return Err(message);
        }
        eprintln!("{message}");
    }
    // First, while there is little else in memory.
    let memory = args.wants("memory").then(memory::idle).flatten();
    let bed = cases::guests::Bed::new(1);
    let timed = rounds::run(&bed, args);
    let threads = if args.wants("threads") { threads::run(args) } else { Vec::new() };
    let loading = if args.wants("loading") { loading::run(args) } else { Vec::new() };
    let report = report::Report { timed, threads, loading, memory };
    let text = report.markdown(args);
    println!("{text}");
    if let Some(path) = &args.write {
        report::write(path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let verdict = report.check();
    match verdict {
        Ok(lines) => {
            println!("{lines}");
            Ok(())
        }
        Err(lines) if args.check => Err(lines),
        Err(lines) => {
            println!("{lines}");
            Ok(())
        }
    }
}

/// For a profiler: one case, so many times.
fn profile(args: &Args, runs: u64) -> Result<(), String> {
    let bed = cases::guests::Bed::new(1);
    let wanted = if args.only.is_empty() { cases::transactions::RUST } else { &args.only[0] };
    let case = cases::all().into_iter().find(|case| case.name == wanted);
    let case = case.ok_or_else(|| format!("there is no case {wanted:?}, or its guest is not built"))?;
    case.make(&bed)(runs);
    Ok(())
}
