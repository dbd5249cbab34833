//! Latencies at fixed rates: at shares of what the server without a plugin answers at most, and at that.
//!
//! All variants have the same schedule of requests in a round, and a round goes round all of them at one rate before the
//! next. What a plugin adds is the difference to no plugin in the same round; a second server without a plugin shows
//! what of that is chance.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use wasm_remap_tests::TrafficServer;

use crate::bars::Verdict;
use crate::machine::{self, Machine};
use crate::pace::{self, Answers, Pace};
use crate::plot::{Chart, Point, Series};
use crate::sites;
use crate::stats::Spread;
use crate::variants::{self, BASE, CONTROL, Variant, find};

/// Those that are measured.
const KEYS: [&str; 6] = [BASE, CONTROL, "header_rewrite", "lua", "headers", "chain5"];
/// Shares of the peak. The last stands for the peak itself: requests as fast as they are answered.
const SHARES: [f64; 4] = [0.25, 0.5, 0.75, 1.0];
/// The share that the bar is about, by its place.
const HALF: usize = 1;
/// What one filter may add to the 99th percentile there, in microseconds.
const BAR: f64 = 20.0;
/// Where two servers without a plugin may differ by more, nothing is judged.
const NOISE: f64 = 2.0 * BAR;
/// Connections where requests have their times, so many that one is free nearly always; and at the peak, as wrk has them.
const CONNECTIONS: usize = 64;
const PEAK_CONNECTIONS: usize = 16;
/// The quantiles that are shown.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// One variant at one rate in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Turn {
    /// In the order of [`QUANTILES`], in microseconds.
    quantiles: [f64; 3],
    rate: f64,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    variants: Vec<Variant>,
    /// Requests a second of no plugin.
    peak: f64,
    /// For each round and share, a turn a variant.
    rounds: Vec<[Vec<Turn>; SHARES.len()]>,
    /// All latencies of a share and a variant: rare ones are seen in many rounds alone.
    all: Vec<Vec<Histogram<u64>>>,
    /// Requests that were due and never sent.
    unsent: u64,
    seconds: f64,
}

/// Measures, `rounds` rounds after each of `starts` starts of all servers, each turn taking so long.
pub(crate) fn run(starts: usize, rounds: usize, turn: Duration, machine: &Machine) -> Measured {
    if machine.pins() {
        machine::pin_self();
    }
    let (variants, _) = variants::choose(&KEYS.map(str::to_owned));
    let mut measured = Measured {
        peak: 0.0,
        rounds: Vec::new(),
        all: vec![vec![pace::histogram(); variants.len()]; SHARES.len()],
        unsent: 0,
        seconds: turn.as_secs_f64(),
        variants,
    };
    for start in 0..starts {
        let origin = sites::origin();
        let servers: Vec<TrafficServer> = measured
            .variants
            .iter()
            .map(|variant| {
                let server = variant.start(variant.site.builder(&origin), &origin, machine);
                ask(variant, &server, Pace::Peak, Duration::from_millis(200));
                server
            })
            .collect();
        if start == 0 {
            let turns = (0..3).map(|_| ask(&measured.variants[0], &servers[0], Pace::Peak, turn).rate());
            measured.peak = Spread::of(turns).median;
        }
        let fetched = origin.request_count();
        for round in 0..rounds {
            let number = measured.rounds.len();
            let mut turns = [const { Vec::new() }; SHARES.len()];
            for share in 0..SHARES.len() {
                let mut answers: Vec<Option<Answers>> = vec![None; servers.len()];
                for step in 0..servers.len() {
                    let step = if round % 2 == 0 { step } else { servers.len() - 1 - step };
                    let at = (step + number) % servers.len();
                    let pace = match SHARES[share] {
                        share if share < 1.0 => Pace::Rate { each_second: measured.peak * share, seed: number as u64 },
                        _ => Pace::Peak,
                    };
                    answers[at] = Some(ask(&measured.variants[at], &servers[at], pace, turn));
                }
                for (at, answers) in answers.into_iter().flatten().enumerate() {
                    let quantiles = QUANTILES.map(|quantile| answers.quantile(quantile));
                    turns[share].push(Turn { quantiles, rate: answers.rate() });
                    measured.all[share][at].add(&answers.latencies).expect("a histogram that grows");
                    measured.unsent += answers.unsent;
                }
            }
            eprintln!("latency, start {}/{starts}, round {}/{rounds}: {}", start + 1, round + 1, said(&turns[HALF]));
            measured.rounds.push(turns);
        }
        assert_eq!(origin.request_count(), fetched, "requests went to the origin: these were no cache hits");
    }
    measured
}

fn said(turns: &[Turn]) -> String {
    let quantiles: Vec<_> =
        turns.iter().map(|turn| format!("{:.0}/{:.0}", turn.quantiles[0], turn.quantiles[1])).collect();
    format!("p50/p99 at half of the peak, µs: {}", quantiles.join(" "))
}

fn ask(variant: &Variant, server: &TrafficServer, pace: Pace, time: Duration) -> Answers {
    let connections = if pace == Pace::Peak { PEAK_CONNECTIONS } else { CONNECTIONS };
    let answers = pace::run(server.port(), variant.request().as_bytes(), variant.status(), connections, pace, time);
    answers.unwrap_or_else(|error| panic!("{}: {error}", variant.title))
}

impl Measured {
    fn quantile(&self, share: usize, at: usize, quantile: usize) -> Spread {
        Spread::of(self.rounds.iter().map(|round| round[share][at].quantiles[quantile]))
    }

    /// What is added to no plugin.
    fn added(&self, share: usize, at: usize, quantile: usize) -> Spread {
        let base = find(&self.variants, BASE).unwrap_or_default();
        Spread::of(self.rounds.iter().map(|round| {
            let turns = &round[share];
            turns[at].quantiles[quantile] - turns[base].quantiles[quantile]
        }))
    }

    /// The table, and the plots that it names.
    pub(crate) fn markdown(&self, machine: &Machine) -> String {
        let mut out = String::new();
        let Machine { cpu, cores, ats, load, .. } = machine;
        let (rounds, peak, seconds) = (self.rounds.len(), self.peak, self.seconds);
        let _ = writeln!(
            out,
            "Machine: {cpu}, {cores} cores; {ats}; load average when the run began: {load}.\n\n\
             Cache hits of 100 bytes. The server without a plugin answers {peak:.0} requests a second at most; the others are \
             asked as often as that one is, at times of a Poisson process that are the same for all, over {CONNECTIONS} \
             connections. Latency counts from the time at which a request was due. {rounds} rounds of {seconds} s; medians \
             of the rounds, 99.9 % of all of them together; what is added compares within a round, with the interval in \
             which its median lies by 95 %. At the peak, {PEAK_CONNECTIONS} connections ask again as soon as they are \
             answered. {} requests were due and not sent.\n",
            self.unsent
        );
        let _ = writeln!(out, "| load | | p50 µs | p99 µs | p99.9 µs | added to p50 | added to p99 |");
        let _ = writeln!(out, "| --- | --- | --: | --: | --: | --: | --: |");
        for (share, part) in SHARES.iter().enumerate() {
            for (at, variant) in self.variants.iter().enumerate() {
                let load = if *part < 1.0 { format!("{:.0} %", part * 100.0) } else { "peak".to_owned() };
                let added = |quantile| {
                    let added = self.added(share, at, quantile);
                    if variant.key == BASE {
                        String::new()
                    } else {
                        format!("{:+.1} ({:+.1} to {:+.1})", added.median, added.low, added.high)
                    }
                };
                let _ = writeln!(
                    out,
                    "| {load} | {} | {:.0} | {:.0} | {:.0} | {} | {} |",
                    variant.title,
                    self.quantile(share, at, 0).median,
                    self.quantile(share, at, 1).median,
                    self.all[share][at].value_at_quantile(0.999) as f64 / 1000.0,
                    added(0),
                    added(1),
                );
            }
        }
        out.push_str("\n![p50](plots/latency-p50.svg)\n\n![p99](plots/latency-p99.svg)\n");
        out
    }

    /// Writes the plots into a folder.
    ///
    /// # Errors
    /// One cannot be written.
    pub(crate) fn plot(&self, folder: &Path) -> std::io::Result<()> {
        for (quantile, name) in [(0, "p50"), (1, "p99")] {
            let series = self.variants.iter().enumerate().map(|(at, variant)| Series {
                name: variant.title.to_owned(),
                points: (0..SHARES.len() - 1)
                    .map(|share| {
                        let spread = self.quantile(share, at, quantile);
                        let x = SHARES[share] * 100.0;
                        Point { x, y: spread.median, least: spread.low, greatest: spread.high }
                    })
                    .collect(),
            });
            let chart = Chart {
                title: format!("Latency of cache hits, {name}"),
                x: "requests a second, % of the peak of no plugin".to_owned(),
                y: "µs".to_owned(),
                log_x: false,
                series: series.collect(),
            };
            chart.write(&folder.join(format!("latency-{name}.svg")))?;
        }
        Ok(())
    }

    /// Whether one filter adds as little to the 99th percentile at half of the peak as it may.
    pub(crate) fn check(&self) -> Verdict {
        let position = |key| find(&self.variants, key).expect("no plugin and ours need nothing installed");
        let (ours, control) = (self.added(HALF, position("headers"), 1), self.added(HALF, position(CONTROL), 1));
        judge(ours, control)
    }
}

fn judge(ours: Spread, control: Spread) -> Verdict {
    let noise = control.off(0.0);
    let line = format!(
        "p99 at half of the peak, µs added: ours {}, no plugin again {}; the bar is {BAR} or noise, which is {noise:.1}",
        ours.show_signed(1),
        control.show_signed(1)
    );
    if noise > NOISE {
        Verdict::Unclear(line)
    } else if ours.median <= BAR || ours.median <= noise {
        Verdict::Passed(line)
    } else {
        Verdict::Failed(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_judged_beside_noise() {
        let spread = |median: f64| Spread::of([median - 1.0, median, median + 1.0]);
        assert!(matches!(judge(spread(19.0), spread(0.0)), Verdict::Passed(_)));
        assert!(matches!(judge(spread(25.0), spread(-3.0)), Verdict::Failed(_)));
        assert!(matches!(judge(spread(25.0), spread(-27.0)), Verdict::Passed(_)));
        assert!(matches!(judge(spread(1.0), spread(-50.0)), Verdict::Unclear(_)));
    }
}
