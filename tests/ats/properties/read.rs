//! What is read of transactions: Envoy's attributes, and ATS's own.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use wasm_remap_tests::{Ask, Client, Connection, Origin, Reply, Request, Rule};

use crate::support::{self, Expected, Probed, absent, any, exactly, flag, int, is, length, probe};
use crate::{PATIENCE, PROBE, builder};

/// What a client asks in these tests.
const FIELDS: [(&str, &str); 6] = [
    ("Referer", "http://r.test/"),
    ("User-Agent", "me/1"),
    ("X-Request-Id", "id-1"),
    ("X-Two", "one"),
    ("x-two", "two"),
    ("Dotted.Name", "dots"),
];

#[test]
fn envoys_request_attributes() {
    let origin = Origin::start();
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    let begin = nanoseconds();
    let table: &[(&str, Expected)] = &[
        ("request.path", is("/from/x;p?q=1&r")),
        ("request.url_path", is("/from/x;p")),
        ("request.query", is("q=1&r")),
        ("request.host", is("a.test")),
        ("request.scheme", is("http")),
        ("request.method", is("GET")),
        ("request.protocol", is("HTTP/1.1")),
        ("request.referer", is("http://r.test/")),
        ("request.useragent", is("me/1")),
        ("request.id", is("id-1")),
        ("request.headers.x-two", is("one,two")),
        ("request.headers.X-TWO", is("one,two")),
        ("request.headers.:path", is("/from/x;p?q=1&r")),
        (r#"["request","headers","dotted.name"]"#, is("dots")),
        ("request.headers.none", absent()),
        ("request.size", int(0..=0)),
        ("request.time", int(begin - 1_000_000_000..=begin + 60_000_000_000)),
        ("request.duration", int(0..=10_000_000_000)),
        ("request.headers_bytes", int(100..=20_000)),
        ("request.total_size", int(100..=20_000)),
        ("source.address", is(&format!("127.0.0.1:{}", client.local_port()))),
        ("source.port", exactly(client.local_port().into())),
        ("destination.address", is(&format!("127.0.0.1:{}", server.port()))),
        ("destination.port", exactly(server.port().into())),
        ("connection.id", any(8)),
        ("connection_id", any(8)),
        ("connection.mtls", flag(false)),
        ("connection.requested_server_name", absent()),
        ("connection.tls_version", absent()),
        ("connection.subject_local_certificate", absent()),
        ("connection.subject_peer_certificate", absent()),
        ("connection.sha256_peer_certificate_digest", absent()),
        ("connection.peer_certificate", absent()),
        ("connection.termination_details", absent()),
        ("upstream.address", absent()),
        ("upstream.tls_version", absent()),
        ("upstream.local_address", absent()),
        ("xds.route_name", is("http://a.test/from/")),
        ("route_name", is("http://a.test/from/")),
        ("xds.virtual_host_name", is("a.test")),
        ("xds.cluster_name", is(&origin.address())),
        ("cluster_name", is(&origin.address())),
        ("xds.node.id", any(0)),
        ("node.id", any(0)),
        ("response.code", absent()),
        ("response.headers", absent()),
        ("response.headers.x", absent()),
        ("request", absent()),
        ("request.", absent()),
        ("request.pathos", absent()),
        ("request.path.more", absent()),
        ("nothing", absent()),
        ("metadata.x", absent()),
    ];
    let probed = probe(&mut client, "a.test", "/from/x;p?q=1&r", &FIELDS, &[("on_request_headers", table)]);
    probed.check("on_request_headers", table);

    // The version is the client's.
    let old = json!({"on_request_headers": [["get_property", "request.protocol"]]}).to_string();
    let response =
        client.exchange(&Ask::get("a.test", "/from/x").http10().header("x-probe", &old)).expect("a response");
    assert_eq!(support::results(&response)["on_request_headers"][0]["out"][0], json!("HTTP/1.0"));
    let mut client = Client::connect(server.port());

    // Maps: small letters, each name once.
    let (results, _) = support::run(
        &mut client,
        "a.test",
        "/m",
        &FIELDS,
        &json!({"on_request_headers": [["get_property", "request.headers"]]}),
    );
    let map = support::pairs(&support::value(&results["on_request_headers"][0]).expect("a map"));
    assert_eq!(map[0], (":method".to_owned(), "GET".to_owned()));
    let fields: BTreeMap<_, _> = map.into_iter().collect();
    for (name, value) in
        [("x-two", "one,two"), ("referer", "http://r.test/"), (":authority", "a.test"), (":path", "/m")]
    {
        assert_eq!(fields.get(name).map(String::as_str), Some(value), "{fields:?}");
    }
    assert_eq!(client.connection(), Connection::Open);
}

fn nanoseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_nanos()).expect("before 2262")
}

#[test]
fn envoys_response_attributes() {
    let origin = Origin::start();
    origin.route(
        "/to/x",
        Reply::new(207)
            .reason("As It Is")
            .header("X-Two", "1")
            .header("X-Two", "2")
            .header("grpc-status", "5")
            .body("0123456789"),
    );
    let server = builder(&origin).start();
    let mut client = Client::connect(server.port());
    let at_headers: &[(&str, Expected)] = &[
        ("response.code", exactly(207)),
        ("response.code_details", is("As It Is")),
        ("response.headers.x-two", is("1,2")),
        ("response.headers.:status", is("207")),
        ("response.headers.none", absent()),
        ("response.grpc_status", exactly(5)),
        ("response.flags", exactly(0)),
        ("response.trailers", absent()),
        ("response.backend_latency", any(8)),
        ("upstream.address", is(&origin.address())),
        ("upstream.port", exactly(origin.port().into())),
        ("upstream.local_address", any(0)),
        ("upstream.local_port", int(1..=65_535)),
        ("upstream.tls_version", absent()),
        ("upstream.cx_pool_ready_duration", int(0..=10_000_000_000)),
        ("request.path", is("/from/x")),
        ("ats.next_hop.kind", is("origin")),
        ("ats.next_hop.host", is("127.0.0.1")),
        ("ats.next_hop.port", exactly(origin.port().into())),
        ("ats.next_hop.address", is(&origin.address())),
        ("ats.cache.lookup_status", is("miss")),
        ("ats.server.transactions", int(0..=1)),
        ("ats.server.protocols", is("http/1.1,tcp,ipv4")),
    ];
    let at_log: &[(&str, Expected)] = &[
        ("response.code", exactly(207)),
        ("response.size", exactly(10)),
        ("response.headers_bytes", int(50..=50_000)),
        ("response.total_size", int(60..=50_010)),
        ("response.backend_latency", int(0..=10_000_000_000)),
        ("request.duration", int(1..=10_000_000_000)),
        ("request.path", is("/from/x")),
        ("source.port", exactly(client.local_port().into())),
        ("connection.mtls", flag(false)),
        ("upstream.address", is(&origin.address())),
        ("upstream.tls_version", absent()),
        ("ats.txn.aborted", flag(false)),
        ("ats.server.response_bytes", int(60..=50_000)),
        ("ats.server.request_bytes", int(20..=50_000)),
        ("ats.milestones.ua_close", int(1..=10_000_000_000)),
        ("ats.milestones.server_close", int(1..=10_000_000_000)),
    ];
    let mark = server.mark();
    let table = [("on_response_headers", at_headers), ("on_log", at_log)];
    let probed = probe(&mut client, "a.test", "/from/x", &[], &table);
    probed.check("on_response_headers", at_headers);
    Probed::from_log(&server, mark, "on_log", at_log).check("on_log", at_log);
    drop(client);

    // Every property in every callback: nothing that is not there yet, or any more, does harm.
    let all: Vec<&str> =
        at_headers.iter().chain(at_log).map(|(path, _)| *path).chain(EVERY.split_whitespace()).collect();
    let program: Vec<Value> = all.iter().map(|path| json!(["get_property", path])).collect();
    let callbacks = [
        "on_context_create",
        "on_request_headers",
        "on_request_body",
        "on_response_headers",
        "on_response_body",
        "on_done",
        "on_log",
        "on_delete",
    ];
    let programs: BTreeMap<_, _> = callbacks.iter().map(|callback| (*callback, program.clone())).collect();
    let program = json!(programs).to_string();
    for (method, path, body) in
        [("POST", "/from/x", &b"body"[..]), ("GET", "/from/x", b""), ("HEAD", "/from/x", b""), ("GET", "/none", b"")]
    {
        let mark = server.mark();
        let mut client = Client::connect(server.port());
        let headers = [("x-probe", program.as_str()), ("x-probe-to", "log")];
        assert!(client.request(method, "a.test", path, &headers, body).status >= 200);
        server.wait_for_log_since(mark, "probe on_delete", PATIENCE);
    }
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("a.test", "/from/x").status, 207);
}

pub(crate) const EVERY: &str =
    "request.path request.headers request.size request.time request.protocol response.headers response.code
    response.code_details response.flags response.grpc_status response.trailers response.size response.headers_bytes
    source.address destination.address connection.id connection.mtls connection.requested_server_name
    connection.tls_version connection.subject_local_certificate connection.subject_peer_certificate
    connection.dns_san_local_certificate connection.dns_san_peer_certificate connection.uri_san_local_certificate
    connection.uri_san_peer_certificate connection.sha256_peer_certificate_digest connection.peer_certificate
    connection.termination_details upstream.address upstream.local_address upstream.tls_version
    upstream.subject_local_certificate upstream.subject_peer_certificate upstream.peer_certificate
    upstream.cx_pool_ready_duration xds.route_name xds.virtual_host_name xds.cluster_name xds.node.id
    ats.cache.lookup_status ats.cache.key ats.cache.no_store ats.cache.request_cacheable ats.cache.response_cacheable
    ats.cache.lifetime ats.remap.from ats.remap.to ats.txn.id ats.txn.uuid ats.txn.internal ats.txn.aborted
    ats.txn.plugin_tag ats.milestones.sm_start ats.milestones.tls_handshake_end ats.milestones.none ats.next_hop.kind
    ats.next_hop.host ats.next_hop.port ats.next_hop.address ats.parent ats.redirect.follow ats.redirect.count
    ats.client.protocols ats.server.protocols ats.client.transactions ats.server.transactions
    ats.server.request_bytes ats.server.response_bytes ats.client.tls_cipher ats.server.tls_cipher ats.client.tls_group
    ats.client.tls_resumed ats.server.tls_resumed ats.config.proxy.config.http.cache.http
    ats.config.proxy.config.http.response_server_str ats.config.proxy.config.hostdb.ip_resolve
    ats.config.proxy.config.http.insert_forwarded ats.config.proxy.config.ssl.client.cert.filename
    ats.config.proxy.config.http.server_session_sharing.match ats.config.proxy.config.http.per_server.connection.match
    ats.config.proxy.config.http.per_server.connection.max ats.config.proxy.config.none ats.config";

#[test]
fn what_went_wrong_with_the_origin() {
    let origin = Origin::start();
    origin.route("/reset", Reply::raw("").close());
    origin.route("/hangs", Reply::new(200).delay(Duration::from_secs(5)));
    let server = builder(&origin)
        .rule(Rule::new("gone.test", "http://127.0.0.1:1/").wasm(["probe.yaml"]))
        .record("proxy.config.http.transaction_no_activity_timeout_out", 1)
        .record("proxy.config.http.connect_attempts_max_retries", 0)
        .start();
    for (host, path, status, flags) in
        [("gone.test", "/", 502, 0x20), ("a.test", "/reset", 502, 0x40), ("a.test", "/hangs", 504, 0x4)]
    {
        let table: &[(&str, Expected)] = &[("response.flags", exactly(flags)), ("response.code", exactly(status))];
        let mut client = Client::connect(server.port());
        let probed = probe(&mut client, host, path, &[], &[("on_response_headers", table)]);
        probed.check("on_response_headers", table);
    }
    // Who goes away.
    let mark = server.mark();
    let mut client = Client::connect(server.port());
    let program =
        json!({"on_log": [["get_property", "connection.termination_details"], ["get_property", "ats.txn.aborted"]]});
    client.send_request("GET", "a.test", "/hangs", &[("x-probe", &program.to_string())], b"");
    origin.wait_for_requests(1, PATIENCE);
    client.abort();
    let line = server.wait_for_log_since(mark, "probe on_log", PATIENCE);
    assert!(line.contains(r#""out":["aborted"]"#) && line.contains(r"\u0001"), "{line}");
}

#[test]
fn ats_properties_that_are_read() {
    let origin = Origin::start();
    origin.route("/*", Reply::new(200).cacheable(600).body("x"));
    let server = builder(&origin).record("proxy.config.http.response_server_str", "its-name").start();
    let mut client = Client::connect(server.port());
    let to = format!("http://{}/to/", origin.address());
    let at_request: &[(&str, Expected)] = &[
        ("ats.remap.from", is("http://a.test/from/")),
        ("ats.remap.to", is(&to)),
        ("ats.txn.id", any(8)),
        ("ats.txn.uuid", length(38..=56)),
        ("ats.txn.internal", flag(false)),
        ("ats.txn.aborted", flag(false)),
        ("ats.txn.plugin_tag", absent()),
        ("ats.milestones.sm_start", exactly(0)),
        ("ats.milestones.ua_begin", int(-1_000_000_000..=1_000_000_000)),
        ("ats.milestones.ua_read_header_done", int(0..=1_000_000_000)),
        ("ats.milestones.server_connect", absent()),
        ("ats.milestones.nonsense", absent()),
        ("ats.cache.lookup_status", absent()),
        ("ats.cache.key", absent()),
        ("ats.cache.no_store", flag(false)),
        ("ats.cache.request_cacheable", flag(false)),
        ("ats.cache.response_cacheable", flag(false)),
        ("ats.cache.lifetime", absent()),
        ("ats.next_hop.host", absent()),
        ("ats.parent", absent()),
        ("ats.redirect.follow", exactly(0)),
        ("ats.redirect.count", exactly(0)),
        ("ats.client.protocols", is("http/1.1,tcp,ipv4")),
        ("ats.client.transactions", exactly(1)),
        ("ats.client.tls_cipher", absent()),
        ("ats.client.tls_resumed", absent()),
        ("ats.server.protocols", absent()),
        (r#"["ats","config","proxy.config.http.connect_attempts_timeout"]"#, is("30")),
        ("ats.config.proxy.config.http.connect_attempts_timeout", is("30")),
        ("ats.config.proxy.config.http.cache.heuristic_lm_factor", is("0.1")),
        ("ats.config.proxy.config.http.response_server_str", is("its-name")),
        ("ats.config.proxy.config.hostdb.ip_resolve", absent()),
        ("ats.config.proxy.config.http.insert_forwarded", absent()),
        ("ats.config.proxy.config.http.server_ports", absent()),
        ("ats.nonsense", absent()),
        ("ats", absent()),
    ];
    let hit: &[(&str, Expected)] = &[
        ("ats.cache.lookup_status", is("hit-fresh")),
        ("ats.cache.key", is(&format!("{to}x"))),
        ("ats.milestones.cache_open_read_end", int(0..=1_000_000_000)),
        ("ats.milestones.server_connect", absent()),
        ("upstream.address", absent()),
        ("upstream.local_address", absent()),
    ];
    let miss: &[(&str, Expected)] =
        &[("ats.cache.lookup_status", is("miss")), ("ats.milestones.server_connect", int(0..=1_000_000_000))];
    let probed = probe(
        &mut client,
        "a.test",
        "/from/x",
        &[],
        &[("on_request_headers", at_request), ("on_response_headers", miss)],
    );
    probed.check("on_request_headers", at_request);
    probed.check("on_response_headers", miss);
    probe(&mut client, "a.test", "/from/x", &[], &[("on_response_headers", hit)]).check("on_response_headers", hit);
    assert_eq!(origin.request_count(), 1);
}

/// A transaction that another plugin makes, of a client's.
#[test]
fn internal_transactions_are_told_from_clients() {
    let origin = Origin::start();
    origin.route("/*", |request: &Request| {
        if request.header("range").is_some() {
            return Reply::new(206).cacheable(600).header("Content-Range", "bytes 0-1/10").body("01");
        }
        Reply::new(200).cacheable(600).body("0123456789")
    });
    let server = builder(&origin)
        .file("probe.yaml", &format!("{PROBE}    body: none\n"))
        .plugin_line("background_fetch.so")
        .start();
    let mark = server.mark();
    let mut client = Client::connect(server.port());
    let program = json!({"on_log": [["get_property", "ats.txn.internal"], ["get_property", "ats.txn.plugin_tag"]]});
    let headers = [("Range", "bytes=0-1"), ("x-probe", &*program.to_string())];
    assert_eq!(client.request("GET", "a.test", "/x", &headers, b"").status, 206);
    server.wait_for_log_since(mark, r#"probe on_log [{"call":"proxy_get_property","out":["\u0000"]"#, PATIENCE);
    let line =
        server.wait_for_log_since(mark, r#"probe on_log [{"call":"proxy_get_property","out":["\u0001"]"#, PATIENCE);
    assert!(line.contains("background_fetch"), "{line}");
}
