//! Answers of filters, byte for byte: status line, fields, body, and what becomes of the connection.

use std::time::Duration;

use wasm_remap_tests::{Client, Connection, Origin, Reply, Response, Rule, TrafficServer};

/// What a filter is asked to answer.
#[derive(Clone, Copy)]
struct Case {
    status: u16,
    reason: Option<&'static str>,
    headers: &'static [(&'static str, &'static str)],
    body: Body,
}

#[derive(Clone, Copy)]
enum Body {
    /// A null pointer.
    None,
    /// Text; empty is an empty buffer.
    Text(&'static str),
    /// So many bytes that begin with NUL.
    Pattern(usize),
}

impl Body {
    fn bytes(self) -> Vec<u8> {
        match self {
            Body::None => Vec::new(),
            Body::Text(text) => text.as_bytes().to_vec(),
            Body::Pattern(len) => (0..len).map(|i| (i * 31 + i / 256) as u8).collect(),
        }
    }
}

const fn case(status: u16, reason: &'static str, headers: &'static [(&'static str, &'static str)], body: Body) -> Case {
    Case { status, reason: Some(reason), headers, body }
}

const PLAIN: &[(&str, &str)] = &[];
const TWICE: &[(&str, &str)] = &[("x-dup", "1"), ("X-Dup", "2"), ("x-dup", "1")];

const CASES: &[Case] = &[
    case(200, "Fine By Me", TWICE, Body::Text("hello")),
    case(200, "OK", &[("content-type", "application/octet-stream")], Body::Pattern(100_000)),
    case(200, "OK", PLAIN, Body::Text("")),
    case(200, "OK", PLAIN, Body::None),
    case(204, "No Content", TWICE, Body::None),
    case(204, "No Content", PLAIN, Body::Text("a body that 204 cannot have")),
    case(299, "Half Way", &[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], Body::Text("299")),
    case(302, "Found", &[("location", "/elsewhere")], Body::None),
    case(304, "Not Modified", &[("etag", "\"e\"")], Body::None),
    case(400, "Bad Request", PLAIN, Body::Text("four hundred")),
    case(401, "Who Are You", &[("www-authenticate", "Basic realm=\"x\"")], Body::Text("{\"error\":1}")),
    case(401, "Unauthorized", &[("content-type", "application/json")], Body::Text("{\"error\":2}")),
    case(403, "Forbidden", PLAIN, Body::None),
    case(404, "Not Found", PLAIN, Body::Text("")),
    case(408, "Request Timeout", PLAIN, Body::Text("late")),
    case(503, "Back Soon", &[("retry-after", "7")], Body::Pattern(100_000)),
    case(503, "Service Unavailable", PLAIN, Body::Text("")),
    case(999, "The Last", PLAIN, Body::Text("%<foo> %{bar} 100%")),
    // What ATS puts into its own error pages comes from the filter, or not at all.
    case(
        418,
        "Teapot",
        &[("cache-control", "max-age=5"), ("content-language", "de"), ("content-type", "text/html; charset=x")],
        Body::Text("<p>tea</p>"),
    ),
    // Framing and the connection are ATS's: a filter's word on them would break the framing.
    case(
        200,
        "OK",
        &[("content-length", "3"), ("transfer-encoding", "chunked"), ("connection", "close"), ("x-kept", "1")],
        Body::Text("all of it"),
    ),
    // As long as the template engine's buffer, which must not see it, and longer.
    case(200, "OK", PLAIN, Body::Pattern(8192)),
    case(200, "OK", PLAIN, Body::Pattern(8193)),
    case(200, "OK", PLAIN, Body::Pattern(3_000_000)),
];

const FILTERS: &str = "filters:\n  - name: local\n    module: {guest:local-response}\n";

fn start(origin: &Origin) -> TrafficServer {
    origin.route(
        "/*",
        Reply::new(200).header("X-Secret", "of the origin").header("ETag", "\"o\"").body("from the origin"),
    );
    TrafficServer::builder()
        .origin(origin)
        // With its version, which is not ours to test.
        .record("proxy.config.http.response_server_enabled", 0)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["local.yaml"]))
        .rule(Rule::new("n.test", "http://{origin}/").wasm(["none.yaml"]))
        .rule(Rule::new("p.test", "http://{origin}/").wasm(["pause.yaml"]))
        .file("local.yaml", FILTERS)
        .file("none.yaml", &format!("{FILTERS}    body: none\n"))
        .file("pause.yaml", "filters:\n  - name: pause\n    module: {guest:pause}\n")
        .start()
}

fn ask(client: &mut Client, method: &str, case: &Case, phase: &str, body: &[u8]) -> Response {
    ask_host(client, "a.test", method, case, phase, body)
}

fn ask_host(client: &mut Client, host: &str, method: &str, case: &Case, phase: &str, body: &[u8]) -> Response {
    let status = case.status.to_string();
    let fields: Vec<String> = case.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let len = match case.body {
        Body::Pattern(len) => len.to_string(),
        _ => String::new(),
    };
    let mut headers: Vec<(&str, &str)> = vec![("x-status", &status), ("x-phase", phase)];
    headers.extend(case.reason.map(|reason| ("x-reason", reason)));
    headers.extend(fields.iter().map(|field| ("x-header", field.as_str())));
    match case.body {
        Body::None => {}
        Body::Text(text) => headers.push(("x-body", text)),
        Body::Pattern(_) => headers.push(("x-body-len", &len)),
    }
    client.request(method, host, "/x", &headers, body)
}

/// The head's lines but for `Date`, which every response of ATS has.
fn lines(response: &Response) -> Vec<String> {
    let text = String::from_utf8(response.raw_head.clone()).expect("a head is text");
    let head = text.strip_suffix("\r\n\r\n").expect("a head ends with an empty line");
    let (dates, lines): (Vec<String>, Vec<String>) =
        head.split("\r\n").map(str::to_owned).partition(|line| line.starts_with("Date: "));
    assert_eq!(dates.len(), 1, "{text}");
    lines
}

const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "connection", "keep-alive"];

/// The head that a case stands for, with ATS's `connection`.
fn expected(case: &Case, connection: &str) -> Vec<String> {
    let body = case.body.bytes();
    let mut lines = vec![format!("HTTP/1.1 {} {}", case.status, case.reason.unwrap_or_default())];
    lines.push(format!("Connection: {connection}"));
    let own = case.headers.iter().filter(|(name, _)| !FRAMING.contains(name));
    lines.extend(own.map(|(name, value)| format!("{name}: {value}")));
    let bodiless = matches!(case.status, 204 | 304);
    let typed = case.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if !bodiless && !body.is_empty() && !typed {
        lines.push("content-type: text/plain".to_owned());
    }
    if !bodiless {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    lines
}

fn describe(method: &str, case: &Case) -> String {
    format!("{method} -> {} {:?} with {} bytes", case.status, case.reason, case.body.bytes().len())
}

#[test]
fn answers_from_request_headers_are_exact_and_the_connection_is_kept() {
    let origin = Origin::start();
    let server = start(&origin);
    // One connection for all of them: a byte too many or too few, and the next response is another.
    let mut client = Client::connect(server.port());
    for case in CASES {
        for method in ["GET", "HEAD", "DELETE"] {
            let what = describe(method, case);
            let response = ask(&mut client, method, case, "request_headers", b"");
            assert_eq!(lines(&response), expected(case, "keep-alive"), "{what}");
            let bodiless = method == "HEAD" || matches!(case.status, 204 | 304);
            let body = if bodiless { Vec::new() } else { case.body.bytes() };
            assert!(response.body == body, "{what}: {} bytes came", response.body_len);
            assert_eq!(client.connection(), Connection::Open, "{what}");
        }
    }
    assert_eq!(origin.connection_count(), 0);
    assert_eq!(client.get("a.test", "/x").text(), "from the origin");
}

#[test]
fn without_a_reason_there_is_the_usual_one() {
    let origin = Origin::start();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    for (status, reason) in
        [(200, "OK"), (204, "No Content"), (299, ""), (401, "Unauthorized"), (503, "Service Unavailable")]
    {
        let case = Case { status, reason: None, headers: PLAIN, body: Body::None };
        let response = ask(&mut client, "GET", &case, "request_headers", b"");
        assert_eq!((response.status, response.reason.as_str()), (status, reason));
    }
    // A status line has no room for control characters.
    let case = Case { status: 200, reason: Some("caf\u{e9}"), headers: PLAIN, body: Body::None };
    assert_eq!(ask(&mut client, "GET", &case, "request_headers", b"").reason, "OK");
}

/// The answer comes without a look at the body, which ATS leaves on the wire: it closes the connection.
#[test]
fn a_request_with_a_body_is_answered_and_its_connection_closed() {
    let origin = Origin::start();
    let server = start(&origin);
    for case in CASES {
        let what = describe("POST", case);
        let mut client = Client::connect(server.port());
        let response = ask(&mut client, "POST", case, "request_headers", b"posted");
        assert_eq!(lines(&response), expected(case, "close"), "{what}");
        let body = if matches!(case.status, 204 | 304) { Vec::new() } else { case.body.bytes() };
        assert!(response.body == body, "{what}: {} bytes came", response.body_len);
        assert!(client.wait_closed(Duration::from_secs(5)), "{what}");
    }
    // More body than any buffer holds, and none of it read: what counts is that the answer comes.
    let mut client = Client::connect(server.port());
    client.send("POST /x HTTP/1.1\r\nHost: a.test\r\nx-status: 401\r\nx-body: no\r\nContent-Length: 50000000\r\n\r\n");
    let response = client.read_response_to("POST");
    assert_eq!((response.status, response.body.as_slice()), (401, &b"no"[..]));
    assert_eq!(origin.connection_count(), 0);
}

/// From POST_REMAP, ATS sends the answer exactly, too, and then closes the connection.
#[test]
fn an_answer_to_a_paused_request_is_exact() {
    let origin = Origin::start();
    let server = start(&origin);
    for (status, reason) in [
        (200, "OK"),
        (204, "No Content"),
        (299, ""),
        (302, "Found"),
        (401, "Unauthorized"),
        (408, "Request Timeout"),
        (503, "Service Unavailable"),
    ] {
        for (method, body) in [("GET", &b""[..]), ("HEAD", b""), ("POST", b"posted")] {
            let mut client = Client::connect(server.port());
            let wanted = status.to_string();
            let response = client.request(method, "p.test", "/x", &[("x-pause-answer", &wanted)], body);
            let mut lines = lines(&response);
            lines.retain(|line| !line.starts_with("x-paused-ms: "));
            let mut expected = vec![
                format!("HTTP/1.1 {status} {reason}"),
                "Connection: close".into(),
                "x-pause-answered: tick".into(),
            ];
            if status != 204 {
                expected.extend(["content-type: text/plain".to_owned(), "Content-Length: 21".to_owned()]);
            }
            assert_eq!(lines, expected, "{method}");
            assert!(response.header("x-paused-ms").is_some(), "response callbacks see it");
            let bodiless = method == "HEAD" || status == 204;
            assert_eq!(response.text(), if bodiless { "" } else { "answered from a tick\n" }, "{method} {status}");
            assert!(client.wait_closed(Duration::from_secs(5)), "{method} {status}");
        }
    }
    assert_eq!(origin.connection_count(), 0);
}

/// A filter that is shown response bodies, as it is unless it says otherwise, sees the head before ATS has sent anything.
#[test]
fn an_answer_from_response_headers_is_exact_and_the_connection_is_kept() {
    let origin = Origin::start();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    for case in CASES {
        for method in ["GET", "HEAD"] {
            let what = describe(method, case);
            let before = origin.request_count();
            let response = ask(&mut client, method, case, "response_headers", b"");
            assert_eq!(origin.request_count(), before + 1, "{what}");
            let (mut lines, mut expected) = (lines(&response), expected(case, "keep-alive"));
            // Where there is no body to replace, the head is changed in place.
            lines.sort();
            expected.sort();
            assert_eq!(lines, expected, "{what}");
            let bodiless = method == "HEAD" || matches!(case.status, 204 | 304);
            let body = if bodiless { Vec::new() } else { case.body.bytes() };
            assert!(response.body == body, "{what}: {} bytes came", response.body_len);
            assert_eq!(client.connection(), Connection::Open, "{what}");
        }
    }
}

/// Without response bodies (`body: none`), ATS is about to send the other response when its head is shown: in its place
/// it takes a status from 400 on, a body and its type. The reason is the usual one, other fields have no way in, and a
/// status below 400 becomes 500. Nothing of the other response is sent.
#[test]
fn an_answer_from_response_headers_without_bodies_is_what_ats_permits() {
    let origin = Origin::start();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    let cases = [
        (case(401, "Unauthorized", PLAIN, Body::Text("no")), 401, "Unauthorized"),
        (case(503, "Service Unavailable", PLAIN, Body::Pattern(100_000)), 503, "Service Unavailable"),
        (
            case(502, "Mine", &[("content-type", "application/json"), ("x-lost", "1")], Body::Text("{}")),
            502,
            "Bad Gateway",
        ),
        (case(404, "Not Found", PLAIN, Body::Text("")), 404, "Not Found"),
        (case(404, "Not Found", PLAIN, Body::None), 404, "Not Found"),
        (case(418, "Teapot", PLAIN, Body::Text("%<foo>")), 418, "Error"),
        (case(200, "OK", PLAIN, Body::Text("ok")), 500, "INKApi Error"),
        (case(204, "No Content", PLAIN, Body::None), 500, "INKApi Error"),
        (case(299, "Half Way", PLAIN, Body::Text("299")), 500, "INKApi Error"),
    ];
    for (case, status, reason) in &cases {
        {
            let method = "GET";
            let what = describe(method, case);
            let before = origin.request_count();
            let response = ask_host(&mut client, "n.test", method, case, "response_headers", b"");
            assert_eq!(origin.request_count(), before + 1, "{what}");
            let body = case.body.bytes();
            let mut expected = vec![format!("HTTP/1.1 {status} {reason}"), "Connection: keep-alive".to_owned()];
            // HEAD may do without; ATS does if there is nothing to count.
            if method == "GET" || !body.is_empty() {
                expected.push(format!("Content-Length: {}", body.len()));
            }
            if !body.is_empty() {
                let own = case.headers.iter().find(|(name, _)| *name == "content-type");
                expected.push(format!("Content-Type: {}", own.map_or("text/plain", |(_, value)| value)));
            }
            assert_eq!(lines(&response), expected, "{what}");
            let body = if method == "HEAD" { Vec::new() } else { body };
            assert!(response.body == body, "{what}: {:?}", response.text());
            assert_eq!(client.connection(), Connection::Open, "{what}");
        }
    }
}

/// Who answers once more when the answer passes by its response callback replaces it, exactly.
#[test]
fn the_last_answer_counts() {
    let origin = Origin::start();
    origin.route("/*", Reply::new(200).body("from the origin"));
    let answer = |name: &str, phase: &str, status: u16| {
        format!(
            "  - name: {name}\n    module: {{guest:local-response}}\n    configuration: \
             {{status: {status}, reason: By {name}, body: from {name}, phase: {phase}, headers: [[x-by, {name}]]}}\n"
        )
    };
    let server = TrafficServer::builder()
        .origin(&origin)
        .record("proxy.config.http.response_server_enabled", 0)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["a.yaml"]))
        .file(
            "a.yaml",
            &format!(
                "filters:\n{}{}",
                answer("outer", "response_headers", 203),
                answer("inner", "request_headers", 401)
            ),
        )
        .start();
    let mut client = Client::connect(server.port());
    for _ in 0..2 {
        let response = client.get("a.test", "/x");
        assert_eq!(
            lines(&response),
            [
                "HTTP/1.1 203 By outer",
                "Connection: keep-alive",
                "x-by: outer",
                "content-type: text/plain",
                "Content-Length: 10"
            ]
        );
        assert_eq!(response.text(), "from outer");
    }
    assert_eq!(origin.connection_count(), 0);
}

/// There is nobody left to answer when a transaction is over: the call does no harm.
#[test]
fn an_answer_after_the_end_changes_nothing() {
    let origin = Origin::start();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    for phase in ["done", "log"] {
        let case = case(401, "No", PLAIN, Body::Text("no"));
        let response = ask(&mut client, "GET", &case, phase, b"");
        assert_eq!((response.status, response.text().as_str()), (200, "from the origin"), "{phase}");
        server.wait_for_log(&format!("local-response: sent 401 in {phase}"), Duration::from_secs(5));
        assert_eq!(client.connection(), Connection::Open);
    }
}
