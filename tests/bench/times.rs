//! The table and the plots of what [`rounds`](crate::rounds) measured.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::args::Args;
use crate::bars::Verdict;
use crate::machine::Machine;
use crate::plot::{Bar, Bars};
use crate::rounds::{CONNECTIONS, Timed};
use crate::stats::Spread;
use crate::variants::{Often, Variant, find};

/// The table.
pub(crate) fn markdown(out: &mut String, args: &Args, machine: &Machine, variants: &[Variant], timed: &Timed) {
    let pinned = if machine.pins() { "each on a core of its own" } else { "on one core" };
    let Args { starts, rounds, seconds, .. } = args;
    let _ = writeln!(
        out,
        "Answers of 100 bytes, keep-alive: one ET_NET thread and `wrk -t1 -c{CONNECTIONS}`, {pinned}; {starts} starts of all \
         servers with {rounds} rounds each, {seconds} s a turn; variants marked ˣ have one in each third round. Medians; in \
         parentheses the least and the greatest. \"Of no plugin\" and \"beyond\" compare with the same requests without a \
         plugin, within a round. CPU is the server's user and system time.\n"
    );
    let _ = writeln!(
        out,
        "| | requests/s | of no plugin | CPU µs/request | beyond no plugin, µs | p50 µs | p99 µs |\n\
         | --- | --: | --: | --: | --: | --: | --: |"
    );
    for row in rows(variants, timed) {
        let Row { variant, ratio, beyond, .. } = row;
        let middle = |figure: fn(&crate::rounds::Turn) -> f64| Spread::of(timed.figures(row.at, figure)).median;
        let (ratio, beyond) = if variant.base == variant.key {
            ("1".to_owned(), String::new())
        } else {
            (ratio.show(3), beyond.show_signed(2))
        };
        let _ = writeln!(
            out,
            "| {}{} | {:.0} | {ratio} | {:.2} | {beyond} | {:.0} | {:.0} |",
            variant.title,
            if variant.often == Often::Seldom { " ˣ" } else { "" },
            middle(|turn| turn.rate),
            middle(|turn| turn.cpu),
            middle(|turn| turn.p50),
            middle(|turn| turn.p99),
        );
    }
    out.push('\n');
    if is_whole(args) {
        out.push_str(
            "![requests a second](plots/requests.svg)\n\n![processor time beyond no plugin](plots/cpu.svg)\n\n",
        );
    }
}

/// Whether all variants were measured, so that the plots are of all.
fn is_whole(args: &Args) -> bool {
    args.only.is_empty()
}

/// Writes the plots into a folder, if all variants were measured.
///
/// # Errors
/// One cannot be written.
pub(crate) fn plot(folder: &Path, args: &Args, variants: &[Variant], timed: &Timed) -> io::Result<()> {
    if !is_whole(args) {
        return Ok(());
    }
    let bars = |pick: fn(&Row<'_>) -> Spread| {
        let rows = rows(variants, timed).filter(|row| row.variant.base != row.variant.key);
        let bar = |row: Row<'_>| {
            let spread = pick(&row);
            Bar { name: row.variant.title.to_owned(), value: spread.median, least: spread.low, greatest: spread.high }
        };
        rows.map(bar).collect()
    };
    Bars {
        title: "Requests a second, of the same without a plugin".to_owned(),
        x: "no plugin = 1; intervals of the medians (95 %)".to_owned(),
        mark: Some(("bar: 0.95".to_owned(), 0.95)),
        bars: bars(|row| row.ratio),
    }
    .write(&folder.join("requests.svg"))?;
    Bars {
        title: "Processor time beyond the same without a plugin".to_owned(),
        x: "µs a request; intervals of the medians (95 %)".to_owned(),
        mark: None,
        bars: bars(|row| row.beyond),
    }
    .write(&folder.join("cpu.svg"))
}

struct Row<'a> {
    at: usize,
    variant: &'a Variant,
    /// Requests a second, of its base's.
    ratio: Spread,
    /// Processor time beyond its base's.
    beyond: Spread,
}

/// Those that were timed.
fn rows<'a>(variants: &'a [Variant], timed: &'a Timed) -> impl Iterator<Item = Row<'a>> {
    variants.iter().enumerate().filter_map(|(at, variant)| {
        let base = find(variants, variant.base)?;
        let ratios = timed.pairs(at, base, |turn, base| turn.rate / base.rate);
        let beyond = timed.pairs(at, base, |turn, base| turn.cpu - base.cpu);
        (!ratios.is_empty()).then(|| Row { at, variant, ratio: Spread::of(ratios), beyond: Spread::of(beyond) })
    })
}

/// What became of the bars, as a table.
pub(crate) fn bars(verdicts: &[Verdict]) -> String {
    let mut out = "| bar | of this run |\n| --- | --- |\n".to_owned();
    for (word, figures) in verdicts.iter().map(Verdict::cells) {
        let _ = writeln!(out, "| {word} | {figures} |");
    }
    out
}
