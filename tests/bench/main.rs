//! `ats-bench`: what a transaction costs on a real traffic_server with no plugin, with its peers, and with ours.
//!
//! Every figure compares servers of one run. Times come from short rounds of wrk that go round all variants in turn,
//! each round set against the round of no plugin beside it; a second server with no plugin shows what of that is
//! chance. Where times are too noisy, `--callgrind` counts instructions.
//!
//! What is measured stands in [`variants`], how in [`rounds`] and [`callgrind`]; large bodies are in [`bodies`],
//! filters that wait for others in [`callouts`], bodies that are rewritten in [`rewrite`].

mod args;
mod bodies;
mod callgrind;
mod callouts;
mod machine;
mod memcheck;
mod native;
#[allow(dead_code, reason = "bars are for other parts")]
mod plot;
mod report;
mod rewrite;
mod rounds;
mod stats;
mod stream;
mod variants;

use std::process::ExitCode;

use args::Args;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("ats-bench: {message}\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
    if args.memcheck > 0 {
        return conclude(&[memcheck::run(args.memcheck)]);
    }
    let machine = machine::Machine::here();
    let mut verdicts = Vec::new();
    if args.starts > 0 || args.callgrind > 0 {
        let (variants, skipped) = variants::choose(&args.only);
        for variant in &skipped {
            eprintln!(
                "NOT MEASURED: {}: {} is not installed",
                variant.title,
                variant.site.module().unwrap_or_default()
            );
        }
        let timed = (args.starts > 0).then(|| rounds::run(&variants, &args, &machine));
        let counted = (args.callgrind > 0).then(|| callgrind::run(&variants, args.callgrind));
        let text = report::markdown(&machine, &args, &variants, &skipped, timed.as_ref(), counted.as_ref());
        if !show(&args, report::SMALL, &text) {
            return ExitCode::from(2);
        }
        if args.starts > 0 {
            verdicts.push(report::check(&variants, timed.as_ref()));
        }
    }
    if args.bodies > 0 {
        let rounds = bodies::run(args.bodies, &machine);
        if !show(&args, report::LARGE, &bodies::markdown(&machine, &rounds)) {
            return ExitCode::from(2);
        }
        verdicts.push(bodies::check(&rounds));
    }
    if args.callouts > 0 {
        let measured = callouts::run(args.callouts);
        if !show(&args, report::CALLOUTS, &callouts::markdown(&machine, &measured)) {
            return ExitCode::from(2);
        }
        verdicts.push(callouts::check(&measured));
    }
    if args.rewrite > 0 || args.rewrite_counts {
        let timed = if args.rewrite > 0 { rewrite::run(args.rewrite, args.quick, &machine) } else { Vec::new() };
        let counted = if args.rewrite_counts { rewrite::count() } else { Vec::new() };
        if !show(&args, rewrite::SECTION, &rewrite::markdown(&machine, &timed, &counted)) {
            return ExitCode::from(2);
        }
        let folder = args.write.as_ref().map(|path| path.with_file_name("plots"));
        if let Some(Err(error)) = folder.map(|folder| rewrite::plot(&folder, &timed)) {
            eprintln!("ats-bench: the plots: {error}");
            return ExitCode::from(2);
        }
        if args.rewrite > 0 {
            verdicts.push(rewrite::check(&timed));
        }
    }
    if args.check { conclude(&verdicts) } else { ExitCode::SUCCESS }
}

fn conclude(verdicts: &[Result<String, String>]) -> ExitCode {
    for verdict in verdicts {
        match verdict {
            Ok(line) => println!("check passed: {line}"),
            Err(line) => println!("check FAILED: {line}"),
        }
    }
    if verdicts.iter().all(Result::is_ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a report, and writes it where it was asked to be written. False if that cannot be.
fn show(args: &Args, section: &str, text: &str) -> bool {
    println!("{text}");
    let Some(path) = &args.write else { return true };
    let written = report::write(path, section, text);
    match &written {
        Ok(()) => eprintln!("written to {}", path.display()),
        Err(error) => eprintln!("ats-bench: {}: {error}", path.display()),
    }
    written.is_ok()
}
