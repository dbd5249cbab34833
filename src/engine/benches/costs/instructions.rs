//! Instructions of every case, under callgrind, beside those of a baseline that is committed.
//!
//! One process runs all cases; callgrind collects within [`measured_part`] alone, on the thread that runs it, and dumps when
//! that returns. Each case is run so many times and three times as many: the difference is what the runs took, without what is
//! done once. Generated code and the C library choose by the processor's features, of which callgrind shows what it
//! can execute itself. So that the counts hold on other machines, the C library is told to use none beyond x86-64-v1,
//! and the features that generated code may use stand in the baseline: it serves for machines that have the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Args;
use crate::cases::transactions::ISOLATED;
use crate::cases::{self, Group, Run, guests};

/// How much more than in the baseline is a failure.
const ALLOWANCE: f64 = 0.03;
/// A difference of less is none: the last digit of a small count.
const LEAST: f64 = 1.0;

/// Of so many counts the least is taken: what happens now and then, such as the end of an epoch, can only add to one.
const TIMES: u32 = 6;

/// What glibc is not to use.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-ERMS,-FSRM,-SSE4_2,-SSE4_1,-SSSE3,-BMI1,-BMI2,-LZCNT,-MOVBE";

/// Marks a line of the counted process.
const CASE: &str = "case: ";
const FEATURES: &str = "features: ";

fn baseline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt")
}

/// Counts, and compares with the baseline or writes it.
///
/// # Errors
/// The cases that have more instructions than they may, or what keeps from counting.
pub(crate) fn run(args: &Args, write: bool) -> Result<(), String> {
    let counted = count(args)?;
    let old = if write { None } else { Some(Baseline::read(&baseline())?) };
    if let Some(old) = &old
        && old.features != counted.features
    {
        return Err(format!(
            "callgrind shows the features {} here, and the baseline is of a machine with {}: counts cannot be compared. \
             `--write-baseline` makes one for this machine, before a change",
            counted.features, old.features
        ));
    }
    println!("| case | instructions | baseline | |\n| --- | --: | --: | --: |");
    let mut worse = Vec::new();
    for (name, now) in &counted.cases {
        let then = old.as_ref().and_then(|old| old.cases.iter().find(|case| case.0 == *name)).map(|case| case.1);
        let Some(then) = then else {
            println!("| {name} | {now:.1} | | |");
            if old.is_some() {
                worse.push(format!("{name}: not in the baseline"));
            }
            continue;
        };
        let more = (now - then) / then.max(1.0);
        println!("| {name} | {now:.1} | {then:.1} | {:+.1} % |", more * 100.0);
        if more > ALLOWANCE && now - then > LEAST {
            worse.push(format!("{name}: {now:.1} instructions, {:.1} % more than {then:.1}", more * 100.0));
        }
    }
    let gone = old.iter().flat_map(|old| &old.cases).filter(|case| args.wants_case(&case.0));
    let gone = gone.filter(|case| counted.cases.iter().all(|now| now.0 != case.0));
    worse.extend(gone.map(|case| format!("{}: in the baseline, and not counted", case.0)));
    if write {
        if !args.only.is_empty() {
            return Err("a baseline has all cases: --write-baseline goes without --only".to_owned());
        }
        fs::write(baseline(), counted.text()).map_err(|error| format!("{}: {error}", baseline().display()))?;
    }
    if worse.is_empty() {
        return Ok(());
    }
    let allowed = ALLOWANCE * 100.0;
    Err(format!(
        "more than {allowed} % above {}; if that is meant: --write-baseline\n  {}",
        baseline().display(),
        worse.join("\n  ")
    ))
}

/// Cases with their instructions, in order, and what processor they are of.
struct Baseline {
    features: String,
    cases: Vec<(String, f64)>,
}

impl Baseline {
    fn read(path: &Path) -> Result<Self, String> {
        let wrong = |what: &str| format!("{}: {what}; `--write-baseline` makes one", path.display());
        let text = fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
        let mut features = None;
        let mut cases = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                features = features.or_else(|| comment.strip_prefix(FEATURES));
                continue;
            }
            let case =
                line.split_once('\t').and_then(|(count, name)| Some((name.to_owned(), count.trim().parse().ok()?)));
            cases.push(case.ok_or_else(|| wrong(&format!("what is {line:?}")))?);
        }
        let features = features.ok_or_else(|| wrong("it names no features"))?.to_owned();
        Ok(Baseline { features, cases })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "# Instructions of each case, counted by `cargo bench --locked --workspace --bench costs -- --write-baseline`.\n\
             # docs/performance.md says for which machines they hold.\n# {FEATURES}{}\n",
            self.features
        );
        for (name, count) in &self.cases {
            let _ = writeln!(text, "{count:>12.1}\t{name}");
        }
        text
    }
}

fn count(args: &Args) -> Result<Baseline, String> {
    let dir = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?;
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--dump-line=no", "--demangle=no"])
        .args(["--toggle-collect=*measured_part*", "--dump-after=*dumped_part*"])
        .arg(format!("--callgrind-out-file={}/out", dir.path().display()))
        .arg(program)
        .arg("--counted")
        .args(args.only.iter().flat_map(|only| ["--only", only]))
        .env("GLIBC_TUNABLES", TUNABLES);
    let output = command.output().map_err(|error| format!("valgrind: {error}: apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("under callgrind: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let features = said.lines().find_map(|line| line.strip_prefix(FEATURES)).unwrap_or_default().to_owned();
    let totals = totals(dir.path())?;
    let mut cases = Vec::new();
    let mut parts = totals.values();
    for line in said.lines().filter_map(|line| line.strip_prefix(CASE)) {
        let (things, name) = line.split_once(' ').ok_or_else(|| format!("what is {line:?}"))?;
        let things: f64 = things.parse().map_err(|_| format!("what is {line:?}"))?;
        let (mut short, mut long) = (u64::MAX, u64::MAX);
        for _ in 0..TIMES {
            let (Some(&one), Some(&other)) = (parts.next(), parts.next()) else {
                return Err(format!("callgrind made {} dumps, too few", totals.len()));
            };
            (short, long) = (short.min(one), long.min(other));
        }
        cases.push((name.to_owned(), (long as f64 - short as f64) / things));
    }
    if cases.is_empty() || parts.next().is_some_and(|&rest| rest > 0) {
        return Err(format!("callgrind made {} dumps for {} cases", totals.len(), cases.len()));
    }
    Ok(Baseline { features, cases })
}

/// The instructions in each dump, by its number.
fn totals(dir: &Path) -> Result<BTreeMap<u32, u64>, String> {
    let mut totals = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|error| error.to_string())?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(part) = name.strip_prefix("out.").and_then(|part| part.parse().ok()) else { continue };
        let text = fs::read_to_string(entry.path()).map_err(|error| error.to_string())?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
        let total = total.and_then(|total| total.trim().parse().ok());
        totals.insert(part, total.ok_or_else(|| format!("{name} has no total"))?);
    }
    Ok(totals)
}

/// What callgrind counts.
#[inline(never)]
fn measured_part(run: &mut Run, runs: u64) {
    run(std::hint::black_box(runs));
}

/// After this callgrind writes down what it has counted. Not after [`measured_part`] itself: of two wishes for one function it
/// fulfils one.
#[inline(never)]
fn dumped_part(run: &mut Run, runs: u64) {
    measured_part(run, runs);
    // No call is the last thing here, or this would be left before it.
    std::hint::black_box(runs);
}

/// Runs every case, under callgrind.
pub(crate) fn counted(args: &Args) {
    println!("{FEATURES}{}", features());
    let bed = guests::Bed::new(1);
    // Else it would be compiled for each case: half a minute, here.
    let _compiled = guests::is_built("bench-headers.wasm")
        .then(|| bed.chain("filters: [{name: f, module: \"{guests}/bench-headers.wasm\"}]\n"));
    // Where VMs are built by another thread meanwhile, what this one does is a matter of chance.
    let counted = cases::all().into_iter().filter(|case| case.name != ISOLATED && args.wants_case(&case.name));
    for case in counted {
        let (warm_up, runs) = match case.group {
            Group::Transactions => (100, 10),
            Group::Hostcalls => (2, 2),
            Group::Bodies => (10, 5),
        };
        println!("{CASE}{} {}", 2 * runs * u64::from(case.things), case.name);
        let mut run = case.make(&bed);
        run(warm_up);
        for _ in 0..TIMES {
            dumped_part(&mut run, runs);
            dumped_part(&mut run, 3 * runs);
        }
    }
}

/// What generated code may use of this processor, or of the one that callgrind shows.
fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("sse4.2", std::is_x86_feature_detected!("sse4.2")),
            ("avx", std::is_x86_feature_detected!("avx")),
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("bmi1", std::is_x86_feature_detected!("bmi1")),
            ("bmi2", std::is_x86_feature_detected!("bmi2")),
            ("lzcnt", std::is_x86_feature_detected!("lzcnt")),
            ("popcnt", std::is_x86_feature_detected!("popcnt")),
            ("avx512", std::is_x86_feature_detected!("avx512f")),
        ];
        let names: Vec<_> = known.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
        format!("x86_64 {}", names.join(" "))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        std::env::consts::ARCH.to_owned()
    }
}
