//! Requests that two readers could take for different ones: the origin receives each as exactly one well-formed
//! request, or not at all, whatever a filter does to its body.

use std::thread;
use std::time::Duration;

use wasm_remap_tests::strict::{self, Message};
use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer};

const PATIENCE: Duration = Duration::from_secs(3);

/// What must not be served behind its back: the origin must never see it asked for.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// A second request in the same bytes, which is one.
const SECOND: &str = "GET /second HTTP/1.1\r\nHost: {host}\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// The origin receives this body, filters aside.
    Body(&'static str),
    /// The origin receives nothing of it, or a head whose body never ends.
    Refused,
    /// As `Body`, or refused.
    Either(&'static str),
    /// Whatever is well-formed; not the smuggled request.
    Any,
}

struct Case {
    name: &'static str,
    /// What stands between the Host field and the end of the head.
    fields: &'static str,
    body: &'static str,
    fate: Fate,
    /// Whether the bytes end where the request does, so that the second request is one.
    clean: bool,
}

const fn case(name: &'static str, fields: &'static str, body: &'static str, fate: Fate, clean: bool) -> Case {
    Case { name, fields, body, fate, clean }
}

/// `GET /smuggled` as a chunk's content and as what follows: 44 bytes, 2c.
const CASES: &[Case] = &[
    case("a length", "Content-Length: 5\r\n", "hello", Fate::Body("hello"), true),
    case("no body", "", "", Fate::Either(""), true),
    case("a length of 0", "Content-Length: 0\r\n", "", Fate::Body(""), true),
    case(
        "chunks",
        "Transfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n6\r\nworld!\r\n0\r\n\r\n",
        Fate::Body("helloworld!"),
        true,
    ),
    case("no chunk", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", Fate::Body(""), true),
    case(
        "chunks named in capitals",
        "Transfer-Encoding: ChUnKeD\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    case(
        "chunk sizes with zeros in front",
        "Transfer-Encoding: chunked\r\n",
        "00000005\r\nhello\r\n000\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    case(
        "chunk extensions",
        "Transfer-Encoding: chunked\r\n",
        "5;a=b;c=\"d;e\"\r\nhello\r\n0;last\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    case(
        "a long chunk extension",
        "Transfer-Encoding: chunked\r\n",
        concat!(
            "5;",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "\r\nhello\r\n0\r\n\r\n"
        ),
        Fate::Either("hello"),
        true,
    ),
    case(
        "trailers",
        "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n",
        "5\r\nhello\r\n0\r\nX-T: v\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    case(
        "trailers that frame",
        "Transfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    // RFC 9112, 6.3: the length is nothing beside the coding, or the request is refused.
    case(
        "a length and chunks",
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    case(
        "chunks and a length that reaches further",
        "Transfer-Encoding: chunked\r\nContent-Length: 59\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    case(
        "a length, and chunks that end before it",
        "Content-Length: 49\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n",
        Fate::Any,
        false,
    ),
    case("two lengths that differ", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello!", Fate::Refused, false),
    case("two lengths that agree", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello", Fate::Either("hello"), true),
    case("lengths in one field", "Content-Length: 5, 5\r\n", "hello", Fate::Either("hello"), false),
    case("lengths in one field that differ", "Content-Length: 5, 6\r\n", "hello!", Fate::Refused, false),
    case("a negative length", "Content-Length: -5\r\n", "hello", Fate::Refused, false),
    case("a length with a sign", "Content-Length: +5\r\n", "hello", Fate::Any, false),
    case("a length in hexadecimal", "Content-Length: 0x5\r\n", "hello", Fate::Any, false),
    case("a length with a blank in it", "Content-Length: 5 5\r\n", "hello", Fate::Any, false),
    case("a length with letters behind", "Content-Length: 5abc\r\n", "hello", Fate::Any, false),
    case(
        "a length too large for any number",
        "Content-Length: 99999999999999999999999\r\n",
        "hello",
        Fate::Refused,
        false,
    ),
    // ATS takes it for 5: well, if that is what the origin is told.
    case(
        "a length that is 2 to the power of 64 and 5",
        "Content-Length: 18446744073709551621\r\n",
        "hello",
        Fate::Either("hello"),
        false,
    ),
    case("a length without a number", "Content-Length:\r\n", "hello", Fate::Any, false),
    case("a blank before the colon of the length", "Content-Length : 5\r\n", "hello", Fate::Any, false),
    case("more than the length says", "Content-Length: 3\r\n", "hello", Fate::Any, false),
    case("less than the length says", "Content-Length: 500\r\n", "hello", Fate::Refused, false),
    case(
        "chunks by an obsolete fold",
        "Transfer-Encoding:\r\n chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    case(
        "chunks behind a tab",
        "Transfer-Encoding:\tchunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Either("hello"),
        true,
    ),
    case(
        "a blank before the colon of the coding",
        "Transfer-Encoding : chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case(
        "a blank before the colon of the coding, and a length",
        "Transfer-Encoding : chunked\r\nContent-Length: 49\r\n",
        "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n",
        Fate::Any,
        false,
    ),
    case(
        "chunks and identity",
        "Transfer-Encoding: chunked, identity\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case(
        "identity and chunks",
        "Transfer-Encoding: identity, chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case(
        "chunks twice",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case("gzip and chunks", "Transfer-Encoding: gzip, chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", Fate::Any, false),
    case("an unknown coding", "Transfer-Encoding: xchunked\r\n", "5\r\nhello\r\n0\r\n\r\n", Fate::Any, false),
    case(
        "an unknown coding and a length",
        "Transfer-Encoding: xchunked\r\nContent-Length: 15\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case("identity", "Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello", Fate::Any, false),
    case(
        "a chunk size too large",
        "Transfer-Encoding: chunked\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        Fate::Refused,
        false,
    ),
    case(
        "a chunk size of 2 to the power of 32 and 5",
        "Transfer-Encoding: chunked\r\n",
        "100000005\r\nhello\r\n0\r\n\r\n",
        Fate::Refused,
        false,
    ),
    case(
        "a chunk size of 2 to the power of 64 and 5",
        "Transfer-Encoding: chunked\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        Fate::Refused,
        false,
    ),
    case(
        "a chunk size that is none",
        "Transfer-Encoding: chunked\r\n",
        "xyz\r\nhello\r\n0\r\n\r\n",
        Fate::Refused,
        false,
    ),
    case("a negative chunk size", "Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n", Fate::Refused, false),
    case("a chunk size with 0x", "Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n", Fate::Any, false),
    case(
        "a chunk size with letters behind",
        "Transfer-Encoding: chunked\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case(
        "a blank behind a chunk size",
        "Transfer-Encoding: chunked\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        Fate::Either("hello"),
        false,
    ),
    case("an empty chunk size", "Transfer-Encoding: chunked\r\n", "\r\nhello\r\n0\r\n\r\n", Fate::Any, false),
    case(
        "a chunk that is longer than its size",
        "Transfer-Encoding: chunked\r\n",
        "3\r\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case(
        "a chunk that is shorter than its size",
        "Transfer-Encoding: chunked\r\n",
        "7\r\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case("lines that end by LF alone", "Transfer-Encoding: chunked\r\n", "5\nhello\n0\n\n", Fate::Any, false),
    case(
        "a chunk's line that ends by LF alone",
        "Transfer-Encoding: chunked\r\n",
        "5\nhello\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case("a CR in a chunk's line", "Transfer-Encoding: chunked\r\n", "5\r;\r\nhello\r\n0\r\n\r\n", Fate::Any, false),
    case(
        "a LF in a chunk extension, and another request in it",
        "Transfer-Encoding: chunked\r\n",
        "5;\nhello\r\n2c\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\nX: y\r\n0\r\n\r\n",
        Fate::Any,
        false,
    ),
    case(
        "a request as a chunk",
        "Transfer-Encoding: chunked\r\n",
        "28\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n\r\n0\r\n\r\n",
        Fate::Body(SMUGGLED),
        true,
    ),
    case(
        "a request as a body",
        "Content-Length: 40\r\n",
        "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n",
        Fate::Body(SMUGGLED),
        true,
    ),
    case(
        "chunks for a connection that closes",
        "Connection: close, transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Fate::Either("hello"),
        false,
    ),
    case(
        "a length that the connection's options name",
        "Connection: content-length\r\nContent-Length: 5\r\n",
        "hello",
        Fate::Either("hello"),
        true,
    ),
    // It lets the length stand, and appends beyond it.
    case(
        "a filter that keeps a length that is wrong",
        "X-Keep-Cl: 1\r\nContent-Length: 5\r\n",
        "hello",
        Fate::Any,
        false,
    ),
];

/// Hosts, the keys of their filter, and what it does. Each has an origin of its own. Without a filter, or with one that
/// sees no request bodies, it is ATS by itself that is seen: its lapses are told and are none of ours.
const HOSTS: [(&str, &str, &str); 7] = [
    ("plain.test", "", "pass"),
    ("none.test", "    body: none\n", "pass"),
    ("stream.test", "    request_body: stream\n", "pass"),
    ("stream-append.test", "    request_body: stream\n", "append"),
    ("stream-hold.test", "    request_body: stream\n", "hold"),
    ("buffer.test", "    request_body: buffer\n", "pass"),
    ("buffer-append.test", "    request_body: buffer\n", "append"),
];

/// A server whose timeouts are short: what never ends is given up soon.
fn start(origins: &[Origin]) -> TrafficServer {
    let mut builder = TrafficServer::builder()
        .record("proxy.config.http.post_copy_size", 200 << 20)
        .record("proxy.config.http.send_100_continue_response", 1)
        .record("proxy.config.http.transaction_no_activity_timeout_in", 1)
        .record("proxy.config.http.transaction_no_activity_timeout_out", 1)
        .record("proxy.config.http.keep_alive_no_activity_timeout_in", 1);
    for ((host, keys, operation), origin) in HOSTS.iter().zip(origins) {
        let mut rule = Rule::new(host, &format!("http://{}/", origin.address()));
        if *host != "plain.test" {
            let file = format!("{host}.yaml");
            let configuration = format!("    configuration: {{request: {operation}}}\n");
            let text = format!("filters:\n  - name: body\n    module: {{guest:body}}\n{configuration}{keys}");
            rule = rule.wasm([&file]);
            builder = builder.file(&file, &text);
        }
        builder = builder.rule(rule);
    }
    builder.start()
}

/// What came back on a connection: the statuses, as far as they can be read.
fn answers(client: &mut Client, most: usize) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    while answers.len() < most {
        match client.try_response_to("POST") {
            Ok(response) => {
                let close = response.says_close();
                answers.push((response.status, response.text()));
                if close {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    answers
}

/// What an operation makes of a body; a body that is known to be empty has no callback.
fn changed(operation: &str, body: &str) -> Vec<String> {
    match (operation, body) {
        ("append", "") => vec![String::new(), "<appended>".to_owned()],
        ("append", body) => vec![format!("{body}<appended>")],
        (_, body) => vec![body.to_owned()],
    }
}

fn check(case: &Case, operation: &str, first: Option<&Message>) -> Result<(), String> {
    let right = |body: &str, message: &Message| {
        let got = String::from_utf8_lossy(&message.body).into_owned();
        if changed(operation, body).contains(&got) { Ok(()) } else { Err(format!("the origin got the body {got:?}")) }
    };
    match (case.fate, first) {
        (Fate::Body(_), None) => Err("it was refused".to_owned()),
        (Fate::Body(body) | Fate::Either(body), Some(message)) => right(body, message),
        (Fate::Refused, Some(message)) => Err(format!("the origin got {message:?}")),
        (Fate::Refused | Fate::Either(_), None) | (Fate::Any, _) => Ok(()),
    }
}

/// One case at one host: what is wrong, if anything is, and whether the first request was forwarded.
fn run(case: &Case, host: &str, operation: &str, port: u16, origin: &Origin) -> (Result<(), String>, bool) {
    // Nothing of an earlier case is on a connection of this one. ATS is to notice before it sends another request there.
    origin.close_connections();
    thread::sleep(Duration::from_millis(20));
    let connections = origin.connection_count();
    let bytes = format!(
        "POST /first HTTP/1.1\r\nHost: {host}\r\n{}\r\n{}{}",
        case.fields,
        case.body,
        SECOND.replace("{host}", host)
    );
    let Ok(client) = Client::try_connect(port) else {
        return (Err("the server is gone".to_owned()), false);
    };
    let mut client = client.timeout(PATIENCE).deadline(PATIENCE);
    if let Err(error) = client.try_send(&bytes) {
        return (Err(error.to_string()), false);
    }
    if !case.clean {
        // Whoever waits for more has not long to wait.
        client.finish_sending();
    }
    let answers = answers(&mut client, if case.clean { 2 } else { 3 });
    client.abort();
    let mut messages = Vec::new();
    for connection in connections..origin.connection_count() {
        match strict::requests(&origin.connection_bytes(connection)) {
            Ok(found) => messages.extend(found),
            Err(what) => {
                return (Err(format!("the origin cannot trust {what}; the client got {answers:?}")), true);
            }
        }
    }
    let first = messages.iter().find(|message| message.whole && message.target().ends_with("/first"));
    let outcome = judge(case, operation, first, &messages, &answers);
    (outcome.map_err(|what| format!("{what}; the client got {answers:?}")), first.is_some())
}

fn judge(
    case: &Case,
    operation: &str,
    first: Option<&Message>,
    messages: &[Message],
    answers: &[(u16, String)],
) -> Result<(), String> {
    if messages.iter().any(|message| message.target().contains("smuggled")) {
        // Bytes behind a request's end are the next request to everybody, and answered as such.
        let told = answers.iter().any(|(_, text)| text == "smuggled");
        if !told {
            return Err("the smuggled request reached the origin behind the proxy's back".to_owned());
        }
    }
    check(case, operation, first)?;
    if !case.clean || first.is_none() {
        return Ok(());
    }
    let statuses: Vec<_> = answers.iter().map(|(status, text)| (*status, text.as_str())).collect();
    match statuses.as_slice() {
        [(200, "first"), (200, "second")] => Ok(()),
        // Where a connection may be closed for safety's sake.
        [(200, "first")] if matches!(case.fate, Fate::Either(_)) => Ok(()),
        _ => Err("the two requests were not answered as themselves".to_owned()),
    }
}

#[test]
fn every_request_reaches_the_origin_as_itself_or_not_at_all() {
    let origins: Vec<Origin> = HOSTS.iter().map(|_| Origin::start()).collect();
    for origin in &origins {
        for name in ["first", "second", "smuggled"] {
            origin.route(&format!("/{name}"), Reply::new(200).body(name));
        }
    }
    let server = start(&origins);
    let port = server.port();
    let runs: Vec<(Vec<String>, usize)> = thread::scope(|scope| {
        let handles: Vec<_> = HOSTS
            .iter()
            .zip(&origins)
            .map(|((host, _, operation), origin)| {
                scope.spawn(move || {
                    let mut wrong = Vec::new();
                    let mut forwarded = 0;
                    for case in CASES {
                        let (outcome, first) = run(case, host, operation, port, origin);
                        forwarded += usize::from(first);
                        wrong.extend(outcome.err().map(|what| format!("{}, {host}: {what}", case.name)));
                        if Client::try_connect(port).is_err() {
                            wrong.push(format!("after {}, {host}: the server is gone", case.name));
                            break;
                        }
                    }
                    (wrong, forwarded)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("the cases ran")).collect()
    });
    let mut failures = Vec::new();
    for ((host, _, _), (wrong, forwarded)) in HOSTS.iter().zip(runs) {
        println!("{host}: {forwarded} of {} requests forwarded", CASES.len());
        if matches!(*host, "plain.test" | "none.test") {
            wrong.iter().for_each(|what| println!("ATS by itself: {what}"));
        } else {
            failures.extend(wrong);
        }
    }
    assert!(failures.is_empty(), "{} failures:\n  {}", failures.len(), failures.join("\n  "));
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("stream.test", "/second").text(), "second");
}
