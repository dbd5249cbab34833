//! `match` on a real server: each kind of condition decides as it says, and a filter that takes no part costs nothing of
//! what it would do: no context, no callback, no hook, no transform.

use std::net::Ipv4Addr;

use wasm_remap_tests::{Ask, Builder, Client, Http2, Origin, Reply, Request, Response, Rule, TrafficServer};

/// A filter that puts its name into the response if it takes part.
fn filter(name: &str, condition: &str) -> String {
    let condition = if condition.is_empty() { String::new() } else { format!(", match: {condition}") };
    format!(
        "  - {{name: {name}, module: {{guest:headers}}, body: none, \
         configuration: {{response: {{add: {{x-by: {name}}}}}}}{condition}}}\n"
    )
}

fn filters(list: &[(&str, &str)]) -> String {
    list.iter().fold("filters:\n".to_owned(), |text, (name, condition)| text + &filter(name, condition))
}

fn server(origin: &Origin, list: &[(&str, &str)]) -> Builder {
    TrafficServer::builder()
        .origin(origin)
        .stats()
        .rule(Rule::new("a.test", "http://{origin}/mapped/").wasm(["match.yaml"]))
        .file("match.yaml", &filters(list))
}

/// The filters that took part, in order of their names.
fn by(response: &Response) -> Vec<String> {
    let mut by = response.headers.all("x-by");
    by.sort_unstable();
    by
}

#[test]
fn methods_paths_queries_headers_and_cookies_decide() {
    let origin = Origin::start();
    let server = server(
        &origin,
        &[
            ("cookie", "{cookies: {session: {regex: '^[0-9]+$'}}}"),
            ("glob", "{path: '/static/**'}"),
            ("header", "{headers: {X-Key: [one, {prefix: two-}]}}"),
            ("internal", "{internal: true}"),
            ("method", "{method: [POST, PUT]}"),
            ("no-agent", "{headers: {user-agent: {present: false}}}"),
            ("none", "{path: {regex: '[.]php$'}, method: GET, scheme: https}"),
            ("not", "{not: {any: [{path: {prefix: /}}, {method: GET}]}}"),
            ("prefix", "{path: {prefix: /admin}}"),
            ("query", "{query: {debug: 'a b', id: {present: true}}}"),
        ],
    )
    .start();
    let mut client = Client::connect(server.port());
    let agent = ("User-Agent", "t");
    let mut check = |method: &str, path: &str, fields: &[(&str, &str)], expected: &[&str]| {
        let fields = [fields, &[agent]].concat();
        // ATS wants to know how long the bodies of these are.
        let body: &[u8] = if matches!(method, "POST" | "PUT") { b"x" } else { b"" };
        let response = client.request(method, "a.test", path, &fields, body);
        assert_eq!(
            (response.status, by(&response)),
            (200, expected.iter().map(|name| (*name).to_owned()).collect()),
            "{method} {path} {fields:?}"
        );
    };
    check("GET", "/", &[], &[]);
    check("PUT", "/", &[], &["method"]);
    check("HEAD", "/", &[], &[]);
    // The client's own path, not what the rule makes of it; without its query, in its plain form.
    check("GET", "/admin/x", &[], &["prefix"]);
    check("GET", "/administration", &[], &["prefix"]);
    for hidden in
        ["/%61dmin", "//admin", "/./admin", "/x/../admin", "/x/%2e%2e/admin", "/x/..%2Fadmin", "/%2Fadmin?a=b"]
    {
        check("GET", hidden, &[], &["prefix"]);
    }
    check("GET", "/mapped/admin", &[], &[]);
    check("GET", "/x?/admin", &[], &[]);
    check("GET", "/x;/admin", &[], &[]);
    check("GET", "/admin;x", &[], &["prefix"]);
    check("GET", "/static/a/b.css", &[], &["glob"]);
    check("GET", "/static", &[], &[]);
    check("GET", "/x?debug=a+b&id", &[], &["query"]);
    check("GET", "/x?i%64=1&debug=x&debug=a%20b", &[], &["query"]);
    check("GET", "/x?debug=a+b", &[], &[]);
    // Any of several fields, whatever their case; whole values.
    check("GET", "/", &[("x-key", "zero"), ("X-KEY", "two-2")], &["header"]);
    check("GET", "/", &[("x-key", "one, zero")], &[]);
    check("GET", "/", &[("Cookie", "a=b; session=42")], &["cookie"]);
    check("GET", "/", &[("Cookie", "session=x"), ("Cookie", "session=7")], &["cookie"]);
    check("GET", "/", &[("Cookie", "Session=42")], &[]);
    check("POST", "/admin?debug=a+b&id=", &[("x-key", "one")], &["header", "method", "prefix", "query"]);
    let response = client.request("GET", "a.test", "/", &[], b"");
    assert_eq!(by(&response), ["no-agent"]);
    // The origin got what the client sent.
    client.request("GET", "a.test", "/%61dmin//x?a=%62", &[agent], b"");
    assert_eq!(origin.last().target, "/mapped/%61dmin//x?a=%62");
}

#[test]
fn hosts_and_ports_decide() {
    let origin = Origin::start();
    let server = server(
        &origin,
        &[
            ("below", "{host: '*.shop.test'}"),
            ("exact", "{host: Shop.Test}"),
            ("list", "{host: [one.test, two.test, three.test, four.test, five.test, six.test]}"),
            ("port", "{host: 'shop.test:8080'}"),
            ("regex", "{host: {regex: '^[a-z]+[0-9]'}}"),
        ],
    )
    .remap(&format!(
        "regex_map http://(.*)/ http://{}/ @plugin=wasm_remap.so @pparam=match.yaml\n\
         regex_map http://(.*):8080/ http://{}/ @plugin=wasm_remap.so @pparam=match.yaml",
        origin.address(),
        origin.address()
    ))
    .start();
    let mut client = Client::connect(server.port());
    for (host, expected) in [
        ("shop.test", &["exact"][..]),
        ("SHOP.test", &["exact"]),
        ("shop.test:8080", &["exact", "port"]),
        ("www.shop.test", &["below"]),
        ("a.b.shop.test", &["below"]),
        ("five.test", &["list"]),
        ("seven.test", &[]),
        ("web1.test", &["regex"]),
    ] {
        let response = client.get(host, "/");
        assert_eq!(
            (response.status, by(&response)),
            (200, expected.iter().map(|name| (*name).to_owned()).collect()),
            "{host}"
        );
    }
}

#[test]
fn client_addresses_decide() {
    let origin = Origin::start();
    let server = server(
        &origin,
        &[
            ("all", "{client: 0.0.0.0/0}"),
            ("mapped", "{client: '::ffff:127.0.0.2'}"),
            ("net", "{client: [10.0.0.0/8, 127.0.0.0/30]}"),
            ("one", "{client: 127.0.0.1}"),
            ("others", "{not: {client: 127.0.0.0/24}}"),
            ("six", "{client: '::/0'}"),
        ],
    )
    .file("ip_allow.yaml", "ip_allow:\n  - apply: in\n    ip_addrs: 127.0.0.0/8\n    action: allow\n    methods: ALL\n")
    .start();
    for (address, expected) in [
        ([127, 0, 0, 1], &["all", "net", "one"][..]),
        ([127, 0, 0, 2], &["all", "mapped", "net"]),
        ([127, 0, 0, 4], &["all"]),
        ([127, 0, 1, 1], &["all", "others"]),
    ] {
        let mut client = Client::connect_from(Ipv4Addr::from(address), server.port());
        assert_eq!(by(&client.get("a.test", "/")), expected, "{address:?}");
    }
}

#[test]
fn schemes_decide() {
    let origin = Origin::start();
    let server = server(
        &origin,
        &[("clear", "{scheme: http}"), ("either", "{scheme: [http, https]}"), ("tls", "{scheme: https}")],
    )
    .tls()
    .rule(Rule::new("a.test", "http://{origin}/").tls().wasm(["match.yaml"]))
    .start();
    assert_eq!(by(&Client::connect(server.port()).get("a.test", "/")), ["clear", "either"]);
    let mut client = Http2::connect(server.tls_port());
    assert_eq!(by(&client.exchange(&Ask::get("a.test", "/")).expect("a response")), ["either", "tls"]);
}

/// Of two transactions for one request of a client's, a plugin makes one.
#[test]
fn internal_requests_are_told_from_clients() {
    let origin = Origin::start();
    origin.route("/*", |request: &Request| {
        if request.header("range").is_some() {
            return Reply::new(206).cacheable(600).header("Content-Range", "bytes 0-1/10").body("01");
        }
        Reply::new(200).cacheable(600).body("0123456789")
    });
    let list = format!(
        "filters:\n  - {{name: internal, module: {{guest:headers}}, body: none, match: {{internal: true}}, \
         configuration: {{request: {{set: {{x-internal: \"1\"}}}}}}}}\n{}",
        filter("client", "{internal: false}")
    );
    let server = TrafficServer::builder()
        .origin(&origin)
        .stats()
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["match.yaml"]))
        .file("match.yaml", &list)
        .plugin_line("background_fetch.so")
        .start();
    let response = Client::connect(server.port()).request("GET", "a.test", "/x", &[("Range", "bytes=0-1")], b"");
    assert_eq!((response.status, by(&response)), (206, vec!["client".to_owned()]));
    let requests = origin.wait_for_requests(2, std::time::Duration::from_secs(10));
    let told: Vec<_> = requests.iter().map(|request| (request.header("range"), request.header("x-internal"))).collect();
    assert_eq!(told, [(Some("bytes=0-1".to_owned()), None), (None, Some("1".to_owned()))]);
}

#[test]
fn a_sample_is_its_share_and_the_same_after_a_restart() {
    const KEYS: usize = 10_000;
    const SHARE: f64 = 0.125;
    let origin = Origin::start();
    origin.discard();
    let list = [
        ("other", "{sample: {percent: 12.5, by: header x-user, seed: b}}"),
        ("some", "{sample: {percent: 12.5, by: header x-user, seed: a}}"),
        ("whole", "{sample: {percent: 100, by: header x-user}}"),
    ];
    let chosen = |keys: usize| -> (Vec<usize>, Vec<usize>) {
        let server = server(&origin, &list).start();
        let mut client = Client::connect(server.port());
        let (mut some, mut other) = (Vec::new(), Vec::new());
        for key in 0..keys {
            let response = client.request("GET", "a.test", "/", &[("x-user", &format!("user-{key}"))], b"");
            let by = by(&response);
            assert!(by.contains(&"whole".to_owned()));
            some.extend(by.contains(&"some".to_owned()).then_some(key));
            other.extend(by.contains(&"other".to_owned()).then_some(key));
        }
        // Without the key, no sample takes it.
        assert!(by(&client.get("a.test", "/")).is_empty());
        (some, other)
    };
    let (some, other) = chosen(KEYS);
    let deviation = (KEYS as f64 * SHARE * (1.0 - SHARE)).sqrt();
    for (name, count) in [("some", some.len()), ("other", other.len())] {
        let off = (count as f64 - KEYS as f64 * SHARE) / deviation;
        println!("{name}: {count} of {KEYS}, {off:+.2} standard deviations from {SHARE}");
        assert!(off.abs() < 4.0, "{name}: {count} of {KEYS}");
    }
    let both = some.iter().filter(|key| other.contains(key)).count();
    assert!((90..230).contains(&both), "seeds are independent: {both} are in both");
    let (again, _) = chosen(1500);
    let before: Vec<_> = some.into_iter().filter(|key| *key < 1500).collect();
    assert_eq!(again, before, "a key falls as it fell before the restart");
}

#[test]
fn filters_that_take_no_part_have_no_context_and_the_others_are_as_ever() {
    let origin = Origin::start();
    let server = server(&origin, &[("first", ""), ("middle", "{path: /middle}"), ("third", "{method: GET}")]).start();
    let mut client = Client::connect(server.port());
    for _ in 0..10 {
        let response = client.get("a.test", "/");
        assert_eq!(response.headers.all("x-by"), ["third", "first"], "last to first, the middle left out");
    }
    for _ in 0..5 {
        assert_eq!(client.get("a.test", "/middle").headers.all("x-by"), ["third", "middle", "first"]);
    }
    assert_eq!(client.request("PUT", "a.test", "/", &[], b"x").headers.all("x-by"), ["first"]);
    let expected = 10 * 2 + 5 * 3 + 1;
    let counters = server.counters("ends of the contexts", |counters| counters["streams_deleted"] >= expected);
    assert_eq!((counters["streams_created"], counters["streams_deleted"]), (expected, expected));
    assert_eq!((counters["transactions"], counters["transactions_unmatched"]), (16, 0));
}

#[test]
fn a_rule_whose_filters_all_drop_out_adds_nothing_to_a_transaction() {
    let origin = Origin::start();
    let server = server(&origin, &[("one", "{path: /one}"), ("two", "{path: /two}")]).start();
    let mut client = Client::connect(server.port());
    for _ in 0..20 {
        assert!(by(&client.get("a.test", "/none")).is_empty());
    }
    let counters = server.counters("twenty transactions", |counters| counters["transactions"] >= 20);
    assert_eq!((counters["transactions"], counters["transactions_unmatched"]), (20, 20));
    assert_eq!(counters["streams_created"], 0);
    assert_eq!(by(&client.get("a.test", "/one")), ["one"]);
    let counters = server.counters("one more", |counters| counters["transactions"] >= 21);
    assert_eq!((counters["transactions_unmatched"], counters["streams_created"]), (20, 1));
}

/// What a transform changes of a transaction shows whether there is one: ranges go unheeded, `Expect` is taken off,
/// lengths are unknown.
#[test]
fn bodies_pass_at_full_speed_where_nobody_that_takes_part_wants_them() {
    let origin = Origin::start();
    origin.route("/*", |request: &Request| match request.header("range") {
        Some(_) => Reply::new(206).header("Content-Range", "bytes 0-1/10").body("01"),
        None => Reply::new(200).body("0123456789"),
    });
    let list = format!(
        "filters:\n  - {{name: bodies, module: {{guest:body}}, match: {{path: {{prefix: /seen}}}}, \
         configuration: {{response: append, request: append}}}}\n{}",
        filter("heads", "")
    );
    let server = TrafficServer::builder()
        .origin(&origin)
        .stats()
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["match.yaml"]))
        .file("match.yaml", &list)
        .start();
    let mut client = Client::connect(server.port());
    let seen = client.request("GET", "a.test", "/seen", &[("Range", "bytes=0-1")], b"");
    assert_eq!((seen.status, seen.text().as_str()), (200, "0123456789<appended>"));
    assert_eq!(origin.last().header("range"), None);
    let passed = client.request("GET", "a.test", "/passed", &[("Range", "bytes=0-1")], b"");
    assert_eq!((passed.status, passed.text().as_str(), by(&passed)), (206, "01", vec!["heads".to_owned()]));
    assert_eq!(passed.header("content-length").as_deref(), Some("2"));
    assert_eq!(origin.last().header("range").as_deref(), Some("bytes=0-1"));

    client.request("POST", "a.test", "/seen", &[], b"body");
    assert_eq!(origin.last().body, b"body<appended>");
    client.request("POST", "a.test", "/passed", &[], b"body");
    assert_eq!(
        (origin.last().body.as_slice(), origin.last().header("content-length").as_deref()),
        (&b"body"[..], Some("4"))
    );
}

/// Who takes part is decided when the transaction meets the rule, by what the client sent.
#[test]
fn what_filters_change_does_not_change_who_takes_part() {
    let origin = Origin::start();
    let list = format!(
        "filters:\n  - {{name: change, module: {{guest:headers}}, body: none, configuration: {{request: {{set: {{x-key: one}}}}}}}}\n{}{}",
        filter("key", "{headers: {x-key: one}}"),
        filter("no-key", "{headers: {x-key: {present: false}}}"),
    );
    let server = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["match.yaml"]))
        .file("match.yaml", &list)
        .start();
    let mut client = Client::connect(server.port());
    assert_eq!(by(&client.get("a.test", "/")), ["no-key"]);
    assert_eq!(origin.last().header("x-key").as_deref(), Some("one"));
    assert_eq!(by(&client.request("GET", "a.test", "/", &[("x-key", "one")], b"")), ["key"]);
}

#[test]
fn a_mistake_in_a_match_stops_the_start_with_its_place() {
    let origin = Origin::start();
    let exit = server(&origin, &[("wrong", "{path: {regex: '^/a(b'}}")]).start_expecting_failure();
    let line = exit.line("match.yaml:2:");
    assert!(
        line.contains("filters[0].match.path.regex: the expression '^/a(b' cannot be read at character 4"),
        "{line}"
    );
}
