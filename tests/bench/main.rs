//! `ats-bench`: what a transaction costs on a real traffic_server with no plugin, with its peers, and with ours.
//!
//! Every figure compares servers of one run. Times come from short rounds of wrk that go round all variants in turn,
//! each round set against the round of no plugin beside it; a second server with no plugin shows what of that is
//! chance. Where times are too noisy, `--callgrind` counts instructions.
//!
//! What is measured stands in [`variants`], how in [`rounds`] and [`callgrind`].

mod args;
mod callgrind;
mod machine;
mod report;
mod rounds;
mod stats;
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
    let (variants, skipped) = variants::choose(&args.only);
    for variant in &skipped {
        eprintln!("NOT MEASURED: {}: {} is not installed", variant.title, variant.site.module().unwrap_or_default());
    }
    let machine = machine::Machine::here();
    let timed = (args.starts > 0).then(|| rounds::run(&variants, &args, &machine));
    let counted = (args.callgrind > 0).then(|| callgrind::run(&variants, args.callgrind));
    let text = report::markdown(&machine, &args, &variants, &skipped, timed.as_ref(), counted.as_ref());
    println!("{text}");
    if let Some(path) = &args.write {
        if let Err(error) = report::write(path, &text) {
            eprintln!("ats-bench: {}: {error}", path.display());
            return ExitCode::from(2);
        }
        eprintln!("written to {}", path.display());
    }
    if !args.check {
        return ExitCode::SUCCESS;
    }
    match report::check(&variants, timed.as_ref()) {
        Ok(line) => {
            println!("check passed: {line}");
            ExitCode::SUCCESS
        }
        Err(line) => {
            println!("check FAILED: {line}");
            ExitCode::FAILURE
        }
    }
}
