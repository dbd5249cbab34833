//! Filters and the cache: what a filter does to a response is done to hits too, and the cache keeps the origin's own.

use std::time::{Duration, SystemTime};

use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer, wait_until};

const FILTERS: &str = r#"
filters:
  - name: headers
    module: {guest:headers}
    body: none
    configuration:
      response: {add: {x-many: [one, two]}, set: {x-rule: A}, remove: [x-secret]}
"#;

const GUARDED: &str = r#"
filters:
  - name: api-key
    module: {guest:api-key}
    configuration: {keys: {sesame: alice}}
"#;

/// The rules share the cached object: ATS's key is the URL that a rule maps to.
fn start(origin: &Origin) -> TrafficServer {
    TrafficServer::builder()
        .origin(origin)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["a.yaml"]))
        .rule(Rule::new("twice.test", "http://{origin}/").wasm(["a.yaml", "b.yaml"]))
        .rule(Rule::new("guarded.test", "http://{origin}/").wasm(["guarded.yaml"]))
        .rule(Rule::new("plain.test", "http://{origin}/"))
        .file("a.yaml", FILTERS)
        .file("b.yaml", &FILTERS.replace("A", "B").replace("one, two", "three"))
        .file("guarded.yaml", GUARDED)
        .start()
}

fn page() -> Reply {
    Reply::new(200)
        .cacheable(600)
        .header("Content-Type", "text/plain")
        .header("ETag", "\"e1\"")
        .header("X-Secret", "s")
        .body("0123456789")
}

#[test]
fn hits_are_changed_and_the_cached_object_is_not() {
    let origin = Origin::start();
    origin.route("/page", page());
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    for turn in 0..4 {
        let response = client.get("a.test", "/page");
        assert_eq!((response.status, response.text().as_str()), (200, "0123456789"), "turn {turn}");
        assert_eq!(response.headers.all("x-many"), ["one", "two"], "added once, on a hit as on a miss");
        assert_eq!(response.header("x-rule").as_deref(), Some("A"));
        assert_eq!(response.header("x-secret"), None);
        assert_eq!(origin.request_count(), 1, "turn {turn}");
    }
    let plain = client.get("plain.test", "/page");
    assert_eq!(plain.header("x-secret").as_deref(), Some("s"), "the cache keeps what the origin sent");
    assert_eq!((plain.header("x-rule"), plain.header("x-many")), (None, None));
    let twice = client.get("twice.test", "/page");
    assert_eq!(twice.headers.all("x-many"), ["three", "one", "two"]);
    assert_eq!(twice.header("x-rule").as_deref(), Some("A"), "the first filter is the last to see a response");
    assert_eq!(client.get("a.test", "/page").headers.all("x-many"), ["one", "two"]);
    assert_eq!(origin.request_count(), 1, "all of them are hits");
}

#[test]
fn head_conditional_and_range_requests_meet_the_filter_on_hits() {
    let origin = Origin::start();
    origin.route("/page", page());
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("a.test", "/page").status, 200);

    let head = client.request("HEAD", "a.test", "/page", &[], b"");
    assert_eq!((head.status, head.header("content-length").as_deref(), head.body_len), (200, Some("10"), 0));
    assert_eq!(head.headers.all("x-many"), ["one", "two"]);

    let unchanged = client.request("GET", "a.test", "/page", &[("If-None-Match", "\"e1\"")], b"");
    assert_eq!((unchanged.status, unchanged.body_len), (304, 0));
    assert_eq!(unchanged.headers.all("x-many"), ["one", "two"]);
    assert_eq!(unchanged.header("x-secret"), None);

    let part = client.request("GET", "a.test", "/page", &[("Range", "bytes=2-5")], b"");
    assert_eq!((part.status, part.text().as_str()), (206, "2345"));
    assert_eq!(part.header("content-range").as_deref(), Some("bytes 2-5/10"));
    assert_eq!(part.headers.all("x-many"), ["one", "two"]);

    // A filter that is shown bodies is shown whole ones, and its clients get them.
    let fields = [("Range", "bytes=2-5"), ("x-api-key", "sesame")];
    let whole = client.request("GET", "guarded.test", "/page", &fields, b"");
    assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));

    assert_eq!(origin.request_count(), 1);
}

/// A stale object is revalidated: the origin's 304 refreshes it, and what the client gets is the object.
#[test]
fn a_revalidated_object_is_changed_once() {
    let origin = Origin::start();
    origin.route("/page", |request: &wasm_remap_tests::Request| {
        let modified = "Sat, 21 Nov 2020 00:00:00 GMT";
        let reply = if request.header("if-none-match").is_some() || request.header("if-modified-since").is_some() {
            Reply::new(304)
        } else {
            Reply::new(200).body("kept").header("X-Secret", "s")
        };
        reply.header("ETag", "\"e1\"").header("Last-Modified", modified).cacheable(1)
    });
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("a.test", "/page").headers.all("x-many"), ["one", "two"]);
    // ATS counts ages in whole seconds.
    let response = wait_until(Duration::from_secs(10), "the object is stale and asked for again", || {
        let response = client.get("a.test", "/page");
        assert_eq!((response.status, response.text().as_str()), (200, "kept"), "at {:?}", SystemTime::now());
        assert_eq!(response.headers.all("x-many"), ["one", "two"]);
        assert_eq!(response.header("x-secret"), None);
        (origin.request_count() > 1).then_some(response)
    });
    assert_eq!(response.headers.all("x-rule"), ["A"]);
    let last = origin.last();
    assert!(last.headers.contains("if-none-match") || last.headers.contains("if-modified-since"), "{last:?}");
    let plain = client.get("plain.test", "/page");
    assert_eq!((plain.header("x-many"), plain.header("x-secret").as_deref()), (None, Some("s")));
}

/// Request callbacks run before the cache is asked, so that a hit is no way around them.
#[test]
fn a_hit_is_refused_to_those_whom_a_filter_refuses() {
    let origin = Origin::start();
    origin.route("/page", page());
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    let key = [("X-Api-Key", "sesame")];
    for _ in 0..3 {
        assert_eq!(client.get("guarded.test", "/page").status, 401);
        assert_eq!(client.request("GET", "guarded.test", "/page", &key, b"").text(), "0123456789");
    }
    assert_eq!(origin.request_count(), 1, "and no refusal was cached");
}
