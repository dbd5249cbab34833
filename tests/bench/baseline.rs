//! The instructions that our variants may have: what they had when the file was written, and 3 % more.
//!
//! They are those beyond no plugin. Which processor, Traffic Server and C library they are of stands in the file, for on
//! others they are others; those of the plugin's own code alone would be nearly the same anywhere, but it is calls of ATS that
//! most of them are spent in.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{fs, io};

use wasm_remap_tests::artifacts;

use crate::bars::Verdict;
use crate::callgrind::Counted;
use crate::instructions::beyond;
use crate::machine::Machine;
use crate::variants::Variant;

/// Those that are held to it, and what they are compared with.
pub(crate) const KEYS: [&str; 11] = [
    "headers",
    "bench-headers",
    "chain2",
    "chain5",
    "chain10",
    "matched",
    "unmatched",
    "left-out",
    "api-key",
    "api-key-401",
    "ours-404",
];
/// What they may have more.
const SHARE: f64 = 0.03;
/// What the idle turns of an event loop add or not, whatever the number is.
const SLACK: f64 = 100.0;

/// Where it stands.
pub(crate) fn path() -> PathBuf {
    artifacts::repository("tests/bench/instructions.txt")
}

/// What was counted, as the file has it.
fn text(machine: &Machine, variants: &[Variant], counted: &[Counted]) -> String {
    let mut out = format!(
        "# Instructions of the event thread a request beyond no plugin, by callgrind; `ats-bench --write-baseline` writes this.\n\
         # {}\n",
        system(machine)
    );
    for (at, variant) in variants.iter().enumerate().filter(|(_, variant)| KEYS.contains(&variant.key)) {
        let _ = writeln!(out, "{} {:.0}", variant.key, beyond(variants, counted, at).median);
    }
    out
}

fn system(machine: &Machine) -> String {
    // Of the version, without when and where it was built.
    let ats: Vec<&str> = machine.ats.split_whitespace().take(3).collect();
    format!("{}; {}; {}", machine.cpu, machine.system, ats.join(" "))
}

/// Writes the file.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(machine: &Machine, variants: &[Variant], counted: &[Counted]) -> io::Result<()> {
    fs::write(path(), text(machine, variants, counted))
}

/// Compares with the file.
pub(crate) fn check(machine: &Machine, variants: &[Variant], counted: &[Counted]) -> Verdict {
    let path = path();
    match fs::read_to_string(&path) {
        Ok(old) => compare(&old, &text(machine, variants, counted)),
        Err(error) => Verdict::Failed(format!("{}: {error}: `ats-bench --write-baseline` writes it", path.display())),
    }
}

fn compare(old: &str, new: &str) -> Verdict {
    let figures = |text: &'_ str| -> Vec<(String, f64)> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(key, n)| Some((key.to_owned(), n.parse().ok()?)))
            .collect()
    };
    let system = |text: &str| text.lines().nth(1).unwrap_or_default().trim_start_matches("# ").to_owned();
    if system(old) != system(new) {
        return Verdict::Unclear(format!("instructions: the baseline is of {}, this is {}", system(old), system(new)));
    }
    let (old, mut met, mut lines) = (figures(old), true, Vec::new());
    for (key, now) in figures(new) {
        let Some((_, was)) = old.iter().find(|(name, _)| *name == key) else {
            met = false;
            lines.push(format!("{key} {now:.0}, which the baseline does not have"));
            continue;
        };
        let limit = was + (was * SHARE).max(SLACK);
        met &= now <= limit;
        let over = if now > limit { format!(" (at most {limit:.0})") } else { String::new() };
        lines.push(format!("{key} {now:.0} after {was:.0}{over}"));
    }
    met &= !lines.is_empty();
    Verdict::of(
        met,
        format!("instructions beyond no plugin, at most 3 % more than the baseline's: {}", lines.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variants::choose;

    const OLD: &str = "# What it is.\n# a processor; ATS 9\nheaders 10000\nunmatched -3\n";

    #[test]
    fn three_percent_more_are_too_many() {
        let new = |headers: u32, unmatched: i32| {
            format!("# x\n# a processor; ATS 9\nheaders {headers}\nunmatched {unmatched}\n")
        };
        assert!(matches!(compare(OLD, &new(10_300, 90)), Verdict::Passed(_)));
        let Verdict::Failed(line) = compare(OLD, &new(10_301, 0)) else { panic!("3 % and one more") };
        assert!(line.contains("headers 10301 after 10000 (at most 10300), unmatched 0 after -3"), "{line}");
        assert!(matches!(compare(OLD, &new(10_000, 98)), Verdict::Failed(_)));
        assert!(matches!(compare(OLD, "# x\n# a processor; ATS 9\nchain2 1\n"), Verdict::Failed(_)));
        assert!(matches!(compare(OLD, "# x\n# another; ATS 9\nheaders 1\n"), Verdict::Unclear(_)));
    }

    #[test]
    fn the_baseline_names_variants_that_there_are() {
        let (variants, _) = choose(&KEYS.map(str::to_owned));
        assert!(KEYS.iter().all(|key| variants.iter().any(|variant| variant.key == *key && variant.counted)));
        let committed = fs::read_to_string(path()).unwrap();
        let keys: Vec<_> = committed.lines().skip(2).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(keys, KEYS, "tests/bench/instructions.txt");
    }
}
