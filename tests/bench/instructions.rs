//! The tables and the plots of what [`callgrind`](crate::callgrind) counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::args::Args;
use crate::callgrind::{Counted, Function, Profile};
use crate::plot::{Bar, Bars, Chart, Point, Series};
use crate::stats::Spread;
use crate::variants::{BASE, Variant, find};

/// Functions and calls that are shown.
const TOP: usize = 30;
/// Our chains, by the number of their filters.
const CHAINS: [(f64, &str); 5] = [(0.0, BASE), (1.0, "headers"), (2.0, "chain2"), (5.0, "chain5"), (10.0, "chain10")];

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

/// Instructions beyond the same without a plugin: the median, and the least and the greatest that parts of the runs allow.
pub(crate) fn beyond(variants: &[Variant], counted: &[Counted], at: usize) -> Spread {
    let base = find(variants, variants[at].base).expect("what is compared with was counted");
    let (ours, base) = (&counted[at].total, &counted[base].total);
    Spread::of([ours.min - base.median, ours.median - base.median, ours.max - base.median])
}

/// The tables.
pub(crate) fn markdown(out: &mut String, args: &Args, variants: &[Variant], counted: &[Counted]) {
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
    let part = |profile: &Profile, place: Place| profile.of_objects(|object| Place::of(object) == place);
    for (at, (variant, counts)) in variants.iter().zip(counted).enumerate() {
        let _ = write!(out, "| {} | {} |", variant.title, counts.total.show(0));
        let base = find(variants, variant.base).expect("what is compared with was counted");
        if at == base {
            let _ = writeln!(out, " | | | | |");
            continue;
        }
        let _ = write!(out, " {:+.0} |", beyond(variants, counted, at).median);
        for place in [Place::Plugin, Place::Generated, Place::Library, Place::Server] {
            let _ = write!(out, " {:+.0} |", part(&counts.profile, place) - part(&counted[base].profile, place));
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out);
    growth(out, variants, counted);
    if args.only.is_empty() {
        out.push_str("![instructions beyond no plugin](plots/instructions.svg)\n\n![chains](plots/chain.svg)\n\n");
    }
    let base = find(variants, BASE).unwrap_or_default();
    for (variant, counts) in variants.iter().zip(counted) {
        // One profile says enough, unless others were asked for.
        if variant.is_ours() && (variant.key == "headers" || args.only.iter().any(|key| key == variant.key)) {
            profile(out, variant, &counts.profile, &counted[base].profile);
        }
    }
}

/// Instructions beyond no plugin of our chains that were counted, by the number of their filters.
fn chains(variants: &[Variant], counted: &[Counted]) -> Vec<(f64, Spread)> {
    let chain = |(filters, key): &(f64, &str)| Some((*filters, beyond(variants, counted, find(variants, key)?)));
    CHAINS.iter().filter_map(chain).collect()
}

/// What each further filter of a chain costs.
fn growth(out: &mut String, variants: &[Variant], counted: &[Counted]) {
    let chains = chains(variants, counted);
    let steps: Vec<String> = chains
        .windows(2)
        .map(|pair| {
            let [(from, less), (to, more)] = pair else { unreachable!("windows of two") };
            format!("{:.0} from {from:.0} to {to:.0}", (more.median - less.median) / (to - from))
        })
        .collect();
    if steps.len() > 1 {
        let _ =
            writeln!(out, "Instructions that each filter more adds to a chain of `headers`: {}.\n", steps.join(", "));
    }
}

/// Writes the plots into a folder, if all variants were counted.
///
/// # Errors
/// One cannot be written.
pub(crate) fn plot(folder: &Path, args: &Args, variants: &[Variant], counted: &[Counted]) -> io::Result<()> {
    if !args.only.is_empty() {
        return Ok(());
    }
    let others = variants.iter().enumerate().filter(|(_, variant)| variant.base != variant.key);
    let bars = others.map(|(at, variant)| {
        let Spread { median, min, max, .. } = beyond(variants, counted, at);
        Bar { name: variant.title.to_owned(), value: median, least: min, greatest: max }
    });
    Bars {
        title: "Instructions beyond the same without a plugin".to_owned(),
        x: "instructions of the event thread a request".to_owned(),
        mark: None,
        bars: bars.collect(),
    }
    .write(&folder.join("instructions.svg"))?;
    let point = |x: f64, spread: Spread| Point { x, y: spread.median, least: spread.min, greatest: spread.max };
    let mut series = vec![Series {
        name: "ours: `headers`, each setting a header".to_owned(),
        points: chains(variants, counted).into_iter().map(|(filters, spread)| point(filters, spread)).collect(),
    }];
    for (name, key) in [("Lua, one header", "lua"), ("header_rewrite, one header", "header_rewrite")] {
        let Some(at) = find(variants, key) else { continue };
        series.push(Series { name: name.to_owned(), points: vec![point(1.0, beyond(variants, counted, at))] });
    }
    Chart {
        title: "A chain's filters: instructions beyond no plugin".to_owned(),
        x: "filters".to_owned(),
        y: "instructions a request".to_owned(),
        log_x: false,
        series,
    }
    .write(&folder.join("chain.svg"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened() {
        assert_eq!(short("<a::B as c::D>::run::h0123456789abcdef"), "<a::B as c::D>::run");
        assert_eq!(short("HttpSM::state_api_callout(int, void*)"), "HttpSM::state_api_callout");
        assert_eq!(short("a::helper"), "a::helper");
    }
}
