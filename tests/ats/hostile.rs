//! Filters that do the worst they can: each is stopped within its limit, answered by its policy, named, counted; and the
//! other rules of the server do not notice, but for the time that a limit gives it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::harness::ports::Lease;
use wasm_remap_tests::{Builder, Client, Origin, Reply, Rule, TrafficServer, artifacts, get, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a callback may take, in milliseconds.
const CALLBACK: u64 = 20;
/// Each connection sends so often to a hostile rule, and to the good one in its place.
const PACE: Duration = Duration::from_millis(1);

/// A filter and what is said of it.
struct Hostile {
    name: &'static str,
    /// `{guest:NAME}`, or a file of tests/guests/wat without its extension.
    module: &'static str,
    configuration: &'static str,
    /// The label `reason` of its traps; empty if it does not trap.
    reason: &'static str,
    /// The limit that it meets, as metrics name it; empty if none.
    limit: &'static str,
    /// A part of its log line.
    says: &'static str,
}

/// One of them reads it, and has its allocator asked for room.
const HEADERS: &[(&str, &str)] = &[("user-agent", "test")];

const HOSTILE: &[Hostile] = &[
    Hostile {
        name: "loop",
        module: "{guest:loop}",
        configuration: "{at: on_request_headers}",
        reason: "deadline",
        limit: "callback_ms",
        says: "ran longer than its deadline (limits.callback_ms: 20) in proxy_on_request_headers",
    },
    Hostile {
        name: "recursion",
        module: "{guest:recursion}",
        configuration: "{at: on_request_headers}",
        reason: "stack_overflow",
        limit: "stack_kib",
        says: "the guest's stack is used up in proxy_on_request_headers",
    },
    Hostile {
        name: "memory-bomb",
        module: "{guest:memory-bomb}",
        configuration: "{at: on_request_headers}",
        reason: "memory",
        limit: "memory_mib",
        says: "MiB was refused (limits.memory_mib: 8) in proxy_on_request_headers",
    },
    Hostile {
        name: "table-bomb",
        module: "table_bomb",
        configuration: "",
        reason: "table",
        limit: "table_elements",
        says: "elements was refused (limits.table_elements: 20000) in proxy_on_request_headers",
    },
    Hostile {
        name: "log-flood",
        module: "log_flood",
        configuration: "",
        reason: "hostcall_bytes",
        limit: "hostcall_kib",
        says: "permits (limits.hostcall_kib: 64) in proxy_on_request_headers",
    },
    Hostile {
        name: "slow-start",
        module: "slow_start",
        configuration: "",
        reason: "trap",
        limit: "",
        says: "unreachable",
    },
    Hostile {
        name: "trap-everywhere",
        module: "trap_everywhere",
        configuration: "",
        reason: "trap",
        limit: "",
        says: "in proxy_on_context_create",
    },
    Hostile {
        name: "trap-in-malloc",
        module: "trap_in_malloc",
        configuration: "",
        reason: "trap",
        limit: "",
        says: "in proxy_on_request_headers",
    },
    // Each call answers a status: nothing fails, and the request goes on.
    Hostile { name: "garbage-pointers", module: "bad_pointers", configuration: "", reason: "", limit: "", says: "" },
];

impl Hostile {
    fn host(&self) -> String {
        format!("{}.test", self.name)
    }

    /// With an answer of its own, so that nobody's else is taken for it.
    fn file(&self) -> String {
        let module =
            if self.module.starts_with('{') { self.module.to_owned() } else { format!("{}.wasm", self.module) };
        let configuration = if self.configuration.is_empty() { "''" } else { self.configuration };
        format!(
            "metrics: {{listen: '127.0.0.1:{{metrics}}'}}\nfilters:\n  - name: {name}\n    module: {module}\n    configuration: {configuration}\n    \
             failure_policy: {{status: 599, body: \"{name} has failed\\n\", headers: {{x-failed: {name}}}}}\n    \
             breaker: {{failures: 5, pause_ms: 500, max_pause_ms: 5000}}\n    \
             limits: {{callback_ms: {CALLBACK}, memory_mib: 8, table_elements: 20000, hostcall_kib: 64}}\n",
            name = self.name
        )
    }

    /// The answer's status, and that it is the policy's to the byte.
    fn check(&self, response: &wasm_remap_tests::Response) {
        if self.reason.is_empty() {
            assert_eq!((response.status, response.text().as_str()), (200, "from the origin"), "{}", self.name);
            return;
        }
        assert_eq!(response.status, 599, "{}", self.name);
        assert_eq!(response.text(), format!("{} has failed\n", self.name));
        assert_eq!(response.header("x-failed").as_deref(), Some(self.name));
        assert_eq!(response.header("content-type").as_deref(), Some("text/plain"));
        assert_eq!(response.header("x-origin"), None);
    }
}

fn builder(origin: &Origin, lease: &Lease) -> Builder {
    origin.discard();
    origin.route("/*", Reply::new(200).header("X-Origin", "yes").body("from the origin"));
    let innocent = "filters:\n  - name: headers\n    module: {guest:headers}\n    vm_id: NAME\n    configuration: {response: {set: {x-served-by: NAME}}}\n";
    let mut builder = TrafficServer::builder()
        .origin(origin)
        .stats()
        .threads(2)
        .variable("metrics", &lease.port().to_string())
        .rule(Rule::new("innocent.test", "http://{origin}/").wasm(["innocent.yaml"]))
        .rule(Rule::new("control.test", "http://{origin}/").wasm(["control.yaml"]))
        .file("innocent.yaml", &innocent.replace("NAME", "innocent"))
        .file("control.yaml", &innocent.replace("NAME", "control"));
    for hostile in HOSTILE {
        let file = format!("{}.yaml", hostile.name);
        builder = builder
            .rule(Rule::new(&hostile.host(), "http://{origin}/").wasm([file.as_str()]))
            .file(&file, &hostile.file());
        if !hostile.module.starts_with('{') {
            let path = artifacts::repository(&format!("tests/guests/wat/{}.wat", hostile.module));
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // It reports each call; here nobody reads that.
            let text = text.replace("(drop (call $proxy_log (i32.const 2)", "(drop (call $proxy_log (i32.const 0)");
            let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            builder = builder.file_bytes(&format!("{}.wasm", hostile.module), bytes);
        }
    }
    builder
}

/// The members of a family by rule and filter that have these labels, added.
fn metric(lease: &Lease, name: &str, labels: &[(&str, &str)]) -> f64 {
    let text = get(lease.port(), "localhost", "/metrics", &[]).text();
    let prefix = format!("wasm_remap_rule_{name}{{");
    let meant = |line: &&str| {
        line.starts_with(&prefix) && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    };
    text.lines().filter(meant).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn each_is_stopped_answered_named_and_counted() {
    let origin = Origin::start();
    let lease = Lease::take();
    let server = builder(&origin, &lease).manager().start();
    wait_until(PATIENCE, "the endpoint", || Client::try_connect(lease.port()).ok());
    for hostile in HOSTILE {
        let mark = server.mark();
        // Fewer than open its breaker.
        let mut times: Vec<Duration> = (0..4)
            .map(|_| {
                let sent = Instant::now();
                let mut client = Client::connect(server.port());
                hostile.check(&client.request("GET", &hostile.host(), "/", HEADERS, b""));
                sent.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{}: answered after {times:.1?}", hostile.name);
        if !hostile.says.is_empty() {
            let line = server.wait_for_log_since(mark, hostile.says, PATIENCE);
            assert!(line.contains(&format!("filter '{}'", hostile.name)), "{line}");
        }
        let own = ("filter", hostile.name);
        if !hostile.reason.is_empty() {
            let traps = metric(&lease, "traps_total", &[own, ("reason", hostile.reason)]);
            assert!(traps >= 1.0, "{}: {traps}", hostile.name);
            assert_eq!(metric(&lease, "failures_total", &[own, ("policy", "closed")]), 4.0, "{}", hostile.name);
        }
        if !hostile.limit.is_empty() {
            let met = metric(&lease, "limit_breaches_total", &[own, ("limit", hostile.limit)]);
            assert!(met >= 1.0, "{}: {met}", hostile.name);
        }
        // The same thread serves others.
        for _ in 0..4 {
            let response = Client::connect(server.port()).get("innocent.test", "/");
            assert_eq!((response.status, response.header("x-served-by").as_deref()), (200, Some("innocent")));
        }
    }
    // Whoever never returns from its configuration does not come in, and those who serve do not wait for it.
    let mark = server.mark();
    server.write_text(
        "loop.yaml",
        "filters:\n  - name: loop\n    module: {guest:loop}\n    configuration: {at: on_configure}\n    limits: {configure_ms: 300}\n",
    );
    let stop = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let innocent = scope.spawn(|| {
            let (mut served, mut client) = (0, Client::connect(server.port()));
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.get("innocent.test", "/").status, 200);
                served += 1;
            }
            served
        });
        server.reload().expect_err("a configuration that never ends is refused");
        stop.store(true, Ordering::Relaxed);
        innocent.join().expect("all are served")
    });
    server.wait_for_log_since(
        mark,
        "ran longer than its deadline (limits.configure_ms: 300) in proxy_on_configure",
        PATIENCE,
    );
    println!("{served} requests were served while a configuration ran to its limit");
    assert!(served > 0);
    let counters = settled(&server);
    assert_eq!(counters["panics"], 0);
}

/// Once nothing is under way: contexts and VMs are as many as there are filters and threads.
fn settled(server: &TrafficServer) -> BTreeMap<String, i64> {
    let vms = 2 * (i64::try_from(HOSTILE.len()).expect("few") + 2);
    server.counters("the ends of all contexts", |counters| {
        counters["streams_created"] == counters["streams_deleted"]
            && counters["vms_built"] - counters["vms_dropped"] == vms
            && counters["vms"] == vms
            && counters["roots_created"] - counters["roots_deleted"] == vms
    })
}

/// Sends requests one after the other, no sooner than `pace` allows, until it is told to stop; their times.
fn send(server: &TrafficServer, host: &str, stop: &AtomicBool, pace: Duration) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut client = Client::connect(server.port());
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        client.send_request("GET", host, "/", HEADERS, b"");
        let response = client.read_response();
        times.push(sent.elapsed());
        assert!(matches!(response.status, 200 | 599), "{host}: {}", response.status);
        if response.says_close() {
            client = Client::connect(server.port());
        }
        thread::sleep(pace.saturating_sub(sent.elapsed()));
    }
    times
}

/// Requests to the innocent rule while two connections send to `besides`, at a pace: a filter that is set aside answers
/// much faster than one that works, and would otherwise be asked as much more often.
fn slice(server: &TrafficServer, besides: &str, time: Duration) -> Vec<Duration> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let others: Vec<_> = (0..2).map(|_| scope.spawn(|| send(server, besides, &stop, PACE))).collect();
        let innocent: Vec<_> =
            (0..2).map(|_| scope.spawn(|| send(server, "innocent.test", &stop, Duration::ZERO))).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        others.into_iter().for_each(|other| drop(other.join().expect("all are answered")));
        innocent.into_iter().flat_map(|thread| thread.join().expect("all are served")).collect()
    })
}

fn percentile(times: &[Duration], percent: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[((times.len() - 1) as f64 * percent / 100.0) as usize]
}

/// The innocent rule beside each hostile one, and beside a good one under the same load, in turns.
#[test]
fn other_rules_do_not_notice() {
    // Of many, for the machine itself may stop for 50 ms, for nearly one request in a hundred.
    const TURNS: usize = 8;
    const SLICE: Duration = Duration::from_millis(500);
    let origin = Origin::start();
    let lease = Lease::take();
    let server = builder(&origin, &lease).start();
    slice(&server, "control.test", SLICE);
    let (mut ratios, mut all_good, mut all_bad) = (Vec::new(), Vec::new(), Vec::new());
    for hostile in HOSTILE {
        let (mut beside_good, mut beside_bad) = (Vec::new(), Vec::new());
        let held = Duration::from_millis(CALLBACK);
        // Whoever shares a thread with one that is about to be stopped waits for it once.
        let budget = held + Duration::from_millis(10);
        let p99 = |times: &[Duration]| percentile(times, 99.0);
        for _ in 0..TURNS {
            beside_good.extend(slice(&server, "control.test", SLICE));
            beside_bad.extend(slice(&server, &hostile.host(), SLICE));
        }
        let (good, bad) = (p99(&beside_good), p99(&beside_bad));
        let ratio = bad.as_secs_f64() / good.as_secs_f64();
        let over = |times: &[Duration]| times.iter().filter(|time| **time >= held).count();
        println!(
            "{:16} p50 {:7.1?} {:7.1?}  p99 {good:7.1?} {bad:7.1?} ratio {ratio:.2}  p99.9 {:7.1?} {:7.1?}  max {:7.1?} {:7.1?}  \
             {CALLBACK} ms and more: {} of {}, {} of {}",
            hostile.name,
            percentile(&beside_good, 50.0),
            percentile(&beside_bad, 50.0),
            percentile(&beside_good, 99.9),
            percentile(&beside_bad, 99.9),
            percentile(&beside_good, 100.0),
            percentile(&beside_bad, 100.0),
            over(&beside_good),
            beside_good.len(),
            over(&beside_bad),
            beside_bad.len(),
        );
        ratios.push(ratio);
        assert!(bad <= good.mul_f64(1.5) + budget, "{}: p99 {good:?} and {bad:?}", hostile.name);
        all_good.append(&mut beside_good);
        all_bad.append(&mut beside_bad);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    println!("ratios of p99: {ratios:.2?}");
    println!("all together: p99 {:.1?} and {:.1?}", percentile(&all_good, 99.0), percentile(&all_bad, 99.0));
    // One of them may meet a bad moment of the machine; most do not.
    assert!(ratios[ratios.len() / 2] <= 1.5, "{ratios:?}");
    let counters = settled(&server);
    println!(
        "{} traps, {} deadlines, {} rejected",
        counters["traps"], counters["deadlines"], counters["breaker_rejected"]
    );
    assert_eq!(counters["panics"], 0);
}
