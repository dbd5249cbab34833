//! HTTP/2 over TLS: connections with many streams at a time, each of which asks again as soon as it is answered.
//!
//! All runs on one thread on a core of its own, the server's event thread on another. How busy the server was stands in
//! the table: where it had time left, the client was what was measured.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::LocalSet;
use wasm_remap_tests::harness::http2;
use wasm_remap_tests::{Ask, Http2, TrafficServer};

use crate::machine::{self, Machine};
use crate::pace;
use crate::plot::{Bar, Bars};
use crate::sites;
use crate::stats::Spread;
use crate::variants::{self, BASE, CONTROL, Variant, find};

const KEYS: [&str; 6] = [BASE, CONTROL, "header_rewrite", "lua", "headers", "chain5"];
const CONNECTIONS: usize = 4;
/// On each of them.
const STREAMS: usize = 8;

/// One variant's turn in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Turn {
    rate: f64,
    /// The server's processor time a request, in microseconds.
    cpu: f64,
    p50: f64,
    p99: f64,
    /// The share of the time in which the server worked.
    busy: f64,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    variants: Vec<Variant>,
    rounds: Vec<Vec<Turn>>,
    seconds: f64,
}

/// Measures.
pub(crate) fn run(starts: usize, rounds: usize, turn: Duration, machine: &Machine) -> Measured {
    if machine.pins() {
        machine::pin_self();
    }
    let (variants, _) = variants::choose(&KEYS.map(str::to_owned));
    let mut measured = Measured { variants, rounds: Vec::new(), seconds: turn.as_secs_f64() };
    for start in 0..starts {
        let origin = sites::origin();
        let servers: Vec<TrafficServer> = measured
            .variants
            .iter()
            .map(|variant| {
                let server = variant.start(variant.site.builder_tls(&origin), &origin, machine);
                prove(variant, &server);
                ask(variant, &server, Duration::from_millis(200));
                server
            })
            .collect();
        let fetched = origin.request_count();
        for round in 0..rounds {
            let mut turns: Vec<Option<Turn>> = vec![None; servers.len()];
            for step in 0..servers.len() {
                let step = if round % 2 == 0 { step } else { servers.len() - 1 - step };
                let at = (step + measured.rounds.len()) % servers.len();
                turns[at] = Some(ask(&measured.variants[at], &servers[at], turn));
            }
            let turns: Vec<Turn> = turns.into_iter().flatten().collect();
            let rates: Vec<_> = turns.iter().map(|turn| format!("{:.0}/s {:.2} us", turn.rate, turn.cpu)).collect();
            eprintln!("HTTP/2, start {}/{starts}, round {}/{rounds}: {}", start + 1, round + 1, rates.join(", "));
            measured.rounds.push(turns);
        }
        assert_eq!(origin.request_count(), fetched, "requests went to the origin: these were no cache hits");
    }
    measured
}

/// Makes sure that the plugin does its work over HTTP/2, too.
fn prove(variant: &Variant, server: &TrafficServer) {
    let (name, value) = variant.field();
    let request = Ask::get(variant.host(), variant.path()).header(name, value);
    let response = Http2::connect(server.tls_port()).exchange(&request);
    variant.examine(&response.unwrap_or_else(|error| panic!("{}: {error}", variant.title)));
}

fn ask(variant: &Variant, server: &TrafficServer, time: Duration) -> Turn {
    let before = machine::cpu_time(server);
    let load = load(server.tls_port(), variant, time).unwrap_or_else(|error| panic!("{}: {error}", variant.title));
    let cpu = machine::cpu_time(server).saturating_sub(before);
    let count = load.latencies.len() as f64;
    let micros = |quantile| load.latencies.value_at_quantile(quantile) as f64 / 1000.0;
    Turn {
        rate: count / load.time.as_secs_f64(),
        // Handshakes are in it: four to some ten thousand requests.
        cpu: cpu.as_secs_f64() * 1e6 / count,
        p50: micros(0.5),
        p99: micros(0.99),
        busy: cpu.as_secs_f64() / load.time.as_secs_f64(),
    }
}

struct Load {
    latencies: Histogram<u64>,
    time: Duration,
}

/// Opens the connections, asks for so long, and waits for the last answers.
fn load(port: u16, variant: &Variant, time: Duration) -> Result<Load, String> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            senders.push(connect(port).await?);
        }
        let (name, value) = variant.field();
        let request = http::Request::get(format!("https://{}{}", variant.host(), variant.path())).header(name, value);
        let request = Rc::new(request.body(()).map_err(|error| error.to_string())?);
        let latencies = Rc::new(RefCell::new(pace::histogram()));
        let begin = Instant::now();
        let mut streams = Vec::new();
        for sender in senders.iter().flat_map(|sender| std::iter::repeat_n(sender, STREAMS)) {
            let (sender, request, latencies) = (sender.clone(), Rc::clone(&request), Rc::clone(&latencies));
            let status = variant.status();
            streams.push(tokio::task::spawn_local(async move {
                let mut sender = sender;
                while begin.elapsed() < time {
                    let sent = Instant::now();
                    sender = one(sender, &request, status).await?;
                    latencies
                        .borrow_mut()
                        .saturating_record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
                }
                Ok::<_, String>(())
            }));
        }
        for stream in streams {
            stream.await.map_err(|error| error.to_string())??;
        }
        let latencies = latencies.borrow().clone();
        Ok(Load { latencies, time: begin.elapsed() })
    })
}

async fn connect(port: u16) -> Result<SendRequest<Bytes>, String> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| error.to_string())?;
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    let tls = http2::secure(socket).await.map_err(|error| error.to_string())?;
    let (sender, connection) = h2::client::handshake(tls).await.map_err(|error| error.to_string())?;
    tokio::task::spawn_local(async move {
        // Whatever it was, the streams say it too.
        let _ = connection.await;
    });
    Ok(sender)
}

/// One request and its whole answer.
async fn one(
    sender: SendRequest<Bytes>,
    request: &http::Request<()>,
    status: u16,
) -> Result<SendRequest<Bytes>, String> {
    let said = |error: h2::Error| error.to_string();
    let mut sender = sender.ready().await.map_err(said)?;
    let (response, _) = sender.send_request(request.clone(), true).map_err(said)?;
    let (head, mut body) = response.await.map_err(said)?.into_parts();
    if head.status.as_u16() != status {
        return Err(format!("answered {}", head.status));
    }
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.map_err(said)?.len()).map_err(said)?;
    }
    Ok(sender)
}

impl Measured {
    fn of(&self, at: usize, figure: impl Fn(&Turn) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|round| figure(&round[at])))
    }

    fn against(&self, at: usize, compare: impl Fn(&Turn, &Turn) -> f64) -> Spread {
        let base = find(&self.variants, BASE).unwrap_or_default();
        Spread::of(self.rounds.iter().map(|round| compare(&round[at], &round[base])))
    }

    /// The table, and the plot that it names.
    pub(crate) fn markdown(&self, machine: &Machine) -> String {
        let mut out = String::new();
        let Machine { cpu, cores, ats, load, .. } = machine;
        let _ = writeln!(
            out,
            "Machine: {cpu}, {cores} cores; {ats}; load average when the run began: {load}.\n\n\
             Cache hits of 100 bytes over HTTP/2 and TLS: {CONNECTIONS} connections with {STREAMS} streams each, a client of one \
             thread. {} rounds of {} s; medians, in parentheses the least and the greatest. \"Of no plugin\" and \"beyond\" compare \
             within a round.\n",
            self.rounds.len(),
            self.seconds
        );
        let _ = writeln!(
            out,
            "| | requests/s | of no plugin | CPU µs/request | beyond no plugin, µs | p50 µs | p99 µs | server busy |"
        );
        let _ = writeln!(out, "| --- | --: | --: | --: | --: | --: | --: | --: |");
        for (at, variant) in self.variants.iter().enumerate() {
            let (mut ratio, mut beyond) = ("1".to_owned(), String::new());
            if variant.key != BASE {
                ratio = self.against(at, |turn, base| turn.rate / base.rate).show(3);
                beyond = self.against(at, |turn, base| turn.cpu - base.cpu).show_signed(2);
            }
            let _ = writeln!(
                out,
                "| {} | {:.0} | {ratio} | {:.2} | {beyond} | {:.0} | {:.0} | {:.0} % |",
                variant.title,
                self.of(at, |turn| turn.rate).median,
                self.of(at, |turn| turn.cpu).median,
                self.of(at, |turn| turn.p50).median,
                self.of(at, |turn| turn.p99).median,
                self.of(at, |turn| turn.busy * 100.0).median,
            );
        }
        out.push_str("\n![processor time beyond no plugin](plots/http2-cpu.svg)\n");
        out
    }

    /// Writes the plot into a folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn plot(&self, folder: &Path) -> std::io::Result<()> {
        let bars = self.variants.iter().enumerate().filter(|(_, variant)| variant.key != BASE).map(|(at, variant)| {
            let spread = self.against(at, |turn, base| turn.cpu - base.cpu);
            Bar { name: variant.title.to_owned(), value: spread.median, least: spread.low, greatest: spread.high }
        });
        let bars = Bars {
            title: "HTTP/2, cache hits: processor time beyond no plugin".to_owned(),
            x: "µs a request".to_owned(),
            mark: None,
            bars: bars.collect(),
        };
        bars.write(&folder.join("http2-cpu.svg"))
    }
}
