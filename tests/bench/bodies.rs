//! Large bodies: how much slower they pass through our filters than through a transform that does nothing.

use std::fmt::Write as _;
use std::time::Duration;

use crate::machine::{self, Machine};
use crate::stats::Spread;
use crate::stream::{BAR, Bodies, Framing, SIZE, SMALLER, Turn, WAYS};

/// Measures: for each round, one turn for each of [`WAYS`].
pub(crate) fn run(rounds: usize, machine: &Machine) -> Vec<Vec<Turn>> {
    if machine.pins() {
        machine::pin_self();
    }
    let bodies = Bodies::start();
    if machine.pins() {
        machine::pin_server(bodies.server());
    }
    // The first bodies fill ATS's pools of memory.
    let ways: Vec<usize> = (0..WAYS.len()).collect();
    bodies.round(0, SIZE / 16, &ways);
    (0..rounds)
        .map(|number| {
            let turns = bodies.round(number, SIZE, &ways);
            let figures: Vec<String> =
                turns.iter().map(|turn| format!("{:.2}/{:.2}", seconds(turn.wall), seconds(turn.cpu))).collect();
            eprintln!("bodies, round {}/{rounds}, s wall/CPU: {}", number + 1, figures.join(" "));
            turns
        })
        .collect()
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// What `base` took of what `at` took, round by round: the speed of the latter, that of the former being 1.
fn speed(rounds: &[Vec<Turn>], at: usize, base: usize, figure: impl Fn(&Turn) -> Duration) -> Spread {
    Spread::of(rounds.iter().map(|round| seconds(figure(&round[base])) / seconds(figure(&round[at]))))
}

/// The table.
pub(crate) fn markdown(machine: &Machine, rounds: &[Vec<Turn>]) -> String {
    let mut out = String::new();
    let Machine { cpu, cores, ats, load, .. } = machine;
    let _ = writeln!(
        out,
        "Machine: {cpu}, {cores} cores; {ats}; load average when the run began: {load}.\n\n\
         A response of {} MiB ({} in chunks), not from the cache, {} rounds; medians, least and greatest in parentheses. Speeds compare \
         within a round; more is faster. The bar is {BAR} of the null transform.\n",
        SIZE >> 20,
        (SIZE / SMALLER) >> 20,
        rounds.len()
    );
    let _ = writeln!(out, "| | s | CPU s | of no plugin | by CPU | of the null transform | by CPU |");
    let _ = writeln!(out, "| --- | --: | --: | --: | --: | --: | --: |");
    for (at, way) in WAYS.iter().enumerate() {
        let figures =
            |figure: fn(&Turn) -> Duration| Spread::of(rounds.iter().map(|round| seconds(figure(&round[at])))).show(2);
        let against = |base: Option<usize>| match base.filter(|&base| base != at) {
            Some(base) => {
                let speed = |figure: fn(&Turn) -> Duration| speed(rounds, at, base, figure).show(2);
                format!("{} | {}", speed(|turn| turn.wall), speed(|turn| turn.cpu))
            }
            None => " | ".to_owned(),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            way.title,
            figures(|turn| turn.wall),
            figures(|turn| turn.cpu),
            against(Some(way.none)),
            against(way.null)
        );
    }
    out
}

/// Whether what passes our filters is nearly as fast as what passes the null transform.
///
/// # Errors
/// The same figures, if it is not.
pub(crate) fn check(rounds: &[Vec<Turn>]) -> Result<String, String> {
    let (mut lines, mut passed) = (Vec::new(), true);
    for (at, way) in WAYS.iter().enumerate() {
        let Some(null) = way.null else { continue };
        let (wall, cpu) = (speed(rounds, at, null, |turn| turn.wall), speed(rounds, at, null, |turn| turn.cpu));
        // Of chunks, ATS reads all that there is before any transform is called: no two runs are alike.
        let counts = way.framing == Framing::Length;
        passed &= !counts || (wall.median >= BAR && cpu.median >= BAR);
        let note = if counts { "" } else { " (not judged)" };
        lines.push(format!("{}{note}: {}, by CPU {}", way.title, wall.show(2), cpu.show(2)));
    }
    let line = format!("{SIZE} bytes, speed of a null transform's, at least {BAR}: {}", lines.join("; "));
    if passed { Ok(line) } else { Err(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_held_against_its_null_transform() {
        let turn = |millis| Turn { wall: Duration::from_millis(millis), cpu: Duration::from_millis(millis) };
        let mut round = vec![turn(1000); WAYS.len()];
        assert!(check(&[round.clone()]).is_ok());
        let ours: Vec<usize> =
            (0..WAYS.len()).filter(|&at| WAYS[at].null.is_some() && WAYS[at].framing == Framing::Length).collect();
        assert_eq!(ours.len(), 2);
        for at in ours {
            round[at] = turn(1100);
            assert!(check(&[round.clone()]).is_ok());
            round[at] = turn(1200);
            let line = check(&[round.clone()]).unwrap_err();
            assert!(line.contains("0.83 (0.83–0.83)"), "{line}");
            round[at] = turn(1000);
        }
    }
}
