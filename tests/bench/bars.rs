//! The bars that `--check` holds the figures to, and what is said where a machine was too noisy to tell.

use crate::rounds::Timed;
use crate::stats::Spread;
use crate::variants::{BASE, CONTROL, Variant, find};

/// Requests a second, of no plugin's.
const RATE: f64 = 0.95;
/// Where two servers without a plugin may differ by more than this, nothing is judged: of the rate, and in microseconds of
/// processor time a request.
const RATE_NOISE: f64 = 0.02;
const CPU_NOISE: f64 = 0.3;

/// What became of a bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is met.
    Passed(String),
    /// Two equal servers differ by so much that nothing is proved, or something was not measured.
    Unclear(String),
    /// It is not.
    Failed(String),
}

impl Verdict {
    /// Met or not.
    pub(crate) fn of(met: bool, line: String) -> Verdict {
        if met { Verdict::Passed(line) } else { Verdict::Failed(line) }
    }

    /// As it is printed.
    pub(crate) fn line(&self) -> String {
        match self {
            Verdict::Passed(line) => format!("check passed: {line}"),
            Verdict::Unclear(line) => format!("check NOT JUDGED, the machine was not quiet enough: {line}"),
            Verdict::Failed(line) => format!("check FAILED: {line}"),
        }
    }

    /// A word for a table, and the figures.
    pub(crate) fn cells(&self) -> (&'static str, &str) {
        match self {
            Verdict::Passed(line) => ("met", line),
            Verdict::Unclear(line) => ("not judged: too noisy", line),
            Verdict::Failed(line) => ("**missed**", line),
        }
    }
}

impl From<Result<String, String>> for Verdict {
    fn from(result: Result<String, String>) -> Verdict {
        match result {
            Ok(line) => Verdict::Passed(line),
            Err(line) => Verdict::Failed(line),
        }
    }
}

/// What the times of [`rounds`](crate::rounds) say of each bar. Empty where none of the variants was measured that bars
/// are about.
pub(crate) fn check(variants: &[Variant], timed: &Timed) -> Vec<Verdict> {
    let figures = |key: &str| {
        let (at, base) = find(variants, key).zip(find(variants, BASE))?;
        let rates = timed.pairs(at, base, |turn, base| turn.rate / base.rate);
        let cpu = timed.pairs(at, base, |turn, base| turn.cpu - base.cpu);
        (!rates.is_empty()).then(|| Figures { rate: Spread::of(rates), cpu: Spread::of(cpu) })
    };
    let Some(control) = figures(CONTROL) else {
        return vec![Verdict::Unclear("no bar is held without the A/A control".to_owned())];
    };
    let mut verdicts = Vec::new();
    let (ours, rewrite, lua) = (figures("headers"), figures("header_rewrite"), figures("lua"));
    verdicts.extend(ours.map(|ours| rate(ours, control)));
    verdicts.extend(ours.zip(rewrite).map(|(ours, rewrite)| {
        cpu(ours, rewrite, control, "one header added, CPU beyond no plugin: ours", "header_rewrite")
    }));
    verdicts.extend(figures("chain5").zip(lua).map(|(chain, lua)| {
        cpu(chain, lua, control, "CPU beyond no plugin: our chain of five", "Lua with one header")
    }));
    verdicts.extend(figures("unmatched").map(|unmatched| nothing(unmatched, control)));
    verdicts
}

/// One variant beside no plugin.
#[derive(Debug, Clone, Copy)]
struct Figures {
    rate: Spread,
    /// Microseconds beyond.
    cpu: Spread,
}

fn rate(ours: Figures, control: Figures) -> Verdict {
    let noise = control.rate.off(1.0);
    let line = format!(
        "one header added, requests/s of no plugin: ours {}, no plugin again {}; the bar is {RATE}",
        ours.rate.show(3),
        control.rate.show(3)
    );
    if noise > RATE_NOISE { Verdict::Unclear(line) } else { Verdict::of(ours.rate.median >= RATE, line) }
}

fn cpu(ours: Figures, theirs: Figures, control: Figures, what: &str, whose: &str) -> Verdict {
    let noise = control.cpu.off(0.0);
    let line = format!(
        "{what} {} µs, at most {whose}'s {}; no plugin again {}",
        ours.cpu.show_signed(2),
        theirs.cpu.show_signed(2),
        control.cpu.show_signed(2)
    );
    if noise > CPU_NOISE { Verdict::Unclear(line) } else { Verdict::of(ours.cpu.median <= theirs.cpu.median, line) }
}

/// Whether a server differs from no plugin by no more than another without a plugin does.
fn nothing(unmatched: Figures, control: Figures) -> Verdict {
    let line = format!(
        "an unmatched rule, of no plugin: requests/s {} and CPU {} µs; no plugin again {} and {}",
        unmatched.rate.show(3),
        unmatched.cpu.show_signed(2),
        control.rate.show(3),
        control.cpu.show_signed(2)
    );
    if control.rate.off(1.0) > RATE_NOISE || control.cpu.off(0.0) > CPU_NOISE {
        return Verdict::Unclear(line);
    }
    // The intervals in which the medians lie.
    let alike = |a: Spread, b: Spread| a.low <= b.high && b.low <= a.high;
    Verdict::of(alike(unmatched.rate, control.rate) && alike(unmatched.cpu, control.cpu), line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Turn;
    use crate::variants::choose;

    /// Verdicts on rounds in which each of these had this rate and this processor time.
    fn verdicts(figures: &[(&str, f64, f64)]) -> Vec<Verdict> {
        let keys: Vec<String> = figures.iter().map(|(key, ..)| (*key).to_owned()).collect();
        let (variants, skipped) = choose(&keys);
        assert!(skipped.is_empty(), "{skipped:?}");
        let turn = |variant: &Variant| {
            let (_, rate, cpu) = figures.iter().find(|(key, ..)| *key == variant.key)?;
            Some(Turn { rate: *rate, cpu: *cpu, p50: 1.0, p99: 1.0 })
        };
        let round: Vec<_> = variants.iter().map(turn).collect();
        check(&variants, &Timed { rounds: vec![round; 6] })
    }

    const QUIET: [(&str, f64, f64); 7] = [
        (BASE, 1000.0, 20.0),
        (CONTROL, 1005.0, 20.1),
        ("header_rewrite", 960.0, 20.8),
        ("lua", 850.0, 22.5),
        ("headers", 955.0, 20.8),
        ("chain5", 850.0, 22.5),
        ("unmatched", 1005.0, 20.1),
    ];

    /// The same with one of them changed.
    fn with(key: &str, rate: f64, cpu: f64) -> Vec<Verdict> {
        let mut figures = QUIET;
        let changed = figures.iter_mut().find(|(name, ..)| *name == key).expect("it is one of them");
        *changed = (changed.0, rate, cpu);
        verdicts(&figures)
    }

    /// Which of them are not as they should be.
    fn wrong(verdicts: &[Verdict]) -> Vec<usize> {
        assert_eq!(verdicts.len(), 4, "{verdicts:?}");
        let failed = |(at, verdict): (usize, &Verdict)| matches!(verdict, Verdict::Failed(_)).then_some(at);
        verdicts.iter().enumerate().filter_map(failed).collect()
    }

    #[test]
    fn each_bar_is_held() {
        assert_eq!(wrong(&verdicts(&QUIET)), [0; 0]);
        assert_eq!(wrong(&with("headers", 949.0, 20.8)), [0]);
        assert_eq!(wrong(&with("headers", 955.0, 20.81)), [1]);
        assert_eq!(wrong(&with("chain5", 850.0, 22.6)), [2]);
        assert_eq!(wrong(&with("unmatched", 990.0, 20.1)), [3]);
        assert_eq!(wrong(&with("unmatched", 1005.0, 20.3)), [3]);
    }

    #[test]
    fn nothing_is_judged_where_equal_servers_differ() {
        let noisy = with(CONTROL, 1030.0, 20.4);
        assert!(noisy.iter().all(|verdict| matches!(verdict, Verdict::Unclear(_))), "{noisy:?}");
        assert_eq!(verdicts(&QUIET[..1]).len(), 1);
        assert!(verdicts(&QUIET[2..3])[0].line().contains("NOT JUDGED"));
    }
}
