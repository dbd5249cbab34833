//! Times: every case has a turn in every round.

use std::time::{Duration, Instant};

use crate::args::Args;
use crate::cases::guests::Bed;
use crate::cases::{self, Case, Group, Run};
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

pub(crate) fn run(bed: &Bed, args: &Args) -> Vec<Timed> {
    let (rounds, turn) = plan(args);
    let wanted = cases::all().into_iter().filter(|case| args.wants_case(&case.name));
    let mut cases: Vec<_> = wanted.map(|case| Turns::new(case, bed)).collect();
    for _ in 0..rounds {
        cases.iter_mut().for_each(|case| case.turn(turn));
    }
    cases.into_iter().map(|turns| turns.timed).collect()
}

struct Turns {
    run: Run,
    things: u32,
    batch: u64,
    timed: Timed,
}

impl Turns {
    fn new(case: Case, bed: &Bed) -> Self {
        let (things, group, name) = (case.things, case.group, case.name.clone());
        let mut run = case.make(bed);
        // Warm first, then as many runs as make a batch.
        run(2);
        let mut batch = 1;
        loop {
            let begun = Instant::now();
            run(batch);
            if begun.elapsed() >= BATCH {
                break;
            }
            batch *= 2;
        }
        let timed = Timed { group, name, rounds: Vec::new() };
        Turns { run, things, batch, timed }
    }

    /// The best batch of a turn counts.
    fn turn(&mut self, time: Duration) {
        let begun = Instant::now();
        let mut best = f64::INFINITY;
        while begun.elapsed() < time {
            let start = Instant::now();
            (self.run)(self.batch);
            best = best.min(start.elapsed().as_secs_f64());
        }
        let things = self.batch as f64 * f64::from(self.things);
        self.timed.rounds.push(best * 1e9 / things);
    }
}
