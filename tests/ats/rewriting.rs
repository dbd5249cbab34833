//! Filters that rewrite the request line, before the remap settles: the bytes that reach the origin.

use std::time::Duration;

use wasm_remap_tests::{
    Builder, Client, Connection, Origin, Reply, Request, Response, Rule, TrafficServer, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(10);

const FILTERS: &str = "filters:\n  - name: rewrite\n    module: {guest:rewrite}\n";

fn builder(origin: &Origin, pristine: bool) -> Builder {
    TrafficServer::builder()
        .origin(origin)
        .record("proxy.config.url_remap.pristine_host_hdr", i64::from(pristine))
        .file("rewrite.yaml", FILTERS)
}

fn rewrite(host: &str, path: &str, target: &str) -> Rule {
    Rule::new(host, target).path(path).wasm(["rewrite.yaml"])
}

/// The request line and the Host field that reached the origin.
fn reached(request: &Request) -> (String, String) {
    (format!("{} {}", request.method, request.target), request.header("host").unwrap_or_default())
}

fn ask(client: &mut Client, host: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let response = client.request("GET", host, target, headers, b"");
    assert_eq!(client.connection(), Connection::Open);
    response
}

fn seen(response: &Response, name: &str) -> (String, String) {
    let value = |when: &str| response.header(&format!("x-{when}-{name}")).unwrap_or_default();
    (value("was"), value("now"))
}

fn pair(was: &str, now: &str) -> (String, String) {
    (was.to_owned(), now.to_owned())
}

#[test]
fn a_filter_sees_what_the_client_sent() {
    let origin = Origin::start();
    let server = builder(&origin, false)
        .rule(rewrite("a.test", "/shop/", "http://{origin}/v2/"))
        .rule(rewrite("a.test", "/", "http://{origin}/"))
        .start();
    let mut client = Client::connect(server.port());
    for (target, mapped) in [
        ("/", "/"),
        ("/a/b?c=d&e=%20f", "/a/b?c=d&e=%20f"),
        ("/shop/x;v=1?y", "/v2/x;v=1?y"),
        ("/shop/", "/v2/"),
        // But for what ATS puts in order before any plugin: slashes at the front, an empty query.
        ("/double//slash", "/double//slash"),
        ("/%2e%2E/encoded%2Fslash", "/%2e%2E/encoded%2Fslash"),
    ] {
        let response = ask(&mut client, "a.test", target, &[]);
        assert_eq!(seen(&response, "path"), pair(target, target));
        assert_eq!(seen(&response, "method"), pair("GET", "GET"));
        assert_eq!(seen(&response, "authority"), pair("a.test", "a.test"));
        assert_eq!(seen(&response, "scheme"), pair("http", "http"));
        assert_eq!(seen(&response, "status"), pair("200", "200"));
        // What no filter changes is as without one.
        assert_eq!(reached(&origin.last()).0, format!("GET {mapped}"));
    }
}

#[test]
fn paths_go_through_the_rules_mapping() {
    let origin = Origin::start();
    let server = builder(&origin, false)
        .rule(rewrite("a.test", "/shop/", "http://{origin}/v2/"))
        .rule(rewrite("a.test", "/", "http://{origin}/"))
        .rule(rewrite("deep.test", "/a/b/", "http://{origin}/x/y/z/"))
        .rule(rewrite("flat.test", "/a/b/", "http://{origin}/"))
        // Substitutions are for the host alone.
        .remap(&format!("regex_map http://(.*)[.]re[.]test/in/ http://127.0.0.$1:{}/out/ @plugin=wasm_remap.so @pparam=rewrite.yaml", origin.port()))
        .start();
    let mut client = Client::connect(server.port());
    for (host, target, set, expected) in [
        ("a.test", "/old", "/new", "/new"),
        ("a.test", "/old?q=1", "/new?q=2&r=%2F", "/new?q=2&r=%2F"),
        ("a.test", "/old?q=1", "/new", "/new"),
        ("a.test", "/old", "/", "/"),
        ("a.test", "/", "/?only=query", "/?only=query"),
        ("a.test", "/old", "/dots/../up", "/dots/../up"),
        ("a.test", "/old", "/params;a=1/b;c", "/params;a=1/b;c"),
        // What the filter writes is in the client's terms, and the rule's mapping is applied to it.
        ("a.test", "/shop/x", "/shop/y/z?q", "/v2/y/z?q"),
        ("a.test", "/shop/x", "/shop/", "/v2/"),
        // Not under the rule's own path: all of it is put behind the target's.
        ("a.test", "/shop/x", "/elsewhere", "/v2/elsewhere"),
        ("deep.test", "/a/b/c", "/a/b/d", "/x/y/z/d"),
        ("flat.test", "/a/b/c", "/a/b/d?e", "/d?e"),
        ("1.re.test", "/in/x", "/in/y", "/out/y"),
    ] {
        let response = ask(&mut client, host, target, &[("x-set-path", set)]);
        assert_eq!(seen(&response, "path"), pair(target, set), "it reads back what it wrote");
        let (line, _) = reached(&origin.last());
        assert_eq!(line, format!("GET {expected}"), "{host} {target} -> {set}");
        assert_eq!(origin.last().header("x-set-path"), None);
    }
    // A path that is as long as a URL may be.
    let long = format!("/{}?{}", "p".repeat(3000), "q".repeat(3000));
    ask(&mut client, "a.test", "/", &[("x-set-path", &long)]);
    assert_eq!(origin.last().target, long);
}

#[test]
fn methods_are_changed_with_and_without_a_body() {
    let origin = Origin::start();
    let server = builder(&origin, false).rule(rewrite("a.test", "/", "http://{origin}/")).start();
    let mut client = Client::connect(server.port());
    for (method, set, body) in [
        ("GET", "DELETE", &b""[..]),
        ("GET", "OPTIONS", b""),
        ("POST", "PUT", b"posted"),
        ("PUT", "POST", b"put"),
        ("GET", "REPORT", b""),
    ] {
        let response = client.request(method, "a.test", "/m", &[("x-set-method", set)], body);
        assert_eq!((response.status, seen(&response, "method")), (200, pair(method, set)));
        let request = origin.last();
        assert_eq!((reached(&request).0, request.body.as_slice()), (format!("{set} /m"), body), "{method} -> {set}");
        assert_eq!(client.connection(), Connection::Open, "{method} -> {set}");
    }
}

/// Where the request goes, and which Host it carries there.
#[test]
fn an_authority_sends_the_request_elsewhere() {
    for pristine in [false, true] {
        let (origin, other) = (Origin::start(), Origin::start());
        origin.route("/*", Reply::new(200).body("the rule's"));
        other.route("/*", Reply::new(200).body("the other"));
        let server = builder(&origin, pristine).rule(rewrite("a.test", "/in/", "http://{origin}/out/")).start();
        let mut client = Client::connect(server.port());

        assert_eq!(ask(&mut client, "a.test", "/in/x", &[]).text(), "the rule's");
        let host = if pristine { "a.test".to_owned() } else { origin.address() };
        assert_eq!(reached(&origin.last()), pair("GET /out/x", &host));

        let response = ask(&mut client, "a.test", "/in/x?q", &[("x-set-authority", &other.address())]);
        assert_eq!(response.text(), "the other", "pristine_host_hdr {pristine}");
        assert_eq!(seen(&response, "authority"), pair("a.test", &other.address()));
        assert_eq!(reached(&other.last()), pair("GET /out/x?q", &other.address()));

        // Together with a path.
        let headers = [("x-set-authority", &*other.address()), ("x-set-path", "/in/y")];
        assert_eq!(ask(&mut client, "a.test", "/in/x", &headers).text(), "the other");
        assert_eq!(reached(&other.last()), pair("GET /out/y", &other.address()));

        // The next request of the connection is as if nothing had been.
        assert_eq!(ask(&mut client, "a.test", "/in/x", &[]).text(), "the rule's");
        assert_eq!(reached(&origin.last()), pair("GET /out/x", &host));
    }
}

/// Two requests whose filter sends them to different places are different objects to the cache.
#[test]
fn the_cache_keeps_what_was_rewritten_apart() {
    let (origin, other) = (Origin::start(), Origin::start());
    origin.route("/*", |request: &Request| Reply::new(200).cacheable(600).body(format!("one {}", request.target)));
    other.route("/*", |request: &Request| Reply::new(200).cacheable(600).body(format!("two {}", request.target)));
    let server = builder(&origin, false).rule(rewrite("a.test", "/", "http://{origin}/")).start();
    let mut client = Client::connect(server.port());
    let elsewhere = [("x-set-authority", &*other.address())];
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "a.test", "/x", &[]).text(), "one /x");
        assert_eq!(ask(&mut client, "a.test", "/x", &elsewhere).text(), "two /x");
        assert_eq!(ask(&mut client, "a.test", "/x", &[("x-set-path", "/y")]).text(), "one /y");
        assert_eq!(ask(&mut client, "a.test", "/y", &[]).text(), "one /y");
    }
    assert_eq!((origin.request_count(), other.request_count()), (2, 1));
}

#[test]
fn a_status_is_changed_on_its_way_to_the_client() {
    let origin = Origin::start();
    origin.route("/x", Reply::new(200).reason("As It Was").body("body").cacheable(600));
    let server = builder(&origin, false).rule(rewrite("a.test", "/", "http://{origin}/")).start();
    let mut client = Client::connect(server.port());
    for (status, reason) in [("404", "Not Found"), ("201", "Created"), ("299", ""), ("503", "Service Unavailable")] {
        let response = ask(&mut client, "a.test", "/x", &[("x-set-status", status)]);
        assert_eq!((response.status.to_string().as_str(), response.reason.as_str()), (status, reason));
        assert_eq!(seen(&response, "status"), pair("200", status));
        assert_eq!(response.text(), "body");
    }
    assert_eq!(ask(&mut client, "a.test", "/x", &[]).reason, "As It Was", "the cached object is as it was");
    assert_eq!(origin.request_count(), 1);
}

#[test]
fn a_scheme_is_http_or_https() {
    let origin = Origin::start();
    let server = builder(&origin, false).rule(rewrite("a.test", "/", "http://{origin}/")).start();
    let mut client = Client::connect(server.port());
    let response = ask(&mut client, "a.test", "/x", &[("x-set-scheme", "http")]);
    assert_eq!((response.status, seen(&response, "scheme")), (200, pair("http", "http")));
    assert_eq!(origin.request_count(), 1);
    // To an origin that speaks no TLS: what it receives is the beginning of a handshake.
    // Another one, since ATS reuses a connection that it has to an address, whatever it speaks.
    let tls = Origin::start();
    let headers = [("x-set-scheme", "https"), ("x-set-authority", &*tls.address())];
    client.send_request("GET", "a.test", "/x", &headers, b"");
    let hello = wait_until(PATIENCE, "the first bytes", || {
        let bytes = tls.connection_bytes(0);
        (!bytes.is_empty()).then_some(bytes)
    });
    assert_eq!((origin.request_count(), tls.request_count()), (1, 0));
    assert_eq!(hello.first(), Some(&0x16), "a TLS record: {:?}", &hello[..hello.len().min(16)]);
}

/// What is no path, host, method or status is refused to the filter, which the SDK takes for the end of the world; the
/// request does not go out.
#[test]
fn values_that_would_break_the_request_line_are_refused() {
    let origin = Origin::start();
    let server = builder(&origin, false).rule(rewrite("a.test", "/", "http://{origin}/")).start();
    let mut client = Client::connect(server.port());
    for (name, value) in [
        ("x-set-path", "no-slash"),
        ("x-set-path", "/with blank"),
        ("x-set-path", "*"),
        ("x-set-authority", "host/path"),
        ("x-set-authority", "user@host"),
        ("x-set-authority", "host:port"),
        ("x-set-authority", "host:70000"),
        ("x-set-authority", "two hosts"),
        ("x-set-scheme", "ftp"),
        ("x-set-method", "GET /x HTTP/1.1"),
    ] {
        let response = client.request("GET", "a.test", "/x", &[(name, value)], b"");
        assert_eq!(response.status, 503, "{name}: {value}");
        assert_eq!(origin.connection_count(), 0, "{name}: {value}: {:?}", origin.requests());
    }
}
