//! `ats-bench`: what a transaction costs on a real traffic_server with no plugin, with its peers, and with ours.
//!
//! Every figure compares servers of one run. Times come from short rounds of wrk that go round all variants in turn,
//! each round set against the round of no plugin beside it; a second server with no plugin shows what of that is
//! chance. Where times are too noisy, `--callgrind` counts instructions.
//!
//! What is measured stands in [`sites`] and [`variants`], how in [`rounds`], [`latency`], [`http2`] and [`callgrind`]; large
//! bodies are in [`bodies`], filters that wait for others in [`callouts`], what threads share in [`shared_points`]. The bars
//! are in [`bars`]. Bodies that are rewritten are in [`rewrite`], many rules, modules and threads in [`scale`].

mod args;
mod bars;
mod baseline;
mod bodies;
mod callgrind;
mod callouts;
mod http2;
mod instructions;
mod latency;
mod machine;
mod memcheck;
mod native;
mod pace;
mod plot;
mod report;
mod rewrite;
mod rounds;
mod scale;
mod shared_points;
mod sites;
mod stats;
mod stream;
mod times;
mod variants;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use args::{Args, Baseline};
use bars::Verdict;
use machine::Machine;
use variants::Variant;

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
        return conclude(&[memcheck::run(args.memcheck).into()]);
    }
    match measure(&args, &Machine::here()) {
        Ok(verdicts) if args.check || args.baseline == Some(Baseline::Compare) => conclude(&verdicts),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ats-bench: what was measured cannot be written: {error}");
            ExitCode::from(2)
        }
    }
}

/// Measures what was asked for, shows it, and says what became of the bars.
fn measure(args: &Args, machine: &Machine) -> io::Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    let only = if args.baseline.is_some() { baseline::KEYS.map(str::to_owned).to_vec() } else { args.only.clone() };
    let (variants, skipped) = variants::choose(&only);
    let wanted = args.starts > 0 || args.callgrind > 0;
    for variant in skipped.iter().filter(|_| wanted) {
        let module = variant.site.module().unwrap_or_default();
        eprintln!("NOT MEASURED: {}: {module} is not installed", variant.title);
    }
    if args.starts > 0 {
        let timed = rounds::run(&variants, args, machine);
        verdicts.extend(bars::check(&variants, &timed));
        let mut text = report::head(machine, &skipped);
        times::markdown(&mut text, args, machine, &variants, &timed);
        text += &times::bars(&verdicts);
        show(args, report::SMALL, &text)?;
        plots(args, |folder| times::plot(folder, args, &variants, &timed))?;
    }
    if args.latency > 0 {
        let (starts, turn) = if args.is_short() { (1, 150) } else { (2, 400) };
        let measured = latency::run(starts, args.latency, Duration::from_millis(turn), machine);
        verdicts.push(measured.check());
        let text = measured.markdown(machine) + "\n" + &times::bars(&verdicts[verdicts.len() - 1..]);
        show(args, report::LATENCY, &text)?;
        plots(args, |folder| measured.plot(folder))?;
    }
    if args.http2 > 0 {
        let (starts, turn) = if args.is_short() { (1, 300) } else { (2, 700) };
        let measured = http2::run(starts, args.http2, Duration::from_millis(turn), machine);
        show(args, report::HTTP2, &measured.markdown(machine))?;
        plots(args, |folder| measured.plot(folder))?;
    }
    if args.bodies > 0 {
        let rounds = bodies::run(args.bodies, machine);
        show(args, report::LARGE, &bodies::markdown(machine, &rounds))?;
        verdicts.push(bodies::check(&rounds).into());
    }
    if args.callouts > 0 {
        let measured = callouts::run(args.callouts);
        show(args, report::CALLOUTS, &callouts::markdown(machine, &measured))?;
        verdicts.push(callouts::check(&measured).into());
    }
    if args.rewrite > 0 {
        let few = args.is_short() || args.write.is_none();
        let timed = rewrite::run(args.rewrite, few, machine);
        let counted = if args.rewrite_counts { rewrite::count() } else { Vec::new() };
        show(args, report::REWRITE, &rewrite::markdown(machine, &timed, &counted))?;
        plots(args, |folder| rewrite::plot(folder, &timed))?;
        verdicts.push(rewrite::check(&timed).into());
    }
    if args.scale > 0 {
        machine::unpin_self(machine);
        let measured = scale::run(args.scale, machine);
        show(args, report::SCALE, &scale::markdown(machine, &measured))?;
        plots(args, |folder| scale::draw(&measured, folder))?;
        verdicts.push(scale::check(&measured).into());
    }
    // Last of what is timed: it wants all processors, and this process keeps to one by now.
    if args.shared > 0 {
        machine::unpin_self(machine);
        show(args, report::SHARED, &shared_points::run(args.shared).markdown(machine))?;
    }
    if args.callgrind > 0 {
        verdicts.extend(count(args, machine, &variants)?);
    }
    Ok(verdicts)
}

/// Counts instructions.
fn count(args: &Args, machine: &Machine, variants: &[Variant]) -> io::Result<Option<Verdict>> {
    let variants: Vec<Variant> = variants.iter().filter(|variant| variant.counted).copied().collect();
    let counted = callgrind::run(&variants, args.callgrind);
    let mut text = report::head(machine, &[]);
    instructions::markdown(&mut text, args, &variants, &counted);
    if args.baseline.is_none() {
        show(args, report::INSTRUCTIONS, &text)?;
        plots(args, |folder| instructions::plot(folder, args, &variants, &counted))?;
    }
    match args.baseline {
        Some(Baseline::Write) => {
            baseline::write(machine, &variants, &counted)?;
            eprintln!("written to {}", baseline::path().display());
            Ok(None)
        }
        Some(Baseline::Compare) => Ok(Some(baseline::check(machine, &variants, &counted))),
        None => Ok(None),
    }
}

/// Says what became of the bars. The status is 1 if one is missed, 3 if one could not be judged.
fn conclude(verdicts: &[Verdict]) -> ExitCode {
    for verdict in verdicts {
        println!("{}", verdict.line());
    }
    let any = |kind: fn(&Verdict) -> bool| verdicts.iter().any(kind);
    if any(|verdict| matches!(verdict, Verdict::Failed(_))) {
        ExitCode::FAILURE
    } else if any(|verdict| matches!(verdict, Verdict::Unclear(_))) {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    }
}

/// Prints a report, and writes it where it was asked to be written.
fn show(args: &Args, section: &str, text: &str) -> io::Result<()> {
    println!("{text}");
    let Some(path) = &args.write else { return Ok(()) };
    report::write(path, section, text)?;
    eprintln!("written to {}", path.display());
    Ok(())
}

/// Has plots written beside the report, if that is written.
fn plots(args: &Args, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    match &args.write {
        Some(path) => write(&path.parent().unwrap_or_else(|| Path::new("")).join("plots")),
        None => Ok(()),
    }
}
