//! Callouts: what pausing for one adds to the time of the call, and what a paused transaction costs in memory.
//!
//! *Time.* One client asks one thing after the other on one connection, for a response from the cache: through a rule whose
//! filter makes no call, and through the same rule with a call that the transaction waits for, over HTTP/1.1 and over
//! HTTP/2. A bare hyper client makes the same call on a connection of its own. What the pause adds is the difference of the
//! first two, less the last: the ways between threads, the callback, and what calls cost beyond hyper.
//!
//! *Memory.* The resident memory by which a fresh server grows with so many transactions that wait: with no filter, for an origin
//! that does not answer, or that does not go on after its header; and for an upstream that does not answer, where request
//! headers are held, or response headers of that second origin. The upstream is spoken to by HTTP/2, so that the calls need no
//! sockets of their own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer, Upstream, wait_until};

use crate::machine::Machine;
use crate::stats::Spread;

/// What a pause may add at the median, in microseconds.
const TIME_BAR: f64 = 150.0;
/// What a paused transaction may cost beyond one of ATS's own that waits, in KiB.
const MEMORY_BAR: f64 = 8.0;
/// Requests of one kind in a round.
const REQUESTS: usize = 1000;
/// Transactions that wait at once.
const WAITING: usize = 5000;
/// How long the last of them may take to get where it waits.
const PATIENCE: Duration = Duration::from_secs(120);

/// One kind of request in one round, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Times {
    median: f64,
    /// Of a hundred, the slowest but one.
    p99: f64,
}

/// One round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Round {
    /// No call.
    without: Times,
    /// With a call, over HTTP/1.1 and over HTTP/2.
    with: [Times; 2],
    /// A bare client's call.
    bare: Times,
}

impl Times {
    fn of(mut times: Vec<f64>) -> Times {
        times.sort_by(f64::total_cmp);
        Times { median: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
    }
}

impl Round {
    /// What the pause adds, by protocol.
    fn added(&self, protocol: usize) -> f64 {
        self.with[protocol].median - self.without.median - self.bare.median
    }
}

/// By how many KiB a server grew for each transaction that waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Memory {
    /// With no filter: for an origin that does not answer, and for one that stops after its header.
    origin: [f64; 2],
    /// With request headers held, and with response headers of the latter held.
    held: [f64; 2],
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    rounds: Vec<Round>,
    memory: Vec<Memory>,
}

/// A server with a rule that has the guest `callout`, and one that has nothing.
fn start(origin: &str, upstream: &Upstream) -> TrafficServer {
    let address = upstream.address();
    TrafficServer::builder()
        .variable("origin", origin)
        .variable("slow", &address)
        .record("proxy.config.config_update_interval_ms", 600_000)
        .record("proxy.config.log.logging_enabled", 0)
        .record("proxy.config.http.transaction_no_activity_timeout_in", 600)
        .record("proxy.config.http.transaction_no_activity_timeout_out", 600)
        .rule(Rule::new("call.test", "http://{origin}/").wasm(["call.yaml"]))
        .rule(Rule::new("plain.test", "http://{slow}/"))
        .file(
            "call.yaml",
            &format!(
                "clusters:\n  upstream: {{endpoints: ['{address}'], max_in_flight: 100000}}\n  h2: {{endpoints: ['{address}'], \
                 protocol: http2, max_in_flight: 100000}}\nfilters:\n  - name: callout\n    module: {{guest:callout}}\n    \
                 body: none\n    limits: {{pause_ms: 600000, callouts: 65536}}\n"
            ),
        )
        .start()
}

/// Measures so many rounds of times, and memory once for every third of them.
pub(crate) fn run(rounds: usize) -> Measured {
    let rounds_done = times(rounds);
    let memory = (0..rounds.div_ceil(3))
        .map(|number| {
            let memory = Memory {
                origin: ["/hang", "/stall"].map(|path| grown("plain.test", path, None)),
                held: ["request_headers", "response_headers"].map(|at| {
                    grown("call.test", "/stall", Some(&format!("call at={at} cluster=h2 path=/hang timeout=0")))
                }),
            };
            eprintln!("callouts, memory {}, KiB: {memory:.2?}", number + 1);
            memory
        })
        .collect();
    Measured { rounds: rounds_done, memory }
}

fn times(rounds: usize) -> Vec<Round> {
    let upstream = Upstream::start();
    let origin = Origin::start();
    origin.discard();
    origin.route("/*", Reply::new(200).cacheable(3600).body([b'x'; 100]));
    let server = start(&origin.address(), &upstream);
    let call = |cluster: &str| format!("call cluster={cluster} path=/status/200");
    let programs = ["", &call("upstream"), &call("h2")].map(str::to_owned);
    let mut bare = Bare::connect(upstream.port());
    let mut round = || {
        let [without, http1, http2] = programs.each_ref().map(|program| requests(server.port(), program));
        Round { without, with: [http1, http2], bare: bare.requests() }
    };
    round();
    (0..rounds)
        .map(|number| {
            let round = round();
            eprintln!("callouts, round {}/{rounds}, µs: {round:.1?}", number + 1);
            round
        })
        .collect()
}

/// Times of requests with this program.
fn requests(port: u16, program: &str) -> Times {
    let mut client = Client::connect(port);
    let header = [("x-callout", program)];
    let headers = if program.is_empty() { &[] } else { &header[..] };
    let mut times = Vec::with_capacity(REQUESTS);
    for count in 0..=REQUESTS {
        let begin = Instant::now();
        let response = client.request("GET", "call.test", "/", headers, b"");
        let time = begin.elapsed();
        assert_eq!(response.status, 200, "{program}");
        let told = response.header("x-callout-result").unwrap_or_default();
        assert_eq!(told.contains(" status=200 "), !program.is_empty(), "{program}: {told}");
        // The first one connects.
        if count > 0 {
            times.push(micros(time));
        }
    }
    Times::of(times)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A client that does nothing else, on this thread.
struct Bare {
    runtime: tokio::runtime::Runtime,
    sender: http1::SendRequest<Empty<Bytes>>,
}

impl Bare {
    fn connect(port: u16) -> Bare {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
            stream.set_nodelay(true).expect("an option");
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
            tokio::spawn(connection);
            sender
        });
        Bare { runtime, sender }
    }

    fn requests(&mut self) -> Times {
        let sender = &mut self.sender;
        let times = self.runtime.block_on(async {
            let mut times = Vec::with_capacity(REQUESTS);
            for _ in 0..REQUESTS {
                sender.ready().await.expect("a connection");
                let request = hyper::Request::get("/status/200").header("host", "callout.test").body(Empty::new());
                let begin = Instant::now();
                let response = sender.send_request(request.expect("a request")).await.expect("a response");
                response.into_body().collect().await.expect("a body");
                times.push(micros(begin.elapsed()));
            }
            times
        });
        Times::of(times)
    }
}

/// By how many KiB a fresh server grows for each transaction of [`WAITING`] that waits.
fn grown(host: &str, path: &str, program: Option<&str>) -> f64 {
    let upstream = Upstream::start();
    let server = start(&upstream.address(), &upstream);
    let header = program.map(|program| format!("x-callout: {program}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n");
    // What the first of them needs once is not counted.
    let mut clients = vec![send(server.port(), &request)];
    let last = if program.is_some() { "/hang" } else { path };
    let hangs = |count| {
        wait_until(PATIENCE, "transactions that wait", || (upstream.requests_to(last) >= count).then_some(()));
        thread::sleep(Duration::from_secs(1));
    };
    hangs(1);
    let before = server.rss_kib();
    clients.extend((0..WAITING).map(|_| send(server.port(), &request)));
    hangs(1 + WAITING);
    let after = server.rss_kib();
    assert_eq!((upstream.requests_to(last), upstream.given_up()), (1 + WAITING, 0), "{path} {program:?}: all wait");
    drop(clients);
    (after as f64 - before as f64) / WAITING as f64
}

fn send(port: u16, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.write_all(request.as_bytes()).expect("a request");
    stream
}

/// What was measured, as spreads.
struct Figures {
    added: [Spread; 2],
    /// What the added time is of the bare client's.
    ratio: [Spread; 2],
    memory: [Spread; 2],
}

fn figures(measured: &Measured) -> Figures {
    let Measured { rounds, memory } = measured;
    let spread = |figure: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
    Figures {
        added: [0, 1].map(|protocol| spread(&|round| round.added(protocol))),
        ratio: [0, 1].map(|protocol| spread(&|round| round.added(protocol) / round.bare.median)),
        memory: [0, 1].map(|at| Spread::of(memory.iter().map(|memory| memory.held[at] - memory.origin[at]))),
    }
}

/// The tables.
pub(crate) fn markdown(machine: &Machine, measured: &Measured) -> String {
    let Measured { rounds, memory } = measured;
    let Machine { cpu, cores, ats, load, .. } = machine;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Machine: {cpu}, {cores} cores; {ats}; load average when the run began: {load}.\n\n\
         One client, one request after the other, {} rounds of {REQUESTS} requests of each kind: medians of a round's medians, least \
         and greatest in parentheses. The bar is {TIME_BAR} µs.\n",
        rounds.len()
    );
    let times = |of: &dyn Fn(&Round) -> Times| {
        let show = |figure: fn(Times) -> f64| Spread::of(rounds.iter().map(|round| figure(of(round)))).show(0);
        format!("{} | {}", show(|times| times.median), show(|times| times.p99))
    };
    let Figures { added, ratio, memory: beyond } = figures(measured);
    let _ = writeln!(
        out,
        "| | µs | 99 % | added by the pause | of the bare client's time |\n| --- | --: | --: | --: | --: |"
    );
    let _ = writeln!(out, "| the call, by a bare hyper client over HTTP/1.1 | {} | | |", times(&|round| round.bare));
    let _ = writeln!(out, "| a cache hit, whose filter makes no call | {} | | |", times(&|round| round.without));
    for (protocol, name) in ["HTTP/1.1", "HTTP/2"].into_iter().enumerate() {
        let (added, ratio) = (added[protocol].show(0), ratio[protocol].show(2));
        let times = times(&|round| round.with[protocol]);
        let _ =
            writeln!(out, "| a cache hit, whose filter waits for a call over {name} | {times} | {added} | {ratio} |");
    }
    let _ = writeln!(
        out,
        "\n{WAITING} transactions that wait at once, {} fresh servers of each kind: resident memory of each transaction. The bar is \
         {MEMORY_BAR} KiB beyond ATS's own that wait where they do.\n\n| | KiB | beyond ATS's own |\n| --- | --: | --: |",
        memory.len()
    );
    let spread = |figure: &dyn Fn(&Memory) -> f64| Spread::of(memory.iter().map(figure)).show(1);
    let origins = ["an origin that does not answer", "an origin that stops after its header"];
    for (at, origin) in origins.into_iter().enumerate() {
        let held = ["request headers held, and no origin asked", "response headers held"][at];
        let _ = writeln!(out, "| no filter, {origin} | {} | |", spread(&|memory| memory.origin[at]));
        let (own, beyond) = (spread(&|memory| memory.held[at]), beyond[at].show_signed(1));
        let _ = writeln!(out, "| a call that does not answer, {held} | {own} | {beyond} |");
    }
    out
}

/// Whether pauses add no more than they may, and cost no more memory.
///
/// # Errors
/// The same figures, if it is otherwise.
pub(crate) fn check(measured: &Measured) -> Result<String, String> {
    let Figures { added, memory, .. } = figures(measured);
    let line = format!(
        "a pause for a call adds {} µs over HTTP/1.1 and {} over HTTP/2, at most {TIME_BAR}; {WAITING} paused at the request cost \
         {} KiB each beyond ATS's own, and at the response {}, at most {MEMORY_BAR}",
        added[0].show(0),
        added[1].show(0),
        memory[0].show_signed(1),
        memory[1].show_signed(1)
    );
    let within =
        added.iter().all(|added| added.median <= TIME_BAR) && memory.iter().all(|kib| kib.median <= MEMORY_BAR);
    if within { Ok(line) } else { Err(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bar_is_held() {
        let times = |median| Times { median, p99: 2.0 * median };
        let measured = |http2: f64, held: f64| Measured {
            rounds: vec![Round { without: times(100.0), with: [times(250.0), times(http2)], bare: times(50.0) }],
            memory: vec![Memory { origin: [30.0, 40.0], held: [20.0, held] }],
        };
        let line = check(&measured(300.0, 48.0)).unwrap();
        assert!(line.contains("100 (100–100) µs over HTTP/1.1 and 150 (150–150)"), "{line}");
        assert!(check(&measured(301.0, 48.0)).is_err());
        assert!(check(&measured(300.0, 48.1)).is_err());
    }
}
