//! Rules and their chains: what one rule's filters do is done to that rule's traffic, and to no other.

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
