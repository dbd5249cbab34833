//! Times: every case has a turn in every round.

use std::time::{Duration, Instant};

use crate::args::Args;
use crate::cases::{Case, Group};
use crate::stats::Spread;

/// A batch is so long: the machine's other business hits few of them, and the clock counts for nothing.
const BATCH: Duration = Duration::from_micros(150);

/// A case and its times.
pub(crate) struct Timed {
    pub(crate) group: Group,
    pub(crate) name: String,
    /// Nanoseconds for each of what is measured, by round.
    pub(crate) rounds: Vec<f64>,
}

impl Timed {
    pub(crate) fn spread(&self) -> Spread {
        Spread::of(self.rounds.iter().copied())
    }
}

/// How many rounds there are, and how long a turn takes.
pub(crate) fn plan(args: &Args) -> (usize, Duration) {
    if args.quick { (5, Duration::from_millis(20)) } else { (11, Duration::from_millis(60)) }
}

pub(crate) fn run(cases: Vec<Case>, args: &Args) -> Vec<Timed> {
    let (rounds, turn) = plan(args);
    let mut cases: Vec<_> = cases.into_iter().map(Turns::new).collect();
    for _ in 0..rounds {
        cases.iter_mut().for_each(|case| case.turn(turn));
    }
    cases.into_iter().map(|turns| turns.timed).collect()
}

struct Turns {
    case: Case,
    batch: u64,
    timed: Timed,
}

impl Turns {
    fn new(mut case: Case) -> Self {
        // Warm first, then as many runs as make a batch.
        (case.run)(2);
        let mut batch = 1;
        loop {
            let begun = Instant::now();
            (case.run)(batch);
            if begun.elapsed() >= BATCH {
                break;
            }
            batch *= 2;
        }
        let timed = Timed { group: case.group, name: case.name.clone(), rounds: Vec::new() };
        Turns { case, batch, timed }
    }

    /// The best batch of a turn counts.
    fn turn(&mut self, time: Duration) {
        let begun = Instant::now();
        let mut best = f64::INFINITY;
        while begun.elapsed() < time {
            let start = Instant::now();
            (self.case.run)(self.batch);
            best = best.min(start.elapsed().as_secs_f64());
        }
        let things = self.batch as f64 * f64::from(self.case.things);
        self.timed.rounds.push(best * 1e9 / things);
    }
}
