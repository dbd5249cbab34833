//! Services and timers: what runs in the background, once in the process, and delays nobody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::{Builder, Client, Origin, Reply, Request, Rule, TrafficServer, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A service of the guest `service`.
fn service(name: &str, configuration: &str) -> String {
    format!(
        "  - name: {name}\n    module: {{guest:service}}\n    root_id: service\n    vm_id: services\n    \
         configuration: {{name: {name}, {configuration}}}\n"
    )
}

/// The filter that tells what services have counted, and these services.
fn file(services: &str) -> String {
    let filter = "filters:\n  - name: tell\n    module: {guest:service}\n    body: none\n    root_id: tell\n    vm_id: services\n";
    if services.is_empty() { filter.to_owned() } else { format!("services:\n{services}{filter}") }
}

/// Rules for the hosts `a.test`, `b.test` and so on, each of which names the same services.
fn builder(origin: &Origin, rules: usize, services: &str) -> Builder {
    let builder = TrafficServer::builder().origin(origin).threads(4).stats();
    (b'a'..).take(rules).map(char::from).fold(builder, |builder, name| {
        let path = format!("{name}.yaml");
        builder
            .rule(Rule::new(&format!("{name}.test"), "http://{origin}/").wasm([path.as_str()]))
            .file(&path, &file(services))
    })
}

/// What a service has counted, and the VMs that it has had.
#[derive(Debug)]
struct Counts {
    numbers: BTreeMap<String, i64>,
    vms: Vec<String>,
}

impl Counts {
    #[track_caller]
    fn of(client: &mut Client, name: &str) -> Counts {
        let text = client.request("GET", "a.test", "/", &[("x-service", name)], b"").text();
        let (mut numbers, mut vms) = (BTreeMap::new(), Vec::new());
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "vm" => vms.push(value.to_owned()),
                _ => _ = numbers.insert(key.to_owned(), value.parse().expect("a number")),
            }
        }
        Counts { numbers, vms }
    }

    fn get(&self, what: &str) -> i64 {
        self.numbers.get(what).copied().unwrap_or_default()
    }
}

#[track_caller]
fn until(client: &mut Client, name: &str, what: &str, reached: impl Fn(&Counts) -> bool) -> Counts {
    wait_until(PATIENCE, what, || {
        let counts = Counts::of(client, name);
        reached(&counts).then_some(counts)
    })
}

/// Three rules on four threads name it; it is there once, and each of its ticks comes when it is due.
#[test]
fn a_service_runs_once_and_ticks_by_the_clock() {
    const PERIOD: Duration = Duration::from_millis(20);
    let origin = Origin::start();
    let server = builder(&origin, 3, &service("clock", "tick_ms: 20")).start();
    let mut client = Client::connect(server.port());
    let mut off = Vec::new();
    // A machine that is busy with other things may stand still for longer than a tick: one of several spans has to be right.
    for _ in 0..5 {
        let first = until(&mut client, "clock", "a tick", |counts| counts.get("ticked") > 0).get("ticked");
        // From right behind a tick to right behind another.
        let begin = until(&mut client, "clock", "the next tick", |counts| counts.get("ticked") > first).get("ticked");
        let begun = Instant::now();
        thread::sleep(Duration::from_secs(2));
        let ticks = Counts::of(&mut client, "clock").get("ticked") - begin;
        let expected = begun.elapsed().as_secs_f64() / PERIOD.as_secs_f64();
        off.push(ticks as f64 - expected);
        if off.last().is_some_and(|off| off.abs() <= 1.5) {
            break;
        }
    }
    println!("ticks too many, in each span: {off:?}");
    assert!(off.last().is_some_and(|off| off.abs() <= 1.5), "{off:?}");
    let counts = Counts::of(&mut client, "clock");
    assert_eq!((counts.vms.len(), counts.get("started"), counts.get("configured")), (1, 1, 1), "{counts:?}");
    assert_eq!(counts.get("together"), 0, "{counts:?}");
    assert_eq!(server.thread_names().iter().filter(|name| name.starts_with("wasm-service")).count(), 1);
}

/// One that traps is built anew, later each time; the one beside it goes on.
#[test]
fn a_service_that_traps_is_built_anew_later_each_time() {
    let origin = Origin::start();
    let services = service("falling", "tick_ms: 10, panic_every: 3") + &service("steady", "tick_ms: 10");
    let server = builder(&origin, 1, &services).start();
    let mut client = Client::connect(server.port());
    let mut times = Vec::new();
    for vms in 1..=5 {
        until(&mut client, "falling", "another VM", |counts| counts.vms.len() >= vms);
        times.push(Instant::now());
    }
    let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("between VMs: {waits:?}");
    // After 250, 500, 1000 and 2000 ms, and the thirty that three ticks take.
    for (wait, least) in waits.iter().zip([250, 500, 1000, 2000]) {
        let least = Duration::from_millis(least);
        assert!(*wait >= least - Duration::from_millis(100) && *wait < least * 2 + Duration::from_secs(1), "{waits:?}");
    }
    let steady = Counts::of(&mut client, "steady");
    assert_eq!(steady.vms.len(), 1);
    assert!(steady.get("ticked") > 150, "{steady:?}");
    let line = server.wait_for_log("at tick 3", PATIENCE);
    assert!(line.contains("[falling]"), "{line}");
}

/// The median time of a request, of so many.
fn median(client: &mut Client, count: usize) -> Duration {
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(client.get("a.test", "/").status, 200);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[count / 2]
}

/// One that spins is ended by its deadline; it has a thread of its own, so that it holds nobody up.
#[test]
fn a_service_that_spins_is_ended_and_delays_nobody() {
    let origin = Origin::start();
    let services = "  - name: spinning\n    module: {guest:service}\n    root_id: service\n    vm_id: services\n    \
                    limits: {callback_ms: 1500}\n    configuration: {name: spinning, tick_ms: 1500, spin_at: 1}\n";
    let server = builder(&origin, 1, services).start();
    let mut client = Client::connect(server.port());
    let before = median(&mut client, 200);
    until(&mut client, "spinning", "the tick that spins", |counts| counts.get("ticks") == 1);
    let meanwhile = median(&mut client, 200);
    let counters = server.counters("its deadline", |counters| counters["deadlines"] == 1);
    assert_eq!(counters["traps"], 1);
    until(&mut client, "spinning", "it goes on", |counts| counts.vms.len() == 2 && counts.get("ticked") > 0);
    println!("median of a request: {before:?}, {meanwhile:?} while it spins");
    assert!(meanwhile < before * 5 + Duration::from_millis(5), "{before:?}, {meanwhile:?} while it spins");
}

/// As long as a rule describes it as before it goes on; else it ends, and what is described starts.
#[test]
fn reloads_keep_replace_and_end_services() {
    let origin = Origin::start();
    let kept = service("kept", "tick_ms: 10");
    let changed = |tick: u32| service("changed", &format!("tick_ms: {tick}"));
    let server = builder(&origin, 2, &(kept.clone() + &changed(10))).manager().start();
    let mut client = Client::connect(server.port());
    let first = until(&mut client, "changed", "a tick", |counts| counts.get("ticked") > 0);

    for rule in ["a.yaml", "b.yaml"] {
        server.write_text(rule, &file(&(kept.clone() + &changed(20))));
    }
    server.reload().expect("the rules load");
    let mut client = Client::connect(server.port());
    let second = until(&mut client, "changed", "the old one's end", |counts| counts.get("done") == 1);
    assert_eq!((first.vms.len(), second.vms.len()), (1, 2));
    let counts = Counts::of(&mut client, "kept");
    assert_eq!((counts.vms.len(), counts.get("done")), (1, 0), "{counts:?}");
    until(&mut client, "changed", "the new one's ticks", |counts| counts.get("ticked") > second.get("ticked"));

    // One rule of two still names them.
    server.write_text("a.yaml", &file(""));
    server.reload().expect("the rules load");
    let mut client = Client::connect(server.port());
    let ticked = Counts::of(&mut client, "kept").get("ticked");
    until(&mut client, "kept", "more ticks", |counts| counts.get("ticked") > ticked + 5);

    server.write_text("b.yaml", &file(""));
    server.reload().expect("the rules load");
    let mut client = Client::connect(server.port());
    for name in ["kept", "changed"] {
        until(&mut client, name, "its end", |counts| counts.get("done") == i64::from(name == "changed") + 1);
        let ticked = Counts::of(&mut client, name).get("ticked");
        thread::sleep(Duration::from_millis(100));
        assert_eq!(Counts::of(&mut client, name).get("ticked"), ticked, "{name} has ended");
    }
    wait_until(PATIENCE, "the threads of services end", || {
        (!server.thread_names().iter().any(|name| name.starts_with("wasm-service"))).then_some(())
    });
}

#[test]
fn a_service_that_refuses_its_configuration_stops_the_start() {
    let origin = Origin::start();
    let exit = builder(&origin, 1, &service("picky", "refuse: true")).start_expecting_failure();
    let line = exit.line("proxy_on_configure returned false");
    assert!(line.contains("a.yaml") && line.contains("service 'picky'"), "{line}");
    exit.line("service picky: refuses its configuration");
}

/// A tick that needs long has a rest as long as four of it: other plugin contexts and transactions are served between.
#[test]
fn a_slow_tick_leaves_its_thread_to_others() {
    const SLOW: Duration = Duration::from_millis(50);
    let origin = Origin::start();
    // As filters, on the one event thread there is; each has a VM of its own by its limits.
    let filter = |name: &str, callback: u32, configuration: &str| {
        format!(
            "  - name: {name}\n    module: {{guest:service}}\n    body: none\n    root_id: service\n    vm_id: services\n    \
             limits: {{callback_ms: {callback}}}\n    configuration: {{name: {name}, {configuration}}}\n"
        )
    };
    let slow = filter("slow", 1000, "tick_ms: 10, slow_ms: 50");
    let quick = filter("quick", 1001, "tick_ms: 10");
    let server = builder(&origin, 1, "")
        .threads(1)
        .rule(Rule::new("ticking.test", "http://{origin}/").wasm(["ticking.yaml"]))
        .file("ticking.yaml", &format!("filters:\n{slow}{quick}"))
        .start();
    let mut client = Client::connect(server.port());
    until(&mut client, "slow", "a tick", |counts| counts.get("ticked") > 0);
    let (begun, slow, quick) =
        (Instant::now(), Counts::of(&mut client, "slow").get("ticked"), Counts::of(&mut client, "quick").get("ticked"));
    let (mut served, mut longest) = (0, Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        assert_eq!(client.get("a.test", "/").status, 200);
        longest = longest.max(asked.elapsed());
        served += 1;
    }
    let elapsed = begun.elapsed();
    let slow = Counts::of(&mut client, "slow").get("ticked") - slow;
    let quick = Counts::of(&mut client, "quick").get("ticked") - quick;
    println!("in {elapsed:?}: {slow} slow ticks, {quick} quick ones, {served} requests, the longest {longest:?}");
    // A fifth of the thread at most, and one tick more.
    assert!(slow >= 2 && SLOW * (slow as u32 - 1) <= elapsed / 4, "{slow} slow ticks in {elapsed:?}");
    assert!(quick > 2 * slow, "{quick} quick ticks beside {slow} slow ones");
    assert!(served > 100, "{served} requests");
}

/// The file of the example `log-shipper`, with a batch of this many lines and this collector.
fn shipper(lines: usize, more: &str) -> String {
    format!(
        "clusters:\n  logs: {{endpoints: ['{{collector}}'], retries: 0, ejection: {{failures: 0, seconds: 1}}}}\n\
         namespaces: [{{vm_id: logs, queue_items: 100000}}]\n\
         services:\n  - name: shipper\n    module: {{guest:log-shipper}}\n    root_id: shipper\n    vm_id: logs\n    \
         configuration: {{queue: lines, cluster: logs, path: /ingest, batch_lines: {lines}, {more}}}\n\
         filters:\n  - name: collector\n    module: {{guest:log-shipper}}\n    root_id: collector\n    vm_id: logs\n    \
         body: none\n    configuration: {{queue: lines, fields: {{path: {{property: request.path}}}}}}\n"
    )
}

/// A collector of logs, and the batches that it has taken.
struct Collector {
    origin: Origin,
    batches: Arc<Mutex<Vec<String>>>,
    failing: Arc<AtomicBool>,
}

impl Collector {
    fn start() -> Collector {
        let origin = Origin::start();
        let (batches, failing) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (taken, fails) = (Arc::clone(&batches), Arc::clone(&failing));
        origin.route("/ingest", move |request: &Request| {
            if fails.load(Ordering::SeqCst) {
                return Reply::new(503);
            }
            let text = String::from_utf8(request.body.clone()).expect("text");
            taken.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            Reply::new(204)
        });
        Collector { origin, batches, failing }
    }

    fn batches(&self) -> Vec<String> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lines(&self) -> Vec<String> {
        self.batches().iter().flat_map(|batch| batch.lines()).map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait_for(&self, lines: usize) {
        wait_until(PATIENCE, "the lines", || (self.lines().len() >= lines).then_some(()));
    }
}

fn requests(server: &TrafficServer, from: usize, to: usize) {
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut client = Client::connect(server.port());
                for number in (from..to).skip(thread).step_by(4) {
                    assert_eq!(client.get("logged.test", &format!("/{number}")).status, 200);
                }
            });
        }
    });
}

/// Every one of these numbers stands in one line, and no other does.
#[track_caller]
fn complete(lines: &[String], count: usize) {
    let mut numbers: Vec<usize> = lines
        .iter()
        .map(|line| line.strip_prefix("{\"path\":\"/").and_then(|rest| rest.strip_suffix("\"}")).expect(line))
        .map(|number| number.parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..count), "{} lines of {count}", numbers.len());
}

fn logged(origin: &Origin, collector: &Collector, file: &str) -> Builder {
    TrafficServer::builder()
        .origin(origin)
        .threads(4)
        .stats()
        .variable("collector", &collector.origin.address())
        .record("proxy.config.http.cache.http", 0)
        .rule(Rule::new("logged.test", "http://{origin}/").wasm(["logged.yaml"]))
        .file("logged.yaml", file)
}

/// One line for each transaction, once, in batches; and none is lost while the collector fails.
#[test]
fn a_line_for_each_transaction_arrives_once() {
    let (origin, collector) = (Origin::start(), Collector::start());
    let server = logged(&origin, &collector, &shipper(100, "flush_ms: 100, retry_ms: 50, attempts: 1000")).start();
    requests(&server, 0, 1000);
    collector.wait_for(1000);
    complete(&collector.lines(), 1000);
    assert!(collector.batches().iter().all(|batch| batch.lines().count() <= 100));
    assert!(collector.batches().len() < 500, "{} batches", collector.batches().len());

    collector.failing.store(true, Ordering::SeqCst);
    requests(&server, 1000, 3000);
    let retried =
        |counters: &BTreeMap<String, i64>| counters.get("filter.log_shipper.retried").copied().unwrap_or_default();
    let counters = server.counters("retries", |counters| retried(counters) >= 2);
    assert!(counters["filter.log_shipper.shipped"] < 1200, "{counters:?}");
    collector.failing.store(false, Ordering::SeqCst);
    collector.wait_for(3000);
    complete(&collector.lines(), 3000);
    let counters = server.counters("all are counted", |counters| counters["filter.log_shipper.shipped"] == 3000);
    assert_eq!((counters["filter.log_shipper.failed"], counters["filter.log_shipper.dropped"]), (0, 0));
    println!("{} batches, {} retried", collector.batches().len(), retried(&counters));
}

/// When no rule names the service any more, it is given the time to send what it has.
#[test]
fn a_service_that_ends_sends_the_rest() {
    let (origin, collector) = (Origin::start(), Collector::start());
    let server = logged(&origin, &collector, &shipper(500, "flush_ms: 600000")).manager().start();
    requests(&server, 0, 1234);
    collector.wait_for(1000);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(collector.lines().len(), 1000, "the rest is no batch yet");
    server.rewrite_remap("map http://other.test/ http://{origin}/");
    server.reload().expect("the rules load");
    collector.wait_for(1234);
    complete(&collector.lines(), 1234);
    wait_until(PATIENCE, "the service's thread ends", || {
        (!server.thread_names().iter().any(|name| name.starts_with("wasm-service"))).then_some(())
    });
}
