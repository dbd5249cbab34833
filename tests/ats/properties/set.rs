//! What is set, and what the origin, the client and later filters see of it.

use std::time::Duration;

use serde_json::{Value, json};
use wasm_remap_tests::{Client, Origin, Reply, Request, Rule};

use crate::support::{self, status_of};
use crate::{PROBE, builder};

/// A set is a call in the request's headers; what follows is what the origin and the client see.
fn set(path: Value, value: Value) -> Value {
    json!({"on_request_headers": [["set_property", path, value]]})
}

fn number(value: i64) -> Value {
    json!({"bytes": value.to_le_bytes()})
}

#[test]
fn records_are_set_by_name() {
    let origin = Origin::start();
    origin.route("/hangs", Reply::new(200).delay(Duration::from_secs(5)));
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    let name = json!(["ats", "config", "proxy.config.http.response_server_str"]);
    let ask = |client: &mut Client, path: &str, program: &Value| support::run(client, "a.test", path, &[], program);
    let (results, response) = ask(&mut client, "/x", &set(name.clone(), json!("renamed")));
    assert_eq!(status_of(&results["on_request_headers"][0]), 0);
    assert_eq!(response.header("server").as_deref(), Some("renamed"));
    assert_ne!(
        ask(&mut client, "/x", &json!({})).1.header("server").as_deref(),
        Some("renamed"),
        "for one transaction"
    );

    let read_back = json!({"on_request_headers": [
        ["set_property", "ats.config.proxy.config.http.cache.heuristic_lm_factor", "0.5"],
        ["get_property", "ats.config.proxy.config.http.cache.heuristic_lm_factor"],
        ["set_property", "ats.config.proxy.config.http.down_server.cache_time", "7"],
        ["get_property", "ats.config.proxy.config.http.down_server.cache_time"],
    ]});
    let (results, _) = ask(&mut client, "/x", &read_back);
    let results = &results["on_request_headers"];
    assert_eq!((results[1]["out"][0].as_str(), results[3]["out"][0].as_str()), (Some("0.5"), Some("7")));

    // ATS does what it was told.
    let timeout = set(json!("ats.config.proxy.config.http.transaction_no_activity_timeout_out"), json!("1"));
    let (_, response) = ask(&mut client, "/hangs", &timeout);
    assert_eq!(response.status, 504);

    let mut client = Client::connect(server.port());
    for (name, value) in [
        ("http.response_server_str", json!("a\r\nb")),
        ("http.connect_attempts_timeout", json!("soon")),
        ("http.connect_attempts_timeout", json!("")),
        ("http.connect_attempts_timeout", json!("99999999999")),
        ("http.cache.http", json!("300")),
        ("http.chunking.size", json!("0")),
        ("http.parent_proxy.per_parent_connect_attempts", json!("0")),
        ("http.request_buffer_enabled", json!("1")),
        ("http.cache.heuristic_lm_factor", json!("7")),
        ("ssl.client.cert.path", json!("/tmp")),
        ("http.server_ports", json!("80")),
        ("none", json!("1")),
    ] {
        let (results, _) =
            ask(&mut client, "/x", &set(json!(format!("ats.config.proxy.config.{name}")), value.clone()));
        assert_eq!(status_of(&results["on_request_headers"][0]), 2, "{name}: {value}");
    }
}

/// BadArgument for what ATS makes; what means nothing to it is a filter's own.
#[test]
fn what_may_be_set_and_what_not() {
    let origin = Origin::start();
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    for path in [
        "request.path",
        "request.headers.x",
        "response.code",
        "source.address",
        "destination.port",
        "connection.id",
        "connection.subject_peer_certificate",
        "upstream.address",
        "upstream.request_attempt_count",
        "xds.route_name",
        "node.id",
        "connection_id",
        "ats.txn.id",
        "ats.milestones.sm_start",
        "ats.cache.lookup_status",
        "ats.typo",
    ] {
        let (results, _) = support::run(&mut client, "a.test", "/x", &[], &set(json!(path), json!("v")));
        assert_eq!(status_of(&results["on_request_headers"][0]), 2, "{path}");
    }
    for (path, value) in [
        ("ats.cache.no_store", json!("maybe")),
        ("ats.cache.key", json!("/relative")),
        ("ats.cache.key", json!("")),
        ("ats.cache.lifetime", json!("60")),
        ("ats.cache.lifetime", number(-1)),
        ("ats.next_hop.address", json!("a.test:80")),
        ("ats.next_hop.address", json!("127.0.0.1:0")),
        ("ats.next_hop.address", json!("127.0.0.1")),
        ("ats.parent", json!("a.test")),
        ("ats.parent", json!("a.test:0")),
        ("ats.parent", json!(":80")),
        ("ats.redirect.follow", json!("1")),
        ("ats.redirect.url", json!("/relative")),
    ] {
        let (results, _) = support::run(&mut client, "a.test", "/x", &[], &set(json!(path), value.clone()));
        assert_eq!(status_of(&results["on_request_headers"][0]), 2, "{path}: {value}");
    }
    // Kept for later callbacks and filters; a name that only looks like one of ATS's included.
    for path in ["own.thing", "request.mine", "metadata.x", "plain"] {
        let program = json!({
            "on_request_headers": [["set_property", path, "kept"]],
            "on_response_headers": [["get_property", path]],
        });
        let (results, _) = support::run(&mut client, "a.test", "/x", &[], &program);
        assert_eq!(results["on_response_headers"][0]["out"][0], json!("kept"), "{path}");
    }
}

#[test]
fn the_cache_is_governed() {
    let origin = Origin::start();
    origin.route("/*", |request: &Request| {
        let reply = Reply::new(200).body(format!("{} {}", request.method, request.target));
        if request.target.contains("bare") { reply } else { reply.cacheable(600) }
    });
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    let mut ask = |path: &str, program: &Value| {
        let (results, response) = support::run(&mut client, "a.test", path, &[], program);
        for result in results.get("on_request_headers").and_then(Value::as_array).into_iter().flatten() {
            assert_eq!(status_of(result), 0, "{result}");
        }
        response.text()
    };
    let none = json!({});

    // Not stored.
    let no_store = set(json!("ats.cache.no_store"), json!({"bytes": [1]}));
    ask("/no-store", &no_store);
    ask("/no-store", &no_store);
    assert_eq!(origin.take_requests().len(), 2);
    ask("/no-store", &none);
    ask("/no-store", &none);
    assert_eq!(origin.take_requests().len(), 1, "without it, it is");

    // One object under another name.
    let key = set(json!("ats.cache.key"), json!("http://key.test/one"));
    assert_eq!(ask("/first", &key), "GET /first");
    assert_eq!(ask("/second", &key), "GET /first", "the key is the same");
    assert_eq!(ask("/second", &none), "GET /second");
    assert_eq!(origin.take_requests().len(), 2);
    let program = json!({"on_request_headers": [
        ["set_property", "ats.cache.key", "http://key.test/a?b"],
        ["get_property", "ats.cache.key"],
    ]});
    ask("/x", &program);

    // A lifetime where the origin gives none.
    origin.take_requests();
    ask("/bare", &none);
    ask("/bare", &none);
    assert_eq!(origin.take_requests().len(), 2, "ATS stores nothing without an explicit lifetime");
    let hour = set(json!("ats.cache.lifetime"), number(3600));
    ask("/bare", &hour);
    ask("/bare", &hour);
    assert_eq!(origin.take_requests().len(), 1);
    // And a shorter one than the origin's: what is older than that is asked for again.
    ask("/short", &none);
    std::thread::sleep(Duration::from_millis(2100));
    ask("/short", &none);
    assert_eq!(origin.take_requests().len(), 1);
    let program = json!({"on_request_headers": [
        ["set_property", "ats.cache.lifetime", number(1)],
        ["get_property", "ats.cache.lifetime"],
    ]});
    ask("/short", &program);
    assert_eq!(origin.take_requests().len(), 1);

    // What is not cached by its method.
    let both = json!({"on_request_headers": [
        ["set_property", "ats.cache.request_cacheable", {"bytes": [1]}],
        ["set_property", "ats.cache.response_cacheable", "true"],
        ["get_property", "ats.cache.request_cacheable"],
    ]});
    let post = |program: &Value| {
        let mut client = Client::connect(server.port());
        let headers = [("x-probe", program.to_string()), ("x-probe-to", "log".to_owned())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.request("POST", "a.test", "/post", &headers, b"p").text()
    };
    post(&none);
    post(&none);
    assert_eq!(origin.take_requests().len(), 2);
    assert_eq!((post(&both), post(&both)), ("POST /post".to_owned(), "POST /post".to_owned()));
    assert_eq!(origin.take_requests().len(), 1);
}

#[test]
fn the_next_hop_is_chosen() {
    let (origin, other) = (Origin::start(), Origin::start());
    origin.route("/*", Reply::new(200).body("the rule's"));
    other.route("*", Reply::new(200).body("the other"));
    let server = builder(&origin)
        .rule(Rule::new("named.test", "http://no-such-name.test:8080/").wasm(["probe.yaml"]))
        .record("proxy.config.url_remap.pristine_host_hdr", 1)
        .start();
    let mut client = Client::connect(server.port());
    let program = json!({
        "on_request_headers": [["set_property", "ats.next_hop.address", other.address()]],
        "on_response_headers": [
            ["get_property", "upstream.address"],
            ["set_property", "ats.next_hop.address", origin.address()],
        ],
    });
    for host in ["a.test", "named.test"] {
        let (results, response) = support::run(&mut client, host, "/x", &[], &program);
        assert_eq!(response.text(), "the other", "{host}");
        assert_eq!(results["on_response_headers"][0]["out"][0], json!(other.address()));
        assert_eq!(status_of(&results["on_response_headers"][1]), 2, "too late");
        let request = other.last();
        assert_eq!((request.target.as_str(), request.header("host").as_deref()), ("/x", Some(host)));
    }
    assert_eq!(support::run(&mut client, "a.test", "/x", &[], &json!({})).1.text(), "the rule's");

    // As a proxy: it is told the whole URL.
    let program = json!({
        "on_request_headers": [
            ["set_property", "ats.parent", other.address()],
            ["get_property", "ats.parent"],
        ],
        "on_response_headers": [["get_property", "ats.next_hop.kind"], ["get_property", "upstream.address"]],
    });
    let (results, response) = support::run(&mut client, "named.test", "/x", &[], &program);
    assert_eq!(response.text(), "the other", "{results:?}");
    assert_eq!(results["on_request_headers"][1]["out"][0], json!(other.address()));
    assert_eq!(results["on_response_headers"][0]["out"][0], json!("parent"));
    assert_eq!(results["on_response_headers"][1]["out"][0], json!(other.address()));
    assert_eq!(other.last().target, "http://no-such-name.test:8080/x");
}

#[test]
fn redirections_are_followed() {
    let (origin, other) = (Origin::start(), Origin::start());
    let there = format!("http://{}/there", other.address());
    origin.route("/moved", Reply::new(302).header("Location", &there).body("moved"));
    origin.route("/plain", Reply::new(200).body("plain"));
    other.route("/there", Reply::new(200).body("there"));
    let server = builder(&origin)
        .file("probe.yaml", &format!("{PROBE}    body: none\n"))
        .record("proxy.config.http.redirect.actions", "routable:follow,loopback:follow,self:follow,private:follow")
        .start();
    let mut client = Client::connect(server.port());
    let (_, response) = support::run(&mut client, "a.test", "/moved", &[], &json!({}));
    assert_eq!((response.status, other.request_count()), (302, 0));

    let program = json!({
        "on_request_headers": [["set_property", "ats.redirect.follow", number(2)], ["get_property", "ats.redirect.follow"]],
        "on_response_headers": [["get_property", "ats.redirect.count"], ["get_property", "response.code"]],
    });
    let (results, response) = support::run(&mut client, "a.test", "/moved", &[], &program);
    assert_eq!((response.status, response.text().as_str()), (200, "there"));
    assert_eq!(support::number(&results["on_request_headers"][1]), Some(2));
    assert_eq!(support::number(&results["on_response_headers"][0]), Some(1));
    assert_eq!(support::number(&results["on_response_headers"][1]), Some(200));

    // Wherever the origin's response points.
    let program = json!({"on_request_headers": [["set_property", "ats.redirect.url", there]]});
    let (_, response) = support::run(&mut client, "a.test", "/plain", &[], &program);
    assert_eq!((response.status, response.text().as_str()), (200, "there"));
    assert_eq!(other.request_count(), 2);
    assert_eq!(support::run(&mut client, "a.test", "/plain", &[], &json!({})).1.text(), "plain");
}

/// What ATS means nothing by is kept with the transaction, for the filters behind.
#[test]
fn later_filters_read_what_earlier_ones_set() {
    let origin = Origin::start();
    let filter = |name: &str, program: &str| {
        format!(
            "  - name: {name}\n    module: {{guest:probe}}\n    configuration: {{to: header, programs: {program}}}\n"
        )
    };
    let first = r#"{"on_request_headers": [["set_property", "my.word", "said"], ["set_property", "ats.cache.no_store", {"bytes": [1]}]]}"#;
    let second = r#"{"on_request_headers": [["get_property", "my.word"], ["get_property", "ats.cache.no_store"]]}"#;
    let chain = format!("filters:\n{}{}", filter("first", first), filter("second", second));
    let server = builder(&origin).file("probe.yaml", &chain).start();
    let mut client = Client::connect(server.port());
    for _ in 0..2 {
        let response = client.get("a.test", "/x");
        let fields = response.headers.all("x-probe-result");
        let heard = fields.iter().find(|field| field.contains("said")).unwrap_or_else(|| panic!("{fields:?}"));
        assert!(heard.contains("\\u0001"), "{heard}");
    }
}
