//! Times: short turns of wrk that go round all variants.
//!
//! One ET_NET thread a server, on a core of its own, and one thread of wrk with 16 connections on another: the event
//! thread is what saturates, so requests per second are the reciprocal of what it spends on a request. With two
//! event threads on two cores wrk would compete with them, and the scheduler would be measured.
//!
//! All servers of a start run at once; those whose turn it is not wake up a hundred times a second for nothing, which
//! costs every variant the same. Each round begins with another variant, so that none always follows the same one.
//! Every start has its own memory layout, which alone can make two equal servers differ by a percent or two; hence
//! several starts, and the A/A control. Variants that no bar is held against have a turn in each third round alone.

use std::time::Duration;

use wasm_remap_tests::harness::process;
use wasm_remap_tests::{TrafficServer, load};

use crate::args::Args;
use crate::machine::{self, Machine};
use crate::sites::{self, Site};
use crate::variants::{Often, Variant};

/// Connections of wrk.
pub(crate) const CONNECTIONS: u32 = 16;
/// Requests that a server answers before it is measured.
const WARM_UP: u64 = 3000;
/// Turns of which one must go without timeouts.
const ATTEMPTS: u32 = 8;

/// One variant's turn in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Turn {
    /// Requests per second.
    pub(crate) rate: f64,
    /// The server's processor time a request, in microseconds.
    pub(crate) cpu: f64,
    /// Latencies, in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// What was measured: for each round, one turn a variant, in the order of the variants; none of those that had none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Timed {
    pub(crate) rounds: Vec<Vec<Option<Turn>>>,
}

impl Timed {
    /// A figure of one variant in each round.
    pub(crate) fn figures(&self, variant: usize, figure: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.rounds.iter().filter_map(|round| round[variant].as_ref()).map(figure).collect()
    }

    /// A figure of one variant set against another's of the same round.
    pub(crate) fn pairs(&self, variant: usize, base: usize, compare: impl Fn(&Turn, &Turn) -> f64) -> Vec<f64> {
        let pairs = self.rounds.iter().filter_map(|round| round[variant].as_ref().zip(round[base].as_ref()));
        pairs.map(|(turn, base)| compare(turn, base)).collect()
    }
}

/// Measures.
pub(crate) fn run(variants: &[Variant], args: &Args, machine: &Machine) -> Timed {
    if machine.pins() {
        machine::pin_self();
    }
    let mut rounds = Vec::new();
    for start in 0..args.starts {
        let origin = sites::origin();
        let mut servers: Vec<(Site, TrafficServer)> = Vec::new();
        for variant in variants.iter().filter(|variant| variant.often != Often::Counted) {
            if servers.iter().all(|(site, _)| *site != variant.site) {
                let server = variant.site.builder(&origin).start();
                if machine.pins() {
                    machine::pin_server(&server);
                }
                servers.push((variant.site, server));
            }
        }
        let server_of = |variant: &Variant| {
            let found = servers.iter().find(|(site, _)| *site == variant.site);
            &found.expect("every variant's server was started").1
        };
        for variant in variants.iter().filter(|variant| variant.often != Often::Counted) {
            let server = server_of(variant);
            variant.prove(server, &origin);
            let request = variant.request();
            let warm = load::requests(server.port(), request.as_bytes(), WARM_UP, CONNECTIONS, &[variant.status()]);
            assert_eq!(warm.errors.total(), 0, "{}: {:?}", variant.title, warm.errors);
        }
        for round in 0..args.rounds {
            let mut turns: Vec<Option<Turn>> = vec![None; variants.len()];
            for step in 0..variants.len() {
                // Every second round goes the other way, so that a drift of the machine cancels out.
                let step = if round % 2 == 0 { step } else { variants.len() - 1 - step };
                let at = (step + start + round / 2) % variants.len();
                let variant = &variants[at];
                let due = match variant.often {
                    Often::Always => true,
                    Often::Seldom => round % 3 == 0,
                    Often::Counted => false,
                };
                if due {
                    let before = origin.request_count();
                    turns[at] = Some(turn(variant, server_of(variant), args.seconds));
                    // Of a miss before, what was on its way when its turn ended may still have come.
                    let asked = origin.request_count() - before;
                    assert!(
                        variant.is_miss() == (asked > 2 * CONNECTIONS as usize),
                        "{}: {asked} requests went to the origin",
                        variant.title
                    );
                }
            }
            progress(start, round, args, variants, &turns);
            rounds.push(turns);
        }
        stop(servers);
    }
    Timed { rounds }
}

/// Stops all servers at once: each takes a second or two to notice.
fn stop(servers: Vec<(Site, TrafficServer)>) {
    for (site, server) in &servers {
        assert!(server.is_alive(), "{site:?}: the server is gone");
        server.expect_exit();
        process::terminate(server.pid());
    }
    for (site, server) in servers {
        let exit = server.shutdown();
        assert_eq!(exit.crash, None, "{site:?}");
    }
}

/// One turn; once more if requests timed out, which on a machine that does too much else they may, and which says
/// nothing of the variant.
fn turn(variant: &Variant, server: &TrafficServer, seconds: u64) -> Turn {
    for attempt in 1..=ATTEMPTS {
        match try_turn(variant, server, seconds) {
            Some(turn) => return turn,
            None => eprintln!("{}: requests timed out: the turn is repeated", variant.title),
        }
        std::thread::sleep(Duration::from_secs(attempt.into()));
    }
    panic!("{}: requests timed out in {ATTEMPTS} turns in a row", variant.title);
}

fn try_turn(variant: &Variant, server: &TrafficServer, seconds: u64) -> Option<Turn> {
    let before = machine::cpu_time(server);
    let (name, value) = variant.field();
    let report = load::Wrk::new(server.port(), variant.host(), variant.path())
        .header(name, value)
        .connections(CONNECTIONS)
        .duration(Duration::from_secs(seconds))
        .run();
    let spent = machine::cpu_time(server).saturating_sub(before);
    let mut errors = report.errors;
    if variant.is_refused() {
        assert_eq!(errors.status, report.requests, "{}: not every response was refused", variant.title);
        errors.status = 0;
    }
    if errors.timeout > 0 || report.requests == 0 {
        return None;
    }
    assert_eq!(errors.total(), 0, "{}: {errors:?}", variant.title);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    Some(Turn {
        rate: report.rate,
        cpu: micros(spent) / report.requests as f64,
        p50: micros(report.p50),
        p99: micros(report.p99),
    })
}

fn progress(start: usize, round: usize, args: &Args, variants: &[Variant], turns: &[Option<Turn>]) {
    let rates: Vec<String> = variants
        .iter()
        .zip(turns)
        .filter_map(|(variant, turn)| Some((variant, turn.as_ref()?)))
        .map(|(variant, turn)| format!("{} {:.0}/s {:.2} us", variant.key, turn.rate, turn.cpu))
        .collect();
    let (start, round) = (start + 1, round + 1);
    eprintln!("start {start}/{}, round {round}/{}: {}", args.starts, args.rounds, rates.join(", "));
}
