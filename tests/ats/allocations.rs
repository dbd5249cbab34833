//! What a transaction allocates on our side when the server is warm: nothing. Counted by an allocator, in a build of the
//! plugin that counts (`src/ats/counting.rs`).

use std::time::Duration;

use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer, artifacts, load};

/// Transactions after which all is there that transactions use again.
const WARM_UP: u64 = 2_000;
const REQUESTS: u64 = 10_000;
/// What a process may allocate meanwhile that has nothing to do with how many transactions there are.
const ONCE: i64 = 2;

/// By host: what is asked, and what answers.
const HOSTS: [(&str, u16); 4] = [("headers.test", 200), ("chain.test", 200), ("out.test", 200), ("missed.test", 200)];

fn filter(number: usize, rest: &str) -> String {
    format!(
        "  - name: headers-{number}\n    module: {{guest:headers}}\n    body: none\n    \
         configuration: {{response: {{set: {{x-bench-{number}: \"1\"}}}}}}\n{rest}"
    )
}

#[test]
fn a_transaction_allocates_nothing() {
    let origin = Origin::start();
    origin.discard();
    origin.route("/hit", Reply::new(200).cacheable(3600).body("cached"));
    origin.route("/miss", Reply::new(200).header("Cache-Control", "no-store").body("not cached"));
    let filters = |list: &[String]| format!("filters:\n{}", list.concat());
    let server = TrafficServer::builder()
        .origin(&origin)
        .plugin_build(artifacts::fault_plugin())
        .threads(1)
        .manager()
        .stats()
        .rule(Rule::new("headers.test", "http://{origin}/").wasm(["one.yaml"]))
        .rule(Rule::new("chain.test", "http://{origin}/").wasm(["three.yaml"]))
        .rule(Rule::new("out.test", "http://{origin}/").wasm(["out.yaml"]))
        .rule(Rule::new("missed.test", "http://{origin}/").wasm(["one.yaml"]))
        .file("one.yaml", &filters(&[filter(0, "")]))
        .file("three.yaml", &filters(&[filter(0, ""), filter(1, ""), filter(2, "")]))
        .file("out.yaml", &filters(&[filter(0, "    match: {path: {prefix: /never}}\n")]))
        .start();
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("headers.test", "/hit").header("x-bench-0").as_deref(), Some("1"));
    assert_eq!(client.get("chain.test", "/hit").header("x-bench-2").as_deref(), Some("1"));
    assert_eq!(client.get("out.test", "/hit").header("x-bench-0"), None);
    assert_eq!(client.get("missed.test", "/miss").header("x-bench-0").as_deref(), Some("1"));

    // One after the other, with time between them: so each callback of each filter is measured, which makes its histogram.
    for (host, status) in HOSTS.iter().cycle().take(40 * HOSTS.len()) {
        let path = if *host == "missed.test" { "/miss" } else { "/hit" };
        assert_eq!(client.get(host, path).status, *status);
        std::thread::sleep(Duration::from_millis(3));
    }

    let mut transactions = 41 * HOSTS.len() as i64;
    let mut send = |host: &str, status: u16, count: u64| {
        let path = if host == "missed.test" { "/miss" } else { "/hit" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let report = load::requests(server.port(), request.as_bytes(), count, 4, &[status]);
        assert_eq!(report.errors.total(), 0, "{host}: {:?}", report.errors);
        transactions += i64::try_from(count).expect("a number of requests");
        // Written once a second: by then all of them have ended.
        let counters = server.counters("all transactions", |counters| {
            counters["transactions"] == transactions && counters["streams_created"] == counters["streams_deleted"]
        });
        counters["allocations"]
    };
    let (mut growths, mut once) = (Vec::new(), 0);
    for (host, status) in HOSTS {
        let mut before = send(host, status, WARM_UP);
        assert!(before > 0, "the plugin counts: it has warmed up");
        // What is made once in a process, as by a thread that waits for another for the first time, may come at any time, and is
        // hardly anything; what a transaction allocates comes again, also one in a thousand of them.
        let mut growth = i64::MAX;
        for _ in 0..3 {
            let after = send(host, status, REQUESTS);
            growth = after - before;
            before = after;
            once += growth;
            println!("{host}: {growth} allocations in {REQUESTS} transactions");
            if growth == 0 {
                break;
            }
        }
        growths.push((host, growth));
    }
    assert!(growths.iter().all(|(_, growth)| *growth == 0), "allocations in {REQUESTS} transactions: {growths:?}");
    assert!(once <= ONCE, "{once} allocations that did not come again");
}
