//! Ten thousand transactions with bodies, of which most end early, at every place where they can: nothing is left of
//! them, and those that were to succeed did.

use std::collections::BTreeMap;
use std::env;
use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::{Ask, Client, Http2, Origin, Payload, Reply, Request, Rule, Sending, TrafficServer, wait_until};

/// How many transactions there are at least. `WASM_REMAP_ABORTS` says another number.
const TRANSACTIONS: usize = 10_000;
/// What memory may grow by between the third quarter of them and the last, in KiB.
const GROWTH: u64 = 8 << 10;
const QUARTERS: usize = 4;
const WORKERS: u64 = 4;

const FILTERS: &str = "filters:\n  - name: body\n    module: {guest:body}\n    limits: {callback_ms: 5000}\n";

/// A sequence of numbers that is the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

fn origin() -> Origin {
    let origin = Origin::start();
    origin.discard();
    // /<how>/<bytes>
    origin.route("/*", |request: &Request| {
        let mut parts = request.path().split('/').skip(1);
        let how = parts.next().unwrap_or_default().to_owned();
        let len: u64 = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let reply = Reply::new(200).generated(len, len);
        match how.as_str() {
            "chunked" => reply.chunked(7000),
            "close" => reply.until_close(),
            "late" => reply.delay(Duration::from_millis(15)),
            "cached" => reply.cacheable(600),
            "cut" => reply.close_after(len / 2),
            "reset" => reply.reset_after(len / 2),
            "chunked-reset" => reply.chunked(7000).reset_after(len / 2),
            "nothing" => Reply::raw(""),
            "no-body" => Reply::new(204),
            _ => reply,
        }
    });
    // Without having read what it was sent.
    origin.route_early("/early/*", Reply::new(200).body("early").close());
    origin
}

/// Where a transaction is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Nowhere.
    Whole,
    /// The client leaves when it has sent a part of its request.
    InRequest,
    /// The client leaves before there can be a response.
    BeforeResponse,
    /// The client leaves when it has read a part of the response.
    InResponse,
    /// The origin leaves, one way or another.
    AtOrigin,
    /// A filter answers, or holds more than it may.
    AtFilter,
}

struct Plan {
    place: Place,
    ask: Ask,
    /// What the response has in bytes, if it is to be whole.
    expected: u64,
    /// How much of the body is sent or read before the end.
    part: u64,
    gentle: bool,
}

fn plan(dice: &mut Dice) -> Plan {
    use Place::{AtFilter, AtOrigin, BeforeResponse, InRequest, InResponse, Whole};
    let place = dice.one(&[
        Whole,
        Whole,
        Whole,
        InRequest,
        InRequest,
        BeforeResponse,
        InResponse,
        InResponse,
        AtOrigin,
        AtFilter,
    ]);
    let host = dice.one(&["stream.test", "buffer.test"]);
    let down = dice.one(&[0, 1, 3000, 65_536, 300_000]);
    let up = dice.one(&[1, 3000, 65_536, 300_000]);
    let operation = dice.one(&["pass", "append", "inject:1000", "replace", "hold", "read"]);
    let how = match place {
        Whole | InResponse => dice.one(&["length", "chunked", "cached", "close"]),
        BeforeResponse => "late",
        AtOrigin => dice.one(&["cut", "reset", "chunked-reset", "nothing", "early"]),
        InRequest | AtFilter => "length",
    };
    let down = match place {
        // A part of a response needs one that is larger than what waits in sockets.
        InResponse => 3_000_000,
        // And an origin that leaves in the middle one that has a middle.
        AtOrigin => down.max(3000),
        _ => down,
    };
    let posts = matches!(place, InRequest | AtFilter) || dice.below(2) == 0;
    let mut ask = Ask::new(if posts { "POST" } else { "GET" }, host, &format!("/{how}/{down}"));
    let (mut request, mut response) = (operation, dice.one(&["pass", "append", "hold", "read"]));
    if place == InResponse && response == "hold" {
        // It would become 503.
        response = "pass";
    }
    if place == AtFilter {
        (request, response) = dice.one(&[("answer", "pass"), ("pass", "answer"), ("hold", "pass")]);
    }
    ask = ask.header("x-op", &format!("request:{request}, response:{response}"));
    let up = if place == AtFilter && request == "hold" { 1_500_000 } else { up };
    if posts {
        let sending = if dice.below(2) == 0 { Sending::Length } else { Sending::Chunked(5000) };
        ask = ask.body(Payload::seed(up, up)).sending(sending);
    }
    let expected = down + if response == "append" { 10 } else { 0 };
    let part = match place {
        InResponse => dice.below(200_000),
        _ => dice.below(up),
    };
    Plan { place, ask, expected, part, gentle: dice.below(2) == 0 }
}

/// Whether a response is what the plan wants of one that is whole.
fn judge(plan: &Plan, status: u16, len: u64) -> Result<(), String> {
    match plan.place {
        // An empty body may have no callback that could append to it.
        Place::Whole if status == 200 && (len == plan.expected || (plan.expected == 10 && len == 0)) => Ok(()),
        Place::Whole => Err(format!("{status} with {len} bytes instead of {}", plan.expected)),
        Place::AtFilter if !matches!(status, 403 | 413 | 200) => Err(format!("{status}")),
        _ => Ok(()),
    }
}

fn by_http1(plan: &Plan, port: u16) -> Result<(), String> {
    let mut client = Client::connect(port).discard_bodies();
    match plan.place {
        Place::Whole | Place::AtFilter => {
            let response = client.exchange(&plan.ask).map_err(|error| error.to_string())?;
            return judge(plan, response.status, response.body_len);
        }
        Place::AtOrigin => {
            let _ = client.exchange(&plan.ask);
            return Ok(());
        }
        Place::InRequest => {
            client.send(plan.ask.head());
            let _ = plan.ask.write_body(&mut client.writer(), plan.part);
        }
        Place::BeforeResponse => {
            client.send(plan.ask.head());
            let _ = plan.ask.write_body(&mut client.writer(), u64::MAX);
            thread::sleep(Duration::from_millis(plan.part % 10));
        }
        Place::InResponse => {
            client = client.small_window(32 << 10);
            client.send(plan.ask.head());
            let _ = plan.ask.write_body(&mut client.writer(), u64::MAX);
            let _ = client.connection();
            thread::sleep(Duration::from_millis(plan.part % 10));
        }
    }
    if !plan.gentle {
        client.abort();
    }
    Ok(())
}

/// A connection is used for some; one that resets its uploads runs out of window, which ATS never gives back.
fn by_http2(plan: &Plan, connection: &mut Option<Http2>, port: u16) -> Result<(), String> {
    let mut client = match connection.take() {
        Some(client) => client,
        None => Http2::try_connect(port, 65_535).map_err(|error| error.to_string())?.discard_bodies(),
    };
    match plan.place {
        Place::Whole => {
            let response = client.exchange(&plan.ask).map_err(|error| error.to_string())?;
            *connection = Some(client);
            return judge(plan, response.status, response.body_len);
        }
        Place::AtFilter => {
            let response = client.exchange(&plan.ask).map_err(|error| error.to_string())?;
            return judge(plan, response.status, response.body_len);
        }
        Place::AtOrigin => {
            let _ = client.exchange(&plan.ask);
            return Ok(());
        }
        Place::InRequest | Place::BeforeResponse | Place::InResponse => {}
    }
    let mut exchange = client.open(&plan.ask).map_err(|error| error.to_string())?;
    let part = if plan.place == Place::InRequest { plan.part } else { u64::MAX };
    if client.send(&mut exchange, part).is_ok() && plan.place == Place::InResponse {
        let _ = client.head(&mut exchange).and_then(|_| client.read(&mut exchange, plan.part));
    }
    if plan.gentle {
        client.reset(exchange, 8);
        // Only what took nothing of the connection's window leaves it usable.
        if !plan.ask.has_body() {
            *connection = Some(client);
        }
    } else {
        client.abort();
    }
    Ok(())
}

/// What a worker did: how many of each place, and what went wrong.
type Tally = (BTreeMap<Place, usize>, Vec<String>);

fn work(server: &TrafficServer, seed: u64, count: usize) -> Tally {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut places, mut wrong) = (BTreeMap::new(), Vec::new());
    let mut connection = None;
    for _ in 0..count {
        let plan = plan(&mut dice);
        *places.entry(plan.place).or_insert(0) += 1;
        let http2 = dice.below(3) == 0;
        let outcome =
            if http2 { by_http2(&plan, &mut connection, server.tls_port()) } else { by_http1(&plan, server.port()) };
        if let Err(what) = outcome {
            let head = String::from_utf8_lossy(&plan.ask.head()).replace("\r\n", " | ");
            wrong.push(format!("{:?}, HTTP/2 {http2}: {what}: {head}", plan.place));
            if wrong.len() > 20 {
                break;
            }
        }
    }
    (places, wrong)
}

#[test]
fn ten_thousand_transactions_that_end_anywhere_leave_nothing() {
    let origin = origin();
    let mut builder = TrafficServer::builder()
        .origin(&origin)
        .tls()
        .stats()
        .record("proxy.config.http.post_copy_size", 200 << 20)
        .record("proxy.config.http2.initial_window_size_in", 200 << 20)
        .record("proxy.config.http.send_100_continue_response", 1);
    for (host, file, keys) in
        [("stream.test", "stream.yaml", ""), ("buffer.test", "buffer.yaml", "    request_body: buffer\n")]
    {
        builder = builder
            .rule(Rule::new(host, "http://{origin}/").wasm([file]))
            .rule(Rule::new(host, "http://{origin}/").tls().wasm([file]))
            .file(file, &format!("{FILTERS}{keys}"));
    }
    let server = builder.start();
    let wanted = env::var("WASM_REMAP_ABORTS").map_or(TRANSACTIONS, |text| text.parse().expect("a number"));
    let begin = Instant::now();
    let mut places: BTreeMap<Place, usize> = BTreeMap::new();
    let mut memory = Vec::new();
    let mut failures: Vec<String> = Vec::new();
    for quarter in 0..QUARTERS as u64 {
        let share = wanted.div_ceil(QUARTERS * WORKERS as usize);
        let tallies: Vec<Tally> = thread::scope(|scope| {
            let server = &server;
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| scope.spawn(move || work(server, 1 + quarter * WORKERS + worker, share)))
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("the worker ran")).collect()
        });
        for (some, wrong) in tallies {
            some.into_iter().for_each(|(place, count)| *places.entry(place).or_insert(0) += count);
            failures.extend(wrong);
        }
        memory.push(server.rss_kib());
        assert!(failures.is_empty(), "{} went wrong:\n  {}", failures.len(), failures.join("\n  "));
    }
    let time = begin.elapsed();

    // What was begun has ended, here and at the origin.
    let mut told = Instant::now();
    wait_until(Duration::from_secs(60), "the end of all transactions in ATS", || {
        let metrics = server.metrics();
        let number = |name: &str| metrics.get(name).copied().unwrap_or(0);
        // The request for the metrics is one.
        let open = number("proxy.process.http.current_client_transactions");
        let streams = number("proxy.process.http2.current_client_streams");
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let contexts = number("wasm_remap.streams_created") - number("wasm_remap.streams_deleted");
            println!("left: {open} transactions, {streams} streams of HTTP/2, {contexts} contexts of filters");
        }
        (open <= 1 && streams == 0).then_some(())
    });
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["streams_created"] > 0 && counters["streams_created"] == counters["streams_deleted"]
    });
    let total: usize = places.values().sum();
    println!("{total} transactions in {time:.1?}: {places:?}; memory by quarters, in KiB: {memory:?}");
    println!(
        "{} transactions met filters, {} contexts created and deleted, {} traps, {} panics",
        counters["transactions"], counters["streams_created"], counters["traps"], counters["panics"]
    );
    assert_eq!((counters["traps"], counters["panics"], counters["vms_dropped"]), (0, 0, 0));
    let growth = memory[QUARTERS - 1].saturating_sub(memory[QUARTERS - 2]);
    assert!(growth < GROWTH, "memory grows, in KiB: {memory:?}");

    let mut client = Client::connect(server.port());
    for host in ["stream.test", "buffer.test"] {
        let response = client.exchange(&Ask::post(host, "/length/5000", Payload::seed(1, 70_000))).expect("a response");
        assert_eq!((response.status, response.body_len), (200, 5000));
    }
    // The speed of bodies that pass, beside a transform that does nothing, is measured in tests/bench.
}
