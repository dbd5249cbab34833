//! Response bodies that are rewritten, every byte of them: how fast that is beside a transform that passes them on by
//! reference, beside the same work in C, and beside Lua.

mod client;
mod site;
mod table;

use std::time::Duration;

use wasm_remap_tests::TrafficServer;

use crate::callgrind::{Profile, Session};
use crate::machine::{self, Machine};
use crate::stats::Spread;
use client::Client;
pub(crate) use site::{SIZES, Source, WAYS};
use site::{Site, Way};
pub(crate) use table::{check, markdown, plot};

/// Responses that are under way at a time.
pub(crate) const CONNECTIONS: usize = 4;
/// How long a turn lasts.
const TURN: Duration = Duration::from_millis(300);
/// The sizes that have a bar, and whose instructions are counted.
pub(crate) const BARRED: [usize; 2] = [10 << 10, 1 << 20];

/// What one way made of one size, in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Turn {
    /// Responses a second.
    pub(crate) rate: f64,
    /// The server's processor time a response, in microseconds.
    pub(crate) cpu: f64,
}

/// The turns of one source and size: for each round, one for each of [`WAYS`].
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    pub(crate) source: Source,
    pub(crate) size: usize,
    pub(crate) rounds: Vec<Vec<Turn>>,
}

impl Timed {
    /// A figure of one way.
    pub(crate) fn spread(&self, way: usize, figure: impl Fn(&Turn) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|round| figure(&round[way])))
    }

    /// A figure of one way, set against another's of the same round.
    pub(crate) fn against(&self, way: usize, base: usize, compare: impl Fn(&Turn, &Turn) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|round| compare(&round[way], &round[base])))
    }
}

/// The instructions of one way and size.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) way: usize,
    pub(crate) size: usize,
    pub(crate) profile: Profile,
}

/// Measures times; `quick` leaves all out that has no bar.
pub(crate) fn run(rounds: usize, quick: bool, machine: &Machine) -> Vec<Timed> {
    if machine.pins() {
        machine::pin_self();
    }
    let site = Site::start(|builder| builder);
    if machine.pins() {
        machine::pin_server(site.server());
    }
    let sources: &[Source] = if quick { &[Source::Cache] } else { &[Source::Cache, Source::Origin] };
    let sizes: &[usize] = if quick { &BARRED } else { &SIZES };
    let mut timed: Vec<Timed> = sources
        .iter()
        .flat_map(|&source| sizes.iter().map(move |&size| Timed { source, size, rounds: Vec::new() }))
        .collect();
    for number in 0..rounds {
        for Timed { source, size, rounds: done } in &mut timed {
            let mut turns = vec![Turn { rate: 0.0, cpu: 0.0 }; WAYS.len()];
            for step in 0..WAYS.len() {
                // Every second round goes the other way, and none begins where the one before it did.
                let step = if number % 2 == 0 { step } else { WAYS.len() - 1 - step };
                let at = (step + number / 2) % WAYS.len();
                turns[at] = turn(site.server(), &WAYS[at], *source, *size);
            }
            let figures: Vec<String> = WAYS
                .iter()
                .zip(&turns)
                .map(|(way, turn)| format!("{} {:.0}/s {:.1} us", way.key, turn.rate, turn.cpu))
                .collect();
            eprintln!("rewrite, round {}/{rounds}, {} {size}: {}", number + 1, source.as_str(), figures.join(", "));
            done.push(turns);
        }
    }
    site.assert_cached();
    timed
}

/// Sends requests this way as fast as they are answered.
fn turn(server: &TrafficServer, way: &Way, source: Source, size: usize) -> Turn {
    let client = Client { port: server.port(), host: way.host, path: source.path(size), size };
    // Some of what a way needs, ATS gives back only when another has taken it.
    client.send(CONNECTIONS, 2 * CONNECTIONS as u64);
    let before = machine::cpu_time(server);
    let (responses, time) = client.run(CONNECTIONS, TURN);
    let spent = machine::cpu_time(server).saturating_sub(before);
    Turn { rate: responses as f64 / time.as_secs_f64(), cpu: spent.as_secs_f64() * 1e6 / responses as f64 }
}

/// Counts the instructions of cache hits.
pub(crate) fn count() -> Vec<Counted> {
    let mut session = None;
    let site = Site::start(|builder| {
        let (builder, begun) = Session::prepare(builder);
        session = Some(begun);
        builder
    });
    let mut session = session.expect("the site was built");
    let server = site.server();
    session.attach();
    let mut counted = Vec::new();
    session.on(server);
    for size in BARRED {
        for (at, way) in WAYS.iter().enumerate() {
            let client = Client { port: server.port(), host: way.host, path: Source::Cache.path(size), size };
            let requests = if size > 100 << 10 { 20 } else { 200 };
            client.send(1, requests);
            let profile = session.count(server, requests, || client.send(1, requests));
            eprintln!("callgrind: {} {size}: {:.0} instructions a response", way.key, profile.total());
            counted.push(Counted { way: at, size, profile });
        }
    }
    session.off(server);
    site.assert_cached();
    // Before the session goes, into whose directory callgrind writes at its end.
    site.stop();
    counted
}
