//! Rules and their chains: what one rule's filters do is done to that rule's traffic, and to no other.

use std::thread;

use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer};

const CHAIN_A: &str = r#"
filters:
  - name: headers
    module: {guest:headers}
    configuration:
      request: {set: {x-from: shop}, remove: [x-debug]}
      response: {set: {x-rule: A}, add: {x-many: [one, two]}, remove: [x-secret]}
  - name: api-key
    module: {guest:api-key}
    configuration: {keys: {sesame: alice}}
"#;

const CHAIN_B: &str = r#"
filters:
  - name: headers
    module: {guest:headers}
    configuration:
      request: {set: {x-from: blog}}
      response: {set: {x-rule: B}}
"#;

fn three_rules(origin: &Origin) -> TrafficServer {
    TrafficServer::builder()
        .origin(origin)
        .stats()
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["filters/a.yaml"]))
        .rule(Rule::new("b.test", "http://{origin}/").wasm(["filters/b.yaml"]))
        .rule(Rule::new("c.test", "http://{origin}/"))
        .file("filters/a.yaml", CHAIN_A)
        .file("filters/b.yaml", CHAIN_B)
        .start()
}

#[test]
fn each_rule_has_its_own_chain_and_configuration() {
    let origin = Origin::start();
    origin.route("/x", Reply::new(200).header("X-Secret", "s").body("hi"));
    let server = three_rules(&origin);
    let mut client = Client::connect(server.port());

    let denied = client.request("GET", "a.test", "/x", &[], b"");
    assert_eq!(denied.status, 401);
    assert_eq!(denied.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(denied.body, b"{\"error\":\"missing or unknown API key\"}\n");
    assert_eq!(denied.header("x-rule").as_deref(), Some("A"), "response callbacks see the local response");
    assert_eq!(origin.request_count(), 0);
    assert!(client.is_open(), "the connection is kept");

    let a = client.request("GET", "a.test", "/x", &[("X-Api-Key", "sesame"), ("X-Debug", "1")], b"");
    assert_eq!((a.status, a.body.as_slice()), (200, &b"hi"[..]));
    assert_eq!(a.header("x-rule").as_deref(), Some("A"));
    assert_eq!(a.header("x-secret"), None);
    assert_eq!(a.headers.all("x-many"), ["one", "two"]);
    let seen = origin.last();
    assert_eq!(seen.header("x-from").as_deref(), Some("shop"));
    assert_eq!(seen.header("x-api-client").as_deref(), Some("alice"));
    assert_eq!(seen.header("x-api-key"), None);
    assert_eq!(seen.header("x-debug"), None);

    let b = client.request("GET", "b.test", "/x", &[("X-Debug", "1")], b"");
    assert_eq!(b.header("x-rule").as_deref(), Some("B"));
    assert_eq!(b.header("x-many"), None);
    assert_eq!(b.header("x-secret").as_deref(), Some("s"));
    let seen = origin.last();
    assert_eq!(seen.header("x-from").as_deref(), Some("blog"));
    assert_eq!(seen.header("x-debug").as_deref(), Some("1"));

    let c = client.request("GET", "c.test", "/x", &[("X-Debug", "1")], b"");
    assert_eq!(c.header("x-rule"), None);
    assert_eq!(c.header("x-secret").as_deref(), Some("s"));
    assert_eq!(origin.last().header("x-from"), None);
}

/// Filter files whose headers filter says who it is, in every way there is.
fn signature(name: &str) -> String {
    format!(
        "filters:\n  - name: headers\n    module: {{guest:headers}}\n    configuration:\n      \
         request: {{set: {{x-from: {name}}}, add: {{x-only-{name}: \"1\"}}}}\n      \
         response: {{set: {{x-rule: {name}}}, add: {{x-many: [{name}-1, {name}-2]}}}}\n"
    )
}

#[test]
fn a_rule_without_the_plugin_never_enters_it() {
    let origin = Origin::start();
    let server = three_rules(&origin);
    let mut client = Client::connect(server.port());
    for _ in 0..30 {
        assert_eq!(client.request("GET", "a.test", "/", &[("X-Api-Key", "sesame")], b"").status, 200);
        assert_eq!(client.get("c.test", "/").status, 200);
        assert_eq!(client.get("nobody.test", "/").status, 404);
    }
    for _ in 0..20 {
        assert_eq!(client.get("b.test", "/").status, 200);
    }
    assert_eq!(origin.request_count(), 80);
    let counters = server.counters("A's and B's transactions", |counters| counters["transactions"] >= 50);
    assert_eq!(counters["transactions"], 50, "30 of A, 20 of B, none of C");
    // Two filters on A, one on B.
    let counters = server.counters("ends of the contexts", |counters| counters["streams_deleted"] >= 2 * 30 + 20);
    assert_eq!((counters["streams_created"], counters["streams_deleted"]), (80, 80));
    // Nothing that was counted late: another round of C alone changes nothing, as A's next one shows.
    for _ in 0..30 {
        assert_eq!(client.get("c.test", "/").status, 200);
    }
    assert_eq!(client.get("a.test", "/").status, 401);
    let counters = server.counters("one more transaction", |counters| counters["transactions"] > 50);
    assert_eq!(counters["transactions"], 51);
}

#[test]
fn several_files_and_several_filters_make_one_chain() {
    let one = |name: &str| {
        format!(
            "  - name: {name}\n    module: {{guest:headers}}\n    configuration: \
             {{request: {{add: {{x-way: {name}}}, set: {{x-last: {name}}}}}, \
             response: {{add: {{x-back: {name}}}, set: {{x-last: {name}}}}}}}\n"
        )
    };
    let origin = Origin::start();
    let server = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["one.yaml", "filters/two.yaml", "{etc}/three.yaml"]))
        .file("one.yaml", &format!("filters:\n{}{}", one("first"), one("second")))
        .file("filters/two.yaml", &format!("filters:\n{}", one("third")))
        .file("three.yaml", &format!("filters:\n{}{}", one("fourth"), one("fifth")))
        .start();
    let mut client = Client::connect(server.port());
    for _ in 0..3 {
        let response = client.get("a.test", "/");
        let seen = origin.last();
        assert_eq!(seen.headers.all("x-way"), ["first", "second", "third", "fourth", "fifth"]);
        assert_eq!(seen.headers.all("x-last"), ["fifth"]);
        assert_eq!(response.headers.all("x-back"), ["fifth", "fourth", "third", "second", "first"]);
        assert_eq!(response.headers.all("x-last"), ["first"]);
    }
}

/// Rules of one module share VMs; rules with one configuration share the plugin context as well.
#[test]
fn configurations_never_mix_under_interleaved_load() {
    const WORKERS: u64 = 8;
    const REQUESTS: u64 = 400;
    let names = ["anna", "bert", "cleo", "dora", "emil"];
    let origin = Origin::start();
    origin.discard();
    let mut builder = TrafficServer::builder().origin(&origin).stats().threads(3);
    for name in names {
        let file = format!("{name}.yaml");
        builder = builder
            .rule(Rule::new(&format!("{name}.test"), "http://{origin}/").wasm([file.as_str()]))
            .rule(Rule::new(&format!("also-{name}.test"), "http://{origin}/").wasm([file.as_str()]))
            .file(&file, &signature(name));
    }
    let server = builder.rule(Rule::new("plain.test", "http://{origin}/")).start();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let port = server.port();
            scope.spawn(move || {
                let mut client = Client::connect(port);
                let mut state = worker + 1;
                for turn in 0..REQUESTS {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let pick = (state >> 33) as usize % (names.len() * 2 + 1);
                    let name = names.get(pick % names.len()).filter(|_| pick < names.len() * 2);
                    let also = if pick >= names.len() { "also-" } else { "" };
                    let host = name.map_or("plain.test".to_owned(), |name| format!("{also}{name}.test"));
                    let response = client.get(&host, &format!("/{worker}/{turn}"));
                    // The origin echoes what it was sent.
                    let seen = response.text().to_ascii_lowercase();
                    let expected = name.map_or(Vec::new(), |name| vec![(*name).to_owned()]);
                    assert_eq!(response.headers.all("x-rule"), expected, "{host}");
                    let many = name.map_or(Vec::new(), |name| vec![format!("{name}-1"), format!("{name}-2")]);
                    assert_eq!(response.headers.all("x-many"), many, "{host}");
                    for other in names {
                        let there = name == Some(&other);
                        assert_eq!(seen.contains(&format!("\r\nx-from: {other}\r\n")), there, "{host}: {seen}");
                        assert_eq!(seen.contains(&format!("\r\nx-only-{other}: 1\r\n")), there, "{host}: {seen}");
                    }
                }
            });
        }
    });
    assert_eq!(origin.request_count() as u64, WORKERS * REQUESTS);
    let counters = server.counters("every context is deleted", |counters| {
        counters["transactions"] > 0 && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!(counters["roots_created"], 3 * names.len() as i64, "one plugin context a configuration and slot");
    assert_eq!((counters["vms_built"], counters["traps"]), (3, 0), "one VM a slot for all of them");
}

#[test]
fn a_rule_may_name_the_plugin_several_times() {
    let origin = Origin::start();
    let file = |name: &str| {
        format!(
            "filters:\n  - name: {name}\n    module: {{guest:headers}}\n    configuration: {{response: {{add: {{x-by: \"{name}\"}}}}}}\n"
        )
    };
    let names = ["one", "two", "three", "four", "five"];
    let mut server = TrafficServer::builder().origin(&origin);
    let mut rule = Rule::new("often.test", "http://{origin}/");
    for name in names {
        let path = format!("filters/{name}.yaml");
        server = server.file(&path, &file(name));
        rule = rule.wasm([path.as_str()]);
    }
    let server = server.rule(rule).start();
    let mut client = Client::connect(server.port());
    // Each transaction finds what the one before it left.
    for _ in 0..3 {
        let response = client.request("GET", "often.test", "/", &[], b"");
        assert_eq!(response.status, 200);
        let mut by = response.headers.all("x-by");
        by.sort_unstable();
        assert_eq!(by, ["five", "four", "one", "three", "two"]);
    }
}

#[test]
fn a_refusal_is_final_for_the_plugins_behind_it() {
    let origin = Origin::start();
    let server = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("guarded.test", "http://{origin}/").wasm(["guard.yaml"]).wasm(["answer.yaml"]))
        .file(
            "guard.yaml",
            "filters: [{name: guard, module: {guest:api-key}, configuration: {keys: {sesame: alice}}}]\n",
        )
        .file(
            "answer.yaml",
            "filters: [{name: answer, module: {guest:local-response}, configuration: {status: 200}}]\n",
        )
        .start();
    let mut client = Client::connect(server.port());
    assert_eq!(client.request("GET", "guarded.test", "/", &[], b"").status, 401);
    assert_eq!(client.request("GET", "guarded.test", "/", &[("x-api-key", "sesame")], b"").status, 200);
    assert_eq!(origin.request_count(), 0, "the second one answers, if it is asked");
}
