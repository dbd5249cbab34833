//! Example filters and guests as far as nobody has to answer them; what they do with clusters is tested with these.

use std::time::Duration;

use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer, wait_until};

fn start(origin: &Origin, filters: &[(&str, &str)]) -> TrafficServer {
    let mut builder = TrafficServer::builder().origin(origin).stats();
    for (host, filter) in filters {
        let name = format!("{host}.yaml");
        builder = builder
            .rule(Rule::new(host, "http://{origin}/").wasm([name.as_str()]))
            .file(&name, &format!("filters:\n  - {{{filter}}}\n"));
    }
    builder.start()
}

/// A cluster that nobody has configured is no verdict.
#[test]
fn an_authoriser_that_is_not_there_is_a_failure() {
    let origin = Origin::start();
    let server = start(
        &origin,
        &[
            ("deny.test", "name: a, module: '{guest:ext-auth}', configuration: {cluster: nobody, to_origin: [x-user]}"),
            (
                "allow.test",
                "name: b, module: '{guest:ext-auth}', configuration: {cluster: nobody, to_origin: [x-user], on_failure: allow}",
            ),
        ],
    );
    let mut client = Client::connect(server.port());
    let denied = client.get("deny.test", "/");
    assert_eq!((denied.status, denied.text().as_str()), (503, "the authorization service does not answer\n"));
    assert_eq!(origin.request_count(), 0);
    let allowed = client.request("GET", "allow.test", "/", &[("x-user", "root")], b"");
    assert_eq!(allowed.status, 200);
    assert_eq!(origin.last().header("x-user"), None, "what only an authoriser may say is taken off");
}

/// A call that is refused is told as such, and the transaction goes on.
#[test]
fn guests_tell_of_calls_that_are_refused() {
    let origin = Origin::start();
    origin.route("/*", Reply::new(200).body("x"));
    let server = start(
        &origin,
        &[("http.test", "name: a, module: '{guest:callout}'"), ("grpc.test", "name: b, module: '{guest:grpc}'")],
    );
    let mut client = Client::connect(server.port());
    let callout = |text: &'static str| [("x-callout", text)];
    let told = client.request(
        "GET",
        "http.test",
        "/",
        &callout("call cluster=nobody n=2; call at=response_headers cluster=nobody"),
        b"",
    );
    let results = told.headers.all("x-callout-result");
    assert_eq!((told.status, results.len()), (200, 3), "{results:?}");
    assert!(results[0].starts_with("call=0 link=0 refused="), "{results:?}");
    assert_eq!(
        client.request("GET", "http.test", "/", &callout("call at=log cluster=nobody to=kept"), b"").status,
        200
    );
    wait_until(Duration::from_secs(10), "the report in shared data", || {
        let kept = client.request("GET", "http.test", "/", &callout("read kept"), b"").text();
        (kept == "made=1 refused=1\n").then_some(())
    });
    for program in ["call cluster=nobody", "stream cluster=nobody send=a,b end"] {
        let told = client.request("GET", "grpc.test", "/", &[("x-grpc", program)], b"");
        let results = told.headers.all("x-grpc-result");
        assert!(
            told.status == 200 && results.len() == 1 && results[0].starts_with("refused="),
            "{program}: {results:?}"
        );
    }
}

/// Lines of transactions come to the queue, and what a consumer takes at its ticks is each item once.
#[test]
fn items_of_a_queue_come_out_once() {
    let origin = Origin::start();
    let queue = |root: &str, configuration: &str| {
        format!("name: {root}, module: '{{guest:queue}}', root_id: {root}, vm_id: q, configuration: {configuration}")
    };
    let server = start(
        &origin,
        &[
            ("put.test", &queue("producer", "{}")),
            ("take.test", &queue("consumer", "{tick_ms: 10, take: 7}")),
            ("stats.test", &queue("stats", "{}")),
        ],
    );
    let mut client = Client::connect(server.port());
    for items in ["1-500", "501-1000"] {
        let put = client.request("GET", "put.test", "/", &[("x-items", items)], b"");
        assert_eq!((put.status, put.text().as_str()), (200, "accepted=500 refused=0\n"));
    }
    let expected = [1000, (1..=1000).sum::<i64>(), (1..=1000).map(|n| n * n).sum::<i64>()];
    let lines = format!("items={}\nsum={}\nsquares={}\n", expected[0], expected[1], expected[2]);
    wait_until(Duration::from_secs(20), "all items", || {
        client.get("stats.test", "/").text().starts_with(&lines).then_some(())
    });
}

#[test]
fn a_shipper_and_a_collector_are_told_apart() {
    let origin = Origin::start();
    let server = start(
        &origin,
        &[("log.test", "name: log, module: '{guest:log-shipper}', root_id: collector, configuration: {queue: lines}")],
    );
    assert_eq!(Client::connect(server.port()).get("log.test", "/").status, 200);
    drop(server);
    let exit = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("log.test", "http://{origin}/").wasm(["log.yaml"]))
        .file("log.yaml", "filters: [{name: log, module: '{guest:log-shipper}', configuration: {queue: lines}}]\n")
        .start_expecting_failure();
    exit.line("root_id \"\": expected `collector` or `shipper`");
}
