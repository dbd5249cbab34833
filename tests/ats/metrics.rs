//! Metrics: what filters define and what is counted of them, in ATS's statistics and for Prometheus.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use prometheus_parse::{Scrape, Value};
use wasm_remap_tests::harness::ports::Lease;
use wasm_remap_tests::{Builder, Client, Origin, Rule, TrafficServer, get, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

/// A filter file that serves metrics, with these filters.
fn file(filters: &str) -> String {
    format!("metrics: {{listen: '127.0.0.1:{{metrics}}'}}\nfilters:\n{filters}")
}

fn filter(name: &str, guest: &str, rest: &str) -> String {
    format!("  - name: {name}\n    module: {{guest:{guest}}}\n{rest}")
}

fn builder(origin: &Origin, lease: &Lease) -> Builder {
    TrafficServer::builder()
        .origin(origin)
        .stats()
        .variable("metrics", &lease.port().to_string())
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["a.yaml"]))
}

/// The label `rule` of a host's rule.
fn rule(server: &TrafficServer, host: &str) -> String {
    server.expand(&format!("http://{host}/ -> http://{{origin}}/"))
}

/// Everything that the endpoint shows: by name and labels in their order. Of a histogram, its count.
#[derive(Debug)]
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    #[track_caller]
    fn scrape(lease: &Lease) -> Self {
        wait_until(PATIENCE, "an answer of the endpoint", || Client::try_connect(lease.port()).ok());
        let response = get(lease.port(), "localhost", "/metrics", &[]);
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
        Metrics::parse(&response.text())
    }

    fn parse(text: &str) -> Self {
        let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).expect("the exposition format");
        let mut all = BTreeMap::new();
        for sample in scrape.samples {
            let labels: BTreeMap<_, _> = sample.labels.iter().collect();
            let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let value = match sample.value {
                Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
                Value::Histogram(buckets) => {
                    assert!(buckets.is_sorted_by_key(|bucket| bucket.count), "{buckets:?}");
                    buckets.last().expect("a bucket without bounds").count
                }
                Value::Summary(_) => panic!("there are no summaries"),
            };
            let key = format!("{}{{{}}}", sample.metric, labels.join(","));
            assert!(all.insert(key.clone(), value).is_none(), "{key} stands there twice");
        }
        assert!(!all.is_empty(), "{text}");
        Metrics(all)
    }

    /// A member of a family, its labels sorted; zero if it is not there.
    fn get(&self, key: &str) -> f64 {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// A number by rule and filter.
    fn of(&self, name: &str, rule: &str, filter: &str) -> f64 {
        self.get(&format!("wasm_remap_rule_{name}{{filter={filter},rule={rule}}}"))
    }

    /// The same, with one more label.
    fn by(&self, name: &str, label: &str, value: &str, rule: &str, filter: &str) -> f64 {
        let mut labels = [format!("{label}={value}"), format!("rule={rule}"), format!("filter={filter}")];
        labels.sort_unstable();
        self.get(&format!("wasm_remap_rule_{name}{{{}}}", labels.join(",")))
    }
}

/// Sends so many requests over several connections, so that every thread sees some.
fn traffic(server: &TrafficServer, host: &str, count: usize, headers: &[(&str, &str)]) {
    for _ in 0..count {
        let response = Client::connect(server.port()).request("GET", host, "/", headers, b"");
        assert_eq!(response.status, 200, "{}", response.text());
    }
}

/// Every total, from ATS and from the endpoint, once they agree, as they must when nothing happens.
#[track_caller]
fn agreed(server: &TrafficServer, lease: &Lease) -> (BTreeMap<String, i64>, Metrics) {
    let begin = Instant::now();
    loop {
        let own = server.metrics().into_iter();
        let ats: BTreeMap<_, _> =
            own.filter_map(|(name, value)| Some((name.strip_prefix("wasm_remap.")?.to_owned(), value))).collect();
        let metrics = Metrics::scrape(lease);
        let differs = |(name, value): (&String, &i64)| {
            let shown = [format!("wasm_remap_{name}_total{{}}"), format!("wasm_remap_{name}{{}}")];
            let shown = shown.iter().find_map(|key| metrics.0.get(key));
            (shown != Some(&(*value as f64))).then(|| format!("{name}: {value} in ATS, {shown:?}"))
        };
        let differing: Vec<_> =
            ats.iter().filter(|(name, _)| !name.starts_with("filter.")).filter_map(differs).collect();
        assert!(ats.len() > 20, "{ats:?}");
        if differing.is_empty() {
            return (ats, metrics);
        }
        assert!(begin.elapsed() < PATIENCE, "{differing:#?}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_metric_of_every_thread_is_one() {
    let origin = Origin::start();
    let lease = Lease::take();
    let server = builder(&origin, &lease)
        .threads(4)
        .file("a.yaml", &file(&filter("probe", "probe", "    body: none\n")))
        .start();
    let program = r#"[["define_metric", 0, "requests{code=\"200\"}"], ["increment_metric", "$0.0", 1],
        ["define_metric", 1, "level"], ["record_metric", "$2.0", 7],
        ["define_metric", 2, "method=.=GET;.;size=.=big;.;_time_us"], ["record_metric", "$4.0", 100],
        ["define_metric", 0, "plain.name"], ["increment_metric", "$6.0", 3],
        ["define_metric", 1, "below"], ["record_metric", "$8.0", -7]]"#;
    let program = program.replace('\n', " ");
    let headers = [("x-probe", program.as_str()), ("x-probe-at", "on_request_headers"), ("x-probe-to", "log")];
    traffic(&server, "a.test", 40, &headers);
    let counters = server.counters("40 transactions", |counters| {
        counters.get("filter.requests.code.200") == Some(&40) && counters["streams_deleted"] == 40
    });
    assert_eq!(counters["filter.level"], 7);
    assert_eq!(counters["filter.plain.name"], 120);
    assert_eq!(counters["filter.time_us.method.GET.size.big.count"], 40);
    assert_eq!(counters["filter.time_us.method.GET.size.big.sum"], 4000);
    assert_eq!(counters["metrics_defined"], 5);

    let (ats, metrics) = agreed(&server, &lease);
    assert_eq!(ats["transactions"], 40);
    assert_eq!(metrics.get("wasm_remap_filter_requests_total{code=200}"), 40.0);
    assert_eq!(metrics.get("wasm_remap_filter_level{}"), 7.0);
    // Which stats_over_http shows as if it had no sign.
    assert_eq!(metrics.get("wasm_remap_filter_below{}"), -7.0);
    assert_eq!(metrics.get("wasm_remap_filter_plain_name_total{}"), 120.0);
    assert_eq!(metrics.get("wasm_remap_filter_time_us{method=GET,size=big}"), 40.0);
    assert_eq!(metrics.get("wasm_remap_filter_time_us_sum{method=GET,size=big}"), 4000.0);
    let rule = rule(&server, "a.test");
    assert_eq!(metrics.of("streams_total", &rule, "probe"), 40.0);
    for callback in ["proxy_on_request_headers", "proxy_on_response_headers", "proxy_on_log", "proxy_on_delete"] {
        let measured = metrics.by("callback_duration_seconds", "callback", callback, &rule, "probe");
        assert_eq!(measured, 40.0, "{callback}: all are measured while there are so few\n{metrics:#?}");
    }
    let configured = metrics.by("callback_duration_seconds", "callback", "proxy_on_configure", "", "probe");
    assert!(configured >= 4.0, "{configured}: one a thread");
    assert_eq!(ats["vms"], 4);
    assert!(ats["vm_memory_bytes"] > 4 << 16, "{ats:?}");
}

#[test]
fn what_filters_do_is_counted_by_rule_and_filter() {
    let origin = Origin::start();
    let lease = Lease::take();
    let configuration = "    failure_policy: open\n    body: none\n";
    let server = builder(&origin, &lease)
        .rule(Rule::new("b.test", "http://{origin}/").wasm(["b.yaml"]))
        .rule(Rule::new("c.test", "http://{origin}/").wasm(["c.yaml"]))
        .file("a.yaml", &file(&filter("trap", "trap", configuration)))
        .file("b.yaml", &file(&filter("pause", "pause", "    limits: {pause_ms: 200}\n    body: none\n")))
        .file(
            "c.yaml",
            &file(&filter("key", "api-key", "    configuration: {keys: {sesame: alice}}\n    body: none\n")),
        )
        .start();
    let (a, b, c) = (rule(&server, "a.test"), rule(&server, "b.test"), rule(&server, "c.test"));

    traffic(&server, "a.test", 3, &[("x-trap", "on_request_headers"), ("x-trap-kind", "unreachable")]);
    traffic(&server, "a.test", 2, &[("x-trap", "on_response_headers"), ("x-trap-kind", "exit")]);
    traffic(&server, "a.test", 1, &[("x-trap", "on_log"), ("x-trap-kind", "memory")]);
    traffic(&server, "a.test", 4, &[]);

    traffic(&server, "b.test", 2, &[("x-pause-ms", "100")]);
    traffic(&server, "b.test", 3, &[]);
    let mut client = Client::connect(server.port());
    assert_eq!(client.request("GET", "b.test", "/", &[("x-pause-forever", "1")], b"").status, 503);
    let mut client = Client::connect(server.port());
    assert_eq!(client.request("GET", "b.test", "/", &[("x-pause-answer", "418")], b"").status, 418);

    for _ in 0..5 {
        assert_eq!(Client::connect(server.port()).get("c.test", "/").status, 401);
    }
    traffic(&server, "c.test", 1, &[("x-api-key", "sesame")]);

    server.counters("all transactions' ends", |counters| {
        counters["transactions"] == 23 && counters["streams_created"] == counters["streams_deleted"]
    });
    let metrics = Metrics::scrape(&lease);
    let traps = |reason: &str| metrics.by("traps_total", "reason", reason, &a, "trap");
    assert_eq!((traps("trap"), traps("exit"), traps("deadline")), (4.0, 2.0, 0.0), "{metrics:#?}");
    let failures =
        |rule: &str, filter: &str, policy: &str| metrics.by("failures_total", "policy", policy, rule, filter);
    // What traps in proxy_on_log fails no transaction.
    assert_eq!((failures(&a, "trap", "open"), failures(&a, "trap", "closed")), (5.0, 0.0));
    assert_eq!((failures(&b, "pause", "open"), failures(&b, "pause", "closed")), (0.0, 1.0));
    let of =
        |name: &str| [(&a, "trap"), (&b, "pause"), (&c, "key")].map(|(rule, filter)| metrics.of(name, rule, filter));
    assert_eq!(of("streams_total"), [10.0, 7.0, 6.0]);
    assert_eq!(of("pauses_total"), [0.0, 4.0, 0.0]);
    assert_eq!(of("local_responses_total"), [0.0, 1.0, 5.0]);
    let paused = metrics.of("pause_seconds_total", &b, "pause");
    assert!((0.4..3.0).contains(&paused), "{paused}: twice 100 ms, once 200 ms, and a tick");
    let rebuilt = metrics.of("rebuilds_total", "", "trap");
    assert_eq!(rebuilt, metrics.get("wasm_remap_rebuilds_total{}"), "no other filter lost a VM");
    assert!((1.0..=6.0).contains(&rebuilt), "{rebuilt}");
    assert_eq!(metrics.get("wasm_remap_traps_total{}"), 6.0);
    assert_eq!(metrics.get("wasm_remap_local_responses_total{}"), 6.0);
    assert_eq!(metrics.get("wasm_remap_pauses_total{}"), 4.0);
    assert_eq!(metrics.get("wasm_remap_failures_total{}"), 6.0);
}

#[test]
fn counting_goes_on_over_a_reload() {
    let origin = Origin::start();
    let lease = Lease::take();
    let server = builder(&origin, &lease)
        .manager()
        .file("a.yaml", &file(&filter("key", "api-key", "    configuration: {keys: {sesame: alice}}\n")))
        .start();
    let ask = |count: usize| {
        (0..count).for_each(|_| assert_eq!(Client::connect(server.port()).get("a.test", "/").status, 401))
    };
    let rule = rule(&server, "a.test");
    ask(3);
    server.write_text("a.yaml", &file(&filter("key", "api-key", "    configuration: {keys: {other: bob}}\n")));
    server.reload().expect("a reload");
    ask(4);
    let counters =
        server.counters("all transactions", |counters| counters["transactions"] == 7 && counters["rules_deleted"] == 1);
    assert_eq!(counters["local_responses"], 7);
    let metrics = Metrics::scrape(&lease);
    assert_eq!(metrics.of("streams_total", &rule, "key"), 7.0);
    assert_eq!(metrics.of("local_responses_total", &rule, "key"), 7.0);
    // The manager hears of statistics some seconds late.
    wait_until(Duration::from_secs(30), "the same number in traffic_ctl", || {
        let output = server.traffic_ctl(&["metric", "match", "wasm_remap"]);
        output.lines().any(|line| line == "wasm_remap.local_responses 7").then_some(())
    });

    // Without the key, the port is given up.
    server.write_text(
        "a.yaml",
        &format!("filters:\n{}", filter("key", "api-key", "    configuration: {keys: {o: b}}\n")),
    );
    server.reload().expect("a reload");
    wait_until(PATIENCE, "the end of the endpoint", || Client::try_connect(lease.port()).err());
}

#[test]
fn ats_has_room_for_so_many() {
    let origin = Origin::start();
    let lease = Lease::take();
    let names: Vec<_> = (0..1200).map(|n| format!("[define_metric, 0, m{n}]")).collect();
    let many = format!("    configuration: {{programs: {{on_configure: [{}]}}}}\n", names.join(", "));
    let server = builder(&origin, &lease).file("a.yaml", &file(&filter("probe", "probe", &many))).start();
    let counters =
        server.counters("what is left out", |counters| counters.get("stats_left_out").is_some_and(|&left| left > 0));
    let left = counters["stats_left_out"];
    let exported = counters.keys().filter(|name| name.starts_with("filter.m")).count();
    assert_eq!(exported as i64 + left, 1200);
    assert!(exported > 900, "{exported}");
    assert_eq!(counters["metrics_defined"], 1200);
    traffic(&server, "a.test", 2, &[]);
    server.counters("what was there before goes on", |counters| counters["transactions"] == 2);
    let metrics = Metrics::scrape(&lease);
    assert_eq!(metrics.0.keys().filter(|name| name.starts_with("wasm_remap_filter_m")).count(), 1200);
    assert_eq!(metrics.get("wasm_remap_stats_left_out{}"), left as f64);
    let lines = server.diags();
    let told: Vec<_> = lines.lines().filter(|line| line.contains("are no ATS statistics")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn the_endpoint_serves_one_path_and_waits_for_its_port() {
    let origin = Origin::start();
    let lease = Lease::take();
    // Whoever starts a process meanwhile may hold the lease's own look at it for a moment.
    let taken = wait_until(PATIENCE, "a port of our own", || TcpListener::bind(("127.0.0.1", lease.port())).ok());
    let server = builder(&origin, &lease).file("a.yaml", &file(&filter("pause", "pause", "    body: none\n"))).start();
    let waits = || server.diags().lines().filter(|line| line.contains("metrics cannot be served on")).count();
    wait_until(PATIENCE, "a word on the port", || (waits() > 0).then_some(()));
    traffic(&server, "a.test", 1, &[]);
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(waits(), 1, "told once");
    drop(taken);
    Metrics::scrape(&lease);

    let mut client = Client::connect(lease.port());
    let head = client.request("HEAD", "localhost", "/metrics", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(
        head.header("content-length").is_some_and(|length| length.parse::<usize>().is_ok_and(|length| length > 1000))
    );
    assert_eq!(client.get("localhost", "/").status, 404);
    assert_eq!(client.get("localhost", "/metrics/x").status, 404);
    let posted = client.request("POST", "localhost", "/metrics", &[], b"x");
    assert_eq!((posted.status, posted.header("allow").as_deref()), (405, Some("GET, HEAD")));
    // A client that says nothing keeps nobody away.
    let _silent: Vec<_> = (0..8).map(|_| Client::connect(lease.port())).collect();
    Metrics::scrape(&lease);
}
