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

const ROUNDS: usize = 5;

#[test]
fn a_body_of_a_gigabyte_passes_nearly_as_fast_as_through_a_transform_that_does_nothing() {
    let bodies = Bodies::start();
    // Of chunks, ATS reads all that there is before any transform is called: no two runs are alike.
    let ways: Vec<usize> = (0..WAYS.len()).filter(|&at| WAYS[at].framing == Framing::Length).collect();
    bodies.round(0, SIZE / 16, &ways);
    let rounds: Vec<Vec<Turn>> = (0..ROUNDS).map(|number| bodies.round(number, SIZE, &ways)).collect();
    let speed = |at: usize, null: usize, figure: fn(&Turn) -> Duration| {
        Spread::of(rounds.iter().map(|turns| figure(&turns[null]).as_secs_f64() / figure(&turns[at]).as_secs_f64()))
    };
    let mut compared = 0;
    for &at in &ways {
        let Some(null) = WAYS[at].null else { continue };
        let (wall, cpu) = (speed(at, null, |turn| turn.wall), speed(at, null, |turn| turn.cpu));
        println!("{}: of the null transform's speed {}, by CPU {}", WAYS[at].title, wall.show(2), cpu.show(2));
        // The one tells what a request costs, the other what a machine that does other things too makes of it: both low
        // is too slow.
        assert!(wall.median.max(cpu.median) >= BAR, "{}: {} and {}", WAYS[at].title, wall.show(2), cpu.show(2));
        compared += 1;
    }
    assert_eq!(compared, 2);
}
