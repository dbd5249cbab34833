//! A body that filters let pass is nearly as fast as one that passes a transform in C which does nothing.
//!
//! `ats-bench --only bodies` measures the same with each side on a core of its own.

#[path = "../bench/native.rs"]
mod native;
#[allow(dead_code, reason = "ats-bench needs more of it")]
#[path = "../bench/stats.rs"]
mod stats;
#[allow(dead_code, reason = "ats-bench needs more of it")]
#[path = "../bench/stream.rs"]
mod stream;

use std::time::Duration;

use stats::Spread;
use stream::{BAR, Bodies, Framing, SIZE, Turn, WAYS};

/// Rounds at least, and at most: a machine that does other things too makes the median of a few stray, either way.
const ROUNDS: [usize; 2] = [5, 30];

#[test]
fn a_body_of_a_gigabyte_passes_nearly_as_fast_as_through_a_transform_that_does_nothing() {
    let bodies = Bodies::start();
    // Of chunks, ATS reads all that there is before any transform is called: no two runs are alike.
    let ways: Vec<usize> = (0..WAYS.len()).filter(|&at| WAYS[at].framing == Framing::Length).collect();
    bodies.round(0, SIZE / 16, &ways);
    let mut rounds: Vec<Vec<Turn>> = Vec::new();
    while rounds.len() < ROUNDS[0] || rounds.len() < ROUNDS[1] && ways.iter().any(|&at| !is_sure(&rounds, at)) {
        rounds.push(bodies.round(rounds.len(), SIZE, &ways));
    }
    let mut compared = 0;
    for &at in &ways {
        let Some([wall, cpu]) = speed(&rounds, at) else { continue };
        let (title, count) = (WAYS[at].title, rounds.len());
        println!("{title}: of the null transform's speed {}, by CPU {}, {count} rounds", wall.show(2), cpu.show(2));
        // The one tells what a request costs, the other what a machine that does other things too makes of it: both low
        // is too slow.
        let best = wall.median.max(cpu.median);
        assert!(best >= BAR, "{title}: {} and {} in {count} rounds", wall.show(2), cpu.show(2));
        compared += 1;
    }
    assert_eq!(compared, 2);
}

/// Of the null transform's speed, by the clock and by processor time.
fn speed(rounds: &[Vec<Turn>], at: usize) -> Option<[Spread; 2]> {
    let null = WAYS[at].null?;
    let figures: [fn(&Turn) -> Duration; 2] = [|turn| turn.wall, |turn| turn.cpu];
    Some(figures.map(|figure| {
        Spread::of(rounds.iter().map(|turns| figure(&turns[null]).as_secs_f64() / figure(&turns[at]).as_secs_f64()))
    }))
}

/// Whether more rounds would hardly tell otherwise: one median is surely above the bar, or both are surely below.
fn is_sure(rounds: &[Vec<Turn>], at: usize) -> bool {
    speed(rounds, at).is_none_or(|both| both.iter().any(|of| of.low >= BAR) || both.iter().all(|of| of.high < BAR))
}
