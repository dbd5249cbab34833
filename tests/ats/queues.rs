//! Shared queues between filters and services on all threads of a server: what is put in comes out, once.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::{Builder, Client, Origin, Rule, TrafficServer, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A filter (or service) of the guest `queue`. Roles have VMs of their own, so that a trap in one is none in another.
fn queue(role: &str, vm_id: &str, configuration: &str) -> String {
    format!(
        "  - name: {role}\n    module: {{guest:queue}}\n    body: none\n    root_id: {role}\n    vm_id: {vm_id}\n    \
         vm_configuration: {role}\n    limits: {{callback_ms: 2000, log_lines_per_second: 100000}}\n    configuration: {configuration}\n"
    )
}

/// A filter that makes whatever calls a request asks for.
fn probe(vm_id: &str) -> String {
    format!("filters:\n  - name: probe\n    module: {{guest:probe}}\n    body: none\n    vm_id: {vm_id}\n")
}

fn filters(filters: &str) -> String {
    format!("filters:\n{filters}")
}

/// A rule for each of these files, whose hosts are `<name>.test`.
fn builder(origin: &Origin, files: &[(&str, String)]) -> Builder {
    let builder = TrafficServer::builder().origin(origin).threads(4).stats();
    files.iter().fold(builder, |builder, (name, text)| {
        let file = format!("{name}.yaml");
        builder.rule(Rule::new(&format!("{name}.test"), "http://{origin}/").wasm([file.as_str()])).file(&file, text)
    })
}

/// Puts items in: `first-last`, or a count. How many were accepted and refused.
#[track_caller]
fn produce(client: &mut Client, items: &str) -> (u64, u64) {
    let response = client.request("GET", "producer.test", "/", &[("x-items", items)], b"");
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    let number = |name: &str| -> u64 {
        let value = text.split_whitespace().find_map(|word| word.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    (number("accepted="), number("refused="))
}

/// What consumers have counted.
#[track_caller]
fn stats(server: &TrafficServer) -> BTreeMap<String, i64> {
    let text = Client::connect(server.port()).get("stats.test", "/").text();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.parse().expect("a number")))
        .collect()
}

#[track_caller]
fn taken(server: &TrafficServer, items: i64) -> BTreeMap<String, i64> {
    wait_until(PATIENCE, "all items are taken", || {
        thread::sleep(Duration::from_millis(50));
        Some(stats(server)).filter(|stats| stats["items"] >= items)
    })
}

/// The one result of a call that a request makes.
#[track_caller]
fn call(client: &mut Client, program: &str) -> String {
    client.request("GET", "probe.test", "/", &[("x-probe", program)], b"").text()
}

/// The sum and the sum of squares of the numbers from 1 on.
fn sums(count: i64) -> (i64, i64) {
    (1..=count).fold((0, 0), |(sum, squares), n: i64| (sum + n, squares.wrapping_add(n.wrapping_mul(n))))
}

/// Puts items of the numbers from 1 on in, from four connections at once.
fn load(server: &TrafficServer, items: u64) {
    const BATCH: u64 = 10_000;
    thread::scope(|scope| {
        for producer in 0..4 {
            scope.spawn(move || {
                let mut client = Client::connect(server.port());
                for batch in (producer * BATCH..items).step_by(4 * BATCH as usize) {
                    let last = (batch + BATCH).min(items);
                    assert_eq!(produce(&mut client, &format!("{}-{last}", batch + 1)), (last - batch, 0));
                }
            });
        }
    });
}

/// Four threads put items in; all four and a service take them out, whose VMs trap now and then: before they take an item, so
/// that none is lost.
#[test]
fn a_million_items_through_a_server_are_delivered_once_each() {
    const ITEMS: i64 = 1_000_000;
    let origin = Origin::start();
    // No multiple of the number of consumers, which are told in turns: else it would always meet the same one.
    let consumer = queue("consumer", "many", "{take: 500, trap_every: 47, trap: before}");
    let service = queue("consumer", "many", "{take: 500}").replace("    body: none\n", "");
    let producer = format!(
        "namespaces: [{{vm_id: many, queue_items: 1000000, queue_mib: 256}}]\nfilters:\n{}",
        queue("producer", "many", "{}")
    );
    let files = [
        ("consumer", format!("services:\n{service}filters:\n{consumer}")),
        ("producer", producer),
        ("stats", filters(&queue("stats", "many", "{}"))),
    ];
    let server = builder(&origin, &files).start();
    let begun = Instant::now();
    load(&server, ITEMS as u64);
    let produced = begun.elapsed();
    let stats = taken(&server, ITEMS);
    println!("{ITEMS} items: in after {produced:?}, out after {:?}: {stats:?}", begun.elapsed());
    let (sum, squares) = sums(ITEMS);
    assert_eq!((stats["items"], stats["sum"], stats["squares"], stats["malformed"]), (ITEMS, sum, squares, 0));
    assert!(stats["traps"] > 10, "{stats:?}");
    let counters = server.counters("as many traps", |counters| counters["traps"] >= stats["traps"]);
    assert_eq!(counters["traps"], stats["traps"]);
}

/// A trap takes with it what its callback had taken, and not counted: one item each time, and no other.
#[test]
fn a_trap_costs_what_its_callback_had_taken() {
    const ITEMS: i64 = 100_000;
    let origin = Origin::start();
    let consumer = |trap: &str| queue("consumer", "held", &format!("{{take: 50, trap_every: 20, trap: {trap}}}"));
    let producer =
        format!("namespaces: [{{vm_id: held, queue_items: 1000000}}]\nfilters:\n{}", queue("producer", "held", "{}"));
    let files = [
        ("consumer", filters(&consumer("holding"))),
        ("producer", producer),
        ("stats", filters(&queue("stats", "held", "{}"))),
        ("probe", probe("held")),
    ];
    let server = builder(&origin, &files).start();
    load(&server, ITEMS as u64);
    let lost =
        || server.lines_since(Default::default()).iter().filter(|line| line.contains("holding Ok(Some(")).count();
    let stats = wait_until(PATIENCE, "all items are taken or lost", || {
        thread::sleep(Duration::from_millis(100));
        Some(stats(&server)).filter(|stats| stats["items"] + lost() as i64 >= ITEMS)
    });
    println!("{ITEMS} items, {} lost: {stats:?}", lost());
    assert_eq!(stats["items"] + lost() as i64, ITEMS, "{stats:?}");
    assert!(lost() > 10 && lost() as i64 <= stats["traps"], "{stats:?}");
}

/// One item a callback, many callbacks; and every consumer has its turn.
#[test]
fn a_consumer_that_takes_one_item_at_a_time_is_called_for_each() {
    const ITEMS: i64 = 3_000;
    let origin = Origin::start();
    let files = [
        ("consumer", filters(&queue("consumer", "one", "{take: 1}"))),
        ("producer", filters(&queue("producer", "one", "{}"))),
        ("stats", filters(&queue("stats", "one", "{}"))),
    ];
    let server = builder(&origin, &files).start();
    load(&server, ITEMS as u64);
    let stats = taken(&server, ITEMS);
    assert_eq!((stats["items"], stats["sum"]), (ITEMS, sums(ITEMS).0));
    assert!(stats["callbacks"] >= ITEMS && stats["callbacks"] <= ITEMS + ITEMS / 10, "{stats:?}");
    println!("{stats:?}");
}

/// A queue is found by the vm_id of whoever made it, by filters of any other.
#[test]
fn a_queue_is_found_from_another_vm_id() {
    let origin = Origin::start();
    let files = [
        ("consumer", filters(&queue("consumer", "owner", "{}"))),
        ("producer", filters(&queue("producer", "other", "{vm_id: owner}"))),
        ("stats", filters(&queue("stats", "owner", "{}"))),
        ("lost", filters(&queue("producer", "other", "{vm_id: nobody}"))),
    ];
    let server = builder(&origin, &files).start();
    let mut client = Client::connect(server.port());
    assert_eq!(produce(&mut client, "1-1000"), (1000, 0));
    let stats = taken(&server, 1000);
    assert_eq!((stats["items"], stats["sum"]), (1000, 500_500));
    let response = client.request("GET", "lost.test", "/", &[("x-items", "1-2")], b"");
    assert_eq!(response.status, 404);
}

#[test]
fn a_full_queue_refuses_or_drops_as_it_is_told() {
    let origin = Origin::start();
    for (overflow, accepted, first) in [("reject", (100, 50), 1), ("drop_oldest", (150, 0), 51)] {
        let producer = format!(
            "namespaces: [{{vm_id: full, queue_items: 100, queue_mib: 1, queue_overflow: {overflow}}}]\nfilters:\n{}",
            queue("producer", "full", "{}")
        );
        let files = [("producer", producer), ("probe", probe("full"))];
        let server = builder(&origin, &files).start();
        let mut client = Client::connect(server.port());
        // A queue whose one consumer takes nothing by itself.
        let made = call(&mut client, "register_shared_queue items");
        assert!(made.contains("\"status\":0"), "{made}");
        assert_eq!(produce(&mut client, "1-150"), accepted, "{overflow}");
        let item = call(&mut client, "resolve_shared_queue full items; dequeue_shared_queue $0.0");
        let eight = if first < 0x20 { format!("\\u{first:04x}") } else { char::from(first).to_string() };
        let eight = format!("\"{eight}{}\"", "\\u0000".repeat(7));
        assert!(item.contains(&eight), "{overflow}: expected {eight} in {item}");
        assert_eq!(produce(&mut client, "1000-1000"), (1, 0), "there is room for one");
        // More than it may hold in bytes is refused, whatever it does beyond its ceilings, and costs nobody his place.
        let large = [("x-items", "1-1"), ("x-item-bytes", "2000000")];
        let response = client.request("GET", "producer.test", "/", &large, b"");
        assert_eq!(response.text(), "accepted=0 refused=1\n");
        assert_eq!(produce(&mut client, "1-1"), if overflow == "reject" { (0, 1) } else { (1, 0) });
        let counters = server.counters("every transaction is over", |counters| {
            counters["streams_created"] == counters["streams_deleted"]
        });
        assert_eq!(counters["traps"], 0, "{overflow}");
    }
}

/// Items wait for a consumer that comes with a reload.
#[test]
fn items_wait_for_a_consumer_that_comes_with_a_reload() {
    const ITEMS: i64 = 10_000;
    let origin = Origin::start();
    let files = [
        ("probe", probe("late")),
        ("producer", filters(&queue("producer", "late", "{}"))),
        ("stats", filters(&queue("stats", "late", "{}"))),
    ];
    let server =
        builder(&origin, &files).manager().file("consumer.yaml", &filters(&queue("consumer", "late", "{}"))).start();
    let mut client = Client::connect(server.port());
    let refused = client.request("GET", "producer.test", "/", &[("x-items", "1-1")], b"");
    assert_eq!(refused.status, 404, "nobody has made the queue");
    assert!(call(&mut client, "register_shared_queue items").contains("\"status\":0"));
    load(&server, ITEMS as u64);
    let rule =
        |name: &str| format!("map http://{name}.test/ http://{{origin}}/ @plugin=wasm_remap.so @pparam={name}.yaml\n");
    // The one that has made it takes nothing, and leaves when the consumer comes.
    assert_eq!(stats(&server)["items"], 0);
    server.rewrite_remap(&["producer", "stats", "consumer"].map(rule).concat());
    let begun = Instant::now();
    server.reload().expect("the rules load");
    let reloaded = begun.elapsed();
    let stats = taken(&server, ITEMS);
    println!("reloaded after {reloaded:?}, taken after {:?}", begun.elapsed());
    let (sum, squares) = sums(ITEMS);
    assert_eq!((stats["items"], stats["sum"], stats["squares"]), (ITEMS, sum, squares));
}
