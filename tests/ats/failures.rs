//! Filters that trap, loop, eat memory or recurse: the failure policy answers, and a rebuilt VM serves the next
//! request of the same thread.

use std::time::{Duration, Instant};

use wasm_remap_tests::{Client, Connection, Origin, Reply, Response, Rule, TrafficServer, load};

const PATIENCE: Duration = Duration::from_secs(10);

/// The time that a callback may take, in milliseconds.
const CALLBACK: u64 = 60;

const MEMORY_MIB: u64 = 16;

/// Two rules for each guest, `<guest>-closed.test` and `<guest>-open.test`, on one thread.
fn start(origin: &Origin, guests: &[&str]) -> TrafficServer {
    origin.route("/*", Reply::new(200).header("X-Origin", "yes").body("from the origin"));
    let mut builder = TrafficServer::builder().origin(origin).stats().threads(1);
    for guest in guests {
        for policy in ["closed", "open"] {
            let host = format!("{guest}-{policy}.test");
            let file = format!("{guest}-{policy}.yaml");
            builder = builder.rule(Rule::new(&host, "http://{origin}/").wasm([file.as_str()])).file(
                &file,
                &format!(
                    "filters:\n  - name: {guest}\n    module: {{guest:{guest}}}\n    vm_id: {policy}\n    \
                     failure_policy: {policy}\n    limits: {{callback_ms: {CALLBACK}, memory_mib: {MEMORY_MIB}}}\n"
                ),
            );
        }
    }
    builder.start()
}

/// The VM that served, and how many requests it has seen.
fn vm(response: &Response) -> (String, u32) {
    let name = response.header("x-vm-name").expect("the guest names its VM");
    let count = response.header("x-vm-count").and_then(|count| count.parse().ok()).expect("the guest counts");
    (name, count)
}

fn is_refusal(response: &Response) {
    assert_eq!((response.status, response.reason.as_str()), (503, "Service Unavailable"));
    assert_eq!(response.text(), "Service Unavailable\n");
    assert_eq!(response.header("content-type").as_deref(), Some("text/plain"));
    assert_eq!(response.header("x-origin"), None, "nothing of the origin's response is left");
}

/// Asks until a VM serves. One that has just been lost may take a moment, if many were lost at once.
fn served(client: &mut Client, host: &str) -> (String, u32) {
    let response = client.get(host, "/x");
    assert_eq!((response.status, response.text().as_str()), (200, "from the origin"), "{host}");
    vm(&response)
}

/// One failure after another, each in its own VM; `at` is the callback, `kind` the manner.
fn fails(server: &TrafficServer, origin: &Origin, guest: &str, at: &str, kind: &str) {
    let header = format!("x-{guest}");
    let kind_header = format!("x-{guest}-kind");
    let headers = [(header.as_str(), at), (kind_header.as_str(), kind)];
    let what = format!("{guest} {kind} in {at}");
    let mut client = Client::connect(server.port());

    let host = format!("{guest}-closed.test");
    let (before, count) = served(&mut client, &host);
    assert_eq!(served(&mut client, &host), (before.clone(), count + 1), "{what}: one VM for one thread");
    let requests = origin.request_count();
    let refused = client.request("GET", &host, "/x", &headers, b"");
    is_refusal(&refused);
    let reached = usize::from(at == "on_response_headers");
    assert_eq!(origin.request_count() - requests, reached, "{what}: closed is before the origin");
    assert_eq!(client.connection(), Connection::Open, "{what}");
    let (after, count) = served(&mut client, &host);
    assert_ne!(after, before, "{what}: the VM is another");
    assert_eq!(count, 1, "{what}: and new");
    assert_eq!(served(&mut client, &host), (after, 2), "{what}");

    let host = format!("{guest}-open.test");
    let (before, _) = served(&mut client, &host);
    let passed = client.request("GET", &host, "/x", &headers, b"");
    assert_eq!((passed.status, passed.text().as_str()), (200, "from the origin"), "{what}");
    assert_eq!(passed.header("x-origin").as_deref(), Some("yes"), "{what}");
    assert_eq!(passed.header(&format!("x-{guest}-guest")), None, "{what}: the rest of the filter is skipped");
    let (after, count) = served(&mut client, &host);
    assert!(after != before && count == 1, "{what}: {before} -> {after}, {count}");
}

#[test]
fn a_trap_is_answered_by_the_policy_and_the_next_request_by_a_new_vm() {
    let origin = Origin::start();
    let server = start(&origin, &["trap"]);
    let mut traps = 0;
    for kind in ["panic", "unreachable", "memory", "exit"] {
        for at in ["on_request_headers", "on_response_headers"] {
            fails(&server, &origin, "trap", at, kind);
            traps += 2;
        }
    }
    let counters = server.counters("the traps", |counters| {
        counters["traps"] >= traps && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!((counters["traps"], counters["deadlines"], counters["panics"]), (traps, 0, 0));
    assert_eq!(counters["vms_dropped"], traps);
    assert_eq!(counters["vms_built"], 2 + traps);
    assert_eq!(counters["roots_created"] - counters["roots_deleted"], 2);
    let line = server.wait_for_log("failure_policy closed: the transaction is answered 503", PATIENCE);
    assert!(line.contains("rule http://trap-closed.test/") && line.contains("filter 'trap'"), "{line}");
}

/// The response is on its way, or gone: what fails then is the filter's own affair.
#[test]
fn a_trap_at_the_end_changes_nothing_for_the_client() {
    let origin = Origin::start();
    let server = start(&origin, &["trap"]);
    let mut client = Client::connect(server.port());
    for host in ["trap-closed.test", "trap-open.test"] {
        for at in ["on_done", "on_log", "on_delete"] {
            let (before, _) = served(&mut client, host);
            let response = client.request("GET", host, "/x", &[("x-trap", at)], b"");
            assert_eq!((response.status, response.text().as_str()), (200, "from the origin"), "{host} {at}");
            assert_eq!(vm(&response).0, before);
            let (after, count) = served(&mut client, host);
            assert!(after != before && count == 1, "{host} {at}: {before} -> {after}, {count}");
        }
    }
    let counters = server.counters("the traps", |counters| {
        counters["traps"] >= 6 && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!((counters["traps"], counters["streams_created"]), (6, 18));
}

#[test]
fn a_loop_ends_at_its_deadline() {
    let origin = Origin::start();
    let server = start(&origin, &["loop"]);
    let mut client = Client::connect(server.port());
    let mut longest = Duration::ZERO;
    for kind in ["spin", "hostcall"] {
        for at in ["on_request_headers", "on_response_headers"] {
            let sent = Instant::now();
            let headers = [("x-loop", at), ("x-loop-kind", kind)];
            is_refusal(&client.request("GET", "loop-closed.test", "/x", &headers, b""));
            let time = sent.elapsed();
            assert!(time >= Duration::from_millis(CALLBACK), "{kind} {at}: {time:?}");
            longest = longest.max(time);
            fails(&server, &origin, "loop", at, kind);
        }
    }
    println!("a loop with a limit of {CALLBACK} ms was answered after {longest:.1?} at most");
    let counters = server.counters("the deadlines", |counters| counters["deadlines"] >= 12);
    assert_eq!((counters["deadlines"], counters["traps"]), (12, 12));
    // At the end, it holds the thread for its time, and nobody else notices.
    for at in ["on_done", "on_log", "on_delete"] {
        let response = client.request("GET", "loop-closed.test", "/x", &[("x-loop", at)], b"");
        assert_eq!((response.status, response.text().as_str()), (200, "from the origin"));
        served(&mut client, "loop-closed.test");
    }
}

#[test]
fn memory_has_a_ceiling() {
    let origin = Origin::start();
    let server = start(&origin, &["memory-bomb"]);
    let mut client = Client::connect(server.port());
    served(&mut client, "memory-bomb-closed.test");
    let before = server.rss_kib();
    for at in ["on_request_headers", "on_response_headers"] {
        fails(&server, &origin, "memory-bomb", at, "allocate");
    }
    // A filter that takes no for an answer goes on, with as many pages of 64 KiB as the limit has.
    let ask = |client: &mut Client, kind: &str| {
        let headers = [("x-memory-bomb", "on_request_headers"), ("x-memory-bomb-kind", kind)];
        client.request("GET", "memory-bomb-closed.test", "/x", &headers, b"")
    };
    let response = ask(&mut client, "100000");
    assert_eq!((response.status, response.header("x-memory-grow").as_deref()), (200, Some("-1")));
    let response = ask(&mut client, "grow");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-memory-pages"), Some((MEMORY_MIB * 16).to_string()));
    let grown = server.rss_kib().saturating_sub(before);
    println!("after four bombs of {MEMORY_MIB} MiB the server has {grown} KiB more");
    assert!(grown < 4 * MEMORY_MIB * 1024, "{grown} KiB");
}

#[test]
fn recursion_uses_up_the_guests_stack_and_not_ours() {
    let origin = Origin::start();
    let server = start(&origin, &["recursion"]);
    for at in ["on_request_headers", "on_response_headers"] {
        fails(&server, &origin, "recursion", at, "");
    }
    let mut client = Client::connect(server.port());
    let headers = [("x-recursion", "on_request_headers"), ("x-recursion-kind", "1000")];
    let response = client.request("GET", "recursion-closed.test", "/x", &headers, b"");
    assert!(response.header("x-recursion-depth").is_some_and(|depth| depth.starts_with("1000 ")), "{response:?}");
    for at in ["on_done", "on_log"] {
        let response = client.request("GET", "recursion-closed.test", "/x", &[("x-recursion", at)], b"");
        assert_eq!((response.status, response.text().as_str()), (200, "from the origin"));
        served(&mut client, "recursion-closed.test");
    }
}

/// A filter whose every context fails, and one whose every tick does: policy for each request, and a server that has
/// something better to do than to build VMs.
#[test]
fn a_filter_that_always_traps_is_answered_by_its_policy() {
    let origin = Origin::start();
    origin.discard();
    let filter = |at: &str, policy: &str| {
        format!(
            "filters:\n  - name: trap\n    module: {{guest:trap}}\n    vm_id: {at}-{policy}\n    failure_policy: {policy}\n    \
             configuration: {{at: {at}, kind: unreachable}}\n"
        )
    };
    let server = TrafficServer::builder()
        .origin(&origin)
        .stats()
        .rule(Rule::new("closed.test", "http://{origin}/").wasm(["closed.yaml"]))
        .rule(Rule::new("open.test", "http://{origin}/").wasm(["open.yaml"]))
        .rule(Rule::new("tick.test", "http://{origin}/").wasm(["tick.yaml"]))
        .rule(Rule::new("plain.test", "http://{origin}/"))
        .file("closed.yaml", &filter("on_context_create", "closed"))
        .file("open.yaml", &filter("on_context_create", "open"))
        .file("tick.yaml", &filter("on_tick", "open"))
        .start();
    let begin = Instant::now();
    for (host, status) in [("closed.test", 503), ("open.test", 200), ("tick.test", 200), ("plain.test", 200)] {
        let request = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let report = load::requests(server.port(), request.as_bytes(), 1000, 4, &[status]);
        assert_eq!((report.requests, report.errors.total()), (1000, 0), "{host}: {:?}", report.errors);
    }
    let counters = server.counters("the traps", |counters| counters["transactions"] >= 3000);
    let (traps, built) = (counters["traps"], counters["vms_built"]);
    let seconds = begin.elapsed().as_secs_f64();
    println!("3000 requests to filters that always trap: {traps} traps and {built} VMs in {seconds:.1} s");
    // Three pools of two slots; a slot that lost 200 VMs in a second is set aside for a while.
    assert!((traps as f64) < 6.0 * 220.0 * (seconds + 1.0), "{traps}");
    // Its ticks trap and are taken up again: the VM that is built anew sets them.
    assert!(server.diags().contains("filter 'trap': tick: "), "the log tells of the first");
    let traps = server.counters("no more requests", |_| true)["traps"];
    server.counters("another tick", |counters| counters["traps"] > traps);
}

/// A VM holds more than one transaction: those that wait in one that is lost are answered by their policy, at once.
#[test]
fn transactions_that_wait_in_a_lost_vm_are_answered() {
    let origin = Origin::start();
    let file = |policy: &str| {
        format!(
            "filters:\n  - name: probe\n    module: {{guest:probe}}\n    vm_id: {policy}\n    failure_policy: {policy}\n    \
             limits: {{pause_ms: 60000}}\n"
        )
    };
    let server = TrafficServer::builder()
        .origin(&origin)
        .stats()
        .threads(1)
        .rule(Rule::new("closed.test", "http://{origin}/").wasm(["closed.yaml"]))
        .rule(Rule::new("open.test", "http://{origin}/").wasm(["open.yaml"]))
        .file("closed.yaml", &file("closed"))
        .file("open.yaml", &file("open"))
        .start();
    let mut pauses = 0;
    for (host, status) in [("closed.test", 503), ("open.test", 200)] {
        let mut waiting: Vec<Client> = (0..10).map(|_| Client::connect(server.port())).collect();
        for client in &mut waiting {
            client.send_request("GET", host, "/waits", &[("x-probe", "pause"), ("x-probe-to", "log")], b"");
        }
        pauses += 10;
        server.counters("ten that wait", |counters| counters["pauses"] >= pauses);
        let before = origin.request_count();
        let mut client = Client::connect(server.port());
        let response = client.request("GET", host, "/traps", &[("x-probe", "panic"), ("x-probe-to", "log")], b"");
        assert_eq!(response.status, status, "{host}");
        for client in &mut waiting {
            assert_eq!(client.read_response().status, status, "{host}");
        }
        assert_eq!(origin.request_count() - before, if status == 200 { 11 } else { 0 }, "{host}");
        assert_eq!(client.get(host, "/").status, 200);
    }
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["transactions"] >= 24 && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!((counters["traps"], counters["streams_created"]), (2, 24));
}
