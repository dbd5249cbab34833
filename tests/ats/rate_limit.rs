//! The example filter `rate-limit`: over all threads and rules, as many requests pass as its bucket's arithmetic allows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use wasm_remap_tests::load::{self, Wrk};
use wasm_remap_tests::{Builder, Client, Origin, Reply, Response, Rule, TrafficServer, wait_until};

/// A filter file; `vm` is for what VMs are told apart by, `configuration` for what the filter reads.
fn file(vm: &str, configuration: &str) -> String {
    format!(
        "filters:\n  - name: rate-limit\n    module: {{guest:rate-limit}}\n    body: none\n    vm_id: limits\n    \
         vm_configuration: {vm}\n    configuration: {configuration}\n"
    )
}

/// Every request is one that the origin sees, unless the filter refuses it.
fn builder(origin: &Origin) -> Builder {
    TrafficServer::builder().origin(origin).record("proxy.config.http.cache.http", 0)
}

/// Two rules with one limit, whose filters have VMs and contexts of their own.
fn two_rules(origin: &Origin, limit: &str) -> Builder {
    builder(origin)
        .threads(4)
        .manager()
        .rule(Rule::new("one.test", "http://{origin}/").wasm(["one.yaml"]))
        .rule(Rule::new("two.test", "http://{origin}/").wasm(["two.yaml"]))
        .file("one.yaml", &file("one", &format!("{{name: shared, {limit}, message: one}}")))
        .file("two.yaml", &file("two", &format!("{{name: shared, {limit}, message: two}}")))
}

/// At least so many, for both rules together.
const REQUESTS: u64 = 300_000;

/// Requests, and those of them that were refused.
#[derive(Default)]
struct Load {
    requests: u64,
    refused: u64,
}

/// Says that the reload is over, however it went: the load would wait for it for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// [`REQUESTS`] for both rules at once, with a reload in the middle after which the second rule's filter has new VMs. There is
/// load all the time, but less of it once half is done and the reload is not: the manager needs a processor, too.
fn load(server: &TrafficServer, limit: &str) -> Load {
    const ROUND: u64 = 10_000;
    // The manager answers before the load begins.
    server.traffic_ctl(&["config", "get", "proxy.config.proxy_name"]);
    let (reloaded, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let half = |host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut load = Load::default();
        let mut after = 0;
        while load.requests < REQUESTS / 2 || after < 2 {
            let over = reloaded.load(Ordering::Relaxed);
            after += u32::from(over);
            let gently = !over && load.requests >= REQUESTS / 4;
            let round = if gently { ROUND / 100 } else { ROUND };
            let report = load::requests(server.port(), request.as_bytes(), round, 8, &[200]);
            assert_eq!((report.requests, report.errors.total()), (round, report.errors.status), "{report:?}");
            load.requests += report.requests;
            load.refused += report.errors.status;
            sent.fetch_add(report.requests, Ordering::Relaxed);
            if gently {
                thread::sleep(Duration::from_millis(20));
            }
        }
        load
    };
    let (one, two) = thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| half("one.test")), scope.spawn(|| half("two.test")));
        let over = Over(&reloaded);
        let new = file("three", &format!("{{name: shared, {limit}, message: three}}"));
        std::fs::write(server.root().join("etc/two.yaml"), server.expand(&new)).expect("the file is ours");
        // In the first moments of a server, the manager's word that something has changed is lost on it.
        wait_until(Duration::from_secs(120), "a part of the load", || {
            (sent.load(Ordering::Relaxed) >= REQUESTS / 4).then_some(())
        });
        server.reload().expect("the new configuration loads");
        drop(over);
        (one.join().expect("the load ran"), two.join().expect("the load ran"))
    });
    Load { requests: one.requests + two.requests, refused: one.refused + two.refused }
}

/// The bucket fills by one token a day: what passes is what it held. All threads begin together, with no bucket there yet.
#[test]
fn threads_rules_and_reloads_let_exactly_one_bucket_through() {
    const BURST: u64 = 50_000;
    let limit = "limit: 1, per: day, burst: 50000";
    let origin = Origin::start();
    origin.discard();
    let server = two_rules(&origin, limit).start();
    let load = load(&server, limit);
    println!("{} requests, {} refused", load.requests, load.refused);
    assert_eq!(load.requests - load.refused, BURST, "let through, by what clients were answered");
    assert_eq!(origin.request_count() as u64, BURST, "let through, by what the origin saw");
    let refused = Client::connect(server.port()).get("two.test", "/");
    assert_eq!((refused.status, refused.text().as_str()), (429, "three"), "the reload has taken effect");
}

/// As fast as wrk asks, and while the rules are loaded anew. It breaks off what is under way at its end, when the bucket has
/// long been empty: so what the origin saw is exact.
#[test]
fn as_fast_as_wrk_asks_exactly_one_bucket_is_let_through() {
    const BURST: u64 = 20_000;
    let limit = "limit: 1, per: day, burst: 20000";
    let origin = Origin::start();
    origin.discard();
    let server = two_rules(&origin, limit).start();
    let wrk = |host: &str| Wrk::new(server.port(), host, "/").connections(32).duration(Duration::from_secs(15)).run();
    let (one, two) = thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| wrk("one.test")), scope.spawn(|| wrk("two.test")));
        let new = file("three", &format!("{{name: shared, {limit}, message: three}}"));
        std::fs::write(server.root().join("etc/two.yaml"), server.expand(&new)).expect("the file is ours");
        // Some of it comes before the reload, and some behind.
        wait_until(Duration::from_secs(15), "a part of the load", || (origin.request_count() > 2000).then_some(()));
        server.reload().expect("the new configuration loads");
        (one.join().expect("wrk ran"), two.join().expect("wrk ran"))
    });
    let (asked, refused) = (one.requests + two.requests, one.errors.status + two.errors.status);
    println!("{asked} requests by wrk, {refused} refused");
    assert_eq!(origin.request_count() as u64, BURST, "let through, by what the origin saw");
    // What was answered and is not counted is what wrk broke off.
    assert!(asked - refused <= BURST, "{} were answered 200", asked - refused);
    assert!(asked > 4 * BURST, "there was to be several times as much load as the limit lets through: {asked}");
}

/// Many buckets, each met first by several threads at once.
#[test]
fn a_bucket_that_all_threads_meet_first_together_is_made_once() {
    let origin = Origin::start();
    origin.discard();
    let limits = file("one", "{limit: 1, per: day, burst: 3, key: {header: x-client}}");
    let server = builder(&origin)
        .threads(4)
        .rule(Rule::new("one.test", "http://{origin}/").wasm(["one.yaml"]))
        .file("one.yaml", &limits)
        .start();
    for bucket in 0..200 {
        let request = format!("GET / HTTP/1.1\r\nHost: one.test\r\nX-Client: {bucket}\r\n\r\n");
        let report = load::requests(server.port(), request.as_bytes(), 12, 6, &[200]);
        assert_eq!((report.requests, report.errors.status, report.errors.total()), (12, 9, 9), "bucket {bucket}");
    }
    assert_eq!(origin.request_count(), 3 * 200);
}

/// Takes until there is nothing left; tells between which times that was so.
fn drain(client: &mut Client) -> (SystemTime, SystemTime) {
    loop {
        let before = SystemTime::now();
        let response = client.get("one.test", "/");
        if response.status == 429 {
            return (before, SystemTime::now());
        }
        assert_eq!(response.status, 200);
    }
}

/// Between two moments at which the bucket held less than one token, as many pass as tokens came.
#[test]
fn a_bucket_that_fills_lets_as_many_through_as_tokens_come() {
    const RATE: f64 = 500.0;
    // Ten seconds without a request would make it full, and the arithmetic another.
    const BURST: f64 = 5000.0;
    let limit = "limit: 30000, per: minute, burst: 5000";
    let origin = Origin::start();
    origin.discard();
    let server = two_rules(&origin, limit).start();
    let seconds = |from: SystemTime, to: SystemTime| to.duration_since(from).expect("the clock goes on").as_secs_f64();

    // The manager answers some seconds after the server does.
    server.traffic_ctl(&["config", "get", "proxy.config.proxy_name"]);
    let start = SystemTime::now();
    let mut client = Client::connect(server.port());
    let (from_first, from_last) = drain(&mut client);
    let before = origin.request_count();
    let load = load(&server, limit);
    let (to_first, to_last) = drain(&mut Client::connect(server.port()));
    let passed = (origin.request_count() - before) as f64;

    let least = RATE * seconds(from_last, to_first) - 1.0;
    let most = RATE * seconds(from_first, to_last) + 1.0;
    println!("{passed} passed of {}, {least:.1} to {most:.1} by the bucket", load.requests);
    assert!(least <= passed && passed <= most, "{passed} passed, not {least:.1} to {most:.1}");
    let all = origin.request_count() as f64;
    assert!(all <= BURST + RATE * seconds(start, to_last), "{all} from the start on");
    assert!(
        load.requests as f64 > 3.0 * passed,
        "there was to be several times as much load as the limit lets through"
    );
}

/// What a response tells of the limit.
fn told(response: &Response) -> [Option<String>; 4] {
    ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after"].map(|name| response.header(name))
}

fn texts(values: [Option<&str>; 4]) -> [Option<String>; 4] {
    values.map(|value| value.map(str::to_owned))
}

/// A server with one rule for each configuration, by host.
fn start(origin: &Origin, rules: &[(&str, &str)]) -> TrafficServer {
    let mut builder = builder(origin);
    for (host, configuration) in rules {
        let name = format!("{host}.yaml");
        builder = builder
            .rule(Rule::new(host, "http://{origin}/").wasm([name.as_str()]))
            .file(&name, &file("one", configuration));
    }
    builder.start()
}

#[test]
fn clients_are_told_of_their_limit() {
    let origin = Origin::start();
    // What an origin says of limits of its own does not stand beside ours.
    origin.route("/*", Reply::new(200).header("RateLimit-Limit", "9").body("x"));
    let server = start(
        &origin,
        &[
            ("separate.test", "{name: a, limit: 60, per: hour, burst: 3}"),
            ("both.test", "{name: b, limit: 60, per: hour, burst: 3, headers: both}"),
            (
                "none.test",
                "{name: c, limit: 1, per: 1, headers: none, message: slow down, content_type: text/html, status: 503}",
            ),
        ],
    );
    let mut client = Client::connect(server.port());
    for expected in [
        [Some("3"), Some("2"), Some("60"), None],
        [Some("3"), Some("1"), Some("120"), None],
        [Some("3"), Some("0"), Some("180"), None],
    ] {
        let response = client.get("separate.test", "/");
        assert_eq!((response.status, told(&response)), (200, texts(expected)));
        assert_eq!(response.headers.all("ratelimit-limit").len(), 1);
    }
    let refused = client.get("separate.test", "/");
    assert_eq!((refused.status, refused.text().as_str()), (429, "too many requests\n"));
    assert_eq!(told(&refused), texts([Some("3"), Some("0"), Some("180"), Some("60")]));
    assert_eq!(refused.headers.all("ratelimit-limit").len(), 1);
    assert_eq!(refused.header("content-type").as_deref(), Some("text/plain"));
    assert!(client.is_open(), "the connection is kept");

    let both = client.get("both.test", "/");
    assert_eq!(both.header("ratelimit-policy").as_deref(), Some("\"b\";q=3;w=180"));
    assert_eq!(both.header("ratelimit").as_deref(), Some("\"b\";r=2;t=60"));
    assert_eq!(told(&both)[1].as_deref(), Some("2"));

    let passed = client.get("none.test", "/");
    assert_eq!((passed.status, told(&passed)), (200, texts([Some("9"), None, None, None])));
    let mut refused = client.get("none.test", "/");
    if refused.status == 200 {
        // A second between the two, on a busy machine.
        refused = client.get("none.test", "/");
    }
    assert_eq!((refused.status, refused.text().as_str()), (503, "slow down"));
    assert_eq!(refused.header("content-type").as_deref(), Some("text/html"));
    assert_eq!(told(&refused), texts([None, None, None, Some("1")]));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(client.get("none.test", "/").status, 200, "after the time that was told");
}

#[test]
fn keys_tell_clients_apart() {
    let origin = Origin::start();
    let server = start(
        &origin,
        &[
            ("address.test", "{name: a, limit: 2, per: day}"),
            ("exempt.test", "{name: b, limit: 1, per: day, exempt: [127.0.0.0/8]}"),
            ("network.test", "{name: c, limit: 1, per: day, keys: {127.0.0.0/8: 3}}"),
            ("header.test", "{name: d, limit: 1, per: day, key: {header: x-client}, keys: {gold: 2}, exempt: [root]}"),
            ("allow.test", "{name: e, limit: 1, per: day, key: {cookie: id}, on_missing_key: allow}"),
            ("deny.test", "{name: f, limit: 1, per: day, key: {query: id}, on_missing_key: deny}"),
            ("path.test", "{name: g, limit: 1, per: day, key: [client_address, {path: 1}]}"),
            ("only.test", "{name: h, limit: 1, per: day, key: everything, only: [/login]}"),
            ("dry.test", "{name: i, limit: 1, per: day, dry_run: true}"),
        ],
    );
    let mut client = Client::connect(server.port());
    let mut statuses = |host: &str, asked: &[(&str, &[(&str, &str)])]| -> Vec<u16> {
        asked.iter().map(|(path, headers)| client.request("GET", host, path, headers, b"").status).collect()
    };
    let plain: (&str, &[(&str, &str)]) = ("/", &[]);
    assert_eq!(statuses("address.test", &[plain; 3]), [200, 200, 429]);
    assert_eq!(statuses("exempt.test", &[plain; 3]), [200; 3]);
    assert_eq!(statuses("network.test", &[plain; 4]), [200, 200, 200, 429]);
    let of = |client: &'static [(&'static str, &'static str)]| ("/", client);
    let (alice, gold, root) = (&[("x-client", "alice")], &[("x-client", "gold")], &[("x-client", "root")]);
    assert_eq!(
        statuses("header.test", &[of(alice), of(alice), of(gold), of(gold), of(gold)]),
        [200, 429, 200, 200, 429]
    );
    assert_eq!(statuses("header.test", &[of(root), of(root), plain, plain]), [200, 200, 200, 429]);
    let latin = &[("x-client", "\u{fc}")];
    assert_eq!(statuses("header.test", &[of(latin), of(latin)]), [200, 429]);
    let cookie = &[("cookie", "a=b; id=7")];
    assert_eq!(statuses("allow.test", &[plain, plain, of(cookie), of(cookie)]), [200, 200, 200, 429]);
    let id = |path: &'static str| -> (&str, &[(&str, &str)]) { (path, &[]) };
    assert_eq!(statuses("deny.test", &[plain, id("/?id=1"), id("/?id=1"), id("/?id=2")]), [429, 200, 429, 200]);
    assert_eq!(statuses("path.test", &[id("/a/x"), id("/a/y"), id("/b"), id("//a")]), [200, 429, 200, 429]);
    assert_eq!(
        statuses("only.test", &[id("/login"), id("/%6cogin/"), id("/x/../login"), id("/x")]),
        [200, 429, 429, 200]
    );
    assert_eq!(statuses("dry.test", &[plain; 3]), [200; 3]);
    let told_of = client.get("dry.test", "/");
    assert_eq!(told(&told_of)[..2], texts([Some("1"), Some("0"), None, None])[..2]);
}

#[test]
fn a_mistake_in_the_configuration_stops_the_start() {
    let origin = Origin::start();
    let exit = builder(&origin)
        .rule(Rule::new("one.test", "http://{origin}/").wasm(["one.yaml"]))
        .file("one.yaml", &file("one", "{limit: 5, per: fortnight}"))
        .start_expecting_failure();
    exit.line("rate-limit: configuration: per: expected `second`, `minute`, `hour`, `day` or a number of seconds");
}
