//! The life of contexts: which callbacks come, in what order, and that every context that is created is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Connection, Origin, Reply, Rule, TrafficServer, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

fn filter(name: &str, configuration: &str) -> String {
    // Its lines are what is looked at, however many there are.
    format!(
        "  - name: {name}\n    module: {{guest:counter}}\n    configuration: {configuration}\n    \
         limits: {{log_lines_per_second: 100000}}\n"
    )
}

fn builder(origin: &Origin) -> Builder {
    TrafficServer::builder()
        .origin(origin)
        .rule(Rule::new("one.test", "http://{origin}/").wasm(["one.yaml"]))
        .rule(Rule::new("two.test", "http://{origin}/").wasm(["two.yaml"]))
        .rule(Rule::new("key.test", "http://{origin}/").wasm(["key.yaml"]))
        .file("one.yaml", &format!("filters:\n{}", filter("only", "{}")))
        .file("two.yaml", &format!("filters:\n{}{}", filter("first", "{}"), filter("second", "{done: false}")))
        .file(
            "key.yaml",
            &format!(
                "filters:\n{}  - name: api-key\n    module: {{guest:api-key}}\n    configuration: {{keys: {{sesame: alice}}}}\n{}",
                filter("before", "{}"),
                filter("behind", "{}")
            ),
        )
}

/// An event of a counter guest, as its line tells: the filter, the event, the context.
fn events(lines: &[String]) -> Vec<(String, String, u32)> {
    let event = |line: &String| {
        let (head, tail) = line.split_once(" info: lifecycle ")?;
        // [date] [thread] NOTE: [wasm_remap] [filter] #context
        let filter = head.rsplit_once("] #")?.0.rsplit_once('[')?.1;
        // lifecycle <event> <context> | filter=... rule=... thread=... txn=...
        let (event, context) = tail.split_once(' ')?;
        let context = context.split(' ').next()?;
        Some((filter.to_owned(), event.to_owned(), context.parse().ok()?))
    };
    // How often body callbacks come depends on how bodies come; their order is for tests/ats/bodies to say.
    lines.iter().filter_map(event).filter(|(_, event, _)| !event.ends_with("-body")).collect()
}

/// Filter and event of each line since `mark`, once `count` of them are there.
fn story(server: &TrafficServer, mark: wasm_remap_tests::Mark, count: usize) -> Vec<String> {
    let told = wait_until(PATIENCE, "the events", || {
        let told = events(&server.lines_since(mark));
        (told.len() >= count).then_some(told)
    });
    told.into_iter().map(|(filter, event, _)| format!("{filter} {event}")).collect()
}

#[test]
fn callbacks_come_in_order() {
    let origin = Origin::start();
    let server = builder(&origin).threads(1).start();
    let mut client = Client::connect(server.port());

    let mark = server.mark();
    assert_eq!(client.get("one.test", "/").status, 200);
    assert_eq!(
        story(&server, mark, 6),
        ["only create", "only request-headers", "only response-headers", "only done", "only log", "only delete"]
    );

    // Request callbacks first to last, response callbacks last to first; a context is made when its turn comes. What
    // a stream's on_done returns makes no difference.
    let mark = server.mark();
    assert_eq!(client.get("two.test", "/").status, 200);
    assert_eq!(
        story(&server, mark, 12),
        [
            "first create",
            "first request-headers",
            "second create",
            "second request-headers",
            "second response-headers",
            "first response-headers",
            "first done",
            "first log",
            "first delete",
            "second done",
            "second log",
            "second delete",
        ]
    );

    // A filter that answers: those behind it never hear of the request, those before it see the response.
    let mark = server.mark();
    assert_eq!(client.get("key.test", "/").status, 401);
    let expected = [
        "before create",
        "before request-headers",
        "before response-headers",
        "before done",
        "before log",
        "before delete",
    ];
    assert_eq!(story(&server, mark, 6), expected);

    let mark = server.mark();
    assert_eq!(client.request("GET", "key.test", "/", &[("X-Api-Key", "sesame")], b"").status, 200);
    let told = story(&server, mark, 12);
    assert_eq!(told.iter().filter(|event| event.starts_with("behind ")).count(), 6, "{told:?}");
}

/// The same story for every method, framing, status and cache result.
#[test]
fn every_kind_of_transaction_has_the_same_story() {
    let origin = Origin::start();
    origin.route("/cached", Reply::new(200).cacheable(600).body("cached"));
    origin.route("/chunked", Reply::new(200).body("0123456789").chunked(3));
    origin.route("/until-close", Reply::new(200).body("until the end").until_close());
    origin.route("/none", Reply::new(204));
    origin.route("/error", Reply::new(500).body("error"));
    origin.route("/interim", Reply::new(200).interim("HTTP/1.1 103 Early Hints\r\n\r\n").body("late"));
    let server = builder(&origin).threads(1).start();
    let cases = [
        ("GET", "/", &b""[..]),
        ("HEAD", "/", b""),
        ("POST", "/", b"posted"),
        ("PUT", "/", b"put"),
        ("DELETE", "/", b""),
        ("OPTIONS", "/", b""),
        ("PURGE", "/x", b""),
        ("GET", "/cached", b""),
        ("GET", "/cached", b""),
        ("HEAD", "/cached", b""),
        ("GET", "/chunked", b""),
        ("GET", "/until-close", b""),
        ("GET", "/none", b""),
        ("GET", "/error", b""),
        ("GET", "/interim", b""),
    ];
    for (method, path, body) in cases {
        let mark = server.mark();
        let response = Client::connect(server.port()).request(method, "one.test", path, &[], body);
        let told = story(&server, mark, 6);
        assert_eq!(
            told,
            ["only create", "only request-headers", "only response-headers", "only done", "only log", "only delete"],
            "{method} {path}: {} {}",
            response.status,
            response.reason
        );
    }
    // An origin that is not there: ATS's own error page is a response, too.
    let port = origin.port();
    drop(origin);
    let mark = server.mark();
    let response = Client::connect(server.port()).get("one.test", "/gone");
    assert_eq!(response.status, 502, "nobody listens on port {port}");
    assert_eq!(story(&server, mark, 6)[2], "only response-headers");
}

#[test]
fn pipelined_requests_are_transactions_of_their_own() {
    let origin = Origin::start();
    let server = builder(&origin).threads(1).start();
    let mut client = Client::connect(server.port());
    let mark = server.mark();
    let requests: Vec<String> = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: one.test\r\n\r\n")).collect();
    client.send(requests.concat());
    for n in 0..20 {
        let response = client.read_response();
        assert!(response.text().starts_with(&format!("GET /{n} ")), "{n}: {}", response.text());
    }
    assert_eq!(client.connection(), Connection::Open);
    let told = wait_until(PATIENCE, "the ends of 20 contexts", || {
        let told = events(&server.lines_since(mark));
        (told.len() == 6 * 20).then_some(told)
    });
    let contexts: BTreeSet<u32> = told.iter().map(|(_, _, context)| *context).collect();
    assert_eq!(contexts.len(), 20);
    // One at a time, from its creation to its deletion.
    for one in told.chunks(6) {
        assert!(one.iter().all(|(_, _, context)| *context == one[0].2), "{one:?}");
        assert_eq!((one[0].1.as_str(), one[5].1.as_str()), ("create", "delete"));
    }
}

/// Clients that finish, stop in the middle, reset, never send a whole request, or send garbage.
#[test]
fn every_context_is_deleted_after_mixed_traffic() {
    let origin = Origin::start();
    origin.route("/slow", Reply::new(200).body("late").delay(Duration::from_millis(100)));
    origin.route("/reset", Reply::new(200).body(vec![b'x'; 100_000]).reset_after(50_000));
    origin.route("/large", Reply::new(200).generated(9, 3_000_000));
    let server = builder(&origin).threads(2).stats().start();
    let hosts = ["one.test", "two.test", "key.test"];
    thread::scope(|scope| {
        for worker in 0..4 {
            let (server, port) = (&server, server.port());
            scope.spawn(move || {
                let mut kept = Client::connect(port);
                for turn in 0..60 {
                    let host = hosts[(worker + turn) % hosts.len()];
                    let key = [("X-Api-Key", if turn % 3 == 0 { "wrong" } else { "sesame" })];
                    match turn % 8 {
                        0 | 1 => {
                            kept.request("GET", host, "/x", &key, b"");
                        }
                        2 => {
                            let response = kept.request("POST", host, "/x", &key, b"posted");
                            if response.says_close() {
                                kept = Client::connect(port);
                            }
                        }
                        3 => {
                            let mut client = Client::connect(port);
                            client.send_request("GET", host, "/slow", &key, b"");
                            client.abort();
                        }
                        4 => {
                            let mut client = Client::connect(port);
                            client.send_request("GET", host, "/large", &key, b"");
                            client.abort();
                        }
                        5 => {
                            let mut client = Client::connect(port);
                            client.send_request("GET", host, "/reset", &key, b"");
                            let _ = client.try_response_to("GET");
                        }
                        6 => {
                            let mut client = Client::connect(port);
                            client.send(format!("GET /half HTTP/1.1\r\nHost: {host}\r\nX-"));
                            drop(client);
                            let mut client = Client::connect(port);
                            client.send("\0\x01garbage\r\n\r\n");
                            let _ = client.try_response_to("GET");
                        }
                        _ => {
                            // Half of its body, and no more.
                            let mut client = Client::connect(port);
                            client.send(format!("POST /x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nhalf"));
                            client.abort();
                        }
                    }
                }
                assert!(server.is_alive());
            });
        }
    });
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["transactions"] > 100 && counters["streams_created"] == counters["streams_deleted"]
    });
    // What the guests themselves saw, context by context.
    let told = wait_until(PATIENCE, "the last event", || {
        let told = events(&server.lines_since(wasm_remap_tests::Mark::default()));
        let count = |name: &str| told.iter().filter(|(_, event, _)| event == name).count();
        (count("create") == count("delete")).then_some(told)
    });
    let mut lives: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, event, _) in &told {
        *lives.entry(event).or_default() += 1;
    }
    assert_eq!((lives["done"], lives["log"], lives["delete"]), (lives["create"], lives["create"], lives["create"]));
    assert_eq!(lives["request-headers"], lives["create"]);
    assert!(lives["response-headers"] <= lives["create"]);
    assert!(counters["streams_created"] as usize > lives["create"], "api-key counts too, and tells nothing");
    assert_eq!((counters["traps"], counters["panics"]), (0, 0));
    println!("{} transactions, {} contexts created and deleted", counters["transactions"], counters["streams_created"]);
}

/// Plugin contexts: started and configured once a slot, and ended when no rule has them any more.
#[test]
fn plugin_contexts_end_after_a_reload() {
    let origin = Origin::start();
    let server = builder(&origin).threads(2).manager().start();
    let roots = |event: &str, filter: &str| {
        let told = events(&server.lines_since(wasm_remap_tests::Mark::default()));
        told.iter().filter(|(of, what, _)| of == filter && what == event).count()
    };
    for event in ["create-root", "vm-start", "configure"] {
        assert!(roots(event, "only") >= 2, "{event}: {}", roots(event, "only"));
        assert_eq!(roots(event, "only"), roots("create-root", "only"), "{event}");
    }
    assert_eq!(roots("done-root", "only"), 0);
    // Without the rules of this filter.
    server.rewrite_remap("map http://two.test/ http://{origin}/ @plugin=wasm_remap.so @pparam=two.yaml");
    server.reload().expect("the new configuration loads");
    wait_until(PATIENCE, "the ends of the plugin contexts", || (roots("delete-root", "only") == 2).then_some(()));
    assert_eq!((roots("done-root", "only"), roots("log-root", "only")), (2, 2));
    // A filter that stays is left as it is.
    for event in ["done-root", "log-root", "delete-root"] {
        assert_eq!((roots(event, "first"), roots(event, "second")), (0, 0), "{event}");
    }
    assert_eq!(Client::connect(server.port()).get("two.test", "/").status, 200);
}

#[test]
fn after_an_upgrade_in_place_the_statistics_are_the_new_copys() {
    let origin = Origin::start();
    let server = builder(&origin).manager().stats().start();
    let mut client = Client::connect(server.port());
    for _ in 0..5 {
        assert_eq!(client.request("GET", "one.test", "/", &[], b"").status, 200);
    }
    server.counters("five transactions", |counters| counters.get("transactions") == Some(&5));
    server.renew_plugin();
    server.reload().expect("the same configuration, a new copy");
    for _ in 0..2 {
        assert_eq!(client.request("GET", "one.test", "/", &[], b"").status, 200);
    }
    server.counters("two transactions of the new copy", |counters| counters.get("transactions") == Some(&2));
    // Longer than both copies' periods: the old one must not come back with its numbers.
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        assert_eq!(server.metric("wasm_remap.transactions"), Some(2));
        thread::sleep(Duration::from_millis(50));
    }
}
