//! The tables, and whether the bars are met.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use crate::args::Args;
use crate::cases::transactions::{C, EMPTY, LENGTHS, RUST, chain_of};
use crate::cases::{Group, bodies};
use crate::loading::{CACHED, Line, REBUILT};
use crate::memory::Idle;
use crate::rounds::{Timed, plan};
use crate::threads::Shared;

/// Everything that was measured by the clock.
pub(crate) struct Report {
    pub(crate) timed: Vec<Timed>,
    pub(crate) threads: Vec<Shared>,
    pub(crate) loading: Vec<Line>,
    pub(crate) memory: Option<Idle>,
}

/// A promise of docs/performance.md.
struct Bar {
    what: String,
    unit: &'static str,
    /// `None`: it was not measured.
    measured: Option<f64>,
    most: f64,
}

impl Report {
    fn find(&self, name: &str) -> Option<&Timed> {
        self.timed.iter().find(|timed| timed.name == name)
    }

    /// A case in empty calls: the median of what each round says.
    fn ratio(&self, name: &str) -> Option<f64> {
        Some(self.against(self.find(name)?, EMPTY)?.median)
    }

    /// Rounds of a case against the same rounds of another.
    fn against(&self, timed: &Timed, unit: &str) -> Option<crate::stats::Spread> {
        let unit = self.find(unit)?;
        let pairs = timed.rounds.iter().zip(&unit.rounds);
        Some(crate::stats::Spread::of(pairs.map(|(time, unit)| time / unit)))
    }

    /// What each further filter of a chain costs, of what the first one does: the median of what each round says.
    fn further(&self, filter: &str, length: usize) -> Option<crate::stats::Spread> {
        let (first, chain) = (self.find(filter)?, self.find(&chain_of(filter, length))?);
        let pairs = first.rounds.iter().zip(&chain.rounds);
        let further = (length - 1) as f64;
        Some(crate::stats::Spread::of(pairs.map(|(first, chain)| (chain - first) / further / first)))
    }

    fn bars(&self) -> Vec<Bar> {
        let calls = "empty calls";
        let bar = |what: &str, unit, measured, most| Bar { what: what.to_owned(), unit, measured, most };
        let mut bars = vec![
            bar(&format!("{RUST}, whole transaction"), calls, self.ratio(RUST), 30.0),
            bar(&format!("{C}, whole transaction"), calls, self.ratio(C), 18.0),
        ];
        for filter in [RUST, C] {
            for length in LENGTHS.into_iter().filter(|&length| length > 1) {
                let measured = self.further(filter, length).map(|spread| spread.median);
                bars.push(bar(
                    &format!("{filter}, each further one in a chain of {length}"),
                    "of the first",
                    measured,
                    1.0,
                ));
            }
        }
        let line = |name: &str| self.loading.iter().find(|line| line.name == name).map(|line| line.time.median);
        bars.push(bar(REBUILT, "µs", line(REBUILT), 50.0));
        bars.push(bar(CACHED, "µs", line(CACHED), 1000.0));
        let idle = self.memory.as_ref().map(|idle| idle.own.median);
        bars.push(bar("an idle VM of the Rust-SDK filter", "KiB", idle, 48.0));
        bars
    }

    /// # Errors
    /// The same lines, if a bar is missed or what it is about was not measured.
    pub(crate) fn check(&self) -> Result<String, String> {
        let mut lines = String::new();
        let mut met = true;
        for Bar { what, unit, measured, most } in self.bars() {
            let verdict = match measured {
                Some(measured) if measured <= most => format!("{measured:.2} {unit}: met"),
                Some(measured) => format!("{measured:.2} {unit}: MISSED"),
                None => "NOT MEASURED".to_owned(),
            };
            met &= verdict.ends_with("met");
            let _ = writeln!(lines, "bar: {what}: at most {most} {unit}; {verdict}");
        }
        if met { Ok(lines) } else { Err(lines) }
    }

    pub(crate) fn markdown(&self, args: &Args) -> String {
        let mut out = String::new();
        let (rounds, turn) = plan(args);
        let _ = writeln!(
            out,
            "Machine: {}. {rounds} rounds, in each of which every case has a turn of {} ms; medians, least and greatest in \
             parentheses. Ratios compare within a round.\n",
            machine(),
            turn.as_millis()
        );
        self.table(&mut out, Group::Transactions, "transaction");
        self.chains(&mut out);
        self.table(&mut out, Group::Hostcalls, "hostcall, of 1000 in one callback");
        self.table(&mut out, Group::Bodies, "transaction with a response body");
        self.slopes(&mut out);
        if !self.threads.is_empty() {
            let _ = writeln!(out, "| | ns, one thread | done by two threads of what one does |\n| --- | --: | --: |");
            for Shared { name, alone, together } in &self.threads {
                let _ = writeln!(out, "| {name} | {} | {} |", alone.show(1), together.show(2));
            }
            let _ = writeln!(out);
        }
        if !self.loading.is_empty() {
            let _ = writeln!(out, "| | µs |\n| --- | --: |");
            for Line { name, time } in &self.loading {
                let _ = writeln!(out, "| {name} | {} |", time.show(0));
            }
            let _ = writeln!(out);
        }
        if let Some(Idle { own, resident }) = &self.memory {
            let _ = writeln!(out, "| an idle VM of the Rust-SDK filter, page tables included | KiB |\n| --- | --: |");
            let _ = writeln!(out, "| of its own, and its share of what it has with others | {} |", own.show(1));
            let _ = writeln!(out, "| resident, what it has with others counted in full | {} |", resident.show(1));
            let _ = writeln!(out);
        }
        let _ = writeln!(out, "| bar | at most | measured |\n| --- | --: | --: |");
        for Bar { what, unit, measured, most } in self.bars() {
            let measured = measured.map_or("not measured".to_owned(), |measured| format!("{measured:.2}"));
            let _ = writeln!(out, "| {what} | {most} {unit} | {measured} |");
        }
        out
    }

    fn table(&self, out: &mut String, group: Group, heading: &str) {
        let mut cases = self.timed.iter().filter(|timed| timed.group == group).peekable();
        if cases.peek().is_none() {
            return;
        }
        let _ = writeln!(out, "| {heading} | ns | in empty calls |\n| --- | --: | --: |");
        for timed in cases {
            let ratio = self.against(timed, EMPTY).map(|spread| spread.show(2)).unwrap_or_default();
            let _ = writeln!(out, "| {} | {} | {ratio} |", timed.name, timed.spread().show(1));
        }
        let _ = writeln!(out);
    }

    fn chains(&self, out: &mut String) {
        let mut lines = String::new();
        for filter in [RUST, C] {
            for length in LENGTHS.into_iter().filter(|&length| length > 1) {
                if let Some(further) = self.further(filter, length) {
                    let _ = writeln!(lines, "| {} | {} |", chain_of(filter, length), further.show(2));
                }
            }
        }
        if !lines.is_empty() {
            let _ = writeln!(out, "| each further filter of a chain | of the first one |\n| --- | --: |\n{lines}");
        }
    }

    fn slopes(&self, out: &mut String) {
        let mut lines = String::new();
        let [(small, small_chunk, _), .., (large, chunk, chunks)] = bodies::SIZES;
        let mib = (chunk * chunks - small_chunk) as f64 / f64::from(1 << 20);
        for (deed, _) in bodies::DEEDS {
            let case = |size| self.find(&bodies::name(size, deed)).map(|timed| timed.spread().median);
            if let Some((small, large)) = case(small).zip(case(large)) {
                let _ = writeln!(lines, "| {deed} | {:.1} |", (large - small) / mib / 1e3);
            }
        }
        if !lines.is_empty() {
            let _ = writeln!(out, "| each MiB of a body | µs |\n| --- | --: |\n{lines}");
        }
    }
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Without what the builder of the kernel appended.
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('-').next().unwrap_or_default().trim().to_owned();
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{}, {cores} cores, kernel {kernel}; load average at the end: {load}",
        model.unwrap_or("unknown".to_owned())
    )
}

/// Puts the text between the markers of a file.
///
/// # Errors
/// The file cannot be read or written, or has no markers.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    const BEGIN: &str = "<!-- engine-bench: begin; `make bench` replaces what follows -->";
    const END: &str = "<!-- engine-bench: end -->";
    let old = fs::read_to_string(path)?;
    let parts = old.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = parts.ok_or_else(|| io::Error::other(format!("it has no lines {BEGIN} and {END}")))?;
    fs::write(path, format!("{head}{BEGIN}\n\n{}\n\n{END}{tail}", text.trim_end()))
}
