//! The tables and plots of scale, with their slopes.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::{KEYS, MODULES, Measured, Pair, RELOADED, RULES, Requests, Round, SOME, Start, THREADS};
use crate::machine::Machine;
use crate::plot::{Chart, Point, Series};
use crate::stats::Spread;

/// What one more idle VM of a Rust-SDK filter may take, page tables included.
const VM_BAR: f64 = 48.0;
/// What one more rule may take beyond ATS's own, what the guest keeps for it included.
const RULE_BAR: f64 = 2.75;

type Figure = fn(&Start) -> f64;

const CPU: Figure = |start| start.cpu_ms;
const MEMORY: Figure = |start| start.kib;

impl Measured {
    fn spread(&self, of: impl Fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(of))
    }

    fn asked(&self, of: impl Fn(&[Requests; 2]) -> f64) -> Spread {
        Spread::of(self.requests.iter().map(of))
    }

    /// What one more of what is counted costs, between two counts next to each other.
    fn slope<T: Copy + Into<f64>>(&self, counts: &[T], at: usize, of: impl Fn(&Round, usize) -> f64) -> Option<Spread> {
        let before = at.checked_sub(1)?;
        let more = counts[at].into() - counts[before].into();
        Some(self.spread(|round| (of(round, at) - of(round, before)) / more))
    }

    /// KiB that one more VM takes, with so many threads.
    fn vm(&self, at: usize) -> Spread {
        let vms = (KEYS - 1) as f64 * f64::from(THREADS[at]);
        self.spread(|round| (round.keys[at][1].kib - round.keys[at][0].kib) / vms)
    }
}

fn show(spread: Option<Spread>, decimals: usize) -> String {
    spread.map(|spread| spread.show(decimals)).unwrap_or_default()
}

fn counts(list: &[usize]) -> Vec<f64> {
    list.iter().map(|&count| count as f64).collect()
}

/// The tables.
pub(crate) fn markdown(machine: &Machine, measured: &Measured) -> String {
    let mut out = String::new();
    let Machine { cpu, cores, ats, load, .. } = machine;
    let _ = writeln!(
        out,
        "Machine: {cpu}, {cores} cores; {ats}; load average when the run began: {load}. {} rounds of starts; medians, least \
         and greatest in parentheses. *Beyond*: beyond as many rules without the plugin. *Each further*: the difference from the \
         row above, by the number of what was added; the guests' own memory is in it.\n",
        measured.rounds.len()
    );
    let _ = writeln!(out, "![Memory by rules](plots/scale-memory.svg)\n");
    let _ = writeln!(out, "![Processor time of a start by rules](plots/scale-start.svg)\n");
    let _ = writeln!(out, "One module, 2 event threads, a file and a configuration for each rule:\n");
    let heads = "beyond: processor time, ms | each further, µs | beyond: memory, KiB | each further, KiB";
    let _ = writeln!(out, "| rules | without: ms until loaded | with | {heads} |");
    let _ = writeln!(out, "| --: | --: | --: | --: | --: | --: | --: |");
    table(&mut out, measured, &counts(&RULES), |round| &round.rules);
    let _ = writeln!(
        out,
        "\n{SOME} rules, and so many modules of 240 KB, whose code is in the cache (the first start with {} took {:.0} ms of \
        processor time more, for the compiler):\n",
        MODULES[MODULES.len() - 1],
        measured.compile_ms
    );
    let _ = writeln!(out, "| modules | without: ms until loaded | with | {heads} |");
    let _ = writeln!(out, "| --: | --: | --: | --: | --: | --: | --: |");
    table(&mut out, measured, &counts(&MODULES), |round| &round.modules);
    let _ = writeln!(
        out,
        "\n{SOME} rules, one module, and so many event threads, each with a VM and {SOME} plugin contexts in it:\n"
    );
    let _ = writeln!(out, "| threads | without: ms until loaded | with | {heads} |");
    let _ = writeln!(out, "| --: | --: | --: | --: | --: | --: | --: |");
    table(&mut out, measured, &THREADS.map(f64::from), |round| &round.threads);
    let _ = writeln!(out, "\n{}", vms(measured));
    let _ = writeln!(out, "{}", reloads(measured));
    out + &requests(measured)
}

fn table(out: &mut String, measured: &Measured, counts: &[f64], pairs: impl Fn(&Round) -> &[Pair]) {
    for (at, count) in counts.iter().enumerate() {
        let of = |figure: fn(&Pair) -> f64| measured.spread(|round| figure(&pairs(round)[at])).show(0);
        let beyond = |figure: Figure| measured.spread(|round| pairs(round)[at].beyond(figure)).show(0);
        let slope = |figure: Figure, factor: f64| {
            measured.slope(counts, at, |round, at| pairs(round)[at].beyond(figure) * factor)
        };
        let _ = writeln!(
            out,
            "| {count} | {} | {} | {} | {} | {} | {} |",
            of(|pair| pair.bare.wall_ms),
            of(|pair| pair.ours.wall_ms),
            beyond(CPU),
            show(slope(CPU, 1000.0), 0),
            beyond(MEMORY),
            show(slope(MEMORY, 1.0), 2)
        );
    }
}

fn vms(measured: &Measured) -> String {
    let mut out = format!(
        "One more idle VM of a header filter of the Rust SDK (`bench-headers`, with its plugin context), resident and page tables: \
         {KEYS} rules with a VM key each, beside the same rules with one key. The bar is {VM_BAR:.0} KiB.\n\n| threads | VMs more | KiB each |\n| --: | --: | --: |\n"
    );
    for (at, threads) in THREADS.iter().enumerate() {
        let _ = writeln!(out, "| {threads} | {} | {} |", (KEYS as u32 - 1) * threads, measured.vm(at).show(1));
    }
    out
}

fn reloads(measured: &Measured) -> String {
    let mut out = String::from(
        "A reload of ATS's, of rules whose files are what they were, and of rules whose files have all changed: our part of its \
         time by the clock, and memory behind it.\n\n| rules | unchanged, ms | a rule, µs | changed, ms | a rule, µs | memory before, KiB | \
         behind the first | behind the second |\n| --: | --: | --: | --: | --: | --: | --: | --: |\n",
    );
    for reload in &measured.reloads {
        let each = |ms: f64| ms * 1000.0 / reload.rules as f64;
        let _ = writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            reload.rules,
            reload.unchanged_ms,
            each(reload.unchanged_ms),
            reload.changed_ms,
            each(reload.changed_ms),
            reload.kib[0],
            reload.kib[1],
            reload.kib[2]
        );
    }
    debug_assert_eq!(measured.reloads.len(), RELOADED.len());
    out
}

fn requests(measured: &Measured) -> String {
    let most = RULES[RULES.len() - 1];
    let mut out = format!(
        "A cache hit on one connection, one event thread: processor time of the server a request, in µs, {} rounds. *Of the \
         first*: within a round. *In turn*: another rule with each request, so that what belongs to a rule is seldom in the \
         processor's caches.\n\n| | 1 rule | the last of {most} | of the first | {most} in turn | of the first |\n\
         | --- | --: | --: | --: | --: | --: |\n",
        measured.requests.len()
    );
    for (at, name) in ["no plugin", "ours (`headers`)"].into_iter().enumerate() {
        let of = |figure: fn(&Requests) -> f64| measured.asked(|turn| figure(&turn[at]));
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} | {} |",
            of(|asked| asked.one).show(1),
            of(|asked| asked.last).show(1),
            of(|asked| asked.last / asked.one).show(2),
            of(|asked| asked.all).show(1),
            of(|asked| asked.all / asked.one).show(2)
        );
    }
    let beyond =
        |figure: fn(&Requests) -> f64| measured.asked(|turn| figure(&turn[1]) - figure(&turn[0])).show_signed(1);
    let _ = writeln!(
        out,
        "| beyond no plugin | {} | {} | | {} | |",
        beyond(|asked| asked.one),
        beyond(|asked| asked.last),
        beyond(|asked| asked.all)
    );
    out
}

/// Draws the plots into a folder.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn draw(measured: &Measured, folder: &Path) -> io::Result<()> {
    let series = |name: &str, figure: &dyn Fn(&Pair) -> f64| {
        let point = |(at, &rules): (usize, &usize)| {
            let Spread { median, min, max, .. } = measured.spread(|round| figure(&round.rules[at]));
            Point { x: rules as f64, y: median, least: min, greatest: max }
        };
        Series { name: name.to_owned(), points: RULES.iter().enumerate().map(point).collect() }
    };
    let chart = |title: &str, y: &str, figure: Figure, factor: f64| Chart {
        title: title.to_owned(),
        x: "rules".to_owned(),
        y: y.to_owned(),
        log_x: false,
        series: vec![
            series("without the plugin", &|pair| figure(&pair.bare) * factor),
            series("with a filter for each rule", &|pair| figure(&pair.ours) * factor),
        ],
    };
    chart("Memory of a server, by rules", "MiB", MEMORY, 1.0 / 1024.0).write(&folder.join("scale-memory.svg"))?;
    chart("Processor time of a start, by rules", "ms", CPU, 1.0).write(&folder.join("scale-start.svg"))
}

/// Whether rules and VMs are as small as they are to be.
///
/// # Errors
/// The same figures, if they are not.
pub(crate) fn check(measured: &Measured) -> Result<String, String> {
    let last = RULES.len() - 1;
    let rule = measured.slope(&counts(&RULES), last, |round, at| round.rules[at].beyond(MEMORY));
    let rule = rule.ok_or("one count of rules has no slope")?;
    let vm = measured.vm(THREADS.len() - 1);
    let line = format!(
        "one more rule {} KiB beyond ATS's own, at most {RULE_BAR}; one more VM {} KiB, at most {VM_BAR}",
        rule.show(2),
        vm.show(1)
    );
    if rule.median <= RULE_BAR && vm.median <= VM_BAR { Ok(line) } else { Err(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start whose costs grow with rules, and VMs, as they are told.
    fn start(rules: f64, vms: f64, rule: f64, vm: f64) -> Start {
        Start { cpu_ms: 10.0 + rules * 0.1, wall_ms: 0.0, kib: 1000.0 + rules * rule + vms * vm }
    }

    fn measured(rule: f64, vm: f64) -> Measured {
        let pair = |rules: usize, vms: f64| {
            let rules = rules as f64;
            Pair { bare: start(rules, 0.0, 10.0, 0.0), ours: start(rules, vms, 10.0 + rule, vm) }
        };
        let round = Round {
            rules: RULES.iter().map(|&rules| pair(rules, 2.0)).collect(),
            modules: MODULES.iter().map(|&modules| pair(SOME, modules as f64 * 2.0)).collect(),
            threads: THREADS.iter().map(|&threads| pair(SOME, f64::from(threads))).collect(),
            keys: THREADS
                .iter()
                .map(|&threads| [1, KEYS].map(|keys| pair(KEYS, f64::from(threads) * keys as f64).ours))
                .collect(),
        };
        let reload =
            |&rules: &usize| super::super::Reload { rules, unchanged_ms: 5.0, changed_ms: 50.0, kib: [1.0, 2.0, 3.0] };
        let asked = Requests { one: 20.0, last: 21.0, all: 30.0 };
        Measured {
            rounds: vec![round.clone(), round],
            compile_ms: 100.0,
            reloads: RELOADED.iter().map(reload).collect(),
            requests: vec![[asked; 2]; 3],
        }
    }

    #[test]
    fn slopes_and_bars() {
        let line = check(&measured(1.5, 40.0)).unwrap();
        assert!(line.contains("one more rule 1.50 ") && line.contains("one more VM 40.0 "), "{line}");
        assert!(check(&measured(2.8, 40.0)).is_err());
        assert!(check(&measured(1.5, 48.5)).is_err());
        let measured = measured(1.5, 40.0);
        let text = markdown(&Machine::here(), &measured);
        for row in
            ["| 10000 |", "| 20 |", "| 8 | 792 | 40.0 (40.0–40.0) |", "| 1000 | 5 | 5 | 50 | 50 |", "1.05 (1.05–1.05)"]
        {
            assert!(text.contains(row), "{row} is missing:\n{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        draw(&measured, dir.path()).unwrap();
        assert!(dir.path().join("scale-memory.svg").is_file() && dir.path().join("scale-start.svg").is_file());
    }
}
