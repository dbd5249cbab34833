//! The tables, and the verdict.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::site::{CONTROL, LUA, NONE, NULL};
use super::{BARRED, CONNECTIONS, Counted, Source, TURN, Timed, Turn, WAYS};
use crate::callgrind::Profile;
use crate::machine::Machine;
use crate::plot::{Chart, Point, Series};
use crate::stats::Spread;

/// What of an identity transform's speed rewriting must have.
pub(crate) const BAR: f64 = 0.9;
/// What two rules with no plugin may differ by in a run that proves anything.
const NOISE: f64 = 0.05;

/// Everything that was measured, as Markdown.
pub(crate) fn markdown(machine: &Machine, timed: &[Timed], counted: &[Counted]) -> String {
    let mut out = String::new();
    let Machine { cpu, cores, ats, load, .. } = machine;
    let _ = writeln!(out, "Machine: {cpu}, {cores} cores; {ats}; load average when the run began: {load}.\n");
    if let Some(first) = timed.first() {
        let _ = writeln!(
            out,
            "Turns of {} ms with {CONNECTIONS} connections, {} rounds; medians, least and greatest in parentheses. \
             Speeds compare responses a second within a round; CPU is the server's, in microseconds a response. The \
             bar is {BAR} of the null transform, and Lua's, at {} and {}.\n",
            TURN.as_millis(),
            first.rounds.len(),
            size_name(BARRED[0]),
            size_name(BARRED[1]),
        );
    }
    for timed in timed {
        times(&mut out, timed);
    }
    if timed.iter().any(|timed| timed.source == Source::Origin) {
        out.push_str("![from the cache](plots/rewrite-cache.svg)\n\n![from the origin](plots/rewrite-origin.svg)\n\n");
    }
    for source in [Source::Cache, Source::Origin] {
        slopes(&mut out, timed, source);
    }
    if !counted.is_empty() {
        instructions(&mut out, counted);
    }
    out
}

pub(crate) fn size_name(size: usize) -> String {
    if size < 1 << 20 { format!("{} KB", size >> 10) } else { format!("{} MB", size >> 20) }
}

fn times(out: &mut String, timed: &Timed) {
    let size = timed.size;
    let _ = writeln!(out, "{} from the {}:\n", size_name(size), timed.source.as_str());
    let _ = writeln!(
        out,
        "| | responses/s | MB/s | CPU µs | of no plugin | of the null transform | by CPU | of Lua |\n\
         | --- | --: | --: | --: | --: | --: | --: | --: |"
    );
    for (at, way) in WAYS.iter().enumerate() {
        let rate = timed.spread(at, |turn| turn.rate).median;
        let cpu = timed.spread(at, |turn| turn.cpu).show(1);
        let speed = |base: Option<usize>| match base.filter(|&base| base != at) {
            Some(base) => timed.against(at, base, speed).show(2),
            None => String::new(),
        };
        let by_cpu = way.null.map(|null| timed.against(at, null, by_cpu).show(2)).unwrap_or_default();
        let _ = writeln!(
            out,
            "| {} | {rate:.0} | {:.0} | {cpu} | {} | {} | {by_cpu} | {} |",
            way.title,
            rate * size as f64 / f64::from(1 << 20),
            speed(Some(NONE)),
            speed(way.null),
            speed(Some(LUA).filter(|_| way.null.is_some())),
        );
    }
    let _ = writeln!(out);
}

fn speed(turn: &Turn, base: &Turn) -> f64 {
    turn.rate / base.rate
}

fn by_cpu(turn: &Turn, base: &Turn) -> f64 {
    base.cpu / turn.cpu
}

/// What each further MB takes, between two sizes that were measured.
pub(crate) fn slope(timed: &[Timed], source: Source, way: usize, from: usize, to: usize) -> Option<Spread> {
    let of = |size| timed.iter().find(|timed| timed.source == source && timed.size == size);
    let (small, large) = (of(from)?, of(to)?);
    let megabytes = (to - from) as f64 / f64::from(1 << 20);
    let pairs = small.rounds.iter().zip(&large.rounds);
    Some(Spread::of(pairs.map(|(small, large)| (large[way].cpu - small[way].cpu) / megabytes)))
}

fn slopes(out: &mut String, timed: &[Timed], source: Source) {
    const STEPS: [(usize, usize); 2] = [(10 << 10, 1 << 20), (1 << 20, 10 << 20)];
    let known: Vec<_> =
        STEPS.into_iter().filter(|&(from, to)| slope(timed, source, NONE, from, to).is_some()).collect();
    if known.is_empty() {
        return;
    }
    let _ = writeln!(out, "What a MB from the {} takes, in µs of the server's processor time:\n", source.as_str());
    let head: Vec<String> =
        known.iter().map(|&(from, to)| format!("{} to {}", size_name(from), size_name(to))).collect();
    let _ = writeln!(out, "| | {} |\n| --- |{}", head.join(" | "), " --: |".repeat(head.len()));
    for (at, way) in WAYS.iter().enumerate() {
        let cells: Vec<String> =
            known.iter().filter_map(|&(from, to)| Some(slope(timed, source, at, from, to)?.show(0))).collect();
        let _ = writeln!(out, "| {} | {} |", way.title, cells.join(" | "));
    }
    let _ = writeln!(out);
}

/// The instructions of a profile in the plugin, in generated code, in the C library and in the rest.
const PARTS: [fn(&Profile) -> f64; 4] = [
    |profile| profile.of_objects(is_plugin),
    |profile| profile.of_objects(str::is_empty),
    |profile| profile.of_objects(is_library),
    |profile| profile.of_objects(|object| !is_plugin(object) && !object.is_empty() && !is_library(object)),
];

fn is_plugin(object: &str) -> bool {
    matches!(object, "wasm_remap.so" | "tslua.so") || object.starts_with("libluajit")
}

fn is_library(object: &str) -> bool {
    ["libc.", "ld-linux", "libm."].iter().any(|name| object.starts_with(name))
}

fn instructions(out: &mut String, counted: &[Counted]) {
    let _ = writeln!(
        out,
        "Instructions of the event thread a response from the cache (callgrind, one connection), and what there is \
         beyond the null transform: in the plugin (LuaJIT's interpreter included), in code made at run time (WebAssembly), in \
         the C library, in Traffic Server and other plugins. A large copy counts as an instruction a byte; the kernel is \
         not counted.\n"
    );
    for size in BARRED {
        let _ = writeln!(
            out,
            "| {} | instructions | beyond null | plugin | generated code | C library | Traffic Server |\n\
             | --- | --: | --: | --: | --: | --: | --: |",
            size_name(size)
        );
        let Some(null) = counted.iter().find(|counts| counts.size == size && counts.way == NULL) else { continue };
        for counts in counted.iter().filter(|counts| counts.size == size) {
            let total = counts.profile.total();
            let _ = write!(out, "| {} | {total:.0} | {:+.0} |", WAYS[counts.way].title, total - null.profile.total());
            for part in PARTS {
                let _ = write!(out, " {:+.0} |", part(&counts.profile) - part(&null.profile));
            }
            let _ = writeln!(out);
        }
        let _ = writeln!(out);
    }
}

/// Writes the plots into a folder: the speed of the null transform's, over the size of bodies.
///
/// # Errors
/// One cannot be written.
pub(crate) fn plot(folder: &Path, timed: &[Timed]) -> io::Result<()> {
    for source in [Source::Cache, Source::Origin] {
        let of_source: Vec<&Timed> = timed.iter().filter(|timed| timed.source == source).collect();
        if of_source.len() < 3 {
            continue;
        }
        let series = WAYS.iter().enumerate().filter(|(_, way)| way.null == Some(NULL));
        let series = series.map(|(at, way)| Series {
            name: way.title.to_owned(),
            points: of_source
                .iter()
                .map(|timed| {
                    let Spread { median, min, max, .. } = timed.against(at, NULL, speed);
                    Point { x: timed.size as f64 / 1024.0, y: median, least: min, greatest: max }
                })
                .collect(),
        });
        let chart = Chart {
            title: format!("Bodies from the {}, every byte rewritten", source.as_str()),
            x: "KB of body".to_owned(),
            y: "responses/s, of a null transform's".to_owned(),
            log_x: true,
            series: series.collect(),
        };
        chart.write(&folder.join(format!("rewrite-{}.svg", source.as_str())))?;
    }
    Ok(())
}

/// Whether rewriting has the speed that it must have.
///
/// # Errors
/// The same figures, if it does not, or if the run proves nothing.
pub(crate) fn check(timed: &[Timed]) -> Result<String, String> {
    let (mut lines, mut passed) = (Vec::new(), true);
    for timed in timed.iter().filter(|timed| timed.source == Source::Cache && BARRED.contains(&timed.size)) {
        let control = timed.against(CONTROL, NONE, speed);
        if (control.median - 1.0).abs() > NOISE {
            let size = size_name(timed.size);
            return Err(format!("too noisy a machine to tell: {size}: no plugin again {}", control.show(2)));
        }
        for (at, way) in WAYS.iter().enumerate().filter(|(_, way)| way.judged) {
            let Some(null) = way.null else { continue };
            let (of_null, of_lua) = (timed.against(at, null, speed), timed.against(at, LUA, speed));
            passed &= of_null.median >= BAR && of_lua.median >= 1.0;
            lines.push(format!(
                "{}, {}: {} of the null transform, by CPU {}, {} of Lua",
                size_name(timed.size),
                way.title,
                of_null.show(2),
                timed.against(at, null, by_cpu).show(2),
                of_lua.show(2)
            ));
        }
    }
    if lines.is_empty() {
        return Err("nothing was timed".to_owned());
    }
    let line = format!("bodies rewritten, at least {BAR} and 1: {}", lines.join("; "));
    if passed { Ok(line) } else { Err(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(size: usize, change: impl Fn(&mut Vec<Turn>)) -> Timed {
        let mut round = vec![Turn { rate: 1000.0, cpu: 1000.0 }; WAYS.len()];
        change(&mut round);
        Timed { source: Source::Cache, size, rounds: vec![round] }
    }

    #[test]
    fn both_bars_are_held() {
        assert!(check(&[]).is_err());
        assert!(check(&[timed(BARRED[0], |_| {})]).is_ok());
        let judged: Vec<usize> = (0..WAYS.len()).filter(|&at| WAYS[at].judged).collect();
        assert_eq!(judged.len(), 2);
        for at in judged {
            let line = check(&[timed(BARRED[1], |round| round[at].rate = 899.0)]).unwrap_err();
            assert!(line.contains("1 MB") && line.contains("0.90 (0.90–0.90) of the null"), "{line}");
            // Fast enough for the one, and slower than Lua.
            assert!(check(&[timed(BARRED[1], |round| round[at].rate = 950.0)]).is_err());
            assert!(check(&[timed(BARRED[1], |round| (round[at].rate, round[LUA].rate) = (950.0, 900.0))]).is_ok());
        }
        let line = check(&[timed(BARRED[0], |round| round[CONTROL].rate = 1060.0)]).unwrap_err();
        assert!(line.starts_with("too noisy"), "{line}");
    }

    #[test]
    fn a_slope_is_what_a_megabyte_more_takes() {
        let small = timed(1 << 20, |round| round[NONE].cpu = 500.0);
        let large = timed(10 << 20, |round| round[NONE].cpu = 2300.0);
        let timed = [small, large];
        assert_eq!(slope(&timed, Source::Cache, NONE, 1 << 20, 10 << 20).unwrap().median, 200.0);
        assert!(slope(&timed, Source::Origin, NONE, 1 << 20, 10 << 20).is_none());
        assert!(markdown(&Machine::here(), &timed, &[]).contains("| no plugin | 200 (200–200) |"));
    }
}
