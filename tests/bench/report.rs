//! The tables, and the verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::args::Args;
use crate::callgrind::{Counted, Function, Profile};
use crate::machine::Machine;
use crate::rounds::{CONNECTIONS, Timed};
use crate::stats::Spread;
use crate::variants::{BASE, Variant, find};

/// The sections of the file that [`write()`] fills.
pub(crate) const SMALL: &str = "ats-bench";
pub(crate) const LARGE: &str = "ats-bench bodies";
pub(crate) const CALLOUTS: &str = "ats-bench callouts";

/// How much further from no plugin than header_rewrite ours may be, and a second server with no plugin.
const ALLOWANCE: f64 = 0.03;
/// Functions and calls that are shown.
const TOP: usize = 30;

/// Everything that was measured, as Markdown.
pub(crate) fn markdown(
    machine: &Machine,
    args: &Args,
    variants: &[Variant],
    skipped: &[Variant],
    timed: Option<&Timed>,
    counted: Option<&Vec<Counted>>,
) -> String {
    let mut out = String::new();
    let Machine { cpu, cores, kernel, system, ats, rustc, wrk, load } = machine;
    let _ = writeln!(
        out,
        "Machine: {cpu}, {cores} cores; {system}, kernel {kernel}; {ats}; {rustc}; {wrk}. \
         Load average when the run began: {load}.\n"
    );
    for variant in skipped {
        let module = variant.site.module().unwrap_or_default();
        let _ = writeln!(out, "**Not measured: {}: {module} is not installed.**\n", variant.title);
    }
    if let Some(timed) = timed {
        times(&mut out, args, machine, variants, timed);
    }
    if let Some(counted) = counted {
        instructions(&mut out, args, variants, counted);
    }
    out
}

fn times(out: &mut String, args: &Args, machine: &Machine, variants: &[Variant], timed: &Timed) {
    let pinned = if machine.pins() { "each on a core of its own" } else { "on one core" };
    let Args { starts, rounds, seconds, .. } = args;
    let _ = writeln!(
        out,
        "Cache hits of 100 bytes, keep-alive: one ET_NET thread and `wrk -t1 -c{CONNECTIONS}`, {pinned}; {starts} starts \
         of all servers with {rounds} rounds each, {seconds} s a turn. Medians; in parentheses the least and the \
         greatest of the {} rounds. \"Of no plugin\" and \"beyond\" compare within a round. CPU is the server's user \
         and system time; its least, which chance can only add to, stands beside the median.\n",
        starts * rounds
    );
    let _ = writeln!(
        out,
        "| | requests/s | of no plugin | CPU µs/request, median / least | beyond no plugin, µs | p50 µs | p99 µs |"
    );
    let _ = writeln!(out, "| --- | --: | --: | --: | --: | --: | --: |");
    let base = find(variants, BASE).unwrap_or_default();
    for (at, variant) in variants.iter().enumerate() {
        let middle = |figures: Vec<f64>| Spread::of(figures).median;
        let ratio = Spread::of(timed.pairs(at, base, |turn, base| turn.rate / base.rate));
        let beyond = Spread::of(timed.pairs(at, base, |turn, base| turn.cpu - base.cpu));
        let cpu = Spread::of(timed.figures(at, |turn| turn.cpu));
        let (ratio, beyond) =
            if at == base { ("1".to_owned(), String::new()) } else { (ratio.show(3), beyond.show_signed(2)) };
        let _ = writeln!(
            out,
            "| {} | {:.0} | {ratio} | {:.2} / {:.2} | {beyond} | {:.0} | {:.0} |",
            variant.title,
            middle(timed.figures(at, |turn| turn.rate)),
            cpu.median,
            cpu.min,
            middle(timed.figures(at, |turn| turn.p50)),
            middle(timed.figures(at, |turn| turn.p99)),
        );
    }
    let _ = writeln!(out);
    if let Some(control) = find(variants, "control") {
        let off = Spread::of(timed.pairs(control, base, |turn, base| turn.rate / base.rate)).median - 1.0;
        if off.abs() > ALLOWANCE {
            let _ = writeln!(
                out,
                "**These times prove nothing: two servers with no plugin differ by {:.0} %, for the machine was not \
                 quiet.**\n",
                100.0 * off.abs()
            );
        }
    }
}

/// Where instructions are spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Plugin,
    Generated,
    Library,
    Server,
}

impl Place {
    fn of(object: &str) -> Place {
        match object {
            "" => Place::Generated,
            "wasm_remap.so" | "header_rewrite.so" | "tslua.so" => Place::Plugin,
            _ if object.starts_with("libluajit") => Place::Plugin,
            _ if object.starts_with("libc.") || object.starts_with("ld-linux") || object.starts_with("libm.") => {
                Place::Library
            }
            _ => Place::Server,
        }
    }
}

fn instructions(out: &mut String, args: &Args, variants: &[Variant], counted: &[Counted]) {
    let _ = writeln!(
        out,
        "Instructions of the event thread a request (callgrind, one connection, {} requests a part; median of three \
         parts, least and greatest in parentheses), and what there is beyond no plugin: in the plugin's own code \
         (LuaJIT's interpreter included), in code made at run time (WebAssembly, Lua traces), in the C library \
         (memory, copies), in Traffic Server. Instructions in the kernel are not counted.\n",
        args.callgrind
    );
    let _ =
        writeln!(out, "| | instructions | beyond no plugin | plugin | generated code | C library | Traffic Server |");
    let _ = writeln!(out, "| --- | --: | --: | --: | --: | --: | --: |");
    let base = find(variants, BASE).unwrap_or_default();
    let part = |profile: &Profile, place: Place| profile.of_objects(|object| Place::of(object) == place);
    for (at, (variant, counts)) in variants.iter().zip(counted).enumerate() {
        let _ = write!(out, "| {} | {} |", variant.title, counts.total.show(0));
        if at == base {
            let _ = writeln!(out, " | | | | |");
            continue;
        }
        let _ = write!(out, " {:+.0} |", counts.total.median - counted[base].total.median);
        for place in [Place::Plugin, Place::Generated, Place::Library, Place::Server] {
            let _ = write!(out, " {:+.0} |", part(&counts.profile, place) - part(&counted[base].profile, place));
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out);
    for (variant, counts) in variants.iter().zip(counted) {
        // One profile says enough, unless others were asked for.
        if variant.is_ours() && (variant.key == "headers" || args.only.iter().any(|key| key == variant.key)) {
            profile(out, variant, &counts.profile, &counted[base].profile);
        }
    }
}

/// Where our instructions go.
fn profile(out: &mut String, variant: &Variant, profile: &Profile, base: &Profile) {
    let _ = writeln!(out, "Where they go, {}: functions by their own instructions beyond no plugin.\n", variant.title);
    let _ = writeln!(out, "| instructions | where | function |\n| --: | --- | --- |");
    let mut beyond: BTreeMap<&Function, f64> = BTreeMap::new();
    for (function, cost) in &profile.own {
        *beyond.entry(function).or_default() += cost;
    }
    for (function, cost) in &base.own {
        *beyond.entry(function).or_default() -= cost;
    }
    let mut beyond: Vec<_> = beyond.into_iter().collect();
    beyond.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (function, cost) in beyond.iter().take(TOP) {
        let _ = writeln!(out, "| {cost:.0} | {} | `{}` |", place(&function.object), short(&function.name));
    }
    let _ = writeln!(out, "\nWhat our code calls outside of itself, by instructions of the calls as a whole:\n");
    let _ = writeln!(out, "| calls | instructions | where | function |\n| --: | --: | --- | --- |");
    let mut calls: Vec<_> = profile
        .calls
        .iter()
        .filter(|((from, to), _)| from == "wasm_remap.so" && to.object != "wasm_remap.so" && !to.object.is_empty())
        .collect();
    calls.sort_by(|a, b| b.1.cost.total_cmp(&a.1.cost));
    for ((_, to), calls) in calls.iter().take(TOP).filter(|(_, calls)| calls.count >= 0.1) {
        let _ =
            writeln!(out, "| {:.1} | {:.0} | {} | `{}` |", calls.count, calls.cost, place(&to.object), short(&to.name));
    }
    let _ = writeln!(out);
}

fn place(object: &str) -> &str {
    if object.is_empty() { "guest" } else { object }
}

/// A function's name without its parameters and the hash of its crate.
fn short(name: &str) -> String {
    let mut name = name.split("::h").next().filter(|head| name.len() == head.len() + 19).unwrap_or(name);
    if let Some((head, _)) = name.split_once("'2") {
        name = head;
    }
    let name = match name.find('(') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    };
    let mut short: String = name.chars().take(100).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short.replace('|', "\\|")
}

/// Whether ours is no further from no plugin than header_rewrite is, plus an allowance.
///
/// # Errors
/// The same figures, if it is further, or if the A/A control is off by more than the allowance, so that nothing is
/// proved; or what is missing.
pub(crate) fn check(variants: &[Variant], timed: Option<&Timed>) -> Result<String, String> {
    let timed = timed.ok_or("nothing was timed")?;
    let position = |key| find(variants, key).ok_or(format!("{key} was not measured"));
    let base = position(BASE)?;
    let (control, rewrite, ours) = (position("control")?, position("header_rewrite")?, position("headers")?);
    let rate = |at| Spread::of(timed.pairs(at, base, |turn, base| turn.rate / base.rate));
    let cpu = |at| Spread::of(timed.pairs(at, base, |turn, base| turn.cpu - base.cpu));
    let bar = rate(rewrite).median - ALLOWANCE;
    let line = format!(
        "requests/s of no plugin, medians of {} rounds: ours {}, header_rewrite {}, so the bar is {bar:.3}; no plugin \
         again {}. CPU beyond no plugin, µs/request: ours {}, header_rewrite {}, no plugin again {}",
        timed.rounds.len(),
        rate(ours).show(3),
        rate(rewrite).show(3),
        rate(control).show(3),
        cpu(ours).show_signed(2),
        cpu(rewrite).show_signed(2),
        cpu(control).show_signed(2),
    );
    if (rate(control).median - 1.0).abs() > ALLOWANCE {
        return Err(format!("too noisy a machine to tell: {line}"));
    }
    if rate(ours).median >= bar { Ok(line) } else { Err(line) }
}

/// Puts the text into a file, between the markers of `section`; a file that has none, or is none yet, gets them at its
/// end.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn write(path: &Path, section: &str, text: &str) -> io::Result<()> {
    let old = match fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => "# Performance\n".to_owned(),
        Err(error) => return Err(error),
    };
    fs::write(path, insert(&old, section, text))
}

fn insert(old: &str, section: &str, text: &str) -> String {
    let text = text.trim_end();
    let begin = format!("<!-- {section}: begin; `ats-bench --write` replaces what follows -->");
    let end = format!("<!-- {section}: end -->");
    match old.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1))) {
        Some((head, tail)) => format!("{head}{begin}\n\n{text}\n\n{end}{tail}"),
        None => format!("{}\n\n{begin}\n\n{text}\n\n{end}\n", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Turn;
    use crate::variants::choose;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let begin = "<!-- ats-bench: begin; `ats-bench --write` replaces what follows -->";
        let end = "<!-- ats-bench: end -->";
        let first = insert("# Performance\n\nBy hand.\n", SMALL, "one\n");
        assert_eq!(first, format!("# Performance\n\nBy hand.\n\n{begin}\n\none\n\n{end}\n"));
        let second = insert(&format!("{first}\nAfter.\n"), SMALL, "two");
        assert_eq!(second, format!("# Performance\n\nBy hand.\n\n{begin}\n\ntwo\n\n{end}\n\nAfter.\n"));
        let third = insert(&second, LARGE, "three");
        assert!(third.starts_with(second.trim_end()) && third.contains("\n\nthree\n\n<!-- ats-bench bodies: end"));
    }

    #[test]
    fn the_bar_is_header_rewrite_and_three_percent() {
        let only = ["control", "header_rewrite", "headers"].map(str::to_owned);
        let (variants, skipped) = choose(&only);
        assert!(skipped.is_empty(), "{skipped:?}");
        let turn = |rate| Turn { rate, cpu: 1.0, p50: 1.0, p99: 1.0 };
        let timed = |control, ours| Timed { rounds: vec![[100.0, control, 95.0, ours].map(turn).to_vec()] };
        assert!(check(&variants, Some(&timed(101.0, 92.1))).is_ok());
        let line = check(&variants, Some(&timed(101.0, 91.0))).unwrap_err();
        assert!(line.contains("ours 0.910") && line.contains("header_rewrite 0.950"), "{line}");
        let line = check(&variants, Some(&timed(104.0, 95.0))).unwrap_err();
        assert!(line.starts_with("too noisy"), "{line}");
        assert_eq!(check(&variants[..2], Some(&timed(1.0, 1.0))).unwrap_err(), "header_rewrite was not measured");
    }

    #[test]
    fn names_are_shortened() {
        assert_eq!(short("<a::B as c::D>::run::h0123456789abcdef"), "<a::B as c::D>::run");
        assert_eq!(short("HttpSM::state_api_callout(int, void*)"), "HttpSM::state_api_callout");
        assert_eq!(short("a::helper"), "a::helper");
    }
}
